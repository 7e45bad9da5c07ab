//! Extents that several shards hold: a log of an earlier opening that each of them has replayed its part of.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::VolumeParts;
use crate::types::ExtentId;

/// Extents that are given up when every holder has released them. A holder that ends without releasing keeps them: its manifest still
/// refers to them.
pub(crate) struct SharedExtents {
    parts: VolumeParts,
    extents: Box<[ExtentId]>,
    holders: AtomicU32,
}

impl SharedExtents {
    /// Extents without a holder.
    pub(crate) fn new(parts: VolumeParts, extents: Vec<ExtentId>) -> Arc<SharedExtents> {
        Arc::new(SharedExtents { parts, extents: extents.into(), holders: AtomicU32::new(0) })
    }

    /// The extents.
    #[cfg(feature = "testing")]
    pub(crate) fn extents(&self) -> &[ExtentId] {
        &self.extents
    }

    /// One more manifest refers to them.
    pub(crate) fn retain(&self) {
        self.holders.fetch_add(1, Ordering::Relaxed);
    }

    /// A manifest refers to them no longer, durably.
    pub(crate) fn release(&self) {
        // What the other holders read from them comes before they are given to another use.
        let before = self.holders.fetch_sub(1, Ordering::AcqRel);
        assert!(before > 0, "extents were released more often than retained");
        if before > 1 {
            mark!(SharedLogKept);
        }
        if before == 1 || mutant!(SharedLogFreedByFirst) {
            self.parts.abandon(self.extents.to_vec());
        }
    }
}
