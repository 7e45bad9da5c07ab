//! The barrier of one checkpoint.
//!
//! It must not open unless the order for its checkpoint is certain to arrive at shard 0, whose task may run before the sender has heard that
//! it was accepted. So whichever of the two comes first opens it, and the other learns the epoch that it ended.

use siltstone_io::sync::{Mutex, lock};

use super::EpochGate;
use crate::types::Epoch;

/// Opened once, by the caller or by shard 0.
#[derive(Default)]
pub(crate) struct Barrier {
    ended: Mutex<Option<Epoch>>,
}

impl Barrier {
    /// Opens the next epoch, where that has not been done, and gives the one that is over.
    pub(crate) fn open(&self, gate: &EpochGate) -> Epoch {
        *lock(&self.ended).get_or_insert_with(|| gate.advance())
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use std::sync::Arc;

    use loom::thread;
    use siltstone_io::sync::model::explore;

    use super::*;

    #[test]
    fn a_barrier_that_two_threads_open_opens_one_epoch() {
        explore(3, || {
            let (gate, barrier) = (EpochGate::new(Epoch(1), 0), Arc::new(Barrier::default()));
            let (others_gate, others) = (Arc::clone(&gate), Arc::clone(&barrier));
            let thread = thread::spawn(move || others.open(&others_gate));
            assert_eq!((barrier.open(&gate), thread.join().unwrap()), (Epoch(1), Epoch(1)));
            assert_eq!(gate.current(), Epoch(2));
        });
    }
}
