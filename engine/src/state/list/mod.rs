//! A list for each key, made for appending at the back and removing at the front.
//!
//! A list has one *head* record, which holds its newest elements inline (the *tail*) and the counters; when the tail reaches about a
//! KiB, it becomes a *chunk* of its own, named by the index of its first element, in the same atomic batch that writes the new head. So a
//! short list is one entry, a push costs one read and one write of at most a KiB whatever the list's length, and iteration is a scan of
//! the chunks followed by the tail.
//!
//! Removal at the front counts up `skip` in the head; a chunk is deleted when all of it has been passed. The records are in
//! [`layout`].
//!
//! Time to live: an element expires no earlier than the time to live after it was appended. It does so with its chunk, so a list loses
//! its oldest chunks while its newest elements live on; a list to which nothing is appended for that long is gone. The indices of expired
//! chunks are gaps: they count for [`ListState::truncate_front`], which thus never keeps too many.
//!
//! A crash leaves the head and the chunks as of one batch, so the counters always agree with the chunks that are there.

mod iter;
mod layout;

use std::fmt;
use std::marker::PhantomData;
use std::ops::Bound;

use super::Types;
use super::buf::EncodeBuf;
use super::codec::{Codec, Postcard};
use super::descriptor::{Expires, State, sealed};
use super::key::KeyCodec;
use super::stored::{prefixed, split_prefixed};
use crate::{Error, Keyspace, LocalShard, Partition, Result, Scan, ScanRange, WriteBatch};
use layout::{Elements, Head, decode_chunk, encode_chunk, encode_element};

pub use iter::ListIter;
#[cfg(feature = "fuzz")]
pub(crate) use layout::decode_elements;

/// A tail that would grow over this many bytes is spilled.
const CHUNK_BYTES: usize = 1024;

/// A list of `T` for each key.
///
/// ```no_run
/// # use siltstone::state::{Descriptor, ListState};
/// # use siltstone::{LocalShard, Result};
/// let descriptor = Descriptor::<ListState<String, i64>>::new("delays");
///
/// /// The sum of the last hundred delays.
/// async fn recent(delays: &ListState<String, i64>, shard: &LocalShard, plane: &String, delay: i64) -> Result<i64> {
///     delays.push_bounded(shard, plane, &delay, 100).await?;
///     delays.fold(shard, plane, 0, |sum, delay| sum + delay).await
/// }
/// # let _ = (descriptor, recent);
/// ```
pub struct ListState<K, T, C = Postcard> {
    keyspace: Keyspace,
    types: Types<(K, T, C)>,
}

impl<K: KeyCodec, T, C: Codec<T>> ListState<K, T, C> {
    /// Appends an element.
    pub async fn push(&self, shard: &LocalShard, key: &K, element: &T) -> Result<()> {
        self.push_bounded(shard, key, element, u64::MAX).await
    }

    /// Appends an element and keeps the newest `keep`, at least 1, of the list: one read and one write.
    pub async fn push_bounded(&self, shard: &LocalShard, key: &K, element: &T, keep: u64) -> Result<()> {
        let mut encoded = EncodeBuf::new();
        C::encode(element, &mut encoded)?;
        let prefix = prefixed(key)?;
        let stored = shard.get(&self.keyspace, &prefix).await?;
        let (mut head, mut tail) = match &stored {
            Some(bytes) => Head::decode(bytes)?,
            None => (Head::default(), Elements::EMPTY),
        };
        let mut batch = WriteBatch::new();
        let surplus = (head.len() + 1).saturating_sub(keep.max(1));
        self.drop_front(shard, &prefix, &mut head, &mut tail, surplus, &mut batch).await?;
        if tail.len() > 0 && tail.as_bytes().len() + encoded.len() > CHUNK_BYTES {
            self.spill(&prefix, &mut head, tail, &mut batch);
            tail = Elements::EMPTY;
        }
        head.count += 1;
        let mut record = EncodeBuf::new();
        head.encode(&mut record);
        record.extend_from_slice(tail.as_bytes());
        encode_element(&encoded, &mut record);
        if batch.is_empty() {
            return shard.put(&self.keyspace, &prefix, &record).await;
        }
        batch.put(&self.keyspace, &prefix, &record);
        shard.write(&batch).await
    }

    /// Removes elements from the front until at most the newest `keep` are left.
    pub async fn truncate_front(&self, shard: &LocalShard, key: &K, keep: u64) -> Result<()> {
        let prefix = prefixed(key)?;
        let Some(stored) = shard.get(&self.keyspace, &prefix).await? else { return Ok(()) };
        let (mut head, mut tail) = Head::decode(&stored)?;
        let surplus = head.len().saturating_sub(keep);
        if surplus == 0 {
            return Ok(());
        }
        let mut batch = WriteBatch::new();
        self.drop_front(shard, &prefix, &mut head, &mut tail, surplus, &mut batch).await?;
        self.put_head(&prefix, head, tail, &mut batch);
        shard.write(&batch).await
    }

