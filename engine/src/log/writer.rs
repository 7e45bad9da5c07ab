//! Appending to a log. The algorithm is in the [module](super).
//!
//! # Buffers
//!
//! A block's buffer is moved into its write and comes back with the result; nothing else refers to it.
//!
//! # Extents
//!
//! The writer's own, until [`LogWriter::trim`] or [`LogWriter::retire`] gives them to the caller, who frees them after the edit that stops
//! referring to them is durable. They are not freed when the writer is dropped: the manifest refers to them.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use futures_util::future::join_all;
use siltstone_io::{Buffer, Class, IoError, OpKind, Placement, WriteDurability, local::Event};

use super::block::{BlockHeader, HEADER_BYTES, LOG_PAGE_BYTES, block_bytes};
use super::{Durability, Fifo, LogPosition};
use crate::types::ExtentId;
use crate::volume::Volume;
use crate::{Error, Result};

/// The largest block; less where the device wants it, and at most half an extent.
const BLOCK_BYTES_MAX: usize = 256 << 10;
/// Successors of the current extent that are reserved ahead of time.
const SUCCESSORS: usize = 2;

/// Where a commit is in its log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LogRange {
    /// Its first block.
    pub(crate) start: LogPosition,
    /// The block after its last.
    pub(crate) end: LogPosition,
}

/// Appends to one log. Clones are the same writer.
#[derive(Clone)]
pub(crate) struct LogWriter {
    inner: Rc<Inner>,
}

struct Inner {
    volume: Volume,
    log_id: u64,
    placement: Placement,
    pages_per_extent: u32,
    block_pages_max: u32,
    head: LogPosition,
    turns: Fifo,
    place: RefCell<Place>,
    /// The last block of the last acknowledged commit.
    acknowledged: Cell<u64>,
    /// The last block that is known to be durable.
    durable: Cell<u64>,
    /// The last block of the last commit that asked for no durability.
    cached: Cell<u64>,
    written_bytes: Cell<u64>,
    failed: RefCell<Option<Error>>,
    changed: Event,
}

/// Where the next block goes.
struct Place {
    /// The extents with blocks in them that are not trimmed, and last the one where the next block goes.
    chain: VecDeque<ChainExtent>,
    /// The successors of the last extent of the chain, in order.
    ahead: VecDeque<ExtentId>,
    page: u32,
    seq: u64,
    /// Whether a task is getting a successor.
    reserving: bool,
    /// Whether the last such task failed.
    starved: bool,
}

struct ChainExtent {
    extent: ExtentId,
    first_seq: u64,
}

/// A sealed block on its way to the device.
struct Sealed {
    offset: u64,
    buffer: Buffer,
    len: usize,
}

impl LogWriter {
    /// Begins a new log. It exists once something durable refers to its [`LogWriter::head`].
    pub(crate) async fn create(volume: Volume, placement: Placement) -> Result<LogWriter> {
        // Whoever appends next waits for this one's turn, of whatever class they are.
        let volume = volume.urgent();
        let first = volume.allocate_extent(placement).await?;
        let second = match volume.allocate_extent(placement).await {
            Ok(second) => second,
            Err(error) => {
                volume.free_extents(vec![first]).await;
                return Err(error);
            }
        };
        let log_id = volume.parts().new_id();
        let head = LogPosition { log_id, extent: first, page: 0, seq: 1 };
        let extent_bytes = volume.parts().extent_bytes() as usize;
        let max_io = volume.device().geometry().max_io_bytes as usize;
        let block_pages_max = BLOCK_BYTES_MAX.min(max_io).min(extent_bytes / 2) / LOG_PAGE_BYTES;
        let place = Place {
            chain: VecDeque::from([ChainExtent { extent: first, first_seq: 1 }]),
            ahead: VecDeque::from([second]),
            page: 0,
            seq: 1,
            reserving: false,
            starved: false,
        };
        let inner = Inner {
            volume,
            log_id,
            placement,
            pages_per_extent: (extent_bytes / LOG_PAGE_BYTES) as u32,
            block_pages_max: (block_pages_max as u32).max(1),
            head,
            turns: Fifo::default(),
            place: RefCell::new(place),
            acknowledged: Cell::new(0),
            durable: Cell::new(0),
            cached: Cell::new(0),
            written_bytes: Cell::new(0),
            failed: RefCell::new(None),
            changed: Event::new(),
        };
        Ok(LogWriter { inner: Rc::new(inner) })
    }

