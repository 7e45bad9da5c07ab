//! The baton: blocking threads of the caller take turns at driving a shard that belongs to none of them.
//!
//! The shard (a [`Pump`]) is one value, full of unsynchronised parts, that moves whole from thread to thread. Who holds the baton may touch
//! it; nobody else does.
//!
//! 1. `wait(future)` polls the future. If it is not ready, the thread takes the baton when it is free, else it queues up and sleeps.
//! 2. The holder turns and parks the shard until its own future is ready; on the way it does the work of all others, whose
//!    futures wake them.
//! 3. A holder that is done hands the baton to the thread that has queued longest, or frees it.
//! 4. A sleeper wakes when its future is woken (then it leaves the queue) or when it is handed the baton (then it drives).
//!
//! The background thread takes the baton only when it is free (`try_turn`, `drive`), and gives it up as soon as someone queues.
//!
//! `close` queues up like everybody else, and takes the shard out. Where there are several shards, those that the background alone drives are
//! closed first: who drives another one may wait for what they owe.
//!
//! Invariants
//! 1. At most one thread holds the baton, and only the holder touches the shard.
//! 2. While anybody is queued, somebody holds the baton. So whoever sleeps is either served or handed the baton.
//! 3. Giving the baton up happens before the next holder takes it (both hold the mutex).

use std::collections::VecDeque;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use crate::executor::{Budget, Executor, RemoteWake, Turn};
use crate::sync::{AtomicBool, Condvar, Mutex, Ordering, lock};

/// How long a pump without a [`RemoteWake`] is parked at most.
const PARK_BLIND_US: u64 = 1000;

/// Something that is turned: an executor, or a shard around one.
pub trait Pump {
    /// See [`Executor::turn`].
    fn turn(&mut self, budget: &Budget) -> Turn;

    /// See [`Executor::park`].
    fn park(&mut self, timeout_us: Option<u64>);

    /// See [`Executor::remote`]. Without it, a holder that parks looks up every millisecond whether its future was woken.
    fn remote(&self) -> Option<RemoteWake> {
        None
    }
}

impl Pump for Executor {
    fn turn(&mut self, budget: &Budget) -> Turn {
        Executor::turn(self, budget)
    }

    fn park(&mut self, timeout_us: Option<u64>) {
        Executor::park(self, timeout_us);
    }

    fn remote(&self) -> Option<RemoteWake> {
        Some(Executor::remote(self))
    }
}

/// Lets blocking threads drive a shard, one at a time.
pub struct Baton<P: Pump> {
    hand: Hand,
    pump: PumpCell<P>,
    remote: Option<RemoteWake>,
}

impl<P: Pump> Baton<P> {
    /// Puts a shard under a baton.
    ///
    /// # Safety
    /// All parts of `pump` that are not `Send` (its `Rc`s, cells, tasks) must be reachable through `pump` alone: no clone of an `Rc`, no
    /// handle, no `Device` or `Buffer` of it stays behind on this thread, and its tasks put none into thread-locals. Its executor must
    /// be made with [`Driving::Moving`](crate::Driving::Moving).
    pub unsafe fn new(pump: P) -> Baton<P> {
        let remote = pump.remote();
        Baton { hand: Hand::new(), pump: PumpCell::new(pump), remote }
    }

