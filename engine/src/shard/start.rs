//! Starting a shard: from what the volume's opening has found to a shard that serves.
//!
//! # Steps, and what a crash after each leaves
//!
//! 1. The logs that the manifest names are replayed into one memtable. Nothing is written.
//! 2. A new log is begun, and the manifest goes on in a new file of its own, which names both the old logs and the new one. A crash before
//!    the root page is durable: the old manifest holds; after: the old logs are replayed again, and the new one, empty or not, behind them.
//! 3. Old logs that have no entry for this shard are not named any more, and given up.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use siltstone_io::{Class, Handle, Placement};

use crate::cache::{CacheConfig, PageCache};
use crate::checkpoint::EpochGate;
use crate::engine::route::stored_group;
use crate::engine::{Durability, Keyspace, KeyspaceInfo, KeyspaceOptions};
use crate::error::{Error, Result};
use crate::log::{LogReader, LogWriter};
use crate::manifest::{FoundManifest, LAST_SEQ_MAX, Manifest, ManifestEdit, ManifestState, WalChain};
use crate::memtable::Memtable;
use crate::read::BlockReader;
use crate::shard::{KeyspaceState, LocalMutex, MemtableSlot, Memtables, Shard, ShardConfig, Views, WalWriter};
use crate::types::{Epoch, KeyspaceId, SeqNo, ShardId, SstId};
use crate::version::{Table, Version};
use crate::volume::{SharedExtents, SstFile, Volume, VolumeParts, WearCounters};
use crate::wal::decode_commit;

/// Buffers of large reads and writes, in bytes each.
const BUFFER_BYTES: usize = 256 << 10;

/// Everything a shard needs to start, found or decided by the opening of the volume; can be sent to the shard's thread.
pub(crate) struct ShardPlan {
    pub(crate) id: ShardId,
    pub(crate) groups: Range<u32>,
    pub(crate) config: ShardConfig,
    pub(crate) parts: VolumeParts,
    pub(crate) gate: Arc<EpochGate>,
    pub(crate) manifest: PlannedManifest,
    /// The files of all SSTs that the shard's manifest refers to, each retained for it.
    pub(crate) files: BTreeMap<SstId, Arc<SstFile>>,
    /// The extents of the logs that the shard replays.
    pub(crate) logs: Vec<Arc<SharedExtents>>,
    /// Checkpoints that are committed; parts of others are remains of a crash.
    pub(crate) committed: BTreeSet<u64>,
    /// All keyspaces of the volume. Those that the shard lacks are created.
    pub(crate) keyspaces: Vec<(KeyspaceId, String, KeyspaceOptions)>,
    pub(crate) epoch: Epoch,
    /// What the opening has cost the device, as far as this shard counts it.
    pub(crate) wear: WearCounters,
}

/// The shard's manifest.
pub(crate) enum PlannedManifest {
    /// To be continued.
    Found(FoundManifest),
    /// Only its state, for a read-only engine.
    ReadOnly(ManifestState),
}

