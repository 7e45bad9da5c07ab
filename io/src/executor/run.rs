//! The executor itself: turns, parking, and running one future to its end.

use std::cell::RefCell;
use std::future::Future;
use std::os::fd::BorrowedFd;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use super::config::{Backend, Budget, Class, ExecutorConfig, Turn};
use super::core::{Core, Slice, next_executor_id};
use super::handle::Handle;
use super::ops::{Driver, Ops};
use super::park::{Remote, RemoteWake};
use super::queue::Queue;
use super::schedule::Order;
use super::task::{self, Ready, Tasks};
use super::timer::Timers;
use crate::IoError;
use crate::clock::Clock;
use crate::ring::Ring;
use crate::sim::SimDriver;
use crate::sync::{AtomicBool, Ordering};

/// Tasks that are dropped at the end may spawn others; after this many rounds of that, what is left is a bug in them.
const DROP_ROUNDS_MAX: usize = 64;

/// Runs tasks and their I/O, on one thread at a time. A turn takes what came from outside, runs ready foreground tasks, then one
/// background slice, and hands the operations that they started to the kernel together.
pub struct Executor {
    core: Rc<Core>,
    /// How much time each background class has had, divided by its weight.
    background_used: [u64; 3],
    /// The last turn was not `Progress`, so that whoever polls the eventfd may have been woken by it.
    may_have_slept: bool,
    polled: bool,
    /// The last turn left operations to be handed over by `park`.
    submission_deferred: bool,
}

impl Executor {
    /// Makes an executor. With `Driving::Pinned` the calling thread is the one that must turn it.
    pub fn new(config: ExecutorConfig, backend: Backend) -> Result<Executor, IoError> {
        let id = next_executor_id();
        // Each kind of choice has its own order.
        let derived = |nth: u64| config.schedule_seed.map(|seed| seed.rotate_left(21).wrapping_add(nth));
        let (driver, clock, remote) = match backend {
            Backend::Ring => {
                let remote = Arc::new(Remote::new(true)?);
                let ring = Ring::new(&config, id, Arc::clone(&remote))?;
                (Driver::Ring(Box::new(ring)), Clock::Machine, remote)
            }
            Backend::Simulated(clock) => {
                let remote = Arc::new(Remote::new(false)?);
                let driver = SimDriver::new(clock.clone(), derived(1));
                (Driver::Simulated(driver), Clock::Simulated(clock), remote)
            }
        };
        let ready = Rc::new(Ready::new(id, Order::new(derived(2))));
        let timers = RefCell::new(Timers::new(Order::new(derived(3))));
        let ops = Ops::new(driver, Queue::new(config.io_budget, config.background_weights));
        let core = Core {
            id,
            config,
            clock,
            remote,
            ready,
            tasks: RefCell::new(Tasks::default()),
            timers,
            ops: RefCell::new(ops),
            slice: Slice::new(),
        };
        let core = Rc::new(core);
        let background_used = [0; 3];
        Ok(Executor { core, background_used, may_have_slept: false, polled: false, submission_deferred: false })
    }

    /// What tasks use to reach the executor.
    pub fn handle(&self) -> Handle {
        Handle::new(Rc::clone(&self.core))
    }

    /// What other threads use to wake it.
    pub fn remote(&self) -> RemoteWake {
        RemoteWake(Arc::clone(&self.core.remote))
    }

    /// Tasks that have not finished.
    pub fn tasks(&self) -> usize {
        self.core.tasks.borrow().live()
    }

    /// Does what can be done now, within the budget: completions and timers, then foreground tasks, then a background slice, then the
    /// hand-over of new operations to the kernel.
    pub fn turn(&mut self, budget: &Budget) -> Turn {
        let core = Rc::clone(&self.core);
        let _scope = core.enter();
        if self.polled && std::mem::replace(&mut self.may_have_slept, false) {
            core.remote.clear_event();
        }
        let mut progress = self.take_events();
        progress |= self.run_foreground(budget);
        progress |= self.run_background(budget);
        core.slice.begin(Class::Foreground, u64::MAX / 2);
        let turn = self.hand_over(budget, progress);
        self.may_have_slept = turn != Turn::Progress;
        turn
    }

