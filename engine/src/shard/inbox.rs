//! Where operators arrive: a bounded mailbox and, behind it, what did not fit.
//!
//! An operator is sent by the call that ships it, which cannot wait: where the mailbox is full it goes into the overflow. Its sender
//! waits for the reply in any case, so the overflow holds at most what the callers have in flight.
//!
//! # Invariants
//!
//! 1. What one thread sends arrives in order: while the overflow holds something, everything goes there, and the shard takes from the
//!    overflow only when it has found the mailbox empty after it saw what the overflow holds.
//! 2. After the end nothing stays behind whose sender would wait for ever: sender and shard both empty the overflow once it is closed.

use std::sync::Arc;

use futures_util::future::{Either, select};
use siltstone_io::mailbox::{self, TrySendError};
use siltstone_io::sync::{AtomicBool, Ordering, SegQueue, fence};

use crate::shard::{Control, Operator};

/// The sending end for one shard; on all threads.
pub(crate) struct Port {
    operators: mailbox::Sender<Operator>,
    overflow: Arc<Overflow>,
    pub(crate) controls: mailbox::Sender<Control>,
}

/// The shard's end.
pub(crate) struct Inbox {
    operators: mailbox::Receiver<Operator>,
    overflow: Arc<Overflow>,
    pub(crate) controls: mailbox::Receiver<Control>,
}

/// What comes while the shard waits.
pub(crate) enum Arrival {
    Control(Control),
    Operator(Operator),
}

#[derive(Default)]
struct Overflow {
    queue: SegQueue<Operator>,
    /// The shard has been told to look, and has not looked yet.
    told: AtomicBool,
    closed: AtomicBool,
}

/// Both ends of an inbox with these capacities.
pub(crate) fn inbox(operators_max: usize, controls_max: usize) -> (Port, Inbox) {
    let (operators, operators_receiver) = mailbox::channel(operators_max);
    let (controls, controls_receiver) = mailbox::channel(controls_max);
    let overflow = Arc::new(Overflow::default());
    let port = Port { operators, overflow: Arc::clone(&overflow), controls };
    (port, Inbox { operators: operators_receiver, overflow, controls: controls_receiver })
}

impl Port {
    /// Sends an operator. Where the shard has ended the operator is dropped, and its reply channel with it.
    pub(crate) fn send(&self, operator: Operator) {
        let operator = match self.overflow.queue.is_empty() {
            true => match self.operators.try_send(operator) {
                Ok(()) | Err(TrySendError::Closed(_)) => return,
                Err(TrySendError::Full(operator)) => operator,
            },
            false => operator,
        };
        self.overflow.queue.push(operator);
        // Either this finds the shard not told, and the overflow open, or the shard that looks, or closes, finds the operator.
        fence(Ordering::SeqCst);
        // The shard may have emptied the mailbox just before, and sleep. It is told once, since the controls have other uses; where they are
        // full, it is awake.
        if !self.overflow.told.swap(true, Ordering::Relaxed) {
            let _ = self.controls.try_send(Control::Look);
        }
        if self.overflow.closed.load(Ordering::Relaxed) {
            self.overflow.clear();
        }
    }
}

impl Inbox {
    /// The next operator that is there.
    pub(crate) fn try_recv(&mut self) -> Option<Operator> {
        if let Some(operator) = self.operators.try_recv() {
            return Some(operator);
        }
        // What is pushed behind this look is told of again. The first fence puts it behind the taking of a control: who found the controls full
        // has set the note before, and it is taken back here, never left behind. The second: see `send`.
        fence(Ordering::SeqCst);
        self.overflow.told.swap(false, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        if self.overflow.queue.is_empty() {
            return None;
        }
        // Only now: since the look above the mailbox may have filled and overflowed. What was sent before the first in the overflow is visible.
        self.operators.try_recv().or_else(|| self.overflow.queue.pop())
    }

    /// Waits for what comes next, when nothing was there; `None` when the last sender has gone.
    pub(crate) async fn recv(&mut self) -> Option<Arrival> {
        match select(std::pin::pin!(self.controls.recv()), std::pin::pin!(self.operators.recv())).await {
            Either::Left((Some(control), _)) => return Some(Arrival::Control(control)),
            Either::Right((Some(operator), _)) => return Some(Arrival::Operator(operator)),
            Either::Left((None, _)) | Either::Right((None, _)) => {}
        }
        // The senders have gone, so all that they sent is visible. They may have sent behind the one's look and gone before the other's.
        let control = self.controls.try_recv().map(Arrival::Control);
        control.or_else(|| self.try_recv().map(Arrival::Operator))
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        self.overflow.closed.store(true, Ordering::Relaxed);
        // See `send`.
        fence(Ordering::SeqCst);
        self.overflow.clear();
    }
}

impl Overflow {
    fn clear(&self) {
        while self.queue.pop().is_some() {}
    }
}

#[cfg(all(test, loom))]
#[path = "inbox_loom_models.rs"]
mod loom_models;
