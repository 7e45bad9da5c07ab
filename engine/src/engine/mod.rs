//! The engine: the handle that all threads share, opening and closing, and who drives the shards.
//!
//! `Engine` stands here: the public interface in one place, most of it documentation.

mod drive;
mod keyspace;
mod open;
pub(crate) mod options;
mod plan;
pub(crate) mod route;
mod scan;
mod shared;
#[cfg(all(test, shuttle))]
#[expect(clippy::unwrap_used, reason = "a test stops where something is not as it should be")]
mod shuttle_flows;
#[cfg(all(test, shuttle, feature = "testing"))]
#[expect(clippy::unwrap_used, reason = "a test stops where something is not as it should be")]
mod shuttle_sharing;
#[cfg(all(test, not(any(loom, shuttle))))]
#[expect(clippy::unwrap_used, reason = "a test stops where something is not as it should be")]
mod tests;

use std::collections::BTreeMap;
use std::future::{Future, IntoFuture};
use std::sync::{Arc, PoisonError};

use futures_util::future::{join_all, try_join_all};

use self::shared::{Creation, Lost};
use crate::checkpoint::{self, CheckpointInfo};
use crate::error::{Error, Result};
use crate::shard::{Control, LocalShard, ShardStats, WriteBatch};
use crate::types::ShardId;

pub use drive::{ShardDriver, ShardSeed};
pub use keyspace::Keyspace;
pub(crate) use keyspace::KeyspaceInfo;
pub use open::format;
#[cfg(all(test, not(any(loom, shuttle))))]
pub(crate) use open::open_volume;
pub(crate) use open::{mark_used, on_executor, read_manifests};
pub(crate) use options::Place;
pub use options::{
    Durability, KEY_BYTES_MAX, KeyspaceOptions, Options, Partition, Restore, SHARDS_MAX, TimeDomain, Ttl,
    VALUE_BYTES_MAX, VOLUME_FILE_NAME,
};
pub use scan::EngineScan;
pub(crate) use shared::EngineShared;

/// Operators that may wait in a shard's mailbox; what comes behind that takes a slower way.
const MAILBOX_CAPACITY: usize = if cfg!(shuttle) { 2 } else { 4096 };
/// Control tasks that may wait.
const CONTROLS_CAPACITY: usize = if cfg!(shuttle) { 2 } else { 256 };

/// An open volume. Cheap to clone and usable on every thread and in every async runtime; each async method can be
/// awaited by a blocking thread with [`Engine::block_on`], the most used ones have blocking twins.
///
/// When the last clone is dropped the shards write out what is in their logs' buffers and end. [`Engine::close`] does the same and waits for it.
///
/// ```
/// use siltstone::{Engine, KeyspaceOptions, Options};
/// # fn main() -> siltstone::Result<()> {
/// # let directory = tempfile::tempdir().unwrap();
/// # let path = directory.path();
/// let engine = Engine::open(Options::at(path).keyspace("greetings", KeyspaceOptions::default()))?;
/// let greetings = engine.keyspace("greetings")?;
/// engine.put_blocking(&greetings, b"en", b"hello")?;
/// assert_eq!(engine.get_blocking(&greetings, b"en")?.as_deref(), Some(&b"hello"[..]));
/// engine.close_blocking()
/// # }
/// ```
#[derive(Clone)]
pub struct Engine {
    shared: Arc<EngineShared>,
    drive: Arc<drive::Drive>,
}

impl Engine {
    /// Opens or creates a volume and starts one thread for each shard. Blocks until all shards have recovered.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for options out of range, [`Error::NotAVolume`], [`Error::Version`], [`Error::Corruption`] for what is found,
    /// [`Error::NotFound`] for a checkpoint that is not there, [`Error::NoSpace`], and [`Error::Io`] for everything that the operating system refuses.
    pub fn open(options: Options) -> Result<Engine> {
        drive::open_pinned(options)
    }

    /// Opens or creates a volume whose shards the caller drives: each seed is started on the thread that will turn it. Until all
    /// have been started and are turned, operations on the engine wait.
    pub fn open_driven(options: Options) -> Result<(Engine, Vec<ShardSeed>)> {
        drive::open_driven(options)
    }

    /// Opens or creates a volume whose shards are driven, under a baton each, by whichever threads block on the engine. A background
    /// thread drives flush and compaction in between. For embedders with blocking threads of their own (a JVM through JNI).
    ///
    /// Operators cannot be shipped to such an engine: its shards have no thread of their own.
    pub fn open_under_baton(options: Options) -> Result<Engine> {
        drive::open_under_baton(options)
    }

    #[cfg(feature = "testing")]
    pub(crate) fn shared(&self) -> &Arc<EngineShared> {
        &self.shared
    }

