//! Waiting for each other among the tasks of one executor: no atomics, and no allocation once warm.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

/// A condition variable for tasks. A notification reaches those who wait already; it is not stored. Since nothing else runs between a
/// task's check and its wait, `while !condition() { event.wait().await }` misses none.
///
/// ```
/// use siltstone_io::{*, local::Event};
/// use std::{cell::Cell, rc::Rc};
/// let mut executor = Executor::new(ExecutorConfig::default(), Backend::Simulated(SimClock::new()))?;
/// let shared = Rc::new((Event::new(), Cell::new(false)));
/// let setter = Rc::clone(&shared);
/// executor.handle().spawn(Class::Flush, async move {
///     setter.1.set(true);
///     setter.0.notify_all();
/// });
/// executor.block_on(async { while !shared.1.get() { shared.0.wait().await } });
/// # Ok::<(), IoError>(())
/// ```
#[derive(Default)]
pub struct Event {
    /// In the order of their ids, which is the order of arrival.
    waiters: RefCell<VecDeque<(u64, Waker)>>,
    arrived: Cell<u64>,
}

impl Event {
    /// An event that nobody waits for.
    pub fn new() -> Event {
        Event::default()
    }

    /// Wakes all who wait now.
    pub fn notify_all(&self) {
        // Those who come back while we wake are not among them.
        let count = self.waiters.borrow().len();
        for _ in 0..count {
            self.notify_one();
        }
    }

    /// Wakes the one who has waited longest.
    pub fn notify_one(&self) {
        let first = self.waiters.borrow_mut().pop_front();
        if let Some((_, waker)) = first {
            waker.wake();
        }
    }

    /// Whether anybody waits.
    pub fn has_waiters(&self) -> bool {
        !self.waiters.borrow().is_empty()
    }

    /// Completes at the next notification. It waits from its first poll on.
    pub fn wait(&self) -> Wait<'_> {
        Wait { event: self, id: None }
    }
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Event({} waiting)", self.waiters.borrow().len())
    }
}

/// Made by [`Event::wait`].
#[must_use = "futures do nothing unless polled"]
pub struct Wait<'a> {
    event: &'a Event,
    id: Option<u64>,
}

impl Future for Wait<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut waiters = self.event.waiters.borrow_mut();
        let Some(id) = self.id else {
            let id = self.event.arrived.get();
            self.event.arrived.set(id + 1);
            waiters.push_back((id, cx.waker().clone()));
            drop(waiters);
            self.id = Some(id);
            return Poll::Pending;
        };
        match waiters.binary_search_by_key(&id, |waiter| waiter.0) {
            Ok(index) => {
                waiters[index].1.clone_from(cx.waker());
                Poll::Pending
            }
            Err(_) => {
                drop(waiters);
                self.id = None;
                Poll::Ready(())
            }
        }
    }
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        let Some(id) = self.id else { return };
        let mut waiters = self.event.waiters.borrow_mut();
        match waiters.binary_search_by_key(&id, |waiter| waiter.0) {
            Ok(index) => drop(waiters.remove(index)),
            Err(_) => {
                // Notified, but gone before it could act on it: somebody else should.
                drop(waiters);
                self.event.notify_one();
            }
        }
    }
}

/// A place for one value that one task puts and another waits for.
pub struct Slot<T> {
    value: RefCell<Option<T>>,
    event: Event,
}

impl<T> Slot<T> {
    /// An empty slot.
    pub fn new() -> Slot<T> {
        Slot { value: RefCell::new(None), event: Event::new() }
    }

    /// Puts a value, and gives back the one that was there.
    pub fn put(&self, value: T) -> Option<T> {
        let previous = self.value.borrow_mut().replace(value);
        self.event.notify_one();
        previous
    }

    /// Takes the value, if it is there.
    pub fn try_take(&self) -> Option<T> {
        self.value.borrow_mut().take()
    }

    /// Waits for the value and takes it.
    pub async fn take(&self) -> T {
        loop {
            if let Some(value) = self.try_take() {
                return value;
            }
            self.event.wait().await;
        }
    }
}

impl<T> Default for Slot<T> {
    fn default() -> Slot<T> {
        Slot::new()
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    struct Counter(AtomicUsize);

    impl Wake for Counter {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn poll<F: Future + Unpin>(future: &mut F) -> bool {
        Pin::new(future).poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    #[test]
    fn a_notification_reaches_only_those_who_wait() {
        let event = Event::new();
        event.notify_all();
        let (mut first, mut second) = (event.wait(), event.wait());
        assert!(!poll(&mut first) && !poll(&mut second));
        event.notify_one();
        assert!(poll(&mut first) && !poll(&mut second));
        event.notify_all();
        assert!(poll(&mut second) && !event.has_waiters());
    }

    #[test]
    fn a_notified_waiter_that_is_dropped_passes_it_on() {
        let event = Event::new();
        let (mut first, mut second) = (event.wait(), event.wait());
        assert!(!poll(&mut first) && !poll(&mut second));
        event.notify_one();
        drop(first);
        assert!(poll(&mut second));
    }

    #[test]
    fn a_dropped_waiter_is_not_woken() {
        let event = Event::new();
        let counter = Arc::new(Counter(AtomicUsize::new(0)));
        let waker = Waker::from(Arc::clone(&counter));
        let mut wait = event.wait();
        assert!(Pin::new(&mut wait).poll(&mut Context::from_waker(&waker)).is_pending());
        drop(wait);
        event.notify_all();
        assert_eq!(counter.0.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_slot_hands_its_value_over_once() {
        let slot = Slot::new();
        let mut take = Box::pin(slot.take());
        assert!(!poll(&mut take));
        assert_eq!(slot.put(1), None);
        assert!(poll(&mut take));
        drop(take);
        assert_eq!(slot.try_take(), None);
    }
}
