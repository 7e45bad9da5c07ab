//! The epoch gate: which epoch an operation belongs to, and when an epoch has no operations left.
//!
//! An operation that comes over a thread border begins with [`EpochGate::begin`]: it reads the current epoch and counts itself into
//! it. A barrier is one store of the next epoch ([`EpochGate::advance`]). An epoch is *drained* when it is over and no operation that
//! began in it is left; then its memtable has everything and may be flushed. Operations that begin on a shard's own core count
//! themselves in plain cells of the shard and touch nothing shared but one load of the current epoch.
//!
//! # Invariants
//!
//! 1. An operation counted in epoch `e` saw `current == e` after it had counted itself. So once `current > e` and the count
//!    of `e` is zero, no operation of `e` can appear.
//! 2. Epochs advance one at a time, and only when the one before the current is drained (the engine allows one checkpoint at a
//!    time): two counters suffice.
//! 3. Effects are ordered: an operation that begins after another one was acknowledged never has the smaller epoch.

#[cfg(loom)]
use loom::sync::atomic::{AtomicU64, Ordering, fence};
use std::sync::Arc;
#[cfg(not(loom))]
use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::task::Waker;

use futures_util::task::AtomicWaker;

use crate::types::Epoch;

/// Shared by all shards and handles of one engine.
#[derive(Debug)]
pub(crate) struct EpochGate {
    current: AtomicU64,
    in_flight: [AtomicU64; 2],
    /// One for each shard: woken when an epoch that is over may have drained.
    waiting: Box<[AtomicWaker]>,
}

/// Counts one operation into its epoch until it is dropped.
#[derive(Debug)]
pub(crate) struct EpochGuard {
    gate: Arc<EpochGate>,
    epoch: Epoch,
}

impl EpochGate {
    pub(crate) fn new(current: Epoch, shards: usize) -> Arc<Self> {
        Arc::new(EpochGate {
            current: AtomicU64::new(current.0),
            in_flight: [AtomicU64::new(0), AtomicU64::new(0)],
            waiting: (0..shards).map(|_| AtomicWaker::new()).collect(),
        })
    }

    /// The epoch in which an operation that begins now belongs.
    #[inline]
    pub(crate) fn current(&self) -> Epoch {
        Epoch(self.current.load(Ordering::SeqCst))
    }

    /// Begins an operation in the current epoch.
    pub(crate) fn begin(self: &Arc<Self>) -> EpochGuard {
        loop {
            let epoch = self.current.load(Ordering::SeqCst);
            self.counter(epoch).fetch_add(1, Ordering::SeqCst);
            // Either this sees the barrier, or whoever looks at the count after the barrier sees this operation.
            fence(Ordering::SeqCst);
            if self.current.load(Ordering::SeqCst) == epoch {
                return EpochGuard { gate: Arc::clone(self), epoch: Epoch(epoch) };
            }
            // A barrier came between: this operation belongs to the new epoch.
            self.end(Epoch(epoch));
        }
    }

    /// Opens the next epoch and returns the one that is over.
    pub(crate) fn advance(&self) -> Epoch {
        Epoch(self.current.fetch_add(1, Ordering::SeqCst))
    }

    /// Whether no operation from another thread is left in an epoch that is over.
    pub(crate) fn is_drained(&self, epoch: Epoch) -> bool {
        if self.current.load(Ordering::SeqCst) <= epoch.0 {
            return false;
        }
        // See `begin`.
        fence(Ordering::SeqCst);
        self.counter(epoch.0).load(Ordering::SeqCst) == 0
    }

    /// Registers the task of a shard that waits for an epoch to drain; check [`Self::is_drained`] after.
    pub(crate) fn register(&self, shard: usize, waker: &Waker) {
        self.waiting[shard].register(waker);
    }

    fn end(&self, epoch: Epoch) {
        let was_last = self.counter(epoch.0).fetch_sub(1, Ordering::SeqCst) == 1;
        // Either a shard that waits sees the count at zero, or this sees that the epoch is over.
        fence(Ordering::SeqCst);
        if was_last && self.current.load(Ordering::SeqCst) > epoch.0 {
            self.waiting.iter().for_each(AtomicWaker::wake);
        }
    }

    fn counter(&self, epoch: u64) -> &AtomicU64 {
        &self.in_flight[(epoch % 2) as usize]
    }
}

impl EpochGuard {
    pub(crate) fn epoch(&self) -> Epoch {
        self.epoch
    }
}

impl Drop for EpochGuard {
    fn drop(&mut self) {
        self.gate.end(self.epoch);
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_drains_when_its_last_operation_ends() {
        let gate = EpochGate::new(Epoch(1), 1);
        let first = gate.begin();
        let second = gate.begin();
        assert_eq!(gate.advance(), Epoch(1));
        let third = gate.begin();
        assert_eq!((first.epoch(), third.epoch()), (Epoch(1), Epoch(2)));
        assert!(!gate.is_drained(Epoch(1)));
        drop(first);
        assert!(!gate.is_drained(Epoch(1)));
        drop(second);
        assert!(gate.is_drained(Epoch(1)));
        assert!(!gate.is_drained(Epoch(2)));
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use loom::sync::atomic::{AtomicBool, Ordering};
    use loom::thread;

    use super::*;

    #[test]
    fn loom_no_operation_of_an_epoch_appears_after_it_has_drained() {
        loom::model(|| {
            let gate = EpochGate::new(Epoch(1), 0);
            let sealed = Arc::new(AtomicBool::new(false));
            let operations: Vec<_> = (0..2)
                .map(|_| {
                    let (gate, sealed) = (Arc::clone(&gate), Arc::clone(&sealed));
                    thread::spawn(move || {
                        let guard = gate.begin();
                        if guard.epoch() == Epoch(1) {
                            assert!(!sealed.load(Ordering::SeqCst), "a write reached an epoch that was sealed");
                        }
                    })
                })
                .collect();
            gate.advance();
            if gate.is_drained(Epoch(1)) {
                sealed.store(true, Ordering::SeqCst);
            }
            for operation in operations {
                operation.join().unwrap();
            }
            assert!(gate.is_drained(Epoch(1)));
        });
    }
}
