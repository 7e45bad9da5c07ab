//! Aligned buffers: the memory that the kernel reads from and writes to.
//!
//! A [`Buffer`] is owned and not `Clone`. An operation takes it by value and gives it back with its result, so while the kernel
//! may touch the memory nothing else can. A buffer is either a heap allocation of its own or a frame of a [`BufferPool`].
//!
//! Invariants
//! 1. The bytes of a buffer are initialised (allocated zeroed) and aligned to [`ALIGNMENT`].
//! 2. A frame of a pool belongs to at most one `Buffer`: its index is either in the free list or in that buffer.
//! 3. A pool's mapping outlives its buffers, each of which holds a reference to the pool.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::cell::{Cell, RefCell};
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::rc::Rc;

/// Every buffer's alignment in bytes: suits direct I/O on every device with logical blocks up to this size.
pub const ALIGNMENT: usize = 4096;

/// An owned, aligned, initialised range of bytes.
///
/// ```
/// let mut buffer = siltstone_io::Buffer::heap(100);
/// assert_eq!(buffer.len(), 4096);
/// buffer[0] = 1;
/// ```
pub struct Buffer {
    start: NonNull<u8>,
    len: usize,
    owner: Owner,
}

enum Owner {
    Heap,
    Pool { pool: Rc<PoolShared>, frame: u32 },
}

impl Buffer {
    /// A zeroed buffer of its own, its length rounded up to a multiple of the alignment (at least one).
    pub fn heap(len: usize) -> Buffer {
        let layout = heap_layout(len.max(1).next_multiple_of(ALIGNMENT));
        Buffer { start: allocate(layout), len: layout.size(), owner: Owner::Heap }
    }

    /// Its length in bytes.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Never: a buffer has at least one block.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Where it starts, for the kernel. Valid for reads and writes of `len` bytes until the buffer is dropped.
    pub(crate) fn as_raw(&mut self) -> *mut u8 {
        self.start.as_ptr()
    }

    /// The index under which its memory is registered with the ring, where it is.
    pub(crate) fn registered_index(&self) -> Option<u16> {
        match &self.owner {
            Owner::Heap => None,
            Owner::Pool { pool, frame } => {
                let base = pool.registered_base.get()?;
                Some(base + (*frame as usize / pool.frames_per_region) as u16)
            }
        }
    }

    /// The pool that it is a frame of, as an identity: registrations hold for one ring only.
    pub(crate) fn registered_with(&self) -> Option<u64> {
        match &self.owner {
            Owner::Heap => None,
            Owner::Pool { pool, .. } => pool.registered_base.get().map(|_| pool.executor),
        }
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Deref for Buffer {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        // SAFETY: `start` is valid for `len` initialised bytes that this buffer alone owns (invariants 1 and 2).
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl DerefMut for Buffer {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and `&mut self` excludes all other access.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        match &self.owner {
            Owner::Heap => {
                // SAFETY: allocated in `heap` with this layout, and freed only here.
                unsafe { dealloc(self.start.as_ptr(), heap_layout(self.len)) }
            }
            Owner::Pool { pool, frame } => pool.free.borrow_mut().push(*frame),
        }
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = match &self.owner {
            Owner::Heap => "heap".to_owned(),
            Owner::Pool { frame, .. } => format!("frame {frame}"),
        };
        write!(f, "Buffer({} bytes, {place})", self.len)
    }
}

/// A pool of equal frames in one mapping, registered with the ring of the executor that made it, where that is possible.
#[derive(Clone)]
pub struct BufferPool(Rc<PoolShared>);

struct PoolShared {
    mapping: Mapping,
    frame_bytes: usize,
    frames: usize,
    free: RefCell<Vec<u32>>,
    /// The executor whose ring the mapping is registered with.
    executor: u64,
    /// The index of the first region in the ring's table.
    registered_base: Cell<Option<u16>>,
    frames_per_region: usize,
    /// Gives the ring's slots back when the last frame has gone.
    on_drop: RefCell<Option<Box<dyn FnOnce()>>>,
}

impl BufferPool {
    /// A pool that is not registered yet. No region (a contiguous part that is registered under one index) exceeds `region_bytes_max`.
    pub(crate) fn new(frame_bytes: usize, frames: usize, region_bytes_max: usize, executor: u64) -> BufferPool {
        assert!(frame_bytes > 0 && frame_bytes.is_multiple_of(ALIGNMENT), "frames are multiples of {ALIGNMENT} bytes");
        assert!(u32::try_from(frames).is_ok(), "frames are numbered in 32 bits");
        let frames_per_region = (region_bytes_max / frame_bytes).max(1);
        // The lowest frame is taken first, which keeps a little-used pool dense.
        let free = (0..frames as u32).rev().collect();
        BufferPool(Rc::new(PoolShared {
            // A mapping cannot be empty.
            mapping: Mapping::new(frame_bytes * frames.max(1)),
            frame_bytes,
            frames,
            free: RefCell::new(free),
            executor,
            registered_base: Cell::new(None),
            frames_per_region,
            on_drop: RefCell::new(None),
        }))
    }

    /// Takes a frame; `None` while all are in use. Its bytes are what its last user left.
    #[inline]
    pub fn take(&self) -> Option<Buffer> {
        let frame = self.0.free.borrow_mut().pop()?;
        let offset = frame as usize * self.0.frame_bytes;
        let start = self.0.mapping.at(offset);
        Some(Buffer { start, len: self.0.frame_bytes, owner: Owner::Pool { pool: Rc::clone(&self.0), frame } })
    }

    /// The size of a frame in bytes.
    #[inline]
    pub fn frame_bytes(&self) -> usize {
        self.0.frame_bytes
    }

    /// How many frames it has.
    #[inline]
    pub fn frames(&self) -> usize {
        self.0.frames
    }

    /// How many frames can be taken now.
    #[inline]
    pub fn free(&self) -> usize {
        self.0.free.borrow().len()
    }

    /// Whether the frames are registered with a ring.
    pub fn is_registered(&self) -> bool {
        self.0.registered_base.get().is_some()
    }

    /// The regions to register, in order.
    pub(crate) fn regions(&self) -> Vec<libc::iovec> {
        let region_bytes = self.0.frames_per_region * self.0.frame_bytes;
        let total = self.0.frame_bytes * self.0.frames;
        (0..total)
            .step_by(region_bytes)
            .map(|offset| libc::iovec {
                iov_base: self.0.mapping.at(offset).as_ptr().cast(),
                iov_len: region_bytes.min(total - offset),
            })
            .collect()
    }

    /// Notes that the regions are registered from this index on; `on_drop` runs when the pool and all its frames are gone.
    pub(crate) fn set_registered(&self, base: u16, on_drop: impl FnOnce() + 'static) {
        self.0.registered_base.set(Some(base));
        *self.0.on_drop.borrow_mut() = Some(Box::new(on_drop));
    }
}

impl Drop for PoolShared {
    fn drop(&mut self) {
        if let Some(on_drop) = self.on_drop.borrow_mut().take() {
            on_drop();
        }
    }
}

impl fmt::Debug for BufferPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BufferPool({} frames of {} bytes, {} free)", self.frames(), self.frame_bytes(), self.free())
    }
}

