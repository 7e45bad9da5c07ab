//! One keyspace's B+-tree. All trees of a memtable share its arena and its nodes.
//!
//! Insertion:
//! 1. Descend to the leaf of (key, trailer), noting the path.
//! 2. Where the slot found holds the key's newest version so far, and no view can see that one once this entry is
//!    there, let the entry take the slot. Nothing moves, so cursors keep their places.
//! 3. Otherwise put the entry there. A full leaf is split first: in the middle, or, where the entry goes behind its
//!    last one, by beginning a new leaf, so that ascending keys leave full leaves behind. Full ancestors are split
//!    likewise.
//! 4. The halves take the prefix that their keys share.
//!
//! Invariants:
//! 1. Entries are in order (key ascending, trailer descending) within each leaf and along the chain of leaves; only
//!    the root of an empty tree is an empty leaf.
//! 2. All keys of a leaf, and all separators of an inner node, start with the node's prefix.
//! 3. `modifications` counts all changes that can move an entry to another slot.

use super::arena::{Arena, EntryRef};
use super::node::{INNER_SEPARATORS, Inner, LEAF_ENTRIES, Leaf, NO_NODE, Separator, Target};

/// A tree's height stays far below: 12 levels would need more entries than references can tell apart.
const HEIGHT_MAX: usize = 12;

/// The nodes of all trees of a memtable. A node stays in its place from its creation on.
#[expect(clippy::vec_box, reason = "a growing vector moves pointers, not nodes: no pause on insertion")]
pub(super) struct Nodes {
    leaves: Vec<Box<Leaf>>,
    inners: Vec<Box<Inner>>,
}

impl Nodes {
    pub(super) fn new() -> Self {
        Nodes { leaves: Vec::new(), inners: Vec::new() }
    }

    #[inline]
    pub(super) fn leaf(&self, index: u32) -> &Leaf {
        &self.leaves[index as usize]
    }

    fn leaf_mut(&mut self, index: u32) -> &mut Leaf {
        &mut self.leaves[index as usize]
    }

    fn add_leaf(&mut self, leaf: Leaf) -> u32 {
        self.leaves.push(Box::new(leaf));
        (self.leaves.len() - 1) as u32
    }

    fn add_inner(&mut self, inner: Inner) -> u32 {
        self.inners.push(Box::new(inner));
        (self.inners.len() - 1) as u32
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.leaves.len() * size_of::<Leaf>()
            + self.inners.len() * size_of::<Inner>()
            + (self.leaves.capacity() + self.inners.capacity()) * size_of::<usize>()
    }
}

/// A place in a tree; valid while the tree's `modifications` stay the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) leaf: u32,
    pub(super) slot: u32,
}

/// The way from the root to a leaf: the inner nodes, each with the index of the child taken.
struct Path {
    steps: [(u32, u32); HEIGHT_MAX],
    len: usize,
}

pub(super) struct Tree {
    /// An inner node, or a leaf where the height is 0.
    root: u32,
    /// Levels of inner nodes.
    height: usize,
    #[cfg(test)]
    first_leaf: u32,
    last_leaf: u32,
    entries: usize,
    modifications: u64,
}

impl Tree {
    pub(super) fn new(nodes: &mut Nodes) -> Self {
        let leaf = nodes.add_leaf(Leaf::new());
        Tree {
            root: leaf,
            height: 0,
            #[cfg(test)]
            first_leaf: leaf,
            last_leaf: leaf,
            entries: 0,
            modifications: 0,
        }
    }

    #[inline]
    pub(super) fn modifications(&self) -> u64 {
        self.modifications
    }

    #[cfg(test)]
    pub(super) fn entries(&self) -> usize {
        self.entries
    }

    /// Adds an entry, or lets it take the place of the version that `keep_above` makes unneeded. Returns whether it
    /// was added.
    pub(super) fn insert(
        &mut self,
        nodes: &mut Nodes,
        arena: &Arena,
        target: Target<'_>,
        value: [&[u8]; 2],
        keep_above: u64,
    ) -> bool {
        let mut path = Path { steps: [(NO_NODE, 0); HEIGHT_MAX], len: 0 };
        let index = self.descend(nodes, arena, &target, |node, child| {
            path.steps[path.len] = (node, child as u32);
            path.len += 1;
        });
        let leaf = nodes.leaf(index);
        let (slot, exact) = leaf.search(&target, arena);
        if exact || takes_place(nodes, leaf, slot, &target, arena, keep_above) {
            let entry = arena.push(target.key, target.trailer, value);
            nodes.leaf_mut(index).replace(slot, entry);
            return false;
        }
        let entry = arena.push(target.key, target.trailer, value);
        self.modifications += 1;
        self.entries += 1;
        if leaf.is_full() {
            self.split_leaf(nodes, arena, &path, index, slot, entry);
        } else {
            nodes.leaf_mut(index).insert(slot, target.key, entry, arena);
        }
        true
    }

    /// The first place at or after the target, and whether the target itself is there.
    pub(super) fn lower_bound(&self, nodes: &Nodes, arena: &Arena, target: &Target<'_>) -> Option<(Place, bool)> {
        let index = self.descend(nodes, arena, target, |_, _| ());
        let leaf = nodes.leaf(index);
        let (slot, exact) = leaf.search(target, arena);
        if slot < leaf.len() {
            return Some((Place { leaf: index, slot: slot as u32 }, exact));
        }
        // What begins the next leaf is behind its separator, and so behind the target.
        (leaf.next != NO_NODE).then_some((Place { leaf: leaf.next, slot: 0 }, false))
    }

