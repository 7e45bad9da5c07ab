//! A mutex for the tasks of one executor: held across waits, fair, no atomics.

use std::cell::Cell;
use std::ops::Deref;

use siltstone_io::local::Event;

pub(crate) struct LocalMutex<T> {
    held: Cell<bool>,
    released: Event,
    value: T,
}

pub(crate) struct LocalGuard<'m, T> {
    mutex: &'m LocalMutex<T>,
}

impl<T> LocalMutex<T> {
    pub(crate) fn new(value: T) -> Self {
        LocalMutex { held: Cell::new(false), released: Event::default(), value }
    }

    pub(crate) async fn lock(&self) -> LocalGuard<'_, T> {
        while self.held.get() {
            self.released.wait().await;
        }
        self.held.set(true);
        LocalGuard { mutex: self }
    }

    /// The value, for a look that does not need the lock.
    pub(crate) fn peek(&self) -> &T {
        &self.value
    }
}

impl<T> Deref for LocalGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.mutex.value
    }
}

impl<T> Drop for LocalGuard<'_, T> {
    fn drop(&mut self) {
        self.mutex.held.set(false);
        self.mutex.released.notify_all();
    }
}
