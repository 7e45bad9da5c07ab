//! Writes an SST from entries in order, page by page.
//!
//! 1. An entry goes into the data block in the making. Where it does not fit any more, to the byte, the block is
//!    completed: padded to its page, given its checksum and pushed to the sink. Its separator and handle go into the
//!    index.
//! 2. Filter and index partitions are kept until the end: at 10-byte keys and 100-byte values together 1.6 % of the
//!    data.
//! 3. `finish` pushes them, the directory and the footer, and returns what the manifest must know. Its checksum of the
//!    footer covers, through the directory and the partitions, every byte of the SST.
//!
//! The builder owns all it holds; pages are the sink's once pushed. An SST that was not finished, or that no manifest
//! names, is free space.

use super::block::{
    BlockBuilder, BlockHandle, BlockType, PAGE_BYTES_MAX, PAGE_BYTES_MIN, TableId, check_entries, seal,
};
use super::directory::{DirectoryEntry, encode_directory};
use super::filter::FilterBuilder;
use super::footer::encode_footer;
use super::index::IndexBuilder;
use super::properties::Properties;
use crate::types::{Kind, SeqNo, Trailer};

/// The longest stored key: a key group and 32 KiB.
pub(crate) const KEY_BYTES_MAX: usize = 2 + (32 << 10);
/// The longest value of an entry: an expiry time and 16 MiB.
pub(crate) const VALUE_BYTES_MAX: usize = 8 + (16 << 20);
/// More bits than this do not make the filter better.
pub(crate) const FILTER_BITS_PER_KEY_MAX: u32 = 32;

/// Takes the pages of an SST: whole pages, in order from page 0.
pub(crate) trait PageSink {
    /// The next pages.
    fn push(&mut self, pages: &[u8]);
}

impl PageSink for Vec<u8> {
    fn push(&mut self, pages: &[u8]) {
        self.extend_from_slice(pages);
    }
}

/// How an SST is written.
#[derive(Clone, Debug)]
pub(crate) struct TableOptions {
    /// The size of a page, a power of two of 512 to 64 Ki.
    pub(crate) page_bytes: usize,
    /// Bits of filter for each key, at most [`FILTER_BITS_PER_KEY_MAX`]; 0 for no filter.
    pub(crate) filter_bits_per_key: u32,
    /// A restart point every so many entries of a data block.
    pub(crate) restart_interval: usize,
    /// The time of writing, milliseconds, for the properties.
    pub(crate) created_ms: u64,
}

impl Default for TableOptions {
    fn default() -> Self {
        TableOptions { page_bytes: 4096, filter_bits_per_key: 10, restart_interval: 8, created_ms: 0 }
    }
}

/// What the manifest must know of a finished SST.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TableSummary {
    /// Its pages; the last is the footer.
    pub(crate) pages: u32,
    /// The footer's checksum.
    pub(crate) footer_crc: u32,
    /// Entries, keys, sequence numbers and so on.
    pub(crate) properties: Properties,
}

/// An SST in the making.
pub(crate) struct TableBuilder {
    id: TableId,
    options: TableOptions,
    data: BlockBuilder,
    last_trailer: Trailer,
    index: IndexBuilder,
    filter: Option<FilterBuilder>,
    properties: Properties,
    next_page: u32,
}

impl TableBuilder {
    /// Begins an SST. Panics where an option is out of range: those of a user are checked when the engine is opened.
    pub(crate) fn new(id: TableId, options: TableOptions) -> Self {
        let page_bytes = options.page_bytes;
        assert!(
            page_bytes.is_power_of_two() && (PAGE_BYTES_MIN..=PAGE_BYTES_MAX).contains(&page_bytes),
            "pages of {page_bytes} bytes"
        );
        let bits = options.filter_bits_per_key;
        assert!(bits <= FILTER_BITS_PER_KEY_MAX, "{bits} bits of filter a key");
        TableBuilder {
            id,
            data: BlockBuilder::new(options.restart_interval),
            last_trailer: Trailer::new(SeqNo(0), Kind::Delete),
            index: IndexBuilder::new(page_bytes),
            filter: (bits > 0).then(|| FilterBuilder::new(page_bytes, bits)),
            properties: Properties::empty(options.created_ms),
            next_page: 0,
            options,
        }
    }

    /// Adds the next entry. Panics where it is out of order.
    pub(crate) fn add(&mut self, key: &[u8], trailer: Trailer, value: &[u8], sink: &mut impl PageSink) {
        self.add_with_prefix(key, 0, trailer, value, sink);
    }

