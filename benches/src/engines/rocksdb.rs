//! RocksDB, tuned as a careful operator engineer would.
//!
//! All memory is one budget: an LRU block cache of that size, to which the write buffer manager charges the memtables (3 write
//! buffers) and in which index and filter blocks live. Indexes and filters are partitioned, their top level and those of level 0
//! pinned; 10-bit filters; dynamic level sizes; 2 background jobs; no compression; no log. Block checksums are on (XXH3, the default).
//! Map-shaped keys get a prefix extractor, and scans an upper bound.

use std::path::Path;

use rocksdb::{
    BlockBasedIndexType, BlockBasedOptions, Cache, ColumnFamilyDescriptor, DB, DBCompressionType, DBPinnableSlice,
    DEFAULT_COLUMN_FAMILY_NAME, LogLevel, Options, ReadOptions, SliceTransform, WaitForCompactOptions, WriteBatch,
    WriteBufferManager, WriteOptions,
};

use crate::Result;
use crate::engines::{Drive, Engine, EngineConfig, threads, unsupported};
use crate::measure::{Recorder, now};
use crate::workload::{Gets, KeyShape, Load, Rmw, Scans};

/// How it reaches the device.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Io {
    /// O_DIRECT for reads, flush and compaction.
    Direct,
    /// Through the page cache.
    Buffered,
}

/// What MultiGet returns for each key.
type Pinned<'a> = std::result::Result<Option<DBPinnableSlice<'a>>, rocksdb::Error>;

pub(crate) struct RocksDb {
    db: DB,
}

impl RocksDb {
    pub(crate) fn open(dir: &Path, config: &EngineConfig, io: Io) -> Result<Self> {
        let options = options(config, io);
        // Named, so that there is a handle of it: batched MultiGet asks for one.
        let default = ColumnFamilyDescriptor::new(DEFAULT_COLUMN_FAMILY_NAME, options.clone());
        Ok(RocksDb { db: DB::open_cf_descriptors(&options, dir, [default])? })
    }
}

fn options(config: &EngineConfig, io: Io) -> Options {
    const WRITE_BUFFERS: usize = 3;
    let write_buffer_bytes = config.write_buffer_bytes() as usize;
    let cache = Cache::new_lru_cache(config.memory_bytes as usize);

    let mut table = BlockBasedOptions::default();
    table.set_block_cache(&cache);
    table.set_block_size(4096);
    table.set_metadata_block_size(4096);
    table.set_bloom_filter(10.0, false);
    table.set_index_type(BlockBasedIndexType::TwoLevelIndexSearch);
    table.set_partition_filters(true);
    table.set_cache_index_and_filter_blocks(true);
    table.set_cache_index_and_filter_blocks_with_high_priority(true);
    table.set_pin_top_level_index_and_filter(true);
    table.set_pin_l0_filter_and_index_blocks_in_cache(true);
    table.set_format_version(6);

    let mut options = Options::default();
    options.create_if_missing(true);
    options.set_block_based_table_factory(&table);
    options.set_compression_type(DBCompressionType::None);
    options.set_write_buffer_size(write_buffer_bytes);
    options.set_max_write_buffer_number(WRITE_BUFFERS as i32);
    options.set_write_buffer_manager(&WriteBufferManager::new_write_buffer_manager_with_cache(
        WRITE_BUFFERS * write_buffer_bytes,
        false,
        cache,
    ));
    options.set_level_compaction_dynamic_level_bytes(true);
    options.set_max_background_jobs(2);
    options.set_log_level(LogLevel::Warn);
    options.set_stats_dump_period_sec(0);
    options.set_stats_persist_period_sec(0);
    if config.key_shape == KeyShape::Map {
        options.set_prefix_extractor(SliceTransform::create_fixed_prefix(8));
    }
    match io {
        Io::Direct => {
            options.set_use_direct_reads(true);
            options.set_use_direct_io_for_flush_and_compaction(true);
        }
        Io::Buffered => options.set_bytes_per_sync(1 << 20),
    }
    options
}

fn write_options() -> WriteOptions {
    let mut options = WriteOptions::default();
    options.disable_wal(true);
    options
}

/// The batched MultiGet: reads the blocks that it needs of one SST at once.
fn multi_get<'a, K: AsRef<[u8]>>(db: &'a DB, keys: &[K], read: &ReadOptions) -> Vec<Pinned<'a>> {
    let default = db.cf_handle(DEFAULT_COLUMN_FAMILY_NAME).expect("it was opened by name");
    db.batched_multi_get_cf_opt(&default, keys, false, read)
}

fn batch_read_options() -> ReadOptions {
    let mut options = ReadOptions::default();
    options.set_async_io(true);
    options
}

impl Engine for RocksDb {
    fn load(&mut self, load: &Load, recorder: &mut Recorder) -> Result<()> {
        let (write, mut value) = (write_options(), Vec::new());
        for index in load.indexes() {
            let key = load.space.key(index);
            load.values.fill(index, 0, &mut value);
            let start = now();
            self.db.put_opt(key, &value, &write)?;
            recorder.record(start);
        }
        Ok(())
    }

    fn settle(&mut self) -> Result<()> {
        self.db.flush()?;
        Ok(self.db.wait_for_compact(&WaitForCompactOptions::default())?)
    }

