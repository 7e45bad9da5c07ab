//! The disk itself: submission, completion, the volatile cache, injected faults.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::store::SparseBytes;
use crate::device::Geometry;
use crate::executor::POWER_LOST;
use crate::{OpKind, Random};

/// What kind of disk to simulate.
#[derive(Clone, Debug)]
pub struct SimOptions {
    /// How much can be allocated.
    pub capacity_bytes: u64,
    /// 512 or 4096.
    pub logical_block_bytes: u32,
    /// The largest single transfer.
    pub max_io_bytes: u32,
    /// How long an operation takes, in virtual microseconds.
    pub latency_us: Range<u64>,
    /// Writes stay in a volatile cache until they are flushed. Without it they are on stable storage when they complete.
    pub volatile_cache: bool,
    /// The probability that a transfer of several blocks stops short.
    pub short_transfer_chance: f64,
    /// The probability that an operation is refused with EAGAIN, to be tried again.
    pub again_chance: f64,
}

impl Default for SimOptions {
    fn default() -> SimOptions {
        SimOptions {
            capacity_bytes: 1 << 40,
            logical_block_bytes: 4096,
            max_io_bytes: 512 << 10,
            latency_us: 20..120,
            volatile_cache: true,
            short_transfer_chance: 0.0,
            again_chance: 0.0,
        }
    }
}

/// What a disk has done so far, crashed operations included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SimStats {
    /// Reads submitted.
    pub reads: u64,
    /// Bytes that completed reads returned.
    pub read_bytes: u64,
    /// Writes submitted.
    pub writes: u64,
    /// Bytes that completed writes stored.
    pub written_bytes: u64,
    /// Flushes submitted.
    pub flushes: u64,
    /// Discards submitted.
    pub discards: u64,
    /// Bytes that completed discards gave back.
    pub discarded_bytes: u64,
}

/// A simulated disk, shared by everything that uses it. See the module's documentation for its rules.
#[derive(Clone)]
pub struct SimDisk(Arc<Mutex<DiskState>>);

/// Names an operation in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticket(u64);

/// What became of a submission.
pub(crate) enum Submitted {
    /// It completes after this long.
    InFlight { ticket: Ticket, latency_us: u64 },
    /// The power went with it: it never completes.
    Lost,
}

/// An operation as submitted.
pub(crate) struct SimOp<'a> {
    pub(crate) kind: OpKind,
    pub(crate) offset: u64,
    pub(crate) len: u64,
    /// What a write writes.
    pub(crate) data: Option<&'a [u8]>,
    pub(crate) durable: bool,
}

pub(super) struct InFlight {
    pub(super) kind: OpKind,
    pub(super) offset: u64,
    pub(super) len: u64,
    pub(super) data: Option<Box<[u8]>>,
    durable: bool,
    /// It fails with this.
    pub(super) errno: Option<i32>,
    /// The power goes when it has completed.
    crash_after: bool,
    /// A flush covers versions up to this one.
    covers: u64,
}

/// The versions of a block that are not yet on stable storage.
pub(super) struct History {
    pub(super) durable: Box<[u8]>,
    pub(super) versions: Vec<(u64, Box<[u8]>)>,
}

struct Fault {
    kind: OpKind,
    offsets: Range<u64>,
    errno: i32,
    times: u32,
}

pub(super) struct DiskState {
    pub(super) options: SimOptions,
    pub(super) random: Random,
    pub(super) current: SparseBytes,
    pub(super) unflushed: BTreeMap<u64, History>,
    pub(super) in_flight: BTreeMap<u64, InFlight>,
    tickets: u64,
    /// Numbers the versions of blocks.
    pub(super) version: u64,
    pub(super) len: u64,
    pub(super) durable_len: u64,
    /// Sizes that were reached after versions: what a flush makes durable.
    pub(super) growth: Vec<(u64, u64)>,
    pub(super) crashed: bool,
    /// Counts crashes: attachments of an earlier life are dead.
    pub(super) life: u64,
    crash_at: Option<u64>,
    write_ops: u64,
    faults: Vec<Fault>,
    stats: SimStats,
}

