//! The append-only arena that holds the entries of a memtable.
//!
//! Memory comes in chunks. The first is small and each next one twice as large, up to [`CHUNK_BYTES_MAX`], so that a
//! memtable of a few entries is a few KiB and a large one has few chunks. An entry lies whole within one chunk; one
//! that is large beside a chunk gets a chunk of exactly its size, and the current chunk goes on being filled.
//!
//! ```text
//! entry:  0        8            12         14     14+k        14+k+v
//!         | trailer | value_len | key_len  | key  | value     |         trailer u64, value_len u32, key_len u16, native order
//! ```
//!
//! Invariants:
//! 1. Bytes of a chunk below `used` are initialised and never change again; writes go only to `used..`, through raw
//!    pointers.
//! 2. A chunk's memory lives as long as its `Rc<Chunk>`; the arena holds one `Rc` of every chunk until it is dropped
//!    itself, and each [`ArenaSlice`] holds one more. So a `&[u8]` may borrow from the arena or from a slice while
//!    writing goes on.
//! 3. Every range that is turned into a slice has been checked against `used` first, so a foreign [`EntryRef`] panics
//!    or yields initialised bytes, never more.
//!
//! A crash leaves nothing: the arena is memory only.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::cell::{Cell, RefCell};
use std::ops::Deref;
use std::ptr::{self, NonNull};
use std::rc::Rc;
use std::{fmt, slice};

const CHUNK_BYTES_MIN: usize = 4 << 10;
const CHUNK_BYTES_MAX: usize = 256 << 10;
/// Entries of more than this share of the largest chunk get a chunk of their own.
const SHARED_BYTES_MAX: usize = CHUNK_BYTES_MAX / 4;
const VALUE_LEN_AT: usize = 8;
const KEY_LEN_AT: usize = 12;
const HEADER_BYTES: usize = 14;

/// The place of an entry in its arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct EntryRef {
    chunk: u32,
    offset: u32,
}

impl EntryRef {
    /// Fills unused node slots.
    pub(super) const NONE: EntryRef = EntryRef { chunk: u32::MAX, offset: 0 };
}

/// An entry as it lies in the arena.
#[derive(Clone, Copy)]
pub(super) struct Entry<'a> {
    pub(super) trailer: u64,
    pub(super) key: &'a [u8],
    pub(super) value: &'a [u8],
}

/// Chunks of entries; see the module.
pub(super) struct Arena {
    chunks: RefCell<Vec<ChunkSlot>>,
    /// The chunk that small entries go to.
    current: Cell<usize>,
    chunk_bytes_next: Cell<usize>,
    memory_bytes: Cell<usize>,
}

struct ChunkSlot {
    chunk: Rc<Chunk>,
    used: usize,
}

impl Arena {
    pub(super) fn new() -> Self {
        Arena {
            chunks: RefCell::new(Vec::new()),
            current: Cell::new(usize::MAX),
            chunk_bytes_next: Cell::new(CHUNK_BYTES_MIN),
            memory_bytes: Cell::new(0),
        }
    }

    /// Writes an entry; the value is the two slices one after the other.
    pub(super) fn push(&self, key: &[u8], trailer: u64, value: [&[u8]; 2]) -> EntryRef {
        let key_len = u16::try_from(key.len()).expect("key lengths are checked when a write enters the engine");
        let value_len = u32::try_from(value[0].len() + value[1].len()).expect("so are value lengths");
        let bytes = HEADER_BYTES + key.len() + value_len as usize;
        let mut chunks = self.chunks.borrow_mut();
        let index = match chunks.get(self.current.get()) {
            Some(slot) if slot.chunk.capacity - slot.used >= bytes => self.current.get(),
            _ => self.add_chunk(&mut chunks, bytes),
        };
        let slot = &mut chunks[index];
        let offset = slot.used;
        slot.append(&trailer.to_ne_bytes());
        slot.append(&value_len.to_ne_bytes());
        slot.append(&key_len.to_ne_bytes());
        slot.append(key);
        slot.append(value[0]);
        slot.append(value[1]);
        EntryRef { chunk: index as u32, offset: offset as u32 }
    }

