//! Reading entries of a data or index block: where they are, and one entry's fields.

use std::ops::Range;

use super::header::{COUNT_AT, HEADER_BYTES, payload};
use crate::error::{Error, Result};
use crate::table::coding::{length, length_pair, trailer_from_code, u16_at, u32_at, varint};
use crate::types::Trailer;

/// Where entries and restart points of a block are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    /// Offset behind the last entry, where the restart points start.
    pub(super) entries_end: usize,
    /// At least one.
    pub(super) restarts: usize,
}

impl Layout {
    /// Reads the header. Cheap enough to do on each lookup.
    #[inline]
    pub(super) fn parse(bytes: &[u8]) -> Result<Self> {
        Self::try_parse(bytes).ok_or_else(damaged_header)
    }

    #[inline]
    fn try_parse(bytes: &[u8]) -> Option<Self> {
        let (payload, _) = payload(bytes)?;
        let restarts = u32_at(bytes, COUNT_AT)? as usize;
        let entry_bytes = payload.len().checked_sub(restarts.checked_mul(2)?)?;
        (restarts > 0 && entry_bytes > 0).then_some(Layout { entries_end: HEADER_BYTES + entry_bytes, restarts })
    }

    /// The offset of the entry at a restart point.
    #[inline]
    pub(super) fn restart(&self, bytes: &[u8], index: usize) -> Option<usize> {
        debug_assert!(index < self.restarts);
        let offset = HEADER_BYTES + usize::from(u16_at(bytes, self.entries_end + 2 * index)?);
        (offset < self.entries_end).then_some(offset)
    }

    /// The fields of the entry at an offset; `None` where they do not fit the block.
    #[inline]
    pub(super) fn entry(&self, bytes: &[u8], offset: usize) -> Option<Entry> {
        let entries = bytes.get(..self.entries_end)?;
        let mut at = offset;
        let (shared, suffix_bytes) = length_pair(entries, &mut at)?;
        let suffix_at = at;
        at = at.checked_add(suffix_bytes)?;
        let suffix_end = at;
        let value_bytes = length(entries, &mut at)?;
        let trailer = trailer_from_code(varint(entries, &mut at)?)?;
        let end = at.checked_add(value_bytes)?;
        (end <= self.entries_end).then_some(Entry { shared, suffix_at, suffix_end, value_at: at, end, trailer })
    }

    /// Offset of the entry at a restart point, and where its key is, which is stored whole.
    #[inline]
    pub(super) fn restart_key(&self, bytes: &[u8], index: usize) -> Option<(usize, Range<usize>)> {
        let offset = self.restart(bytes, index)?;
        let mut at = offset;
        let (shared, suffix_bytes) = length_pair(bytes, &mut at)?;
        let key = at..at.checked_add(suffix_bytes)?;
        (shared == 0 && key.end <= self.entries_end).then_some((offset, key))
    }
}

/// An entry's fields, as offsets into the block.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    /// Bytes that its key has in common with the key before.
    pub(super) shared: usize,
    pub(super) suffix_at: usize,
    pub(super) suffix_end: usize,
    pub(super) value_at: usize,
    /// Where the next entry starts.
    pub(super) end: usize,
    pub(super) trailer: Trailer,
}

impl Entry {
    /// What follows the shared bytes of the key.
    #[inline]
    pub(super) fn suffix<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        &bytes[self.suffix_at..self.suffix_end]
    }

    #[inline]
    pub(super) fn value_range(&self) -> Range<usize> {
        self.value_at..self.end
    }

    #[inline]
    pub(super) fn key_bytes(&self) -> usize {
        self.shared + (self.suffix_end - self.suffix_at)
    }
}

#[cold]
pub(super) fn damaged_header() -> Error {
    Error::corruption("data or index block", "the header does not fit the block")
}

#[cold]
pub(super) fn damaged_entry(offset: usize) -> Error {
    Error::corruption("data or index block", format!("the entry at byte {offset} of the block does not decode"))
}

#[cold]
pub(super) fn damaged_restart(index: usize) -> Error {
    Error::corruption("data or index block", format!("restart point {index} leads to no entry"))
}
