//! A value where it lies.

use std::fmt;
use std::ops::{Deref, Range};

use crate::memtable::ArenaSlice;
use crate::read::BlockBytes;

/// A value, pinned in the memtable or in the cache frame it was read into: no copy. Holding many of them holds their memory.
#[derive(Clone)]
pub struct ValueRef(Place);

#[derive(Clone)]
enum Place {
    Memtable(ArenaSlice, usize),
    Block(BlockBytes, Range<usize>),
}

impl ValueRef {
    /// A memtable's value without its first bytes.
    #[inline]
    pub(crate) fn in_memtable(slice: ArenaSlice, skip: usize) -> Self {
        ValueRef(Place::Memtable(slice, skip))
    }

    /// The value without its first bytes (there are as many).
    pub(crate) fn skip(self, bytes: usize) -> Self {
        ValueRef(match self.0 {
            Place::Memtable(slice, skip) => Place::Memtable(slice, skip + bytes),
            Place::Block(block, range) => Place::Block(block, range.start + bytes..range.end),
        })
    }

    #[inline]
    pub(crate) fn in_block(block: BlockBytes, range: Range<usize>) -> Self {
        ValueRef(Place::Block(block, range))
    }
}

impl Deref for ValueRef {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        match &self.0 {
            Place::Memtable(slice, skip) => &slice[*skip..],
            Place::Block(block, range) => &block.as_ref()[range.clone()],
        }
    }
}

impl AsRef<[u8]> for ValueRef {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for ValueRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

impl PartialEq<[u8]> for ValueRef {
    fn eq(&self, other: &[u8]) -> bool {
        **self == *other
    }
}

/// What an operator gets of a memtable or a cached block stays on its shard's core as they do.
#[cfg(test)]
mod never_crosses_cores {
    use static_assertions::assert_not_impl_any;

    use super::ValueRef;
    use crate::read::{BlockBytes, MergeCursor, RunCursor};
    use crate::{Entry, LocalShard, Scan, Snapshot};

    assert_not_impl_any!(BlockBytes: Send, Sync);
    assert_not_impl_any!(RunCursor: Send, Sync);
    assert_not_impl_any!(MergeCursor: Send, Sync);
    assert_not_impl_any!(ValueRef: Send, Sync);
    assert_not_impl_any!(Entry<'static>: Send, Sync);
    assert_not_impl_any!(Scan: Send, Sync);
    assert_not_impl_any!(Snapshot: Send, Sync);
    assert_not_impl_any!(LocalShard: Send, Sync);
}