    /// Blocks the calling thread until the future is ready; the thread drives the shard when nobody else does. The future is polled on
    /// this thread, and may wait for other things than the shard. Where the baton is closed meanwhile it sleeps until the future is
    /// woken: by what the shard dropped, for instance.
    ///
    /// # Panics
    /// When another thread's turn has panicked while the future still waits for the shard.
    pub fn wait<F: Future>(&self, future: F) -> F::Output {
        let mut future = pin!(future);
        let waiter = Arc::new(Waiter::new(self.remote.clone()));
        let waker = Waker::from(Arc::clone(&waiter));
        let mut context = Context::from_waker(&waker);
        let mut place = Place { hand: &self.hand, waiter: &waiter, standing: Standing::Away };
        loop {
            if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
                return output;
            }
            match place.standing {
                Standing::Holding => self.drive_until_woken(&waiter),
                Standing::Poisoned => panic!("another thread panicked while it drove the shard"),
                Standing::Away | Standing::Queued | Standing::Closed => place.take_or_sleep(),
            }
        }
    }

    /// Turns the shard once if nobody drives it.
    pub fn try_turn(&self, budget: &Budget) -> Option<Turn> {
        let _held = self.hand.try_take()?;
        Some(self.pump.with(|pump| pump.turn(budget)))
    }

    /// For a background thread: drives the shard while nobody else wants to, at most until the timeout has passed without progress. `None`
    /// where somebody else drives it.
    pub fn drive(&self, budget: &Budget, timeout_us: u64) -> Option<Turn> {
        let _held = self.hand.try_take()?;
        let mut parked = false;
        loop {
            let turn = self.pump.with(|pump| pump.turn(budget));
            if self.hand.is_wanted() || (turn != Turn::Progress && parked) {
                return Some(turn);
            }
            if turn != Turn::Progress {
                // Whoever queues in the meantime wakes the shard; or waits for as long as a pump without a waker is parked blindly.
                let timeout_us = if self.remote.is_some() { timeout_us } else { timeout_us.min(PARK_BLIND_US) };
                self.pump.with(|pump| pump.park(Some(timeout_us)));
                parked = true;
            }
        }
    }

    /// Takes the shard out, when its present driver has given it up; it is the caller's part to drop it. `None` where that has been done
    /// before, or a driver has panicked. Those who wait meanwhile, or come later, wait for their futures alone: what a dropped shard owes them
    /// must wake them.
    pub fn close(&self) -> Option<P> {
        let waiter = Arc::new(Waiter::new(self.remote.clone()));
        let mut place = Place { hand: &self.hand, waiter: &waiter, standing: Standing::Away };
        loop {
            match place.standing {
                Standing::Holding => break,
                Standing::Closed | Standing::Poisoned => return None,
                Standing::Away | Standing::Queued => place.take_or_sleep(),
            }
        }
        self.hand.close();
        self.pump.take()
    }

    /// Takes the shard out.
    pub fn into_inner(self) -> Option<P> {
        self.pump.take()
    }

    fn drive_until_woken(&self, waiter: &Waiter) {
        let budget = Budget { park_follows: true, ..Budget::default() };
        let timeout_us = if self.remote.is_some() { None } else { Some(PARK_BLIND_US) };
        loop {
            let turn = self.pump.with(|pump| pump.turn(&budget));
            if waiter.take_notification() {
                // What the turn started must not wait for another's.
                self.pump.with(|pump| pump.park(Some(0)));
                return;
            }
            if turn != Turn::Progress {
                self.pump.with(|pump| pump.park(timeout_us));
            }
        }
    }
}

/// A thread that waits: sleeps on its own condition variable until its future is woken or it is handed the baton.
struct Waiter {
    state: Mutex<WaiterState>,
    changed: Condvar,
    /// Its thread drives the shard, so that a wake-up must end the shard's park.
    driving: AtomicBool,
    remote: Option<RemoteWake>,
}

#[derive(Default)]
struct WaiterState {
    /// The future was woken, or the hand has changed: look again.
    notified: bool,
    handed: bool,
}

impl Waiter {
    fn new(remote: Option<RemoteWake>) -> Waiter {
        Waiter {
            state: Mutex::new(WaiterState::default()),
            changed: Condvar::new(),
            driving: AtomicBool::new(false),
            remote,
        }
    }

