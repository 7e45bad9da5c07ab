//! Several sources in one order: (key ascending, trailer descending), that is, a key's newest entry first.
//!
//! The sources are few (memtables, tables of level 0, one run for each deeper level), so the smallest is found by comparing
//! their heads; the head that was just taken is compared with the others only.

use crate::error::Result;
use crate::memtable::MemCursor;
use crate::read::ValueRef;
use crate::read::run::RunCursor;
use crate::types::Trailer;

/// One input of a merge.
#[expect(clippy::large_enum_variant, reason = "there are few of them, and a step should not follow a pointer more")]
pub(crate) enum Source {
    Memtable(MemCursor),
    Run(RunCursor),
}

pub(crate) struct MergeCursor {
    sources: Vec<Source>,
    current: Option<usize>,
}

impl MergeCursor {
    pub(crate) fn new(sources: Vec<Source>) -> Self {
        MergeCursor { sources, current: None }
    }

    #[inline]
    pub(crate) fn valid(&self) -> bool {
        self.current.is_some()
    }

    #[inline]
    pub(crate) fn key(&self) -> &[u8] {
        self.source().key()
    }

    #[inline]
    pub(crate) fn trailer(&self) -> Trailer {
        self.source().trailer()
    }

    /// The entry's value as stored (with the expiry time in front where its kind has one).
    #[inline]
    pub(crate) fn value(&self) -> &[u8] {
        match self.source() {
            Source::Memtable(cursor) => cursor.value(),
            Source::Run(cursor) => cursor.entry().value(),
        }
    }

    /// The value without its first bytes, pinned.
    pub(crate) fn value_ref(&self, skip: usize) -> ValueRef {
        match self.source() {
            Source::Memtable(cursor) => ValueRef::in_memtable(cursor.value_slice(), skip),
            Source::Run(cursor) => {
                let range = cursor.entry().value_range();
                ValueRef::in_block(cursor.entry().block().clone(), range.start + skip..range.end)
            }
        }
    }

    /// To the first entry at or behind (key, trailer).
    pub(crate) async fn seek(&mut self, key: &[u8], trailer: Trailer) -> Result<()> {
        self.current = None;
        for source in &mut self.sources {
            match source {
                Source::Memtable(cursor) => cursor.seek(key, trailer),
                Source::Run(cursor) => cursor.seek(key, trailer).await?,
            }
        }
        self.pick_smallest();
        Ok(())
    }

    /// To the last entry at or before (key, trailer).
    pub(crate) async fn seek_for_prev(&mut self, key: &[u8], trailer: Trailer) -> Result<()> {
        self.current = None;
        for source in &mut self.sources {
            match source {
                Source::Memtable(cursor) => cursor.seek_for_prev(key, trailer),
                Source::Run(cursor) => cursor.seek_for_prev(key, trailer).await?,
            }
        }
        self.pick_largest();
        Ok(())
    }

    #[inline]
    pub(crate) async fn next(&mut self) -> Result<()> {
        match &mut self.sources[self.current.expect("only a valid cursor moves")] {
            Source::Memtable(cursor) => cursor.next(),
            Source::Run(cursor) => {
                if !cursor.step()? {
                    cursor.next_block().await?;
                } else if cursor.beyond_upper() {
                    cursor.leave_forward().await?;
                }
            }
        }
        self.pick_smallest();
        Ok(())
    }

    #[inline]
    pub(crate) async fn prev(&mut self) -> Result<()> {
        match &mut self.sources[self.current.expect("only a valid cursor moves")] {
            Source::Memtable(cursor) => cursor.prev(),
            Source::Run(cursor) => {
                if !cursor.step_back()? {
                    cursor.prev_block().await?;
                } else if cursor.beyond_lower() {
                    cursor.leave_backward().await?;
                }
            }
        }
        self.pick_largest();
        Ok(())
    }

    fn source(&self) -> &Source {
        &self.sources[self.current.expect("only a valid cursor has an entry")]
    }

    fn pick_smallest(&mut self) {
        self.pick(|left, right| left.precedes(right));
    }

    fn pick_largest(&mut self) {
        self.pick(|left, right| right.precedes(left));
    }

    #[inline]
    fn pick(&mut self, better: impl Fn(&Source, &Source) -> bool) {
        let mut best: Option<usize> = None;
        for (index, source) in self.sources.iter().enumerate() {
            if source.valid() && best.is_none_or(|best| better(source, &self.sources[best])) {
                best = Some(index);
            }
        }
        self.current = best;
    }
}

impl Source {
    #[inline]
    fn valid(&self) -> bool {
        match self {
            Source::Memtable(cursor) => cursor.valid(),
            Source::Run(cursor) => cursor.valid(),
        }
    }

    #[inline]
    fn key(&self) -> &[u8] {
        match self {
            Source::Memtable(cursor) => cursor.key(),
            Source::Run(cursor) => cursor.key(),
        }
    }

    #[inline]
    fn trailer(&self) -> Trailer {
        match self {
            Source::Memtable(cursor) => cursor.trailer(),
            Source::Run(cursor) => cursor.trailer(),
        }
    }

    #[inline]
    fn precedes(&self, other: &Source) -> bool {
        match self.key().cmp(other.key()) {
            std::cmp::Ordering::Less => true,
            std::cmp::Ordering::Equal => self.trailer() > other.trailer(),
            std::cmp::Ordering::Greater => false,
        }
    }
}
