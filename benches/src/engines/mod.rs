//! The engines under test: one trait, an adapter a file.
//!
//! An adapter owns its loop, because a blocking engine on threads and an asynchronous one with many operations in flight on one
//! core have none in common. What it is asked for, how values are checked, and how latency is recorded come from
//! [`workload`](crate::workload) and [`measure`](crate::measure), so that the work is the same for all.
//!
//! To add an engine: a variant of [`EngineKind`], an arm in [`open`], a module that implements [`Engine`].

#[cfg(feature = "fjall")]
mod fjall;
mod ring;
#[cfg(feature = "rocksdb")]
mod rocksdb;
mod siltstone;
#[cfg(any(feature = "rocksdb", feature = "fjall"))]
mod threads;

use std::fmt;
use std::path::Path;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::Result;
use crate::measure::Recorder;
use crate::workload::{Gets, KeyShape, Load, Rmw, Scans, Workload};

/// The engines that `--engines` names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum EngineKind {
    /// Siltstone: one shard on the thread of the benchmark.
    Siltstone,
    /// RocksDB with direct I/O.
    #[value(name = "rocksdb")]
    #[serde(rename = "rocksdb")]
    RocksDb,
    /// RocksDB through the page cache.
    #[value(name = "rocksdb-buffered")]
    #[serde(rename = "rocksdb-buffered")]
    RocksDbBuffered,
    /// fjall; it reads through the page cache.
    Fjall,
    /// Not an engine: random reads of as much data by a bare ring and by pread.
    Ring,
}

impl EngineKind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            EngineKind::Siltstone => "siltstone",
            EngineKind::RocksDb => "rocksdb",
            EngineKind::RocksDbBuffered => "rocksdb-buffered",
            EngineKind::Fjall => "fjall",
            EngineKind::Ring => "ring",
        }
    }

    /// Whether its reads go through the page cache, whose size only a memory cgroup bounds.
    pub(crate) fn uses_page_cache(self) -> bool {
        matches!(self, EngineKind::RocksDbBuffered | EngineKind::Fjall)
    }

    /// The ways in which it can have `depth` operations of a workload in flight. All of them are measured.
    pub(crate) fn drives(self, workload: Workload, depth: usize) -> Vec<Drive> {
        match (self, workload) {
            (EngineKind::Ring, Workload::GetCold) if depth == 1 => vec![Drive::Blocking, Drive::InFlight(1)],
            (EngineKind::Ring, Workload::GetCold) => vec![Drive::InFlight(depth)],
            (EngineKind::Ring, _) => vec![],
            (_, Workload::Load) => vec![Drive::Blocking],
            _ if depth == 1 => vec![Drive::Blocking],
            (EngineKind::Siltstone, _) => vec![Drive::InFlight(depth)],
            (EngineKind::RocksDb | EngineKind::RocksDbBuffered, Workload::Rmw | Workload::GetCold) => {
                vec![Drive::Batch(depth), Drive::Threads(depth)]
            }
            (EngineKind::RocksDb | EngineKind::RocksDbBuffered | EngineKind::Fjall, _) => vec![Drive::Threads(depth)],
        }
    }
}

/// How operations are put to an engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Drive {
    /// One at a time, by one thread.
    Blocking,
    /// As many in one call, by one thread. Each operation takes as long as its batch.
    Batch(usize),
    /// One at a time by each of as many threads, on all cores.
    Threads(usize),
    /// As many asynchronous operations at once, by one thread.
    InFlight(usize),
}

impl Drive {
    /// Operations in flight at once.
    pub(crate) fn depth(self) -> usize {
        match self {
            Drive::Blocking => 1,
            Drive::Batch(depth) | Drive::Threads(depth) | Drive::InFlight(depth) => depth,
        }
    }

