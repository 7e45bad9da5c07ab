//! Several sources in one order: (key ascending, trailer descending), that is, a key's newest entry first.
//!
//! The sources are few (memtables, tables of level 0, one run for each deeper level), so the smallest is found by looking at all
//! of them. Their keys are compared by their first 16 bytes, which lie in one small array as integers; the keys
//! themselves are compared only where these are equal. A step refreshes the head of the source that moved.

use std::rc::Rc;

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
    /// For each source the first bytes of its key, `None` where it has come to its end.
    heads: Vec<Option<u128>>,
    current: Option<usize>,
}

impl MergeCursor {
    pub(crate) fn new(sources: Vec<Source>) -> Self {
        let heads = vec![None; sources.len()];
        MergeCursor { sources, heads, current: None }
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

    /// Says that no key above this one will be asked for, until the next call says otherwise.
    pub(crate) fn limit(&mut self, upper: Option<&[u8]>) {
        let upper: Option<Rc<[u8]>> = upper.map(Rc::from);
        for source in &mut self.sources {
            if let Source::Run(cursor) = source {
                cursor.limit(upper.clone());
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
        self.note_heads();
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
        self.note_heads();
        self.pick_largest();
        Ok(())
    }

    #[inline]
    pub(crate) async fn next(&mut self) -> Result<()> {
        let current = self.current.expect("only a valid cursor moves");
        match &mut self.sources[current] {
            Source::Memtable(cursor) => cursor.next(),
            Source::Run(cursor) => {
                if !cursor.step()? {
                    cursor.next_block().await?;
                } else if cursor.beyond_upper() {
                    cursor.leave_forward().await?;
                }
            }
        }
        self.note_head(current);
        self.pick_smallest();
        Ok(())
    }

    #[inline]
    pub(crate) async fn prev(&mut self) -> Result<()> {
        let current = self.current.expect("only a valid cursor moves");
        match &mut self.sources[current] {
            Source::Memtable(cursor) => cursor.prev(),
            Source::Run(cursor) => {
                if !cursor.step_back()? {
                    cursor.prev_block().await?;
                } else if cursor.beyond_lower() {
                    cursor.leave_backward().await?;
                }
            }
        }
        self.note_head(current);
        self.pick_largest();
        Ok(())
    }

    fn source(&self) -> &Source {
        &self.sources[self.current.expect("only a valid cursor has an entry")]
    }

    #[inline]
    fn note_head(&mut self, index: usize) {
        let source = &self.sources[index];
        self.heads[index] = source.valid().then(|| head(source.key()));
    }

    fn note_heads(&mut self) {
        (0..self.sources.len()).for_each(|index| self.note_head(index));
    }

    #[inline]
    fn pick_smallest(&mut self) {
        self.pick(|left, right| left < right, Source::precedes);
    }

    #[inline]
    fn pick_largest(&mut self) {
        self.pick(|left, right| left > right, |left, right| right.precedes(left));
    }

    #[inline]
    fn pick(&mut self, head_is_better: impl Fn(u128, u128) -> bool, is_better: impl Fn(&Source, &Source) -> bool) {
        let mut best: Option<(usize, u128)> = None;
        for (index, head) in self.heads.iter().enumerate() {
            let &Some(head) = head else { continue };
            let better = match best {
                None => true,
                Some((other, other_head)) if head == other_head => {
                    is_better(&self.sources[index], &self.sources[other])
                }
                Some((_, other_head)) => head_is_better(head, other_head),
            };
            if better {
                best = Some((index, head));
            }
        }
        self.current = best.map(|(index, _)| index);
    }
}

/// The first 16 bytes of a key as a number that sorts as they do, zeros where there are fewer. Different heads order their keys;
/// equal ones say nothing.
#[inline]
fn head(key: &[u8]) -> u128 {
    if let Some(chunk) = key.first_chunk() {
        return u128::from_be_bytes(*chunk);
    }
    if let (Some(front), Some(back)) = (key.first_chunk::<8>(), key.last_chunk::<8>()) {
        // The two words overlap where the key is shorter than both.
        let (front, back) = (u64::from_be_bytes(*front), u64::from_be_bytes(*back));
        return u128::from(front) << 64 | u128::from(back) << (128 - 8 * key.len());
    }
    let mut chunk = [0; 16];
    chunk[..key.len()].copy_from_slice(key);
    u128::from_be_bytes(chunk)
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
            std::cmp::Ordering::Equal => (self.trailer() > other.trailer()) != mutant!(MergePrefersOlder),
            std::cmp::Ordering::Greater => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn heads_order_as_the_keys_do(
            left in prop::collection::vec(prop_oneof![Just(0u8), Just(1), Just(255)], 0..20),
            right in prop::collection::vec(prop_oneof![Just(0u8), Just(1), Just(255)], 0..20),
        ) {
            let mut padded = left.clone();
            padded.resize(16, 0);
            prop_assert_eq!(&head(&left).to_be_bytes()[..], &padded[..16]);
            if head(&left) != head(&right) {
                prop_assert_eq!(head(&left) < head(&right), left < right);
            }
        }
    }
}
