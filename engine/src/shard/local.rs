//! The handle of an operator on the shard's own core.

use std::ops::Range;
use std::rc::Rc;

use crate::checkpoint::EpochGuard;
use crate::engine::Keyspace;
use crate::error::Result;
use crate::read::ValueRef;
use crate::shard::{Scan, ScanRange, Shard, ShardStats, ViewGuard, Write, WriteBatch};
use crate::types::{Epoch, KeyGroup, ReadView, ShardId};

/// A shard, for code that runs on its core: state is a function call away, without lock, atomic or message.
///
/// A handle given to an operator by [`Engine::on_shard`](crate::Engine::on_shard) belongs to the epoch in which that operator began: all its writes are
/// part of the same checkpoints, or none is. Keys must be ones that the shard owns.
#[derive(Clone)]
pub struct LocalShard {
    shard: Rc<Shard>,
    scope: Option<Rc<Scope>>,
    time_ms: Option<u64>,
}

/// An operator in flight: it counts in its epoch until it is dropped.
pub(crate) struct Scope {
    shard: Rc<Shard>,
    epoch: Epoch,
    /// Present where the operator came from another thread and is counted in the gate.
    remote: Option<EpochGuard>,
}

impl Scope {
    pub(crate) fn remote(shard: &Rc<Shard>, guard: EpochGuard) -> Rc<Scope> {
        // The shard may not have heard of the operator's epoch yet.
        shard.open_current_epoch();
        Rc::new(Scope { shard: Rc::clone(shard), epoch: guard.epoch(), remote: Some(guard) })
    }

    fn local(shard: &Rc<Shard>) -> Rc<Scope> {
        shard.open_current_epoch();
        let epoch = shard.memtables.epoch();
        shard.enter_scope(epoch);
        Rc::new(Scope { shard: Rc::clone(shard), epoch, remote: None })
    }
}

impl Drop for Scope {
    fn drop(&mut self) {
        match self.remote.take() {
            Some(guard) => drop(guard),
            None => self.shard.leave_scope(self.epoch),
        }
    }
}

impl LocalShard {
    pub(crate) fn new(shard: Rc<Shard>, scope: Option<Rc<Scope>>) -> Self {
        LocalShard { shard, scope, time_ms: None }
    }

    /// The same handle for an operation at this event time (milliseconds): what it writes to keyspaces with a TTL of event time expires
    /// counted from there, and what has expired by then is absent. Without it the watermark is taken.
    #[must_use]
    pub fn at(&self, event_time_ms: u64) -> LocalShard {
        LocalShard { time_ms: Some(event_time_ms), ..self.clone() }
    }

    /// The same handle for one operator: until the last clone is dropped all its writes belong to the epoch that is current now, so
    /// that a checkpoint holds all or none of them.
    #[must_use]
    pub fn begin(&self) -> LocalShard {
        LocalShard { scope: Some(Scope::local(&self.shard)), ..self.clone() }
    }

    /// The operation's event time: that of [`Self::at`], else the watermark.
    pub fn time_ms(&self) -> Option<u64> {
        self.time_ms.or(self.shard.watermark_ms())
    }

    /// Raises the shard's watermark: no operation that is under way or comes later has an earlier event time. Flush and compaction
    /// drop what has expired by then, so an earlier operation that still waits for the device would find it gone.
    pub fn advance_watermark(&self, to_ms: u64) {
        self.shard.advance_watermark(to_ms);
    }

    /// The shard's watermark in milliseconds of event time, once one was set.
    pub fn watermark(&self) -> Option<u64> {
        self.shard.watermark_ms()
    }

    /// The wall clock in milliseconds since 1970, as processing time sees it.
    pub fn processing_time_ms(&self) -> u64 {
        self.shard.wall_ms()
    }

    /// The keyspace of this name.
    pub fn keyspace(&self, name: &str) -> Option<Keyspace> {
        self.shard.keyspace_by_name(name)
    }

    /// The value of a key. From memory: no allocation and no wait. Otherwise one device read for the block that holds the key, and
    /// one each for the filter and index partition of its SST where these are not cached.
    pub async fn get(&self, keyspace: &Keyspace, key: &[u8]) -> Result<Option<ValueRef>> {
        self.shard.get(keyspace, key, &ReadView::LATEST, self.time_ms).await
    }

    /// The values of many keys, in their order; the reads that miss memory are in flight together.
    pub async fn get_many<K: AsRef<[u8]>>(&self, keyspace: &Keyspace, keys: &[K]) -> Result<Vec<Option<ValueRef>>> {
        let gets = keys.iter().map(|key| self.get(keyspace, key.as_ref()));
        futures_util::future::try_join_all(gets).await
    }

