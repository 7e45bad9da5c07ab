//! Mutual exclusion between tasks of one executor, in the order of arrival.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;

use siltstone_io::local::Event;

/// Hands out one turn at a time.
#[derive(Default)]
pub(crate) struct Fifo {
    next: Cell<u64>,
    /// The tickets that have a turn (the first) or wait for one.
    queue: RefCell<VecDeque<u64>>,
    changed: Event,
}

/// A turn, or the wait for one; ends when dropped.
pub(crate) struct Turn<'a> {
    fifo: &'a Fifo,
    ticket: u64,
}

impl Fifo {
    /// Waits for all who called before.
    pub(crate) async fn turn(&self) -> Turn<'_> {
        let ticket = self.next.get();
        self.next.set(ticket + 1);
        self.queue.borrow_mut().push_back(ticket);
        // Made before the wait: a caller who goes away while waiting leaves the queue.
        let turn = Turn { fifo: self, ticket };
        while self.queue.borrow().front() != Some(&ticket) {
            self.changed.wait().await;
        }
        turn
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut queue = self.fifo.queue.borrow_mut();
        queue.retain(|&ticket| ticket != self.ticket);
        if !queue.is_empty() {
            self.fifo.changed.notify_all();
        }
    }
}
