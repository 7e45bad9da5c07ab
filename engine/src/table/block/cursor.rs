//! A cursor over one data or index block.
//!
//! The cursor owns what pins the block (`B`: a cache guard, a `Vec`), so it may be held across awaits. It keeps the
//! current key in one buffer, which each move cuts back to the shared bytes and extends by the suffix; the value stays
//! in the block.
//!
//! Invariants:
//! 1. On an entry: `at` is its offset, `next` that of its successor, `key`, `trailer` and `value` are its fields.
//! 2. Not on an entry (before the first, behind the last, after an error): `at` is `NOWHERE`.
//! 3. `behind` holds entries of this block, each the predecessor of the one after it; it is used where its last is the
//!    predecessor of the current.
//! 4. Forward scans advance by at least three bytes an entry, so no damage makes a move loop.

use std::cmp::Ordering;
use std::ops::Range;

use super::bound::VersionBound;
use super::entry::{Layout, damaged_entry, damaged_restart};
use super::header::HEADER_BYTES;
use super::search::last_restart_before;
use crate::error::Result;
use crate::types::{Kind, SeqNo, Trailer};

const NOWHERE: usize = usize::MAX;

/// A cursor over the entries of one block, in the order key ascending, trailer descending.
#[derive(Clone)]
pub(crate) struct BlockCursor<B> {
    block: B,
    layout: Layout,
    at: usize,
    next: usize,
    key: Vec<u8>,
    trailer: Trailer,
    value: Range<usize>,
    behind: Vec<Passed>,
    behind_keys: Vec<u8>,
}

/// An entry that a move backwards has passed on its way from the restart point, and that the next such move goes to.
#[derive(Clone)]
struct Passed {
    at: usize,
    next: usize,
    trailer: Trailer,
    value: Range<usize>,
    /// Its key lies in `behind_keys` from here to the end.
    key_at: usize,
}

impl<B: AsRef<[u8]>> BlockCursor<B> {
    /// A cursor over a verified block, on no entry yet.
    pub(crate) fn new(block: B) -> Result<Self> {
        let layout = Layout::parse(block.as_ref())?;
        let trailer = Trailer::new(SeqNo(0), Kind::Delete);
        Ok(BlockCursor {
            block,
            layout,
            at: NOWHERE,
            next: NOWHERE,
            key: Vec::new(),
            trailer,
            value: 0..0,
            behind: Vec::new(),
            behind_keys: Vec::new(),
        })
    }

    /// Goes over to another block, on no entry of it yet; keeps the key buffer. On an error the cursor stays with the
    /// old block.
    #[cfg(test)]
    pub(crate) fn replace(&mut self, block: B) -> Result<()> {
        self.layout = Layout::parse(block.as_ref())?;
        self.block = block;
        self.at = NOWHERE;
        self.forget_behind();
        Ok(())
    }

    /// Whether the cursor is on an entry.
    #[inline]
    pub(crate) fn valid(&self) -> bool {
        self.at != NOWHERE
    }

    /// The key of the entry; meaningless where not [`BlockCursor::valid`], as are the other fields.
    #[inline]
    pub(crate) fn key(&self) -> &[u8] {
        debug_assert!(self.valid());
        &self.key
    }

    /// Where in the block the entry is.
    #[inline]
    pub(super) fn offset(&self) -> usize {
        debug_assert!(self.valid());
        self.at
    }

    /// The trailer of the entry.
    #[inline]
    pub(crate) fn trailer(&self) -> Trailer {
        debug_assert!(self.valid());
        self.trailer
    }

    /// The value of the entry.
    #[inline]
    pub(crate) fn value(&self) -> &[u8] {
        &self.block.as_ref()[self.value_range()]
    }

    /// Where in the block the value of the entry is.
    #[inline]
    pub(crate) fn value_range(&self) -> Range<usize> {
        debug_assert!(self.valid());
        self.value.clone()
    }

    /// What pins the block.
    #[inline]
    pub(crate) fn block(&self) -> &B {
        &self.block
    }

    /// To the first entry.
    pub(crate) fn seek_first(&mut self) -> Result<()> {
        self.start_at(0)
    }

    /// To the last entry.
    pub(crate) fn seek_last(&mut self) -> Result<()> {
        self.start_at(self.layout.restarts - 1)?;
        while self.next < self.layout.entries_end {
            self.read(self.next)?;
        }
        Ok(())
    }

