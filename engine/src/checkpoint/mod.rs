//! Checkpoints: a consistent cut over all shards, pinned in the volume.
//!
//! # Steps
//!
//! 1. The barrier: the gate's epoch goes up by one store. Every operation that begins from now on belongs to the new epoch.
//! 2. Each shard, when it hears of it (by message, or by the first operation of the new epoch), opens a memtable for the new epoch. The old one
//!    still takes what stragglers write.
//! 3. When the last operation of the old epoch has ended, the shard flushes that memtable; the manifest edit of the flush also records
//!    the state as the shard's part of the checkpoint.
//! 4. When all parts are durable, shard 0 commits the checkpoint with its name and the caller's bytes. Now it exists.
//! 5. Where more are kept than asked for, the oldest are dropped: in shard 0 first, which ends their existence, then in the others.
//!
//! # What a crash leaves
//!
//! Before 4 is durable: parts without a commit, which the next opening drops. Between the steps of 5: the same. Where the write of 4 fails, nobody
//! knows whether the checkpoint exists: shard 0 is read-only then, the parts stay, and the next opening finds out.
//!
//! # Cost
//!
//! Step 1 and 2 are O(1). Step 3 writes what the memtable holds, in the background; each part costs one manifest write.

mod barrier;
mod epoch;
#[cfg(all(test, loom))]
mod loom_models;
mod ticket;

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use siltstone_io::Class;

use crate::engine::EngineShared;
use crate::error::{Error, Result};
use crate::manifest::{CheckpointInfo as StoredInfo, ManifestEdit};
use crate::shard::Shard;
use crate::types::Epoch;

pub(crate) use barrier::Barrier;
pub(crate) use epoch::{EpochGate, EpochGuard};
pub(crate) use ticket::Ticket;

/// A checkpoint that exists in the volume.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CheckpointInfo {
    /// Its number: later checkpoints have greater ones.
    pub id: u64,
    /// The name that the caller gave it.
    pub name: String,
    /// The caller's bytes: source positions, output positions.
    pub bytes: Vec<u8>,
    /// When it was complete, in milliseconds since 1970.
    pub completed_ms: u64,
}

impl CheckpointInfo {
    pub(crate) fn of(id: u64, stored: &StoredInfo) -> Self {
        CheckpointInfo { id, name: stored.name.clone(), bytes: stored.bytes.clone(), completed_ms: stored.wall_ms }
    }
}

/// Largest `bytes` of a checkpoint.
pub(crate) const CHECKPOINT_BYTES_MAX: usize = 16 << 20;

/// What a checkpoint is to be.
pub(crate) struct CheckpointOrder {
    /// The epoch that it ends: also its id.
    pub(crate) epoch: Epoch,
    pub(crate) name: String,
    pub(crate) bytes: Vec<u8>,
    pub(crate) ticket: Ticket,
}

/// Runs on shard 0 from the barrier to the commit.
pub(crate) async fn coordinate(
    shard: Rc<Shard>,
    engine: Arc<EngineShared>,
    order: CheckpointOrder,
) -> Result<CheckpointInfo> {
    let CheckpointOrder { epoch, name, bytes, ticket } = order;
    let parts = engine.on_every_shard(move |shard| async move { shard.take_part(epoch).await });
    let parts = parts.await;
    let failed = parts.into_iter().find_map(|part| part.and_then(|part| part).err());
    let complete = failed.is_none();
    let result = match failed {
        Some(error) => Err(error),
        None => shard.commit_checkpoint(epoch.0, name, bytes, engine.shards()).await,
    };
    if let Err(error) = &result {
        mark!(CheckpointFailed);
        tracing::warn!(%error, epoch = epoch.0, "a checkpoint failed");
        // Parts that were taken pin space: let them go. They are gone with the next opening in any case. But a commit that failed may be on the
        // device all the same: then its parts stay, and the next opening finds out.
        let may_exist = complete && !matches!(error, Error::NoSpace(_));
        if !may_exist {
            let drops = engine.on_every_shard(move |shard| async move { shard.drop_part(epoch.0).await });
            drop(drops.await);
        }
        // The next barrier must find this epoch gone everywhere. Where space is missing, in whichever shard, that may take long: the checkpoint
        // has failed, and stays under way until the flushes that failed have succeeded.
        let gone = engine.on_every_shard(move |shard| async move { shard.epoch_gone(epoch, false).await }).await;
        if gone.iter().any(|gone| matches!(gone, Ok(false))) {
            shard.handle.spawn(Class::Checkpoint, async move {
                engine.on_every_shard(move |shard| async move { shard.epoch_gone(epoch, true).await }).await;
                drop(ticket);
            });
        }
        return result;
    }
    drop(ticket);
    if result.is_ok()
        && let Some(retained) = engine.checkpoints_retained()
    {
        let excess = shard.committed_checkpoints();
        let excess = excess.len().saturating_sub(retained);
        for info in shard.committed_checkpoints().into_iter().take(excess) {
            mark!(CheckpointBeyondRetentionDropped);
            // The new checkpoint exists in any case; the next one tries again.
            if let Err(error) = drop_checkpoint(&shard, &engine, info.id).await {
                tracing::warn!(%error, checkpoint = info.name, "a checkpoint beyond those to be kept could not be dropped");
                break;
            }
        }
    }
    result
}