impl SimDisk {
    /// An empty disk.
    ///
    /// # Panics
    /// When the options make no sense: a logical block other than 512 or 4096, a largest transfer that is not a multiple of it, no
    /// latency range.
    pub fn new(seed: u64, options: SimOptions) -> SimDisk {
        assert!(matches!(options.logical_block_bytes, 512 | 4096), "a logical block has 512 or 4096 bytes");
        assert!(options.max_io_bytes > 0 && options.max_io_bytes.is_multiple_of(options.logical_block_bytes));
        assert!(!options.latency_us.is_empty(), "the range of latencies is empty");
        SimDisk(Arc::new(Mutex::new(DiskState {
            options,
            random: Random::new(seed),
            current: SparseBytes::default(),
            unflushed: BTreeMap::new(),
            in_flight: BTreeMap::new(),
            tickets: 0,
            version: 0,
            len: 0,
            durable_len: 0,
            growth: Vec::new(),
            crashed: false,
            life: 0,
            crash_at: None,
            write_ops: 0,
            faults: Vec::new(),
            stats: SimStats::default(),
        })))
    }

    /// The power fails now.
    pub fn crash(&self) {
        self.state().crash();
    }

    /// The power fails at the n-th write, flush or discard, counted as by [`write_ops`](SimDisk::write_ops) (the first is 1): when it is
    /// submitted or when it completes, by the seed. `None` calls it off.
    pub fn crash_at(&self, nth_write_or_flush: Option<u64>) {
        self.state().crash_at = nth_write_or_flush;
    }

    /// Whether the power is off.
    pub fn crashed(&self) -> bool {
        self.state().crashed
    }

    /// Power is back. A planned crash that has not come is called off.
    pub fn restart(&self) {
        let mut state = self.state();
        state.crashed = false;
        state.crash_at = None;
    }

    /// Writes, flushes and discards submitted so far.
    pub fn write_ops(&self) -> u64 {
        self.state().write_ops
    }

    /// What it has done so far.
    pub fn stats(&self) -> SimStats {
        self.state().stats
    }

    /// Makes the next `times` operations of this kind that touch these offsets fail with this error number. A write that fails may have
    /// changed some of its blocks. (Flushes touch all offsets.)
    pub fn fail_next(&self, op: OpKind, offsets: Range<u64>, errno: i32, times: u32) {
        self.state().faults.push(Fault { kind: op, offsets, errno, times });
    }

    /// Allocations beyond this fail with ENOSPC from now on.
    pub fn set_capacity(&self, bytes: u64) {
        self.state().options.capacity_bytes = bytes;
    }

    /// Everything a read would see.
    pub fn snapshot(&self) -> Vec<u8> {
        self.read_raw(0, self.len_bytes())
    }

    /// What a read of these bytes would see, whether or not power is on.
    pub fn read_raw(&self, offset: u64, len: u64) -> Vec<u8> {
        let mut bytes = vec![0; len as usize];
        self.state().current.read(offset, &mut bytes);
        bytes
    }

    /// Overwrites bytes on stable storage, behind the engine's back.
    pub fn write_raw(&self, offset: u64, bytes: &[u8]) {
        let mut state = self.state();
        state.unflushed.clear();
        state.current.write(offset, bytes);
        state.len = state.len.max(offset + bytes.len() as u64);
        state.durable_len = state.len;
    }

    /// Flips one bit (0 to 7) of a byte on stable storage.
    pub fn flip_bit(&self, offset: u64, bit: u32) {
        let byte = self.read_raw(offset, 1)[0];
        self.write_raw(offset, &[byte ^ (1 << (bit % 8))]);
    }

    /// Cuts the disk off.
    pub fn truncate(&self, len: u64) {
        let mut state = self.state();
        let block = u64::from(state.options.logical_block_bytes);
        state.current.truncate(len);
        state.unflushed.split_off(&(len / block));
        state.len = state.len.min(len);
        state.durable_len = state.durable_len.min(len);
        state.growth.clear();
    }

    /// Its size in bytes: how much was allocated.
    pub fn len_bytes(&self) -> u64 {
        self.state().len
    }

