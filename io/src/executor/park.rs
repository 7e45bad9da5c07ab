//! Waking an executor from other threads, and the protocol by which it goes to sleep without missing a wake-up.
//!
//! Three states: `AWAKE`, `SLEEPING`, `NOTIFIED`.
//!
//! 1. A waker publishes its work (a task in the remote queue), then swaps in `NOTIFIED`. Only if it found `SLEEPING` does it pay
//!    for a system call (a write to the eventfd).
//! 2. A turn begins by swapping in `AWAKE`, and drains the remote queue after that.
//! 3. To sleep, the executor changes `AWAKE` to `SLEEPING`; where that fails, a wake-up has come in the meantime, and it does not
//!    sleep.
//!
//! Invariant: work that is in the remote queue while the executor sleeps was published by a waker that has swapped or will swap in
//! `NOTIFIED` and finds `SLEEPING`, so the sleeper will be woken. The loom models check it.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::task::{Wake, Waker};

use nix::sys::eventfd::{EfdFlags, EventFd};

#[cfg(any(loom, shuttle))]
use crate::sync::model::Event;
use crate::sync::{AtomicBool, AtomicU32, Mutex, Ordering, SegQueue, fence, lock};
use crate::{IoError, OpKind};

const AWAKE: u32 = 0;
const SLEEPING: u32 = 1;
const NOTIFIED: u32 = 2;

/// The sleeping flag.
pub(crate) struct SleepFlag(AtomicU32);

/// In which state a wake-up found the executor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// Turning, or about to look at its queue: it will see the work.
    Awake,
    /// Asleep: it must be kicked.
    Sleeping,
    /// Notified already, by another waker who has seen to the rest.
    Notified,
}

impl SleepFlag {
    pub(crate) fn new() -> SleepFlag {
        SleepFlag(AtomicU32::new(AWAKE))
    }

    /// Says that there is work, published before.
    pub(crate) fn notify(&self) -> Found {
        // A swap even where NOTIFIED is there already: it orders the published work before the turn that takes the notification.
        match self.0.swap(NOTIFIED, Ordering::AcqRel) {
            AWAKE => Found::Awake,
            SLEEPING => Found::Sleeping,
            _ => Found::Notified,
        }
    }

    /// Whether a notification waits.
    #[inline]
    pub(crate) fn is_notified(&self) -> bool {
        self.0.load(Ordering::Relaxed) == NOTIFIED
    }

    /// Takes the notification, if there is one; after this the work that it announced is visible.
    #[inline]
    pub(crate) fn take(&self) -> bool {
        self.is_notified() && self.0.swap(AWAKE, Ordering::AcqRel) == NOTIFIED
    }

    /// Announces sleep; false where a notification has come first.
    pub(crate) fn fall_asleep(&self) -> bool {
        self.0.compare_exchange(AWAKE, SLEEPING, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// Ends sleep. A notification stays for the next turn to take.
    pub(crate) fn wake_up(&self) {
        let _ = self.0.compare_exchange(SLEEPING, AWAKE, Ordering::AcqRel, Ordering::Acquire);
    }
}

/// What other threads hold of an executor.
pub(crate) struct Remote {
    pub(crate) flag: SleepFlag,
    /// Slots of tasks that were woken from outside the executor's turn; each is in it at most once.
    pub(crate) woken: SegQueue<u32>,
    /// What a sleeping executor waits on; none in a simulation.
    event: Option<EventFd>,
    /// The eventfd of the models, in whose simulations an executor sleeps.
    #[cfg(any(loom, shuttle))]
    model_event: Event,
    /// Somebody polls the eventfd instead of calling `park`, so every notification must be written to it.
    polled: AtomicBool,
    has_pump: AtomicBool,
    pump: Mutex<Option<Waker>>,
}

impl Remote {
    pub(crate) fn new(with_event: bool) -> Result<Remote, IoError> {
        let event = if with_event {
            let made = EventFd::from_flags(EfdFlags::EFD_CLOEXEC);
            Some(made.map_err(|errno| IoError::from_errno(OpKind::Setup, "eventfd", 0, 0, errno as i32))?)
        } else {
            None
        };
        Ok(Remote {
            flag: SleepFlag::new(),
            woken: SegQueue::new(),
            event,
            #[cfg(any(loom, shuttle))]
            model_event: Event::default(),
            polled: AtomicBool::new(false),
            has_pump: AtomicBool::new(false),
            pump: Mutex::new(None),
        })
    }

    /// Says that there is work, and wakes whoever has to do it.
    pub(crate) fn notify(&self) {
        let found = self.flag.notify();
        if found == Found::Notified {
            return;
        }
        // Either this sees that somebody polls or pumps, or the one who said so sees the notification.
        fence(Ordering::SeqCst);
        if found == Found::Sleeping || self.polled.load(Ordering::Relaxed) {
            self.kick();
        }
        self.wake_pump();
    }

    /// Wakes the one who pumps the executor, where there is one.
    pub(crate) fn wake_pump(&self) {
        if self.has_pump.load(Ordering::Relaxed) {
            let pump = lock(&self.pump).clone();
            if let Some(waker) = pump {
                waker.wake();
            }
        }
    }

    pub(crate) fn set_pump(&self, waker: Option<Waker>) {
        let mut pump = lock(&self.pump);
        self.has_pump.store(waker.is_some(), Ordering::Relaxed);
        *pump = waker;
        drop(pump);
        // See `notify`.
        fence(Ordering::SeqCst);
        if self.flag.is_notified() {
            self.wake_pump();
        }
    }

    /// From now on someone polls the eventfd. It starts out readable, so that nothing that came before is missed.
    pub(crate) fn set_polled(&self) {
        self.polled.store(true, Ordering::Relaxed);
        // See `notify`.
        fence(Ordering::SeqCst);
        self.kick();
    }

    pub(crate) fn event(&self) -> Option<BorrowedFd<'_>> {
        self.event.as_ref().map(|event| event.as_fd())
    }

    /// Makes the eventfd unreadable again. It must have been made non-blocking before.
    pub(crate) fn clear_event(&self) {
        #[cfg(any(loom, shuttle))]
        self.model_event.clear();
        if let Some(event) = &self.event {
            // EAGAIN: it was not readable, which is what is wanted.
            let _ = event.read();
        }
    }

    /// Sleeps as the ring does, until a notification comes.
    #[cfg(any(loom, shuttle))]
    pub(crate) fn sleep(&self) {
        if self.flag.fall_asleep() {
            self.model_event.wait();
            self.flag.wake_up();
        }
    }

    /// Sleeps as someone who polls the eventfd.
    #[cfg(all(test, loom))]
    pub(crate) fn poll_event(&self) {
        self.model_event.poll();
    }

    fn kick(&self) {
        #[cfg(any(loom, shuttle))]
        self.model_event.kick();
        if let Some(event) = &self.event {
            // Fails only with EAGAIN on a counter at its limit, when it is readable anyway.
            let _ = event.write(1);
        }
    }
}

/// Wakes an executor from any thread.
#[derive(Clone)]
pub struct RemoteWake(pub(crate) Arc<Remote>);

impl RemoteWake {
    /// Ends the executor's `park`, or makes its next one return at once.
    pub fn wake(&self) {
        self.0.notify();
    }
}

impl Wake for Remote {
    fn wake(self: Arc<Self>) {
        self.notify();
    }
}

impl From<RemoteWake> for Waker {
    fn from(remote: RemoteWake) -> Waker {
        Waker::from(remote.0)
    }
}
