//! A cursor over one run: the tables of one level in key order, or a single table of level 0.
//!
//! The position is a table, a partition of its index, a block in that partition, and an entry in that block. Steps inside a block
//! are plain function calls ([`RunCursor::step`]); only a change of block may wait for the device. Going forward from block to
//! block, the cursor asks for more and more of the following blocks in advance; where it knows the end of its range, for those up to
//! there at once, and for none behind it.

use std::rc::Rc;

use siltstone_io::Class;

use crate::error::Result;
use crate::read::blocks::{BlockBytes, BlockReader, Stream};
use crate::table::{BlockCursor, BlockType, Directory, IndexCursor};
use crate::types::Trailer;
use crate::version::Table;

/// Most blocks that a forward cursor asks for in advance.
const READ_AHEAD_BLOCKS_MAX: u32 = 16;

/// How a cursor gets its data blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Block by block through the cache.
    Cached,
    /// In large pieces beside the cache, forward only, as a task of this class.
    Streaming(Class),
}

pub(crate) struct RunCursor {
    reader: Rc<BlockReader>,
    tables: Vec<Rc<Table>>,
    access: Access,
    /// Index of the current table; `tables.len()` past either end.
    at: usize,
    open: Option<OpenTable>,
    data: Option<BlockCursor<BlockBytes>>,
    read_ahead_blocks: u32,
    /// Nobody will ask for keys above this one.
    upper: Option<Rc<[u8]>>,
}

struct OpenTable {
    directory: Rc<Directory>,
    partition: usize,
    index: IndexCursor<BlockBytes>,
    stream: Option<Stream>,
}

impl RunCursor {
    /// A cursor over tables that do not overlap, in key order. It has no position until a seek.
    pub(crate) fn new(reader: Rc<BlockReader>, tables: Vec<Rc<Table>>, access: Access) -> Self {
        let at = tables.len();
        RunCursor { reader, tables, access, at, open: None, data: None, read_ahead_blocks: 0, upper: None }
    }

    /// Says that no key above this one will be asked for: what lies there need not be read ahead. Nothing else changes.
    pub(crate) fn limit(&mut self, upper: Option<Rc<[u8]>>) {
        self.upper = upper;
    }

    #[inline]
    pub(crate) fn valid(&self) -> bool {
        self.data.as_ref().is_some_and(BlockCursor::valid)
    }

    #[inline]
    pub(crate) fn key(&self) -> &[u8] {
        self.entry().key()
    }

    #[inline]
    pub(crate) fn trailer(&self) -> Trailer {
        self.entry().trailer()
    }

    #[inline]
    pub(crate) fn entry(&self) -> &BlockCursor<BlockBytes> {
        self.data.as_ref().expect("only a valid cursor has an entry")
    }

    /// To the first entry at or behind (key, trailer).
    pub(crate) async fn seek(&mut self, key: &[u8], trailer: Trailer) -> Result<()> {
        self.read_ahead_blocks = 0;
        let at = self.tables.partition_point(|table| table.upper() < key);
        self.enter_forward(at, key, trailer).await
    }

    /// To the last entry at or before (key, trailer).
    pub(crate) async fn seek_for_prev(&mut self, key: &[u8], trailer: Trailer) -> Result<()> {
        self.read_ahead_blocks = 0;
        let after = self.tables.partition_point(|table| table.lower() <= key);
        self.enter_backward(after, key, trailer).await
    }

    /// To the next entry, where that is in the same block; false where the block has ended, then call [`Self::next_block`].
    #[inline]
    pub(crate) fn step(&mut self) -> Result<bool> {
        let data = self.data.as_mut().expect("only a valid cursor moves");
        data.next()?;
        Ok(data.valid())
    }

    /// The same backwards; see [`Self::prev_block`].
    #[inline]
    pub(crate) fn step_back(&mut self) -> Result<bool> {
        let data = self.data.as_mut().expect("only a valid cursor moves");
        data.prev()?;
        Ok(data.valid())
    }

