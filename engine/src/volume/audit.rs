//! What a volume tells an audit of the extents: those that are held where no shard's metadata says so.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::{SstFile, Volume, VolumeParts};
use crate::testing::Owner;
use crate::types::{ExtentId, SstId};

/// Who holds extents beside the shards.
#[derive(Default)]
pub(super) struct Audited {
    /// Extents in leases, and those that are being discarded.
    leased: Mutex<BTreeSet<ExtentId>>,
    /// SSTs that somebody may hold.
    ssts: Mutex<BTreeMap<SstId, Weak<SstFile>>>,
}

impl Audited {
    pub(super) fn lend(&self, extent: ExtentId) {
        locked(&self.leased).insert(extent);
    }

    pub(super) fn give_back(&self, extents: &[ExtentId]) {
        let mut leased = locked(&self.leased);
        for extent in extents {
            leased.remove(extent);
        }
    }
}

impl VolumeParts {
    /// An SST has come to be.
    pub(super) fn audit_sst(&self, file: &Arc<SstFile>) {
        let mut ssts = locked(&self.shared.audit.ssts);
        // Now and then, so that it costs little.
        if ssts.len().is_power_of_two() {
            ssts.retain(|_, file| file.strong_count() > 0);
        }
        ssts.insert(file.id(), Arc::downgrade(file));
    }

    /// All extents that are taken.
    pub(crate) fn taken(&self) -> BTreeSet<ExtentId> {
        self.shared.map.taken()
    }

    /// The extents that are held where no shard's metadata says so.
    pub(crate) fn audited(&self) -> Vec<(Owner, ExtentId)> {
        let mut held = vec![(Owner::Superblock, ExtentId(0))];
        held.extend(locked(&self.shared.audit.leased).iter().map(|extent| (Owner::Writer, *extent)));
        // Not under the lock: to drop the last reference to an SST gives up its extents.
        let files: Vec<_> = locked(&self.shared.audit.ssts).values().filter_map(Weak::upgrade).collect();
        for file in &files {
            held.extend(file.extents().iter().map(|extent| (Owner::Sst(file.id()), *extent)));
        }
        let queue = &self.shared.abandoned;
        let abandoned: Vec<Vec<ExtentId>> = std::iter::from_fn(|| queue.pop()).collect();
        for extents in abandoned {
            held.extend(extents.iter().map(|extent| (Owner::Abandoned, *extent)));
            queue.push(extents);
        }
        held
    }
}

impl Volume {
    /// The extents that are kept for the next log.
    pub(crate) fn recycled(&self) -> Vec<ExtentId> {
        self.inner.recycled.borrow().clone()
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
