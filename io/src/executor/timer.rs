//! Timers: an ordered map from deadline to waker.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use super::core::Core;
use super::schedule::Order;

/// The timers of an executor. The key's second half tells timers of one deadline apart, and lets them fire in the order of
/// the schedule.
pub(crate) struct Timers {
    waiting: BTreeMap<(u64, u64), Waker>,
    made: u64,
    order: Order,
}

impl Timers {
    pub(crate) fn new(order: Order) -> Timers {
        Timers { waiting: BTreeMap::new(), made: 0, order }
    }

    fn insert(&mut self, deadline_us: u64, waker: Waker) -> (u64, u64) {
        self.made += 1;
        let key = (deadline_us, self.order.rank(self.made));
        self.waiting.insert(key, waker);
        key
    }

    /// Takes one timer that is due.
    pub(crate) fn pop_due(&mut self, now_us: u64) -> Option<Waker> {
        let first = self.waiting.first_entry()?;
        (first.key().0 <= now_us).then(|| first.remove())
    }

    /// When the earliest fires.
    pub(crate) fn next_us(&self) -> Option<u64> {
        self.waiting.first_key_value().map(|(key, _)| key.0)
    }

    pub(crate) fn clear(&mut self) -> BTreeMap<(u64, u64), Waker> {
        std::mem::take(&mut self.waiting)
    }
}

/// Completes at a time. Made by [`Handle::sleep_us`](crate::Handle::sleep_us).
#[must_use = "futures do nothing unless polled"]
pub struct Sleep {
    core: Rc<Core>,
    deadline_us: u64,
    key: Option<(u64, u64)>,
}

impl Sleep {
    pub(crate) fn new(core: Rc<Core>, deadline_us: u64) -> Sleep {
        Sleep { core, deadline_us, key: None }
    }

    fn cancel(&mut self) -> Option<Waker> {
        let key = self.key.take()?;
        self.core.timers.borrow_mut().waiting.remove(&key)
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        drop(self.cancel());
        if self.core.clock.now_us() >= self.deadline_us {
            return Poll::Ready(());
        }
        let key = self.core.timers.borrow_mut().insert(self.deadline_us, cx.waker().clone());
        self.key = Some(key);
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        drop(self.cancel());
    }
}
