//! The lookup table of the cache: from a key's hash to the slot of its page.
//!
//! Open addressing with linear probing over one allocation that never grows: it is made for the most pages that the
//! cache can hold, at most half full. A cell is a slot number beside 32 bits of the hash, so that a probe leaves the
//! table only for the page it looks for, or once in four billion for another.
//!
//! ```text
//! cell: | tag: upper 32 bits of the hash | slot: u32, u32::MAX = empty |
//! ```
//!
//! Invariant: no cell is empty between a key's home (its hash modulo the size) and its cell. Removal moves cells back
//! to keep it.

/// No slot.
pub(super) const NO_SLOT: u32 = u32::MAX;
const EMPTY: u64 = u64::MAX;

pub(super) struct Table {
    cells: Box<[u64]>,
    mask: usize,
}

impl Table {
    /// A table for at most so many pages.
    pub(super) fn new(pages_max: usize) -> Self {
        let cells = (pages_max * 2).next_power_of_two().max(2);
        Table { cells: vec![EMPTY; cells].into_boxed_slice(), mask: cells - 1 }
    }

    /// The slot with this hash for which `is_it` is true.
    #[inline]
    pub(super) fn find(&self, hash: u64, is_it: impl FnMut(u32) -> bool) -> Option<u32> {
        self.cell_of(hash, is_it).map(|at| slot_of(self.cells[at]))
    }

    #[inline]
    fn cell_of(&self, hash: u64, mut is_it: impl FnMut(u32) -> bool) -> Option<usize> {
        let mut at = hash as usize & self.mask;
        loop {
            let cell = self.cells[at];
            if cell >> 32 == hash >> 32 && cell != EMPTY && is_it(slot_of(cell)) {
                return Some(at);
            }
            if cell == EMPTY {
                return None;
            }
            at = (at + 1) & self.mask;
        }
    }

    /// Adds a slot under a hash.
    pub(super) fn insert(&mut self, hash: u64, slot: u32) {
        debug_assert_ne!(slot, NO_SLOT);
        let mut at = hash as usize & self.mask;
        while self.cells[at] != EMPTY {
            at = (at + 1) & self.mask;
        }
        self.cells[at] = hash >> 32 << 32 | u64::from(slot);
    }

    /// Takes out a slot that is there under this hash. `hash_of` tells the full hash of any other slot.
    pub(super) fn remove(&mut self, hash: u64, slot: u32, hash_of: impl Fn(u32) -> u64) {
        let mut gap = self.cell_of(hash, |other| other == slot).expect("every page in the cache is in its table");
        let mut at = gap;
        loop {
            at = (at + 1) & self.mask;
            let cell = self.cells[at];
            if cell == EMPTY {
                break;
            }
            // A cell may move back into the gap unless its home lies behind the gap.
            let home = hash_of(slot_of(cell)) as usize & self.mask;
            if at.wrapping_sub(home) & self.mask >= at.wrapping_sub(gap) & self.mask {
                self.cells[gap] = cell;
                gap = at;
            }
        }
        self.cells[gap] = EMPTY;
    }

    pub(super) fn memory_bytes(&self) -> usize {
        size_of_val(&*self.cells)
    }
}

#[inline]
fn slot_of(cell: u64) -> u32 {
    cell as u32
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// Few homes and tags, so that runs collide, wrap round and share tags.
        #[test]
        fn finds_what_was_added_and_not_removed(steps in prop::collection::vec((0_u32..16, 0_u64..6, 0_u64..2), 0..if cfg!(miri) { 12 } else { 200 })) {
            let mut table = Table::new(16);
            let mut model = BTreeMap::new();
            for (slot, home, tag) in steps {
                if let Some(hash) = model.remove(&slot) {
                    let others = model.clone();
                    table.remove(hash, slot, |other| others[&other]);
                } else {
                    let hash = tag << 32 | (home + 28);
                    model.insert(slot, hash);
                    table.insert(hash, slot);
                }
                for slot in 0..16 {
                    for hash in (0..12).map(|i| (i % 2) << 32 | (i / 2 + 28)) {
                        let found = table.find(hash, |other| other == slot && model.get(&slot) == Some(&hash));
                        prop_assert_eq!(found.is_some(), model.get(&slot) == Some(&hash));
                    }
                }
            }
        }
    }
}