/// Starts the shard and its background tasks.
pub(crate) async fn start(plan: ShardPlan, handle: Handle) -> Result<Rc<Shard>> {
    let device = handle.attach(plan.parts.device())?;
    let page_bytes = plan.parts.page_bytes() as usize;
    let memory = MemoryPlan::of(&plan.config, page_bytes);
    let buffers = handle.buffer_pool(BUFFER_BYTES, memory.buffers);
    let frames = handle.buffer_pool(page_bytes, memory.cache_frames);
    let cache = PageCache::new(
        CacheConfig {
            frames_max: memory.cache_frames,
            frame_bytes: page_bytes,
            large_bytes_max: memory.cache_frames * page_bytes / 4,
        },
        move || frames.take(),
    );
    let volume = Volume::new(plan.parts.clone(), device, handle.clone(), Some(buffers));
    let blocks = BlockReader::new(plan.id.0, volume.clone(), handle.clone(), cache);

    let (state, found) = match plan.manifest {
        PlannedManifest::Found(found) => (found.state.clone(), Some(found)),
        PlannedManifest::ReadOnly(state) => (state, None),
    };
    let wear_before = state.wear.plus(&plan.wear);
    let memtable = Memtable::new();
    let replay = replay(&volume, &state, &plan.groups, &memtable).await.map_err(|error| error.located(plan.id.0, 0))?;
    let next_seq = SeqNo(state.last_seq.max(replay.last_seq).0 + 1);

    let mut log = None;
    let mut chains = replay.chains;
    let (mut manifest, mut replayed) = (None, Vec::new());
    if let Some(found) = found {
        if plan.config.durability != Durability::Checkpoint {
            let writer = LogWriter::create(volume.clone(), Placement::Wal).await?;
            chains.push(WalChain {
                head: writer.head(),
                end: None,
                groups: plan.groups.clone(),
                first_entry: next_seq,
            });
            log = Some(writer);
        }
        let writer = Manifest::resume(volume.clone(), found).await?;
        let mut edits = vec![
            ManifestEdit::WalFloor { chains: chains.clone() },
            ManifestEdit::LastSeq { seq: SeqNo(next_seq.0 - 1) },
            ManifestEdit::Epoch { epoch: plan.epoch },
            ManifestEdit::Wear { counters: wear_before.plus(&WearCounters::of(&handle.io_stats())) },
        ];
        let stale = state.parts.keys().filter(|id| !plan.committed.contains(id));
        edits.extend(stale.map(|&id| {
            mark!(UncommittedPartDropped);
            ManifestEdit::CheckpointDrop { id }
        }));
        let missing = plan.keyspaces.iter().filter(|(id, ..)| !state.keyspaces.contains_key(id));
        for (id, name, options) in missing {
            mark!(KeyspaceCreatedAtOpen);
            edits.push(ManifestEdit::KeyspaceCreate { id: *id, name: name.clone(), options: encode_options(options) });
        }
        for sst in writer.commit(edits).await? {
            if let Some(file) = plan.files.get(&sst) {
                file.release();
            }
        }
        // A log that has nothing for this shard is named no longer.
        for (chain, log) in state.wal.iter().zip(&plan.logs) {
            match chains.iter().any(|kept| kept.head == chain.head) {
                true => replayed.push(Arc::clone(log)),
                false => log.release(),
            }
        }
        manifest = Some(writer);
    }

    let slot = Rc::new(MemtableSlot {
        memtable: Rc::new(memtable),
        epoch: plan.epoch,
        wal: chains,
        checkpoint: Cell::new(None),
    });
    let shard = Rc::new(Shard {
        id: plan.id,
        groups: plan.groups.clone(),
        handle: handle.clone(),
        volume,
        blocks,
        gate: plan.gate,
        manifest: LocalMutex::new(manifest),
        found: if plan.config.read_only { state.clone() } else { ManifestState::default() },
        files: RefCell::default(),
        replayed: RefCell::new(replayed),
        memtables: Memtables::new(plan.epoch, next_seq, slot),
        views: Rc::new(Views::default()),
        wal: WalWriter::new(log),
        keyspaces: RefCell::default(),
        checkpoints: RefCell::default(),
        barrier: Cell::new(Epoch(plan.epoch.0 - 1)),
        scopes: Default::default(),
        newest_arrival: Cell::new(plan.epoch),
        barrier_watermark_ms: Cell::new(None),
        poison: RefCell::default(),
        out_of_space: Cell::new(false),
        pace_bytes: Cell::new(0),
        compaction_out_of_space: Cell::new(false),
        watermark_ms: Cell::new(None),
        closing: Cell::new(false),
        tasks: Cell::new(0),
        events: super::Events::default(),
        extensions: RefCell::default(),
        counters: super::stats::Counters::default(),
        wear_before,
        config: plan.config,
    });
    shard.build_versions(&state, &plan.files, &plan.keyspaces, &plan.committed)?;
    shard.update_level_0_count();
    shard.spawn_task(Class::Foreground, WalWriter::run(Rc::clone(&shard)));
    if !shard.config.read_only {
        shard.spawn_task(Class::Flush, Rc::clone(&shard).run_flush());
        shard.spawn_task(Class::Compaction, Rc::clone(&shard).run_compaction());
    }
    Ok(shard)
}

