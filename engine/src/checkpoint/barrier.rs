//! The barrier of one checkpoint.
//!
//! It must not open unless the order for its checkpoint is certain to arrive at shard 0, whose task may run before the sender has heard that
//! it was accepted. So whichever of the two comes first opens it, and the other learns the epoch that it ended. When the sender goes on, it is open
//! in any case: what the caller does after the call belongs to the new epoch.

use std::sync::Arc;

use siltstone_io::sync::{Mutex, lock};

use super::EpochGate;
use crate::types::Epoch;

/// Opened once, by the caller or by shard 0.
pub(crate) struct Barrier {
    gate: Arc<EpochGate>,
    ended: Mutex<Option<Epoch>>,
}

impl Barrier {
    /// Sends the order for a checkpoint with its barrier, and opens that, where the order is accepted.
    pub(crate) fn order<E>(gate: &Arc<EpochGate>, send: impl FnOnce(Arc<Barrier>) -> Result<(), E>) -> Result<(), E> {
        let barrier = Arc::new(Barrier { gate: Arc::clone(gate), ended: Mutex::new(None) });
        send(Arc::clone(&barrier))?;
        barrier.open();
        Ok(())
    }

    /// Opens the next epoch, where that has not been done, and gives the one that is over.
    pub(crate) fn open(&self) -> Epoch {
        *lock(&self.ended).get_or_insert_with(|| self.gate.advance())
    }
}
