//! Submission and completion of operations.

use super::disk::{DiskState, InFlight};
use super::kinds::FaultKind;
use super::told::Told;
use super::trace::data_hash;
use crate::executor::POWER_LOST;
use crate::{OpKind, Placement};

/// Begin the traces of events.
const SUBMIT_EVENT: u64 = 1;
const COMPLETE_EVENT: u64 = 2;

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
    pub(crate) placement: Option<Placement>,
}

impl DiskState {
    pub(super) fn submit(&mut self, life: u64, op: SimOp<'_>) -> Submitted {
        let durable = u64::from(op.durable);
        self.trace.add([SUBMIT_EVENT, op.kind as u64, op.offset, op.len, durable, data_hash(op.data)]);
        let mut errno = self.take_planned(&op);
        let mut crash_after = false;
        if self.crashed || life != self.life {
            errno = Some(POWER_LOST);
        } else if self.count(op.kind) {
            self.crash_at = None;
            crash_after = self.random.chance(0.5);
            if !crash_after {
                self.insert(&op, None, false);
                self.crash();
                return Submitted::Lost;
            }
        }
        let ticket = self.insert(&op, errno, crash_after);
        Submitted::InFlight { ticket, latency_us: self.draw_latency_us() }
    }

    fn insert(&mut self, op: &SimOp<'_>, errno: Option<i32>, crash_after: bool) -> Ticket {
        self.tickets += 1;
        let in_flight = InFlight {
            kind: op.kind,
            offset: op.offset,
            len: op.len,
            data: op.data.map(Box::from),
            durable: op.durable || !self.options.volatile_cache,
            placement: op.placement,
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
        if let Some((discards, operations)) = self.crash_after_discard
            && self.stats.discards >= discards
        {
            (self.crash_at, self.crash_after_discard) = (Some(self.write_ops + operations), None);
        }
        self.crash_at == Some(self.write_ops)
    }

    fn take_planned(&mut self, op: &SimOp<'_>) -> Option<i32> {
        let index = self.planned.iter().position(|planned| {
            let overlaps = planned.offsets.start < op.offset + op.len && op.offset < planned.offsets.end;
            planned.kind == op.kind && planned.times > 0 && (op.kind == OpKind::Flush || overlaps)
        })?;
        let planned = &mut self.planned[index];
        if planned.skip > 0 {
            planned.skip -= 1;
            return None;
        }
        planned.times -= 1;
        let errno = planned.errno;
        if planned.times == 0 {
            self.planned.remove(index);
        }
        if let Some(kind) = FaultKind::of_failure(op.kind, errno) {
            self.counts.add(kind);
        }
        Some(errno)
    }

    pub(super) fn complete(&mut self, ticket: Ticket, buffer: Option<&mut [u8]>, now_us: u64) -> Option<i32> {
        let op = self.in_flight.remove(&ticket.0)?;
        let result = match op.errno {
            Some(POWER_LOST) => POWER_LOST,
            planned => match planned.or_else(|| self.draw_error(&op)) {
                Some(errno) => {
                    self.fail(&op, errno);
                    -errno
                }
                None => self.perform(&op, buffer),
            },
        };
        if [-libc::EIO, -libc::ENOSPC].contains(&result) {
            let InFlight { kind, offset, len, .. } = op;
            let flushes = kind == OpKind::Flush || result == -libc::EIO && self.flushes_behind(&op);
            self.told.push(Told { op: kind, offset, len, flushes, errno: -result, at_us: now_us });
        }
        self.trace.add([COMPLETE_EVENT, ticket.0, result as u64]);
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
                self.read(op.offset, &mut buffer[..len as usize]);
                self.stats.read_bytes += len;
                len as i32
            }
            OpKind::Write => {
                if !self.has_room(op) {
                    return -libc::ENOSPC;
                }
                let len = self.shortened(op.len);
                self.write(op, len);
                self.grow(op.offset + len, op.durable);
                self.stats.written_bytes += len;
                len as i32
            }
            OpKind::Flush => {
                if self.loses_flush() {
                    self.lose_flush(op.covers);
                } else {
                    self.settle(op.covers);
                    self.flush(op.covers);
                }
                0
            }
            OpKind::Allocate => {
                if !self.has_room(op) {
                    return -libc::ENOSPC;
                }
                self.version += 1;
                self.grow(op.offset + op.len, false);
                0
            }
            OpKind::Discard => {
                let end = (op.offset + op.len).min(self.len);
                let block = self.block_bytes();
                let zeros = vec![0; block as usize];
                self.version += 1;
                for index in op.offset / block..end / block {
                    self.write_block(index, &zeros, !self.options.volatile_cache, None);
                }
                self.stats.discarded_bytes += op.len;
                0
            }
            _ => -libc::EINVAL,
        }
    }

    /// Whether an operation ends within the capacity.
    fn has_room(&mut self, op: &InFlight) -> bool {
        let fits = op.offset.checked_add(op.len).is_some_and(|end| end <= self.options.capacity_bytes);
        if !fits {
            self.counts.add(FaultKind::NoSpace);
        }
        fits
    }

    /// A flush that is not lost makes durable what lost ones before it did not.
    fn settle(&mut self, covers: u64) {
        self.unsettled.retain(|_, unsettled| unsettled.number > covers);
    }

    pub(super) fn write_raw(&mut self, offset: u64, bytes: &[u8]) {
        self.unflushed.clear();
        self.version += 1;
        let block = self.block_bytes();
        for index in offset / block..(offset + bytes.len() as u64).div_ceil(block) {
            self.unsettled.remove(&index);
            self.overlay.keep(index, |_| false);
            self.blocks.entry(index).or_default().version = self.version;
        }
        self.current.write(offset, bytes);
        self.len = self.len.max(offset + bytes.len() as u64);
        self.durable_len = self.len;
    }
}
