//! What the shard does, on a table in memory: blocks by their handles, lookups, and a cursor over the whole.

use super::*;
use crate::error::Result;

/// What the shard does, on a table in memory: fetches each block by its handle and verifies it.
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    page_bytes: usize,
    pub(super) directory: Directory,
}

impl<'a> Reader<'a> {
    pub(super) fn open(bytes: &'a [u8], page_bytes: usize, footer_crc: u32) -> Result<Self> {
        let last = bytes.len() / page_bytes - 1;
        let footer = decode_footer(&ID, page_bytes, last as u32, Some(footer_crc), &bytes[last * page_bytes..])?;
        let handle = footer.directory;
        let start = handle.page as usize * page_bytes;
        let block = &bytes[start..start + handle.pages as usize * page_bytes];
        Ok(Reader { bytes, page_bytes, directory: Directory::decode(&ID, &handle, page_bytes, block)? })
    }

    pub(super) fn fetch(&self, ty: BlockType, handle: BlockHandle) -> Result<&'a [u8]> {
        let start = handle.page as usize * self.page_bytes;
        let block = &self.bytes[start..start + handle.pages as usize * self.page_bytes];
        verify_block(&ID, ty, &handle, self.page_bytes, block)?;
        Ok(block)
    }

    fn index(&self, partition: usize) -> Result<&'a [u8]> {
        self.fetch(BlockType::Index, self.directory.index_handle(partition))
    }

    pub(super) fn get(&self, key: &[u8], view: &ReadView) -> Result<Option<(Trailer, &'a [u8])>> {
        if let Some(handle) = self.directory.find_filter(key)
            && !filter_may_contain(self.fetch(BlockType::Filter, handle)?, key_hash(key))
        {
            return Ok(None);
        }
        let bound = VersionBound::of(view);
        let Some(partition) = self.directory.find_index(key, bound) else { return Ok(None) };
        let handle = index_find(self.index(partition)?, key, bound)?.expect("the directory led here");
        let block = self.fetch(BlockType::Data, handle)?;
        match data_get(block, key, view)? {
            Lookup::Found(trailer, range) => Ok(Some((trailer, &block[range]))),
            Lookup::Absent => Ok(None),
            Lookup::NextBlock => {
                assert!(view.hole.is_some(), "only a hole hides versions that the index did not pass by");
                let mut cursor = TableCursor::new(self);
                cursor.seek_block(key, bound)?;
                loop {
                    cursor.next_block()?;
                    let Some(data) = &cursor.data else { return Ok(None) };
                    match data_get(data.block(), key, view)? {
                        Lookup::Found(trailer, range) => return Ok(Some((trailer, &data.block()[range]))),
                        Lookup::Absent => return Ok(None),
                        Lookup::NextBlock => {}
                    }
                }
            }
        }
    }

    /// Every block, its checksum and its entries; what `verify` does.
    pub(super) fn check(&self) -> Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for partition in 0..self.directory.filter_partitions() {
            self.fetch(BlockType::Filter, self.directory.filter_handle(partition))?;
        }
        for partition in 0..self.directory.index_partitions() {
            let index = self.index(partition)?;
            check_entries(index, |_, _, _| Ok(()))?;
            let mut cursor = IndexCursor::new(index)?;
            cursor.seek_first()?;
            while cursor.valid() {
                check_entries(self.fetch(BlockType::Data, cursor.handle()?)?, |key, trailer, value| {
                    assert!(key <= cursor.separator());
                    entries.push((key.to_vec(), trailer, value.to_vec()));
                    Ok(())
                })?;
                cursor.next()?;
            }
        }
        Ok(entries)
    }
}

/// A cursor over a whole table, as the shard builds it from the parts.
pub(super) struct TableCursor<'a, 'b> {
    reader: &'b Reader<'a>,
    partition: usize,
    index: Option<IndexCursor<&'a [u8]>>,
    data: Option<BlockCursor<&'a [u8]>>,
}

