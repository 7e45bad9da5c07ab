//! Chooses separators and builds the partitions of the index.

use super::cursor::put_handle;
use crate::table::block::{BlockBuilder, BlockHandle, BlockType};
use crate::table::coding::common_prefix;
use crate::types::{Kind, SeqNo, Trailer};

/// Separators are searched more than scanned, and share little: restart points pay.
const INDEX_RESTART_INTERVAL: usize = 4;

/// A finished partition, which waits for its place.
pub(in crate::table) struct IndexPartition {
    /// The last separator in it.
    pub(in crate::table) separator: Box<[u8]>,
    pub(in crate::table) trailer: Trailer,
    /// Whole pages, all but the checksum.
    pub(in crate::table) block: Box<[u8]>,
}

/// Builds the index partitions of one SST.
pub(in crate::table) struct IndexBuilder {
    page_bytes: usize,
    block: BlockBuilder,
    last_trailer: Trailer,
    value: Vec<u8>,
    partitions: Vec<IndexPartition>,
    partition_bytes: usize,
}

impl IndexBuilder {
    pub(in crate::table) fn new(page_bytes: usize) -> Self {
        IndexBuilder {
            page_bytes,
            block: BlockBuilder::new(INDEX_RESTART_INTERVAL),
            last_trailer: lowest_trailer(),
            value: Vec::new(),
            partitions: Vec::new(),
            partition_bytes: 0,
        }
    }

    /// Adds a data block that ends with the entry `last`; the next one begins with the key `next`, if there is one.
    pub(in crate::table) fn add(&mut self, last: (&[u8], Trailer), next: Option<&[u8]>, handle: BlockHandle) {
        let (last_key, last_trailer) = last;
        match next {
            None => self.push(last_key, lowest_trailer(), handle),
            Some(next) if next == last_key => self.push(last_key, last_trailer, handle),
            Some(next) if mutant!(SeparatorIsNextKey) => self.push(next, lowest_trailer(), handle),
            Some(next) => self.push(&shortest_separator(last_key, next), lowest_trailer(), handle),
        }
    }

    /// Bytes that the index takes so far, its part of the directory included.
    pub(in crate::table) fn estimated_bytes(&self) -> usize {
        self.partition_bytes + self.block.block_bytes().next_multiple_of(self.page_bytes)
    }

    /// All partitions, in key order.
    pub(in crate::table) fn finish(mut self) -> Vec<IndexPartition> {
        if !self.block.is_empty() {
            self.cut();
        }
        self.partitions
    }

    fn push(&mut self, separator: &[u8], trailer: Trailer, handle: BlockHandle) {
        self.value.clear();
        put_handle(&mut self.value, &handle);
        let mut plan = self.block.plan(separator, trailer, self.value.len());
        if plan.block_bytes > self.page_bytes && !self.block.is_empty() {
            self.cut();
            plan = self.block.plan(separator, trailer, self.value.len());
        }
        self.block.push(&plan, separator, trailer, &self.value);
        self.last_trailer = trailer;
    }

    fn cut(&mut self) {
        let block: Box<[u8]> = (&*self.block.finish(BlockType::Index, self.page_bytes)).into();
        self.block.clear();
        self.partition_bytes += block.len() + self.block.last_key().len();
        self.partitions.push(IndexPartition {
            separator: self.block.last_key().into(),
            trailer: self.last_trailer,
            block,
        });
    }
}

/// Behind every version of a key.
fn lowest_trailer() -> Trailer {
    Trailer::new(SeqNo(0), Kind::Delete)
}

/// A short key `s` with `last <= s < next`.
pub(in crate::table) fn shortest_separator(last: &[u8], next: &[u8]) -> Vec<u8> {
    debug_assert!(last < next);
    let common = common_prefix(last, next);
    if common == last.len() {
        return last.to_vec();
    }
    // Up to the first byte in which they differ, `next` is above `last`; and below `next`, if `next` goes on.
    if common + 1 < next.len() {
        return next[..=common].to_vec();
    }
    if last[common] + 1 < next[common] {
        let mut separator = last[..=common].to_vec();
        separator[common] += 1;
        return separator;
    }
    // `last` continues below the last byte of `next`: raise the first byte behind that can be raised.
    match last[common + 1..].iter().position(|&byte| byte < 0xff) {
        Some(at) => {
            let mut separator = last[..=common + 1 + at].to_vec();
            separator[common + 1 + at] += 1;
            separator
        }
        None => last.to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn separators_lie_between_their_neighbours(
            mut keys in prop::array::uniform2(prop::collection::vec(prop_oneof![0..3u8, 253..=255u8], 0..8)),
        ) {
            keys.sort();
            let [last, next] = keys;
            prop_assume!(last < next);
            let separator = shortest_separator(&last, &next);
            prop_assert!(last <= separator && separator < next, "{last:?} {separator:?} {next:?}");
            prop_assert!(separator.len() <= last.len().max(next.len()));
        }
    }

    #[test]
    fn separators_are_short() {
        assert_eq!(shortest_separator(b"flight-0001-aaaa", b"flight-0107-bbbb"), b"flight-01");
        assert_eq!(shortest_separator(b"abc", b"abcd"), b"abc");
        assert_eq!(shortest_separator(b"abcxyz", b"abe"), b"abd");
        assert_eq!(shortest_separator(b"abcxyz", b"abd"), b"abcy");
        assert_eq!(shortest_separator(b"abc\xff\xff", b"abd"), b"abc\xff\xff");
    }
}