    /// Where the log began.
    pub(crate) fn head(&self) -> LogPosition {
        self.inner.head
    }

    /// Where the next commit goes.
    pub(crate) fn position(&self) -> LogPosition {
        self.inner.position()
    }

    /// Bytes of all blocks so far.
    pub(crate) fn bytes_written(&self) -> u64 {
        self.inner.written_bytes.get()
    }

    /// The extents that are the writer's own: those with blocks in them, and those reserved.
    #[cfg(feature = "testing")]
    pub(crate) fn extents(&self) -> Vec<ExtentId> {
        let place = self.inner.place.borrow();
        place.chain.iter().map(|extent| extent.extent).chain(place.ahead.iter().copied()).collect()
    }

    /// The failure after which nothing is appended any more.
    #[cfg(test)]
    pub(super) fn failed(&self) -> Option<Error> {
        self.inner.failed.borrow().clone()
    }

    /// Appends the concatenation of `payload` as one commit. Returns when it is acknowledged; several calls may be under way,
    /// and are acknowledged in the order in which they were first polled.
    ///
    /// # Errors
    ///
    /// `NoSpace` or an I/O error from reserving space: nothing has changed. Any other error, and abandoning the future, is final for the log.
    pub(crate) async fn append(&self, payload: &[&[u8]], durability: Durability) -> Result<LogRange> {
        let inner = &*self.inner;
        let bytes = payload.iter().map(|part| part.len()).sum();
        let turn = inner.turns.turn().await;
        inner.check()?;
        inner.reserve_successors(bytes).await?;
        let mut guard = Guard { inner, done: false };
        let start = inner.position();
        let blocks = inner.seal_blocks(payload, bytes);
        let range = LogRange { start, end: inner.position() };
        drop(turn);
        self.reserve_ahead();

        let through = inner.write_through(range, durability);
        inner.write(blocks, through).await?;
        inner.acknowledge(range, durability, through).await?;
        guard.done = true;
        Ok(range)
    }

    /// Makes sure that one append of this many bytes, if it is the next, will not find the device full.
    pub(crate) async fn reserve(&self, bytes: usize) -> Result<()> {
        let _turn = self.inner.turns.turn().await;
        self.inner.check()?;
        self.inner.reserve_successors(bytes).await
    }

    /// Whether a commit of this many bytes, if it is the next, has a place: in extents that are reserved or, as long as the last attempt to
    /// reserve one succeeded, in extents still to be reserved. Where it has none, another attempt is begun.
    pub(crate) fn has_room(&self, bytes: usize) -> bool {
        if self.inner.place.borrow().ahead.len() >= self.inner.successors_needed(bytes) {
            return true;
        }
        self.reserve_ahead();
        !self.inner.place.borrow().starved
    }

