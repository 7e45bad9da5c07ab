//! A map for each key.
//!
//! Each entry of a map is an entry of the engine, under the key's prefix (see [`stored`](super::stored)) and the map key's encoding:
//! a get or put touches one entry, whatever the map's size, a TTL counts for each entry by itself, and iteration is a prefix scan of
//! one key group, in the order of the map keys.

use std::fmt;
use std::marker::PhantomData;

use super::Types;
use super::buf::EncodeBuf;
use super::codec::{Codec, Postcard};
use super::descriptor::{Expires, State, sealed};
use super::key::KeyCodec;
use super::stored::{prefixed, split_prefixed};
use crate::{Keyspace, LocalShard, Partition, Result, Scan, ScanRange, WriteBatch};

/// How many entries [`MapState::clear`] removes in one batch.
const CLEAR_BATCH_ENTRIES: usize = 256;

/// A map from `MK` to `MV` for each key, ordered by `MK`.
///
/// ```no_run
/// # use siltstone::state::{Descriptor, MapState};
/// # use siltstone::{LocalShard, Result};
/// let descriptor = Descriptor::<MapState<String, u32, f64>>::new("prices");
///
/// async fn raise(prices: &MapState<String, u32, f64>, shard: &LocalShard, shop: &String) -> Result<()> {
///     prices.put(shard, shop, &17, &9.99).await?;
///     let mut entries = prices.iter(shard, shop)?;
///     while let Some((article, price)) = entries.next().await? {
///         prices.put(shard, shop, &article, &(price * 1.1)).await?;
///     }
///     Ok(())
/// }
/// # let _ = (descriptor, raise);
/// ```
pub struct MapState<K, MK, MV, C = Postcard> {
    keyspace: Keyspace,
    types: Types<(K, MK, MV, C)>,
}

impl<K: KeyCodec, MK: KeyCodec, MV, C: Codec<MV>> MapState<K, MK, MV, C> {
    /// The value of an entry of the key's map.
    pub async fn get(&self, shard: &LocalShard, key: &K, map_key: &MK) -> Result<Option<MV>> {
        match shard.get(&self.keyspace, &entry_key(key, map_key)?).await? {
            Some(bytes) => C::decode(&bytes).map(Some),
            None => Ok(None),
        }
    }

    /// Whether the key's map has the entry. The value is not decoded.
    pub async fn contains(&self, shard: &LocalShard, key: &K, map_key: &MK) -> Result<bool> {
        Ok(shard.get(&self.keyspace, &entry_key(key, map_key)?).await?.is_some())
    }

    /// Sets an entry of the key's map.
    pub async fn put(&self, shard: &LocalShard, key: &K, map_key: &MK, value: &MV) -> Result<()> {
        let mut bytes = EncodeBuf::new();
        C::encode(value, &mut bytes)?;
        shard.put(&self.keyspace, &entry_key(key, map_key)?, &bytes).await
    }

    /// Removes an entry of the key's map.
    pub async fn remove(&self, shard: &LocalShard, key: &K, map_key: &MK) -> Result<()> {
        shard.delete(&self.keyspace, &entry_key(key, map_key)?).await
    }

    /// Reads an entry, lets `change` make the next value of it (`None` removes it), and stores that.
    pub async fn update(
        &self,
        shard: &LocalShard,
        key: &K,
        map_key: &MK,
        change: impl FnOnce(Option<MV>) -> Option<MV>,
    ) -> Result<()> {
        match change(self.get(shard, key, map_key).await?) {
            Some(value) => self.put(shard, key, map_key, &value).await,
            None => self.remove(shard, key, map_key).await,
        }
    }

    /// Whether the key's map has no entries.
    pub async fn is_empty(&self, shard: &LocalShard, key: &K) -> Result<bool> {
        Ok(self.scan(shard, key)?.next().await?.is_none())
    }

