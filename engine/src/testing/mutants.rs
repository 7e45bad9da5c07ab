//! Deliberate bugs.
//!
//! Each is one plausible mistake in one place (`mutant!(Name)` in the code), and breaks a promise of the engine: it is not a matter of taste
//! or speed. At most one is active, for the whole process. [`hits`] tells a mutant that was not noticed from one that was never come by.

use std::sync::LazyLock;

pub use siltstone_io::testing::Mutant;

siltstone_io::mutant_table! {
    SuperblockFlushSkipped:
        "the copies of the superblock are not flushed: after a crash the volume may still name the manifests of before a change of the number of shards, which have been freed",
    RecycledBeforeEdit:
        "extents of the WAL go into the store for reuse before the edit that moves the log's floor is durable: entries whose write was acknowledged are overwritten",
    WalAckedBeforeDurable:
        "a write is acknowledged when its log write has been begun: an acknowledged write is lost in a crash",
    TombstoneDroppedAboveBottom:
        "compaction drops tombstones although deeper levels may hold the key: deleted keys come back",
    StragglersForgotten:
        "the memtable of an epoch is flushed while operations of the epoch are under way: what they write is lost or not part of the checkpoint",
}

/// All mutants, of the engine and of the I/O layer.
pub fn all() -> &'static [Mutant] {
    static ALL: LazyLock<Vec<Mutant>> = LazyLock::new(|| [MUTANTS, siltstone_io::testing::mutants()].concat());
    &ALL
}

/// Switches on the mutant of this name, or none.
///
/// # Panics
/// Where there is none of this name.
pub fn activate(name: Option<&str>) {
    let here = activate_here(name);
    let below = siltstone_io::testing::activate(name);
    assert!(name.is_none() || here != below, "there is no mutant {name:?}");
}

/// How often the active mutant's place was come by, in circumstances where it makes a difference as far as can be said there.
pub fn hits() -> u64 {
    hits_here() + siltstone_io::testing::hits()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_mutant_has_a_name_of_its_own_and_says_what_it_breaks() {
        let names: BTreeSet<&str> = all().iter().map(|mutant| mutant.name).collect();
        assert_eq!(names.len(), all().len());
        assert!(all().iter().all(|mutant| mutant.what.contains(": ")));
    }
}