impl<'a, 'b> TableCursor<'a, 'b> {
    pub(super) fn new(reader: &'b Reader<'a>) -> Self {
        TableCursor { reader, partition: 0, index: None, data: None }
    }

    pub(super) fn entry(&self) -> Option<Entry> {
        let data = self.data.as_ref().filter(|data| data.valid())?;
        assert_eq!(&data.block()[data.value_range()], data.value());
        Some((data.key().to_vec(), data.trailer(), data.value().to_vec()))
    }

    fn open_block(&mut self) -> Result<()> {
        let handle = self.index.as_ref().unwrap().handle()?;
        let block = self.reader.fetch(BlockType::Data, handle)?;
        match &mut self.data {
            Some(data) => data.replace(block),
            None => BlockCursor::new(block).map(|data| self.data = Some(data)),
        }
    }

    fn seek_block(&mut self, key: &[u8], bound: VersionBound) -> Result<()> {
        self.data = None;
        let Some(partition) = self.reader.directory.find_index(key, bound) else { return Ok(()) };
        self.partition = partition;
        let mut index = IndexCursor::new(self.reader.index(partition)?)?;
        index.seek(key, bound)?;
        assert!(index.valid());
        self.index = Some(index);
        self.open_block()
    }

    fn next_block(&mut self) -> Result<()> {
        let index = self.index.as_mut().unwrap();
        index.next()?;
        if !index.valid() {
            self.partition += 1;
            if self.partition == self.reader.directory.index_partitions() {
                self.data = None;
                return Ok(());
            }
            *index = IndexCursor::new(self.reader.index(self.partition)?)?;
            index.seek_first()?;
        }
        self.open_block()
    }

    fn prev_block(&mut self) -> Result<()> {
        let index = self.index.as_mut().unwrap();
        index.prev()?;
        if !index.valid() {
            if self.partition == 0 {
                self.data = None;
                return Ok(());
            }
            self.partition -= 1;
            *index = IndexCursor::new(self.reader.index(self.partition)?)?;
            index.seek_last()?;
        }
        self.open_block()
    }

    pub(super) fn seek(&mut self, key: &[u8], bound: VersionBound) -> Result<()> {
        self.seek_block(key, bound)?;
        let Some(data) = &mut self.data else { return Ok(()) };
        data.seek(key, bound)?;
        if !data.valid() { self.first_of_next_block() } else { Ok(()) }
    }

    fn first_of_next_block(&mut self) -> Result<()> {
        self.next_block()?;
        self.data.as_mut().map_or(Ok(()), |data| data.seek_first())
    }

    pub(super) fn seek_for_prev(&mut self, key: &[u8], bound: VersionBound) -> Result<()> {
        self.seek_block(key, bound)?;
        match &mut self.data {
            Some(data) => data.seek_for_prev(key, bound)?,
            None => return self.seek_last(),
        }
        if self.entry().is_none() { self.last_of_prev_block() } else { Ok(()) }
    }

    pub(super) fn seek_last(&mut self) -> Result<()> {
        self.partition = self.reader.directory.index_partitions() - 1;
        let mut index = IndexCursor::new(self.reader.index(self.partition)?)?;
        index.seek_last()?;
        self.index = Some(index);
        self.open_block()?;
        self.data.as_mut().unwrap().seek_last()
    }

    fn last_of_prev_block(&mut self) -> Result<()> {
        self.prev_block()?;
        self.data.as_mut().map_or(Ok(()), |data| data.seek_last())
    }

    pub(super) fn next(&mut self) -> Result<()> {
        self.data.as_mut().unwrap().next()?;
        if self.entry().is_none() { self.first_of_next_block() } else { Ok(()) }
    }

    pub(super) fn prev(&mut self) -> Result<()> {
        self.data.as_mut().unwrap().prev()?;
        if self.entry().is_none() { self.last_of_prev_block() } else { Ok(()) }
    }
}