    /// Adds a chunk with room for an entry of `bytes`, and returns its index.
    #[cold]
    fn add_chunk(&self, chunks: &mut Vec<ChunkSlot>, bytes: usize) -> usize {
        let index = chunks.len();
        let capacity = if bytes > SHARED_BYTES_MAX {
            bytes
        } else {
            let next = self.chunk_bytes_next.get().max(bytes.next_power_of_two());
            self.chunk_bytes_next.set((next * 2).min(CHUNK_BYTES_MAX));
            self.current.set(index);
            next
        };
        assert!(capacity <= u32::MAX as usize && index < u32::MAX as usize, "the arena has outgrown its references");
        chunks.push(ChunkSlot { chunk: Rc::new(Chunk::allocate(capacity)), used: 0 });
        self.memory_bytes.set(self.memory_bytes.get() + capacity);
        index
    }

    /// The entry at a place that [`Arena::push`] returned.
    #[inline]
    pub(super) fn entry(&self, place: EntryRef) -> Entry<'_> {
        let chunks = self.chunks.borrow();
        let slot = &chunks[place.chunk as usize];
        let start = place.offset as usize;
        assert!(start + HEADER_BYTES <= slot.used, "not an entry of this arena");
        // SAFETY: `start` is below the chunk's size, checked above.
        let at = unsafe { slot.chunk.base.add(start) };
        // SAFETY: the header lies below `used`, checked above: initialised, never written again, and alive as long as
        // the arena, which the result borrows (invariants 1 and 2).
        let header: &[u8; HEADER_BYTES] = unsafe { at.cast().as_ref() };
        let trailer = u64::from_ne_bytes(field(header, 0));
        let value_len = u32::from_ne_bytes(field(header, VALUE_LEN_AT)) as usize;
        let key_len = u16::from_ne_bytes(field(header, KEY_LEN_AT)) as usize;
        let bytes = HEADER_BYTES + key_len + value_len;
        assert!(start + bytes <= slot.used, "not an entry of this arena");
        // SAFETY: as for the header: the whole entry lies below `used`, checked in the line above.
        let entry: &[u8] = unsafe { slice::from_raw_parts(at.as_ptr(), bytes) };
        let (key, value) = entry[HEADER_BYTES..].split_at(key_len);
        Entry { trailer, key, value }
    }

    /// A guard of the entry's value that outlives the arena.
    #[inline]
    pub(super) fn value_slice(&self, place: EntryRef) -> ArenaSlice {
        let entry = self.entry(place);
        let start = place.offset as usize + HEADER_BYTES + entry.key.len();
        let chunk = Rc::clone(&self.chunks.borrow()[place.chunk as usize].chunk);
        // The range lies below `used`: `entry` has checked it.
        ArenaSlice { chunk, start: start as u32, len: entry.value.len() as u32 }
    }

    /// All memory that the chunks take, filled or not.
    pub(super) fn memory_bytes(&self) -> usize {
        self.memory_bytes.get()
    }
}

#[inline]
fn field<const N: usize>(header: &[u8; HEADER_BYTES], at: usize) -> [u8; N] {
    let mut bytes = [0; N];
    bytes.copy_from_slice(&header[at..at + N]);
    bytes
}

impl ChunkSlot {
    /// Writes to the unwritten tail.
    #[inline]
    fn append(&mut self, bytes: &[u8]) {
        assert!(bytes.len() <= self.chunk.capacity - self.used);
        // SAFETY: `used` is at most the capacity.
        let tail = unsafe { self.chunk.base.add(self.used) };
        // SAFETY: the tail has room for the bytes, checked above; no reference to bytes at or above `used` exists
        // (invariant 3), so the source cannot overlap it either.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), tail.as_ptr(), bytes.len()) };
        self.used += bytes.len();
    }
}

/// A piece of memory from the allocator, not initialised.
struct Chunk {
    base: NonNull<u8>,
    capacity: usize,
}

impl Chunk {
    fn layout(capacity: usize) -> Layout {
        Layout::array::<u8>(capacity).expect("a chunk is far smaller than the address space")
    }