    pub(crate) fn geometry(&self) -> Geometry {
        let state = self.state();
        Geometry {
            logical_block_bytes: state.options.logical_block_bytes,
            physical_block_bytes: state.options.logical_block_bytes,
            max_io_bytes: state.options.max_io_bytes,
            size_bytes: state.len,
            atomic_write_bytes: 0,
            volatile_cache: state.options.volatile_cache,
            direct: true,
            nowait: true,
            polled: false,
            placement_handles: 0,
        }
    }

    pub(crate) fn life(&self) -> u64 {
        self.state().life
    }

    pub(crate) fn submit(&self, life: u64, op: SimOp<'_>) -> Submitted {
        self.state().submit(life, op)
    }

    /// Takes effect; the result as a ring would give it, or `None` where the disk has crashed since.
    pub(crate) fn complete(&self, ticket: Ticket, buffer: Option<&mut [u8]>) -> Option<i32> {
        self.state().complete(ticket, buffer)
    }

    fn state(&self) -> MutexGuard<'_, DiskState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl DiskState {
    fn submit(&mut self, life: u64, op: SimOp<'_>) -> Submitted {
        let mut errno = self.take_fault(&op);
        let mut crash_after = false;
        if self.crashed || life != self.life {
            errno = Some(POWER_LOST);
        } else if self.count(op.kind) {
            self.crash_at = None;
            crash_after = self.random.chance(0.5);
            if !crash_after {
                let ticket = self.insert(&op, None, false);
                debug_assert!(self.in_flight.contains_key(&ticket.0));
                self.crash();
                return Submitted::Lost;
            }
        }
        if errno.is_none() && self.options.again_chance > 0.0 && self.random.chance(self.options.again_chance) {
            errno = Some(libc::EAGAIN);
        }
        let ticket = self.insert(&op, errno, crash_after);
        let latency = self.options.latency_us.clone();
        Submitted::InFlight { ticket, latency_us: latency.start + self.random.below(latency.end - latency.start) }
    }

    fn insert(&mut self, op: &SimOp<'_>, errno: Option<i32>, crash_after: bool) -> Ticket {
        self.tickets += 1;
        let in_flight = InFlight {
            kind: op.kind,
            offset: op.offset,
            len: op.len,
            data: op.data.map(Box::from),
            durable: op.durable || !self.options.volatile_cache,
            errno,
            crash_after,
            covers: self.version,
        };
        self.in_flight.insert(self.tickets, in_flight);
        Ticket(self.tickets)
    }

    /// Counts an operation; whether it is the one to crash at.
    fn count(&mut self, kind: OpKind) -> bool {
        match kind {
            OpKind::Read => self.stats.reads += 1,
            OpKind::Write => self.stats.writes += 1,
            OpKind::Flush => self.stats.flushes += 1,
            OpKind::Discard => self.stats.discards += 1,
            _ => (),
        }
        if !matches!(kind, OpKind::Write | OpKind::Flush | OpKind::Discard) {
            return false;
        }
        self.write_ops += 1;
        self.crash_at == Some(self.write_ops)
    }

    fn take_fault(&mut self, op: &SimOp<'_>) -> Option<i32> {
        let touches = |fault: &Fault| {
            fault.kind == op.kind
                && (op.kind == OpKind::Flush
                    || (fault.offsets.start < op.offset + op.len && op.offset < fault.offsets.end))
        };
        let index = self.faults.iter().position(|fault| fault.times > 0 && touches(fault))?;
        let fault = &mut self.faults[index];
        fault.times -= 1;
        let errno = fault.errno;
        if fault.times == 0 {
            self.faults.remove(index);
        }
        Some(errno)
    }

    fn complete(&mut self, ticket: Ticket, buffer: Option<&mut [u8]>) -> Option<i32> {
        let op = self.in_flight.remove(&ticket.0)?;
        let result = match op.errno {
            Some(POWER_LOST) => return Some(POWER_LOST),
            Some(errno) => {
                // Nobody knows what a failed write has done; EAGAIN comes before it has done anything.
                if op.kind == OpKind::Write && errno != libc::EAGAIN {
                    let blocks = self.random.below(op.len / u64::from(self.options.logical_block_bytes) + 1);
                    self.write(&op, blocks * u64::from(self.options.logical_block_bytes));
                }
                -errno
            }
            None => self.perform(&op, buffer),
        };
        if op.crash_after {
            self.crash();
            return None;
        }
        Some(result)
    }

