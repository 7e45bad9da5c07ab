//! One shard: everything that a core owns of the volume.
//!
//! A shard is an `Rc` shared by the tasks of one executor; nothing of it is `Sync` and nothing takes a lock. The tasks are: the
//! mailbox (`serve`), the log's group commit (`commit`), flush (`flush`), compaction (`compact`), and the operations
//! themselves, which run as part of whoever awaits them.
//!
//! # Who may change what
//!
//! - A keyspace's version is replaced only under the manifest's lock, together with the manifest edit that says the same.
//! - Memtables are pushed by writes and barriers and popped by the flush task.
//! - After a failed write of log or manifest the shard is poisoned: every later write fails with the first cause, reads go on.

#[cfg(feature = "testing")]
mod audit;
mod batch;
mod commit;
mod compact;
mod flush;
mod get;
mod inbox;
mod local;
mod lock;
mod memtables;
mod scan;
mod serve;
mod start;
mod stats;
mod views;
mod wear;
mod write;

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use rustc_hash::FxHashMap;
use siltstone_io::{Handle, local::Event};

use crate::checkpoint::EpochGate;
use crate::engine::{Durability, Keyspace};
use crate::error::{Error, Result};
use crate::manifest::{Manifest, ManifestEdit, ManifestState};
use crate::read::BlockReader;
use crate::types::{Epoch, KeyGroup, KeyspaceId, ShardId, SstId};
use crate::version::Version;
use crate::volume::{SharedExtents, SstFile, Volume, WearCounters};

pub(crate) use batch::Write;
pub use batch::WriteBatch;
pub(crate) use commit::WalWriter;
pub(crate) use get::expiry_ms;
pub(crate) use inbox::{Arrival, Inbox, Port, inbox};
pub(crate) use local::Scope;
pub use local::{LocalShard, Snapshot};
pub(crate) use lock::LocalMutex;
pub(crate) use memtables::{MemtableSlot, Memtables};
pub use scan::{Entry, Scan, ScanRange};
pub(crate) use serve::{Control, Operator};
pub(crate) use start::{PlannedManifest, ShardPlan, decode_options, encode_options, start};
pub use stats::ShardStats;
pub(crate) use views::{ViewGuard, Views};

/// The options of an engine, as one shard sees them.
#[derive(Clone, Debug)]
pub(crate) struct ShardConfig {
    pub(crate) durability: Durability,
    pub(crate) memory_bytes: usize,
    pub(crate) memtable_bytes: usize,
    pub(crate) table_bytes: usize,
    pub(crate) key_groups: u32,
    pub(crate) read_only: bool,
    /// At most so many frames for the cache.
    #[cfg(feature = "testing")]
    pub(crate) cache_frames_max: usize,
}

/// Memtables that may exist at a time, the active one included: behind that, writes wait for a flush.
const MEMTABLES_MAX: usize = 3;
/// Tables in level 0 at which writes wait for compaction.
const LEVEL_0_TABLES_MAX: usize = 24;

pub(crate) struct Shard {
    pub(crate) id: ShardId,
    /// The key groups that it owns.
    pub(crate) groups: Range<u32>,
    pub(crate) config: ShardConfig,
    pub(crate) handle: Handle,
    pub(crate) volume: Volume,
    pub(crate) blocks: Rc<BlockReader>,
    pub(crate) gate: Arc<EpochGate>,
    /// Absent in a read-only engine. Held from the making of an edit to the installation of what it says.
    manifest: LocalMutex<Option<Manifest>>,
    /// The manifest's state at the opening: what counts in a read-only engine.
    found: ManifestState,
    /// The SSTs that the manifest refers to: in current versions and in checkpoints.
    files: RefCell<BTreeMap<SstId, Arc<SstFile>>>,
    /// Logs of earlier openings whose entries are in the oldest memtable; they are given back with it.
    replayed: RefCell<Vec<Arc<SharedExtents>>>,
    pub(crate) memtables: Memtables,
    pub(crate) views: Rc<Views>,
    pub(crate) wal: WalWriter,
    keyspaces: RefCell<Vec<Option<Rc<KeyspaceState>>>>,
    /// The checkpoints of which this shard has a part.
    checkpoints: RefCell<BTreeSet<u64>>,
    /// The newest epoch whose barrier has arrived, that is, which may be flushed when drained.
    barrier: Cell<Epoch>,
    /// Operators in flight on this core, by parity of their epoch (those from other threads are counted in the gate).
    scopes: [Cell<u64>; 2],
    /// The newest epoch of an operator that has arrived.
    newest_arrival: Cell<Epoch>,
    /// The watermark when the current epoch opened: while the one before drains and is written out, nothing counts as expired that
    /// was live at the barrier.
    barrier_watermark_ms: Cell<Option<u64>>,
    poison: RefCell<Option<String>>,
    /// The last flush found no space.
    out_of_space: Cell<bool>,
    /// Bytes that may still be written before writers let background work have its slice.
    pace_bytes: Cell<usize>,
    /// The last compaction found no space.
    compaction_out_of_space: Cell<bool>,
    watermark_ms: Cell<Option<u64>>,
    closing: Cell<bool>,
    /// Background tasks that run.
    tasks: Cell<u32>,
    events: Events,
    extensions: RefCell<FxHashMap<KeyspaceId, Rc<dyn Any>>>,
    counters: stats::Counters,
    /// What the volume's device was written before this executor began.
    wear_before: WearCounters,
}

