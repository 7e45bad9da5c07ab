//! Deliberate bugs and coverage marks, for the tests of whatever tests the engine; in no build without the feature `testing`.
//!
//! - A *mutant* is a named mistake, switched on for the whole process; at most one is. A harness that does not notice it is not worth its
//!   running time.
//! - A *mark* counts how often a path of recovery or fault handling was taken; one that is never counted was never tested.
//! - A [`Recorder`] writes down what a device is asked and what it answers.
//! - [`places`] are block devices to run tests on.
//!
//! This crate and the engine each have a table of their own ([`mutant_table`](crate::mutant_table), [`mark_table`](crate::mark_table)), and
//! hooks `mutant!(Name)` and `mark!(Name)` that are nothing in a normal build.

pub mod places;

use std::cell::Cell;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

pub use crate::device::record::{
    RecordKind, Recorder, TRACE_HEADER_BYTES, TRACE_MAGIC, TRACE_RECORD_BYTES, TRACE_VERSION,
};

/// A deliberate bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mutant {
    /// What to activate it by.
    pub name: &'static str,
    /// The mistake, and which promise it breaks.
    pub what: &'static str,
}

/// Which mutant of a crate is active.
#[doc(hidden)]
pub struct Switch {
    /// One more than the number of the active mutant; 0 where none is.
    active: AtomicU32,
    hits: AtomicU64,
}

thread_local! {
    static ON_THREAD: Cell<u32> = const { Cell::new(0) };
}

impl Switch {
    /// None is.
    #[expect(clippy::new_without_default, reason = "only statics are made of it")]
    pub const fn new() -> Switch {
        Switch { active: AtomicU32::new(0), hits: AtomicU64::new(0) }
    }

    /// Whether this one is; counts it.
    #[inline]
    pub fn is_on(&self, mutant: u32, of_thread: bool) -> bool {
        let active = if of_thread { ON_THREAD.get() } else { self.active.load(Ordering::Relaxed) };
        let is_on = active == mutant + 1;
        if is_on {
            self.hits.fetch_add(1, Ordering::Relaxed);
        }
        is_on
    }

    /// Switches to another, or to none.
    pub fn set(&self, mutant: Option<usize>, of_thread: bool) {
        let active = mutant.map_or(0, |mutant| mutant as u32 + 1);
        self.hits.store(0, Ordering::Relaxed);
        match of_thread {
            true => ON_THREAD.set(active),
            false => self.active.store(active, Ordering::Relaxed),
        }
    }

    /// How often the active one was come by.
    pub fn hits(&self) -> u64 {
        self.hits.load(Ordering::Relaxed)
    }
}

/// Defines the mutants of a crate: `MutantId`, `MUTANTS`, `active`, `activate_here` and `hits_here`.
#[doc(hidden)]
#[macro_export]
macro_rules! mutant_table {
    ($($name:ident: $what:expr,)*) => {
        /// A mutant of this crate.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u32)]
        pub(crate) enum MutantId {
            $(#[doc = $what] $name,)*
        }

        /// The mutants of this crate, in the order of their numbers.
        static MUTANTS: &[$crate::testing::Mutant] =
            &[$($crate::testing::Mutant { name: stringify!($name), what: $what },)*];

        static SWITCH: $crate::testing::Switch = $crate::testing::Switch::new();

        /// Whether the mutant is switched on; counts that it was asked for.
        #[inline]
        pub(crate) fn active(mutant: MutantId) -> bool {
            // In the crate's own unit tests, which run side by side, a switch is one thread's.
            SWITCH.is_on(mutant as u32, cfg!(test))
        }

        /// Switches on the mutant of this name, or none; whether this crate has it.
        fn activate_here(name: Option<&str>) -> bool {
            let found = name.and_then(|name| MUTANTS.iter().position(|mutant| mutant.name == name));
            SWITCH.set(found, cfg!(test));
            found.is_some()
        }

        /// How often the active mutant's place was come by.
        fn hits_here() -> u64 {
            SWITCH.hits()
        }
    };
}

/// Defines the marks of a crate: `MarkId`, `hit`, `counts_here` and `reset_here`.
#[doc(hidden)]
#[macro_export]
macro_rules! mark_table {
    ($($name:ident: $path:expr,)*) => {
        /// A mark of this crate.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum MarkId {
            $(#[doc = $path] $name,)*
        }

        static PATHS: &[&str] = &[$($path,)*];
        static COUNTS: [std::sync::atomic::AtomicU64; PATHS.len()] =
            [const { std::sync::atomic::AtomicU64::new(0) }; PATHS.len()];

        /// The path was taken.
        pub(crate) fn hit(mark: MarkId) {
            COUNTS[mark as usize].fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }

        fn counts_here() -> Vec<(&'static str, u64)> {
            let count = |count: &std::sync::atomic::AtomicU64| count.load(std::sync::atomic::Ordering::Relaxed);
            PATHS.iter().copied().zip(COUNTS.iter().map(count)).collect()
        }

        fn reset_here() {
            COUNTS.iter().for_each(|count| count.store(0, std::sync::atomic::Ordering::Relaxed));
        }
    };
}

mutant_table! {
    ShortTransferTakenAsWhole:
        "a transfer that ends early counts as done: what was acknowledged is partly not written, or what was read is partly not there",
    InterruptedTransferTakenAsDone:
        "EINTR, EAGAIN and cancellation count as success: a write that never happened is acknowledged",
}

mark_table! {
    TransientRetried: "interrupted or refused transfer tried again",
    ShortTransferContinued: "short transfer continued",
}

/// All mutants of this crate.
pub fn mutants() -> &'static [Mutant] {
    MUTANTS
}

/// Switches on this crate's mutant of this name, and off any other; whether there is one.
pub fn activate(name: Option<&str>) -> bool {
    activate_here(name)
}

/// How often the place of this crate's active mutant was come by since it was activated.
pub fn hits() -> u64 {
    hits_here()
}

/// This crate's marks, and how often each was come by.
pub fn mark_counts() -> Vec<(&'static str, u64)> {
    counts_here()
}

/// Sets all counts of marks to zero.
pub fn reset_marks() {
    reset_here();
}