    /// Adds the next entry; the filter is also to answer for the first `prefix_bytes` of its key, unless 0.
    pub(crate) fn add_with_prefix(
        &mut self,
        key: &[u8],
        prefix_bytes: usize,
        trailer: Trailer,
        value: &[u8],
        sink: &mut impl PageSink,
    ) {
        assert!(key.len() <= KEY_BYTES_MAX && prefix_bytes <= key.len(), "a key of {} bytes", key.len());
        assert!(value.len() <= VALUE_BYTES_MAX, "a value of {} bytes", value.len());
        let mut plan = self.data.plan(key, trailer, value.len());
        let new_key = self.check_order(key, trailer, plan.common);
        if plan.block_bytes > self.options.page_bytes && !self.data.is_empty() {
            self.complete_data_block(Some(key), sink);
            plan = self.data.plan(key, trailer, value.len());
        }
        if new_key && let Some(filter) = &mut self.filter {
            filter.add(self.data.last_key(), key, plan.common, prefix_bytes);
        }
        if self.properties.entries == 0 {
            self.properties.smallest = key.into();
        }
        self.properties.prefix_filter &= prefix_bytes > 0;
        self.properties.count(key, trailer, value);
        self.data.push(&plan, key, trailer, value);
        self.last_trailer = trailer;
    }

    /// Number of entries added.
    #[inline]
    pub(crate) fn entries(&self) -> u64 {
        self.properties.entries
    }

    /// Whether no entry was added: there is nothing to finish then.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.properties.entries == 0
    }

    /// Bytes pushed to the sink.
    #[inline]
    pub(crate) fn bytes_written(&self) -> u64 {
        u64::from(self.next_page) * self.options.page_bytes as u64
    }

    /// Bytes that the SST would have if it ended here, to within a few pages.
    pub(crate) fn estimated_bytes(&self) -> u64 {
        let page_bytes = self.options.page_bytes;
        let block_bytes = match self.data.is_empty() {
            true => 0,
            // Pages are powers of two: no division for each entry.
            false => (self.data.block_bytes() + page_bytes - 1) & !(page_bytes - 1),
        };
        let filter_bytes = self.filter.as_ref().map_or(0, FilterBuilder::estimated_bytes);
        // One page for the directory, one for the footer.
        self.bytes_written() + (block_bytes + filter_bytes + self.index.estimated_bytes() + 2 * page_bytes) as u64
    }

    /// Completes the SST. Panics where it is empty.
    pub(crate) fn finish(mut self, sink: &mut impl PageSink) -> TableSummary {
        assert!(!self.is_empty(), "an SST has at least one entry");
        self.complete_data_block(None, sink);
        self.properties.data_pages = self.next_page;
        self.properties.largest = self.data.last_key().into();

        let mut filters = Vec::new();
        if let Some(filter) = self.filter.take() {
            for mut partition in filter.finish(self.data.last_key()) {
                let handle = push_block(&self.id, &self.options, &mut self.next_page, &mut partition.block, sink);
                filters.push(DirectoryEntry { separator: partition.separator, trailer: self.last_trailer, handle });
            }
        }
        let mut indexes = Vec::new();
        for mut partition in std::mem::replace(&mut self.index, IndexBuilder::new(self.options.page_bytes)).finish() {
            let handle = push_block(&self.id, &self.options, &mut self.next_page, &mut partition.block, sink);
            indexes.push(DirectoryEntry { separator: partition.separator, trailer: partition.trailer, handle });
        }
        let mut block = encode_directory(self.options.page_bytes, &self.properties, &filters, &indexes);
        let directory = push_block(&self.id, &self.options, &mut self.next_page, &mut block, sink);
        let (footer, footer_crc) = encode_footer(&self.id, self.options.page_bytes, self.next_page, &directory);
        sink.push(&footer);
        TableSummary { pages: self.next_page + 1, footer_crc, properties: self.properties }
    }

    /// Whether the key is another than the last. `common` is what they have in common.
    #[inline]
    fn check_order(&self, key: &[u8], trailer: Trailer, common: usize) -> bool {
        let last_key = self.data.last_key();
        let same_key = common == key.len() && common == last_key.len() && !self.is_empty();
        let in_order = self.is_empty()
            || if same_key { trailer < self.last_trailer } else { last_key.get(common) < key.get(common) };
        assert!(in_order, "entry {} of SST {} is out of order", self.entries(), self.id.sst);
        !same_key
    }

    fn complete_data_block(&mut self, next_key: Option<&[u8]>, sink: &mut impl PageSink) {
        let block = self.data.finish(BlockType::Data, self.options.page_bytes);
        if cfg!(feature = "paranoid") {
            check_entries(block, |_, _, _| Ok(())).expect("a block that was just built reads back");
        }
        let handle = push_block(&self.id, &self.options, &mut self.next_page, block, sink);
        self.data.clear();
        self.properties.data_blocks += 1;
        self.index.add((self.data.last_key(), self.last_trailer), next_key, handle);
    }
}

/// Gives a block its place and checksum and hands it to the sink.
fn push_block(
    id: &TableId,
    options: &TableOptions,
    next_page: &mut u32,
    block: &mut [u8],
    sink: &mut impl PageSink,
) -> BlockHandle {
    let page = *next_page;
    let pages = u32::try_from(block.len() / options.page_bytes).expect("a block has less than 2^32 pages");
    // One page is left for the footer.
    *next_page = page.checked_add(pages).filter(|next| *next < u32::MAX).expect("an SST has less than 2^32 pages");
    let crc = seal(id, page, block);
    sink.push(block);
    BlockHandle { page, pages, crc }
}
