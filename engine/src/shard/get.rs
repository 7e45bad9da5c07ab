//! Point reads.

use std::rc::Rc;

use crate::engine::route::stored_key;
use crate::engine::{Keyspace, TimeDomain};
use crate::error::{Error, Result};
use crate::memtable::MemEntry;
use crate::read::{Access, BlockBytes, MergeCursor, RunCursor, Source, ValueRef};
use crate::shard::Shard;
use crate::table::{self, BlockType, Lookup, VersionBound};
use crate::types::{Kind, ReadView, Trailer};
use crate::version::{LEVELS, Table};

/// Bytes of the expiry time in front of an expiring value.
pub(crate) const EXPIRY_BYTES: usize = 8;

impl Shard {
    /// The value of a key in a view. Served from memory it allocates nothing and waits for nothing; otherwise it costs a device read
    /// of one block for the data, and one each for filter and index partition where these are not in the cache.
    pub(crate) async fn get(
        &self,
        keyspace: &Keyspace,
        key: &[u8],
        view: &ReadView,
        time_ms: Option<u64>,
    ) -> Result<Option<ValueRef>> {
        let group = self.own_group(keyspace, key)?;
        if self.is_poisoned() && mutant!(ReadsNeedAWritableShard) {
            self.check_writable()?;
        }
        let stored = stored_key(group, key);
        self.counters.gets.set(self.counters.gets.get() + 1);
        if let Some(entry) = self.memtables.find(|memtable| memtable.get(keyspace.id(), &stored, view)) {
            return self.resolve_memtable(keyspace, entry, time_ms);
        }
        let version = self.keyspace(keyspace.id())?.version();
        let hash = table::key_hash(&stored);
        for candidate in version.level(0).iter().filter(|candidate| candidate.may_hold(&stored)) {
            if mutant!(DeeperLevelsShadow if (1..LEVELS).any(|level| version.find(level, &stored).is_some())) {
                continue;
            }
            if let Some((trailer, value)) = self.get_in_table(candidate, &stored, hash, view).await? {
                return self.resolve(keyspace, trailer, value, time_ms);
            }
        }
        for level in 1..LEVELS {
            if let Some(candidate) = version.find(level, &stored)
                && let Some((trailer, value)) = self.get_in_table(candidate, &stored, hash, view).await?
            {
                return self.resolve(keyspace, trailer, value, time_ms);
            }
        }
        Ok(None)
    }

    async fn get_in_table(
        &self,
        table: &Rc<Table>,
        key: &[u8],
        hash: u64,
        view: &ReadView,
    ) -> Result<Option<(Trailer, ValueRef)>> {
        let blocks = &self.blocks;
        let directory = match table.directory() {
            Some(directory) => directory,
            None => blocks.directory(table).await?,
        };
        if let Some(handle) = directory.find_filter(key) {
            let filter = blocks.block(table, BlockType::Filter, handle).await?;
            if !table::filter_may_contain(&filter, hash) {
                return Ok(None);
            }
        }
        let bound = VersionBound::of(view);
        let Some(partition) = directory.find_index(key, bound) else { return Ok(None) };
        let index = blocks.block(table, BlockType::Index, directory.index_handle(partition)).await?;
        let Some(handle) = table::index_find(&index, key, bound)? else { return Ok(None) };
        let data = blocks.block(table, BlockType::Data, handle).await?;
        match table::data_get(&data, key, view)? {
            Lookup::Found(trailer, range) => Ok(Some((trailer, ValueRef::in_block(BlockBytes::Cached(data), range)))),
            Lookup::Absent => Ok(None),
            Lookup::NextBlock => self.get_by_cursor(table, key, view).await,
        }
    }

    /// The lookup of a view with a hole in which a whole block of versions lies: rare.
    async fn get_by_cursor(
        &self,
        table: &Rc<Table>,
        key: &[u8],
        view: &ReadView,
    ) -> Result<Option<(Trailer, ValueRef)>> {
        let mut cursor = MergeCursor::new(vec![Source::Run(RunCursor::new(
            Rc::clone(&self.blocks),
            vec![Rc::clone(table)],
            Access::Cached,
        ))]);
        cursor.seek(key, Trailer::NEWEST).await?;
        while cursor.valid() && cursor.key() == key {
            if view.sees(cursor.trailer().seq()) {
                return Ok(Some((cursor.trailer(), cursor.value_ref(0))));
            }
            cursor.next().await?;
        }
        Ok(None)
    }

    fn resolve_memtable(&self, keyspace: &Keyspace, entry: MemEntry, time_ms: Option<u64>) -> Result<Option<ValueRef>> {
        match entry.trailer.kind() {
            Kind::Delete => Ok(None),
            Kind::Put => Ok(Some(ValueRef::in_memtable(entry.value, 0))),
            Kind::PutExpiring => {
                let expired = self.is_expired(keyspace, &entry.value, time_ms)?;
                Ok((!expired).then(|| ValueRef::in_memtable(entry.value, EXPIRY_BYTES)))
            }
        }
    }

    fn resolve(
        &self,
        keyspace: &Keyspace,
        trailer: Trailer,
        value: ValueRef,
        time_ms: Option<u64>,
    ) -> Result<Option<ValueRef>> {
        match trailer.kind() {
            Kind::Delete => Ok(None),
            Kind::Put => Ok(Some(value)),
            Kind::PutExpiring => {
                let expired = self.is_expired(keyspace, &value, time_ms)?;
                Ok((!expired).then(|| value.skip(EXPIRY_BYTES)))
            }
        }
    }

    /// Whether an expiring value (with its expiry time in front) has expired at the operation's time.
    pub(crate) fn is_expired(&self, keyspace: &Keyspace, value: &[u8], time_ms: Option<u64>) -> Result<bool> {
        Ok(expiry_ms(value)? <= self.now_ms(keyspace, time_ms))
    }

    /// The time that a keyspace's TTL follows; 0 where event time is not known yet: then nothing has expired.
    pub(crate) fn now_ms(&self, keyspace: &Keyspace, time_ms: Option<u64>) -> u64 {
        match keyspace.options().ttl.map(|ttl| ttl.time) {
            Some(TimeDomain::Processing) => self.wall_ms(),
            Some(TimeDomain::Event) | None => time_ms.or(self.watermark_ms()).unwrap_or_default(),
        }
    }
}

impl Shard {
    /// The time up to which flush and compaction may drop what has expired. Until the memtables of an epoch that is over have been written out, that is
    /// the watermark at its barrier: the checkpoint must hold what was live then.
    pub(crate) fn expired_until_ms(&self, keyspace: &Keyspace) -> u64 {
        let event_time = !matches!(keyspace.options().ttl, Some(ttl) if ttl.time == TimeDomain::Processing);
        if event_time && self.memtables.oldest().epoch < self.memtables.epoch() && !mutant!(ExpiryIgnoresBarrier) {
            return self.barrier_watermark_ms.get().unwrap_or_default();
        }
        self.now_ms(keyspace, None)
    }
}

/// The expiry time in front of an expiring value.
pub(crate) fn expiry_ms(value: &[u8]) -> Result<u64> {
    value
        .first_chunk::<EXPIRY_BYTES>()
        .map(|bytes| u64::from_le_bytes(*bytes))
        .ok_or_else(|| Error::corruption("data block", "an expiring value without its expiry time"))
}
