//! Many page reads in flight on one ring.
//!
//! 1. Each slot has a page, registered as the fixed buffer of that number, and at most one read in flight.
//! 2. While a slot's read is in flight its page belongs to the kernel: nobody forms a reference to it.
//! 3. The ring is empty before the pages go: `drop` waits for what is in flight.

use std::cell::UnsafeCell;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::time::Instant;

use io_uring::{IoUring, opcode, types};

use crate::Result;
use crate::measure::now;
use crate::ring::{PAGE_BYTES, Page};

/// A ring over one file.
pub(crate) struct RingReader {
    ring: IoUring,
    slots: Vec<Slot>,
    /// Slots without a read in flight.
    free: Vec<usize>,
}

struct Slot {
    page: Box<UnsafeCell<Page>>,
    offset: u64,
    start: Instant,
}

impl RingReader {
    /// A ring for up to `depth` reads in flight.
    pub(crate) fn new(file: &File, depth: usize) -> Result<Self> {
        if depth == 0 || depth > 4096 {
            return Err(format!("depth {depth} is not in 1 to 4096").into());
        }
        let ring = build_ring(depth as u32)?;
        let slots: Vec<Slot> = (0..depth)
            .map(|_| Slot { page: Box::new(UnsafeCell::new(Page::zero())), offset: 0, start: now() })
            .collect();
        let buffers: Vec<libc::iovec> = slots
            .iter()
            .map(|slot| libc::iovec { iov_base: slot.page.get().cast(), iov_len: PAGE_BYTES as usize })
            .collect();
        ring.submitter().register_files(&[file.as_raw_fd()])?;
        // SAFETY: the pages are boxed, so they stay where they are, and outlive all reads (point 3 of the module).
        unsafe { ring.submitter().register_buffers(&buffers)? };
        Ok(RingReader { ring, free: (0..depth).collect(), slots })
    }

    /// Reads a page at each offset, as many at once as the ring has slots, and hands each over as it arrives, with the time at
    /// which its read was begun.
    pub(crate) fn read_all(
        &mut self,
        mut offsets: impl Iterator<Item = u64>,
        mut arrived: impl FnMut(u64, &Page, Instant) -> Result<()>,
    ) -> Result<()> {
        let mut more = true;
        loop {
            while more && let Some(slot) = self.free.pop() {
                match offsets.next() {
                    Some(offset) => self.begin(slot, offset),
                    None => {
                        self.free.push(slot);
                        more = false;
                    }
                }
            }
            if self.free.len() == self.slots.len() {
                return Ok(());
            }
            self.wait()?;
            while let Some((slot, result)) = self.next_completion() {
                check_length(self.slots[slot].offset, result)?;
                let Slot { page, offset, start } = &self.slots[slot];
                // SAFETY: the slot's read has completed and the next one has not begun, so the kernel does not write to the page.
                let page = unsafe { &*page.get() };
                arrived(*offset, page, *start)?;
            }
        }
    }

    fn begin(&mut self, slot: usize, offset: u64) {
        let Slot { page, offset: slot_offset, start } = &mut self.slots[slot];
        (*slot_offset, *start) = (offset, now());
        let read = opcode::ReadFixed::new(types::Fixed(0), page.get().cast(), PAGE_BYTES as u32, slot as u16)
            .offset(offset)
            .build()
            .user_data(slot as u64);
        // SAFETY: the page lives until the completion (point 3 of the module), and the file is registered with the ring.
        let pushed = unsafe { self.ring.submission().push(&read) };
        assert!(pushed.is_ok(), "the ring has an entry for each slot");
    }

    fn wait(&mut self) -> io::Result<()> {
        loop {
            match self.ring.submit_and_wait(1) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result.map(|_| ()),
            }
        }
    }

    fn next_completion(&mut self) -> Option<(usize, i32)> {
        let completion = self.ring.completion().next()?;
        let slot = completion.user_data() as usize;
        self.free.push(slot);
        Some((slot, completion.result()))
    }
}

impl Drop for RingReader {
    fn drop(&mut self) {
        while self.free.len() < self.slots.len() {
            if self.wait().is_err() {
                // Reads may still be under way into the pages: they must stay.
                for slot in self.slots.drain(..) {
                    Box::leak(slot.page);
                }
                return;
            }
            while self.next_completion().is_some() {}
        }
    }
}

fn build_ring(entries: u32) -> io::Result<IoUring> {
    let all = IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_taskrun_flag()
        .setup_submit_all()
        .setup_no_sqarray()
        .dontfork()
        .build(entries);
    match all {
        // An older kernel.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            eprintln!("the kernel lacks ring features: falling back to COOP_TASKRUN");
            IoUring::builder().setup_coop_taskrun().dontfork().build(entries)
        }
        ring => ring,
    }
}

fn check_length(offset: u64, result: i32) -> Result<()> {
    if result == PAGE_BYTES as i32 {
        return Ok(());
    }
    let reason = match result {
        errno @ ..0 => io::Error::from_raw_os_error(-errno).to_string(),
        bytes => format!("{bytes} bytes"),
    };
    Err(format!("read of {PAGE_BYTES} bytes at {offset}: {reason}").into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ring::fill;

    #[test]
    fn every_offset_arrives_once_with_its_page() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pages");
        fill(&path, 100).unwrap();
        let file = File::open(&path).unwrap();
        for depth in [1, 7, 200] {
            let mut reader = RingReader::new(&file, depth).unwrap();
            let mut arrived = [0; 100];
            let offsets = (0..1_000).map(|i| i * 7 % 100 * PAGE_BYTES);
            let check = |offset: u64, page: &Page, _| {
                let number = u64::from_le_bytes(page.0[..8].try_into().unwrap());
                assert_eq!(number * PAGE_BYTES, offset);
                arrived[number as usize] += 1;
                Ok(())
            };
            reader.read_all(offsets, check).unwrap();
            assert_eq!(arrived, [10; 100]);
        }
    }

    #[test]
    fn a_read_past_the_end_is_an_error_and_leaves_nothing_in_flight() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pages");
        fill(&path, 2).unwrap();
        let mut reader = RingReader::new(&File::open(&path).unwrap(), 8).unwrap();
        assert!(reader.read_all([0, 9 * PAGE_BYTES, 0, PAGE_BYTES].into_iter(), |_, _, _| Ok(())).is_err());
    }
}