    /// Removes and returns the first element; `None` where the list is empty.
    pub async fn pop_front(&self, shard: &LocalShard, key: &K) -> Result<Option<T>> {
        let prefix = prefixed(key)?;
        let Some(stored) = shard.get(&self.keyspace, &prefix).await? else { return Ok(None) };
        let (mut head, mut tail) = Head::decode(&stored)?;
        let mut batch = WriteBatch::new();
        let mut element = None;
        if head.spilled > 0 {
            let mut scan = self.chunks(shard, &prefix, &head)?;
            if let Some(entry) = scan.next().await? {
                let start = chunk_index(entry.key)?;
                let mut elements = decode_chunk(entry.value)?;
                let skip = if start == head.base { head.skip } else { 0 };
                elements.skip(skip)?;
                let first = elements.next()?;
                element = Some(C::decode(first.ok_or_else(|| counts_differ(&head))?)?);
                // Everything before the element just taken goes, expired chunks included.
                let surplus = start.saturating_sub(head.base) + skip + 1 - head.skip;
                self.drop_front(shard, &prefix, &mut head, &mut tail, surplus, &mut batch).await?;
            } else {
                let expired = head.spilled - head.skip;
                self.drop_front(shard, &prefix, &mut head, &mut tail, expired, &mut batch).await?;
            }
        }
        if element.is_none()
            && let Some(first) = { tail }.next()?
        {
            element = Some(C::decode(first)?);
            self.drop_front(shard, &prefix, &mut head, &mut tail, 1, &mut batch).await?;
        }
        self.put_head(&prefix, head, tail, &mut batch);
        shard.write(&batch).await?;
        Ok(element)
    }

    /// How many elements the list has. One read; with a TTL, a scan of the list's chunks.
    pub async fn len(&self, shard: &LocalShard, key: &K) -> Result<u64> {
        let prefix = prefixed(key)?;
        let Some(stored) = shard.get(&self.keyspace, &prefix).await? else { return Ok(0) };
        let (head, _) = Head::decode(&stored)?;
        if head.spilled == 0 || !self.expires() {
            return Ok(head.len());
        }
        let mut len = head.count;
        let mut scan = self.chunks(shard, &prefix, &head)?;
        while let Some(entry) = scan.next().await? {
            let skip = if chunk_index(entry.key)? == head.base { head.skip } else { 0 };
            len += decode_chunk(entry.value)?.len().saturating_sub(skip);
        }
        Ok(len)
    }

    /// Whether the list has no elements.
    pub async fn is_empty(&self, shard: &LocalShard, key: &K) -> Result<bool> {
        Ok(shard.get(&self.keyspace, &prefixed(key)?).await?.is_none())
    }

    /// Folds the elements from the first to the last; nothing is allocated but what decoding an element needs.
    pub async fn fold<A>(&self, shard: &LocalShard, key: &K, initial: A, mut fold: impl FnMut(A, T) -> A) -> Result<A> {
        let prefix = prefixed(key)?;
        let mut acc = initial;
        let Some(stored) = shard.get(&self.keyspace, &prefix).await? else { return Ok(acc) };
        let (head, mut tail) = Head::decode(&stored)?;
        if head.spilled > 0 {
            let mut scan = self.chunks(shard, &prefix, &head)?;
            while let Some(entry) = scan.next().await? {
                let mut elements = decode_chunk(entry.value)?;
                if chunk_index(entry.key)? == head.base {
                    elements.skip(head.skip)?;
                }
                while let Some(element) = elements.next()? {
                    acc = fold(acc, C::decode(element)?);
                }
            }
        }
        while let Some(element) = tail.next()? {
            acc = fold(acc, C::decode(element)?);
        }
        Ok(acc)
    }

    /// All elements, from the first to the last.
    pub async fn get(&self, shard: &LocalShard, key: &K) -> Result<Vec<T>> {
        self.fold(shard, key, Vec::new(), |mut all, element| {
            all.push(element);
            all
        })
        .await
    }

    /// The elements one by one, from the first to the last, as of this call. One chunk is in memory at a time.
    pub async fn iter(&self, shard: &LocalShard, key: &K) -> Result<ListIter<T, C>> {
        let prefix = prefixed(key)?;
        let Some(stored) = shard.get(&self.keyspace, &prefix).await? else { return Ok(ListIter::empty()) };
        let (head, _) = Head::decode(&stored)?;
        let chunks = if head.spilled > 0 { Some(self.chunks(shard, &prefix, &head)?) } else { None };
        Ok(ListIter::new(chunks, stored, head))
    }