/// Anonymous memory, zeroed, in huge pages where the kernel has them.
struct Mapping {
    start: NonNull<u8>,
    len: usize,
}

impl Mapping {
    fn new(len: usize) -> Mapping {
        const PROTECTION: i32 = libc::PROT_READ | libc::PROT_WRITE;
        const FLAGS: i32 = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a new anonymous mapping at an address of the kernel's choice affects no other memory.
        let address = unsafe { libc::mmap(std::ptr::null_mut(), len, PROTECTION, FLAGS, -1, 0) };
        assert!(address != libc::MAP_FAILED, "no memory for a pool of {len} bytes");
        if !cfg!(miri) {
            // SAFETY: advice on our own mapping; it changes no contents, and its failure is of no consequence.
            unsafe { libc::madvise(address, len, libc::MADV_HUGEPAGE) };
            // SAFETY: as above. A child has no use for frames that the kernel may be writing to.
            unsafe { libc::madvise(address, len, libc::MADV_DONTFORK) };
        }
        let Some(start) = NonNull::new(address.cast()) else { unreachable!("mmap never returns null") };
        Mapping { start, len }
    }

    /// The address `offset` bytes in.
    #[inline]
    fn at(&self, offset: usize) -> NonNull<u8> {
        assert!(offset < self.len);
        // SAFETY: inside the mapping, by the assertion.
        unsafe { self.start.add(offset) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped in `new` with this length; no buffer is left (invariant 3).
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}

fn heap_layout(len: usize) -> Layout {
    match Layout::from_size_align(len, ALIGNMENT) {
        Ok(layout) => layout,
        Err(_) => panic!("a buffer of {len} bytes exceeds the address space"),
    }
}

fn allocate(layout: Layout) -> NonNull<u8> {
    // SAFETY: `heap` asks for at least one block, so the size is not 0.
    let start = unsafe { alloc_zeroed(layout) };
    NonNull::new(start).unwrap_or_else(|| handle_alloc_error(layout))
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    #[test]
    fn heap_buffers_are_aligned_zeroed_and_rounded_up() {
        for (asked, got) in [(0, 4096), (1, 4096), (4096, 4096), (4097, 8192)] {
            let buffer = Buffer::heap(asked);
            assert_eq!(buffer.len(), got);
            assert_eq!(buffer.as_ptr() as usize % ALIGNMENT, 0);
            assert!(*buffer == *vec![0; got]);
        }
    }

    #[test]
    fn frames_return_to_their_pool_and_do_not_overlap() {
        let pool = BufferPool::new(8192, 3, 1 << 30, 0);
        let mut frames: Vec<Buffer> = std::iter::from_fn(|| pool.take()).collect();
        assert_eq!((frames.len(), pool.free(), pool.frames(), pool.frame_bytes()), (3, 0, 3, 8192));
        for (index, frame) in frames.iter_mut().enumerate() {
            frame.fill(index as u8 + 1);
        }
        for (index, frame) in frames.iter().enumerate() {
            assert!(**frame == *vec![index as u8 + 1; 8192]);
        }
        frames.pop();
        assert_eq!(pool.free(), 1);
        drop(pool);
        assert_eq!(frames[0][0], 1);
    }

    #[test]
    fn large_pools_are_registered_in_regions_that_split_no_frame() {
        let pool = BufferPool::new(8192, 5, 20_000, 0);
        let lengths: Vec<usize> = pool.regions().iter().map(|region| region.iov_len).collect();
        assert_eq!(lengths, [16384, 16384, 8192]);
        let dropped = Rc::new(Cell::new(false));
        let seen = Rc::clone(&dropped);
        pool.set_registered(7, move || seen.set(true));
        let frames: Vec<Buffer> = std::iter::from_fn(|| pool.take()).collect();
        let indexes: Vec<Option<u16>> = frames.iter().map(Buffer::registered_index).collect();
        assert_eq!(indexes, [Some(7), Some(7), Some(8), Some(8), Some(9)]);
        drop(pool);
        assert!(!dropped.get());
        drop(frames);
        assert!(dropped.get());
    }
}
