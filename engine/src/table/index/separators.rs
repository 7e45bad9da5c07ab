//! A sorted list of keys in one piece of memory, for the directory of an open SST.
//!
//! All keys lie end to end in one arena. What they all start with is set aside; of what follows, the first eight bytes
//! of each key are kept as a big-endian integer (its *head*), so that the binary search runs over one dense array and
//! reads the arena only where heads are equal.

use crate::table::coding::{common_prefix, head};

/// Keys in ascending order; equal neighbours are allowed.
#[derive(Debug)]
pub(in crate::table) struct Separators {
    arena: Box<[u8]>,
    /// Where each key ends in the arena.
    ends: Box<[u32]>,
    heads: Box<[u64]>,
    /// How many bytes all keys have in common.
    common_bytes: usize,
}

impl Separators {
    /// Takes keys that lie end to end. `None` where the lengths do not add up to the arena or the keys are not sorted.
    pub(in crate::table) fn new(arena: &[u8], lengths: impl ExactSizeIterator<Item = u32>) -> Option<Self> {
        let mut ends = Vec::with_capacity(lengths.len());
        let mut end = 0_u32;
        for length in lengths {
            end = end.checked_add(length)?;
            ends.push(end);
        }
        if end as usize != arena.len() {
            return None;
        }
        let mut separators =
            Separators { arena: arena.into(), ends: ends.into_boxed_slice(), heads: Box::default(), common_bytes: 0 };
        if (1..separators.len()).any(|index| separators.key(index - 1) > separators.key(index)) {
            return None;
        }
        if let Some(last) = separators.len().checked_sub(1) {
            separators.common_bytes = common_prefix(separators.key(0), separators.key(last));
        }
        separators.heads =
            (0..separators.len()).map(|index| head(&separators.key(index)[separators.common_bytes..])).collect();
        Some(separators)
    }

    #[inline]
    pub(in crate::table) fn len(&self) -> usize {
        self.ends.len()
    }

    #[inline]
    pub(in crate::table) fn key(&self, index: usize) -> &[u8] {
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        &self.arena[start as usize..self.ends[index] as usize]
    }

    /// The first key at or above `key`; the number of keys where there is none.
    #[inline]
    pub(in crate::table) fn lower_bound(&self, key: &[u8]) -> usize {
        if self.len() == 0 {
            return 0;
        }
        let common = &self.arena[..self.common_bytes];
        let Some(rest) = key.strip_prefix(common) else {
            return if key < common { 0 } else { self.len() };
        };
        let head = head(rest);
        let low = self.heads.partition_point(|&other| other < head);
        let equal = self.heads[low..].partition_point(|&other| other == head);
        if equal == 0 {
            return low;
        }
        // Equal heads: the arena decides.
        let (mut low, mut high) = (low, low + equal);
        while low < high {
            let middle = low.midpoint(high);
            if self.key(middle) < key {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }

    /// Bytes on the heap.
    pub(in crate::table) fn heap_bytes(&self) -> usize {
        self.arena.len() + size_of_val(&*self.ends) + size_of_val(&*self.heads)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn separators(keys: &[Vec<u8>]) -> Option<Separators> {
        Separators::new(&keys.concat(), keys.iter().map(|key| key.len() as u32))
    }

    proptest! {
        #[test]
        fn lower_bound_is_that_of_a_sorted_vector(
            shared in prop::collection::vec(0..2u8, 0..4),
            tails in prop::collection::vec(prop::collection::vec(prop_oneof![0..2u8, Just(255)], 0..12), 0..20),
            probes in prop::collection::vec(prop::collection::vec(prop_oneof![0..2u8, Just(255)], 0..14), 1..20),
        ) {
            let mut keys: Vec<Vec<u8>> = tails.into_iter().map(|tail| [shared.clone(), tail].concat()).collect();
            keys.sort();
            let built = separators(&keys).unwrap();
            let below = probes.iter().map(|probe| [shared.as_slice(), probe].concat());
            for probe in below.chain(probes.clone()).chain(keys.clone()) {
                let expected = keys.partition_point(|key| *key < probe);
                prop_assert_eq!(built.lower_bound(&probe), expected, "{:?} in {:?}", probe, keys);
            }
        }
    }

    #[test]
    fn what_does_not_add_up_is_refused() {
        assert!(separators(&[b"b".to_vec(), b"a".to_vec()]).is_none());
        assert!(Separators::new(b"abc", [1, 1].into_iter()).is_none());
        assert!(Separators::new(b"abc", [1, u32::MAX].into_iter()).is_none());
    }
}
