//! The operations of one run, drawn beforehand and split as the engine is driven, with the checks that go with them.
//!
//! 1. A run holds one list of picks for each thread; all drives but `Threads` have a single list.
//! 2. For gets and scans the lists are equal parts. For read-modify-write all picks of a key are in one list, in order, so that
//!    order by key holds without locks.
//! 3. Every value that comes back goes through `check`, `update` or a [`ScanCheck`]; a wrong one ends the run with an error.

use std::sync::atomic::{AtomicU8, Ordering};

use crate::Result;
use crate::workload::random::Permutation;
use crate::workload::{ENTRIES_PER_USER, KeySpace, Random, Values, Zipf};

/// Every key once, in random order.
pub(crate) struct Load {
    pub(crate) space: KeySpace,
    pub(crate) values: Values,
}

impl Load {
    /// The indexes of the keys in the order in which they are put, each with version 0.
    pub(crate) fn indexes(&self) -> impl Iterator<Item = u32> + '_ {
        (0..self.space.keys()).map(|position| self.space.load_index(position))
    }
}

/// Uniform gets of keys that were loaded and not changed.
pub(crate) struct Gets {
    pub(crate) space: KeySpace,
    values: Values,
    picks: Vec<Vec<u32>>,
}

impl Gets {
    pub(crate) fn new(space: KeySpace, values: Values, ops: u32, lists: usize, seed: u64) -> Self {
        let mut random = Random::new(seed);
        let picks = (0..ops).map(|_| random.below(u64::from(space.keys())) as u32).collect();
        Gets { space, values, picks: split(picks, lists) }
    }

    /// The indexes to get, a list for each thread.
    pub(crate) fn picks(&self) -> &[Vec<u32>] {
        &self.picks
    }

    /// Checks what a get returned.
    #[inline]
    pub(crate) fn check(&self, index: u32, value: Option<&[u8]>) -> Result<()> {
        self.values.check(index, 0, value)
    }
}

/// Read-modify-writes, zipf 0.99 over scattered keys.
pub(crate) struct Rmw<'a> {
    pub(crate) space: KeySpace,
    values: Values,
    versions: &'a Versions,
    picks: Vec<Vec<u32>>,
}

impl<'a> Rmw<'a> {
    const EXPONENT: f64 = 0.99;

    pub(crate) fn new(
        space: KeySpace,
        values: Values,
        versions: &'a Versions,
        ops: u32,
        lists: usize,
        seed: u64,
    ) -> Self {
        let keys = u64::from(space.keys());
        let (zipf, mut random) = (Zipf::new(keys, Self::EXPONENT), Random::new(seed));
        // The same ranks are hot in every round: the permutation must not depend on the run's seed.
        let scatter = Permutation::new(keys, 0x7a69_7066);
        let mut picks = vec![Vec::new(); lists];
        for _ in 0..ops {
            let index = scatter.apply(zipf.sample(&mut random));
            picks[index as usize % lists].push(index as u32);
        }
        Rmw { space, values, versions, picks }
    }

    /// The indexes to update, a list for each thread.
    pub(crate) fn picks(&self) -> &[Vec<u32>] {
        &self.picks
    }

    /// Checks the value that was read and puts the one to write into `next`. Calls for one key must come in the order of its
    /// reads.
    #[inline]
    pub(crate) fn update(&self, index: u32, current: Option<&[u8]>, next: &mut Vec<u8>) -> Result<()> {
        let version = self.versions.current(index);
        self.values.check(index, version, current)?;
        self.values.fill(index, self.versions.advance(index, version), next);
        Ok(())
    }
}

/// Scans of all entries of a random user.
pub(crate) struct Scans {
    pub(crate) space: KeySpace,
    values: Values,
    picks: Vec<Vec<u32>>,
}

impl Scans {
    pub(crate) fn new(space: KeySpace, values: Values, ops: u32, lists: usize, seed: u64) -> Self {
        let mut random = Random::new(seed);
        let picks = (0..ops).map(|_| random.below(u64::from(space.users())) as u32).collect();
        Scans { space, values, picks: split(picks, lists) }
    }

    /// The users to scan, a list for each thread.
    pub(crate) fn picks(&self) -> &[Vec<u32>] {
        &self.picks
    }

    /// Starts the check of one scan.
    pub(crate) fn check(&self, user: u32) -> ScanCheck<'_> {
        ScanCheck { scans: self, user, item: 0 }
    }
}