    /// Into how many lists the operations are split.
    pub(crate) fn lists(self) -> usize {
        match self {
            Drive::Threads(threads) => threads,
            Drive::Blocking | Drive::Batch(_) | Drive::InFlight(_) => 1,
        }
    }
}

impl fmt::Display for Drive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Drive::Blocking => f.pad("blocking"),
            Drive::Batch(depth) => f.pad(&format!("batch {depth}")),
            Drive::Threads(depth) => f.pad(&format!("threads {depth}")),
            Drive::InFlight(depth) => f.pad(&format!("in flight {depth}")),
        }
    }
}

/// What all engines are configured with.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct EngineConfig {
    /// Write buffers and caches together.
    pub(crate) memory_bytes: u64,
    pub(crate) key_shape: KeyShape,
    pub(crate) keys: u32,
    pub(crate) key_bytes: usize,
    pub(crate) value_bytes: usize,
}

impl EngineConfig {
    /// User bytes in the whole data set.
    pub(crate) fn data_bytes(&self) -> u64 {
        u64::from(self.keys) * (self.key_bytes + self.value_bytes) as u64
    }

    /// The peers' write buffer: an eighth of the budget, at most 64 MiB. They have three.
    #[cfg(any(feature = "rocksdb", feature = "fjall"))]
    pub(crate) fn write_buffer_bytes(&self) -> u64 {
        (self.memory_bytes / 8).clamp(1 << 20, 64 << 20)
    }
}

/// An open engine. Every operation is recorded once; the checks of the runs are called on all that is read.
pub(crate) trait Engine {
    /// Puts every key once, without a log.
    fn load(&mut self, load: &Load, recorder: &mut Recorder) -> Result<()>;

    /// Flushes what is in memory and waits until no compaction is due.
    fn settle(&mut self) -> Result<()>;

    /// Gets.
    fn get(&mut self, gets: &Gets, drive: Drive, recorder: &mut Recorder) -> Result<()>;

    /// Read-modify-writes, those of one key in order.
    fn rmw(&mut self, rmw: &Rmw<'_>, drive: Drive, recorder: &mut Recorder) -> Result<()>;

    /// Scans of all entries of a user.
    fn prefix_scan(&mut self, scans: &Scans, drive: Drive, recorder: &mut Recorder) -> Result<()>;

    /// Closes cleanly: all that was written is there at the next open.
    fn close(self: Box<Self>) -> Result<()>;
}

/// Opens the store of an engine in a directory of its own, or creates it.
pub(crate) fn open(kind: EngineKind, dir: &Path, config: &EngineConfig) -> Result<Box<dyn Engine>> {
    match kind {
        EngineKind::Siltstone => Ok(Box::new(siltstone::Siltstone::open(dir, config)?)),
        #[cfg(feature = "rocksdb")]
        EngineKind::RocksDb => Ok(Box::new(rocksdb::RocksDb::open(dir, config, rocksdb::Io::Direct)?)),
        #[cfg(feature = "rocksdb")]
        EngineKind::RocksDbBuffered => Ok(Box::new(rocksdb::RocksDb::open(dir, config, rocksdb::Io::Buffered)?)),
        #[cfg(feature = "fjall")]
        EngineKind::Fjall => Ok(Box::new(fjall::Fjall::open(dir, config)?)),
        EngineKind::Ring => Ok(Box::new(ring::Ring::open(dir, config))),
        #[cfg(not(all(feature = "rocksdb", feature = "fjall")))]
        other => Err(format!("built without {0}: add `--features {0}`", other.feature()).into()),
    }
}

#[cfg(not(all(feature = "rocksdb", feature = "fjall")))]
impl EngineKind {
    fn feature(self) -> &'static str {
        if self == EngineKind::RocksDbBuffered { "rocksdb" } else { self.name() }
    }
}

/// The error of a drive that [`EngineKind::drives`] does not name.
fn unsupported<T>(drive: Drive) -> Result<T> {
    Err(format!("this engine cannot be driven {drive}").into())
}
