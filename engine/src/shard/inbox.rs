//! Where operators arrive: a bounded mailbox and, behind it, what did not fit.
//!
//! An operator is sent by the call that ships it, which cannot wait: where the mailbox is full it goes into the overflow. Its sender
//! waits for the reply in any case, so the overflow holds at most what the callers have in flight.
//!
//! # Invariants
//!
//! 1. What one thread sends arrives in order: while the overflow holds something, everything goes there, and the shard empties the mailbox
//!    before it takes from the overflow.
//! 2. After the end nothing stays behind whose sender would wait for ever: sender and shard both empty the overflow once it is closed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_queue::SegQueue;
use siltstone_io::mailbox::{self, TrySendError};

use crate::shard::{Control, Operator};

/// The sending end for one shard; on all threads.
pub(crate) struct Port {
    operators: mailbox::Sender<Operator>,
    overflow: Arc<Overflow>,
    pub(crate) controls: mailbox::Sender<Control>,
}

/// The shard's end.
pub(crate) struct Inbox {
    pub(crate) operators: mailbox::Receiver<Operator>,
    overflow: Arc<Overflow>,
    pub(crate) controls: mailbox::Receiver<Control>,
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
        mark!(MailboxOverflowed);
        self.overflow.queue.push(operator);
        // The shard may have emptied the mailbox just before, and sleep. It is told once: the controls have other uses. Where they are full,
        // it is awake.
        if !self.overflow.told.swap(true, Ordering::SeqCst) {
            let _ = self.controls.try_send(Control::Look);
        }
        if self.overflow.closed.load(Ordering::SeqCst) {
            self.overflow.clear();
        }
    }
}

impl Inbox {
    /// The next operator that is there.
    pub(crate) fn try_recv(&mut self) -> Option<Operator> {
        self.operators.try_recv().or_else(|| {
            // Before the look: what is pushed behind it is told of again.
            if self.overflow.told.load(Ordering::Relaxed) {
                self.overflow.told.swap(false, Ordering::SeqCst);
            }
            self.overflow.queue.pop()
        })
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        self.overflow.closed.store(true, Ordering::SeqCst);
        self.overflow.clear();
    }
}

impl Overflow {
    fn clear(&self) {
        while self.queue.pop().is_some() {}
    }
}
