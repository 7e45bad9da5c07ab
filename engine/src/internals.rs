//! Thin wrappers of the engine's parts, for micro-benchmarks and fuzz targets; no part of the public API.
//!
//! Each wrapper adds nothing but visibility: what is measured or fuzzed is what the engine runs.

#[cfg(feature = "fuzz")]
pub mod fuzz;

use crate::cache::{BlockKey, CacheConfig, PageCache, Priority};
use crate::error::{Error, Result};
use crate::memtable::Memtable;
use crate::table::{
    self, BlockCursor, BlockHandle, BlockType, Directory, Lookup, TableBuilder, TableId, TableOptions, VersionBound,
};
use crate::types::{KeyspaceId, Kind, ReadView, SeqNo, SstId, Trailer};
use crate::wal::BatchEncoder;

const KEYSPACE: KeyspaceId = KeyspaceId(0);
const PAGE_BYTES: usize = 4096;
const ID: TableId = TableId { volume: *b"internals volume", sst: SstId(1) };

/// A memtable with one keyspace.
pub struct MemtablePart {
    memtable: Memtable,
    next_seq: u64,
}

impl MemtablePart {
    /// An empty one.
    pub fn new() -> Self {
        MemtablePart { memtable: Memtable::new(), next_seq: 1 }
    }

    /// Puts the next version of a key.
    pub fn put(&mut self, key: &[u8], value: &[u8]) {
        let trailer = Trailer::new(SeqNo(self.next_seq), Kind::Put);
        self.next_seq += 1;
        self.memtable.insert(KEYSPACE, key, trailer, [value, &[]], SeqNo(0));
    }

    /// The length of a key's value.
    pub fn get(&self, key: &[u8]) -> Option<usize> {
        self.memtable.get(KEYSPACE, key, &ReadView::LATEST).map(|entry| entry.value.len())
    }
}

impl Default for MemtablePart {
    fn default() -> Self {
        MemtablePart::new()
    }
}

/// An SST in memory, with its directory open.
pub struct TablePart {
    pages: Vec<u8>,
    directory: Directory,
}

/// A block of a [`TablePart`].
#[derive(Clone, Copy, Debug)]
pub struct BlockPart(BlockHandle);

impl TablePart {
    /// Builds an SST of these entries, which ascend by key.
    ///
    /// # Panics
    /// Where they do not, or where there are none.
    pub fn build<'e>(entries: impl IntoIterator<Item = (&'e [u8], &'e [u8])>) -> Result<Self> {
        let mut pages = Vec::new();
        let mut builder = TableBuilder::new(ID, TableOptions::default());
        for (key, value) in entries {
            builder.add(key, Trailer::new(SeqNo(0), Kind::Put), value, &mut pages);
        }
        builder.finish(&mut pages);
        TablePart::open(pages)
    }

    /// Opens the bytes of an SST, whatever they are.
    pub fn open(pages: Vec<u8>) -> Result<Self> {
        let last = (pages.len() / PAGE_BYTES).checked_sub(1).and_then(|last| u32::try_from(last).ok());
        let last = last.ok_or_else(|| Error::corruption("SST footer", "no whole page"))?;
        let footer = table::decode_footer(&ID, PAGE_BYTES, last, None, page(&pages, last, 1)?)?;
        let handle = footer.directory;
        let directory = Directory::decode(&ID, &handle, PAGE_BYTES, page(&pages, handle.page, handle.pages)?)?;
        Ok(TablePart { pages, directory })
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.pages
    }

    /// Whether the filter lets a key pass.
    pub fn filter_passes(&self, key: &[u8]) -> Result<bool> {
        match self.directory.find_filter(key) {
            Some(handle) => Ok(table::filter_may_contain(self.block(&handle)?, table::key_hash(key))),
            None => Ok(true),
        }
    }

    /// The data block to which the index leads.
    pub fn find_block(&self, key: &[u8]) -> Result<Option<BlockPart>> {
        let bound = VersionBound::of(&ReadView::LATEST);
        let Some(partition) = self.directory.find_index(key, bound) else { return Ok(None) };
        let handle = self.directory.index_handle(partition);
        let index = self.block(&handle)?;
        Ok(table::index_find(index, key, bound)?.map(BlockPart))
    }

    /// Checks a data block as after a read from the device: checksum, address, structure.
    pub fn verify(&self, block: BlockPart) -> Result<()> {
        table::verify_block(&ID, BlockType::Data, &block.0, PAGE_BYTES, self.block(&block.0)?)
    }

    /// The length of a key's value in a block.
    pub fn seek(&self, block: BlockPart, key: &[u8]) -> Result<Option<usize>> {
        match table::data_get(self.block(&block.0)?, key, &ReadView::LATEST)? {
            Lookup::Found(_, range) => Ok(Some(range.len())),
            Lookup::Absent | Lookup::NextBlock => Ok(None),
        }
    }

    /// Reads all entries of a block: how many there are, and the bytes of their keys and values.
    pub fn scan(&self, block: BlockPart) -> Result<(usize, usize)> {
        let mut cursor = BlockCursor::new(self.block(&block.0)?)?;
        let (mut entries, mut bytes) = (0, 0);
        cursor.seek_first()?;
        while cursor.valid() {
            entries += 1;
            bytes += cursor.key().len() + cursor.value().len();
            cursor.next()?;
        }
        Ok((entries, bytes))
    }

    fn block(&self, handle: &BlockHandle) -> Result<&[u8]> {
        page(&self.pages, handle.page, handle.pages)
    }
}

