//! Collects hashes and cuts partitions.

use super::bloom::{build, capacity, key_hash};
use crate::table::index::shortest_separator;

/// A finished partition, which waits for its place.
pub(in crate::table) struct FilterPartition {
    /// At or above every key in it, below every key of the next.
    pub(in crate::table) separator: Box<[u8]>,
    /// One page, all but its checksum.
    pub(in crate::table) block: Box<[u8]>,
}

/// Builds the filter of one SST.
pub(in crate::table) struct FilterBuilder {
    page_bytes: usize,
    bits_per_key: u32,
    /// Of the partition in the making; never more than its capacity.
    hashes: Vec<u64>,
    capacity: usize,
    /// Length of the prefix of the last key, when that is in the partition in the making; else 0.
    last_prefix_bytes: usize,
    partitions: Vec<FilterPartition>,
}

impl FilterBuilder {
    pub(in crate::table) fn new(page_bytes: usize, bits_per_key: u32) -> Self {
        // Two at least: a key and its prefix go into one partition.
        let capacity = capacity(page_bytes, bits_per_key).max(2);
        FilterBuilder {
            page_bytes,
            bits_per_key,
            hashes: Vec::with_capacity(capacity),
            capacity,
            last_prefix_bytes: 0,
            partitions: Vec::new(),
        }
    }

    /// Adds a key that differs from `last_key`, with which it has `common` bytes in common. A `prefix_bytes` of 0 is no
    /// prefix.
    #[inline]
    pub(in crate::table) fn add(&mut self, last_key: &[u8], key: &[u8], common: usize, prefix_bytes: usize) {
        let mut new_prefix = prefix_bytes > 0 && !(prefix_bytes == self.last_prefix_bytes && common >= prefix_bytes);
        if self.hashes.len() + 1 + usize::from(new_prefix) > self.capacity {
            self.cut(shortest_separator(last_key, key));
            new_prefix = prefix_bytes > 0;
        }
        self.hashes.push(key_hash(key));
        if new_prefix {
            self.hashes.push(key_hash(&key[..prefix_bytes]));
        }
        self.last_prefix_bytes = prefix_bytes;
    }

    /// Bytes that the filter takes so far.
    pub(in crate::table) fn estimated_bytes(&self) -> usize {
        (self.partitions.len() + usize::from(!self.hashes.is_empty())) * self.page_bytes
    }

    /// All partitions, in key order.
    pub(in crate::table) fn finish(mut self, last_key: &[u8]) -> Vec<FilterPartition> {
        if !self.hashes.is_empty() {
            if mutant!(FilterLosesLastKey) {
                self.hashes.pop();
            }
            self.cut(last_key.to_vec());
        }
        self.partitions
    }

    fn cut(&mut self, separator: Vec<u8>) {
        let block = build(&self.hashes, self.page_bytes, self.bits_per_key);
        self.partitions.push(FilterPartition { separator: separator.into_boxed_slice(), block });
        self.hashes.clear();
        self.last_prefix_bytes = 0;
    }
}
