//! Reading the index: handles, a lookup without a cursor, a cursor.

use crate::error::{Error, Result};
use crate::table::block::{BlockCursor, BlockHandle, VersionBound, first_value_at_or_after};
use crate::table::coding::{length, put_varint, u32_at};

/// Appends a handle as an index block stores it.
pub(super) fn put_handle(out: &mut Vec<u8>, handle: &BlockHandle) {
    out.extend_from_slice(&handle.crc.to_le_bytes());
    put_varint(out, u64::from(handle.page));
    put_varint(out, u64::from(handle.pages));
}

fn handle(bytes: &[u8]) -> Result<BlockHandle> {
    try_handle(bytes).ok_or_else(|| Error::corruption("index partition", "a block handle does not decode"))
}

fn try_handle(bytes: &[u8]) -> Option<BlockHandle> {
    let mut at = 4;
    let handle = BlockHandle {
        crc: u32_at(bytes, 0)?,
        page: length(bytes, &mut at)? as u32,
        pages: length(bytes, &mut at)? as u32,
    };
    (at == bytes.len() && handle.pages > 0 && handle.end().is_some()).then_some(handle)
}

/// The data block in which a search for `(key, bound)` goes on: the first whose separator is not before it. `None`
/// where the partition ends before, which the directory's [`find_index`](crate::table::Directory::find_index) does not
/// lead to.
pub(crate) fn index_find(bytes: &[u8], key: &[u8], bound: impl Into<VersionBound>) -> Result<Option<BlockHandle>> {
    match first_value_at_or_after(bytes, key, bound.into())? {
        Some(value) => handle(&bytes[value]).map(Some),
        None => Ok(None),
    }
}

/// A cursor over an index partition: stands on a data block.
#[derive(Clone)]
pub(crate) struct IndexCursor<B>(BlockCursor<B>);

impl<B: AsRef<[u8]>> IndexCursor<B> {
    /// A cursor over a verified index partition, on no entry yet.
    pub(crate) fn new(block: B) -> Result<Self> {
        BlockCursor::new(block).map(IndexCursor)
    }

    /// Whether the cursor is on an entry.
    #[inline]
    pub(crate) fn valid(&self) -> bool {
        self.0.valid()
    }

    /// The data block on whose entry the cursor is.
    #[inline]
    pub(crate) fn handle(&self) -> Result<BlockHandle> {
        handle(self.0.value())
    }

    /// The key of the separator: no key of the data block is above it.
    #[inline]
    pub(crate) fn separator(&self) -> &[u8] {
        self.0.key()
    }

    /// To the first data block.
    pub(crate) fn seek_first(&mut self) -> Result<()> {
        self.0.seek_first()
    }

    /// To the last data block.
    pub(crate) fn seek_last(&mut self) -> Result<()> {
        self.0.seek_last()
    }

    /// To the data block in which the first entry at or after `(key, bound)` would be. Where that block ends before
    /// `(key, bound)`, the entry is the first one of the block that follows; the last one before is in this block or
    /// the one before it.
    pub(crate) fn seek(&mut self, key: &[u8], bound: impl Into<VersionBound>) -> Result<()> {
        self.0.seek(key, bound)
    }

    /// To the next data block; from the last to none.
    #[inline]
    pub(crate) fn next(&mut self) -> Result<()> {
        self.0.next()
    }

    /// To the data block before; from the first to none.
    pub(crate) fn prev(&mut self) -> Result<()> {
        self.0.prev()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handles_read_back_and_damaged_ones_are_refused() {
        for expected in [
            BlockHandle { page: 0, pages: 1, crc: 7 },
            BlockHandle { page: u32::MAX - 1, pages: 1, crc: u32::MAX },
            BlockHandle { page: 300, pages: 4097, crc: 0 },
        ] {
            let mut bytes = Vec::new();
            put_handle(&mut bytes, &expected);
            assert_eq!(try_handle(&bytes), Some(expected));
            assert_eq!(try_handle(&bytes[..bytes.len() - 1]), None);
            bytes.push(0);
            assert_eq!(try_handle(&bytes), None);
        }
        let mut bytes = Vec::new();
        put_handle(&mut bytes, &BlockHandle { page: u32::MAX, pages: 1, crc: 0 });
        assert_eq!(try_handle(&bytes), None);
        bytes.clear();
        put_handle(&mut bytes, &BlockHandle { page: 1, pages: 0, crc: 0 });
        assert_eq!(try_handle(&bytes), None);
    }
}
