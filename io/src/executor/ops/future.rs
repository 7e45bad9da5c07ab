//! The futures of operations.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use super::Request;
use crate::IoError;
use crate::buffer::Buffer;
use crate::device::Attached;
use crate::executor::core::Core;
use crate::executor::task;

/// The future of an operation.
struct Operation {
    core: Rc<Core>,
    slot: Option<u32>,
}

impl Operation {
    fn start(core: &Rc<Core>, device: &Rc<Attached>, request: Request) -> Operation {
        let class = request.class.unwrap_or_else(|| core.slice.class.get());
        let slot = core.ops.borrow_mut().start(device, request, class);
        if !task::inside(core.id) {
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
