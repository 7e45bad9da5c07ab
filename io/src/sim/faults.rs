//! Drawing faults, and what each does to the layers.

use std::ops::Range;

use super::SimFaults;
use super::disk::{DiskState, InFlight};
use super::kinds::FaultKind;
use super::overlay::{Damage, Shown};
use crate::OpKind;

/// How far a misdirected write goes astray, in blocks, where it does not go anywhere.
const ASTRAY_BLOCKS: u64 = 8;

/// The fault that does not come.
const NEVER: (f64, i32, FaultKind) = (0.0, 0, FaultKind::ReadError);

/// What a lost flush covered of a block, so long as nothing has made the block durable since.
pub(super) struct Unsettled {
    /// The version that the base holds for durable.
    pub(super) number: u64,
    /// What may be on stable storage instead.
    pub(super) older: Vec<Box<[u8]>>,
}

impl DiskState {
    /// Whether a fault of this kind comes now; counts it.
    fn hit(&mut self, chance: f64, kind: FaultKind) -> bool {
        let hit = chance > 0.0 && self.random.chance(chance);
        if hit {
            self.counts.add(kind);
        }
        hit
    }

    /// How long an operation takes.
    pub(super) fn draw_latency_us(&mut self) -> u64 {
        if !self.faults.stall_us.is_empty() && self.hit(self.faults.stall_chance, FaultKind::Stall) {
            let stall_us = self.faults.stall_us.clone();
            return stall_us.start + self.random.below(stall_us.end - stall_us.start);
        }
        let Range { start, end } = self.options.latency_us;
        if !self.options.exponential_latency {
            return start + self.random.below(end - start);
        }
        // A piecewise linear -log2 of a random number in 0..1, whose mean is 1.5: no floating point, the same on every machine.
        let bits = self.random.next_u64() | 1;
        let zeros = bits.leading_zeros();
        let fraction = ((bits << zeros) << 1) >> 32;
        let sample = (u64::from(zeros) << 32) + ((1 << 32) - fraction);
        let mean_us = start + (end - start) / 2;
        ((u128::from(mean_us) * u128::from(sample) * 2 / 3) >> 32) as u64
    }

    /// The error with which an operation ends.
    pub(super) fn draw_error(&mut self, op: &InFlight) -> Option<i32> {
        let faults = &self.faults;
        let refusals = [
            (faults.again_chance, libc::EAGAIN, FaultKind::Again),
            (faults.interrupted_chance, libc::EINTR, FaultKind::Interrupted),
            (faults.cancelled_chance, libc::ECANCELED, FaultKind::Cancelled),
        ];
        let errors = match op.kind {
            OpKind::Read => [(faults.read_error_chance, libc::EIO, FaultKind::ReadError), NEVER],
            OpKind::Write => [
                (faults.no_space_chance, libc::ENOSPC, FaultKind::NoSpace),
                (faults.write_error_chance, libc::EIO, FaultKind::WriteError),
            ],
            OpKind::Flush => [(faults.flush_error_chance, libc::EIO, FaultKind::FlushError), NEVER],
            OpKind::Discard => [(faults.discard_error_chance, libc::EIO, FaultKind::DiscardError), NEVER],
            OpKind::Allocate => [
                (faults.no_space_chance, libc::ENOSPC, FaultKind::NoSpace),
                (faults.allocate_error_chance, libc::EIO, FaultKind::AllocateError),
            ],
            _ => [NEVER, NEVER],
        };
        for (chance, errno, kind) in refusals.into_iter().chain(errors) {
            if self.hit(chance, kind) {
                return Some(errno);
            }
        }
        let bad = match op.kind {
            OpKind::Read => self.read_touches_bad_block(op),
            OpKind::Write => self.write_touches_bad_block(op),
            _ => false,
        };
        bad.then_some(libc::EIO)
    }

    fn read_touches_bad_block(&mut self, op: &InFlight) -> bool {
        let blocks = self.blocks_of(op);
        if self.hit(self.faults.bad_read_chance, FaultKind::BadRead) {
            let block = self.one_of(&blocks);
            self.hide(block, Shown::Nothing, FaultKind::BadRead);
        }
        self.overlay.blocks(blocks).any(|block| self.is_unreadable(block))
    }

    fn write_touches_bad_block(&mut self, op: &InFlight) -> bool {
        let blocks = self.blocks_of(op);
        if self.hit(self.faults.bad_write_chance, FaultKind::BadWrite) {
            let block = self.one_of(&blocks);
            self.unwritable.insert(block);
        }
        self.unwritable.range(blocks).next().is_some()
    }

