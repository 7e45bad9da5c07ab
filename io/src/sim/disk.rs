//! The disk as its users see it, and its state.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::base::{BlockInfo, History};
use super::faults::Unsettled;
use super::kinds::{FaultCounts, FaultKind};
use super::operation::{SimOp, Submitted, Ticket};
use super::overlay::{Damage, Overlay, Shown};
use super::store::SparseBytes;
use super::told::Told;
use super::trace::Trace;
use super::{SimFaults, SimOptions, SimStats};
use crate::device::{DeviceKind, Discard, Geometry};
use crate::{OpKind, Placement, Random};

/// A simulated disk, shared by everything that uses it. See the module's documentation for its rules.
#[derive(Clone)]
pub struct SimDisk(Arc<Mutex<DiskState>>);

pub(super) struct InFlight {
    pub(super) kind: OpKind,
    pub(super) offset: u64,
    pub(super) len: u64,
    pub(super) data: Option<Box<[u8]>>,
    pub(super) durable: bool,
    pub(super) placement: Option<Placement>,
    /// It fails with this.
    pub(super) errno: Option<i32>,
    /// The power goes when it has completed.
    pub(super) crash_after: bool,
    /// A flush covers versions up to this one.
    pub(super) covers: u64,
}

impl InFlight {
    /// What a write writes to its n-th block.
    pub(super) fn block(&self, index: usize, block_bytes: u64) -> &[u8] {
        let Some(data) = &self.data else { unreachable!("writes have data") };
        let start = index * block_bytes as usize;
        &data[start..start + block_bytes as usize]
    }
}

/// An error that somebody asked for.
pub(super) struct Planned {
    pub(super) kind: OpKind,
    pub(super) offsets: Range<u64>,
    pub(super) errno: i32,
    pub(super) times: u32,
    /// Operations of the kind that pass first.
    pub(super) skip: u32,
}