impl Shard {
    fn build_versions(
        &self,
        state: &ManifestState,
        files: &BTreeMap<SstId, Arc<SstFile>>,
        keyspaces: &[(KeyspaceId, String, KeyspaceOptions)],
        committed: &BTreeSet<u64>,
    ) -> Result<()> {
        for (id, name, options) in keyspaces {
            let mut tables = Vec::new();
            for place in state.keyspaces.get(id).iter().flat_map(|found| found.ssts.values()) {
                let file = files.get(&place.meta.id).expect("the opening gave the file of each SST");
                let table = Table::new(
                    Arc::clone(&place.meta),
                    Arc::clone(file),
                    place.groups.clone(),
                    self.blocks.page_bytes(),
                );
                tables.push((usize::from(place.level), table));
            }
            let version = Version::from_tables(tables).map_err(|error| error.located(self.id.0, 0))?;
            let info =
                KeyspaceInfo { id: *id, name: name.clone(), options: *options, key_groups: self.config.key_groups };
            self.add_keyspace(KeyspaceState::new(Keyspace::new(info), version));
        }
        let parts = state.parts.iter().filter(|(id, _)| committed.contains(id));
        let mut held: BTreeSet<SstId> =
            state.keyspaces.values().flat_map(|found| found.ssts.keys()).map(|key| key.0).collect();
        for (id, part) in parts {
            self.checkpoints.borrow_mut().insert(*id);
            held.extend(part.keyspaces.values().flat_map(|found| found.ssts.keys()).map(|key| key.0));
        }
        *self.files.borrow_mut() =
            files.iter().filter(|(id, _)| held.contains(id)).map(|(id, file)| (*id, Arc::clone(file))).collect();
        Ok(())
    }
}

struct Replay {
    /// The chains of which this shard has got entries, each with its end.
    chains: Vec<WalChain>,
    last_seq: SeqNo,
}

/// Reads the logs into a memtable. All of it goes into one: a straggler of an older epoch may stand behind entries of a newer one.
async fn replay(volume: &Volume, state: &ManifestState, groups: &Range<u32>, memtable: &Memtable) -> Result<Replay> {
    let mut replay = Replay { chains: Vec::new(), last_seq: SeqNo(0) };
    let mut entries = 0u64;
    for (index, chain) in state.wal.iter().enumerate() {
        if index + 1 < state.wal.len() && mutant!(ReplayForgetsOlderLogs) {
            continue;
        }
        let mut reader = LogReader::open(volume.clone(), chain.head, chain.end);
        let (mut commits, entries_before) = (0, entries);
        while let Some((_, payload)) = reader.next().await? {
            commits += 1;
            decode_commit(&payload, |operation| {
                replay.last_seq = replay.last_seq.max(operation.trailer.seq());
                let group = stored_group(operation.key).map_or(u32::MAX, |group| u32::from(group.0));
                let known = state.keyspaces.contains_key(&operation.keyspace);
                let written_out = operation.trailer.seq() < chain.first_entry;
                if known && written_out {
                    mark!(EntryBelowFloorSkipped);
                }
                if known && !written_out && groups.contains(&group) && chain.groups.contains(&group) {
                    entries += 1;
                    let value = [operation.value, &[]];
                    memtable.insert(operation.keyspace, operation.key, operation.trailer, value, SeqNo(0));
                }
            })?;
        }
        if commits == 0 {
            mark!(EmptyLogReplayed);
        } else if replay.last_seq > LAST_SEQ_MAX {
            let reason = format!("sequence number {} has no room behind it", replay.last_seq);
            return Err(Error::corruption("write-ahead log", reason));
        }
        if entries > entries_before {
            replay.chains.push(WalChain { end: Some(reader.end().seq - 1), ..chain.clone() });
        }
    }
    match replay.chains.len() {
        0 => {}
        1 => mark!(OneLogReplayed),
        _ => mark!(SeveralLogsReplayed),
    }
    if entries > 0 {
        tracing::info!(shard = state.shard.0, entries, "replayed the log");
    }
    Ok(replay)
}

