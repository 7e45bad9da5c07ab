//! Which extents are taken: one bit each, shared by all shards.
//!
//! The map is the only allocator state, and it is never stored: at open all bits are clear, recovery marks what the manifests refer
//! to ([`ExtentMap::mark_used`]), and from then on shards allocate and free concurrently.
//!
//! # Algorithm
//!
//! 1. `allocate(after)` first tries the extent that follows `after`, so that the extents of one SST or log tend to be neighbours and
//!    large reads merge. It does so only within one 64-bit word: else a stream would walk away from the space freed behind it and
//!    the file would grow to its limit before anything is used again.
//! 2. Otherwise it takes the lowest free extent, which keeps the file short. `floor` is a hint where the search may begin:
//!    words below it were full when it was raised. It can be wrong (a free may race with a raise), so a search that finds nothing
//!    above it starts again from word 0.
//! 3. A bit is claimed by compare-and-exchange on its word.
//!
//! # Invariants
//!
//! 1. Extent 0 (the superblock) and the bits past the last extent are always set.
//! 2. A set bit belongs to exactly one owner, who alone may clear it; clearing a clear bit is a bug and panics.
//! 3. What an owner did before `free` happens before what the next owner does after `allocate` (release and acquire on the word).

use siltstone_io::sync::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

use crate::types::ExtentId;
use crate::{Error, Result};

/// The allocation bitmap of one volume.
#[derive(Debug)]
pub(crate) struct ExtentMap {
    words: Box<[AtomicU64]>,
    extents: u32,
    used: AtomicU32,
    floor: AtomicUsize,
}

impl ExtentMap {
    /// A map of this many extents, of which only extent 0 is used.
    pub(crate) fn new(extents: u32) -> Self {
        assert!(extents >= 1, "a volume has at least the extent of its superblock");
        let words: Vec<AtomicU64> = (0..extents.div_ceil(64))
            .map(|word| {
                let valid = (extents - word * 64).min(64);
                let beyond = if valid == 64 { 0 } else { u64::MAX << valid };
                AtomicU64::new(beyond | u64::from(word == 0))
            })
            .collect();
        ExtentMap { words: words.into(), extents, used: AtomicU32::new(1), floor: AtomicUsize::new(0) }
    }

    /// Takes a free extent, by preference the one after `after`; `None` where all are taken.
    pub(crate) fn allocate(&self, after: Option<ExtentId>) -> Option<ExtentId> {
        let extent = after.and_then(|after| self.claim_next(after)).or_else(|| self.claim_lowest())?;
        self.used.fetch_add(1, Ordering::Relaxed);
        Some(extent)
    }

    /// Gives an extent back.
    pub(crate) fn free(&self, extent: ExtentId) {
        assert!(extent.0 != 0 && extent.0 < self.extents, "{extent:?} cannot be freed");
        let (word, bit) = place(extent);
        let before = self.words[word].fetch_and(!bit, Ordering::AcqRel);
        assert!(before & bit != 0, "{extent:?} was freed twice");
        self.floor.fetch_min(word, Ordering::Relaxed);
        self.used.fetch_sub(1, Ordering::Relaxed);
    }

