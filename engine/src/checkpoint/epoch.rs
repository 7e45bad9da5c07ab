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

use std::sync::Arc;
use std::task::Waker;

#[cfg(not(any(loom, shuttle)))]
use futures_util::task::AtomicWaker;
#[cfg(any(loom, shuttle))]
use siltstone_io::sync::model::AtomicWaker;
use siltstone_io::sync::{AtomicU64, Ordering, fence};

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
        if was_last && self.current.load(Ordering::SeqCst) > epoch.0 && !mutant!(DrainedEpochNotNoticed) {
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
        drop(third);
        assert!(!gate.is_drained(Epoch(2)), "the current epoch is not over");
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use loom::sync::atomic::{AtomicBool, AtomicU32, Ordering};
    use loom::thread;
    use siltstone_io::sync::model::explore;

    use super::*;
    use crate::checkpoint::loom_models::wait_until_drained;

    /// Breaks caught: no fence in `begin`; none in `is_drained`; no second look at the epoch in `begin`.
    #[test]
    fn no_operation_of_an_epoch_appears_after_it_has_drained() {
        explore(3, || {
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

    /// Two shards wait for the stragglers of an epoch. Both are woken, and both see what every operation of the epoch has written.
    ///
    /// Breaks caught: no fence in `end`; `end` that wakes one shard only, or looks at the epoch before it counts itself out; the count with
    /// relaxed exchanges; `begin` that gives up an old epoch without counting itself out; a look before the registration, and none after it.
    #[test]
    fn every_shard_is_woken_after_the_last_straggler_and_sees_what_it_wrote() {
        explore(2, || {
            let gate = EpochGate::new(Epoch(1), 2);
            let written = Arc::new([AtomicU32::new(0), AtomicU32::new(0)]);
            // One straggler has begun before; the other begins when it likes.
            let begun = gate.begin();
            let (own_gate, own_written) = (Arc::clone(&gate), Arc::clone(&written));
            let late = thread::spawn(move || {
                let guard = own_gate.begin();
                if guard.epoch() == Epoch(1) {
                    own_written[1].store(1, Ordering::Relaxed);
                }
                guard.epoch()
            });
            let own_written = Arc::clone(&written);
            let straggler = thread::spawn(move || {
                own_written[0].store(1, Ordering::Relaxed);
                drop(begun);
            });
            gate.advance();
            let look = |written: &[AtomicU32; 2]| [0, 1].map(|index| written[index].load(Ordering::Relaxed));
            let (other_gate, other_written) = (Arc::clone(&gate), Arc::clone(&written));
            let other = thread::spawn(move || {
                wait_until_drained(&other_gate, 1, Epoch(1));
                look(&other_written)
            });
            wait_until_drained(&gate, 0, Epoch(1));
            let mine = look(&written);
            let others = other.join().unwrap();
            straggler.join().unwrap();
            let expected = [1, u32::from(late.join().unwrap() == Epoch(1))];
            assert_eq!((mine, others), (expected, expected));
        });
    }

    /// Two barriers, one after the other has drained, while operations come: the counters are shared by epochs of one parity.
    ///
    /// Breaks caught: `end` that counts out of the current epoch's counter; no second look at the epoch in `begin`; an operation that gives up
    /// an old epoch without counting itself out.
    #[test]
    fn an_operation_that_slept_through_two_barriers_belongs_to_the_newest_epoch() {
        explore(3, || {
            let gate = EpochGate::new(Epoch(1), 1);
            let sealed = Arc::new(AtomicU32::new(0));
            let (own_gate, own_sealed) = (Arc::clone(&gate), Arc::clone(&sealed));
            let operation = thread::spawn(move || {
                let guard = own_gate.begin();
                let sealed = own_sealed.load(Ordering::SeqCst);
                assert!(guard.epoch().0 > u64::from(sealed), "a write reached an epoch that was sealed");
            });
            for epoch in 1..=2 {
                assert_eq!(gate.advance(), Epoch(epoch));
                wait_until_drained(&gate, 0, Epoch(epoch));
                sealed.store(epoch as u32, Ordering::SeqCst);
            }
            operation.join().unwrap();
            assert!(gate.in_flight.iter().all(|count| count.load(Ordering::SeqCst) == 0));
        });
    }
}