    /// The keyspace of this name.
    pub fn keyspace(&self, name: &str) -> Result<Keyspace> {
        let keyspaces = self.shared.keyspaces.read().unwrap_or_else(PoisonError::into_inner);
        keyspaces.get(name).cloned().ok_or_else(|| {
            let names: Vec<&str> = keyspaces.keys().map(String::as_str).collect();
            Error::NotFound(format!("there is no keyspace {name:?}; there are {names:?}"))
        })
    }

    /// The names of all keyspaces.
    pub fn keyspaces(&self) -> Vec<String> {
        self.shared.keyspaces.read().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect()
    }

    /// Creates a keyspace in all shards; durable when it resolves. One that exists is returned as it is.
    ///
    /// A checkpoint that is under way meanwhile may hold the keyspace, but empty.
    pub async fn create_keyspace(&self, name: &str, options: KeyspaceOptions) -> Result<Keyspace> {
        options.validate(name)?;
        if let Ok(keyspace) = self.keyspace(name) {
            return Ok(keyspace);
        }
        let creation = Creation::begin(&self.shared, name)?;
        // Another call may have created it before this one began.
        if let Ok(keyspace) = self.keyspace(name) {
            return Ok(keyspace);
        }
        let info = KeyspaceInfo { id: creation.id, name: name.to_owned(), options, key_groups: self.shared.key_groups };
        let keyspace = Keyspace::new(info);
        let created = keyspace.clone();
        let results = self.shared.on_every_shard(move |shard| {
            let keyspace = created.clone();
            async move { shard.create_keyspace(keyspace).await }
        });
        results.await.into_iter().try_for_each(|result| result.and_then(|created| created))?;
        let mut keyspaces = self.shared.keyspaces.write().unwrap_or_else(PoisonError::into_inner);
        Ok(keyspaces.entry(name.to_owned()).or_insert(keyspace).clone())
    }

    /// How many shards serve the volume.
    pub fn shards(&self) -> usize {
        self.shared.shards()
    }

    /// The shard that owns a partition part (as [`Engine::on_shard`] takes it).
    pub fn shard_of(&self, partition: &[u8]) -> ShardId {
        ShardId(self.shared.shard_of_group(route::group_of(partition, self.shared.key_groups)) as u16)
    }

    /// Ships an operator to the data of a key: runs the closure's future on the shard that owns the key, where state is a function
    /// call away. `key` is the partition part. Operators of one key run one at a time, in the order in which they arrive; those of
    /// different keys run side by side.
    ///
    /// The operator is sent by the call itself, not when the returned future is first polled, and belongs to the epoch of that moment: a
    /// checkpoint that begins later waits for its end before it is complete. So an operator must not wait for something that comes
    /// after such a checkpoint: not for [`LocalShard::flush`], and not for a write through the engine's own methods, which belongs to
    /// the epoch of its own call.
    ///
    /// # Errors
    /// [`Error::Closed`] when the engine closes before the operator has ended; [`Error::InvalidArgument`] under a baton.
    pub fn on_shard<T, F, Fut>(
        &self,
        key: &[u8],
        operator: F,
    ) -> impl Future<Output = Result<T>> + Send + use<T, F, Fut>
    where
        T: Send + 'static,
        F: FnOnce(LocalShard) -> Fut + Send + 'static,
        Fut: Future<Output = T> + 'static,
    {
        let hash = xxhash_rust::xxh3::xxh3_64(key);
        let shard = self.shared.shard_of_group(route::group_of(key, self.shared.key_groups));
        let reply = self.check_operators().map(|()| self.shared.send(shard, Some(hash), operator));
        async move { reply?.await }
    }

    /// Runs an operator on every shard, and gives the results in the order of the shards.
    pub fn on_each_shard<T, F, Fut>(&self, operator: F) -> impl Future<Output = Result<Vec<T>>> + Send + use<T, F, Fut>
    where
        T: Send + 'static,
        F: FnOnce(LocalShard) -> Fut + Clone + Send + 'static,
        Fut: Future<Output = T> + 'static,
    {
        let replies = self.check_operators().map(|()| {
            let replies: Vec<_> =
                (0..self.shards()).map(|shard| self.shared.send(shard, None, operator.clone())).collect();
            replies
        });
        async move { try_join_all(replies?).await }
    }

    fn check_operators(&self) -> Result<()> {
        match *self.drive {
            drive::Drive::Baton(_) => Err(Error::InvalidArgument(
                "operators cannot be shipped to an engine under a baton: its shards have no thread of their own".into(),
            )),
            _ => Ok(()),
        }
    }

    /// The value of a key.
    pub async fn get(&self, keyspace: &Keyspace, key: &[u8]) -> Result<Option<Vec<u8>>> {
        let shard = self.shared.shard_of_group(keyspace.group_of(key));
        let (keyspace, key) = (keyspace.clone(), key.to_vec());
        let found = self.shared.send(shard, None, move |shard| async move {
            let value = shard.get(&keyspace, &key).await?;
            Ok(value.map(|value| value.to_vec()))
        });
        found.await?
    }

