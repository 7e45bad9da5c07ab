//! Operations in flight: the slab that owns each one's buffer until its completion, whatever happens to the future.
//!
//! 1. An operation is cut into *pieces* of at most the device's largest transfer. Those of the foreground are handed to the driver (the
//!    ring or the simulation) at once; those of the background, and what the driver has no room for, wait in the queue (`queue.rs`).
//! 2. A piece's completion is normalised here, the same for all drivers: a short transfer continues where it stopped, an
//!    interrupted one is tried again (at most [`RETRIES_MAX`] times in a row without progress), no progress at all is an error.
//! 3. When the last piece has completed, the result and the buffer wait in the slot for the future, which is woken. If the future has
//!    been dropped, the buffer is freed now.
//!
//! Invariants
//! 1. A slot is freed only when none of its pieces is with the driver and its future has taken the result or is gone. So keys of
//!    completions (slot and piece) are never ambiguous.
//! 2. While a piece is with the driver the buffer is in the slot, where nothing touches its bytes.
//! 3. A piece that is not complete is with the driver or in the queue, never in both. (Of a simulated disk that lost power, what it had is
//!    never complete.)
//!
//! One file, though long: a slot's life, from its start to the completion of its last piece, is one state machine.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use super::config::Class;
use super::core::Core;
use super::queue::Queue;
use crate::buffer::{Buffer, BufferPool};
use crate::device::nvme::Status;
#[cfg(feature = "testing")]
use crate::device::record::Recorded;
use crate::device::{Attached, DeviceKind, Placement};
use crate::ring::Ring;
use crate::sim::SimDriver;
use crate::{IoError, OpKind};

/// How often an operation that makes no progress (EINTR, EAGAIN, ECANCELED) is tried again.
const RETRIES_MAX: u8 = 64;

/// The most that is discarded by one command: an NVMe command has 32 bits for the number of blocks, and a long one keeps the device from others.
const DISCARD_BYTES_MAX: u64 = 1 << 30;

/// In place of an error number: the simulated device has lost power.
pub(crate) const POWER_LOST: i32 = i32::MIN;

/// What was done through an executor so far. Splitting and retrying do not count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IoStats {
    /// Completed reads.
    pub reads: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// The same by the classes of the operations; each at the index that the class is as a number.
    pub read_bytes_by_class: [u64; Class::COUNT],
    /// Completed writes.
    pub writes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// The same by their placements, in the order of [`Placement::ALL`].
    pub written_bytes_by_placement: [u64; Placement::ALL.len()],
    /// The same by the classes of the operations; each at the index that the class is as a number.
    pub written_bytes_by_class: [u64; Class::COUNT],
    /// Completed flushes.
    pub flushes: u64,
    /// Completed discards.
    pub discards: u64,
    /// Bytes discarded.
    pub discarded_bytes: u64,
}

impl IoStats {
    /// Bytes written with a placement.
    pub fn written_bytes_of(&self, placement: Placement) -> u64 {
        self.written_bytes_by_placement[placement as usize]
    }
}

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

struct Op {
    kind: OpKind,
    offset: u64,
    len: u64,
    durable: bool,
    placement: Option<Placement>,
    device: Option<Rc<Attached>>,
    buffer: Option<Buffer>,
    first: Piece,
    more: Vec<Piece>,
    pieces_left: usize,
    error: Option<IoError>,
    waker: Option<Waker>,
    abandoned: bool,
    class: Class,
}

