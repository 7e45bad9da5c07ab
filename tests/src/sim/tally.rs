//! What a simulation has done: counts of operations and of their failures, and a hash of it all.

use std::collections::BTreeMap;
use std::hash::Hasher;

use siltstone::Error;
use xxhash_rust::xxh3::Xxh3;

/// See the module.
#[derive(Default)]
pub struct Tally {
    /// Operations that succeeded, by kind.
    pub done: BTreeMap<&'static str, u64>,
    /// Operations that failed as they may, by the error's kind.
    pub failed: BTreeMap<&'static str, u64>,
    hash: Xxh3,
}

impl Tally {
    pub(crate) fn count(&mut self, what: &'static str) {
        *self.done.entry(what).or_default() += 1;
        self.hash.write(what.as_bytes());
    }

    pub(crate) fn count_failure(&mut self, what: &'static str, error: &Error) {
        let kind = match error {
            Error::Io(_) => "I/O error",
            Error::Corruption(_) => "corruption",
            Error::NoSpace(_) => "no space",
            Error::Poisoned { .. } => "poisoned",
            Error::Closed => "closed",
            Error::Busy(_) => "busy",
            _ => "other",
        };
        *self.failed.entry(kind).or_default() += 1;
        self.hash.write(what.as_bytes());
        self.hash.write(kind.as_bytes());
    }

    /// Operations in all.
    pub fn operations(&self) -> u64 {
        self.done.values().chain(self.failed.values()).sum()
    }

    /// Operations that failed.
    pub fn failures(&self) -> u64 {
        self.failed.values().sum()
    }

    /// The hash of everything so far.
    pub fn hash(&self) -> u64 {
        self.hash.finish()
    }
}
