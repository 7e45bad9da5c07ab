//! One operation: the pieces that it is cut into, and what each completion means for them.
//!
//! Completions are normalised here, the same for all drivers: a short transfer continues where it stopped, an interrupted one is tried again
//! (at most [`RETRIES_MAX`] times in a row without progress), no progress at all is an error. An NVMe command answers with the
//! device's status instead of a count.

use std::rc::Rc;
use std::task::Waker;

use super::{Request, Transfer};
use crate::buffer::Buffer;
use crate::device::nvme::Status;
#[cfg(feature = "testing")]
use crate::device::record::Recorded;
use crate::device::{Attached, DeviceKind, Placement};
use crate::executor::config::Class;
use crate::{IoError, OpKind};

/// How often an operation that makes no progress (EINTR, EAGAIN, ECANCELED) is tried again.
const RETRIES_MAX: u8 = 64;

/// The most that is discarded by one command: an NVMe command has 32 bits for the number of blocks, and a long one keeps the device from others.
const DISCARD_BYTES_MAX: u64 = 1 << 30;

/// In place of an error number: the simulated device has lost power.
pub(crate) const POWER_LOST: i32 = i32::MIN;

/// See the module. It lives in a slot of [`Ops`](super::Ops).
pub(super) struct Op {
    pub(super) kind: OpKind,
    pub(super) offset: u64,
    pub(super) len: u64,
    durable: bool,
    pub(super) placement: Option<Placement>,
    pub(super) device: Option<Rc<Attached>>,
    pub(super) buffer: Option<Buffer>,
    first: Piece,
    more: Vec<Piece>,
    pub(super) pieces_left: usize,
    pub(super) error: Option<IoError>,
    pub(super) waker: Option<Waker>,
    pub(super) abandoned: bool,
    pub(super) class: Class,
}

/// A part of an operation: at most one transfer of the device.
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

/// What follows from the completion of a piece.
pub(super) enum Step {
    /// To be handed to the driver again.
    Again,
    PieceDone(Option<IoError>),
}

impl Op {
    /// Cuts what is asked for into pieces.
    pub(super) fn new(device: &Rc<Attached>, request: Request, class: Class) -> Op {
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
        Op {
            kind: request.kind,
            offset: request.offset,
            len: request.len,
            durable: request.durable,
            placement: request.placement,
            device: Some(Rc::clone(device)),
            first: piece(0),
            pieces_left: more.len() + 1,
            more,
            buffer: request.buffer,
            error: None,
            waker: None,
            abandoned: false,
            class,
        }
    }

    /// What is left of a piece, for the driver.
    pub(super) fn transfer(&mut self, index: usize) -> Transfer<'_> {
        let piece = *self.piece(index);
        let Some(device) = &self.device else { unreachable!("an operation keeps its device until it is done") };
        Transfer {
            kind: self.kind,
            device,
            buffer: self.buffer.as_mut().map(|buffer| (buffer, piece.start + piece.done as usize)),
            offset: piece.offset + piece.done,
            len: piece.len - piece.done,
            durable: self.durable,
            placement: self.placement,
        }
    }

    /// The bytes of the buffer that a piece has still to transfer.
    pub(super) fn rest(&mut self, index: usize) -> Option<&mut [u8]> {
        let piece = *self.piece(index);
        let from = piece.start + piece.done as usize;
        let len = (piece.len - piece.done) as usize;
        self.buffer.as_deref_mut().map(|buffer| &mut buffer[from..from + len])
    }

    fn piece(&mut self, index: usize) -> &mut Piece {
        match index {
            0 => &mut self.first,
            _ => &mut self.more[index - 1],
        }
    }

    /// What is left to transfer of a piece; nothing where the operation moves no data.
    #[inline]
    pub(super) fn bytes_left(&mut self, index: usize) -> u64 {
        if self.buffer.is_none() {
            return 0;
        }
        let piece = self.piece(index);
        piece.len - piece.done
    }

    /// The ring has it in its queue, but the kernel does not know of it yet, or it is with the simulation.
    #[cfg(feature = "testing")]
    pub(super) fn record_submission(&mut self, index: usize) {
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
    pub(super) fn record_completion(&mut self, index: usize, result: i32) {
        let Some(number) = self.piece(index).recorded.take() else { return };
        if let Some(recorder) = self.device.as_ref().and_then(|device| device.shared().recorder()) {
            recorder.completed(number, result);
        }
    }

    /// What a completion of a piece means.
    pub(super) fn advance(&mut self, index: usize, result: i32, closed: bool) -> Step {
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
        // The kernel answers for a device that was pulled as for one that ends before the transfer: nothing is read, and there is no space.
        let error = match error {
            None | Some(libc::ENOSPC) if self.device.as_ref().is_some_and(|device| device.is_gone()) => {
                Some(libc::ENODEV)
            }
            error => error,
        };
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