    pub(super) fn is_unreadable(&self, block: u64) -> bool {
        matches!(self.overlay.get(block, self.version_of(block)), Some(entry) if matches!(entry.shown, Shown::Nothing))
    }

    /// What is done to an operation that ends with an error.
    pub(super) fn fail(&mut self, op: &InFlight, errno: i32) {
        if errno != libc::EIO {
            return;
        }
        match op.kind {
            OpKind::Write => {
                self.write_some(op);
                if self.flushes_behind(op) {
                    self.fail_flush(op.covers);
                }
            }
            OpKind::Flush => self.fail_flush(op.covers),
            _ => (),
        }
    }

    /// Whether a write has a flush behind it.
    pub(super) fn flushes_behind(&self, op: &InFlight) -> bool {
        op.kind == OpKind::Write && op.durable && self.options.volatile_cache && !self.options.fua
    }

    /// Nobody knows what a failed write has done: it is written up to some block, or any of its blocks are. Nothing of it is durable.
    fn write_some(&mut self, op: &InFlight) {
        let blocks = self.blocks_of(op);
        let cut = self.random.chance(0.5).then(|| self.random.below(blocks.end - blocks.start + 1));
        self.version += 1;
        for (index, block) in blocks.enumerate() {
            let written = match cut {
                Some(cut) => (index as u64) < cut,
                None => self.random.chance(0.5),
            };
            let fits = (block + 1) * self.block_bytes() <= self.len;
            if written && fits && !self.unwritable.contains(&block) {
                self.write_block(block, op.block(index, self.block_bytes()), false, op.placement);
            }
        }
    }

    /// Stores the first `len` bytes of a write that is acknowledged; or not quite.
    pub(super) fn write(&mut self, op: &InFlight, len: u64) {
        let blocks = op.offset / self.block_bytes()..(op.offset + len) / self.block_bytes();
        let lost = self.hit(self.faults.lost_write_chance, FaultKind::LostWrite);
        let astray = !lost && self.hit(self.faults.misdirected_write_chance, FaultKind::MisdirectedWrite);
        let missing = if lost || astray { self.one_or_all(&blocks) } else { 0..0 };
        let kept: Vec<_> = missing.clone().map(|block| self.seen(block)).collect();
        self.version += 1;
        for (index, block) in blocks.clone().enumerate() {
            self.write_block(block, op.block(index, self.block_bytes()), op.durable, op.placement);
        }
        let fault = if lost { FaultKind::LostWrite } else { FaultKind::MisdirectedWrite };
        for (block, shown) in missing.clone().zip(kept) {
            self.hide(block, shown, fault);
        }
        if astray {
            self.misdirect(op, blocks.start, missing);
        }
        if self.hit(self.faults.bit_rot_chance, FaultKind::BitRot) {
            let block = self.one_of(&blocks);
            self.rot(block);
        }
    }

    /// Blocks of a write land elsewhere, where there is room.
    fn misdirect(&mut self, op: &InFlight, first: u64, blocks: Range<u64>) {
        let (len, on_disk) = (blocks.end - blocks.start, self.len / self.block_bytes());
        let Some(last_start) = on_disk.checked_sub(len).filter(|last| *last > 0) else { return };
        let near = blocks.start.saturating_sub(ASTRAY_BLOCKS) + self.random.below(2 * ASTRAY_BLOCKS + 1);
        let start = match self.random.chance(0.5) {
            true => near.min(last_start),
            false => self.random.below(last_start + 1),
        };
        let start = match start == blocks.start {
            true if start < last_start => start + 1,
            true => start - 1,
            false => start,
        };
        for (target, source) in (start..).zip(blocks.clone()) {
            // Where it overlaps its right place the old content stays.
            if !blocks.contains(&target) {
                let bytes = Box::from(op.block((source - first) as usize, self.block_bytes()));
                self.hide(target, Shown::Bytes(bytes), FaultKind::MisdirectedWrite);
            }
        }
    }

    /// Flips bits of what reads see of a block, mostly where there is something.
    pub(super) fn rot(&mut self, block: u64) {
        let Shown::Bytes(mut bytes) = self.seen(block) else { return };
        let len = 1 + self.random.below(4) as usize;
        let last_start = bytes.len() - len;
        let used: Vec<usize> = (0..=last_start).filter(|&index| bytes[index] != 0).collect();
        let start = match used.is_empty() || self.random.chance(0.2) {
            true => self.random.below(last_start as u64 + 1) as usize,
            false => used[self.random.below(used.len() as u64) as usize],
        };
        for byte in &mut bytes[start..start + len] {
            *byte ^= 1 << self.random.below(8);
        }
        self.hide(block, Shown::Bytes(bytes), FaultKind::BitRot);
    }

