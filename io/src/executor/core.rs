//! The state that an executor shares with its handles, devices and futures, all on one thread at a time.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::config::{Class, ExecutorConfig};
use super::ops::Ops;
use super::park::Remote;
use super::task::{self, Ready, Scope, TaskFuture, Tasks};
use super::timer::Timers;
use crate::clock::Clock;

/// Numbers executors, so that a waker can tell whether it is inside its own one's turn.
static EXECUTORS_MADE: AtomicU64 = AtomicU64::new(1);

pub(crate) fn next_executor_id() -> u64 {
    EXECUTORS_MADE.fetch_add(1, Ordering::Relaxed)
}

/// See the module.
pub(crate) struct Core {
    pub(crate) id: u64,
    pub(crate) config: ExecutorConfig,
    pub(crate) clock: Clock,
    pub(crate) remote: Arc<Remote>,
    pub(crate) ready: Rc<Ready>,
    pub(crate) tasks: RefCell<Tasks>,
    pub(crate) timers: RefCell<Timers>,
    pub(crate) ops: RefCell<Ops>,
    pub(crate) slice: Slice,
}

/// The slice of time that the running task is in.
pub(crate) struct Slice {
    pub(crate) class: Cell<Class>,
    /// How long the class may run, in microseconds.
    pub(crate) length_us: Cell<u64>,
    /// When the slice is over; 0 until somebody asks, so that short tasks cost no look at the clock.
    pub(crate) end_us: Cell<u64>,
    /// In a simulation, where time stands still within a turn: how often the running slice was asked about. Each counts as 1 us.
    pub(crate) asked: Cell<u64>,
}

impl Slice {
    pub(crate) fn new() -> Slice {
        Slice {
            class: Cell::new(Class::Foreground),
            length_us: Cell::new(u64::MAX / 2),
            end_us: Cell::new(0),
            asked: Cell::new(0),
        }
    }

    pub(crate) fn begin(&self, class: Class, length_us: u64) {
        self.class.set(class);
        self.length_us.set(length_us);
        self.end_us.set(0);
        self.asked.set(0);
    }
}

impl Core {
    /// Makes wake-ups local while the returned scope lives.
    pub(crate) fn enter(&self) -> Scope {
        Scope::enter(&self.ready)
    }

    pub(crate) fn spawn(&self, class: Class, future: TaskFuture) {
        let mut tasks = self.tasks.borrow_mut();
        let slot = tasks.insert(self.id, &self.remote, class, future);
        // A late waker of the slot's last task may have queued it, in the local or the remote queue: once is enough.
        if tasks.mark_queued(slot) {
            self.ready.push(class, slot);
        }
        drop(tasks);
        if !task::inside(self.id) {
            self.remote.notify();
        }
    }

    /// See [`Handle::need_preempt`](crate::Handle::need_preempt).
    #[inline]
    pub(crate) fn need_preempt(&self) -> bool {
        if self.slice.class.get() != Class::Foreground && self.foreground_waits() {
            return true;
        }
        self.slice_is_over()
    }

    #[inline]
    fn foreground_waits(&self) -> bool {
        self.ready.has(Class::Foreground)
            || self.remote.flag.is_notified()
            || self.ops.try_borrow().is_ok_and(|ops| ops.foreground_completion_waits())
    }

    pub(crate) fn slice_is_over(&self) -> bool {
        match &self.clock {
            Clock::Machine => {
                let now_us = self.clock.now_us();
                if self.slice.end_us.get() == 0 {
                    self.slice.end_us.set(now_us + self.slice.length_us.get());
                }
                now_us >= self.slice.end_us.get()
            }
            Clock::Simulated(_) => {
                self.slice.asked.set(self.slice.asked.get() + 1);
                self.slice.asked.get() > self.slice.length_us.get()
            }
        }
    }
}