    /// Makes every append durable that was called before.
    #[cfg_attr(
        not(test),
        expect(dead_code, reason = "every commit of the WAL and the manifest asks to be durable itself")
    )]
    pub(crate) async fn sync(&self) -> Result<()> {
        let inner = &*self.inner;
        let target = inner.place.borrow().seq - 1;
        inner.wait_for(target).await?;
        if inner.durable.get() < target {
            let covered = inner.acknowledged.get();
            inner.flush().await?;
            inner.durable.set(inner.durable.get().max(covered));
        }
        Ok(())
    }

    /// Takes out the extents that lie wholly before `floor`, a position of this log. The caller frees them when nothing durable refers to
    /// them any more.
    pub(crate) fn trim(&self, floor: LogPosition) -> Vec<ExtentId> {
        assert_eq!(floor.log_id, self.inner.log_id, "a position of another log");
        let mut place = self.inner.place.borrow_mut();
        let before = place.chain.partition_point(|extent| extent.first_seq <= floor.seq).saturating_sub(1);
        place.chain.drain(..before).map(|extent| extent.extent).collect()
    }

    /// Ends the log: waits for what is under way and gives all its extents to the caller. Later appends fail.
    pub(crate) async fn retire(&self) -> Vec<ExtentId> {
        let inner = &*self.inner;
        let _turn = inner.turns.turn().await;
        let last = inner.place.borrow().seq - 1;
        // Where the log has failed, a write may still be under way: its extents are left to the next opening.
        let ended = inner.wait_for(last).await;
        while inner.place.borrow().reserving {
            inner.changed.wait().await;
        }
        inner.fail(&Error::Closed);
        let mut place = inner.place.borrow_mut();
        let mut extents: Vec<ExtentId> = place.ahead.drain(..).collect();
        if ended.is_ok() {
            extents.extend(place.chain.drain(..).map(|extent| extent.extent));
        }
        extents
    }

    /// Gets a successor in the background, so that the append that fills the current extent need not wait, and a full device is noticed while
    /// there is still a place for what is under way: for a WAL at once, for a log that grows slowly when the current extent is half full.
    fn reserve_ahead(&self) {
        {
            let mut place = self.inner.place.borrow_mut();
            let early = matches!(self.inner.placement, Placement::Wal) || place.page >= self.inner.pages_per_extent / 2;
            let enough = place.ahead.len() >= SUCCESSORS && !place.starved;
            if place.reserving || enough || !early {
                return;
            }
            place.reserving = true;
        }
        let inner = Rc::clone(&self.inner);
        self.inner.volume.handle().spawn(Class::Foreground, async move {
            // An error is met again, and reported, by the append that needs the extent.
            let allocated = inner.volume.allocate_extent(inner.placement).await;
            let mut place = inner.place.borrow_mut();
            place.starved = allocated.is_err();
            place.ahead.extend(allocated);
            place.reserving = false;
            drop(place);
            inner.changed.notify_all();
        });
    }
}

impl Inner {
    fn position(&self) -> LogPosition {
        let place = self.place.borrow();
        let extent = place.chain.back().expect("a log has a current extent").extent;
        LogPosition { log_id: self.log_id, extent, page: place.page, seq: place.seq }
    }

    /// How many extents behind the current one a commit of this many bytes needs, the last one's successor included.
    fn successors_needed(&self, bytes: usize) -> usize {
        let page = self.place.borrow().page;
        let pieces = Pieces::new(page, self.pages_per_extent, self.block_pages_max, bytes);
        1 + pieces.filter(|piece| piece.page == 0).count() - usize::from(page == 0)
    }

    /// Gets a successor for each extent that a commit of this many bytes will touch. The caller has the turn.
    async fn reserve_successors(&self, bytes: usize) -> Result<()> {
        let needed = self.successors_needed(bytes);
        loop {
            if self.place.borrow().ahead.len() >= needed {
                return Ok(());
            }
            if self.place.borrow().reserving {
                self.changed.wait().await;
                continue;
            }
            // Whoever else adds one meanwhile: the first of `ahead` stays, once a block names it.
            let extent = self.volume.allocate_extent(self.placement).await?;
            self.place.borrow_mut().ahead.push_back(extent);
        }
    }

    /// Cuts, numbers and seals a commit's blocks and moves the place behind them. Its successors are there.
    fn seal_blocks(&self, payload: &[&[u8]], bytes: usize) -> Vec<Sealed> {
        let place = &mut *self.place.borrow_mut();
        let parts = self.volume.parts();
        let durable_through = self.durable.get();
        let mut source = Source { parts: payload, at: 0 };
        let mut blocks = Vec::with_capacity(1);
        for piece in Pieces::new(place.page, self.pages_per_extent, self.block_pages_max, bytes) {
            assert_eq!(place.page, piece.page);
            let header = BlockHeader {
                first: piece.first,
                last: piece.last,
                log_id: self.log_id,
                seq: place.seq,
                durable_through,
                payload_bytes: piece.payload_bytes as u32,
                next: *place.ahead.front().expect("successors were reserved"),
            };
            let extent = place.chain.back().expect("a log has a current extent").extent;
            let offset = parts.offset(extent) + u64::from(piece.page) * LOG_PAGE_BYTES as u64;
            let len = header.block_bytes();
            let mut buffer = self.volume.buffer(len);
            source.copy_to(&mut buffer[HEADER_BYTES..HEADER_BYTES + piece.payload_bytes]);
            header.seal(parts.id(), offset, &mut buffer[..len]);
            blocks.push(Sealed { offset, buffer, len });

            self.written_bytes.set(self.written_bytes.get() + len as u64);
            place.seq += 1;
            place.page += (len / LOG_PAGE_BYTES) as u32;
            if place.page == self.pages_per_extent {
                let extent = place.ahead.pop_front().expect("successors were reserved");
                place.chain.push_back(ChainExtent { extent, first_seq: place.seq });
                place.page = 0;
            }
        }
        blocks
    }