    fn notify(&self) {
        let mut state = lock(&self.state);
        state.notified = true;
        self.changed.notify_one();
        drop(state);
        // `driving` is set before the driver looks at `notified` for the first time, under the mutex: one of us sees the other.
        if self.driving.load(Ordering::Acquire)
            && let Some(remote) = &self.remote
        {
            remote.wake();
        }
    }

    fn hand_over(&self) {
        let mut state = lock(&self.state);
        state.handed = true;
        self.changed.notify_one();
    }

    fn take_notification(&self) -> bool {
        std::mem::take(&mut lock(&self.state).notified)
    }

    /// Sleeps; true where it was handed the baton.
    fn sleep(&self) -> bool {
        let mut state = lock(&self.state);
        while !state.notified && !state.handed {
            state = self.changed.wait(state).unwrap_or_else(std::sync::PoisonError::into_inner);
        }
        state.notified = false;
        std::mem::take(&mut state.handed)
    }
}

impl Wake for Waiter {
    fn wake(self: Arc<Self>) {
        self.notify();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.notify();
    }
}

/// Who holds the baton, and who is next.
struct Hand {
    state: Mutex<HandState>,
    /// Somebody is queued: for a background driver's look between turns.
    wanted: AtomicBool,
}

#[derive(Default)]
struct HandState {
    held: bool,
    /// The holder is the background: it is to be told when somebody queues.
    background: bool,
    closed: bool,
    poisoned: bool,
    queue: VecDeque<Arc<Waiter>>,
}

impl Hand {
    fn new() -> Hand {
        Hand { state: Mutex::new(HandState::default()), wanted: AtomicBool::new(false) }
    }

    /// Takes the baton if it is free, for the background.
    fn try_take(&self) -> Option<Held<'_>> {
        let mut state = lock(&self.state);
        if state.held || state.closed || state.poisoned {
            return None;
        }
        state.held = true;
        state.background = true;
        Some(Held { hand: self })
    }

    fn is_wanted(&self) -> bool {
        self.wanted.load(Ordering::Relaxed)
    }

    /// Takes the baton if it is free, else queues up.
    fn take_or_queue(&self, waiter: &Arc<Waiter>) -> Standing {
        let mut state = lock(&self.state);
        if state.poisoned {
            return Standing::Poisoned;
        }
        if state.closed {
            return Standing::Closed;
        }
        if !state.held {
            state.held = true;
            state.background = false;
            return Standing::Holding;
        }
        state.queue.push_back(Arc::clone(waiter));
        self.wanted.store(true, Ordering::Relaxed);
        if state.background
            && let Some(remote) = &waiter.remote
        {
            remote.wake();
        }
        Standing::Queued
    }

    /// The holder gives the baton up: to the first in the queue, or free.
    fn release(&self, panicking: bool) {
        let mut state = lock(&self.state);
        assert!(state.held, "a baton that nobody holds is given up");
        state.poisoned |= panicking;
        if state.poisoned || state.closed {
            state.held = false;
            // They find out why.
            state.queue.drain(..).for_each(|waiter| waiter.notify());
        } else if let Some(next) = state.queue.pop_front() {
            state.background = false;
            next.hand_over();
        } else {
            state.held = false;
        }
        self.wanted.store(!state.queue.is_empty(), Ordering::Relaxed);
    }

    /// A queued waiter leaves; where it was handed the baton in the meantime, it passes it on.
    fn leave(&self, waiter: &Arc<Waiter>) {
        let mut state = lock(&self.state);
        let before = state.queue.len();
        state.queue.retain(|queued| !Arc::ptr_eq(queued, waiter));
        self.wanted.store(!state.queue.is_empty(), Ordering::Relaxed);
        let was_queued = state.queue.len() < before;
        drop(state);
        if !was_queued && std::mem::take(&mut lock(&waiter.state).handed) {
            self.release(false);
        }
    }

    fn is_queued(&self, waiter: &Arc<Waiter>) -> bool {
        lock(&self.state).queue.iter().any(|queued| Arc::ptr_eq(queued, waiter))
    }

    fn close(&self) {
        lock(&self.state).closed = true;
    }
}