/// What tasks of the shard wait for.
#[derive(Default)]
struct Events {
    /// A memtable may be ready to flush.
    flush: Event,
    /// A version has changed.
    compaction: Event,
    /// A waiting write may be admitted.
    admission: Event,
    /// A checkpoint's part has been committed.
    checkpoint: Event,
    /// A background task has ended.
    stopped: Event,
}

/// A keyspace and its current version.
pub(crate) struct KeyspaceState {
    pub(crate) keyspace: Keyspace,
    version: RefCell<Rc<Version>>,
}

impl KeyspaceState {
    pub(crate) fn new(keyspace: Keyspace, version: Version) -> Rc<Self> {
        Rc::new(KeyspaceState { keyspace, version: RefCell::new(Rc::new(version)) })
    }

    #[inline]
    pub(crate) fn version(&self) -> Rc<Version> {
        Rc::clone(&self.version.borrow())
    }

    pub(crate) fn install(&self, version: Version) {
        *self.version.borrow_mut() = Rc::new(version);
    }
}

impl Shard {
    #[inline]
    pub(crate) fn keyspace(&self, id: KeyspaceId) -> Result<Rc<KeyspaceState>> {
        match self.keyspaces.borrow().get(id.0 as usize) {
            Some(Some(state)) => Ok(Rc::clone(state)),
            _ => Err(Error::NotFound(format!("this volume has no keyspace with number {id}"))),
        }
    }

    pub(crate) fn keyspace_by_name(&self, name: &str) -> Option<Keyspace> {
        let keyspaces = self.keyspaces.borrow();
        let found = keyspaces.iter().flatten().find(|state| state.keyspace.name() == name)?;
        Some(found.keyspace.clone())
    }

    pub(crate) fn all_keyspaces(&self) -> Vec<Rc<KeyspaceState>> {
        self.keyspaces.borrow().iter().flatten().cloned().collect()
    }

    pub(crate) fn add_keyspace(&self, state: Rc<KeyspaceState>) {
        let mut keyspaces = self.keyspaces.borrow_mut();
        let at = state.keyspace.id().0 as usize;
        if keyspaces.len() <= at {
            keyspaces.resize(at + 1, None);
        }
        keyspaces[at] = Some(state);
    }

    /// Checks that the key is one that this shard may hold, and gives its group.
    #[inline]
    pub(crate) fn own_group(&self, keyspace: &Keyspace, key: &[u8]) -> Result<KeyGroup> {
        let group = keyspace.group_of(key);
        if !self.groups.contains(&u32::from(group.0)) {
            return Err(Error::InvalidArgument(format!(
                "the key belongs to key group {group}, which is not one of shard {}'s ({}..{}): use Engine::on_shard with the key",
                self.id, self.groups.start, self.groups.end
            )));
        }
        Ok(group)
    }

    /// Turns the shard read-only.
    pub(crate) fn poison(&self, error: &Error) {
        let mut poison = self.poison.borrow_mut();
        if poison.is_none() {
            tracing::error!(shard = self.id.0, %error, "a write failed: the shard is read-only from now on");
            *poison = Some(error.to_string());
        }
        drop(poison);
        self.events.admission.notify_all();
        self.events.flush.notify_all();
        self.events.compaction.notify_all();
        self.events.checkpoint.notify_all();
        self.wal.wake_all();
    }

    pub(crate) fn check_writable(&self) -> Result<()> {
        if self.config.read_only {
            return Err(Error::ReadOnly);
        }
        match &*self.poison.borrow() {
            Some(_) if mutant!(PoisonNotHeeded) => Ok(()),
            Some(cause) => Err(Error::Poisoned { shard: self.id.0, cause: cause.clone() }),
            None => Ok(()),
        }
    }

    fn is_poisoned(&self) -> bool {
        self.poison.borrow().is_some()
    }

    /// Records a failure of background work and says whether it leaves the shard writable.
    fn background_failure(&self, error: &Error, out_of_space: &Cell<bool>) {
        match error {
            Error::NoSpace(_) => {
                if !out_of_space.replace(true) {
                    tracing::warn!(shard = self.id.0, %error, "background work waits for space");
                }
                self.events.checkpoint.notify_all();
            }
            _ => self.poison(error),
        }
    }

    /// The wall clock, for TTLs of processing time.
    pub(crate) fn wall_ms(&self) -> u64 {
        self.handle.wall_ms()
    }

    pub(crate) fn watermark_ms(&self) -> Option<u64> {
        self.watermark_ms.get()
    }

    /// Raises the watermark; it never goes back.
    pub(crate) fn advance_watermark(&self, to_ms: u64) {
        // A barrier that has opened must find the watermark of its moment.
        self.open_current_epoch();
        if self.watermark_ms.get().is_none_or(|now| now < to_ms) {
            self.watermark_ms.set(Some(to_ms));
        }
    }