    /// Waits until there is something to do: a task is ready, a completion or another thread's wake-up comes, a timer is due, or the
    /// timeout is over. In a simulation the clock moves to the next event instead.
    pub fn park(&mut self, timeout_us: Option<u64>) {
        if self.core.ready.any() || self.core.remote.flag.is_notified() {
            return;
        }
        let now_us = self.core.clock.now_us();
        let timer_us = self.core.timers.borrow().next_us();
        let timer_wait_us = timer_us.map(|deadline| deadline.saturating_sub(now_us));
        let wait_us = [timeout_us, timer_wait_us].into_iter().flatten().min();
        let mut ops = self.core.ops.borrow_mut();
        let in_flight = ops.in_flight() > 0;
        ops.pump_queue();
        match ops.driver() {
            Driver::Ring(ring) => {
                let spin_us = if in_flight { u64::from(self.core.config.spin_us) } else { 0 };
                ring.park(wait_us, spin_us, self.polled);
            }
            Driver::Simulated(sim) => {
                let target = [wait_us.map(|wait| now_us + wait), sim.next_us()].into_iter().flatten().min();
                match (target, &self.core.clock) {
                    (Some(target), Clock::Simulated(clock)) => clock.advance_to(target),
                    #[cfg(any(loom, shuttle))]
                    (None, _) => self.core.remote.sleep(),
                    // Only another thread can have something: one that Miri does not run until this one lets it.
                    _ => std::hint::spin_loop(),
                }
            }
        }
    }