/// The background holds the baton.
struct Held<'a> {
    hand: &'a Hand,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.hand.release(std::thread::panicking());
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Away,
    Queued,
    Holding,
    /// There is no shard any more.
    Closed,
    /// A driver has panicked, and nobody knows in which state it left the shard.
    Poisoned,
}

/// A waiting thread's place: gives up the baton, or leaves the queue, when it goes.
struct Place<'a> {
    hand: &'a Hand,
    waiter: &'a Arc<Waiter>,
    standing: Standing,
}

impl Place<'_> {
    fn take_or_sleep(&mut self) {
        if self.standing == Standing::Closed {
            self.waiter.sleep();
        } else if self.standing == Standing::Away {
            self.standing = self.hand.take_or_queue(self.waiter);
        } else if self.waiter.sleep() {
            self.standing = Standing::Holding;
        } else if !self.hand.is_queued(self.waiter) && !lock(&self.waiter.state).handed {
            // Sent away: the hand is closed or poisoned.
            self.standing = Standing::Away;
        }
        if self.standing == Standing::Holding {
            self.waiter.driving.store(true, Ordering::Release);
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        match self.standing {
            Standing::Away | Standing::Closed | Standing::Poisoned => (),
            Standing::Queued => self.hand.leave(self.waiter),
            Standing::Holding => self.hand.release(std::thread::panicking()),
        }
    }
}

/// Where the shard is.
struct PumpCell<P> {
    #[cfg(not(loom))]
    pump: std::cell::UnsafeCell<Option<P>>,
    #[cfg(loom)]
    pump: loom::cell::UnsafeCell<Option<P>>,
}

impl<P> PumpCell<P> {
    fn new(pump: P) -> PumpCell<P> {
        #[cfg(not(loom))]
        return PumpCell { pump: std::cell::UnsafeCell::new(Some(pump)) };
        #[cfg(loom)]
        return PumpCell { pump: loom::cell::UnsafeCell::new(Some(pump)) };
    }

    /// Only for the holder of the baton.
    fn with<R>(&self, act: impl FnOnce(&mut P) -> R) -> R {
        self.slot(|slot| match slot {
            Some(pump) => act(pump),
            None => panic!("the shard is closed"),
        })
    }

    /// Only for the holder of the baton.
    fn take(&self) -> Option<P> {
        self.slot(Option::take)
    }

    fn slot<R>(&self, act: impl FnOnce(&mut Option<P>) -> R) -> R {
        #[cfg(not(loom))]
        {
            // SAFETY: all callers hold the baton, or own the whole `Baton`: no other reference exists (invariant 1), and what the last
            // holder did happened before (invariant 3).
            act(unsafe { &mut *self.pump.get() })
        }
        #[cfg(loom)]
        {
            // SAFETY: as above; loom checks it.
            self.pump.with_mut(|slot| act(unsafe { &mut *slot }))
        }
    }
}

// SAFETY: the contract of `Baton::new`: everything in `pump` that is not `Send` is reachable through it alone, so it may move whole to
// another thread. `hand` and `remote` are `Send` by themselves.
unsafe impl<P: Pump> Send for Baton<P> {}

// SAFETY: through a shared reference, `pump` is touched by the holder of the baton only (invariant 1), one thread after the other with
// a mutex between them (invariant 3), which is a move from thread to thread as above.
unsafe impl<P: Pump> Sync for Baton<P> {}

impl<P: Pump> std::fmt::Debug for Baton<P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Baton").field("held", &lock(&self.hand.state).held).finish()
    }
}

#[cfg(all(test, loom))]
#[expect(clippy::unwrap_used, reason = "a test stops where something is not as it should be")]
mod loom_models;
#[cfg(all(test, not(any(loom, shuttle))))]
mod tests;
