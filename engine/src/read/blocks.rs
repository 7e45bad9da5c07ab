//! Blocks of SSTs, from the cache or by one device read.
//!
//! A miss takes a frame from the cache, reads the block into it, verifies checksum, address and structure once, and hands the frame
//! to the cache. Whoever asks for the same block meanwhile waits for that read, which is therefore a foreground read even where compaction
//! was the first to ask. Streaming readers (compaction) read many
//! blocks at a time into a buffer of their own and leave the cache alone.
//!
//! # Invariants
//!
//! 1. A block that leaves this module has been verified against the checksum that its parent holds.
//! 2. A frame belongs to the operation until its completion; then to the cache and to those who hold a guard.
//! 3. When the reading task is dropped half-way, the waiters start again.

use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::rc::Rc;

use rustc_hash::FxHashMap;
use siltstone_io::{Buffer, Class, Device, Handle, local};

use crate::cache::{BlockKey, PageCache, PageRef, Priority};
use crate::error::{Error, Result};
use crate::table::{self, BlockHandle, BlockType, Directory, TableId};
use crate::types::SstId;
use crate::version::Table;
use crate::volume::{SstFile, Volume};

/// Pages that a streaming reader asks for at a time, in bytes.
const STREAM_BYTES: usize = 256 << 10;

/// Reads blocks for one shard.
pub(crate) struct BlockReader {
    shard: u16,
    volume: Volume,
    /// For reads that others may wait for.
    shared: Device,
    handle: Handle,
    cache: PageCache<Buffer>,
    fetches: RefCell<FxHashMap<BlockKey, Rc<Fetch>>>,
    reads: Cell<u64>,
}

/// The bytes of one verified block and what pins them.
#[derive(Clone)]
pub(crate) enum BlockBytes {
    Cached(PageRef<Buffer>),
    Streamed(Rc<Buffer>, Range<usize>),
}

impl AsRef<[u8]> for BlockBytes {
    #[inline]
    fn as_ref(&self) -> &[u8] {
        match self {
            BlockBytes::Cached(page) => page,
            BlockBytes::Streamed(buffer, range) => &buffer[range.clone()],
        }
    }
}

/// A read under way.
#[derive(Default)]
struct Fetch {
    done: local::Event,
    result: RefCell<Option<Result<PageRef<Buffer>>>>,
    over: Cell<bool>,
}

/// Ends a fetch, whatever becomes of the task that reads.
struct FetchGuard<'r> {
    reader: &'r BlockReader,
    key: BlockKey,
    fetch: Rc<Fetch>,
}

impl Drop for FetchGuard<'_> {
    fn drop(&mut self) {
        self.reader.fetches.borrow_mut().remove(&self.key);
        self.fetch.over.set(true);
        self.fetch.done.notify_all();
    }
}

impl BlockReader {
    pub(crate) fn new(shard: u16, volume: Volume, handle: Handle, cache: PageCache<Buffer>) -> Rc<Self> {
        let shared = volume.device().in_class(Class::Foreground);
        Rc::new(BlockReader { shard, volume, shared, handle, cache, fetches: RefCell::default(), reads: Cell::new(0) })
    }

    pub(crate) fn cache(&self) -> &PageCache<Buffer> {
        &self.cache
    }

    /// Device reads of blocks so far.
    pub(crate) fn reads(&self) -> u64 {
        self.reads.get()
    }

    pub(crate) fn page_bytes(&self) -> usize {
        self.volume.parts().page_bytes() as usize
    }

    /// A block; at most one device read, none where it is cached.
    #[inline]
    pub(crate) async fn block(&self, table: &Table, kind: BlockType, handle: BlockHandle) -> Result<PageRef<Buffer>> {
        let key = block_key(table, &handle);
        match self.cache.get(key, priority(kind)) {
            Some(page) => Ok(page),
            None => self.fetch(table, kind, handle).await,
        }
    }

    /// Starts reading a block that will be needed soon.
    pub(crate) fn prefetch(self: &Rc<Self>, table: &Rc<Table>, kind: BlockType, handle: BlockHandle) {
        let key = block_key(table, &handle);
        if self.cache.contains(key) || self.fetches.borrow().contains_key(&key) {
            return;
        }
        let (reader, table) = (Rc::clone(self), Rc::clone(table));
        self.handle.spawn(Class::Foreground, async move {
            // Whoever needs the block meets the error again, and in its own context.
            let _ = reader.fetch(&table, kind, handle).await;
        });
    }