    /// Marks an extent that stored metadata refers to. Two references to one extent, or one outside the volume, are damage.
    pub(crate) fn mark_used(&self, extent: ExtentId) -> Result<()> {
        if extent.0 == 0 || extent.0 >= self.extents {
            let reason = format!("extent {extent} is referred to, but extents 1 to {} exist", self.extents - 1);
            return Err(Error::corruption("extent map", reason));
        }
        let (word, bit) = place(extent);
        if self.words[word].fetch_or(bit, Ordering::AcqRel) & bit != 0 {
            return Err(Error::corruption("extent map", format!("extent {extent} is referred to twice")));
        }
        self.used.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// How many extents there are.
    pub(crate) fn extents(&self) -> u32 {
        self.extents
    }

    /// How many extents are taken, extent 0 included. Exact only while nobody allocates or frees.
    pub(crate) fn used(&self) -> u32 {
        self.used.load(Ordering::Relaxed)
    }

    /// All extents that are taken.
    #[cfg(feature = "testing")]
    pub(crate) fn taken(&self) -> std::collections::BTreeSet<ExtentId> {
        (0..self.extents).map(ExtentId).filter(|extent| self.is_used(*extent)).collect()
    }

    /// Whether an extent is taken.
    #[cfg(any(test, feature = "testing"))]
    fn is_used(&self, extent: ExtentId) -> bool {
        let (word, bit) = place(extent);
        self.words[word].load(Ordering::Acquire) & bit != 0
    }

    fn claim_next(&self, after: ExtentId) -> Option<ExtentId> {
        let next = ExtentId(after.0.checked_add(1)?);
        let (word, bit) = place(next);
        if word != place(after).0 || next.0 >= self.extents {
            return None;
        }
        let before = self.words[word].fetch_or(bit, Ordering::AcqRel);
        (before & bit == 0).then_some(next)
    }

    fn claim_lowest(&self) -> Option<ExtentId> {
        let floor = self.floor.load(Ordering::Relaxed);
        self.claim_from(floor, self.words.len()).or_else(|| self.claim_from(0, floor))
    }

    /// Claims the lowest free bit of words `start..end`.
    fn claim_from(&self, start: usize, end: usize) -> Option<ExtentId> {
        for index in start..end {
            let word = &self.words[index];
            let mut bits = word.load(Ordering::Relaxed);
            while bits != u64::MAX {
                let bit = bits.trailing_ones();
                match word.compare_exchange(bits, bits | 1 << bit, Ordering::AcqRel, Ordering::Relaxed) {
                    Ok(_) => {
                        if index > start {
                            // Words start..index were full a moment ago. A floor that somebody moved meanwhile stays.
                            let _ = self.floor.compare_exchange(start, index, Ordering::Relaxed, Ordering::Relaxed);
                        }
                        return Some(ExtentId(index as u32 * 64 + bit));
                    }
                    Err(now) => bits = now,
                }
            }
        }
        None
    }
}

#[inline]
fn place(extent: ExtentId) -> (usize, u64) {
    ((extent.0 / 64) as usize, 1 << (extent.0 % 64))
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn allocates_every_extent_once_and_then_none() {
        for extents in [1, 2, 63, 64, 65, 128, 200] {
            let map = ExtentMap::new(extents);
            let taken: BTreeSet<ExtentId> = std::iter::from_fn(|| map.allocate(None)).collect();
            assert_eq!(taken, (1..extents).map(ExtentId).collect());
            assert_eq!(map.used(), extents);
        }
    }

    #[test]
    fn prefers_the_neighbour_and_otherwise_the_lowest() {
        let map = ExtentMap::new(200);
        assert_eq!(map.allocate(Some(ExtentId(9))), Some(ExtentId(10)));
        assert_eq!(map.allocate(Some(ExtentId(9))), Some(ExtentId(1)));
        // The neighbour of 63 is in another word.
        assert_eq!(map.allocate(Some(ExtentId(63))), Some(ExtentId(2)));
        assert_eq!(map.allocate(Some(ExtentId(199))), Some(ExtentId(3)));
    }

    #[test]
    fn a_freed_extent_below_the_floor_is_found_again() {
        let map = ExtentMap::new(300);
        while map.allocate(None).is_some() {}
        map.free(ExtentId(5));
        assert_eq!(map.allocate(Some(ExtentId(280))), Some(ExtentId(5)));
        assert_eq!(map.allocate(None), None);
    }

    #[test]
    fn double_and_outside_references_are_corruption() {
        let map = ExtentMap::new(70);
        map.mark_used(ExtentId(69)).unwrap();
        for bad in [0, 69, 70, u32::MAX] {
            assert!(map.mark_used(ExtentId(bad)).unwrap_err().is_corruption(), "extent {bad}");
        }
        assert!(map.is_used(ExtentId(69)));
        assert_eq!(map.used(), 2);
    }

    #[test]
    #[should_panic(expected = "freed twice")]
    fn freeing_a_free_extent_is_a_bug() {
        ExtentMap::new(70).free(ExtentId(3));
    }

    proptest! {
        #[test]
        fn agrees_with_a_set(extents in 2u32..300, steps in prop::collection::vec((any::<bool>(), any::<prop::sample::Index>()), 0..if cfg!(miri) { 40 } else { 400 })) {
            let map = ExtentMap::new(extents);
            let mut taken = BTreeSet::new();
            for (allocate, index) in steps {
                if allocate || taken.is_empty() {
                    let after = ExtentId(index.index(extents as usize) as u32);
                    match map.allocate(Some(after)) {
                        Some(extent) => prop_assert!(extent.0 > 0 && extent.0 < extents && taken.insert(extent)),
                        None => prop_assert_eq!(taken.len() as u32, extents - 1),
                    }
                } else {
                    let extent = *taken.iter().nth(index.index(taken.len())).unwrap();
                    taken.remove(&extent);
                    map.free(extent);
                }
                prop_assert_eq!(map.used() as usize, taken.len() + 1);
            }
        }
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;
    use loom::cell::UnsafeCell;
    use loom::sync::Arc;
    use loom::thread;
    use siltstone_io::sync::model::explore;

    /// Extents 1 and 2 with a cell each, which only the owner may touch: loom reports a second owner or a missing happens-before.
    struct Owned {
        map: ExtentMap,
        cells: [UnsafeCell<u32>; 3],
    }

    impl Owned {
        fn new(extents: u32) -> Arc<Owned> {
            Arc::new(Owned { map: ExtentMap::new(extents), cells: std::array::from_fn(|_| UnsafeCell::new(0)) })
        }

        fn take_and_free(&self, after: Option<ExtentId>) {
            if let Some(extent) = self.map.allocate(after) {
                self.cells[extent.0 as usize].with_mut(|_cell| {});
                self.map.free(extent);
            }
        }
    }

    /// Breaks caught: the claim with a relaxed exchange, in `claim_from` and in `claim_next`; in the latter by load and store; `free` relaxed.
    #[test]
    fn an_extent_has_one_owner_at_a_time() {
        for (mine, others) in [(None, None), (None, Some(ExtentId(0))), (Some(ExtentId(0)), Some(ExtentId(0)))] {
            explore(3, move || {
                let owned = Owned::new(2);
                let other = Arc::clone(&owned);
                let thread = thread::spawn(move || other.take_and_free(others));
                owned.take_and_free(mine);
                thread.join().unwrap();
                assert_eq!(owned.map.used(), 1);
                assert_eq!(owned.map.allocate(None), Some(ExtentId(1)), "what was freed can be had again");
            });
        }
    }

    /// Breaks caught: the claim by load and store in `claim_next`.
    #[test]
    fn concurrent_allocations_get_different_extents() {
        explore(3, || {
            let map = Arc::new(ExtentMap::new(3));
            let other = Arc::clone(&map);
            let thread = thread::spawn(move || other.allocate(Some(ExtentId(0))));
            let mine = map.allocate(None);
            let theirs = thread.join().unwrap();
            assert!(mine.is_some() && theirs.is_some() && mine != theirs);
            assert_eq!(map.allocate(None), None);
        });
    }

    /// Stored metadata names an extent that somebody has taken, or takes it first: one of them has it.
    ///
    /// Breaks caught: a mark by load and store.
    #[test]
    fn a_mark_and_an_allocation_do_not_share_an_extent() {
        explore(3, || {
            let map = Arc::new(ExtentMap::new(2));
            let other = Arc::clone(&map);
            let thread = thread::spawn(move || other.mark_used(ExtentId(1)).is_ok());
            let allocated = map.allocate(None).is_some();
            assert!(thread.join().unwrap() != allocated);
            assert_eq!(map.used(), 2);
        });
    }

    /// The floor is raised by one while another frees below it: what is free is found all the same.
    ///
    /// Breaks caught: a search that does not begin again at word 0.
    #[test]
    fn an_extent_freed_below_the_floor_while_it_rises_is_found_again() {
        explore(3, || {
            let map = ExtentMap::new(66);
            // All of word 0 is taken.
            map.words[0].store(u64::MAX, Ordering::Relaxed);
            let map = Arc::new(map);
            let other = Arc::clone(&map);
            let thread = thread::spawn(move || other.free(ExtentId(7)));
            let mine = map.allocate(None).unwrap();
            thread.join().unwrap();
            let mut all = [mine, map.allocate(None).unwrap(), map.allocate(None).unwrap()];
            all.sort_unstable();
            assert_eq!(all, [7, 64, 65].map(ExtentId));
            assert_eq!(map.allocate(None), None);
        });
    }
}
