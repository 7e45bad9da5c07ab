//! Cursors over one keyspace of a memtable.
//!
//! A cursor stands on an entry, which it knows by its place in the arena, and remembers the entry's slot in the tree
//! together with the tree's count of modifications. A step goes to the neighbouring slot while the count is the same,
//! and otherwise looks the entry up again first. So insertions between steps neither repeat nor skip an entry that
//! stays in the tree; whether those inserted ahead are met is unspecified only for a newer version that takes the
//! place of the very entry the cursor stands on.

use std::rc::Rc;

use crate::types::{KeyspaceId, Trailer};

use super::Memtable;
use super::arena::{ArenaSlice, Entry, EntryRef};
use super::node::Target;
use super::tree::{Nodes, Place, Tree};

/// A position among the entries of one keyspace, in entry order: key ascending, and newest version first.
pub(crate) struct MemCursor {
    table: Rc<Memtable>,
    keyspace: KeyspaceId,
    current: Option<Current>,
}

#[derive(Clone, Copy)]
struct Current {
    entry: EntryRef,
    place: Place,
    modifications: u64,
}

impl Current {
    #[inline]
    fn at(place: Place, tree: &Tree, nodes: &Nodes) -> Self {
        let entry = nodes.leaf(place.leaf).entry(place.slot as usize);
        Current { entry, place, modifications: tree.modifications() }
    }
}

impl MemCursor {
    pub(super) fn new(table: Rc<Memtable>, keyspace: KeyspaceId) -> Self {
        MemCursor { table, keyspace, current: None }
    }

    /// Goes to the first entry at or after this key and trailer.
    pub(crate) fn seek(&mut self, key: &[u8], trailer: Trailer) {
        self.seek_target(key, trailer.as_u64());
    }

    /// Goes to the newest version of the first key at or after this one.
    #[cfg(test)]
    pub(crate) fn seek_key(&mut self, key: &[u8]) {
        self.seek_target(key, u64::MAX);
    }

    fn seek_target(&mut self, key: &[u8], trailer: u64) {
        self.current = self.table.with_tree(self.keyspace, |tree, nodes| {
            let (place, _) = tree.lower_bound(nodes, &self.table.arena, &Target { key, trailer })?;
            Some(Current::at(place, tree, nodes))
        });
    }

    /// Goes to the last entry at or before this key and trailer.
    pub(crate) fn seek_for_prev(&mut self, key: &[u8], trailer: Trailer) {
        self.current = self.table.with_tree(self.keyspace, |tree, nodes| {
            let target = Target { key, trailer: trailer.as_u64() };
            let place = match tree.lower_bound(nodes, &self.table.arena, &target) {
                Some((place, true)) => Some(place),
                Some((place, false)) => tree.before(nodes, place),
                None => tree.last(nodes),
            }?;
            Some(Current::at(place, tree, nodes))
        });
    }

    /// Goes to the first entry of the keyspace.
    #[cfg(test)]
    pub(crate) fn seek_first(&mut self) {
        self.current = self.table.with_tree(self.keyspace, |tree, nodes| {
            let place = tree.first(nodes)?;
            Some(Current::at(place, tree, nodes))
        });
    }

    /// Goes to the last entry of the keyspace.
    #[cfg(test)]
    pub(crate) fn seek_last(&mut self) {
        self.current = self.table.with_tree(self.keyspace, |tree, nodes| {
            let place = tree.last(nodes)?;
            Some(Current::at(place, tree, nodes))
        });
    }

    /// Goes to the next entry. The cursor must be valid.
    #[inline]
    pub(crate) fn next(&mut self) {
        let current = self.current();
        self.current = self.table.with_tree(self.keyspace, |tree, nodes| {
            let place = if tree.modifications() == current.modifications {
                tree.after(nodes, current.place)
            } else {
                let entry = self.table.arena.entry(current.entry);
                let target = Target { key: entry.key, trailer: entry.trailer };
                match tree.lower_bound(nodes, &self.table.arena, &target) {
                    Some((place, true)) => tree.after(nodes, place),
                    Some((place, false)) => Some(place),
                    None => None,
                }
            }?;
            Some(Current::at(place, tree, nodes))
        });
    }

    /// Goes to the entry before. The cursor must be valid.
    #[inline]
    pub(crate) fn prev(&mut self) {
        let current = self.current();
        self.current = self.table.with_tree(self.keyspace, |tree, nodes| {
            let place = if tree.modifications() == current.modifications {
                tree.before(nodes, current.place)
            } else {
                let entry = self.table.arena.entry(current.entry);
                let target = Target { key: entry.key, trailer: entry.trailer };
                match tree.lower_bound(nodes, &self.table.arena, &target) {
                    Some((place, _)) => tree.before(nodes, place),
                    None => tree.last(nodes),
                }
            }?;
            Some(Current::at(place, tree, nodes))
        });
    }

    /// Whether the cursor stands on an entry.
    #[inline]
    pub(crate) fn valid(&self) -> bool {
        self.current.is_some()
    }

    /// The entry's stored key. The cursor must be valid.
    #[inline]
    pub(crate) fn key(&self) -> &[u8] {
        self.entry().key
    }

    /// The entry's trailer. The cursor must be valid.
    #[inline]
    pub(crate) fn trailer(&self) -> Trailer {
        Trailer::from_u64(self.entry().trailer).expect("what the arena holds came from a trailer")
    }

    /// The entry's value. The cursor must be valid.
    #[inline]
    pub(crate) fn value(&self) -> &[u8] {
        self.entry().value
    }

    /// A guard of the entry's value. The cursor must be valid.
    #[inline]
    pub(crate) fn value_slice(&self) -> ArenaSlice {
        self.table.arena.value_slice(self.current().entry)
    }

    #[inline]
    fn entry(&self) -> Entry<'_> {
        self.table.arena.entry(self.current().entry)
    }

    #[inline]
    fn current(&self) -> Current {
        self.current.expect("the cursor must be valid")
    }
}
