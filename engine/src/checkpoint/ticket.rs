//! The right to a checkpoint: there is one at a time.
//!
//! A caller on any thread takes the ticket; it goes with the order to shard 0, which drops it at the end of the checkpoint. An order that does not
//! arrive, or that shard 0 ends without looking at, drops it as well. The gate counts on it: an epoch begins only when the one before the
//! current is drained.

use std::sync::Arc;

use siltstone_io::sync::{AtomicBool, Ordering};

use crate::error::{Error, Result};

/// Held from the barrier to the end of a checkpoint.
pub(crate) struct Ticket {
    busy: Arc<AtomicBool>,
}

impl Ticket {
    pub(crate) fn take(busy: &Arc<AtomicBool>) -> Result<Ticket> {
        if busy.swap(true, Ordering::SeqCst) {
            return Err(Error::Busy("a checkpoint is still under way: await it before the next one".into()));
        }
        Ok(Ticket { busy: Arc::clone(busy) })
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        // An exchange as in `take`: loom does not know that one which found the ticket taken cannot come after a plain store.
        self.busy.swap(false, Ordering::SeqCst);
    }
}