    fn get(&mut self, gets: &Gets, drive: Drive, recorder: &mut Recorder) -> Result<()> {
        let db = &self.db;
        match drive {
            Drive::Blocking | Drive::Threads(_) => threads::run(gets.picks(), recorder, |picks, recorder| {
                let read = ReadOptions::default();
                for &index in picks {
                    let (key, start) = (gets.space.key(index), now());
                    let value = db.get_pinned_opt(key, &read)?;
                    gets.check(index, value.as_deref())?;
                    recorder.record(start);
                }
                Ok(())
            }),
            Drive::Batch(depth) => threads::run(gets.picks(), recorder, |picks, recorder| {
                let read = batch_read_options();
                let mut keys = Vec::with_capacity(depth);
                for batch in picks.chunks(depth) {
                    keys.clear();
                    keys.extend(batch.iter().map(|&index| gets.space.key(index)));
                    let start = now();
                    let values = multi_get(db, &keys, &read);
                    for (&index, value) in batch.iter().zip(values) {
                        gets.check(index, value?.as_deref())?;
                    }
                    recorder.record_many(start, batch.len() as u64);
                }
                Ok(())
            }),
            Drive::InFlight(_) => unsupported(drive),
        }
    }

    fn rmw(&mut self, rmw: &Rmw<'_>, drive: Drive, recorder: &mut Recorder) -> Result<()> {
        let db = &self.db;
        match drive {
            Drive::Blocking | Drive::Threads(_) => threads::run(rmw.picks(), recorder, |picks, recorder| {
                let (read, write, mut next) = (ReadOptions::default(), write_options(), Vec::new());
                for &index in picks {
                    let (key, start) = (rmw.space.key(index), now());
                    rmw.update(index, db.get_pinned_opt(key, &read)?.as_deref(), &mut next)?;
                    db.put_opt(key, &next, &write)?;
                    recorder.record(start);
                }
                Ok(())
            }),
            Drive::Batch(depth) => threads::run(rmw.picks(), recorder, |picks, recorder| {
                let mut batches = RmwBatches { db, rmw, read: batch_read_options(), write: write_options() };
                picks.chunks(depth).try_for_each(|batch| batches.run(batch, recorder))
            }),
            Drive::InFlight(_) => unsupported(drive),
        }
    }

    fn prefix_scan(&mut self, scans: &Scans, drive: Drive, recorder: &mut Recorder) -> Result<()> {
        let db = &self.db;
        match drive {
            Drive::Blocking | Drive::Threads(_) => threads::run(scans.picks(), recorder, |picks, recorder| {
                for &user in picks {
                    let prefix = scans.space.user(user);
                    let start = now();
                    let mut read = ReadOptions::default();
                    read.set_prefix_same_as_start(true);
                    if let Some(end) = u64::from_be_bytes(prefix).checked_add(1) {
                        read.set_iterate_upper_bound(end.to_be_bytes());
                    }
                    let mut check = scans.check(user);
                    let mut entries = db.raw_iterator_opt(read);
                    entries.seek(prefix);
                    while let Some((key, value)) = entries.item() {
                        check.entry(key, value)?;
                        entries.next();
                    }
                    entries.status()?;
                    check.end()?;
                    recorder.record(start);
                }
                Ok(())
            }),
            Drive::Batch(_) | Drive::InFlight(_) => unsupported(drive),
        }
    }

    fn close(self: Box<Self>) -> Result<()> {
        // Without a log, what is in the memtables is lost unless it is flushed.
        self.db.flush()?;
        self.db.cancel_all_background_work(true);
        Ok(())
    }
}

/// Read-modify-writes in batches: one MultiGet of the distinct keys, the updates in order, one write batch.
struct RmwBatches<'a> {
    db: &'a DB,
    rmw: &'a Rmw<'a>,
    read: ReadOptions,
    write: WriteOptions,
}

impl RmwBatches<'_> {
    fn run(&mut self, batch: &[u32], recorder: &mut Recorder) -> Result<()> {
        let start = now();
        let mut distinct: Vec<u32> = Vec::with_capacity(batch.len());
        for &index in batch {
            if !distinct.contains(&index) {
                distinct.push(index);
            }
        }
        let keys: Vec<_> = distinct.iter().map(|&index| self.rmw.space.key(index)).collect();
        let read = multi_get(self.db, &keys, &self.read);
        let mut next: Vec<Vec<u8>> = vec![Vec::new(); distinct.len()];
        let mut scratch = Vec::new();
        // The first update of each key is of what was read, the others are of the update before.
        for ((&index, value), next) in distinct.iter().zip(read).zip(&mut next) {
            self.rmw.update(index, value?.as_deref(), next)?;
            for _ in 1..batch.iter().filter(|&&other| other == index).count() {
                self.rmw.update(index, Some(next), &mut scratch)?;
                std::mem::swap(next, &mut scratch);
            }
        }
        let mut writes = WriteBatch::default();
        for (key, next) in keys.iter().zip(&next) {
            writes.put(key, next);
        }
        self.db.write_opt(writes, &self.write)?;
        recorder.record_many(start, batch.len() as u64);
        Ok(())
    }
}
