//! Operations in flight: the slab that owns each one's buffer until its completion, whatever happens to the future.
//!
//! 1. An operation is cut into *pieces* of at most the device's largest transfer. Those of the foreground are handed to the driver (the
//!    ring or the simulation) at once; those of the background, and what the driver has no room for, wait in the queue (`queue.rs`).
//! 2. A piece's completion is normalised, the same for all drivers (`op.rs`): what is left of it goes to the driver again, or it is done.
//! 3. When the last piece has completed, the result and the buffer wait in the slot for the future, which is woken. If the future has
//!    been dropped, the buffer is freed now.
//!
//! Invariants
//! 1. A slot is freed only when none of its pieces is with the driver and its future has taken the result or is gone. So keys of
//!    completions (slot and piece) are never ambiguous.
//! 2. While a piece is with the driver the buffer is in the slot, where nothing touches its bytes.
//! 3. A piece that is not complete is with the driver or in the queue, never in both. (Of a simulated disk that lost power, what it had is
//!    never complete.)

mod future;
mod op;
mod stats;

use std::rc::Rc;
use std::task::{Context, Poll, Waker};

pub use self::future::{BufferOperation, ControlOperation};
pub(crate) use self::op::POWER_LOST;
use self::op::{Op, Step};
pub use self::stats::IoStats;
use super::config::Class;
use super::queue::Queue;
use crate::buffer::{Buffer, BufferPool};
use crate::device::{Attached, Placement};
use crate::ring::Ring;
use crate::sim::SimDriver;
use crate::{IoError, OpKind};

/// What carries the pieces out.
pub(crate) enum Driver {
    Ring(Box<Ring>),
    Simulated(SimDriver),
}

/// One piece, as a driver sees it.
pub(crate) struct Transfer<'a> {
    pub(crate) kind: OpKind,
    pub(crate) device: &'a Attached,
    /// Where the buffer's part begins; only for reads and writes.
    pub(crate) buffer: Option<(&'a mut Buffer, usize)>,
    pub(crate) offset: u64,
    pub(crate) len: u64,
    /// The write is on stable storage when it completes.
    pub(crate) durable: bool,
    /// What kind of data a write writes.
    pub(crate) placement: Option<Placement>,
}

/// What is asked for.
pub(crate) struct Request {
    pub(crate) kind: OpKind,
    pub(crate) offset: u64,
    pub(crate) len: u64,
    /// Where in the buffer it starts.
    pub(crate) start: usize,
    pub(crate) durable: bool,
    /// What kind of data a write writes.
    pub(crate) placement: Option<Placement>,
    pub(crate) buffer: Option<Buffer>,
    /// Its class, where that is not the running task's.
    pub(crate) class: Option<Class>,
}
/// See the module.
pub(crate) struct Ops {
    driver: Driver,
    slots: Vec<Option<Op>>,
    free: Vec<u32>,
    queue: Queue,
    /// Operations that are not complete.
    in_flight: usize,
    foreground_in_flight: usize,
    stats: IoStats,
    closed: bool,
    woken: Vec<Waker>,
}

impl Ops {
    pub(crate) fn new(driver: Driver, queue: Queue) -> Ops {
        Ops {
            driver,
            slots: Vec::new(),
            free: Vec::new(),
            queue,
            in_flight: 0,
            foreground_in_flight: 0,
            stats: IoStats::default(),
            closed: false,
            woken: Vec::new(),
        }
    }

    pub(crate) fn driver(&mut self) -> &mut Driver {
        &mut self.driver
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight
    }

    pub(crate) fn stats(&self) -> IoStats {
        self.stats
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed
    }

    pub(crate) fn register_pool(&mut self, pool: &BufferPool) {
        if let Driver::Ring(ring) = &mut self.driver {
            ring.register_pool(pool);
        }
    }

