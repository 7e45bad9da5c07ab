//! Which paths of recovery and fault handling were taken, and how often (`mark!(Name)` in the code).
//!
//! The counts are the process's, over all engines in it.

siltstone_io::mark_table! {
    TornLogTail: "a log ends with a torn or missing tail",
}

/// All marks and their counts, of the engine and of the I/O layer.
pub fn counts() -> Vec<(&'static str, u64)> {
    [counts_here(), siltstone_io::testing::mark_counts()].concat()
}

/// Sets all counts to zero.
pub fn reset() {
    reset_here();
    siltstone_io::testing::reset_marks();
}
