//! Write batches.

use std::ops::Range;

use crate::engine::Keyspace;

/// Writes that take effect together or not at all. All of a batch's keys must belong to one shard (keys with one partition part always do).
///
/// ```
/// # fn example(balances: &siltstone::Keyspace) {
/// use siltstone::WriteBatch;
/// let mut batch = WriteBatch::new();
/// batch.put(balances, b"alice", b"90").put(balances, b"bob", b"110").delete(balances, b"carol");
/// # }
/// ```
#[derive(Clone, Debug, Default)]
pub struct WriteBatch {
    operations: Vec<Operation>,
    bytes: Vec<u8>,
}

#[derive(Clone, Debug)]
struct Operation {
    keyspace: Keyspace,
    key: Range<usize>,
    value: Option<Range<usize>>,
    expires_at_ms: Option<u64>,
}

/// One write, borrowed.
#[derive(Clone, Copy)]
pub(crate) struct Write<'w> {
    pub(crate) keyspace: &'w Keyspace,
    pub(crate) key: &'w [u8],
    /// `None` deletes.
    pub(crate) value: Option<&'w [u8]>,
    /// When the value expires; where absent, the keyspace's TTL decides.
    pub(crate) expires_at_ms: Option<u64>,
}

impl WriteBatch {
    /// An empty batch.
    pub fn new() -> Self {
        WriteBatch::default()
    }

    /// Gives the key this value.
    pub fn put(&mut self, keyspace: &Keyspace, key: &[u8], value: &[u8]) -> &mut Self {
        self.push(keyspace, key, Some(value), None)
    }

    /// Gives the key this value until a point in time of the keyspace's TTL clock (event time where it has none), in milliseconds.
    pub fn put_expiring(&mut self, keyspace: &Keyspace, key: &[u8], value: &[u8], expires_at_ms: u64) -> &mut Self {
        self.push(keyspace, key, Some(value), Some(expires_at_ms))
    }

    /// Makes the key absent.
    pub fn delete(&mut self, keyspace: &Keyspace, key: &[u8]) -> &mut Self {
        self.push(keyspace, key, None, None)
    }

    /// How many writes it holds.
    pub fn len(&self) -> usize {
        self.operations.len()
    }

    /// Whether it holds no write.
    pub fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }

    /// Empties it; its memory stays for the next use.
    pub fn clear(&mut self) {
        self.operations.clear();
        self.bytes.clear();
    }

    fn push(&mut self, keyspace: &Keyspace, key: &[u8], value: Option<&[u8]>, expires_at_ms: Option<u64>) -> &mut Self {
        let key = self.store(key);
        let value = value.map(|value| self.store(value));
        self.operations.push(Operation { keyspace: keyspace.clone(), key, value, expires_at_ms });
        self
    }

    fn store(&mut self, bytes: &[u8]) -> Range<usize> {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        start..self.bytes.len()
    }

    /// The first write, and the others.
    pub(crate) fn split(&self) -> (WriteBatch, WriteBatch) {
        let (mut first, mut rest) = (self.clone(), self.clone());
        first.operations.truncate(1);
        rest.operations.drain(..1);
        (first, rest)
    }

    pub(crate) fn writes(&self) -> impl ExactSizeIterator<Item = Write<'_>> + Clone {
        self.operations.iter().map(|operation| Write {
            keyspace: &operation.keyspace,
            key: &self.bytes[operation.key.clone()],
            value: operation.value.clone().map(|range| &self.bytes[range]),
            expires_at_ms: operation.expires_at_ms,
        })
    }
}