    /// The values of many keys, in their order: one message a shard, all device reads in flight together.
    pub async fn get_many<K: AsRef<[u8]>>(&self, keyspace: &Keyspace, keys: &[K]) -> Result<Vec<Option<Vec<u8>>>> {
        let mut by_shard: BTreeMap<usize, (Vec<usize>, Vec<Vec<u8>>)> = BTreeMap::new();
        for (index, key) in keys.iter().enumerate() {
            let key = key.as_ref();
            let (indexes, of_shard) = by_shard.entry(self.shared.shard_of_group(keyspace.group_of(key))).or_default();
            indexes.push(index);
            of_shard.push(key.to_vec());
        }
        let mut places = Vec::new();
        let mut replies = Vec::new();
        for (shard, (indexes, of_shard)) in by_shard {
            let keyspace = keyspace.clone();
            places.push(indexes);
            replies.push(self.shared.send(shard, None, move |shard| async move {
                let values = shard.get_many(&keyspace, &of_shard).await?;
                Ok::<_, Error>(values.into_iter().map(|value| value.map(|value| value.to_vec())).collect::<Vec<_>>())
            }));
        }
        let mut result = vec![None; keys.len()];
        for (indexes, values) in places.into_iter().zip(try_join_all(replies).await?) {
            for (index, value) in indexes.into_iter().zip(values?) {
                result[index] = value;
            }
        }
        Ok(result)
    }

    /// Gives the key this value; resolves when that is as durable as the engine promises.
    pub async fn put(&self, keyspace: &Keyspace, key: &[u8], value: &[u8]) -> Result<()> {
        let mut batch = WriteBatch::new();
        batch.put(keyspace, key, value);
        self.write(batch).await
    }

    /// Makes the key absent; resolves when that is as durable as the engine promises.
    pub async fn delete(&self, keyspace: &Keyspace, key: &[u8]) -> Result<()> {
        let mut batch = WriteBatch::new();
        batch.delete(keyspace, key);
        self.write(batch).await
    }

    /// Applies a batch: all of it or nothing. Its keys must belong to one shard: those with one partition part always do.
    pub async fn write(&self, batch: WriteBatch) -> Result<()> {
        let mut shards = batch.writes().map(|write| self.shared.shard_of_group(write.keyspace.group_of(write.key)));
        let Some(shard) = shards.next() else { return Ok(()) };
        if let Some(other) = shards.find(|other| *other != shard) {
            return Err(Error::InvalidArgument(format!(
                "the keys of a batch must belong to one shard, but these belong to shards {shard} and {other}: give them one partition part"
            )));
        }
        drop(shards);
        if batch.len() > 1 && mutant!(HandleBatchSplit) {
            let (first, rest) = batch.split();
            self.shared.send(shard, None, move |shard| async move { shard.write(&first).await }).await??;
            return self.shared.send(shard, None, move |shard| async move { shard.write(&rest).await }).await?;
        }
        self.shared.send(shard, None, move |shard| async move { shard.write(&batch).await }).await?
    }

    /// Iterates over a range of all shards, in the order of (key group, key). Each shard's part is as it was at the call.
    pub fn scan(&self, keyspace: &Keyspace, range: crate::shard::ScanRange) -> EngineScan {
        EngineScan::new(&self.shared, keyspace, range)
    }

    /// Takes a checkpoint of all shards: everything that began before this call, and nothing that begins after it. The barrier is opened by
    /// the call itself; the returned future resolves when the checkpoint is durable. Nothing waits for it.
    ///
    /// # Errors
    /// [`Error::Busy`] while another checkpoint is under way; otherwise whatever kept a shard from writing: then the checkpoint does not exist,
    /// unless it was the last write of all that failed ([`Error::Io`]): whether that one is on the device the next opening tells.
    pub fn checkpoint(
        &self,
        name: &str,
        bytes: Vec<u8>,
    ) -> impl Future<Output = Result<CheckpointInfo>> + Send + use<> {
        let begun = self.shared.begin_checkpoint(name, bytes);
        async move { begun?.await.map_err(|_| Error::Closed)? }
    }

    /// The checkpoints that exist, oldest first.
    pub async fn checkpoints(&self) -> Result<Vec<CheckpointInfo>> {
        self.shared.control(0, |shard| async move { shard.committed_checkpoints() }).await
    }

    /// Drops a checkpoint; what only it held becomes free space.
    pub async fn drop_checkpoint(&self, name: &str) -> Result<()> {
        let (shared, name) = (Arc::clone(&self.shared), name.to_owned());
        let dropped = self.shared.control(0, move |shard| async move {
            let found = shard.committed_checkpoints().into_iter().rev().find(|info| info.name == name);
            let info = found.ok_or_else(|| Error::NotFound(format!("there is no checkpoint {name:?}")))?;
            checkpoint::drop_checkpoint(&shard, &shared, info.id).await
        });
        dropped.await?
    }