    /// A descriptor that becomes readable when a turn has something to do, for callers with their own event loop: poll it after a turn
    /// that was not `Progress`. `None` in a simulation.
    pub fn wake_fd(&mut self) -> Option<BorrowedFd<'_>> {
        if !std::mem::replace(&mut self.polled, true) {
            if let Driver::Ring(ring) = self.core.ops.borrow_mut().driver() {
                ring.register_event();
            }
            self.core.remote.set_polled();
            self.may_have_slept = true;
        }
        self.core.remote.event()
    }

    /// Names a waker that is woken when tasks become ready from outside a turn, for executors that are a task of another one.
    pub fn set_pump_waker(&self, waker: Option<Waker>) {
        self.core.remote.set_pump(waker);
    }

    /// The time of the next event that is known now: at once where a task is ready, else the earliest timer or, in a simulation,
    /// completion.
    pub fn next_event_us(&self) -> Option<u64> {
        if self.core.ready.any() || self.core.remote.flag.is_notified() {
            return Some(self.core.clock.now_us());
        }
        let completion_us = match self.core.ops.borrow_mut().driver() {
            Driver::Ring(_) => None,
            Driver::Simulated(sim) => sim.next_us(),
        };
        let timer_us = self.core.timers.borrow().next_us();
        [completion_us, timer_us].into_iter().flatten().min()
    }

    /// Turns and parks until the future, which counts as foreground, is done.
    ///
    /// # Panics
    /// In a simulation, when nothing can happen any more and the future is not done.
    pub fn block_on<F: Future>(&mut self, future: F) -> F::Output {
        match self.try_block_on(future) {
            Some(output) => output,
            None => panic!("the simulation has come to a standstill: the future waits for what will never happen"),
        }
    }

    /// Like [`block_on`](Executor::block_on), but `None` when, in a simulation, nothing can happen any more: after a crash of the disk,
    /// whose operations never complete.
    pub fn try_block_on<F: Future>(&mut self, future: F) -> Option<F::Output> {
        let mut future = pin!(future);
        let root = Arc::new(Root {
            woken: AtomicBool::new(true),
            executor: self.core.id,
            remote: Arc::clone(&self.core.remote),
        });
        let waker = Waker::from(Arc::clone(&root));
        let budget = Budget { park_follows: true, ..Budget::default() };
        loop {
            if root.woken.swap(false, Ordering::AcqRel) {
                let core = Rc::clone(&self.core);
                let _scope = core.enter();
                core.slice.begin(Class::Foreground, u64::from(budget.foreground_slice_us));
                if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
                    return Some(output);
                }
            }
            let turn = self.turn(&budget);
            if turn == Turn::Progress || root.woken.load(Ordering::Acquire) {
                continue;
            }
            if matches!(self.core.clock, Clock::Simulated(_)) && self.next_event_us().is_none() {
                return None;
            }
            self.park(None);
        }
    }

    /// Makes tasks ready: those that other threads woke, whose timers are due, whose operations have completed.
    fn take_events(&mut self) -> bool {
        let core = &self.core;
        let mut progress = false;
        if core.remote.flag.take() {
            progress = true;
            let tasks = core.tasks.borrow();
            while let Some(slot) = core.remote.woken.pop() {
                core.ready.push(tasks.class(slot), slot);
            }
        }
        if core.timers.borrow().next_us().is_some() {
            let now_us = core.clock.now_us();
            loop {
                let due = core.timers.borrow_mut().pop_due(now_us);
                let Some(waker) = due else { break };
                waker.wake();
                progress = true;
            }
        }
        let mut ops = core.ops.borrow_mut();
        if let Driver::Ring(ring) = ops.driver() {
            ring.enter_if_needed();
        }
        progress |= ops.reap() > 0;
        let mut woken = ops.take_woken();
        drop(ops);
        // Foreign wakers may do anything, also start operations: not while the slab is borrowed.
        woken.drain(..).for_each(Waker::wake);
        core.ops.borrow_mut().return_woken(woken);
        progress
    }

    fn run_foreground(&mut self, budget: &Budget) -> bool {
        let mut ran = 0;
        while ran < budget.foreground_tasks_max {
            let Some(slot) = self.core.ready.pop(Class::Foreground) else { break };
            self.core.slice.begin(Class::Foreground, u64::from(budget.foreground_slice_us));
            self.poll_task(slot);
            ran += 1;
        }
        ran > 0
    }

    /// Runs background tasks until the slice is used up or foreground work waits. Of the classes with ready tasks the one that has had
    /// least time for its weight runs.
    fn run_background(&mut self, budget: &Budget) -> bool {
        let core = Rc::clone(&self.core);
        let any = || Class::BACKGROUND.iter().any(|class| core.ready.has(*class));
        if !any() {
            return false;
        }
        let length_us = u64::from(budget.background_slice_us);
        core.slice.begin(Class::Flush, length_us);
        if core.slice_is_over() {
            return false;
        }
        let mut ran = false;
        while let Some(index) = self.next_background_class() {
            let class = Class::BACKGROUND[index];
            core.slice.class.set(class);
            let Some(slot) = core.ready.pop(class) else { unreachable!("the class has a ready task") };
            let (began_us, asked) = (core.clock.now_us(), core.slice.asked.get());
            self.poll_task(slot);
            ran = true;
            let used_us = core.clock.now_us() - began_us + core.slice.asked.get() - asked;
            let weight = u64::from(core.config.background_weights[index].max(1));
            self.background_used[index] += (used_us + 1) * 1000 / weight;
            if core.slice_is_over() || core.ready.has(Class::Foreground) {
                break;
            }
        }
        ran
    }

    fn next_background_class(&mut self) -> Option<usize> {
        let ready = |index: &usize| self.core.ready.has(Class::BACKGROUND[*index]);
        let chosen = (0..Class::BACKGROUND.len()).filter(ready).min_by_key(|index| self.background_used[*index])?;
        // A class that was away does not come back with a claim on all the time it did not need.
        let floor = self.background_used[chosen];
        for used in &mut self.background_used {
            *used = (*used).max(floor);
        }
        Some(chosen)
    }

    fn poll_task(&mut self, slot: u32) {
        let begun = self.core.tasks.borrow_mut().begin_poll(slot);
        let Some((mut future, waker)) = begun else { return };
        let done = future.as_mut().poll(&mut Context::from_waker(&waker)).is_ready();
        if done {
            // Dropped first, and with nothing borrowed: what it owns may wake, spawn or give buffers back.
            drop(future);
            self.core.tasks.borrow_mut().finished(slot);
        } else {
            self.core.tasks.borrow_mut().pending(slot, future);
        }
    }

    /// The end of a turn.
    fn hand_over(&mut self, budget: &Budget, progress: bool) -> Turn {
        let core = &self.core;
        let mut ops = core.ops.borrow_mut();
        ops.pump_queue();
        let timer_us = core.timers.borrow().next_us();
        let mut completion_waits = false;
        if let Driver::Ring(ring) = ops.driver() {
            if self.polled
                && let Some(timer_us) = timer_us
            {
                ring.arm_timer(timer_us, core.clock.now_us());
            }
            // Left to `park` where that comes next; but not turn after turn.
            if !budget.park_follows || core.ready.any() || (progress && self.submission_deferred) {
                ring.submit();
            }
            self.submission_deferred = ring.has_unsubmitted();
            // Who sleeps on the eventfd would not hear of what must be polled for.
            completion_waits = ring.completion_waits() || self.polled && ring.must_be_polled();
        }
        let stuck = ops.waits_for_room() && progress;
        if progress || completion_waits || stuck || core.ready.any() || core.remote.flag.is_notified() {
            Turn::Progress
        } else if ops.in_flight() > 0 || timer_us.is_some() {
            Turn::InFlight
        } else {
            Turn::Idle
        }
    }
}

impl Drop for Executor {
    /// Drops the tasks, then waits until the kernel has let go of every buffer.
    fn drop(&mut self) {
        let core = Rc::clone(&self.core);
        {
            let _scope = core.enter();
            for _ in 0..DROP_ROUNDS_MAX {
                let futures = core.tasks.borrow_mut().drain();
                if futures.is_empty() {
                    break;
                }
                drop(futures);
            }
            drop(core.timers.borrow_mut().clear());
        }
        let mut ops = core.ops.borrow_mut();
        ops.close();
        let woken = ops.take_woken();
        drop(ops);
        woken.into_iter().for_each(Waker::wake);
    }
}

/// The waker of the future that `block_on` runs.
struct Root {
    woken: AtomicBool,
    executor: u64,
    remote: Arc<Remote>,
}

impl Wake for Root {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.woken.swap(true, Ordering::AcqRel) && !task::inside(self.executor) {
            self.remote.notify();
        }
    }
}