#[derive(Clone, Copy)]
struct Piece {
    offset: u64,
    start: usize,
    len: u64,
    done: u64,
    retries: u8,
    /// The number of its submission, where that was recorded.
    #[cfg(feature = "testing")]
    recorded: Option<u64>,
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
        let piece_bytes_max = match request.buffer {
            Some(_) => u64::from(device.geometry().max_io_bytes),
            None if request.kind == OpKind::Discard => DISCARD_BYTES_MAX,
            None => u64::MAX,
        };
        let piece = |at: u64| Piece {
            offset: request.offset + at,
            start: request.start + at as usize,
            len: piece_bytes_max.min(request.len - at),
            done: 0,
            retries: 0,
            #[cfg(feature = "testing")]
            recorded: None,
        };
        let more: Vec<Piece> = match request.len > piece_bytes_max {
            true => (piece_bytes_max..request.len).step_by(piece_bytes_max as usize).map(piece).collect(),
            false => Vec::new(),
        };
        let first = piece(0);
        let pieces = more.len() + 1;
        let op = Op {
            kind: request.kind,
            offset: request.offset,
            len: request.len,
            durable: request.durable,
            placement: request.placement,
            device: Some(Rc::clone(device)),
            buffer: request.buffer,
            first,
            more,
            pieces_left: pieces,
            error: None,
            waker: None,
            abandoned: false,
            class,
        };
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
            let error =
                IoError::other(request.kind, device.path(), request.offset, request.len, "the executor has ended");
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
        let piece = *op.piece(index);
        let Some(device) = &op.device else { unreachable!("an operation keeps its device until it is done") };
        let transfer = Transfer {
            kind: op.kind,
            device,
            buffer: op.buffer.as_mut().map(|buffer| (buffer, piece.start + piece.done as usize)),
            offset: piece.offset + piece.done,
            len: piece.len - piece.done,
            durable: op.durable,
            placement: op.placement,
        };
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
                    let piece = *op.piece(index);
                    let from = piece.start + piece.done as usize;
                    let len = (piece.len - piece.done) as usize;
                    let bytes = op.buffer.as_deref_mut().map(|buffer| &mut buffer[from..from + len]);
                    Some((key, sim.complete(ticket, bytes)?))
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
        match (&error, op.kind) {
            (Some(_), _) => (),
            (None, OpKind::Read) => {
                self.stats.reads += 1;
                self.stats.read_bytes += op.len;
                self.stats.read_bytes_by_class[op.class as usize] += op.len;
            }
            (None, OpKind::Write) => {
                self.stats.writes += 1;
                self.stats.written_bytes += op.len;
                self.stats.written_bytes_by_class[op.class as usize] += op.len;
                if let Some(placement) = op.placement {
                    self.stats.written_bytes_by_placement[placement as usize] += op.len;
                }
            }
            (None, OpKind::Flush) => self.stats.flushes += 1,
            (None, OpKind::Discard) => {
                self.stats.discards += 1;
                self.stats.discarded_bytes += op.len;
            }
            (None, OpKind::Allocate) => {
                if let Some(device) = &op.device {
                    device.grown_to(op.offset + op.len);
                }
            }
            (None, _) => (),
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

enum Step {
    /// To be handed to the driver again.
    Again,
    PieceDone(Option<IoError>),
}

impl Op {
    fn piece(&mut self, index: usize) -> &mut Piece {
        match index {
            0 => &mut self.first,
            _ => &mut self.more[index - 1],
        }
    }

    /// What is left to transfer of a piece; nothing where the operation moves no data.
    #[inline]
    fn bytes_left(&mut self, index: usize) -> u64 {
        if self.buffer.is_none() {
            return 0;
        }
        let piece = self.piece(index);
        piece.len - piece.done
    }

    /// The ring has it in its queue, but the kernel does not know of it yet, or it is with the simulation.
    #[cfg(feature = "testing")]
    fn record_submission(&mut self, index: usize) {
        let Some(recorder) = self.device.as_ref().and_then(|device| device.shared().recorder()) else { return };
        let piece = if index == 0 { &mut self.first } else { &mut self.more[index - 1] };
        let (from, len) = (piece.start + piece.done as usize, piece.len - piece.done);
        let data = match (&self.buffer, self.kind) {
            (Some(buffer), OpKind::Write) => &buffer[from..from + len as usize],
            _ => &[],
        };
        let (kind, durable, placement) = (self.kind, self.durable, self.placement);
        let offset = piece.offset + piece.done;
        let number = recorder.submitted(&Recorded { kind, offset, len, durable, placement, data });
        piece.recorded = Some(number);
    }

    #[cfg(feature = "testing")]
    fn record_completion(&mut self, index: usize, result: i32) {
        let Some(number) = self.piece(index).recorded.take() else { return };
        if let Some(recorder) = self.device.as_ref().and_then(|device| device.shared().recorder()) {
            recorder.completed(number, result);
        }
    }

    /// What a completion of a piece means.
    fn advance(&mut self, index: usize, result: i32, closed: bool) -> Step {
        let transfers = self.buffer.is_some();
        let result = if self.is_beyond_a_fixed_end() { -libc::ENOSPC } else { result };
        let is_command =
            self.device.as_ref().is_some_and(|device| device.geometry().kind == DeviceKind::NvmePassthrough);
        let piece = self.piece(index);
        let left = piece.len - piece.done;
        // A command gives 0 or the device's status, and transfers everything or nothing.
        let status = Status(if is_command && result > 0 { result as u16 } else { 0 });
        let result = match result {
            0 if is_command && transfers => left as i32,
            1.. if is_command && status.may_be_tried_again() => -libc::EAGAIN,
            1.. if is_command => -status.meaning().0,
            // The kernel has not sent it. The memory is there: see `device/nvme`.
            errno if is_command && errno == -libc::EFAULT => -libc::EAGAIN,
            result => result,
        };
        let error = match result {
            0.. if !transfers => return Step::PieceDone(None),
            1.. if result as u64 == left => return Step::PieceDone(None),
            1.. if mutant!(ShortTransferTakenAsWhole) => return Step::PieceDone(None),
            1.. if (result as u64) < left => {
                piece.done += result as u64;
                piece.retries = 0;
                let resumable = self.resumes_at_a_block(index);
                if resumable && !closed {
                    mark!(ShortTransferContinued);
                    return Step::Again;
                }
                None
            }
            0.. => None,
            errno if matches!(errno.wrapping_neg(), libc::EINTR | libc::EAGAIN | libc::ECANCELED) && !closed => {
                piece.retries += 1;
                if mutant!(InterruptedTransferTakenAsDone) {
                    return Step::PieceDone(None);
                }
                if piece.retries <= RETRIES_MAX {
                    mark!(TransientRetried);
                    return Step::Again;
                }
                Some(-errno)
            }
            errno => Some(errno.wrapping_neg()),
        };
        let path = self.device.as_ref().map(|device| device.path().to_owned()).unwrap_or_default();
        Step::PieceDone(Some(match error {
            None => {
                let done = self.piece(index).done;
                let (offset, len) = (self.piece(index).offset, self.piece(index).len);
                let reason = format!("only {done} of {len} bytes were transferred");
                IoError::other(self.kind, path, offset, len, reason)
            }
            Some(POWER_LOST) => {
                IoError::other(self.kind, path, self.offset, self.len, "the simulated device has lost power")
            }
            Some(errno) if status != Status(0) => {
                IoError { errno, ..IoError::other(self.kind, path, self.offset, self.len, status.to_string()) }
            }
            Some(errno) => IoError::from_errno(self.kind, path, self.offset, self.len, errno),
        }))
    }

    /// Whether it reserves space that a device of fixed size does not have.
    fn is_beyond_a_fixed_end(&self) -> bool {
        let end = self.offset + self.len;
        let has = |device: &Attached| !device.geometry().fixed_size || end <= device.geometry().size_bytes;
        self.kind == OpKind::Allocate && self.device.as_deref().is_some_and(|device| !has(device))
    }

    /// Whether what is left of a piece after a short transfer is aligned, so that it can be asked for.
    fn resumes_at_a_block(&mut self, index: usize) -> bool {
        let block = self.device.as_ref().map_or(1, |device| u64::from(device.geometry().logical_block_bytes));
        let direct = self.device.as_ref().is_some_and(|device| device.geometry().direct);
        !direct || self.piece(index).done.is_multiple_of(block)
    }
}

fn key_of(slot: u32, index: usize) -> u64 {
    assert!(index < 1 << 16, "an operation of more than 65536 pieces");
    u64::from(slot) << 16 | index as u64
}

fn slot_and_index(key: u64) -> (u32, usize) {
    ((key >> 16) as u32, (key & 0xffff) as usize)
}

/// The future of an operation.
struct Operation {
    core: Rc<Core>,
    slot: Option<u32>,
}

impl Operation {
    fn start(core: &Rc<Core>, device: &Rc<Attached>, request: Request) -> Operation {
        let class = request.class.unwrap_or_else(|| core.slice.class.get());
        let slot = core.ops.borrow_mut().start(device, request, class);
        if !super::task::inside(core.id) {
            // Whoever pumps the executor must hand it to the kernel.
            core.remote.notify();
        }
        Operation { core: Rc::clone(core), slot: Some(slot) }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<(Result<(), IoError>, Option<Buffer>)> {
        let Some(slot) = self.slot else { panic!("polled after completion") };
        let result = self.core.ops.borrow_mut().poll(slot, cx);
        if result.is_ready() {
            self.slot = None;
        }
        result
    }
}

impl Drop for Operation {
    fn drop(&mut self) {
        if let Some(slot) = self.slot {
            self.core.ops.borrow_mut().abandon(slot);
        }
    }
}

/// A read or write under way: gives the buffer back with the result. Dropping it lets the operation finish by itself.
#[must_use = "the operation runs, but its result would be lost"]
pub struct BufferOperation(Operation);

impl BufferOperation {
    pub(crate) fn start(core: &Rc<Core>, device: &Rc<Attached>, request: Request) -> BufferOperation {
        BufferOperation(Operation::start(core, device, request))
    }
}

impl Future for BufferOperation {
    type Output = (Result<(), IoError>, Buffer);

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.poll(cx).map(|(result, buffer)| match buffer {
            Some(buffer) => (result, buffer),
            None => unreachable!("reads and writes carry a buffer"),
        })
    }
}

/// A flush, allocation or discard under way.
#[must_use = "the operation runs, but its result would be lost"]
pub struct ControlOperation(Operation);

impl ControlOperation {
    pub(crate) fn start(core: &Rc<Core>, device: &Rc<Attached>, request: Request) -> ControlOperation {
        ControlOperation(Operation::start(core, device, request))
    }
}

impl Future for ControlOperation {
    type Output = Result<(), IoError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.poll(cx).map(|(result, _)| result)
    }
}
