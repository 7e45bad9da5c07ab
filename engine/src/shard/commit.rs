//! The write-ahead log of a shard: group commit.
//!
//! Writes put their records into one pending buffer. The commit task takes all of it and writes it as one commit of the log; what
//! comes meanwhile forms the next. With `Sync` the task runs as soon as something is pending (it is queued behind
//! the other ready tasks of the turn, so that all their writes share the device write and flush); with `Interval` it waits for the
//! interval or for 256 KiB, whichever is first.
//!
//! # Invariants
//!
//! 1. Records reach the log in the order of [`WalWriter::appended`], and `durable` never runs ahead of what the device has confirmed.
//! 2. After a failed append nothing is acknowledged any more: the shard is poisoned.

use std::cell::{Cell, RefCell, RefMut};
use std::ops::Range;
use std::rc::Rc;

use siltstone_io::local::Event;

use crate::engine::Durability;
use crate::error::{Error, Result};
use crate::log::{self, LogPosition, LogWriter};
use crate::manifest::WalChain;
use crate::shard::Shard;
use crate::types::{ExtentId, SeqNo};

/// Pending bytes at which `Interval` durability writes before its time.
const PENDING_BYTES_MAX: usize = 256 << 10;

/// How long to wait before the log tries again that found no space.
const RETRY_US: u64 = 100_000;

#[derive(Default)]
pub(crate) struct WalWriter {
    /// Absent with `Durability::Checkpoint` and in a read-only engine.
    log: Option<LogWriter>,
    pending: RefCell<Vec<u8>>,
    /// Batches appended to the pending buffer so far, and how many of them are on stable storage.
    appended: Cell<u64>,
    durable: Cell<u64>,
    /// Where the commit that is being written, or else the next one, starts.
    commit_start: Cell<Option<LogPosition>>,
    needed: Event,
    progressed: Event,
    forced: Cell<bool>,
    /// The log has found no space, and will try again.
    full: RefCell<Option<Error>>,
}

impl WalWriter {
    pub(crate) fn new(log: Option<LogWriter>) -> Self {
        let commit_start = Cell::new(log.as_ref().map(LogWriter::position));
        WalWriter { log, commit_start, ..WalWriter::default() }
    }

