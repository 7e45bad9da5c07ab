//! Builds a data or index block: appends entries, knows exactly how long the block would be with one more.

use super::header::{BlockHeader, BlockType, HEADER_BYTES};
use crate::table::coding::{common_prefix, length_pair_bytes, put_length_pair, put_varint, trailer_code, varint_bytes};
use crate::types::Trailer;

/// A block in the making. The buffer is reused from block to block.
pub(in crate::table) struct BlockBuilder {
    /// Room for the header, then the entries.
    buf: Vec<u8>,
    restarts: Vec<u16>,
    entries: u32,
    restart_interval: usize,
    since_restart: usize,
    /// The last key pushed; kept over [`BlockBuilder::clear`], for the order check and for separators.
    last_key: Vec<u8>,
}

/// How the next entry will be stored.
pub(in crate::table) struct EntryPlan {
    /// Bytes that the key has in common with the last key, of this block or the one before.
    pub(in crate::table) common: usize,
    /// Length of the block, unpadded, with the entry in it.
    pub(in crate::table) block_bytes: usize,
    restart: bool,
}

impl BlockBuilder {
    pub(in crate::table) fn new(restart_interval: usize) -> Self {
        assert!(restart_interval > 0, "a block needs restart points");
        BlockBuilder {
            buf: vec![0; HEADER_BYTES],
            restarts: Vec::new(),
            entries: 0,
            restart_interval,
            since_restart: 0,
            last_key: Vec::new(),
        }
    }

    #[inline]
    pub(in crate::table) fn is_empty(&self) -> bool {
        self.entries == 0
    }

    #[inline]
    pub(in crate::table) fn last_key(&self) -> &[u8] {
        &self.last_key
    }

    /// Length of the block so far, unpadded.
    #[inline]
    pub(in crate::table) fn block_bytes(&self) -> usize {
        self.buf.len() + 2 * self.restarts.len()
    }

    /// Works out, without adding it, what an entry would cost.
    #[inline]
    pub(in crate::table) fn plan(&self, key: &[u8], trailer: Trailer, value_bytes: usize) -> EntryPlan {
        let common = common_prefix(&self.last_key, key);
        let restart = self.entries == 0 || self.since_restart == self.restart_interval;
        let shared = if restart { 0 } else { common };
        let suffix = key.len() - shared;
        let entry_bytes = length_pair_bytes(shared, suffix)
            + varint_bytes(value_bytes as u64)
            + varint_bytes(trailer_code(trailer))
            + suffix
            + value_bytes;
        let restart_bytes = if restart { 2 } else { 0 };
        EntryPlan { common, block_bytes: self.block_bytes() + entry_bytes + restart_bytes, restart }
    }

    /// Adds the entry for which `plan` was made, with nothing pushed or cleared in between.
    #[inline]
    pub(in crate::table) fn push(&mut self, plan: &EntryPlan, key: &[u8], trailer: Trailer, value: &[u8]) {
        let shared = if plan.restart { 0 } else { plan.common };
        if plan.restart {
            let offset = u16::try_from(self.buf.len() - HEADER_BYTES);
            self.restarts.push(offset.expect("only the first entry of a block may go beyond 64 KiB"));
            self.since_restart = 0;
        }
        self.since_restart += 1;
        self.entries += 1;
        put_length_pair(&mut self.buf, shared, key.len() - shared);
        self.buf.extend_from_slice(&key[shared..]);
        put_varint(&mut self.buf, value.len() as u64);
        put_varint(&mut self.buf, trailer_code(trailer));
        self.buf.extend_from_slice(value);
        self.last_key.truncate(plan.common);
        self.last_key.extend_from_slice(&key[plan.common..]);
        debug_assert_eq!(self.block_bytes(), plan.block_bytes);
    }

    /// Completes the block to whole pages, all but its checksum. [`BlockBuilder::clear`] comes next.
    pub(in crate::table) fn finish(&mut self, ty: BlockType, page_bytes: usize) -> &mut [u8] {
        assert!(!self.is_empty(), "a block has at least one entry");
        for restart in &self.restarts {
            self.buf.extend_from_slice(&restart.to_le_bytes());
        }
        let header = BlockHeader {
            ty,
            payload_bytes: (self.buf.len() - HEADER_BYTES) as u32,
            entries: self.entries,
            count: self.restarts.len() as u32,
        };
        self.buf.resize(self.buf.len().next_multiple_of(page_bytes), 0);
        header.write(&mut self.buf);
        &mut self.buf
    }

    /// Begins the next block.
    pub(in crate::table) fn clear(&mut self) {
        self.buf.truncate(HEADER_BYTES);
        self.restarts.clear();
        self.entries = 0;
        self.since_restart = 0;
    }
}