pub(super) struct DiskState {
    pub(super) options: SimOptions,
    pub(super) seed: u64,
    pub(super) random: Random,
    // The base.
    pub(super) current: SparseBytes,
    pub(super) blocks: BTreeMap<u64, BlockInfo>,
    pub(super) unflushed: BTreeMap<u64, History>,
    /// Numbers the versions of blocks.
    pub(super) version: u64,
    pub(super) len: u64,
    pub(super) durable_len: u64,
    /// Sizes that were reached after versions: what a flush makes durable.
    pub(super) growth: Vec<(u64, u64)>,
    // The faults.
    pub(super) faults: SimFaults,
    pub(super) overlay: Overlay,
    pub(super) unsettled: BTreeMap<u64, Unsettled>,
    pub(super) unwritable: BTreeSet<u64>,
    pub(super) planned: Vec<Planned>,
    pub(super) counts: FaultCounts,
    pub(super) told: Vec<Told>,
    // What goes on.
    pub(super) in_flight: BTreeMap<u64, InFlight>,
    pub(super) tickets: u64,
    pub(super) crashed: bool,
    /// Counts crashes: attachments of an earlier life are dead.
    pub(super) life: u64,
    pub(super) crash_at: Option<u64>,
    /// The discard to wait for, and how many writes, flushes or discards after it the power fails.
    pub(super) crash_after_discard: Option<(u64, u64)>,
    pub(super) write_ops: u64,
    pub(super) schedules: u64,
    pub(super) stats: SimStats,
    pub(super) trace: Trace,
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
            seed,
            random: Random::new(seed),
            current: SparseBytes::default(),
            blocks: BTreeMap::new(),
            unflushed: BTreeMap::new(),
            version: 0,
            len: 0,
            durable_len: 0,
            growth: Vec::new(),
            faults: SimFaults::default(),
            overlay: Overlay::default(),
            unsettled: BTreeMap::new(),
            unwritable: BTreeSet::new(),
            planned: Vec::new(),
            counts: FaultCounts::default(),
            told: Vec::new(),
            in_flight: BTreeMap::new(),
            tickets: 0,
            crashed: false,
            life: 0,
            crash_at: None,
            crash_after_discard: None,
            write_ops: 0,
            schedules: 0,
            stats: SimStats::default(),
            trace: Trace::default(),
        })))
    }

    /// A disk of this size that holds these blocks on stable storage, by their offsets, and zeros elsewhere.
    pub fn holding<'b>(
        seed: u64,
        options: SimOptions,
        len_bytes: u64,
        blocks: impl IntoIterator<Item = (u64, &'b [u8])>,
    ) -> SimDisk {
        let disk = SimDisk::new(seed, options);
        let mut state = disk.state();
        for (offset, bytes) in blocks {
            assert!(offset + bytes.len() as u64 <= len_bytes, "a block behind the end of the disk");
            state.current.write(offset, bytes);
        }
        (state.len, state.durable_len) = (len_bytes, len_bytes);
        drop(state);
        disk
    }

    /// The power fails now.
    pub fn crash(&self) {
        self.state().crash();
    }

    /// The power fails at the n-th write, flush or discard, counted as by [`write_ops`](SimDisk::write_ops) (the first is 1): when it is
    /// submitted or when it completes, by the seed. `None` calls it off.
    pub fn crash_at(&self, nth_write_or_flush: Option<u64>) {
        let mut state = self.state();
        (state.crash_at, state.crash_after_discard) = (nth_write_or_flush, None);
    }

    /// The power fails so many writes, flushes or discards after the n-th discard from now on (the first is 1), or with it: where what is
    /// given up meets what was to replace it.
    pub fn crash_after_discard(&self, nth: u64, operations: u64) {
        let mut state = self.state();
        (state.crash_at, state.crash_after_discard) = (None, Some((state.stats.discards + nth, operations)));
    }

    /// Whether the power is off.
    pub fn crashed(&self) -> bool {
        self.state().crashed
    }

    /// Power is back. A planned crash that has not come is called off.
    pub fn restart(&self) {
        let mut state = self.state();
        state.crashed = false;
        (state.crash_at, state.crash_after_discard) = (None, None);
    }

    /// Writes, flushes and discards submitted so far.
    pub fn write_ops(&self) -> u64 {
        self.state().write_ops
    }

    /// What it has done so far.
    pub fn stats(&self) -> SimStats {
        self.state().stats
    }

    /// A hash of every submission and completion so far: two runs of one seed agree.
    pub fn trace_hash(&self) -> u64 {
        self.state().trace.hash()
    }

    /// Sets how often it fails from now on. Damage that is done stays.
    pub fn set_faults(&self, faults: SimFaults) {
        self.state().faults = faults;
    }

    /// How often it fails.
    pub fn faults(&self) -> SimFaults {
        self.state().faults.clone()
    }

    /// How often each kind of fault was injected so far; kinds that were not are absent.
    pub fn fault_counts(&self) -> BTreeMap<&'static str, u64> {
        self.state().counts.by_name()
    }

    /// The operations that failed openly so far, behind the first `known` of them.
    pub fn told(&self, known: usize) -> Vec<Told> {
        self.state().told.get(known..).unwrap_or_default().to_vec()
    }

    /// Makes the next `times` operations of this kind that touch these offsets fail with this error number. With EIO, a write may have
    /// changed some of its blocks, and a flush has the consequences of [`SimFaults::flush_error_chance`]. (Flushes touch all offsets.)
    pub fn fail_next(&self, op: OpKind, offsets: Range<u64>, errno: i32, times: u32) {
        self.state().planned.push(Planned { kind: op, offsets, errno, times, skip: 0 });
    }

    /// Makes one operation of this kind fail with this error number, behind the next `skip` of them; else like
    /// [`fail_next`](SimDisk::fail_next).
    pub fn fail_after(&self, op: OpKind, skip: u32, errno: i32) {
        self.state().planned.push(Planned { kind: op, offsets: 0..u64::MAX, errno, times: 1, skip });
    }

    /// The process that uses the disk ends, and the power stays on: operations in flight land or not, and what is in the volatile cache
    /// stays there. Attachments from before are dead.
    pub fn kill(&self) {
        self.state().kill();
    }

    /// The blocks that hold data of this kind: offsets, and numbers that say which was written later.
    pub fn written(&self, placement: Placement) -> Vec<(u64, u64)> {
        let state = self.state();
        let of_kind = state.blocks.iter().filter(|(_, info)| info.placement == Some(placement));
        of_kind.map(|(block, info)| (block * state.block_bytes(), info.version)).collect()
    }

    /// Flips bits of the block at this offset, until it is rewritten.
    pub fn rot(&self, offset: u64) {
        let mut state = self.state();
        let block = offset / state.block_bytes();
        state.counts.add(FaultKind::BitRot);
        state.rot(block);
    }

    /// Makes the block at this offset unreadable, until it is rewritten.
    pub fn make_unreadable(&self, offset: u64) {
        let mut state = self.state();
        let block = offset / state.block_bytes();
        state.counts.add(FaultKind::BadRead);
        state.hide(block, Shown::Nothing, FaultKind::BadRead);
    }

    /// Ends all faults: rates, planned and persistent errors are gone, and reads see what a disk would hold that had the same crashes
    /// and no other fault.
    pub fn heal(&self) {
        self.state().heal();
    }

    /// The blocks that now differ from what they should hold, or cannot be read; by offset.
    pub fn atlas(&self) -> Vec<Damage> {
        self.state().atlas()
    }

    /// A seed for the order in which an executor takes what may happen in any order: another one at each call.
    pub fn schedule_seed(&self) -> u64 {
        let mut state = self.state();
        state.schedules += 1;
        Random::new(state.seed ^ state.schedules.rotate_right(16)).next_u64()
    }

    /// Allocations beyond this fail with ENOSPC from now on.
    pub fn set_capacity(&self, bytes: u64) {
        self.state().options.capacity_bytes = bytes;
    }

    /// Everything a read would see.
    pub fn snapshot(&self) -> Vec<u8> {
        self.read_raw(0, self.len_bytes())
    }

    /// What a read of these bytes would see, whether or not power is on. Unreadable blocks are read as if they were not.
    pub fn read_raw(&self, offset: u64, len: u64) -> Vec<u8> {
        let mut bytes = vec![0; len as usize];
        self.state().read(offset, &mut bytes);
        bytes
    }

    /// Overwrites bytes on stable storage, behind the engine's back. What else was cached becomes durable.
    pub fn write_raw(&self, offset: u64, bytes: &[u8]) {
        self.state().write_raw(offset, bytes);
    }

    /// Flips one bit (0 to 7) of a byte on stable storage.
    pub fn flip_bit(&self, offset: u64, bit: u32) {
        let byte = self.read_raw(offset, 1)[0];
        self.write_raw(offset, &[byte ^ (1 << (bit % 8))]);
    }

    /// Cuts the disk off.
    pub fn truncate(&self, len: u64) {
        self.state().cut(len);
    }

    /// Its size in bytes: how much was allocated.
    pub fn len_bytes(&self) -> u64 {
        self.state().len
    }

    pub(crate) fn geometry(&self) -> Geometry {
        let state = self.state();
        Geometry {
            kind: DeviceKind::Simulated,
            logical_block_bytes: state.options.logical_block_bytes,
            physical_block_bytes: state.options.logical_block_bytes,
            optimal_io_bytes: 0,
            dma_alignment_bytes: state.options.logical_block_bytes,
            max_io_bytes: state.options.max_io_bytes,
            size_bytes: state.len,
            fixed_size: false,
            atomic_write_bytes: 0,
            volatile_cache: state.options.volatile_cache,
            fua: state.options.fua || !state.options.volatile_cache,
            direct: true,
            nowait: true,
            polled: false,
            discard: Discard::Hole,
            host_aware_zones: false,
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
    pub(crate) fn complete(&self, ticket: Ticket, buffer: Option<&mut [u8]>, now_us: u64) -> Option<i32> {
        self.state().complete(ticket, buffer, now_us)
    }

    fn state(&self) -> MutexGuard<'_, DiskState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