    async fn fetch(&self, table: &Table, kind: BlockType, handle: BlockHandle) -> Result<PageRef<Buffer>> {
        let key = block_key(table, &handle);
        loop {
            let under_way = self.fetches.borrow().get(&key).cloned();
            match under_way {
                None => break,
                Some(fetch) => {
                    mark!(FetchShared);
                    while !fetch.over.get() {
                        fetch.done.wait().await;
                    }
                    if let Some(result) = fetch.result.borrow().as_ref() {
                        return result.clone();
                    }
                }
            }
        }
        let fetch = Rc::new(Fetch::default());
        self.fetches.borrow_mut().insert(key, Rc::clone(&fetch));
        let guard = FetchGuard { reader: self, key, fetch };
        let result = self.read(table, kind, handle).await;
        *guard.fetch.result.borrow_mut() = Some(result.clone());
        result
    }

    async fn read(&self, table: &Table, kind: BlockType, handle: BlockHandle) -> Result<PageRef<Buffer>> {
        let bytes = handle.pages as usize * self.page_bytes();
        // Where all frames are pinned, the block lives outside the cache for as long as it is used.
        let frame = if bytes == self.page_bytes() { self.cache.frame() } else { None };
        let frame = frame.unwrap_or_else(|| Buffer::heap(bytes));
        let buffer = self.read_pages(&self.shared, table.file(), handle.page, handle.pages, frame).await?;
        let id = self.table_id(table);
        table::verify_block(&id, kind, &handle, self.page_bytes(), &buffer[..bytes])
            .map_err(|error| self.located(error, table.file(), handle.page))?;
        let key = block_key(table, &handle);
        Ok(match bytes == self.page_bytes() {
            true => self.cache.insert(key, buffer, priority(kind)),
            false => self.cache.insert_large(key, buffer, priority(kind)),
        })
    }

    /// Reads pages of an SST into the front of a buffer.
    async fn read_pages(
        &self,
        device: &Device,
        file: &SstFile,
        page: u32,
        pages: u32,
        mut buffer: Buffer,
    ) -> Result<Buffer> {
        if page.checked_add(pages).is_none_or(|end| end > file.pages()) {
            let reason = format!("pages {page}..+{pages} of an SST of {} pages", file.pages());
            return Err(Error::corruption("block handle", reason).located(self.shard, 0));
        }
        let mut runs = file.runs(page..page + pages);
        let first = runs.next();
        self.reads.set(self.reads.get() + 1);
        if let (Some((offset, bytes)), None) = (first, runs.next()) {
            let (result, buffer) = device.read(offset, buffer, bytes).await;
            result?;
            return Ok(buffer);
        }
        mark!(BlockAcrossExtents);
        // A block that crosses extents: rare (large entries, streaming), so a copy is in order.
        let mut at = 0;
        for (offset, bytes) in file.runs(page..page + pages) {
            let (result, piece) = device.read(offset, Buffer::heap(bytes), bytes).await;
            result?;
            buffer[at..at + bytes].copy_from_slice(&piece[..bytes]);
            at += bytes;
        }
        Ok(buffer)
    }

    /// The directory of a table: from memory, or by one read of the footer and one of the directory.
    pub(crate) async fn directory(&self, table: &Table) -> Result<Rc<Directory>> {
        if let Some(directory) = table.directory() {
            return Ok(directory);
        }
        let id = self.table_id(table);
        let meta = table.meta();
        let footer_page = meta.pages - 1;
        let device = self.volume.device();
        let buffer = self.read_pages(device, table.file(), footer_page, 1, Buffer::heap(self.page_bytes())).await?;
        let footer = table::decode_footer(
            &id,
            self.page_bytes(),
            footer_page,
            Some(meta.footer_crc),
            &buffer[..self.page_bytes()],
        )
        .map_err(|error| self.located(error, table.file(), footer_page))?;
        let handle = footer.directory;
        let bytes = handle.pages as usize * self.page_bytes();
        let buffer = self.read_pages(device, table.file(), handle.page, handle.pages, Buffer::heap(bytes)).await?;
        let directory = Directory::decode(&id, &handle, self.page_bytes(), &buffer[..bytes])
            .map_err(|error| self.located(error, table.file(), handle.page))?;
        let directory = Rc::new(directory);
        table.set_directory(Rc::clone(&directory));
        Ok(directory)
    }

