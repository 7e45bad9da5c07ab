//! Siltstone: an embedded storage engine for the state of latency-critical stream operators.

#![deny(unsafe_code)]
// The models leave out the tests that use some helpers.
#![cfg_attr(any(loom, shuttle), allow(dead_code))]

#[macro_use]
mod hooks;

mod cache;
mod checkpoint;
mod compaction;
mod engine;
mod error;
pub mod inspect;
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod internals;
mod log;
mod manifest;
mod memtable;
mod probe;
mod read;
mod shard;
pub mod state;
mod table;
#[cfg(feature = "testing")]
#[doc(hidden)]
pub mod testing;
mod types;
mod version;
mod volume;
mod wal;

pub use checkpoint::CheckpointInfo;
pub use engine::{
    Durability, Engine, EngineScan, KEY_BYTES_MAX, Keyspace, KeyspaceOptions, Options, Partition, Restore, SHARDS_MAX,
    ShardDriver, ShardSeed, TimeDomain, Ttl, VALUE_BYTES_MAX, VOLUME_FILE_NAME, format,
};
pub use error::{Corruption, Error, Result};
pub use probe::{Access, Measurement, ProbeOptions, ProbeReport, ProbeSubject, probe};
pub use read::ValueRef;
pub use shard::{Entry, LocalShard, Scan, ScanRange, ShardStats, Snapshot, WriteBatch};
pub use siltstone_io::{Budget, DeviceKind, Discard, Geometry, IoBudget, IoError, SimClock, SimDisk, SimOptions, Turn};
pub use types::{Epoch, KeyGroup, KeyspaceId, SeqNo, ShardId};
pub use volume::{IoProfile, WearCounters};

/// The README's example, so that it stays true.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