fn page(bytes: &[u8], page: u32, pages: u32) -> Result<&[u8]> {
    let start = page as usize * PAGE_BYTES;
    let end = start + pages as usize * PAGE_BYTES;
    bytes.get(start..end).ok_or_else(|| Error::corruption("block handle", format!("pages {page}..+{pages}")))
}

/// A block cache over plain memory.
pub struct CachePart(PageCache<Vec<u8>>);

impl CachePart {
    /// A cache for as many pages, filled with the pages 0.. of one SST.
    pub fn filled(pages: u32) -> Self {
        let config = CacheConfig { frames_max: pages as usize, frame_bytes: PAGE_BYTES, large_bytes_max: 0 };
        let cache = PageCache::new(config, || Some(vec![0; PAGE_BYTES]));
        for page in 0..pages {
            cache.insert(BlockKey { sst: ID.sst, page }, vec![page as u8; PAGE_BYTES], Priority::Data);
        }
        CachePart(cache)
    }

    /// Looks a page up and reads a byte of it.
    #[inline]
    pub fn hit(&self, page: u32) -> Option<u8> {
        self.0.get(BlockKey { sst: ID.sst, page }, Priority::Data).map(|page| page[100])
    }
}

/// The records of writes on their way to the log.
#[derive(Default)]
pub struct WalPart {
    pending: Vec<u8>,
    next_seq: u64,
}

impl WalPart {
    /// Appends a batch of one put; starts over where `limit_bytes` are pending.
    pub fn append(&mut self, key: &[u8], value: &[u8], limit_bytes: usize) {
        if self.pending.len() >= limit_bytes {
            self.pending.clear();
        }
        self.next_seq += 1;
        let mut encoder = BatchEncoder::begin(&mut self.pending, SeqNo(self.next_seq));
        encoder.push(Kind::Put, KEYSPACE, key, [value, &[]]);
        encoder.end();
    }

    /// Decodes the records of one commit of the log, whatever the bytes are; how many there are.
    pub fn decode(commit: &[u8]) -> Result<usize> {
        let mut operations = 0;
        crate::wal::decode_commit(commit, |_| operations += 1)?;
        Ok(operations)
    }

    /// What is pending.
    pub fn pending(&self) -> &[u8] {
        &self.pending
    }
}