    /// Starts an operation; its slot.
    pub(crate) fn start(&mut self, device: &Rc<Attached>, request: Request, class: Class) -> u32 {
        let (kind, offset, len) = (request.kind, request.offset, request.len);
        let op = Op::new(device, request, class);
        let pieces = op.pieces_left;
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None => {
                self.slots.push(None);
                (self.slots.len() - 1) as u32
            }
        };
        self.slots[slot as usize] = Some(op);
        self.in_flight += 1;
        self.foreground_in_flight += usize::from(class == Class::Foreground);
        if self.closed {
            let error = IoError::other(kind, device.path(), offset, len, "the executor has ended");
            self.finish(slot, Some(error));
            return slot;
        }
        for index in 0..pieces {
            let key = key_of(slot, index);
            if !(self.queue.passes(class) && self.submit(key)) {
                let bytes = self.piece_bytes(slot, index);
                self.queue.push(class, key, bytes);
            }
        }
        slot
    }

    /// What is left to transfer of a piece.
    fn piece_bytes(&mut self, slot: u32, index: usize) -> u64 {
        let Some(op) = &mut self.slots[slot as usize] else { unreachable!("a piece without an operation") };
        op.bytes_left(index)
    }

    /// Hands a piece to the driver; false where it has no room.
    fn submit(&mut self, key: u64) -> bool {
        let (slot, index) = slot_and_index(key);
        let Some(op) = &mut self.slots[slot as usize] else { unreachable!("a piece without an operation") };
        let transfer = op.transfer(index);
        let pushed = match &mut self.driver {
            Driver::Ring(ring) => ring.push(key, transfer),
            Driver::Simulated(sim) => {
                sim.push(key, transfer);
                true
            }
        };
        #[cfg(feature = "testing")]
        if pushed {
            op.record_submission(index);
        }
        pushed
    }

    /// Hands over what waits, as far as the budget goes and the driver has room.
    pub(crate) fn pump_queue(&mut self) {
        while let Some((line, key)) = self.queue.next() {
            if !self.submit(key) {
                return;
            }
            self.queue.sent(line);
        }
    }

    /// Whether something waits that could go if the driver had room.
    pub(crate) fn waits_for_room(&self) -> bool {
        self.queue.waits_for_room()
    }

    /// Processes completions; how many operations are done. The wakers of their futures are to be taken with `take_woken`.
    pub(crate) fn reap(&mut self) -> usize {
        let before = self.in_flight;
        loop {
            let next = match &mut self.driver {
                Driver::Ring(ring) => ring.pop(),
                Driver::Simulated(sim) => sim.pop_due().and_then(|(key, ticket)| {
                    let (slot, index) = slot_and_index(key);
                    let op = self.slots[slot as usize].as_mut()?;
                    Some((key, sim.complete(ticket, op.rest(index))?))
                }),
            };
            match next {
                Some((key, result)) => {
                    let (slot, index) = slot_and_index(key);
                    let Some(op) = &mut self.slots[slot as usize] else {
                        panic!("a completion without an operation: key {key:#x}")
                    };
                    self.queue.completed(op.class, op.bytes_left(index));
                    self.complete_piece(key, result);
                }
                None => break,
            }
        }
        before - self.in_flight
    }

    /// The wakers of completed operations; give the vector back with `return_woken`, for its allocation.
    pub(crate) fn take_woken(&mut self) -> Vec<Waker> {
        std::mem::take(&mut self.woken)
    }

    pub(crate) fn return_woken(&mut self, mut woken: Vec<Waker>) {
        if self.woken.is_empty() {
            woken.clear();
            self.woken = woken;
        }
    }

    /// The driver is done with a piece, or will not get it.
    fn complete_piece(&mut self, key: u64, result: i32) {
        let (slot, index) = slot_and_index(key);
        let Some(op) = &mut self.slots[slot as usize] else { unreachable!("a piece without an operation") };
        #[cfg(feature = "testing")]
        // What a crashed disk refuses was never sent: in a trace it has no end.
        if result != POWER_LOST {
            op.record_completion(index, result);
        }
        match op.advance(index, result, self.closed) {
            Step::Again => {
                let (class, bytes) = (op.class, op.bytes_left(index));
                self.queue.push_again(class, key, bytes);
            }
            Step::PieceDone(error) => {
                op.pieces_left -= 1;
                let last = op.pieces_left == 0;
                if op.error.is_none() {
                    op.error = error;
                }
                if last {
                    let error = op.error.take();
                    self.finish(slot, error);
                }
            }
        }
    }

    fn finish(&mut self, slot: u32, error: Option<IoError>) {
        let Some(op) = &mut self.slots[slot as usize] else { unreachable!("finished twice") };
        op.pieces_left = 0;
        self.in_flight -= 1;
        self.foreground_in_flight -= usize::from(op.class == Class::Foreground);
        if op.class != Class::Foreground && self.in_flight == self.foreground_in_flight {
            assert!(self.queue.background_is_idle(), "the budget is in use without an operation");
        }
        if error.is_none() {
            self.stats.count(op.kind, op.len, op.class, op.placement);
            if let (OpKind::Allocate, Some(device)) = (op.kind, &op.device) {
                device.grown_to(op.offset + op.len);
            }
        }
        op.error = error;
        op.device = None;
        if op.abandoned {
            self.free_slot(slot);
        } else if let Some(waker) = op.waker.take() {
            self.woken.push(waker);
        }
    }

    fn poll(&mut self, slot: u32, cx: &mut Context<'_>) -> Poll<(Result<(), IoError>, Option<Buffer>)> {
        let Some(op) = &mut self.slots[slot as usize] else { unreachable!("polled after it was done") };
        if op.pieces_left > 0 {
            match &mut op.waker {
                Some(waker) => waker.clone_from(cx.waker()),
                none => *none = Some(cx.waker().clone()),
            }
            return Poll::Pending;
        }
        let result = op.error.take().map_or(Ok(()), Err);
        let buffer = op.buffer.take();
        self.free_slot(slot);
        Poll::Ready((result, buffer))
    }

    /// The future is gone. The operation goes on; its buffer is freed at its completion.
    fn abandon(&mut self, slot: u32) {
        let Some(op) = &mut self.slots[slot as usize] else { unreachable!("abandoned after it was done") };
        op.abandoned = true;
        op.waker = None;
        if op.pieces_left == 0 {
            self.free_slot(slot);
        }
    }

    fn free_slot(&mut self, slot: u32) {
        self.slots[slot as usize] = None;
        self.free.push(slot);
    }

    /// Whether a completion waits, and a foreground operation may be the one.
    #[inline]
    pub(crate) fn foreground_completion_waits(&self) -> bool {
        self.foreground_in_flight > 0
            && match &self.driver {
                Driver::Ring(ring) => ring.completion_waits(),
                Driver::Simulated(_) => false,
            }
    }

    /// Ends everything: the ring's operations are cancelled and awaited; the simulation's are forgotten. Operations that are started
    /// from now on fail.
    pub(crate) fn close(&mut self) {
        self.closed = true;
        self.fail_queue();
        while let Driver::Ring(ring) = &mut self.driver {
            if self.in_flight == 0 {
                break;
            }
            ring.cancel_all_and_wait();
            self.reap();
            self.fail_queue();
        }
        if let Driver::Ring(ring) = &mut self.driver {
            ring.close();
        }
        // Only the simulation has any left: they complete never, and nobody else refers to their buffers.
        for slot in 0..self.slots.len() as u32 {
            if let Some(op) = &mut self.slots[slot as usize] {
                op.device = None;
                if op.abandoned {
                    self.free_slot(slot);
                }
            }
        }
    }

    fn fail_queue(&mut self) {
        while let Some(key) = self.queue.remove() {
            self.complete_piece(key, -libc::ECANCELED);
        }
    }
}

fn key_of(slot: u32, index: usize) -> u64 {
    assert!(index < 1 << 16, "an operation of more than 65536 pieces");
    u64::from(slot) << 16 | index as u64
}

fn slot_and_index(key: u64) -> (u32, usize) {
    ((key >> 16) as u32, (key & 0xffff) as usize)
}