    /// Gives the key this value; resolves when that is as durable as the engine promises.
    pub async fn put(&self, keyspace: &Keyspace, key: &[u8], value: &[u8]) -> Result<()> {
        self.write_one(Write { keyspace, key, value: Some(value), expires_at_ms: None }).await
    }

    /// Gives the key this value until a point in time of the keyspace's TTL clock (event time where it has none), in milliseconds.
    pub async fn put_expiring(&self, keyspace: &Keyspace, key: &[u8], value: &[u8], expires_at_ms: u64) -> Result<()> {
        self.write_one(Write { keyspace, key, value: Some(value), expires_at_ms: Some(expires_at_ms) }).await
    }

    /// Makes the key absent; resolves when that is as durable as the engine promises.
    pub async fn delete(&self, keyspace: &Keyspace, key: &[u8]) -> Result<()> {
        self.write_one(Write { keyspace, key, value: None, expires_at_ms: None }).await
    }

    /// Applies a batch: all of it or nothing.
    pub async fn write(&self, batch: &WriteBatch) -> Result<()> {
        self.shard.write(self.epoch(), self.time_ms, batch.writes()).await
    }

    #[inline]
    async fn write_one(&self, write: Write<'_>) -> Result<()> {
        self.shard.write(self.epoch(), self.time_ms, std::iter::once(write)).await
    }

    /// The epoch of the operator that has this handle.
    #[inline]
    pub(crate) fn epoch(&self) -> Option<Epoch> {
        self.scope.as_ref().map(|scope| scope.epoch)
    }

    /// Iterates over a range of this shard's keys as they are now.
    pub fn scan(&self, keyspace: &Keyspace, range: ScanRange) -> Result<Scan> {
        self.shard.scan(keyspace, range, None, self.time_ms)
    }

    /// The state of this shard as it is now, for as long as the snapshot is held. Costs O(1).
    pub fn snapshot(&self) -> Snapshot {
        self.shard.open_current_epoch();
        let view = self.shard.views.register(self.shard.memtables.view());
        Snapshot { shard: Rc::clone(&self.shard), view: Rc::new(view), time_ms: self.time_ms }
    }

    /// The shard's number.
    pub fn shard_id(&self) -> ShardId {
        self.shard.id
    }

    /// The key groups that the shard owns.
    pub fn key_groups(&self) -> Range<u16> {
        self.shard.groups.start as u16..self.shard.groups.end as u16
    }

    /// The key group of a key.
    pub fn group_of(&self, keyspace: &Keyspace, key: &[u8]) -> KeyGroup {
        keyspace.group_of(key)
    }

    /// In-memory state that belongs to a keyspace of this shard, made with `Default` when first asked for, and lost when the
    /// engine is closed.
    ///
    /// # Panics
    /// When another type was asked for with the same keyspace before.
    pub fn extension<T: Default + 'static>(&self, keyspace: &Keyspace) -> Rc<T> {
        self.shard.extension(keyspace)
    }

    /// Waits until everything written before is on stable storage, whatever the engine's durability. With
    /// [`Durability::Checkpoint`](crate::Durability::Checkpoint) there is no log, and this does nothing.
    pub async fn sync(&self) -> Result<()> {
        self.shard.wal.sync(&self.shard).await
    }

    /// Writes the memtables out as SSTs. Not for operators that a checkpoint may be waiting for: see [`Engine::on_shard`](crate::Engine::on_shard).
    pub async fn flush(&self) -> Result<()> {
        self.shard.flush().await
    }

    /// Waits until no compaction is due.
    pub async fn compact(&self) -> Result<()> {
        self.shard.compact_all().await
    }

    /// Counters of this shard.
    pub fn stats(&self) -> ShardStats {
        self.shard.stats()
    }
}

/// The state of one shard at one moment. What it sees is kept until the last clone is dropped.
#[derive(Clone)]
pub struct Snapshot {
    shard: Rc<Shard>,
    view: Rc<ViewGuard>,
    time_ms: Option<u64>,
}

impl Snapshot {
    /// The value that a key had.
    pub async fn get(&self, keyspace: &Keyspace, key: &[u8]) -> Result<Option<ValueRef>> {
        self.shard.get(keyspace, key, self.view.view(), self.time_ms).await
    }

    /// Iterates over a range of keys as they were.
    pub fn scan(&self, keyspace: &Keyspace, range: ScanRange) -> Result<Scan> {
        self.shard.scan(keyspace, range, Some(*self.view.view()), self.time_ms)
    }
}