    /// The checkpoint that the opening landed on, if it did.
    pub fn restored(&self) -> Option<&CheckpointInfo> {
        self.shared.restored.as_ref()
    }

    /// Counters of all shards together.
    pub async fn stats(&self) -> Result<ShardStats> {
        let mut sum = ShardStats::default();
        for stats in self.stats_by_shard().await? {
            sum.add(&stats);
        }
        Ok(sum)
    }

    /// Counters of each shard.
    pub async fn stats_by_shard(&self) -> Result<Vec<ShardStats>> {
        self.shared.on_every_shard(|shard| async move { shard.stats() }).await.into_iter().collect()
    }

    /// Waits until everything written before is on stable storage, whatever the engine's durability.
    pub async fn sync(&self) -> Result<()> {
        let results = self.shared.on_every_shard(|shard| async move { shard.wal.sync(&shard).await });
        results.await.into_iter().try_for_each(|result| result.and_then(|synced| synced))
    }

    /// Writes all memtables out as SSTs.
    pub async fn flush(&self) -> Result<()> {
        let results = self.shared.on_every_shard(|shard| async move { shard.flush().await });
        results.await.into_iter().try_for_each(|result| result.and_then(|flushed| flushed))
    }

    /// Waits until no compaction is due.
    pub async fn compact(&self) -> Result<()> {
        let results = self.shared.on_every_shard(|shard| async move { shard.compact_all().await });
        results.await.into_iter().try_for_each(|result| result.and_then(|compacted| compacted))
    }

    /// Writes out what is in the logs' buffers and ends the shards. Operations that have not ended fail with [`Error::Closed`], on this and all clones.
    ///
    /// The shards end in any case. Once this has returned `Ok`, all that was acknowledged is on stable storage (with [`Durability::Checkpoint`] what
    /// the last complete checkpoint holds).
    ///
    /// # Errors
    /// Only with [`Durability::Interval`], which acknowledges before it writes: [`Error::NoSpace`] where the log found no space for what had been
    /// acknowledged, and [`Error::Poisoned`] where a shard had become read-only before it was written. The last of it is then lost, in each
    /// such shard. Closing again says the same.
    pub async fn close(&self) -> Result<()> {
        let mut ended = Vec::new();
        for port in &self.shared.ports {
            let (sender, receiver) = oneshot::channel();
            // A shard that is closed already has nothing to end.
            if port.controls.send(Control::Close(sender)).await.is_ok() {
                ended.push(receiver.into_future());
            }
        }
        join_all(ended).await;
        if self.shared.lost.get().is_some() && mutant!(CloseAlwaysSaysOk) {
            return Ok(());
        }
        self.shared.lost.get().cloned().map_or(Ok(()), Err)
    }

    /// [`Self::get`], blocking.
    pub fn get_blocking(&self, keyspace: &Keyspace, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.block_on(self.get(keyspace, key))
    }

    /// [`Self::get_many`], blocking.
    pub fn get_many_blocking<K: AsRef<[u8]>>(&self, keyspace: &Keyspace, keys: &[K]) -> Result<Vec<Option<Vec<u8>>>> {
        self.block_on(self.get_many(keyspace, keys))
    }

    /// [`Self::put`], blocking.
    pub fn put_blocking(&self, keyspace: &Keyspace, key: &[u8], value: &[u8]) -> Result<()> {
        self.block_on(self.put(keyspace, key, value))
    }

    /// [`Self::delete`], blocking.
    pub fn delete_blocking(&self, keyspace: &Keyspace, key: &[u8]) -> Result<()> {
        self.block_on(self.delete(keyspace, key))
    }

    /// [`Self::write`], blocking.
    pub fn write_blocking(&self, batch: WriteBatch) -> Result<()> {
        self.block_on(self.write(batch))
    }

    /// [`Self::checkpoint`], blocking until it is durable.
    pub fn checkpoint_blocking(&self, name: &str, bytes: Vec<u8>) -> Result<CheckpointInfo> {
        self.block_on(self.checkpoint(name, bytes))
    }

    /// [`Self::close`], blocking until the shards' threads have ended.
    pub fn close_blocking(&self) -> Result<()> {
        let closed = self.block_on(self.close());
        self.drive.join();
        closed
    }

    /// Blocks the calling thread until a future of this engine is ready, driving shards where that is the callers' task. Not for shards'
    /// own threads.
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.drive.block_on(future)
    }
}

const _: fn() = || {
    fn is_shared<T: Send + Sync + Clone>() {}
    is_shared::<Engine>();
};