    /// The entries of the key's map in order of their map keys.
    pub fn iter(&self, shard: &LocalShard, key: &K) -> Result<MapIter<MK, MV, C>> {
        Ok(MapIter { scan: self.scan(shard, key)?, types: PhantomData })
    }

    /// Removes all entries of the key's map. Large maps go in several atomic batches, in order.
    pub async fn clear(&self, shard: &LocalShard, key: &K) -> Result<()> {
        let mut scan = self.scan(shard, key)?;
        let mut batch = WriteBatch::new();
        loop {
            batch.clear();
            while batch.len() < CLEAR_BATCH_ENTRIES
                && let Some(entry) = scan.next().await?
            {
                batch.delete(&self.keyspace, entry.key);
            }
            if batch.is_empty() {
                return Ok(());
            }
            shard.write(&batch).await?;
        }
    }

    /// All entries of all maps of the shard; those of one key together, in order of their map keys.
    pub fn entries(&self, shard: &LocalShard) -> Result<MapEntries<K, MK, MV, C>> {
        Ok(MapEntries { scan: shard.scan(&self.keyspace, ScanRange::all())?, types: PhantomData })
    }

    fn scan(&self, shard: &LocalShard, key: &K) -> Result<Scan> {
        shard.scan(&self.keyspace, ScanRange::prefix(&prefixed(key)?[..]))
    }
}

#[inline]
fn entry_key<K: KeyCodec, MK: KeyCodec>(key: &K, map_key: &MK) -> Result<EncodeBuf> {
    let mut stored = prefixed(key)?;
    map_key.encode_key(&mut stored);
    Ok(stored)
}

/// The entries of one key's map, as of the call that made it.
pub struct MapIter<MK, MV, C = Postcard> {
    scan: Scan,
    types: Types<(MK, MV, C)>,
}

impl<MK: KeyCodec, MV, C: Codec<MV>> MapIter<MK, MV, C> {
    /// The next entry; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<(MK, MV)>> {
        let Some(entry) = self.scan.next().await? else { return Ok(None) };
        let (_, map_key) = split_prefixed(entry.key)?;
        Ok(Some((MK::decode_key(map_key)?, C::decode(entry.value)?)))
    }
}

/// The entries of all maps of a [`MapState`] on one shard, as of the call that made it.
pub struct MapEntries<K, MK, MV, C = Postcard> {
    scan: Scan,
    types: Types<(K, MK, MV, C)>,
}

impl<K: KeyCodec, MK: KeyCodec, MV, C: Codec<MV>> MapEntries<K, MK, MV, C> {
    /// The next key, map key and value; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<(K, MK, MV)>> {
        let Some(entry) = self.scan.next().await? else { return Ok(None) };
        let (key, map_key) = split_prefixed(entry.key)?;
        Ok(Some((K::decode_key(key)?, MK::decode_key(map_key)?, C::decode(entry.value)?)))
    }
}

impl<K, MK, MV, C> sealed::Sealed for MapState<K, MK, MV, C> {}

impl<K, MK, MV, C> State for MapState<K, MK, MV, C> {
    type Function = ();
    const PARTITION: Partition = Partition::LengthPrefixed;

    fn from_keyspace(keyspace: Keyspace, (): ()) -> Self {
        MapState { keyspace, types: PhantomData }
    }
}

impl<K, MK, MV, C> Expires for MapState<K, MK, MV, C> {}

impl<K, MK, MV, C> Clone for MapState<K, MK, MV, C> {
    fn clone(&self) -> Self {
        MapState { keyspace: self.keyspace.clone(), types: PhantomData }
    }
}

impl<K, MK, MV, C> fmt::Debug for MapState<K, MK, MV, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("MapState").field(&self.keyspace.name()).finish()
    }
}

impl<MK, MV, C> fmt::Debug for MapIter<MK, MV, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MapIter").finish_non_exhaustive()
    }
}

impl<K, MK, MV, C> fmt::Debug for MapEntries<K, MK, MV, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MapEntries").finish_non_exhaustive()
    }
}