/// How a shard's memory is divided.
struct MemoryPlan {
    cache_frames: usize,
    buffers: usize,
}

impl MemoryPlan {
    fn of(config: &ShardConfig, page_bytes: usize) -> Self {
        // Memtables: as many as there may be, and one that stragglers and overshoot fill.
        let memtables = (super::MEMTABLES_MAX + 1) * config.memtable_bytes;
        let buffers = (config.memory_bytes / 16 / BUFFER_BYTES).clamp(4, 64);
        // Directories of open SSTs, filters and index in the making, tasks.
        let metadata = config.memory_bytes / 16;
        let rest = config.memory_bytes.saturating_sub(memtables + buffers * BUFFER_BYTES + metadata);
        let cache_frames = rest / page_bytes;
        #[cfg(feature = "testing")]
        let cache_frames = cache_frames.min(config.cache_frames_max);
        MemoryPlan { cache_frames, buffers }
    }
}

/// The stored form of a keyspace's options.
pub(crate) fn encode_options(options: &KeyspaceOptions) -> Vec<u8> {
    postcard::to_stdvec(options).expect("options are plain data")
}

pub(crate) fn decode_options(name: &str, bytes: &[u8]) -> Result<KeyspaceOptions> {
    let damaged = |reason: String| Error::corruption("manifest", format!("options of keyspace {name}: {reason}"));
    let (options, rest) =
        postcard::take_from_bytes::<KeyspaceOptions>(bytes).map_err(|error| damaged(error.to_string()))?;
    if !rest.is_empty() {
        return Err(damaged(format!("{} bytes too many", rest.len())));
    }
    options.validate(name).map_err(|error| damaged(error.to_string()))?;
    Ok(options)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::engine::{Partition, TimeDomain, Ttl};

    fn any_options() -> impl Strategy<Value = KeyspaceOptions> {
        let partition = prop_oneof![
            Just(Partition::WholeKey),
            any::<u16>().prop_map(Partition::Prefix),
            Just(Partition::LengthPrefixed),
            any::<u16>().prop_map(Partition::After),
        ];
        let time = prop_oneof![Just(TimeDomain::Event), Just(TimeDomain::Processing)];
        let ttl = prop::option::of((1u64.., time).prop_map(|(duration_ms, time)| Ttl { duration_ms, time }));
        (partition, 0u32..=32, ttl).prop_map(|(partition, filter_bits_per_key, ttl)| KeyspaceOptions {
            partition,
            filter_bits_per_key,
            ttl,
        })
    }

    proptest! {
        #[test]
        fn options_round_trip_and_damaged_ones_are_valid_or_corruption(options in any_options(), at: prop::sample::Index, bit in 0u8..8) {
            let mut bytes = encode_options(&options);
            prop_assert_eq!(decode_options("k", &bytes).unwrap(), options);
            prop_assert!(decode_options("k", &[&bytes[..], &[0]].concat()).unwrap_err().is_corruption());
            let at = at.index(bytes.len());
            prop_assert!(decode_options("k", &bytes[..at]).unwrap_err().is_corruption());
            bytes[at] ^= 1 << bit;
            match decode_options("k", &bytes) {
                Ok(options) => prop_assert!(options.validate("k").is_ok()),
                Err(error) => prop_assert!(error.is_corruption()),
            }
        }
    }
}
