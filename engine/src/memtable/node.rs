//! The nodes of the memtable's B+-trees, and the search within one.
//!
//! A node keeps, beside each reference to an entry in the arena, the entry's *head*: the 16 bytes of its key that
//! follow the node's prefix, as two big-endian words (zero-padded); inner nodes keep a third word. Heads order as the
//! keys do, except that keys with equal heads need their full bytes. So a search reads the arena only where heads are
//! equal: as a rule once, for the entry that it looks for.
//!
//! Within a node a search *counts* the first words below the target's instead of halving: in a tree larger than the
//! caches the time goes into waiting for memory, and the loads of a count wait together, while those of a binary
//! search wait one after the other.
//!
//! The *prefix* is what all keys of the node share, as it was when the node was last split, and lies in the node. It
//! keeps heads telling where keys share long beginnings (key group, user, map). A target outside the prefix is before
//! or behind all of the node's keys; where such a key is inserted, the prefix is cut to what it shares and the heads
//! are computed anew.

use std::cmp::Ordering;
use std::ops::Range;

use super::arena::{Arena, Entry, EntryRef};

/// Entries in a leaf. By measurement, as the next; see the module `memtable`.
pub(super) const LEAF_ENTRIES: usize = 32;
/// Separators in an inner node.
pub(super) const INNER_SEPARATORS: usize = 64;
/// No such node.
pub(super) const NO_NODE: u32 = u32::MAX;

/// Longer prefixes are not used to the full: a leaf's links, length and prefix make one cache line.
const PREFIX_BYTES_MAX: usize = 53;
/// Prefixes grow only by this much or more, so that heads are seldom computed anew: it reads each entry's key.
const PREFIX_STEP_BYTES: usize = 4;
/// The word of unused slots: a count of lesser words passes over it.
const UNUSED: u64 = u64::MAX;

/// The 16 key bytes after a node's prefix, as two big-endian words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Head {
    first: u64,
    second: u64,
}

impl Head {
    /// The head of a key in a node with this prefix.
    #[inline]
    pub(super) fn of(key: &[u8], prefix_bytes: usize) -> Head {
        debug_assert!(prefix_bytes <= key.len());
        Head { first: word(key, prefix_bytes), second: word(key, prefix_bytes + 8) }
    }
}

