//! The nodes of the memtable's B+-trees, and the search within one.
//!
//! A node keeps, beside each reference to an entry in the arena, the entry's *head*: the 16 bytes of its key that follow the
//! node's prefix, as a big-endian number (zero-padded). Heads order as the keys do, except that keys with equal heads need their
//! full bytes. So a search reads the arena only where heads are equal: as a rule once, for the entry that it looks for.
//!
//! The *prefix* is a length only. A node covers the entries between two separators in its ancestors, and every key in between
//! shares the separators' common prefix; so does every key that a search routes there, and nobody needs to compare it. This keeps
//! heads telling where keys share long beginnings (key group, user, map).

use std::cmp::Ordering;

use super::arena::{Arena, Entry, EntryRef};

/// Entries in a leaf, separators in an inner node. By measurement; see the module `memtable`.
pub(super) const NODE_ENTRIES: usize = 64;
/// No such node.
pub(super) const NO_NODE: u32 = u32::MAX;

/// The 16 key bytes after a node's prefix.
pub(super) type Head = u128;
const HEAD_BYTES: usize = 16;

/// Prefixes grow only by this much or more, so that heads are seldom computed anew: it reads each entry's key.
const PREFIX_STEP_BYTES: usize = 4;

/// What a search looks for: the first entry at or after this key and trailer, in entry order (key ascending, trailer descending).
#[derive(Clone, Copy)]
pub(super) struct Target<'a> {
    pub(super) key: &'a [u8],
    pub(super) trailer: u64,
}

impl Target<'_> {
    /// How an entry lies to the target.
    #[inline]
    pub(super) fn compare(&self, entry: &Entry<'_>) -> Ordering {
        entry.key.cmp(self.key).then_with(|| self.trailer.cmp(&entry.trailer))
    }
}

/// The head of a key in a node with this prefix.
#[inline]
pub(super) fn head(key: &[u8], prefix_bytes: usize) -> Head {
    debug_assert!(prefix_bytes <= key.len());
    Head::from(word(key, prefix_bytes)) << 64 | Head::from(word(key, prefix_bytes + 8))
}

/// Eight bytes of the key as a big-endian number, padded with zeros where the key ends.
#[inline]
fn word(key: &[u8], at: usize) -> u64 {
    if let Some(bytes) = key.get(at..).and_then(|rest| rest.first_chunk()) {
        return u64::from_be_bytes(*bytes);
    }
    let have = key.len().saturating_sub(at);
    if have == 0 {
        return 0;
    }
    match key.last_chunk() {
        Some(bytes) => u64::from_be_bytes(*bytes) << (64 - 8 * have),
        None => key[at..].iter().fold(0, |word, &byte| word << 8 | u64::from(byte)) << (64 - 8 * have),
    }
}