    pub(crate) fn table_id(&self, table: &Table) -> TableId {
        TableId { volume: *self.volume.parts().id(), sst: table.meta().id }
    }

    /// Adds shard and device offset to the report of a damaged block.
    pub(crate) fn located(&self, error: Error, file: &SstFile, page: u32) -> Error {
        error.located(self.shard, file.page_offset(page.min(file.pages().saturating_sub(1))))
    }

    /// A reader of consecutive data blocks of one table.
    pub(crate) fn stream(self: &Rc<Self>, table: &Rc<Table>, class: Class) -> Stream {
        Stream { reader: Rc::clone(self), table: Rc::clone(table), class, current: None, ahead: None }
    }
}

#[inline]
fn block_key(table: &Table, handle: &BlockHandle) -> BlockKey {
    if mutant!(BlockCachedByPlace) && handle.page < table.file().pages() {
        return BlockKey { sst: SstId(table.file().page_offset(handle.page)), page: 0 };
    }
    BlockKey { sst: table.meta().id, page: handle.page }
}

fn priority(kind: BlockType) -> Priority {
    if kind == BlockType::Data { Priority::Data } else { Priority::Metadata }
}

/// Reads the data blocks of one table in order, in large pieces, one piece ahead, beside the cache.
pub(crate) struct Stream {
    reader: Rc<BlockReader>,
    table: Rc<Table>,
    class: Class,
    current: Option<Piece>,
    ahead: Option<Rc<PieceFetch>>,
}

struct Piece {
    first_page: u32,
    pages: u32,
    buffer: Rc<Buffer>,
}

struct PieceFetch {
    first_page: u32,
    pages: u32,
    done: local::Event,
    result: RefCell<Option<Result<Buffer>>>,
}

impl Stream {
    /// A data block; `data_pages` bounds how far ahead may be read.
    pub(crate) async fn block(&mut self, handle: BlockHandle, data_pages: u32) -> Result<BlockBytes> {
        let holds = |piece: &Piece| {
            piece.first_page <= handle.page && handle.page + handle.pages <= piece.first_page + piece.pages
        };
        if !self.current.as_ref().is_some_and(holds) {
            let piece_pages = ((STREAM_BYTES / self.reader.page_bytes()) as u32).max(handle.pages);
            let fetch = match self.ahead.take() {
                Some(ahead) if ahead.first_page == handle.page && ahead.pages >= handle.pages => ahead,
                _ => self.start(handle.page, piece_pages.min(data_pages.saturating_sub(handle.page)).max(handle.pages)),
            };
            while fetch.result.borrow().is_none() {
                fetch.done.wait().await;
            }
            let buffer = fetch.result.borrow_mut().take().expect("checked just now")?;
            self.current = Some(Piece { first_page: fetch.first_page, pages: fetch.pages, buffer: Rc::new(buffer) });
            // Where a block of several pages crosses the end of this piece, the piece read ahead is of no use: rare.
            let next_page = fetch.first_page + fetch.pages;
            if next_page < data_pages {
                self.ahead = Some(self.start(next_page, piece_pages.min(data_pages - next_page)));
            }
        }
        let piece = self.current.as_ref().expect("set just now");
        let page_bytes = self.reader.page_bytes();
        let start = (handle.page - piece.first_page) as usize * page_bytes;
        let range = start..start + handle.pages as usize * page_bytes;
        let bytes = BlockBytes::Streamed(Rc::clone(&piece.buffer), range);
        let id = self.reader.table_id(&self.table);
        table::verify_block(&id, BlockType::Data, &handle, page_bytes, bytes.as_ref())
            .map_err(|error| self.reader.located(error, self.table.file(), handle.page))?;
        Ok(bytes)
    }

    fn start(&self, first_page: u32, pages: u32) -> Rc<PieceFetch> {
        let fetch =
            Rc::new(PieceFetch { first_page, pages, done: local::Event::default(), result: RefCell::default() });
        let (reader, table, task) = (Rc::clone(&self.reader), Rc::clone(&self.table), Rc::clone(&fetch));
        self.reader.handle.spawn(self.class, async move {
            let buffer = reader.volume.buffer(pages as usize * reader.page_bytes());
            let result = reader.read_pages(reader.volume.device(), table.file(), first_page, pages, buffer).await;
            *task.result.borrow_mut() = Some(result);
            task.done.notify_all();
        });
        fetch
    }
}
