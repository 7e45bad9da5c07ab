//! Iteration over all shards from any thread.
//!
//! Each shard runs the scan as an operator that sends its entries in chunks through a bounded channel, and waits while the reader is behind.

use std::collections::VecDeque;

use siltstone_io::mailbox;

use crate::engine::{EngineShared, Keyspace};
use crate::error::{Error, Result};
use crate::shard::ScanRange;

/// Entries in a chunk.
const CHUNK_ENTRIES: usize = 256;
/// Bytes after which a chunk is sent with fewer.
const CHUNK_BYTES: usize = 64 << 10;
/// Chunks that a shard is ahead of the reader.
const CHUNKS_AHEAD: usize = 2;

type Chunk = Result<Vec<(Vec<u8>, Vec<u8>)>>;

/// An iteration over the keys of all shards, in the order of (key group, key).
pub struct EngineScan {
    /// The shards that are not finished, in order.
    shards: VecDeque<mailbox::Receiver<Chunk>>,
    chunk: std::vec::IntoIter<(Vec<u8>, Vec<u8>)>,
}

impl EngineScan {
    pub(super) fn new(engine: &EngineShared, keyspace: &Keyspace, range: ScanRange) -> Self {
        let mut shards: Vec<usize> = match range.single_group(keyspace, engine.key_groups) {
            Some(group) => vec![engine.shard_of_group(group)],
            None => (0..engine.shards()).collect(),
        };
        if range.is_reverse() {
            shards.reverse();
        }
        let receivers = shards.into_iter().map(|shard| {
            let (sender, receiver) = mailbox::channel(CHUNKS_AHEAD);
            let (keyspace, range) = (keyspace.clone(), range.clone());
            // The reply is not needed: the channel tells of the end.
            drop(engine.send(shard, None, move |shard| async move {
                if let Err(error) = send_chunks(shard, keyspace, range, &sender).await {
                    let _ = sender.send(Err(error)).await;
                }
            }));
            receiver
        });
        EngineScan { shards: receivers.collect(), chunk: Vec::new().into_iter() }
    }

    /// The next key and value, or nothing at the end.
    pub async fn next(&mut self) -> Result<Option<(Vec<u8>, Vec<u8>)>> {
        loop {
            if let Some(entry) = self.chunk.next() {
                return Ok(Some(entry));
            }
            let Some(shard) = self.shards.front_mut() else { return Ok(None) };
            match shard.recv().await {
                Some(Ok(chunk)) if chunk.is_empty() => {
                    // The shard's last.
                    self.shards.pop_front();
                }
                Some(Ok(chunk)) => self.chunk = chunk.into_iter(),
                Some(Err(error)) => {
                    self.shards.clear();
                    return Err(error);
                }
                None => {
                    self.shards.clear();
                    return Err(Error::Closed);
                }
            }
        }
    }
}

async fn send_chunks(
    shard: crate::shard::LocalShard,
    keyspace: Keyspace,
    range: ScanRange,
    sender: &mailbox::Sender<Chunk>,
) -> Result<()> {
    let mut scan = shard.scan(&keyspace, range)?;
    // Its view holds: the operator need not keep its epoch open.
    drop(shard);
    let mut chunk = Vec::new();
    let mut bytes = 0;
    while let Some(entry) = scan.next().await? {
        bytes += entry.key.len() + entry.value.len();
        chunk.push((entry.key.to_vec(), entry.value.to_vec()));
        if (chunk.len() == CHUNK_ENTRIES || bytes >= CHUNK_BYTES)
            && sender.send(Ok(std::mem::take(&mut chunk))).await.is_err()
        {
            return Ok(());
        }
        if chunk.is_empty() {
            bytes = 0;
        }
    }
    if !chunk.is_empty() && sender.send(Ok(chunk)).await.is_err() {
        return Ok(());
    }
    let _ = sender.send(Ok(Vec::new())).await;
    Ok(())
}