    fn allocate(capacity: usize) -> Chunk {
        assert!(capacity > 0);
        let layout = Self::layout(capacity);
        // SAFETY: the layout's size is not zero, checked above.
        let base = unsafe { alloc(layout) };
        let Some(base) = NonNull::new(base) else { handle_alloc_error(layout) };
        Chunk { base, capacity }
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        // SAFETY: `base` came from `alloc` with the same layout, and nothing refers to it: every slice holds an `Rc`
        // of this chunk.
        unsafe { dealloc(self.base.as_ptr(), Self::layout(self.capacity)) };
    }
}

/// Bytes of an entry, kept alive by a count on their chunk: valid also after the memtable is gone.
#[derive(Clone)]
pub(crate) struct ArenaSlice {
    chunk: Rc<Chunk>,
    start: u32,
    len: u32,
}

impl ArenaSlice {
    /// The same bytes without the first `bytes`.
    #[inline]
    #[must_use]
    #[cfg(test)]
    pub(crate) fn skip(mut self, bytes: usize) -> ArenaSlice {
        assert!(bytes <= self.len as usize, "cannot skip {bytes} of {} bytes", self.len);
        self.start += bytes as u32;
        self.len -= bytes as u32;
        self
    }
}

impl Deref for ArenaSlice {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        // SAFETY: `start` lies within the chunk (the slice was made from a checked range, and is only ever narrowed).
        let at = unsafe { self.chunk.base.add(self.start as usize) };
        // SAFETY: the range was below `used` when the slice was made, so it is initialised and never written again;
        // the chunk is alive as long as `self`, which the result borrows.
        unsafe { slice::from_raw_parts(at.as_ptr(), self.len as usize) }
    }
}

impl AsRef<[u8]> for ArenaSlice {
    #[inline]
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for ArenaSlice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_keep_their_bytes_while_others_are_written() {
        let arena = Arena::new();
        let first = arena.push(b"key", 7, [b"head", b"tail"]);
        let borrowed = arena.entry(first);
        let guard = arena.value_slice(first);
        for i in 0..if cfg!(miri) { 100_u32 } else { 20_000 } {
            let place = arena.push(&i.to_be_bytes(), u64::from(i), [&[i as u8; 100], b""]);
            assert_eq!(arena.entry(place).key, i.to_be_bytes());
            assert_eq!(arena.entry(place).trailer, u64::from(i));
        }
        assert_eq!((borrowed.key, borrowed.trailer, borrowed.value), (&b"key"[..], 7, &b"headtail"[..]));
        drop(arena);
        assert_eq!(&*guard, b"headtail");
        assert_eq!(&*guard.skip(4), b"tail");
    }

    #[test]
    fn a_large_entry_gets_its_own_chunk_and_the_current_one_goes_on() {
        let arena = Arena::new();
        let before = arena.push(b"a", 1, [b"", b""]);
        let large = arena.push(b"b", 2, [&vec![3; 1 << 20], b"x"]);
        let after = arena.push(b"c", 3, [b"", b""]);
        assert_eq!((before.chunk, large.chunk, after.chunk), (0, 1, 0));
        assert_eq!(arena.entry(large).value.len(), (1 << 20) + 1);
        assert!(arena.entry(before).value.is_empty() && arena.entry(after).value.is_empty());
        assert_eq!(arena.memory_bytes(), CHUNK_BYTES_MIN + HEADER_BYTES + 1 + (1 << 20) + 1);
    }

    #[test]
    fn chunks_grow_with_the_arena() {
        let arena = Arena::new();
        arena.push(b"a", 1, [&[0; 3000], b""]);
        assert_eq!(arena.memory_bytes(), CHUNK_BYTES_MIN);
        arena.push(b"a", 1, [&[0; 3000], b""]);
        assert_eq!(arena.memory_bytes(), 3 * CHUNK_BYTES_MIN);
        arena.push(b"a", 1, [&[0; 60_000], b""]);
        assert_eq!(arena.memory_bytes(), 3 * CHUNK_BYTES_MIN + (64 << 10));
    }

    #[test]
    #[should_panic(expected = "not an entry of this arena")]
    fn a_foreign_reference_is_refused() {
        let arena = Arena::new();
        let place = arena.push(b"key", 7, [b"value", b""]);
        let other = Arena::new();
        other.push(b"", 0, [b"", b""]);
        let place = EntryRef { offset: place.offset + 4, ..place };
        other.entry(place);
    }
}
