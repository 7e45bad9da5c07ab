//! The memtable: the ordered write buffer of a shard.
//!
//! Made for one writer on one core: it takes no lock and has no atomic, so it need not be a skiplist. One memtable
//! holds a B+-tree for each keyspace, over one arena ([`arena`]) and one set of nodes ([`node`], [`tree`]). Entries
//! are (stored key, trailer, value), ordered by key ascending and trailer descending, so that a key's newest version
//! comes first.
//!
//! 1. `insert` writes the entry to the arena and its reference into the tree of its keyspace. An older version that
//!    no view can see any more gives up its slot; its bytes stay in the arena as garbage until the memtable is
//!    dropped.
//! 2. `get` descends to the first version at or below the view's upper bound, and goes on while the view does not see
//!    it.
//! 3. `cursor` walks one keyspace in both directions while writing goes on ([`cursor`]).
//!
//! Nothing is ever taken out: a flush reads the frozen memtable through cursors, then drops it whole.
//!
//! Invariants:
//! 1. Methods take `&self`; no reference to nodes leaves a method, and no method calls back while it holds one.
//! 2. What a cursor or a guard refers to is arena bytes, which never change ([`arena`]).
//!
//! Cost, with 1M entries of 12-byte stored keys and 100-byte values, in CPU time an operation, on a busy 2-core VM
//! where one random read of memory took 170 to 200 ns and `BTreeMap<Vec<u8>, Vec<u8>>` 1200 ns an insert and 1150 to
//! 1650 a get:
//!
//! | random insert | random get | zipfian update, get | ascending insert | cursor step | memory an entry |
//! |---|---|---|---|---|---|
//! | 520 to 680 ns | 740 to 1000 | 980, 690 | 75 to 100 | 50 to 65 | 168 bytes (154 ascending), 126 of them the entry |
//!
//! A get waits for memory twice, for the leaf and for the entry; in cache (2000 entries) it takes 100 ns. Tried on
//! the way: 64 instead of 32 entries a leaf (no difference beyond noise, 3% less memory); binary search in the nodes
//! (a get 1.1 to 1.3 times as long); no prefixes and no third word in inner nodes (map-like keys, `user 8 | item 8`:
//! a get 1.8 times as long).
//!
//! A crash leaves nothing of it: the WAL has what is to survive.

#[expect(unsafe_code, reason = "guards into memory that is still being appended to")]
mod arena;
mod cursor;
mod node;
#[cfg(test)]
mod tests;
mod tree;

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use crate::types::{KeyspaceId, ReadView, SeqNo, Trailer};

pub(crate) use arena::ArenaSlice;
pub(crate) use cursor::MemCursor;

use arena::Arena;
use node::Target;
use tree::{Nodes, Tree};

/// The ordered write buffer of a shard; see the module.
pub(crate) struct Memtable {
    arena: Arena,
    trees: RefCell<Trees>,
    seq_min: Cell<SeqNo>,
    seq_max: Cell<SeqNo>,
}

struct Trees {
    /// In the order of their first write; `trees` alike.
    keyspaces: Vec<KeyspaceId>,
    trees: Vec<Tree>,
    nodes: Nodes,
}

/// The version of a key that a read sees.
#[derive(Clone, Debug)]
pub(crate) struct MemEntry {
    /// Sequence number and kind.
    pub(crate) trailer: Trailer,
    /// The value as stored (with its expiry time in front, where the kind says so).
    pub(crate) value: ArenaSlice,
}

impl Memtable {
    /// An empty memtable; it takes no memory to speak of before the first write.
    pub(crate) fn new() -> Self {
        Memtable {
            arena: Arena::new(),
            trees: RefCell::new(Trees { keyspaces: Vec::new(), trees: Vec::new(), nodes: Nodes::new() }),
            seq_min: Cell::new(SeqNo::MAX),
            seq_max: Cell::new(SeqNo(0)),
        }
    }