    /// To the first entry of the next block.
    pub(crate) async fn next_block(&mut self) -> Result<()> {
        self.data = None;
        let Some(open) = &mut self.open else { return Ok(()) };
        open.index.next()?;
        self.read_ahead_blocks = (self.read_ahead_blocks * 2).clamp(1, READ_AHEAD_BLOCKS_MAX);
        self.settle_forward().await
    }

    /// To the last entry of the block before.
    pub(crate) async fn prev_block(&mut self) -> Result<()> {
        self.data = None;
        let Some(open) = &mut self.open else { return Ok(()) };
        open.index.prev()?;
        self.settle_backward().await
    }

    /// Enters the table `at`, or those behind it, at the first entry at or behind (key, trailer).
    async fn enter_forward(&mut self, at: usize, key: &[u8], trailer: Trailer) -> Result<()> {
        (self.at, self.open, self.data) = (at, None, None);
        let Some(table) = self.tables.get(at).cloned() else { return Ok(()) };
        let (key, trailer) = if key < table.lower() { (table.lower(), Trailer::NEWEST) } else { (key, trailer) };
        let directory = self.reader.directory(&table).await?;
        if let Some(partition) = directory.find_index(key, trailer) {
            let mut index = self.index_partition(&table, &directory, partition).await?;
            index.seek(key, trailer)?;
            self.open = Some(OpenTable { directory, partition, index, stream: self.stream(&table) });
            self.settle_on_index_forward().await?;
            if let Some(data) = &mut self.data {
                data.seek(key, trailer)?;
                if !data.valid() {
                    return self.next_block().await;
                }
                return self.clip_forward().await;
            }
        }
        Box::pin(self.next_table()).await
    }

    async fn enter_backward(&mut self, after: usize, key: &[u8], trailer: Trailer) -> Result<()> {
        (self.at, self.open, self.data) = (self.tables.len(), None, None);
        let Some(at) = after.checked_sub(1) else { return Ok(()) };
        self.at = at;
        let table = Rc::clone(&self.tables[at]);
        let (key, trailer) = if key > table.upper() { (table.upper(), Trailer::OLDEST) } else { (key, trailer) };
        let directory = self.reader.directory(&table).await?;
        let last = directory.index_partitions().checked_sub(1);
        if let Some(partition) = directory.find_index(key, trailer).or(last) {
            let mut index = self.index_partition(&table, &directory, partition).await?;
            // The block that may hold (key, trailer): its predecessor is there or in the block before.
            index.seek(key, trailer)?;
            if !index.valid() {
                index.seek_last()?;
            }
            self.open = Some(OpenTable { directory, partition, index, stream: None });
            self.settle_on_index_backward().await?;
            if let Some(data) = &mut self.data {
                data.seek_for_prev(key, trailer)?;
                if !data.valid() {
                    return self.prev_block().await;
                }
                return self.clip_backward().await;
            }
        }
        Box::pin(self.prev_table()).await
    }

    async fn next_table(&mut self) -> Result<()> {
        let at = (self.at + 1).min(self.tables.len());
        let lower = self.tables.get(at).map(|table| table.lower().to_vec()).unwrap_or_default();
        self.enter_forward(at, &lower, Trailer::NEWEST).await
    }

    async fn prev_table(&mut self) -> Result<()> {
        let at = self.at;
        let upper = at.checked_sub(1).map(|before| self.tables[before].upper().to_vec()).unwrap_or_default();
        self.enter_backward(at, &upper, Trailer::OLDEST).await
    }

    /// The index has moved on: load the block it points to, or the next partition or table.
    async fn settle_forward(&mut self) -> Result<()> {
        self.settle_on_index_forward().await?;
        match &mut self.data {
            Some(data) => {
                data.seek_first()?;
                self.clip_forward().await
            }
            None => Box::pin(self.next_table()).await,
        }
    }

    async fn settle_backward(&mut self) -> Result<()> {
        self.settle_on_index_backward().await?;
        match &mut self.data {
            Some(data) => {
                data.seek_last()?;
                self.clip_backward().await
            }
            None => Box::pin(self.prev_table()).await,
        }
    }

    /// An entry beyond the visible bounds ends the table.
    async fn clip_forward(&mut self) -> Result<()> {
        if self.valid() && self.key() > self.tables[self.at].upper() {
            self.data = None;
            return Box::pin(self.next_table()).await;
        }
        Ok(())
    }