    /// Acknowledges a flush that does nothing: the base holds it for done, but what it covered is remembered until the next crash.
    pub(super) fn lose_flush(&mut self, covers: u64) {
        for (block, history) in &self.unflushed {
            let newest = history.versions.iter().take_while(|version| version.number <= covers).last();
            let Some(newest) = newest.filter(|version| !version.stranded) else { continue };
            let unsettled = self.unsettled.entry(*block).or_insert_with(|| Unsettled { number: 0, older: Vec::new() });
            unsettled.number = newest.number;
            unsettled.older.push(history.durable.clone());
        }
        self.flush(covers);
    }

    /// Whether the flush that completes now is lost.
    pub(super) fn loses_flush(&mut self) -> bool {
        self.hit(self.faults.lost_flush_chance, FaultKind::LostFlush)
    }

    /// A transfer's length, cut at a block now and then.
    pub(super) fn shortened(&mut self, len: u64) -> u64 {
        let blocks = len / self.block_bytes();
        if blocks > 1 && self.hit(self.faults.short_transfer_chance, FaultKind::ShortTransfer) {
            return self.block_bytes() * (1 + self.random.below(blocks - 1));
        }
        len
    }

    /// Makes reads see something else than the base's present content of a block.
    pub(super) fn hide(&mut self, block: u64, shown: Shown, fault: FaultKind) {
        let version = self.version_of(block);
        match &shown {
            Shown::Bytes(bytes) if **bytes == *self.base(block) => self.overlay.unhide(block, version),
            _ => self.overlay.show(block, version, shown, fault),
        }
    }

    fn base(&self, block: u64) -> Box<[u8]> {
        let mut bytes = vec![0; self.block_bytes() as usize];
        self.current.read(block * self.block_bytes(), &mut bytes);
        bytes.into_boxed_slice()
    }

    /// What reads see of a block.
    fn seen(&self, block: u64) -> Shown {
        match self.overlay.get(block, self.version_of(block)).map(|entry| &entry.shown) {
            Some(Shown::Nothing) => Shown::Nothing,
            Some(Shown::Bytes(bytes)) => Shown::Bytes(bytes.clone()),
            None => Shown::Bytes(self.base(block)),
        }
    }

    /// Copies what reads see. An unreadable block appears as the base has it.
    pub(super) fn read(&self, offset: u64, bytes: &mut [u8]) {
        self.current.read(offset, bytes);
        let (block_bytes, end) = (self.block_bytes(), offset + bytes.len() as u64);
        for block in self.overlay.blocks(offset / block_bytes..end.div_ceil(block_bytes)) {
            if let Shown::Bytes(shown) = self.seen(block) {
                let start = block * block_bytes;
                let (from, to) = (start.max(offset), (start + block_bytes).min(end));
                bytes[(from - offset) as usize..(to - offset) as usize]
                    .copy_from_slice(&shown[(from - start) as usize..(to - start) as usize]);
            }
        }
    }

    /// Ends all faults and their traces.
    pub(super) fn heal(&mut self) {
        self.overlay.clear();
        self.unsettled.clear();
        self.unwritable.clear();
        self.planned.clear();
        self.faults = SimFaults::default();
        for history in self.unflushed.values_mut() {
            history.versions.iter_mut().for_each(|version| version.stranded = false);
        }
        for op in self.in_flight.values_mut() {
            op.errno = op.errno.filter(|errno| *errno == crate::executor::POWER_LOST);
        }
    }

    pub(super) fn atlas(&self) -> Vec<Damage> {
        let damage = |block| {
            let info = self.blocks.get(&block).copied().unwrap_or_default();
            let entry = self.overlay.get(block, info.version)?;
            let (offset, len) = (block * self.block_bytes(), self.block_bytes());
            Some(Damage { offset, len, fault: entry.fault.name(), placement: info.placement })
        };
        self.overlay.blocks(0..u64::MAX).filter_map(damage).collect()
    }

    fn blocks_of(&self, op: &InFlight) -> Range<u64> {
        op.offset / self.block_bytes()..(op.offset + op.len) / self.block_bytes()
    }

    fn one_of(&mut self, blocks: &Range<u64>) -> u64 {
        blocks.start + self.random.below(blocks.end - blocks.start)
    }

    fn one_or_all(&mut self, blocks: &Range<u64>) -> Range<u64> {
        if self.random.chance(0.5) {
            return blocks.clone();
        }
        let block = self.one_of(blocks);
        block..block + 1
    }
}