/// The check of one scan: each entry in order, then the end.
pub(crate) struct ScanCheck<'a> {
    scans: &'a Scans,
    user: u32,
    item: u32,
}

impl ScanCheck<'_> {
    /// Checks the next entry.
    #[inline]
    pub(crate) fn entry(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        let index = self.user * ENTRIES_PER_USER + self.item;
        if self.item >= ENTRIES_PER_USER || *key != *self.scans.space.key(index) {
            return Err(
                format!("scan of user {}: entry {} has an unexpected key {key:02x?}", self.user, self.item).into()
            );
        }
        self.item += 1;
        self.scans.values.check(index, 0, Some(value))
    }

    /// Checks that all entries came.
    pub(crate) fn end(self) -> Result<()> {
        if self.item == ENTRIES_PER_USER {
            return Ok(());
        }
        Err(format!("scan of user {}: {} entries in place of {ENTRIES_PER_USER}", self.user, self.item).into())
    }
}

/// The version of each key, modulo 256: a byte a key, so that the table does not crowd out the engine's memory.
pub(crate) struct Versions {
    versions: Vec<AtomicU8>,
}

impl Versions {
    /// The table of freshly loaded data.
    pub(crate) fn zero(keys: u32) -> Self {
        Versions { versions: (0..keys).map(|_| AtomicU8::new(0)).collect() }
    }

    // Relaxed: all accesses to one key are from one thread at a time (point 2 of the module).
    #[inline]
    fn current(&self, index: u32) -> u8 {
        self.versions[index as usize].load(Ordering::Relaxed)
    }

    #[inline]
    fn advance(&self, index: u32, version: u8) -> u8 {
        let next = version.wrapping_add(1);
        self.versions[index as usize].store(next, Ordering::Relaxed);
        next
    }
}

/// Cuts picks into equal parts.
fn split(picks: Vec<u32>, lists: usize) -> Vec<Vec<u32>> {
    let part = picks.len().div_ceil(lists).max(1);
    picks.chunks(part).map(<[u32]>::to_vec).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::KeyShape;

    fn fixture(shape: KeyShape) -> (KeySpace, Values) {
        (KeySpace::new(shape, 1_000, 1), Values::new(20, 1).unwrap())
    }

    #[test]
    fn splits_keep_every_pick() {
        let (space, values) = fixture(KeyShape::Point);
        let one = Gets::new(space.clone(), values.clone(), 1_001, 1, 3);
        let many = Gets::new(space, values, 1_001, 32, 3);
        assert_eq!(one.picks().len(), 1);
        assert_eq!(one.picks()[0], many.picks().concat());
    }

    #[test]
    fn picks_of_a_key_stay_in_one_list() {
        let (space, values) = fixture(KeyShape::Point);
        let versions = Versions::zero(1_000);
        let rmw = Rmw::new(space, values, &versions, 10_000, 7, 3);
        for index in 0..1_000 {
            assert!(rmw.picks().iter().filter(|list| list.contains(&index)).count() <= 1);
        }
        assert_eq!(rmw.picks().iter().map(Vec::len).sum::<usize>(), 10_000);
    }

    #[test]
    fn a_stale_read_is_found() {
        let (space, values) = fixture(KeyShape::Point);
        let versions = Versions::zero(1_000);
        let rmw = Rmw::new(space, values.clone(), &versions, 1, 1, 3);
        let (mut first, mut second) = (Vec::new(), Vec::new());
        values.fill(5, 0, &mut first);
        rmw.update(5, Some(&first), &mut second).unwrap();
        assert!(rmw.update(5, Some(&first), &mut Vec::new()).is_err());
        rmw.update(5, Some(&second), &mut first).unwrap();
    }

    #[test]
    fn a_short_long_or_misplaced_scan_is_found() {
        let (space, values) = fixture(KeyShape::Map);
        let scans = Scans::new(space.clone(), values.clone(), 1, 1, 3);
        let entry = |check: &mut ScanCheck<'_>, index: u32| {
            let mut value = Vec::new();
            values.fill(index, 0, &mut value);
            check.entry(&space.key(index), &value)
        };
        let mut check = scans.check(3);
        for index in 300..400 {
            entry(&mut check, index).unwrap();
        }
        assert!(entry(&mut scans.check(3), 301).is_err());
        assert!(entry(&mut check, 400).is_err());
        check.end().unwrap();
        assert!(scans.check(3).end().is_err());
    }
}