    /// Whether a commit becomes durable by its own write alone: it asks to be, is one block, and no earlier commit was merely cached.
    fn write_through(&self, range: LogRange, durability: Durability) -> bool {
        if durability == Durability::Cached {
            self.cached.set(range.end.seq - 1);
            return false;
        }
        range.end.seq - range.start.seq == 1
            && (self.cached.get() <= self.durable.get() || mutant!(WriteThroughCoversEarlier))
    }

    async fn write(&self, mut blocks: Vec<Sealed>, through: bool) -> Result<()> {
        let durability = || if through { WriteDurability::Durable } else { WriteDurability::Cached };
        let write =
            |Sealed { offset, buffer, len }| self.volume.write(offset, buffer, len, durability(), self.placement);
        let result = match (blocks.pop(), blocks.is_empty()) {
            (Some(only), true) => write(only).await,
            (last, _) => join_all(blocks.into_iter().chain(last).map(write)).await.into_iter().collect(),
        };
        if result.is_err() && mutant!(LogWriteFailureIgnored) {
            return Ok(());
        }
        result.map_err(|error| self.fail(&error.into()))
    }

    /// Waits for the commits before this one, and makes it durable.
    async fn acknowledge(&self, range: LogRange, durability: Durability, through: bool) -> Result<()> {
        self.wait_for(range.start.seq - 1).await?;
        let last = range.end.seq - 1;
        if durability == Durability::Durable {
            let forgotten = range.end.seq - range.start.seq > 1 && mutant!(LargeCommitNotFlushed);
            if !through && !forgotten {
                self.flush().await?;
            }
            self.durable.set(self.durable.get().max(last));
        }
        self.acknowledged.set(last);
        self.changed.notify_all();
        Ok(())
    }

    async fn flush(&self) -> Result<()> {
        self.volume.flush().await.map_err(|error| self.fail(&error))
    }

    async fn wait_for(&self, seq: u64) -> Result<()> {
        while self.acknowledged.get() < seq {
            self.check()?;
            self.changed.wait().await;
        }
        self.check()
    }

    fn check(&self) -> Result<()> {
        self.failed.borrow().as_ref().map_or(Ok(()), |error| Err(error.clone()))
    }

    /// Latches the first failure, and gives it.
    fn fail(&self, error: &Error) -> Error {
        let first = self.failed.borrow_mut().get_or_insert_with(|| error.clone()).clone();
        self.changed.notify_all();
        first
    }
}

impl Drop for Inner {
    /// The chain stays for readers. A writer that is dropped gives up the extents that hold no block: the successors, and the current one
    /// where the last block filled the one before it.
    fn drop(&mut self) {
        let place = self.place.get_mut();
        let mut unused: Vec<ExtentId> = place.ahead.drain(..).collect();
        if place.page == 0 && place.chain.len() > 1 {
            unused.extend(place.chain.pop_back().map(|current| current.extent));
        }
        self.volume.parts().abandon(unused);
    }
}

/// Latches a failure where an append does not come to its end: its blocks are numbered but may not be written.
struct Guard<'a> {
    inner: &'a Inner,
    done: bool,
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        if !self.done {
            let path = self.inner.volume.device().path();
            self.inner.fail(&IoError::other(OpKind::Write, path, 0, 0, "an append to the log was abandoned").into());
        }
    }
}

