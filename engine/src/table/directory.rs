//! The directory: top of the index, top of the filter, and properties. Read when an SST is opened, then kept in memory.
//!
//! ```text
//!  offset in the payload
//!       0   8 x u64   entries, tombstones, min seq, max seq, raw bytes, min expiry, max expiry, created
//!      64   8 x u32   data blocks, data pages, flags (bit 0: prefix filter), filter partitions, index partitions,
//!                     smallest key bytes, largest key bytes, reserved (0)
//!      96  f x 16 B   filter partition: separator bytes, page, pages, crc, u32 each
//!       .  i x 24 B   index partition: separator bytes, page, pages, crc, u32 each, and the separator's trailer, u64
//!       .             smallest key, largest key, separators of the filter, separators of the index, end to end
//! ```
//!
//! Invariants, checked when it is decoded:
//! 1. Data blocks take pages 0 up to `data pages`; filter partitions, index partitions and the directory follow without
//!    a gap, in this order.
//! 2. Separators ascend: those of the filter by key, those of the index as entries do.

#[cfg(test)]
use std::ops::Range;

use super::block::{BlockHandle, BlockHeader, BlockType, HEADER_BYTES, TableId, VersionBound, payload, verify_block};
use super::coding::{u32_at, u64_at};
use super::index::Separators;
use super::properties::Properties;
use crate::error::{Error, Result};
use crate::types::{SeqNo, Trailer};

const FIXED_BYTES: usize = 96;
const COUNTS_AT: usize = 64;
const FILTER_ENTRY_BYTES: usize = 16;
const INDEX_ENTRY_BYTES: usize = 24;
const FLAG_PREFIX_FILTER: u32 = 1;

/// The directory of an open SST.
#[derive(Debug)]
pub(crate) struct Directory {
    properties: Properties,
    filter_separators: Separators,
    filter_handles: Box<[BlockHandle]>,
    index_separators: Separators,
    index_trailers: Box<[Trailer]>,
    index_handles: Box<[BlockHandle]>,
}

impl Directory {
    /// Checks a directory block against its handle from the footer and takes it apart.
    pub(crate) fn decode(id: &TableId, handle: &BlockHandle, page_bytes: usize, bytes: &[u8]) -> Result<Directory> {
        verify_block(id, BlockType::Directory, handle, page_bytes, bytes)?;
        let corrupt =
            |reason: &str| Error::corruption(BlockType::Directory.name(), format!("SST {}: {reason}", id.sst));
        let (payload, _) = payload(bytes).ok_or_else(|| corrupt("the payload does not fit"))?;
        let directory = Self::parse(payload).ok_or_else(|| corrupt("it does not decode"))?;
        if !directory.pages_are_gapless(handle.page) {
            return Err(corrupt("its blocks leave gaps or overlap"));
        }
        if !directory.index_is_sorted() {
            return Err(corrupt("its separators are out of order"));
        }
        Ok(directory)
    }

    /// What is known of the SST as a whole.
    pub(crate) fn properties(&self) -> &Properties {
        &self.properties
    }

    /// Number of index partitions; at least one.
    #[inline]
    pub(crate) fn index_partitions(&self) -> usize {
        self.index_handles.len()
    }

    /// Where an index partition is.
    #[inline]
    pub(crate) fn index_handle(&self, partition: usize) -> BlockHandle {
        self.index_handles[partition]
    }

    /// The index partition in which a search for `(key, bound)` goes on; `None` where the SST ends before it.
    #[inline]
    pub(crate) fn find_index(&self, key: &[u8], bound: impl Into<VersionBound>) -> Option<usize> {
        let bound = bound.into();
        let mut partition = self.index_separators.lower_bound(key);
        // Versions of one key that fill whole partitions: pass by those that end before the bound.
        while partition < self.index_partitions()
            && bound.is_after(key, self.index_separators.key(partition), self.index_trailers[partition])
        {
            partition += 1;
        }
        (partition < self.index_partitions()).then_some(partition)
    }

    /// Number of filter partitions; 0 where the SST has no filter.
    #[inline]
    pub(crate) fn filter_partitions(&self) -> usize {
        self.filter_handles.len()
    }