    /// In-memory state that a layer above keeps for a keyspace of this shard.
    pub(crate) fn extension<T: Default + 'static>(&self, keyspace: &Keyspace) -> Rc<T> {
        let mut extensions = self.extensions.borrow_mut();
        let entry = extensions.entry(keyspace.id()).or_insert_with(|| Rc::new(T::default()));
        Rc::clone(entry).downcast::<T>().expect("one keyspace has one kind of extension")
    }

    /// The end of all extensions.
    pub(crate) fn drop_extensions(&self) {
        // Not while borrowed: they may be anything.
        let extensions = self.extensions.take();
        drop(extensions);
    }

    /// Commits an edit that changes no version.
    pub(crate) async fn commit_edits(&self, edits: Vec<ManifestEdit>) -> Result<()> {
        let manifest = self.manifest.lock().await;
        self.commit_locked(&manifest, edits, Vec::new()).await?;
        drop(manifest);
        self.volume.reclaim().await;
        Ok(())
    }

    /// Commits an edit under the manifest's lock; `added` are the files of the SSTs that it adds.
    async fn commit_locked(
        &self,
        manifest: &Option<Manifest>,
        mut edits: Vec<ManifestEdit>,
        added: Vec<Arc<SstFile>>,
    ) -> Result<()> {
        self.check_writable()?;
        let manifest = manifest.as_ref().ok_or(Error::ReadOnly)?;
        let mut new = Vec::new();
        for file in added {
            if !self.files.borrow().contains_key(&file.id()) {
                file.retain();
                new.push(file);
            }
        }
        edits.push(self.wear_edit());
        match manifest.commit(edits).await {
            Ok(released) => {
                let mut files = self.files.borrow_mut();
                files.extend(new.into_iter().map(|file| (file.id(), file)));
                for sst in released {
                    if mutant!(ForgottenSstKept) {
                        continue;
                    }
                    if let Some(file) = files.remove(&sst) {
                        file.release();
                    }
                }
                Ok(())
            }
            Err(Error::NoSpace(reason)) => {
                // Nothing has changed.
                new.iter().for_each(|file| file.release());
                Err(Error::NoSpace(reason))
            }
            Err(error) => {
                mark!(PoisonedByManifest);
                self.poison(&error);
                Err(error)
            }
        }
    }

    /// Looks at the manifest's state.
    pub(crate) fn manifest_state<T>(&self, look: impl FnOnce(&ManifestState) -> T) -> T {
        match self.manifest.peek() {
            Some(manifest) => look(&manifest.state()),
            None => look(&self.found),
        }
    }

    /// A barrier has ended this epoch: its last memtable's flush completes a checkpoint.
    pub(crate) fn mark_barrier(&self, epoch: Epoch) {
        let slot = match self.memtables.oldest() {
            oldest if oldest.epoch == epoch && mutant!(PartTakenTooEarly) => oldest,
            _ => self.memtables.of_epoch(epoch),
        };
        slot.checkpoint.set(Some(epoch.0));
        self.barrier.set(epoch);
        self.events.flush.notify_all();
    }

    /// The epoch of the oldest memtable.
    pub(crate) fn oldest_epoch(&self) -> Epoch {
        self.memtables.oldest().epoch
    }

    pub(crate) fn has_part(&self, id: u64) -> bool {
        self.checkpoints.borrow().contains(&id)
    }

    /// Ends this shard's part of a checkpoint, where it has one.
    pub(crate) async fn commit_drop(&self, id: u64) -> Result<()> {
        let manifest = self.manifest.lock().await;
        if self.has_part(id) {
            self.commit_locked(&manifest, vec![ManifestEdit::CheckpointDrop { id }], Vec::new()).await?;
            self.checkpoints.borrow_mut().remove(&id);
        }
        drop(manifest);
        self.volume.reclaim().await;
        Ok(())
    }

    /// Waits until a checkpoint's part may have been committed.
    pub(crate) async fn checkpoint_progress(&self) {
        self.events.checkpoint.wait().await;
    }

    /// The error of background work that waits for space, where it does.
    pub(crate) fn space_error(&self) -> Option<Error> {
        self.out_of_space.get().then(|| Error::NoSpace(format!("shard {} cannot write its memtables out", self.id)))
    }

    /// Whether no operation that began in the epoch is left, here or on its way here.
    pub(crate) fn is_drained(&self, epoch: Epoch) -> bool {
        self.gate.is_drained(epoch) && self.scopes[(epoch.0 % 2) as usize].get() == 0
    }

    pub(crate) fn enter_scope(&self, epoch: Epoch) {
        let scopes = &self.scopes[(epoch.0 % 2) as usize];
        scopes.set(scopes.get() + 1);
    }

    pub(crate) fn leave_scope(&self, epoch: Epoch) {
        let scopes = &self.scopes[(epoch.0 % 2) as usize];
        scopes.set(scopes.get() - 1);
        if scopes.get() == 0 && epoch < self.memtables.epoch() {
            self.events.flush.notify_all();
        }
    }
}