    async fn clip_backward(&mut self) -> Result<()> {
        if self.valid() && self.key() < self.tables[self.at].lower() {
            self.data = None;
            return Box::pin(self.prev_table()).await;
        }
        Ok(())
    }

    /// Loads the block under the index cursor, going on to the next partitions while that has run off the end of one.
    async fn settle_on_index_forward(&mut self) -> Result<()> {
        let table = Rc::clone(&self.tables[self.at]);
        loop {
            let Some(open) = &mut self.open else { return Ok(()) };
            if open.index.valid() {
                break;
            }
            let (directory, partition) = (Rc::clone(&open.directory), open.partition + 1);
            if partition == directory.index_partitions() {
                self.open = None;
                return Ok(());
            }
            let mut index = self.index_partition(&table, &directory, partition).await?;
            index.seek_first()?;
            let open = self.open.as_mut().expect("checked above");
            (open.partition, open.index) = (partition, index);
        }
        self.load(&table).await
    }

    async fn settle_on_index_backward(&mut self) -> Result<()> {
        let table = Rc::clone(&self.tables[self.at]);
        loop {
            let Some(open) = &mut self.open else { return Ok(()) };
            if open.index.valid() {
                break;
            }
            let Some(partition) = open.partition.checked_sub(1) else {
                self.open = None;
                return Ok(());
            };
            let directory = Rc::clone(&open.directory);
            let mut index = self.index_partition(&table, &directory, partition).await?;
            index.seek_last()?;
            let open = self.open.as_mut().expect("checked above");
            (open.partition, open.index) = (partition, index);
        }
        self.load(&table).await
    }

    async fn load(&mut self, table: &Rc<Table>) -> Result<()> {
        let open = self.open.as_mut().expect("a block is loaded from an open table");
        let handle = open.index.handle()?;
        let bytes = match &mut open.stream {
            Some(stream) => stream.block(handle, open.directory.properties().data_pages).await?,
            None => {
                let blocks = match self.upper {
                    Some(_) => READ_AHEAD_BLOCKS_MAX,
                    None if self.read_ahead_blocks > 1 => self.read_ahead_blocks,
                    None => 0,
                };
                if blocks > 0 {
                    let mut ahead = open.index.clone();
                    for _ in 0..blocks {
                        // All keys behind this block are above its separator.
                        if self.upper.as_ref().is_some_and(|upper| ahead.separator() >= &**upper) {
                            break;
                        }
                        ahead.next()?;
                        if !ahead.valid() {
                            break;
                        }
                        self.reader.prefetch(table, BlockType::Data, ahead.handle()?);
                    }
                }
                BlockBytes::Cached(self.reader.block(table, BlockType::Data, handle).await?)
            }
        };
        self.data = Some(BlockCursor::new(bytes)?);
        Ok(())
    }

    async fn index_partition(
        &self,
        table: &Table,
        directory: &Directory,
        partition: usize,
    ) -> Result<IndexCursor<BlockBytes>> {
        let handle = directory.index_handle(partition);
        let page = self.reader.block(table, BlockType::Index, handle).await?;
        IndexCursor::new(BlockBytes::Cached(page))
    }

    fn stream(&self, table: &Rc<Table>) -> Option<Stream> {
        match self.access {
            Access::Cached => None,
            Access::Streaming(class) => Some(self.reader.stream(table, class)),
        }
    }

    /// The key range check that a step inside a block leaves to its caller: whether the entry is still visible in its table.
    #[inline]
    pub(crate) fn beyond_upper(&self) -> bool {
        self.key() > self.tables[self.at].upper()
    }

    #[inline]
    pub(crate) fn beyond_lower(&self) -> bool {
        self.key() < self.tables[self.at].lower()
    }

    /// Leaves the current table forwards (its remaining entries are not visible).
    pub(crate) async fn leave_forward(&mut self) -> Result<()> {
        self.data = None;
        self.next_table().await
    }

    /// Leaves the current table backwards.
    pub(crate) async fn leave_backward(&mut self) -> Result<()> {
        self.data = None;
        self.prev_table().await
    }
}