    /// Where a filter partition is.
    #[inline]
    pub(crate) fn filter_handle(&self, partition: usize) -> BlockHandle {
        self.filter_handles[partition]
    }

    /// The filter partition that answers for a key. `None` where the SST has no filter, or ends before the key
    /// (as [`Directory::find_index`] then says too).
    #[inline]
    pub(crate) fn find_filter(&self, key: &[u8]) -> Option<BlockHandle> {
        self.find_filter_partition(key).map(|partition| self.filter_handles[partition])
    }

    /// The number of the filter partition of [`Self::find_filter`].
    #[inline]
    pub(crate) fn find_filter_partition(&self, key: &[u8]) -> Option<usize> {
        let partition = self.filter_separators.lower_bound(key);
        (partition < self.filter_partitions()).then_some(partition)
    }

    /// The filter partitions that may hold keys which start with `prefix`, mostly one: the SST may have such keys only
    /// if one of them may contain the prefix's hash. `None` where the SST cannot answer for prefixes.
    #[cfg(test)]
    pub(crate) fn find_prefix_filters(&self, prefix: &[u8]) -> Option<Range<usize>> {
        if !self.properties.prefix_filter || self.filter_partitions() == 0 {
            return None;
        }
        let first = self.filter_separators.lower_bound(prefix);
        let mut end = first;
        while end < self.filter_partitions() {
            let separator = self.filter_separators.key(end);
            end += 1;
            if !separator.starts_with(prefix) {
                break;
            }
        }
        Some(first..end)
    }

    /// Bytes that it takes in memory, for the budget.
    pub(crate) fn heap_bytes(&self) -> usize {
        self.properties.smallest.len()
            + self.properties.largest.len()
            + self.filter_separators.heap_bytes()
            + self.index_separators.heap_bytes()
            + size_of_val(&*self.filter_handles)
            + size_of_val(&*self.index_handles)
            + size_of_val(&*self.index_trailers)
    }

    fn parse(payload: &[u8]) -> Option<Directory> {
        let count = |index: usize| u32_at(payload, COUNTS_AT + 4 * index);
        let number = |index: usize| u64_at(payload, 8 * index);
        let flags = count(2)?;
        if flags & !FLAG_PREFIX_FILTER != 0 || count(7)? != 0 {
            return None;
        }
        let (filters, indexes) = (count(3)? as usize, count(4)? as usize);
        let (smallest_bytes, largest_bytes) = (count(5)? as usize, count(6)? as usize);
        let (_, rest) = payload.split_at_checked(FIXED_BYTES)?;
        let (filter_entries, rest) = rest.split_at_checked(filters.checked_mul(FILTER_ENTRY_BYTES)?)?;
        let (index_entries, rest) = rest.split_at_checked(indexes.checked_mul(INDEX_ENTRY_BYTES)?)?;
        let (smallest, rest) = rest.split_at_checked(smallest_bytes)?;
        let (largest, rest) = rest.split_at_checked(largest_bytes)?;

        let filter_lengths = filter_entries.chunks_exact(FILTER_ENTRY_BYTES).map(|entry| u32_at(entry, 0).unwrap_or(0));
        let filter_arena_bytes: usize = filter_lengths.clone().map(|length| length as usize).sum();
        let (filter_arena, index_arena) = rest.split_at_checked(filter_arena_bytes)?;
        let index_lengths = index_entries.chunks_exact(INDEX_ENTRY_BYTES).map(|entry| u32_at(entry, 0).unwrap_or(0));
        let trailers = index_entries.chunks_exact(INDEX_ENTRY_BYTES).map(|entry| Trailer::from_u64(u64_at(entry, 16)?));
        let properties = Properties {
            entries: number(0)?,
            tombstones: number(1)?,
            min_seq: SeqNo(number(2)?),
            max_seq: SeqNo(number(3)?),
            smallest: smallest.into(),
            largest: largest.into(),
            raw_bytes: number(4)?,
            min_expiry_ms: number(5)?,
            max_expiry_ms: number(6)?,
            created_ms: number(7)?,
            data_blocks: count(0)?,
            data_pages: count(1)?,
            prefix_filter: flags & FLAG_PREFIX_FILTER != 0,
        };
        let directory = Directory {
            properties,
            filter_separators: Separators::new(filter_arena, filter_lengths)?,
            filter_handles: filter_entries.chunks_exact(FILTER_ENTRY_BYTES).map(handle).collect::<Option<_>>()?,
            index_separators: Separators::new(index_arena, index_lengths)?,
            index_trailers: trailers.collect::<Option<_>>()?,
            index_handles: index_entries.chunks_exact(INDEX_ENTRY_BYTES).map(handle).collect::<Option<_>>()?,
        };
        (indexes > 0 && smallest <= largest && directory.properties.max_seq <= SeqNo::MAX).then_some(directory)
    }