    pub(crate) fn pending(&self) -> RefMut<'_, Vec<u8>> {
        self.pending.borrow_mut()
    }

    /// A batch has been put into the pending buffer: returns its number.
    pub(crate) fn appended(&self, pending: RefMut<'_, Vec<u8>>) -> u64 {
        drop(pending);
        self.appended.set(self.appended.get() + 1);
        self.needed.notify_one();
        self.appended.get()
    }

    /// Waits until the batch with this number is on stable storage.
    pub(crate) async fn durable(&self, shard: &Shard, record: u64) -> Result<()> {
        while self.durable.get() < record {
            shard.check_writable()?;
            if let Some(error) = &*self.full.borrow() {
                return Err(error.clone());
            }
            self.progressed.wait().await;
        }
        Ok(())
    }

    /// Waits until everything written so far is on stable storage.
    pub(crate) async fn sync(&self, shard: &Shard) -> Result<()> {
        if self.log.is_none() {
            return Ok(());
        }
        self.forced.set(true);
        self.needed.notify_one();
        self.durable(shard, self.appended.get()).await
    }

    /// Gets the log room for a write before anything of it takes effect. Out of space is an error here.
    #[inline]
    pub(crate) async fn reserve(&self, bytes: usize) -> Result<()> {
        // Not borrowed across the wait below: the commit task takes the buffer meanwhile.
        let bytes = self.pending.borrow().len() + bytes;
        match &self.log {
            Some(log) if !log.has_room(bytes) => log.reserve(bytes).await,
            _ => Ok(()),
        }
    }

    /// The part of the log that a memtable which starts now, with this sequence number, needs.
    pub(crate) fn chain_from_here(&self, groups: &Range<u32>, first_entry: SeqNo) -> Vec<WalChain> {
        match (&self.log, self.commit_start.get()) {
            (Some(_), Some(head)) => vec![WalChain { head, end: None, groups: groups.clone(), first_entry }],
            _ => Vec::new(),
        }
    }

    /// Extents of the log that lie wholly before a position, taken off it.
    pub(crate) fn trim(&self, floor: LogPosition) -> Vec<ExtentId> {
        self.log.as_ref().map(|log| log.trim(floor)).unwrap_or_default()
    }

    /// All extents of the log.
    #[cfg(feature = "testing")]
    pub(crate) fn extents(&self) -> Vec<ExtentId> {
        self.log.as_ref().map(LogWriter::extents).unwrap_or_default()
    }

    pub(crate) fn bytes_written(&self) -> u64 {
        self.log.as_ref().map_or(0, LogWriter::bytes_written)
    }

    pub(crate) fn wake_all(&self) {
        self.needed.notify_all();
        self.progressed.notify_all();
    }

    /// Whether there is something that the log was to write and has not: in the buffer, on its way, or failed.
    fn is_behind(&self) -> bool {
        self.durable.get() < self.appended.get()
    }

    /// The commit task.
    pub(crate) async fn run(shard: Rc<Shard>) {
        let wal = &shard.wal;
        let Some(writer) = &wal.log else { return };
        let mut without_space = false;
        while !shard.is_poisoned() {
            if wal.pending.borrow().is_empty() || (shard.closing.get() && mutant!(CloseForgetsPending)) {
                wal.forced.set(false);
                wal.durable.set(wal.appended.get());
                wal.progressed.notify_all();
                if shard.closing.get() {
                    break;
                }
                wal.needed.wait().await;
                continue;
            }
            if let Durability::Interval(interval) = shard.config.durability {
                wal.gather(&shard, interval.as_micros() as u64).await;
            }
            let payload = std::mem::take(&mut *wal.pending.borrow_mut());
            let record = wal.appended.get();
            wal.commit_start.set(Some(writer.position()));
            if mutant!(WalAckedBeforeDurable) {
                wal.durable.set(record);
                wal.progressed.notify_all();
            }
            match writer.append(&[&payload], log::Durability::Durable).await {
                Ok(_) => {
                    if std::mem::take(&mut without_space) {
                        mark!(LoggedAfterNoSpace);
                    }
                    wal.durable.set(record);
                    wal.commit_start.set(Some(writer.position()));
                    // Give the buffer back where nothing is pending, so that it is not allocated anew each time.
                    let mut pending = wal.pending.borrow_mut();
                    if pending.is_empty() && payload.capacity() <= 4 * PENDING_BYTES_MAX {
                        *pending = payload;
                        pending.clear();
                    }
                }
                Err(error @ Error::NoSpace(_)) => {
                    // Nothing has changed in the log: keep the records, tell those who wait, and try again.
                    mark!(NoSpaceInLog);
                    without_space = true;
                    wal.put_back(payload);
                    *wal.full.borrow_mut() = Some(error);
                    wal.progressed.notify_all();
                    if shard.closing.get() {
                        tracing::error!(
                            shard = shard.id.0,
                            "closed without space for the log: its last writes are lost"
                        );
                        break;
                    }
                    shard.handle.sleep_us(RETRY_US).await;
                    wal.full.take();
                }
                Err(error) => {
                    mark!(PoisonedByLog);
                    if mutant!(LogFailureIsEverybodys) {
                        shard.volume.no_flush_any_more(&error);
                    }
                    shard.poison(&error);
                }
            }
            wal.progressed.notify_all();
        }
        wal.progressed.notify_all();
    }

    /// Puts records that could not be written before those that came since.
    fn put_back(&self, payload: Vec<u8>) {
        let mut pending = self.pending.borrow_mut();
        let newer = std::mem::replace(&mut *pending, payload);
        pending.extend_from_slice(&newer);
    }

    /// Waits for the end of the interval, for enough bytes, or for somebody who cannot wait.
    async fn gather(&self, shard: &Shard, interval_us: u64) {
        let deadline = shard.handle.now_us() + interval_us;
        let hurry = || {
            self.forced.get()
                || shard.closing.get()
                || shard.is_poisoned()
                || self.pending.borrow().len() >= PENDING_BYTES_MAX
        };
        while !hurry() {
            if mutant!(IntervalNeverWrites) {
                self.needed.wait().await;
                continue;
            }
            let now = shard.handle.now_us();
            if now >= deadline {
                break;
            }
            let sleep = std::pin::pin!(shard.handle.sleep_us(deadline - now));
            let needed = std::pin::pin!(self.needed.wait());
            futures_util::future::select(sleep, needed).await;
        }
    }
}

impl Shard {
    /// Why what was acknowledged before it was written is not on stable storage, where that is so. Of a shard that has ended it is lost.
    pub(crate) fn unwritten(&self) -> Option<Error> {
        let acknowledges_at_once = matches!(self.config.durability, Durability::Interval(_));
        if !acknowledges_at_once || !self.wal.is_behind() {
            return None;
        }
        let refused = self.check_writable().err().or_else(|| self.wal.full.borrow().clone());
        let ended = || Error::Poisoned { shard: self.id.0, cause: "it ended before it was closed".into() };
        Some(refused.unwrap_or_else(ended))
    }
}
