//! What tasks see of their executor.

use std::future::{Future, poll_fn};
use std::rc::Rc;
use std::task::Poll;

use super::config::Class;
use super::core::Core;
use super::ops::IoStats;
use super::timer::Sleep;
use crate::buffer::BufferPool;
use crate::device::{Device, SharedDevice};
use crate::{IoError, OpKind};

/// A registered region has at most this many bytes: the kernel's limit.
const REGION_BYTES_MAX: usize = 1 << 30;

/// Spawns tasks, tells the time, makes buffers and attaches devices. Stays on the thread that turns the executor.
#[derive(Clone)]
pub struct Handle {
    core: Rc<Core>,
}

impl Handle {
    pub(crate) fn new(core: Rc<Core>) -> Handle {
        Handle { core }
    }

    /// Starts a task. It first runs in the current or next turn, after the tasks of its class that are ready already.
    pub fn spawn(&self, class: Class, future: impl Future<Output = ()> + 'static) {
        self.core.spawn(class, Box::pin(future));
    }

    /// Monotonic microseconds. All executors of the process agree, or of the simulation.
    #[inline]
    pub fn now_us(&self) -> u64 {
        self.core.clock.now_us()
    }

    /// Milliseconds since 1970, by the machine's clock; virtual in a simulation.
    pub fn wall_ms(&self) -> u64 {
        self.core.clock.wall_ms()
    }

    /// Completes this many microseconds from now.
    pub fn sleep_us(&self, us: u64) -> Sleep {
        Sleep::new(Rc::clone(&self.core), self.now_us().saturating_add(us))
    }

    /// Whether the running task should yield: its slice is used up or, for a background task, foreground work waits. Costs one look
    /// at the clock (about 25 ns). In a simulation each call counts as one microsecond of the slice.
    #[inline]
    pub fn need_preempt(&self) -> bool {
        self.core.need_preempt()
    }

    /// Goes to the back of the queue of the task's class.
    pub async fn yield_now(&self) {
        let mut yielded = false;
        poll_fn(|cx| {
            if std::mem::replace(&mut yielded, true) {
                return Poll::Ready(());
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
    }

    /// Makes a pool of frames in one mapping and registers it with the ring; where that is refused (a small memlock limit, a
    /// simulation) it works unregistered, at more CPU for each operation. `frame_bytes` is a multiple of 4096.
    pub fn buffer_pool(&self, frame_bytes: usize, frames: usize) -> BufferPool {
        let pool = BufferPool::new(frame_bytes, frames, REGION_BYTES_MAX, self.core.id);
        self.core.ops.borrow_mut().register_pool(&pool);
        pool
    }

    /// Makes a device usable from this executor. A simulated disk needs a simulated executor, a file one with a ring.
    pub fn attach(&self, device: &SharedDevice) -> Result<Device, IoError> {
        if self.core.ops.borrow().is_closed() {
            return Err(IoError::other(OpKind::Setup, device.path(), 0, 0, "the executor has ended"));
        }
        Device::attach(Rc::clone(&self.core), device)
    }

    /// What was read, written, flushed and discarded through this executor so far.
    pub fn io_stats(&self) -> IoStats {
        self.core.ops.borrow().stats()
    }
}