    fn pages_are_gapless(&self, directory_page: u32) -> bool {
        let mut next = Some(self.properties.data_pages);
        for handle in self.filter_handles.iter().chain(&self.index_handles) {
            if next != Some(handle.page) || handle.pages == 0 {
                return false;
            }
            next = handle.end();
        }
        next == Some(directory_page)
    }

    fn index_is_sorted(&self) -> bool {
        (1..self.index_partitions()).all(|index| {
            let (left, right) = (self.index_separators.key(index - 1), self.index_separators.key(index));
            left < right || self.index_trailers[index - 1] > self.index_trailers[index]
        })
    }
}

fn handle(entry: &[u8]) -> Option<BlockHandle> {
    Some(BlockHandle { page: u32_at(entry, 4)?, pages: u32_at(entry, 8)?, crc: u32_at(entry, 12)? })
}

/// A partition as the directory lists it.
pub(super) struct DirectoryEntry {
    pub(super) separator: Box<[u8]>,
    /// Of no meaning for the filter.
    pub(super) trailer: Trailer,
    pub(super) handle: BlockHandle,
}

/// Builds the directory block, whole pages, all but its checksum.
pub(super) fn encode_directory(
    page_bytes: usize,
    properties: &Properties,
    filters: &[DirectoryEntry],
    indexes: &[DirectoryEntry],
) -> Vec<u8> {
    let mut block = vec![0; HEADER_BYTES];
    for number in [
        properties.entries,
        properties.tombstones,
        properties.min_seq.0,
        properties.max_seq.0,
        properties.raw_bytes,
        properties.min_expiry_ms,
        properties.max_expiry_ms,
        properties.created_ms,
    ] {
        block.extend_from_slice(&number.to_le_bytes());
    }
    for count in [
        properties.data_blocks,
        properties.data_pages,
        if properties.prefix_filter { FLAG_PREFIX_FILTER } else { 0 },
        filters.len() as u32,
        indexes.len() as u32,
        properties.smallest.len() as u32,
        properties.largest.len() as u32,
        0,
    ] {
        block.extend_from_slice(&count.to_le_bytes());
    }
    debug_assert_eq!(block.len(), HEADER_BYTES + FIXED_BYTES);
    for entry in filters {
        put_entry(&mut block, entry);
    }
    for entry in indexes {
        put_entry(&mut block, entry);
        block.extend_from_slice(&entry.trailer.as_u64().to_le_bytes());
    }
    block.extend_from_slice(&properties.smallest);
    block.extend_from_slice(&properties.largest);
    for entry in filters.iter().chain(indexes) {
        block.extend_from_slice(&entry.separator);
    }
    let header = BlockHeader {
        ty: BlockType::Directory,
        payload_bytes: (block.len() - HEADER_BYTES) as u32,
        entries: (filters.len() + indexes.len()) as u32,
        count: 0,
    };
    block.resize(block.len().next_multiple_of(page_bytes), 0);
    header.write(&mut block);
    block
}

fn put_entry(block: &mut Vec<u8>, entry: &DirectoryEntry) {
    for field in [entry.separator.len() as u32, entry.handle.page, entry.handle.pages, entry.handle.crc] {
        block.extend_from_slice(&field.to_le_bytes());
    }
}
