//! The sequential writer of an SST: pages in, large aligned writes out.
//!
//! # Algorithm
//!
//! 1. `push` copies pages into the current buffer; a full one is queued. It never waits, so the table builder need not.
//! 2. `drain_if_needed` starts queued writes while fewer than [`WRITES_IN_FLIGHT_MAX`] are in flight, allocating extents as they are reached,
//!    and returns when the queue is empty: a caller that awaits it between entries holds a few buffers at most.
//! 3. `finish` writes the rest, waits for all writes, gives the unused end of the last extent back to the device, and hands out the [`SstFile`].
//!    The caller then flushes the device and commits the SST to its manifest.
//!
//! # Buffers and extents
//!
//! Each write is awaited by a task of its own, which has a share of the lease on the extents. So where the writer is dropped, or a write
//! fails, the extents are not given up before the last write to them has ended.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use siltstone_io::{Buffer, Class, Placement, WriteDurability, local::Event};

use super::{Lease, SstFile, Volume};
use crate::table::PageSink;
use crate::types::SstId;
use crate::{Error, Result};

/// Bytes of one write, less where the extents are smaller.
const WRITE_BYTES: usize = 256 << 10;
/// Writes that are in flight at one time.
const WRITES_IN_FLIGHT_MAX: u32 = 4;

/// Writes one SST.
pub(crate) struct SstWriter {
    volume: Volume,
    id: SstId,
    placement: Placement,
    class: Class,
    write_bytes: usize,
    current: Option<Buffer>,
    current_len: usize,
    full: VecDeque<Buffer>,
    /// Bytes handed to the device so far.
    issued_bytes: u64,
    flight: Rc<Flight>,
}

/// What the writes in flight share with the writer.
struct Flight {
    lease: Lease,
    writes: Cell<u32>,
    error: RefCell<Option<Error>>,
    ended: Event,
}

impl SstWriter {
    /// A writer for a new SST, its writes of this class.
    pub(crate) fn new(volume: Volume, placement: Placement, class: Class) -> SstWriter {
        let write_bytes = WRITE_BYTES.min(volume.parts().extent_bytes() as usize);
        let flight = Rc::new(Flight {
            lease: Lease::new(volume.parts().clone()),
            writes: Cell::new(0),
            error: RefCell::new(None),
            ended: Event::new(),
        });
        SstWriter {
            id: volume.parts().new_sst_id(),
            volume,
            placement,
            class,
            write_bytes,
            current: None,
            current_len: 0,
            full: VecDeque::new(),
            issued_bytes: 0,
            flight,
        }
    }

    /// The identity that the SST will have.
    pub(crate) fn id(&self) -> SstId {
        self.id
    }

    /// Whether [`Self::drain_if_needed`] has anything to do: a look between entries without the cost of a future.
    #[inline]
    pub(crate) fn needs_drain(&self) -> bool {
        !self.full.is_empty()
    }

    /// Writes what is queued; waits only while the most writes are in flight. After an error the writer is to be dropped.
    pub(crate) async fn drain_if_needed(&mut self) -> Result<()> {
        while let Some(buffer) = self.full.pop_front() {
            self.issue(buffer, self.write_bytes).await?;
        }
        self.flight.check()
    }

    /// Writes the rest and waits for all of it; durable after a flush of the device. Dropped before it is retained for a manifest, the SST's
    /// space is free again.
    pub(crate) async fn finish(mut self) -> Result<Arc<SstFile>> {
        self.drain_if_needed().await?;
        if let Some(last) = self.current.take() {
            self.issue(last, self.current_len).await?;
        }
        while self.flight.writes.get() > 0 && !mutant!(SstFinishedBeforeItsWrites) {
            self.flight.ended.wait().await;
        }
        self.flight.check()?;
        self.discard_tail().await;
        let pages = self.issued_bytes / u64::from(self.volume.parts().page_bytes());
        let pages = u32::try_from(pages).expect("an SST has fewer than 2^32 pages");
        assert!(pages > 0, "an SST has pages");
        SstFile::new(self.volume.parts().clone(), self.id, pages, self.flight.lease.take())
    }

    async fn issue(&mut self, buffer: Buffer, len: usize) -> Result<()> {
        while self.flight.writes.get() >= WRITES_IN_FLIGHT_MAX {
            self.flight.ended.wait().await;
        }
        self.flight.check()?;
        let extent_bytes = u64::from(self.volume.parts().extent_bytes());
        let (index, within) = ((self.issued_bytes / extent_bytes) as usize, self.issued_bytes % extent_bytes);
        if index == self.flight.lease.len() {
            self.flight.lease.add(self.volume.allocate_extent(self.placement).await?);
        }
        assert!(within + len as u64 <= extent_bytes, "writes divide extents");
        let offset = self.volume.parts().offset(self.flight.lease.at(index)) + within;
        self.issued_bytes += len as u64;

        let write = self.volume.device().write(offset, buffer, 0..len, WriteDurability::Cached, self.placement);
        let flight = Rc::clone(&self.flight);
        flight.writes.set(flight.writes.get() + 1);
        self.volume.handle().spawn(self.class, async move {
            let (result, _buffer) = write.await;
            flight.writes.set(flight.writes.get() - 1);
            if let Err(error) = result
                && !mutant!(SstWriteFailureIgnored)
            {
                flight.error.borrow_mut().get_or_insert(error.into());
            }
            flight.ended.notify_all();
        });
        Ok(())
    }

    /// Gives the space behind the last page back, so that small SSTs do not each take up an extent of the disk.
    async fn discard_tail(&self) {
        let extent_bytes = u64::from(self.volume.parts().extent_bytes());
        let used = self.issued_bytes % extent_bytes;
        // Whole 64 KiB: what any filesystem or device can free.
        let start = used.next_multiple_of(64 << 10);
        if used == 0 || start >= extent_bytes {
            return;
        }
        let offset = self.volume.parts().offset(self.flight.lease.at(self.flight.lease.len() - 1)) + start;
        if let Err(error) = self.volume.device().discard(offset, extent_bytes - start).await {
            tracing::warn!(%error, "the unused end of an SST could not be given back to the device");
        }
    }
}

impl PageSink for SstWriter {
    fn push(&mut self, mut pages: &[u8]) {
        debug_assert_eq!(pages.len() % self.volume.parts().page_bytes() as usize, 0);
        while !pages.is_empty() {
            let buffer = self.current.get_or_insert_with(|| self.volume.buffer(self.write_bytes));
            let taken = pages.len().min(self.write_bytes - self.current_len);
            buffer[self.current_len..self.current_len + taken].copy_from_slice(&pages[..taken]);
            pages = &pages[taken..];
            self.current_len += taken;
            if self.current_len == self.write_bytes {
                self.full.extend(self.current.take());
                self.current_len = 0;
            }
        }
    }
}

impl Flight {
    fn check(&self) -> Result<()> {
        self.error.borrow().as_ref().map_or(Ok(()), |error| Err(error.clone()))
    }
}
