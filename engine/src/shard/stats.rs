//! Counters of a shard.

use std::cell::Cell;

use crate::shard::Shard;

#[derive(Default)]
pub(super) struct Counters {
    pub(super) gets: Cell<u64>,
    pub(super) writes: Cell<u64>,
    pub(super) admission_waits: Cell<u64>,
    pub(super) bytes_flushed: Cell<u64>,
    pub(super) bytes_compacted: Cell<u64>,
    /// Tables in the fullest level 0.
    pub(super) level_0_tables_max: Cell<usize>,
}

/// What a shard has done since it was opened, and what it holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ShardStats {
    /// Point reads.
    pub gets: u64,
    /// Writes (puts and deletes).
    pub writes: u64,
    /// How often a write had to wait for flush or compaction.
    pub admission_waits: u64,
    /// Lookups of blocks in the cache that found them.
    pub cache_hits: u64,
    /// Lookups of blocks in the cache that did not.
    pub cache_misses: u64,
    /// Device reads of blocks.
    pub block_reads: u64,
    /// Bytes written to the log.
    pub wal_bytes: u64,
    /// Bytes of SSTs written by flush.
    pub flushed_bytes: u64,
    /// Bytes of SSTs written by compaction.
    pub compacted_bytes: u64,
    /// Bytes that the device was asked to write, all together.
    pub device_bytes_written: u64,
    /// Bytes that the device was asked to read, all together.
    pub device_bytes_read: u64,
    /// Bytes in memtables.
    pub memtable_bytes: u64,
    /// Bytes that the directories of open SSTs and the cache's tables take.
    pub metadata_bytes: u64,
    /// Bytes of SSTs in the current versions.
    pub sst_bytes: u64,
    /// SSTs in the current versions, by level.
    pub tables_by_level: Vec<u64>,
}

impl ShardStats {
    /// Adds another shard's.
    pub fn add(&mut self, other: &ShardStats) {
        self.gets += other.gets;
        self.writes += other.writes;
        self.admission_waits += other.admission_waits;
        self.cache_hits += other.cache_hits;
        self.cache_misses += other.cache_misses;
        self.block_reads += other.block_reads;
        self.wal_bytes += other.wal_bytes;
        self.flushed_bytes += other.flushed_bytes;
        self.compacted_bytes += other.compacted_bytes;
        self.device_bytes_written += other.device_bytes_written;
        self.device_bytes_read += other.device_bytes_read;
        self.memtable_bytes += other.memtable_bytes;
        self.metadata_bytes += other.metadata_bytes;
        self.sst_bytes += other.sst_bytes;
        self.tables_by_level.resize(self.tables_by_level.len().max(other.tables_by_level.len()), 0);
        self.tables_by_level.iter_mut().zip(&other.tables_by_level).for_each(|(sum, tables)| *sum += tables);
    }
}

impl Shard {
    pub(crate) fn stats(&self) -> ShardStats {
        let cache = self.blocks.cache().stats();
        let io = self.handle.io_stats();
        let mut stats = ShardStats {
            gets: self.counters.gets.get(),
            writes: self.counters.writes.get(),
            admission_waits: self.counters.admission_waits.get(),
            cache_hits: cache.hits.iter().sum(),
            cache_misses: cache.misses.iter().sum(),
            block_reads: self.blocks.reads(),
            wal_bytes: self.wal.bytes_written(),
            flushed_bytes: self.counters.bytes_flushed.get(),
            compacted_bytes: self.counters.bytes_compacted.get(),
            device_bytes_written: io.written_bytes,
            device_bytes_read: io.read_bytes,
            memtable_bytes: self.memtables.memory_bytes() as u64,
            metadata_bytes: self.blocks.cache().overhead_bytes() as u64,
            sst_bytes: 0,
            tables_by_level: vec![0; crate::version::LEVELS],
        };
        for state in self.all_keyspaces() {
            stats.metadata_bytes += state.version().memory_bytes() as u64;
            for (level, table) in state.version().tables() {
                stats.sst_bytes += table.bytes();
                stats.tables_by_level[level] += 1;
            }
        }
        stats
    }
}