/// Ends the existence of a checkpoint, and then lets its pins go. Runs on shard 0.
pub(crate) async fn drop_checkpoint(shard: &Rc<Shard>, engine: &EngineShared, id: u64) -> Result<()> {
    if !mutant!(CheckpointPartsDroppedFirst) {
        shard.drop_part(id).await?;
    }
    let parts = engine.on_every_shard(move |shard| async move { shard.drop_part(id).await }).await;
    parts.into_iter().try_for_each(|part| part.and_then(|part| part))
}

impl Shard {
    /// Takes this shard's part of the checkpoint that ends an epoch, and waits until it is durable.
    async fn take_part(self: &Rc<Self>, epoch: Epoch) -> Result<()> {
        self.check_writable()?;
        if self.is_closing() {
            return Err(Error::Closed);
        }
        self.open_current_epoch();
        self.mark_barrier(epoch);
        if self.id.0 > 0 && mutant!(CheckpointCommitsEarly) {
            return Ok(());
        }
        loop {
            if self.has_part(epoch.0) {
                return Ok(());
            }
            self.check_writable()?;
            if self.is_closing() {
                return Err(Error::Closed);
            }
            if let Some(error) = self.space_error() {
                return Err(error);
            }
            self.checkpoint_progress().await;
        }
    }

    /// Waits until the epoch's memtables have been written out, or never will be. Where space is missing it waits only if it is told to; whether
    /// they are gone.
    async fn epoch_gone(&self, epoch: Epoch, patiently: bool) -> bool {
        while self.oldest_epoch() <= epoch && self.check_writable().is_ok() && !self.is_closing() {
            if !patiently && self.space_error().is_some() {
                return false;
            }
            self.checkpoint_progress().await;
        }
        true
    }

    async fn commit_checkpoint(&self, id: u64, name: String, bytes: Vec<u8>, shards: usize) -> Result<CheckpointInfo> {
        let info = StoredInfo { name, bytes, wall_ms: self.wall_ms(), shards: shards as u16 };
        let result = CheckpointInfo::of(id, &info);
        self.commit_edits(vec![ManifestEdit::CheckpointCommit { id, info }]).await?;
        Ok(result)
    }

    /// The checkpoints that exist, oldest first. On shard 0.
    pub(crate) fn committed_checkpoints(&self) -> Vec<CheckpointInfo> {
        self.manifest_state(|state| state.committed.iter().map(|(id, info)| CheckpointInfo::of(*id, info)).collect())
    }

    /// Lets this shard's part of a checkpoint go, where it has one.
    async fn drop_part(&self, id: u64) -> Result<()> {
        self.memtables.unmark_checkpoint(id);
        self.commit_drop(id).await
    }
}

/// Checkpoints by name: of several with one name the newest.
pub(crate) fn by_name(committed: &BTreeMap<u64, StoredInfo>, name: &str) -> Option<u64> {
    committed.iter().rev().find(|(_, info)| info.name == name).map(|(id, _)| *id)
}