    /// To the first entry at or after `(key, bound)` in entry order; to no entry where there is none.
    pub(crate) fn seek(&mut self, key: &[u8], bound: impl Into<VersionBound>) -> Result<()> {
        let bound = bound.into();
        let restart = last_restart_before(&self.layout, self.block.as_ref(), key, bound).inspect_err(|_| {
            self.at = NOWHERE;
        })?;
        self.start_at(restart)?;
        while self.valid() && bound.is_after(key, &self.key, self.trailer) {
            self.next()?;
        }
        Ok(())
    }

    /// To the last entry at or before `(key, bound)` in entry order; to no entry where there is none.
    pub(crate) fn seek_for_prev(&mut self, key: &[u8], bound: impl Into<VersionBound>) -> Result<()> {
        let bound = bound.into();
        self.seek(key, bound)?;
        if !self.valid() {
            return self.seek_last();
        }
        if bound.is_version(self.trailer) && self.key.as_slice().cmp(key) == Ordering::Equal {
            return Ok(());
        }
        self.prev()
    }

    /// To the next entry; from the last to no entry. On no entry it stays so.
    #[inline]
    pub(crate) fn next(&mut self) -> Result<()> {
        if !self.valid() {
            return Ok(());
        }
        if self.next >= self.layout.entries_end {
            self.at = NOWHERE;
            return Ok(());
        }
        self.read(self.next)
    }

    /// To the entry before; from the first to no entry. On no entry it stays so.
    ///
    /// Entries can be read forwards only. So a move backwards out of a run of entries between restart points reads the
    /// whole run before, and keeps what it passes for the moves to come.
    pub(crate) fn prev(&mut self) -> Result<()> {
        let target = self.at;
        if target == NOWHERE || target == HEADER_BYTES {
            self.at = NOWHERE;
            return Ok(());
        }
        if self.behind.last().is_some_and(|passed| passed.next == target) {
            self.step_behind();
            return Ok(());
        }
        // The last restart point before the target: the first one is, as the target is not the first entry.
        let (mut low, mut high) = (0, self.layout.restarts);
        while high - low > 1 {
            let middle = low.midpoint(high);
            match self.layout.restart(self.block.as_ref(), middle) {
                Some(offset) if offset < target => low = middle,
                Some(_) => high = middle,
                None => return self.fail(damaged_restart(middle)),
            }
        }
        self.forget_behind();
        self.start_at(low)?;
        while self.next < target {
            let key_at = self.behind_keys.len();
            self.behind_keys.extend_from_slice(&self.key);
            let (at, next, trailer, value) = (self.at, self.next, self.trailer, self.value.clone());
            self.behind.push(Passed { at, next, trailer, value, key_at });
            self.read(self.next)?;
        }
        if self.next != target { self.fail(damaged_restart(low)) } else { Ok(()) }
    }

    /// To the last entry of `behind`.
    fn step_behind(&mut self) {
        let passed = self.behind.pop().expect("the caller has looked at it");
        self.key.clear();
        self.key.extend_from_slice(&self.behind_keys[passed.key_at..]);
        self.behind_keys.truncate(passed.key_at);
        self.at = passed.at;
        self.next = passed.next;
        self.trailer = passed.trailer;
        self.value = passed.value;
    }

    fn forget_behind(&mut self) {
        self.behind.clear();
        self.behind_keys.clear();
    }

    /// To the entry at a restart point.
    fn start_at(&mut self, restart: usize) -> Result<()> {
        self.key.clear();
        match self.layout.restart(self.block.as_ref(), restart) {
            Some(offset) => self.read(offset),
            None => self.fail(damaged_restart(restart)),
        }
    }

    /// Reads the entry at an offset, `key` holding the one before it.
    #[inline]
    fn read(&mut self, offset: usize) -> Result<()> {
        let bytes = self.block.as_ref();
        let Some(entry) = self.layout.entry(bytes, offset).filter(|entry| entry.shared <= self.key.len()) else {
            return self.fail(damaged_entry(offset));
        };
        self.key.truncate(entry.shared);
        self.key.extend_from_slice(entry.suffix(bytes));
        self.at = offset;
        self.next = entry.end;
        self.trailer = entry.trailer;
        self.value = entry.value_range();
        Ok(())
    }

    #[cold]
    fn fail(&mut self, error: crate::error::Error) -> Result<()> {
        self.at = NOWHERE;
        Err(error)
    }
}