/// The bytes of a commit, given in parts.
struct Source<'a> {
    parts: &'a [&'a [u8]],
    at: usize,
}

impl Source<'_> {
    fn copy_to(&mut self, mut target: &mut [u8]) {
        while !target.is_empty() {
            let rest = &self.parts[0][self.at..];
            let taken = rest.len().min(target.len());
            let (head, tail) = target.split_at_mut(taken);
            head.copy_from_slice(&rest[..taken]);
            target = tail;
            self.at += taken;
            if self.at == self.parts[0].len() {
                (self.parts, self.at) = (&self.parts[1..], 0);
            }
        }
    }
}

/// How a commit is cut into blocks: as few as possible, none across the end of an extent.
struct Pieces {
    page: u32,
    pages_per_extent: u32,
    block_pages_max: u32,
    bytes: usize,
    first: bool,
    ended: bool,
}

#[derive(Debug, PartialEq, Eq)]
struct Piece {
    page: u32,
    payload_bytes: usize,
    first: bool,
    last: bool,
}

impl Pieces {
    fn new(page: u32, pages_per_extent: u32, block_pages_max: u32, bytes: usize) -> Self {
        Pieces { page, pages_per_extent, block_pages_max, bytes, first: true, ended: false }
    }
}

impl Iterator for Pieces {
    type Item = Piece;

    fn next(&mut self) -> Option<Piece> {
        if self.ended {
            return None;
        }
        let room_pages = (self.pages_per_extent - self.page).min(self.block_pages_max);
        let payload_bytes = self.bytes.min(room_pages as usize * LOG_PAGE_BYTES - HEADER_BYTES);
        let page = self.page;
        self.bytes -= payload_bytes;
        self.ended = self.bytes == 0;
        self.page += (block_bytes(payload_bytes) / LOG_PAGE_BYTES) as u32;
        if self.page == self.pages_per_extent {
            self.page = 0;
        }
        let first = std::mem::take(&mut self.first);
        Some(Piece { page, payload_bytes, first, last: self.ended })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_commit_is_cut_at_the_end_of_the_extent_and_at_the_largest_block() {
        let pieces: Vec<Piece> = Pieces::new(14, 16, 4, 30_000).collect();
        let piece = |page, payload_bytes, first, last| Piece { page, payload_bytes, first, last };
        let (half, full) = (2 * 4096 - 64, 4 * 4096 - 64);
        let expected =
            [piece(14, half, true, false), piece(0, full, false, false), piece(4, 30_000 - half - full, false, true)];
        assert_eq!(pieces, expected);
        assert_eq!(Pieces::new(0, 16, 4, 0).collect::<Vec<_>>(), [piece(0, 0, true, true)]);
    }

    proptest! {
        #[test]
        fn pieces_hold_all_bytes_and_stay_in_their_extent(page in 0u32..16, max in 1u32..=16, bytes in 0usize..300_000) {
            let pieces: Vec<Piece> = Pieces::new(page, 16, max, bytes).collect();
            prop_assert_eq!(pieces.iter().map(|piece| piece.payload_bytes).sum::<usize>(), bytes);
            let mut at = page;
            for (index, piece) in pieces.iter().enumerate() {
                let pages = (block_bytes(piece.payload_bytes) / LOG_PAGE_BYTES) as u32;
                prop_assert!(piece.page == at && pages <= max && at + pages <= 16);
                prop_assert_eq!((piece.first, piece.last), (index == 0, index + 1 == pieces.len()));
                at = (at + pages) % 16;
            }
        }

        #[test]
        fn a_source_is_the_concatenation_of_its_parts(parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..9), 0..6), cut: prop::sample::Index) {
            let all = parts.concat();
            let slices: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
            let mut source = Source { parts: &slices, at: 0 };
            let mut copied = vec![0; all.len()];
            let (a, b) = copied.split_at_mut(cut.index(all.len() + 1));
            source.copy_to(a);
            source.copy_to(b);
            prop_assert_eq!(copied, all);
        }
    }
}
