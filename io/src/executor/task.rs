//! Tasks: the slab that owns their futures, their wakers, and the run queues.
//!
//! A task is a boxed future in a slot. Each slot has one waker, made once and reused by the tasks that follow each other in it; a
//! waker that outlives its task at worst polls the next one in vain.
//!
//! A wake-up from inside the turn of the task's own executor goes to a plain local queue, found through a thread-local; from
//! anywhere else, to the lock-free remote queue, with a notification of the executor.
//!
//! Invariant: a slot is in a run queue (local or remote) if and only if its `queued` is set, so at most once.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Wake, Waker};

use super::config::Class;
use super::park::Remote;
use super::schedule::Order;
use crate::sync::{AtomicBool, AtomicU8, Ordering};

/// A task's future.
pub(crate) type TaskFuture = Pin<Box<dyn Future<Output = ()>>>;

/// The tasks of an executor that can run, a queue for each class.
pub(crate) struct Ready {
    executor: u64,
    queues: [RefCell<VecDeque<u32>>; Class::COUNT],
    /// How many are in all queues.
    total: Cell<usize>,
    /// Which of a class comes next.
    order: RefCell<Order>,
    in_order: bool,
}

impl Ready {
    pub(crate) fn new(executor: u64, order: Order) -> Ready {
        let in_order = !order.is_random();
        Ready { executor, queues: Default::default(), total: Cell::new(0), order: RefCell::new(order), in_order }
    }

    #[inline]
    pub(crate) fn push(&self, class: Class, slot: u32) {
        self.queues[class as usize].borrow_mut().push_back(slot);
        self.total.set(self.total.get() + 1);
    }

    #[inline]
    pub(crate) fn pop(&self, class: Class) -> Option<u32> {
        let mut queue = self.queues[class as usize].borrow_mut();
        let slot = match self.in_order {
            true => queue.pop_front()?,
            false => {
                let next = self.order.borrow_mut().pick(queue.len());
                queue.swap_remove_back(next)?
            }
        };
        self.total.set(self.total.get() - 1);
        Some(slot)
    }

    #[inline]
    pub(crate) fn has(&self, class: Class) -> bool {
        !self.queues[class as usize].borrow().is_empty()
    }

    #[inline]
    pub(crate) fn any(&self) -> bool {
        self.total.get() > 0
    }
}

#[cfg(not(loom))]
crate::sync::thread_local! {
    /// The run queues of the executor whose turn this thread is in.
    static CURRENT: RefCell<Option<Rc<Ready>>> = const { RefCell::new(None) };
}
#[cfg(loom)]
crate::sync::thread_local! {
    static CURRENT: RefCell<Option<Rc<Ready>>> = RefCell::new(None);
}

/// While it lives, wake-ups on this thread of tasks of this executor are local.
pub(crate) struct Scope {
    previous: Option<Rc<Ready>>,
}

impl Scope {
    pub(crate) fn enter(ready: &Rc<Ready>) -> Scope {
        Scope { previous: CURRENT.with(|current| current.borrow_mut().replace(Rc::clone(ready))) }
    }
}

impl Drop for Scope {
    fn drop(&mut self) {
        let previous = self.previous.take();
        // Fails only while the thread ends, when nobody can wake through it any more.
        let _ = CURRENT.try_with(|current| *current.borrow_mut() = previous);
    }
}

/// Whether the calling thread is inside the turn of this executor.
pub(crate) fn inside(executor: u64) -> bool {
    with_current(executor, |_| ())
}

fn with_current(executor: u64, act: impl FnOnce(&Ready)) -> bool {
    CURRENT
        .try_with(|current| match current.borrow().as_deref() {
            Some(ready) if ready.executor == executor => {
                act(ready);
                true
            }
            _ => false,
        })
        .unwrap_or(false)
}

/// The waker of a slot.
pub(crate) struct TaskWaker {
    slot: u32,
    executor: u64,
    class: AtomicU8,
    queued: AtomicBool,
    remote: Arc<Remote>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.queued.swap(true, Ordering::AcqRel) {
            return;
        }
        let class = Class::from_index(self.class.load(Ordering::Relaxed));
        if !with_current(self.executor, |ready| ready.push(class, self.slot)) {
            self.remote.woken.push(self.slot);
            self.remote.notify();
        }
    }
}

struct Slot {
    /// The future; absent while it is polled and while the slot is free.
    future: Option<TaskFuture>,
    live: bool,
    class: Class,
    task_waker: Arc<TaskWaker>,
    waker: Waker,
}

/// All tasks of an executor.
#[derive(Default)]
pub(crate) struct Tasks {
    slots: Vec<Slot>,
    free: Vec<u32>,
}

impl Tasks {
    /// Stores a task and marks it queued; the caller puts the slot into the run queue.
    pub(crate) fn insert(&mut self, executor: u64, remote: &Arc<Remote>, class: Class, future: TaskFuture) -> u32 {
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None => {
                let slot = self.slots.len() as u32;
                let task_waker = Arc::new(TaskWaker {
                    slot,
                    executor,
                    class: AtomicU8::new(class as u8),
                    queued: AtomicBool::new(false),
                    remote: Arc::clone(remote),
                });
                let waker = Waker::from(Arc::clone(&task_waker));
                self.slots.push(Slot { future: None, live: false, class, task_waker, waker });
                slot
            }
        };
        let entry = &mut self.slots[slot as usize];
        entry.future = Some(future);
        entry.live = true;
        entry.class = class;
        entry.task_waker.class.store(class as u8, Ordering::Relaxed);
        slot
    }

    /// Marks a slot as queued; false where it is already (a waker of the slot's last task may have come first).
    pub(crate) fn mark_queued(&self, slot: u32) -> bool {
        !self.slots[slot as usize].task_waker.queued.swap(true, Ordering::AcqRel)
    }

    pub(crate) fn class(&self, slot: u32) -> Class {
        self.slots[slot as usize].class
    }

    /// Takes a task out of its slot to be polled. From here on a wake-up queues it anew.
    pub(crate) fn begin_poll(&mut self, slot: u32) -> Option<(TaskFuture, Waker)> {
        let entry = &mut self.slots[slot as usize];
        entry.task_waker.queued.swap(false, Ordering::AcqRel);
        let future = entry.future.take()?;
        Some((future, entry.waker.clone()))
    }

    /// Puts a task that is not done back.
    pub(crate) fn pending(&mut self, slot: u32, future: TaskFuture) {
        self.slots[slot as usize].future = Some(future);
    }

    /// Frees the slot of a task that is done.
    pub(crate) fn finished(&mut self, slot: u32) {
        self.slots[slot as usize].live = false;
        self.free.push(slot);
    }

    /// Takes all futures out, to be dropped.
    pub(crate) fn drain(&mut self) -> Vec<TaskFuture> {
        let mut futures = Vec::new();
        for (slot, entry) in self.slots.iter_mut().enumerate() {
            if let Some(future) = entry.future.take() {
                entry.live = false;
                self.free.push(slot as u32);
                futures.push(future);
            }
        }
        futures
    }

    pub(crate) fn live(&self) -> usize {
        self.slots.iter().filter(|slot| slot.live).count()
    }
}