/// How many leading bytes two keys share.
pub(super) fn common_prefix_bytes(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// A leaf: entries in order, linked to its neighbours.
pub(super) struct Leaf {
    heads: [Head; NODE_ENTRIES],
    entries: [EntryRef; NODE_ENTRIES],
    len: u16,
    prefix_bytes: u16,
    pub(super) prev: u32,
    pub(super) next: u32,
}

impl Leaf {
    pub(super) fn new() -> Self {
        Leaf {
            heads: [0; NODE_ENTRIES],
            entries: [EntryRef::NONE; NODE_ENTRIES],
            len: 0,
            prefix_bytes: 0,
            prev: NO_NODE,
            next: NO_NODE,
        }
    }

    #[inline]
    pub(super) fn len(&self) -> usize {
        usize::from(self.len)
    }

    #[inline]
    pub(super) fn is_full(&self) -> bool {
        self.len() == NODE_ENTRIES
    }

    #[inline]
    pub(super) fn prefix_bytes(&self) -> usize {
        usize::from(self.prefix_bytes)
    }

    #[inline]
    pub(super) fn entry(&self, slot: usize) -> EntryRef {
        self.entries[..self.len()][slot]
    }

    /// The head at the slot, where there is one.
    #[inline]
    pub(super) fn head(&self, slot: usize) -> Option<Head> {
        self.heads[..self.len()].get(slot).copied()
    }

    /// The first slot at or after the target, and whether it is the target itself. `head` is the target's.
    #[inline]
    pub(super) fn search(&self, head: Head, target: &Target<'_>, arena: &Arena) -> (usize, bool) {
        let len = self.len();
        search(&self.heads[..len], head, |slot| target.compare(&arena.entry(self.entries[slot])))
    }

    /// Puts an entry at the slot. There must be room.
    #[inline]
    pub(super) fn insert(&mut self, slot: usize, head: Head, entry: EntryRef) {
        let len = self.len();
        self.heads.copy_within(slot..len, slot + 1);
        self.heads[slot] = head;
        self.entries.copy_within(slot..len, slot + 1);
        self.entries[slot] = entry;
        self.len += 1;
    }

    /// Lets another entry of the same key take the slot: its head is the same.
    #[inline]
    pub(super) fn replace(&mut self, slot: usize, entry: EntryRef) {
        self.entries[..usize::from(self.len)][slot] = entry;
    }

    /// Moves the entries from `slot` on into a new leaf.
    pub(super) fn split_off(&mut self, slot: usize) -> Leaf {
        let mut right = Leaf::new();
        let moved = self.len() - slot;
        right.heads[..moved].copy_from_slice(&self.heads[slot..slot + moved]);
        right.entries[..moved].copy_from_slice(&self.entries[slot..slot + moved]);
        right.len = moved as u16;
        right.prefix_bytes = self.prefix_bytes;
        self.len = slot as u16;
        right
    }

    /// Takes a longer prefix, where it is enough longer to be worth reading all keys.
    pub(super) fn lengthen_prefix(&mut self, prefix_bytes: usize, arena: &Arena) {
        if prefix_bytes >= self.prefix_bytes() + PREFIX_STEP_BYTES {
            self.prefix_bytes = prefix_bytes as u16;
            let len = self.len();
            for (slot, entry) in self.heads[..len].iter_mut().zip(&self.entries) {
                *slot = head(arena.entry(*entry).key, prefix_bytes);
            }
        }
    }
}

/// The least entry of a subtree, in an ancestor: an entry in the arena (maybe no longer in the tree).
#[derive(Clone, Copy)]
pub(super) struct Separator {
    pub(super) entry: EntryRef,
    /// The separator stands before all versions of the entry's key, not only before those from the entry's on.
    pub(super) whole_key: bool,
}

/// An inner node: child `i` holds what is at or after separator `i - 1` and before separator `i`.
pub(super) struct Inner {
    heads: [Head; NODE_ENTRIES],
    separators: [Separator; NODE_ENTRIES],
    children: [u32; NODE_ENTRIES + 1],
    len: u16,
    prefix_bytes: u16,
}

impl Inner {
    /// A node with one child and no separator.
    pub(super) fn new(child: u32) -> Self {
        let mut children = [NO_NODE; NODE_ENTRIES + 1];
        children[0] = child;
        Inner {
            heads: [0; NODE_ENTRIES],
            separators: [Separator { entry: EntryRef::NONE, whole_key: false }; NODE_ENTRIES],
            children,
            len: 0,
            prefix_bytes: 0,
        }
    }

    /// The number of separators.
    #[inline]
    pub(super) fn len(&self) -> usize {
        usize::from(self.len)
    }

    #[inline]
    pub(super) fn is_full(&self) -> bool {
        self.len() == NODE_ENTRIES
    }

    #[inline]
    pub(super) fn prefix_bytes(&self) -> usize {
        usize::from(self.prefix_bytes)
    }

    #[inline]
    pub(super) fn child(&self, index: usize) -> u32 {
        self.children[..=self.len()][index]
    }

    pub(super) fn separator(&self, index: usize) -> Separator {
        self.separators[..self.len()][index]
    }

    /// The index of the child where the target belongs. `head` is the target's.
    #[inline]
    pub(super) fn search(&self, head: Head, target: &Target<'_>, arena: &Arena) -> usize {
        let len = self.len();
        let (index, exact) = search(&self.heads[..len], head, |index| {
            let separator = self.separators[index];
            let entry = arena.entry(separator.entry);
            let order = target.compare(&entry);
            // A separator of a whole key stands before every version of it.
            if separator.whole_key && order.is_ge() && entry.key == target.key { Ordering::Less } else { order }
        });
        index + usize::from(exact)
    }

    /// Puts a separator, and the child to its right, at the index. There must be room.
    pub(super) fn insert(&mut self, index: usize, separator: Separator, child: u32, arena: &Arena) {
        let len = self.len();
        self.heads.copy_within(index..len, index + 1);
        self.heads[index] = head(arena.entry(separator.entry).key, self.prefix_bytes());
        self.separators.copy_within(index..len, index + 1);
        self.separators[index] = separator;
        self.children.copy_within(index + 1..len + 1, index + 2);
        self.children[index + 1] = child;
        self.len += 1;
    }

    /// Takes out the separator at the index, and moves all to its right into a new node.
    pub(super) fn split_off(&mut self, index: usize) -> (Separator, Inner) {
        let mut right = Inner::new(self.children[index + 1]);
        let moved = self.len() - index - 1;
        right.heads[..moved].copy_from_slice(&self.heads[index + 1..][..moved]);
        right.separators[..moved].copy_from_slice(&self.separators[index + 1..][..moved]);
        right.children[1..=moved].copy_from_slice(&self.children[index + 2..][..moved]);
        right.len = moved as u16;
        right.prefix_bytes = self.prefix_bytes;
        self.len = index as u16;
        (self.separators[index], right)
    }

    /// Takes a longer prefix, where it is enough longer to be worth reading all keys.
    pub(super) fn lengthen_prefix(&mut self, prefix_bytes: usize, arena: &Arena) {
        if prefix_bytes >= self.prefix_bytes() + PREFIX_STEP_BYTES {
            self.prefix_bytes = prefix_bytes as u16;
            let len = self.len();
            for (slot, separator) in self.heads[..len].iter_mut().zip(&self.separators) {
                *slot = head(arena.entry(separator.entry).key, prefix_bytes);
            }
        }
    }
}

/// The first index at or after the target, and whether it is equal to it. `compare` reads the arena: it is asked only where
/// heads are equal.
#[inline]
fn search(heads: &[Head], head: Head, mut compare: impl FnMut(usize) -> Ordering) -> (usize, bool) {
    let mut low = heads.partition_point(|&other| other < head);
    let equal = heads[low..].iter().take_while(|&&other| other == head).count();
    let mut high = low + equal;
    let mut exact = false;
    while low < high {
        let middle = low + (high - low) / 2;
        match compare(middle) {
            Ordering::Less => low = middle + 1,
            order => {
                exact |= order.is_eq();
                high = middle;
            }
        }
    }
    (low, exact)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn heads_order_as_the_keys_do(prefix in prop::collection::vec(any::<u8>(), 0..20), a in prop::collection::vec(0_u8..3, 0..20),
                                      b in prop::collection::vec(0_u8..3, 0..20)) {
            let (key_a, key_b) = ([&prefix[..], &a].concat(), [&prefix[..], &b].concat());
            let (head_a, head_b) = (head(&key_a, prefix.len()), head(&key_b, prefix.len()));
            if head_a != head_b {
                prop_assert_eq!(head_a.cmp(&head_b), key_a.cmp(&key_b));
            } else {
                let same = common_prefix_bytes(&a, &b);
                let zeros = |rest: &[u8]| rest.iter().take(HEAD_BYTES - same.min(HEAD_BYTES)).all(|&byte| byte == 0);
                prop_assert!(same >= HEAD_BYTES || zeros(&a[same..]) && zeros(&b[same..]));
            }
        }
    }

    #[test]
    fn a_head_is_the_bytes_after_the_prefix() {
        assert_eq!(head(b"", 0), 0);
        assert_eq!(head(b"a", 0), 0x61 << 120);
        assert_eq!(head(b"abc", 2), 0x63 << 120);
        assert_eq!(head(b"xyABCDEFGHIJKLMNOPQ", 2), Head::from_be_bytes(*b"ABCDEFGHIJKLMNOP"));
        assert_eq!(head(b"0123456789", 9), 0x39 << 120);
        assert_eq!(head(b"0123456789", 10), 0);
    }
}