    /// Removes all elements.
    pub async fn clear(&self, shard: &LocalShard, key: &K) -> Result<()> {
        self.truncate_front(shard, key, 0).await
    }

    /// Drops the first `surplus` elements, gaps counted. Adds the chunks that go to the batch; the head remains to be written.
    async fn drop_front(
        &self,
        shard: &LocalShard,
        prefix: &[u8],
        head: &mut Head,
        tail: &mut Elements<'_>,
        mut surplus: u64,
        batch: &mut WriteBatch,
    ) -> Result<()> {
        while surplus > 0 && head.spilled > 0 {
            let in_front = head.front - head.skip;
            if surplus < in_front {
                head.skip += surplus;
                return Ok(());
            }
            surplus -= in_front;
            batch.delete(&self.keyspace, &chunk_key(prefix, head.base));
            head.base += head.front;
            head.spilled -= head.front;
            (head.skip, head.front) = (0, 0);
            if head.spilled > 0 {
                let gap = self.find_front(shard, prefix, head).await?;
                surplus = surplus.saturating_sub(gap);
            }
        }
        let from_tail = surplus.min(head.count);
        tail.skip(from_tail)?;
        head.count -= from_tail;
        head.base += from_tail;
        Ok(())
    }

    /// Makes the first chunk that is there the front chunk; returns how many indices of expired chunks were passed over.
    async fn find_front(&self, shard: &LocalShard, prefix: &[u8], head: &mut Head) -> Result<u64> {
        let mut scan = self.chunks(shard, prefix, head)?;
        let (start, front) = match scan.next().await? {
            Some(entry) => (chunk_index(entry.key)?, decode_chunk(entry.value)?.len()),
            None => (head.tail_start(), 0),
        };
        let gap = start - head.base;
        if (gap > 0 && !self.expires()) || front > head.spilled - gap {
            return Err(counts_differ(head));
        }
        head.base = start;
        head.spilled -= gap;
        head.front = front;
        Ok(gap)
    }

    /// Makes the tail a chunk.
    fn spill(&self, prefix: &[u8], head: &mut Head, tail: Elements<'_>, batch: &mut WriteBatch) {
        let mut record = EncodeBuf::new();
        encode_chunk(head.count, &mut record);
        record.extend_from_slice(tail.as_bytes());
        batch.put(&self.keyspace, &chunk_key(prefix, head.tail_start()), &record);
        if head.spilled == 0 {
            head.front = head.count;
        }
        head.spilled += head.count;
        head.count = 0;
    }

    fn put_head(&self, prefix: &[u8], head: Head, tail: Elements<'_>, batch: &mut WriteBatch) {
        if head.len() == 0 {
            batch.delete(&self.keyspace, prefix);
            return;
        }
        let mut record = EncodeBuf::new();
        head.encode(&mut record);
        record.extend_from_slice(tail.as_bytes());
        batch.put(&self.keyspace, prefix, &record);
    }

    /// The spilled chunks, in order.
    fn chunks(&self, shard: &LocalShard, prefix: &[u8], head: &Head) -> Result<Scan> {
        let lower = Bound::Included(chunk_key(prefix, head.base).to_vec());
        let upper = Bound::Excluded(chunk_key(prefix, head.tail_start()).to_vec());
        shard.scan(&self.keyspace, ScanRange::range(lower, upper).group(self.keyspace.group_of(prefix)))
    }

    fn expires(&self) -> bool {
        self.keyspace.options().ttl.is_some()
    }
}

fn chunk_key(prefix: &[u8], index: u64) -> EncodeBuf {
    let mut stored = EncodeBuf::new();
    stored.extend_from_slice(prefix);
    index.encode_part(&mut stored);
    stored
}

fn chunk_index(stored: &[u8]) -> Result<u64> {
    let (_, suffix) = split_prefixed(stored)?;
    u64::decode_key(suffix).map_err(|_| {
        Error::corruption("chunk of a list", format!("a key suffix of {} bytes, expected 8", suffix.len()))
    })
}

fn counts_differ(head: &Head) -> Error {
    Error::corruption("list", format!("the chunks differ from the counters {head:?}"))
}

impl<K, T, C> sealed::Sealed for ListState<K, T, C> {}

impl<K, T, C> State for ListState<K, T, C> {
    type Function = ();
    const PARTITION: Partition = Partition::LengthPrefixed;

    fn from_keyspace(keyspace: Keyspace, (): ()) -> Self {
        ListState { keyspace, types: PhantomData }
    }
}

impl<K, T, C> Expires for ListState<K, T, C> {}

impl<K, T, C> Clone for ListState<K, T, C> {
    fn clone(&self) -> Self {
        ListState { keyspace: self.keyspace.clone(), types: PhantomData }
    }
}

impl<K, T, C> fmt::Debug for ListState<K, T, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ListState").field(&self.keyspace.name()).finish()
    }
}