/// The eight key bytes after the head.
#[inline]
fn third_word(key: &[u8], prefix: &Prefix) -> u64 {
    word(key, usize::from(prefix.len) + 16)
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

/// What all keys of a node start with.
#[derive(Clone, Copy)]
#[repr(C)]
struct Prefix {
    len: u8,
    bytes: [u8; PREFIX_BYTES_MAX],
}

impl Prefix {
    const NONE: Prefix = Prefix { len: 0, bytes: [0; PREFIX_BYTES_MAX] };

    /// What two keys share, as far as it is kept.
    fn common(a: &[u8], b: &[u8]) -> Prefix {
        let len = a.iter().zip(b).take(PREFIX_BYTES_MAX).take_while(|(a, b)| a == b).count();
        let mut prefix = Prefix { len: len as u8, ..Prefix::NONE };
        prefix.bytes[..len].copy_from_slice(&a[..len]);
        prefix
    }

    #[inline]
    fn bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    /// The head of a key that starts with the prefix; for others, whether they are before or behind all that do.
    #[inline]
    fn head(&self, key: &[u8]) -> Result<Head, Ordering> {
        let len = usize::from(self.len);
        match key[..len.min(key.len())].cmp(self.bytes()) {
            Ordering::Equal => Ok(Head::of(key, len)),
            order => Err(order),
        }
    }
}

/// What a search looks for: the first entry at or after this key and trailer, in entry order (key ascending, trailer
/// descending).
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

/// A leaf: entries in order, linked to its neighbours.
#[repr(C, align(64))]
pub(super) struct Leaf {
    pub(super) prev: u32,
    pub(super) next: u32,
    len: u16,
    prefix: Prefix,
    slots: [Slot; LEAF_ENTRIES],
    second_words: [u64; LEAF_ENTRIES],
}

const _: () = assert!(std::mem::offset_of!(Leaf, slots) == 64);

/// The first word of the head beside the entry: the search that reads the one has the other in cache.
#[derive(Clone, Copy)]
#[repr(C)]
struct Slot {
    first_word: u64,
    entry: EntryRef,
}

impl Slot {
    const EMPTY: Slot = Slot { first_word: UNUSED, entry: EntryRef::NONE };
}

impl Leaf {
    pub(super) fn new() -> Self {
        Leaf {
            prev: NO_NODE,
            next: NO_NODE,
            len: 0,
            prefix: Prefix::NONE,
            slots: [Slot::EMPTY; LEAF_ENTRIES],
            second_words: [0; LEAF_ENTRIES],
        }
    }

    #[inline]
    pub(super) fn len(&self) -> usize {
        usize::from(self.len)
    }

    #[inline]
    pub(super) fn is_full(&self) -> bool {
        self.len() == LEAF_ENTRIES
    }

    #[inline]
    pub(super) fn entry(&self, slot: usize) -> EntryRef {
        self.slots[..self.len()][slot].entry
    }

    /// Whether the entry at the slot, where there is one, may have this key.
    #[inline]
    pub(super) fn may_be(&self, slot: usize, key: &[u8]) -> bool {
        let head = self.prefix.head(key);
        slot < self.len()
            && head
                .is_ok_and(|head| self.slots[slot].first_word == head.first && self.second_words[slot] == head.second)
    }

    /// The first slot at or after the target, and whether it is the target itself.
    #[inline]
    pub(super) fn search(&self, target: &Target<'_>, arena: &Arena) -> (usize, bool) {
        let head = match self.prefix.head(target.key) {
            Ok(head) => head,
            Err(order) => return (if order.is_lt() { 0 } else { self.len() }, false),
        };
        let low = self.slots.iter().map(|slot| usize::from(slot.first_word < head.first)).sum::<usize>();
        let equal = self.slots[..self.len()].iter().skip(low).take_while(|slot| slot.first_word == head.first).count();
        let range = narrow(&self.second_words, low..low + equal, head.second);
        search_equal(range, |slot| target.compare(&arena.entry(self.slots[slot].entry)))
    }

    /// Puts an entry with this key at the slot. There must be room.
    #[inline]
    pub(super) fn insert(&mut self, slot: usize, key: &[u8], entry: EntryRef, arena: &Arena) {
        let head = match self.prefix.head(key) {
            Ok(head) => head,
            Err(_) => {
                self.set_prefix(Prefix::common(self.prefix.bytes(), key), arena);
                Head::of(key, usize::from(self.prefix.len))
            }
        };
        let len = self.len();
        self.slots.copy_within(slot..len, slot + 1);
        self.slots[slot] = Slot { first_word: head.first, entry };
        self.second_words.copy_within(slot..len, slot + 1);
        self.second_words[slot] = head.second;
        self.len += 1;
    }

    /// Lets another entry of the same key take the slot: its head is the same.
    #[inline]
    pub(super) fn replace(&mut self, slot: usize, entry: EntryRef) {
        self.slots[..usize::from(self.len)][slot].entry = entry;
    }

    /// Where best to split a full leaf.
    pub(super) fn split_slot(&self) -> usize {
        split_index(LEAF_ENTRIES, |slot| self.slots[slot].first_word)
    }

    /// Moves the entries from `slot` on into a new leaf.
    pub(super) fn split_off(&mut self, slot: usize) -> Leaf {
        let mut right = Leaf::new();
        let moved = self.len() - slot;
        right.slots[..moved].copy_from_slice(&self.slots[slot..slot + moved]);
        right.second_words[..moved].copy_from_slice(&self.second_words[slot..slot + moved]);
        right.len = moved as u16;
        right.prefix = self.prefix;
        self.slots[slot..].fill(Slot::EMPTY);
        self.len = slot as u16;
        right
    }

    /// Takes the prefix that the keys share, where it is enough longer than the one so far.
    pub(super) fn lengthen_prefix(&mut self, arena: &Arena) {
        if let [first, .., last] = &self.slots[..self.len()] {
            let prefix = Prefix::common(arena.entry(first.entry).key, arena.entry(last.entry).key);
            if usize::from(prefix.len) >= usize::from(self.prefix.len) + PREFIX_STEP_BYTES {
                self.set_prefix(prefix, arena);
            }
        }
    }

    #[cold]
    fn set_prefix(&mut self, prefix: Prefix, arena: &Arena) {
        self.prefix = prefix;
        let len = self.len();
        for (slot, second_word) in self.slots[..len].iter_mut().zip(&mut self.second_words) {
            let head = Head::of(arena.entry(slot.entry).key, usize::from(prefix.len));
            (slot.first_word, *second_word) = (head.first, head.second);
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
#[repr(C, align(64))]
pub(super) struct Inner {
    len: u16,
    prefix: Prefix,
    first_words: [u64; INNER_SEPARATORS],
    children: [u32; INNER_SEPARATORS + 1],
    second_words: [u64; INNER_SEPARATORS],
    /// Separators lie further apart than entries and have shorter prefixes: here the head goes on for 8 bytes.
    third_words: [u64; INNER_SEPARATORS],
    separators: [Separator; INNER_SEPARATORS],
}

impl Inner {
    /// A node with one child and no separator.
    pub(super) fn new(child: u32) -> Self {
        let mut children = [NO_NODE; INNER_SEPARATORS + 1];
        children[0] = child;
        Inner {
            len: 0,
            prefix: Prefix::NONE,
            first_words: [UNUSED; INNER_SEPARATORS],
            children,
            second_words: [0; INNER_SEPARATORS],
            third_words: [0; INNER_SEPARATORS],
            separators: [Separator { entry: EntryRef::NONE, whole_key: false }; INNER_SEPARATORS],
        }
    }

    /// The number of separators.
    #[inline]
    pub(super) fn len(&self) -> usize {
        usize::from(self.len)
    }

    #[inline]
    pub(super) fn is_full(&self) -> bool {
        self.len() == INNER_SEPARATORS
    }

    #[inline]
    pub(super) fn child(&self, index: usize) -> u32 {
        self.children[..=self.len()][index]
    }

    /// The index of the child where the target belongs.
    #[inline]
    pub(super) fn search(&self, target: &Target<'_>, arena: &Arena) -> usize {
        let head = match self.prefix.head(target.key) {
            Ok(head) => head,
            Err(order) => return if order.is_lt() { 0 } else { self.len() },
        };
        let low = self.first_words.iter().map(|&word| usize::from(word < head.first)).sum::<usize>();
        let equal = self.first_words[..self.len()].iter().skip(low).take_while(|&&word| word == head.first).count();
        let mut range = narrow(&self.second_words, low..low + equal, head.second);
        if !range.is_empty() {
            range = narrow(&self.third_words, range, third_word(target.key, &self.prefix));
        }
        let (index, exact) = search_equal(range, |index| {
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
        let key = arena.entry(separator.entry).key;
        let head = match self.prefix.head(key) {
            Ok(head) => head,
            Err(_) => {
                self.set_prefix(Prefix::common(self.prefix.bytes(), key), arena);
                Head::of(key, usize::from(self.prefix.len))
            }
        };
        let len = self.len();
        self.first_words.copy_within(index..len, index + 1);
        self.first_words[index] = head.first;
        self.second_words.copy_within(index..len, index + 1);
        self.second_words[index] = head.second;
        self.third_words.copy_within(index..len, index + 1);
        self.third_words[index] = third_word(key, &self.prefix);
        self.separators.copy_within(index..len, index + 1);
        self.separators[index] = separator;
        self.children.copy_within(index + 1..len + 1, index + 2);
        self.children[index + 1] = child;
        self.len += 1;
    }

    /// Where best to split a full node.
    pub(super) fn split_index(&self) -> usize {
        split_index(INNER_SEPARATORS, |index| self.first_words[index])
    }

    /// Takes out the separator at the index, and moves all to its right into a new node.
    pub(super) fn split_off(&mut self, index: usize) -> (Separator, Inner) {
        let mut right = Inner::new(self.children[index + 1]);
        let moved = self.len() - index - 1;
        right.first_words[..moved].copy_from_slice(&self.first_words[index + 1..][..moved]);
        right.second_words[..moved].copy_from_slice(&self.second_words[index + 1..][..moved]);
        right.third_words[..moved].copy_from_slice(&self.third_words[index + 1..][..moved]);
        right.separators[..moved].copy_from_slice(&self.separators[index + 1..][..moved]);
        right.children[1..=moved].copy_from_slice(&self.children[index + 2..][..moved]);
        right.len = moved as u16;
        right.prefix = self.prefix;
        self.first_words[index..].fill(UNUSED);
        self.len = index as u16;
        (self.separators[index], right)
    }

    /// Takes the prefix that the separators share, where it is enough longer than the one so far.
    pub(super) fn lengthen_prefix(&mut self, arena: &Arena) {
        if let [first, .., last] = &self.separators[..self.len()] {
            let prefix = Prefix::common(arena.entry(first.entry).key, arena.entry(last.entry).key);
            if usize::from(prefix.len) >= usize::from(self.prefix.len) + PREFIX_STEP_BYTES {
                self.set_prefix(prefix, arena);
            }
        }
    }

    #[cold]
    fn set_prefix(&mut self, prefix: Prefix, arena: &Arena) {
        self.prefix = prefix;
        for index in 0..self.len() {
            let key = arena.entry(self.separators[index].entry).key;
            let head = Head::of(key, usize::from(prefix.len));
            (self.first_words[index], self.second_words[index]) = (head.first, head.second);
            self.third_words[index] = third_word(key, &prefix);
        }
    }
}

/// Where to split a full node: in the middle, or near it where the keys on both sides share less, so that keys which
/// share a long prefix (one group, one user) stay together and the halves get longer prefixes.
fn split_index(len: usize, first_word: impl Fn(usize) -> u64) -> usize {
    let shared_bytes = |index: usize| (first_word(index - 1) ^ first_word(index)).leading_zeros() / 8;
    let near = len / 4..=len * 3 / 4;
    near.min_by_key(|&index| (shared_bytes(index), index.abs_diff(len / 2))).unwrap_or(len / 2)
}

/// Of slots with the same words so far, and so ordered by the next: those with this next word.
#[inline]
fn narrow(words: &[u64], range: Range<usize>, word: u64) -> Range<usize> {
    let words = &words[range.clone()];
    let low = words.partition_point(|&other| other < word);
    let equal = words[low..].iter().take_while(|&&other| other == word).count();
    range.start + low..range.start + low + equal
}

/// The end of a search, among the slots with the target's head: the first one at or after the target, and whether it
/// is equal to it. `compare` reads the arena.
#[inline]
fn search_equal(range: Range<usize>, mut compare: impl FnMut(usize) -> Ordering) -> (usize, bool) {
    let Range { start: mut low, end: mut high } = range;
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
            let (head_a, head_b) = (Head::of(&key_a, prefix.len()), Head::of(&key_b, prefix.len()));
            if head_a != head_b {
                prop_assert_eq!(head_a.cmp(&head_b), key_a.cmp(&key_b));
            } else {
                let same = a.iter().zip(&b).take_while(|(a, b)| a == b).count();
                let zeros = |rest: &[u8]| rest.iter().take(16 - same.min(16)).all(|&byte| byte == 0);
                prop_assert!(same >= 16 || zeros(&a[same..]) && zeros(&b[same..]));
            }
        }
    }

    #[test]
    fn a_head_is_the_bytes_after_the_prefix() {
        let head = |key: &[u8], prefix_bytes| {
            let head = Head::of(key, prefix_bytes);
            (u128::from(head.first) << 64 | u128::from(head.second)).to_be_bytes()
        };
        assert_eq!(head(b"", 0), [0; 16]);
        assert_eq!(head(b"a", 0), *b"a\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
        assert_eq!(head(b"abc", 2), *b"c\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
        assert_eq!(head(b"xyABCDEFGHIJKLMNOPQ", 2), *b"ABCDEFGHIJKLMNOP");
        assert_eq!(head(b"0123456789", 1), *b"123456789\0\0\0\0\0\0\0");
        assert_eq!(head(b"0123456789", 10), [0; 16]);
    }
}
