//! One value for each key.

use std::fmt;
use std::marker::PhantomData;

use super::Types;
use super::buf::EncodeBuf;
use super::codec::{Codec, Postcard};
use super::descriptor::{Expires, State, sealed};
use super::key::KeyCodec;
use super::stored::partition_of;
use crate::{Keyspace, LocalShard, Partition, Result, Scan, ScanRange};

/// One value for each key.
///
/// A get costs what the engine's get costs, at most one device read for each level that may hold the key, and no allocation besides
/// what the value itself needs.
///
/// ```no_run
/// # use siltstone::state::{partition_of, Descriptor, ValueState};
/// # use siltstone::{Engine, Options};
/// # async fn example() -> siltstone::Result<()> {
/// let descriptor = Descriptor::<ValueState<String, u64>>::new("visits");
/// let engine = Engine::open(Options::at("/tmp/state").state(&descriptor))?;
/// let visits = descriptor.bind(&engine)?;
///
/// let user = "ada".to_string();
/// let count = engine
///     .on_shard(&partition_of(&user), move |shard| async move {
///         let count = visits.get(&shard, &user).await?.unwrap_or(0) + 1;
///         visits.set(&shard, &user, &count).await?;
///         siltstone::Result::Ok(count)
///     })
///     .await??;
/// assert!(count > 0);
/// # Ok(())
/// # }
/// ```
pub struct ValueState<K, V, C = Postcard> {
    keyspace: Keyspace,
    types: Types<(K, V, C)>,
}

impl<K: KeyCodec, V, C: Codec<V>> ValueState<K, V, C> {
    /// The key's value.
    #[inline]
    pub async fn get(&self, shard: &LocalShard, key: &K) -> Result<Option<V>> {
        match shard.get(&self.keyspace, &partition_of(key)).await? {
            Some(bytes) => C::decode(&bytes).map(Some),
            None => Ok(None),
        }
    }

    /// Sets the key's value.
    #[inline]
    pub async fn set(&self, shard: &LocalShard, key: &K, value: &V) -> Result<()> {
        let mut bytes = EncodeBuf::new();
        C::encode(value, &mut bytes)?;
        shard.put(&self.keyspace, &partition_of(key), &bytes).await
    }

    /// Removes the key's value.
    pub async fn clear(&self, shard: &LocalShard, key: &K) -> Result<()> {
        shard.delete(&self.keyspace, &partition_of(key)).await
    }

    /// Reads the value, lets `change` make the next one of it (`None` removes it), and stores that.
    pub async fn update(&self, shard: &LocalShard, key: &K, change: impl FnOnce(Option<V>) -> Option<V>) -> Result<()> {
        match change(self.get(shard, key).await?) {
            Some(value) => self.set(shard, key, &value).await,
            None => self.clear(shard, key).await,
        }
    }

    /// All keys of the shard and their values, in order of (key group, key).
    pub fn entries(&self, shard: &LocalShard) -> Result<ValueEntries<K, V, C>> {
        Ok(ValueEntries { scan: shard.scan(&self.keyspace, ScanRange::all())?, types: PhantomData })
    }
}

/// The entries of a [`ValueState`] on one shard, as of the call that made it.
pub struct ValueEntries<K, V, C = Postcard> {
    scan: Scan,
    types: Types<(K, V, C)>,
}

impl<K: KeyCodec, V, C: Codec<V>> ValueEntries<K, V, C> {
    /// The next key and its value; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<(K, V)>> {
        match self.scan.next().await? {
            Some(entry) => Ok(Some((K::decode_key(entry.key)?, C::decode(entry.value)?))),
            None => Ok(None),
        }
    }
}

impl<K, V, C> sealed::Sealed for ValueState<K, V, C> {}

impl<K, V, C> State for ValueState<K, V, C> {
    type Function = ();
    const PARTITION: Partition = Partition::WholeKey;

    fn from_keyspace(keyspace: Keyspace, (): ()) -> Self {
        ValueState { keyspace, types: PhantomData }
    }
}

impl<K, V, C> Expires for ValueState<K, V, C> {}

impl<K, V, C> Clone for ValueState<K, V, C> {
    fn clone(&self) -> Self {
        ValueState { keyspace: self.keyspace.clone(), types: PhantomData }
    }
}

impl<K, V, C> fmt::Debug for ValueState<K, V, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ValueState").field(&self.keyspace.name()).finish()
    }
}

impl<K, V, C> fmt::Debug for ValueEntries<K, V, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ValueEntries").finish_non_exhaustive()
    }
}