    fn perform(&mut self, op: &InFlight, buffer: Option<&mut [u8]>) -> i32 {
        match op.kind {
            OpKind::Read => {
                let Some(buffer) = buffer else { unreachable!("reads have a buffer") };
                let len = self.shortened(op.len.min(self.len.saturating_sub(op.offset)));
                self.current.read(op.offset, &mut buffer[..len as usize]);
                self.stats.read_bytes += len;
                len as i32
            }
            OpKind::Write => {
                let Some(end) = op.offset.checked_add(op.len).filter(|end| *end <= self.options.capacity_bytes) else {
                    return -libc::ENOSPC;
                };
                let len = self.shortened(op.len);
                self.write(op, len);
                self.grow(end.min(op.offset + len), op.durable);
                self.stats.written_bytes += len;
                len as i32
            }
            OpKind::Flush => {
                self.flush(op.covers);
                0
            }
            OpKind::Allocate => {
                if op.offset + op.len > self.options.capacity_bytes {
                    return -libc::ENOSPC;
                }
                self.version += 1;
                self.grow(op.offset + op.len, false);
                0
            }
            OpKind::Discard => {
                let end = (op.offset + op.len).min(self.len);
                let block = u64::from(self.options.logical_block_bytes);
                let zeros = vec![0; block as usize];
                self.version += 1;
                for index in op.offset / block..end / block {
                    self.write_block(index, &zeros, !self.options.volatile_cache);
                }
                self.stats.discarded_bytes += op.len;
                0
            }
            _ => -libc::EINVAL,
        }
    }

    /// A transfer's length, cut at a block now and then.
    fn shortened(&mut self, len: u64) -> u64 {
        let block = u64::from(self.options.logical_block_bytes);
        if len <= block || self.options.short_transfer_chance == 0.0 {
            return len;
        }
        match self.random.chance(self.options.short_transfer_chance) {
            true => block * (1 + self.random.below(len / block)),
            false => len,
        }
        .min(len)
    }

    /// Stores the first `len` bytes of a write.
    fn write(&mut self, op: &InFlight, len: u64) {
        let Some(data) = &op.data else { unreachable!("writes have data") };
        let block = self.options.logical_block_bytes as usize;
        self.version += 1;
        for (index, bytes) in data[..len as usize].chunks(block).enumerate() {
            self.write_block(op.offset / block as u64 + index as u64, bytes, op.durable);
        }
    }

    pub(super) fn write_block(&mut self, index: u64, bytes: &[u8], durable: bool) {
        let offset = index * bytes.len() as u64;
        if durable {
            self.unflushed.remove(&index);
        } else {
            let current = &self.current;
            let history = self.unflushed.entry(index).or_insert_with(|| {
                let mut old = vec![0; bytes.len()];
                current.read(offset, &mut old);
                History { durable: old.into_boxed_slice(), versions: Vec::new() }
            });
            history.versions.push((self.version, Box::from(bytes)));
        }
        self.current.write(offset, bytes);
    }

    fn grow(&mut self, end: u64, durable: bool) {
        if end > self.len {
            self.len = end;
            self.growth.push((self.version, end));
        }
        if durable && end > self.durable_len {
            // What is needed to find the data again is durable with it: the size as it is, never one that the disk did not have.
            self.durable_len = self.len;
        }
    }

    fn flush(&mut self, covers: u64) {
        self.unflushed.retain(|_, history| {
            let covered = history.versions.partition_point(|(version, _)| *version <= covers);
            if let Some((_, newest)) = history.versions.drain(..covered).next_back() {
                history.durable = newest;
            }
            !history.versions.is_empty()
        });
        let covered = self.growth.partition_point(|(version, _)| *version <= covers);
        if let Some((_, len)) = self.growth.drain(..covered).next_back() {
            self.durable_len = self.durable_len.max(len);
        }
    }
}