    #[cfg(test)]
    pub(super) fn first(&self, nodes: &Nodes) -> Option<Place> {
        (nodes.leaf(self.first_leaf).len() > 0).then_some(Place { leaf: self.first_leaf, slot: 0 })
    }

    pub(super) fn last(&self, nodes: &Nodes) -> Option<Place> {
        let slot = nodes.leaf(self.last_leaf).len().checked_sub(1)?;
        Some(Place { leaf: self.last_leaf, slot: slot as u32 })
    }

    #[inline]
    pub(super) fn after(&self, nodes: &Nodes, place: Place) -> Option<Place> {
        let leaf = nodes.leaf(place.leaf);
        if (place.slot as usize) + 1 < leaf.len() {
            return Some(Place { slot: place.slot + 1, ..place });
        }
        (leaf.next != NO_NODE).then_some(Place { leaf: leaf.next, slot: 0 })
    }

    #[inline]
    pub(super) fn before(&self, nodes: &Nodes, place: Place) -> Option<Place> {
        if let Some(slot) = place.slot.checked_sub(1) {
            return Some(Place { slot, ..place });
        }
        let prev = nodes.leaf(place.leaf).prev;
        (prev != NO_NODE).then(|| Place { leaf: prev, slot: nodes.leaf(prev).len() as u32 - 1 })
    }

    /// The leaf where the target belongs.
    #[inline]
    fn descend(&self, nodes: &Nodes, arena: &Arena, target: &Target<'_>, mut visit: impl FnMut(u32, usize)) -> u32 {
        let mut node = self.root;
        for _ in 0..self.height {
            let inner = &nodes.inners[node as usize];
            let child = inner.search(target, arena);
            visit(node, child);
            node = inner.child(child);
        }
        node
    }

    /// Splits a full leaf and puts the entry at what was `slot` in it.
    #[cold]
    fn split_leaf(&mut self, nodes: &mut Nodes, arena: &Arena, path: &Path, index: u32, slot: usize, entry: EntryRef) {
        let leaf = nodes.leaf_mut(index);
        let at = if slot == LEAF_ENTRIES { LEAF_ENTRIES } else { leaf.split_slot() };
        let mut right = leaf.split_off(at);
        let left_last = leaf.entry(at - 1);
        let right_first = if at == LEAF_ENTRIES { entry } else { right.entry(0) };
        let whole_key = arena.entry(left_last).key != arena.entry(right_first).key;
        let separator = Separator { entry: right_first, whole_key };

        leaf.lengthen_prefix(arena);
        right.lengthen_prefix(arena);
        let key = arena.entry(entry).key;
        // Between the halves, a newer version of the separator's key belongs behind a separator of the whole key.
        let joins_right = slot == at && whole_key && arena.entry(right_first).key == key;
        let (half, slot) =
            if at == LEAF_ENTRIES || slot > at || joins_right { (&mut right, slot - at) } else { (leaf, slot) };
        half.insert(slot, key, entry, arena);

        right.prev = index;
        let next = nodes.leaf(index).next;
        right.next = next;
        let right = nodes.add_leaf(right);
        nodes.leaf_mut(index).next = right;
        match next {
            NO_NODE => self.last_leaf = right,
            next => nodes.leaf_mut(next).prev = right,
        }
        self.insert_separator(nodes, arena, path, separator, right);
    }

    /// Adds a new child to the parent at the end of the path, splitting upwards what is full.
    fn insert_separator(
        &mut self,
        nodes: &mut Nodes,
        arena: &Arena,
        path: &Path,
        mut separator: Separator,
        mut child: u32,
    ) {
        for level in (0..path.len).rev() {
            let (node, index) = path.steps[level];
            let index = index as usize;
            let inner = &mut nodes.inners[node as usize];
            if !inner.is_full() {
                inner.insert(index, separator, child, arena);
                return;
            }
            // Where the child comes last, the new node begins with the last child alone.
            let at = if index == INNER_SEPARATORS { INNER_SEPARATORS - 1 } else { inner.split_index() };
            let (up, mut right) = inner.split_off(at);
            inner.lengthen_prefix(arena);
            right.lengthen_prefix(arena);
            match index.checked_sub(at + 1) {
                Some(index) => right.insert(index, separator, child, arena),
                None => inner.insert(index, separator, child, arena),
            }
            separator = up;
            child = nodes.add_inner(right);
        }
        let mut root = Inner::new(self.root);
        root.insert(0, separator, child, arena);
        self.root = nodes.add_inner(root);
        self.height += 1;
        assert!(self.height < HEIGHT_MAX, "the tree is higher than its entries can make it");
    }
}

/// Whether the target, of which `slot` is the lower bound, is to take the slot: the slot holds the newest version of
/// the key so far, and that one is newer than `keep_above`. Where versions of a key span leaves this may miss, and
/// both stay.
#[inline]
fn takes_place(nodes: &Nodes, leaf: &Leaf, slot: usize, target: &Target<'_>, arena: &Arena, keep_above: u64) -> bool {
    if !leaf.may_be(slot, target.key) {
        return false;
    }
    let older = arena.entry(leaf.entry(slot));
    if older.key != target.key || older.trailer >> 8 <= keep_above {
        return false;
    }
    let newer = match slot.checked_sub(1) {
        Some(slot) => leaf.may_be(slot, target.key).then(|| leaf.entry(slot)),
        None if leaf.prev == NO_NODE => None,
        None => {
            let prev = nodes.leaf(leaf.prev);
            Some(prev.entry(prev.len() - 1))
        }
    };
    newer.is_none_or(|newer| arena.entry(newer).key != target.key)
}
