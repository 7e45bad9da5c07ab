//! The ring's tables of registered files and registered buffers: which slots are used, and giving them back.
//!
//! A slot's user may be dropped at any time, also while the ring is borrowed, so it only notes its slot in a list; the ring clears these
//! at its next turn.

use std::cell::RefCell;
use std::ops::Range;
use std::os::fd::RawFd;
use std::rc::Rc;

use super::uring::Uring;
use crate::buffer::BufferPool;

pub(super) const FILE_SLOTS: u32 = 64;
pub(super) const BUFFER_SLOTS: u32 = 1024;

/// Slots that are in use.
struct Slots {
    used: Vec<bool>,
}

impl Slots {
    fn new(len: u32) -> Slots {
        Slots { used: vec![false; len as usize] }
    }

    /// Takes `count` neighbouring slots.
    fn take(&mut self, count: usize) -> Option<Range<usize>> {
        let start = (0..(self.used.len() + 1).checked_sub(count)?)
            .find(|start| self.used[*start..start + count].iter().all(|used| !used))?;
        self.used[start..start + count].fill(true);
        Some(start..start + count)
    }

    fn give_back(&mut self, range: Range<usize>) {
        self.used[range].fill(false);
    }
}

/// A registered file's slot; given back when dropped.
pub(crate) struct FileSlot {
    index: u32,
    released: Rc<RefCell<Vec<u32>>>,
}

impl FileSlot {
    #[inline]
    pub(crate) fn index(&self) -> u32 {
        self.index
    }
}

impl Drop for FileSlot {
    fn drop(&mut self) {
        self.released.borrow_mut().push(self.index);
    }
}

/// The table of registered files; `None` where the kernel has none.
pub(super) struct FileTable {
    slots: Option<Slots>,
    released: Rc<RefCell<Vec<u32>>>,
}

impl FileTable {
    pub(super) fn new(available: bool) -> FileTable {
        FileTable { slots: available.then(|| Slots::new(FILE_SLOTS)), released: Rc::default() }
    }

    pub(super) fn register(&mut self, ring: &Uring, fd: RawFd) -> Option<FileSlot> {
        self.collect(ring);
        let range = self.slots.as_mut()?.take(1)?;
        let index = range.start as u32;
        if let Err(error) = ring.submitter().register_files_update(index, &[fd]) {
            tracing::warn!(%error, "a file could not be registered with the ring: it is used unregistered");
            self.slots.as_mut()?.give_back(range);
            return None;
        }
        Some(FileSlot { index, released: Rc::clone(&self.released) })
    }

    #[inline]
    pub(super) fn collect(&mut self, ring: &Uring) {
        if self.released.borrow().is_empty() {
            return;
        }
        let Some(slots) = &mut self.slots else { return };
        for index in self.released.borrow_mut().drain(..) {
            // Clearing a slot that is in use cannot fail.
            let _ = ring.submitter().register_files_update(index, &[-1]);
            slots.give_back(index as usize..index as usize + 1);
        }
    }

    /// Gives all up at the end: a closed ring would hold the files for a moment longer.
    pub(super) fn unregister(&mut self, ring: &Uring) {
        if self.slots.take().is_some() {
            let _ = ring.submitter().unregister_files();
        }
    }
}

/// The table of registered buffers; `None` where the kernel has none.
pub(super) struct BufferTable {
    slots: Option<Slots>,
    released: Rc<RefCell<Vec<Range<usize>>>>,
    warned: bool,
}

impl BufferTable {
    pub(super) fn new(available: bool) -> BufferTable {
        BufferTable { slots: available.then(|| Slots::new(BUFFER_SLOTS)), released: Rc::default(), warned: false }
    }

    /// Registers a pool with all rings, at the same slots, or with none.
    pub(super) fn register(&mut self, rings: &[&Uring], pool: &BufferPool) {
        self.collect(rings);
        let Some(slots) = &mut self.slots else { return };
        let regions = pool.regions();
        let Some(range) = slots.take(regions.len()) else {
            return self.warn("the ring's table is full");
        };
        let register = |ring: &Uring| {
            // SAFETY: the regions are the pool's mapping. The kernel pins their pages; and the slots are cleared after the pool, before any
            // other use of them. Operations that use the slots own a frame, which keeps the mapping.
            unsafe { ring.submitter().register_buffers_update(range.start as u32, &regions, None) }
        };
        let result = rings.iter().copied().try_for_each(register);
        match result {
            Ok(()) => {
                let released = Rc::clone(&self.released);
                pool.set_registered(range.start as u16, move || released.borrow_mut().push(range));
            }
            Err(error) => {
                // The first may have taken it.
                for ring in rings {
                    clear(ring, &range);
                }
                slots.give_back(range);
                self.warn(&error.to_string());
            }
        }
    }

    fn warn(&mut self, reason: &str) {
        if !std::mem::replace(&mut self.warned, true) {
            let hint = "a larger memlock limit (ulimit -l) may help";
            tracing::warn!(reason, "buffers are not registered with the ring, which costs CPU: {hint}");
        }
    }

    #[inline]
    pub(super) fn collect(&mut self, rings: &[&Uring]) {
        if self.released.borrow().is_empty() {
            return;
        }
        let Some(slots) = &mut self.slots else { return };
        for range in self.released.borrow_mut().drain(..) {
            match rings.iter().filter(|ring| !clear(ring, &range)).count() {
                0 => slots.give_back(range),
                _ => tracing::warn!("a slot of the ring's buffer table could not be cleared"),
            }
        }
    }

    /// Gives all up at the end, and with it the memory that is pinned.
    pub(super) fn unregister(&mut self, rings: &[&Uring]) {
        if self.slots.take().is_some() {
            rings.iter().for_each(|ring| drop(ring.submitter().unregister_buffers()));
        }
    }
}

/// Clears slots of a ring's table; whether that worked.
fn clear(ring: &Uring, range: &Range<usize>) -> bool {
    let none = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
    let cleared = vec![none; range.len()];
    // SAFETY: empty entries refer to no memory.
    unsafe { ring.submitter().register_buffers_update(range.start as u32, &cleared, None) }.is_ok()
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    #[test]
    fn slots_are_taken_as_neighbours_and_reused() {
        let mut slots = Slots::new(4);
        assert_eq!(slots.take(3), Some(0..3));
        assert_eq!(slots.take(2), None);
        assert_eq!(slots.take(1), Some(3..4));
        slots.give_back(1..3);
        assert_eq!(slots.take(2), Some(1..3));
        assert_eq!(slots.take(5), None);
    }
}