    /// Adds an entry; the value is the two slices one after the other.
    ///
    /// Where this is the key's newest version, and the newest so far has a sequence number greater than `keep_above`,
    /// the entry takes that one's place: no view that reads this memtable, now or later, may want it. Sequence
    /// numbers may come out of order; an entry with key and trailer of one that is there takes its place.
    pub(crate) fn insert(
        &self,
        keyspace: KeyspaceId,
        key: &[u8],
        trailer: Trailer,
        value: [&[u8]; 2],
        keep_above: SeqNo,
    ) {
        let trees = &mut *self.trees.borrow_mut();
        let index = trees.position(keyspace).unwrap_or_else(|| trees.add(keyspace));
        let target = Target { key, trailer: trailer.as_u64() };
        trees.trees[index].insert(&mut trees.nodes, &self.arena, target, value, keep_above.0);
        self.seq_min.set(self.seq_min.get().min(trailer.seq()));
        self.seq_max.set(self.seq_max.get().max(trailer.seq()));
    }

    /// The newest version of the key that the view sees, be it a tombstone.
    #[inline]
    pub(crate) fn get(&self, keyspace: KeyspaceId, key: &[u8], view: &ReadView) -> Option<MemEntry> {
        let trees = self.trees.borrow();
        let tree = &trees.trees[trees.position(keyspace)?];
        let target = Target { key, trailer: view.upper.0 << 8 | 0xff };
        let (mut place, _) = tree.lower_bound(&trees.nodes, &self.arena, &target)?;
        loop {
            let at = trees.nodes.leaf(place.leaf).entry(place.slot as usize);
            let entry = self.arena.entry(at);
            if entry.key != key {
                return None;
            }
            let trailer = Trailer::from_u64(entry.trailer).expect("what the arena holds came from a trailer");
            if view.sees(trailer.seq()) {
                return Some(MemEntry { trailer, value: self.arena.value_slice(at) });
            }
            place = tree.after(&trees.nodes, place)?;
        }
    }

    /// A cursor over the keyspace's entries, on none of them yet.
    pub(crate) fn cursor(self: &Rc<Self>, keyspace: KeyspaceId) -> MemCursor {
        MemCursor::new(Rc::clone(self), keyspace)
    }

    /// All memory taken: arena chunks, filled or not, and nodes.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.arena.memory_bytes() + self.trees.borrow().nodes.memory_bytes()
    }

    /// How many entries there are, in all keyspaces.
    #[cfg(test)]
    pub(crate) fn entries(&self) -> usize {
        self.trees.borrow().trees.iter().map(Tree::entries).sum()
    }

    /// Whether nothing has been written.
    pub(crate) fn is_empty(&self) -> bool {
        self.trees.borrow().trees.is_empty()
    }

    /// The keyspaces with entries, in the order of their numbers.
    pub(crate) fn keyspaces(&self) -> Vec<KeyspaceId> {
        let mut keyspaces = self.trees.borrow().keyspaces.clone();
        keyspaces.sort_unstable();
        keyspaces
    }

    /// The least sequence number written, if any.
    #[cfg(test)]
    pub(crate) fn seq_min(&self) -> Option<SeqNo> {
        (!self.is_empty()).then(|| self.seq_min.get())
    }

    /// The greatest sequence number written, if any.
    #[cfg(test)]
    pub(crate) fn seq_max(&self) -> Option<SeqNo> {
        (!self.is_empty()).then(|| self.seq_max.get())
    }

    #[inline]
    fn with_tree<T>(&self, keyspace: KeyspaceId, read: impl FnOnce(&Tree, &Nodes) -> Option<T>) -> Option<T> {
        let trees = self.trees.borrow();
        let tree = &trees.trees[trees.position(keyspace)?];
        read(tree, &trees.nodes)
    }
}

impl Trees {
    /// There are few keyspaces: a scan of their numbers is quicker than hashing.
    #[inline]
    fn position(&self, keyspace: KeyspaceId) -> Option<usize> {
        self.keyspaces.iter().position(|&other| other == keyspace)
    }

    #[cold]
    fn add(&mut self, keyspace: KeyspaceId) -> usize {
        self.keyspaces.push(keyspace);
        self.trees.push(Tree::new(&mut self.nodes));
        self.trees.len() - 1
    }
}

/// A memtable has one writer, and readers of its chunks count themselves in cells, without atomics: so neither it nor a guard into it may reach
/// another core.
#[cfg(test)]
mod never_crosses_cores {
    use static_assertions::assert_not_impl_any;

    use super::{ArenaSlice, MemCursor, MemEntry, Memtable};

    assert_not_impl_any!(Memtable: Send, Sync);
    assert_not_impl_any!(ArenaSlice: Send, Sync);
    assert_not_impl_any!(MemCursor: Send, Sync);
    assert_not_impl_any!(MemEntry: Send, Sync);
}
