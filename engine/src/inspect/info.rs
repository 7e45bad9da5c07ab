//! What is in a volume.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use siltstone_io::Geometry;

use crate::checkpoint::CheckpointInfo;
use crate::engine::KeyspaceOptions;
use crate::inspect::View;
use crate::manifest::FoundManifest;
use crate::shard::decode_options;
use crate::types::{ExtentId, KeyspaceId, SstId};
use crate::version::LEVELS;
use crate::volume::{IoProfile, WearCounters};

/// What a volume consists of.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct VolumeInfo {
    /// The file or device.
    pub path: PathBuf,
    /// The volume's identity.
    pub uuid: [u8; 16],
    /// How often its superblock has been written.
    pub generation: u64,
    /// The size of a page in bytes.
    pub page_bytes: u32,
    /// The size of an extent in bytes.
    pub extent_bytes: u32,
    /// The number of key groups.
    pub key_groups: u32,
    /// The number of shards.
    pub shards: usize,
    /// The size of the file or device in bytes.
    pub device_bytes: u64,
    /// The bound of the space in use that the volume was formatted with; 0 where it has none.
    pub capacity_bytes: u64,
    /// What the device is and can do.
    pub geometry: Geometry,
    /// What a probe has measured of it; `None` where none was made.
    pub profile: Option<IoProfile>,
    /// What engines have written and discarded since the volume was made.
    pub wear: WearCounters,
    /// Bytes of extents that SSTs of the current state or of checkpoints hold.
    pub sst_extent_bytes: u64,
    /// Bytes of extents that manifests hold.
    pub metadata_bytes: u64,
    /// The newest epoch.
    pub epoch: u64,
    /// The checkpoints that exist, oldest first.
    pub checkpoints: Vec<CheckpointInfo>,
    /// The keyspaces of the current state.
    pub keyspaces: Vec<KeyspaceInfo>,
}

/// What a keyspace consists of. Entries in logs that have not been replayed are not counted.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct KeyspaceInfo {
    /// Its number.
    pub id: KeyspaceId,
    /// Its name.
    pub name: String,
    /// Its options, where they can be decoded.
    pub options: Option<KeyspaceOptions>,
    /// Its levels, from level 0.
    pub levels: Vec<LevelInfo>,
}

/// What a level consists of, over all shards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LevelInfo {
    /// SSTs (one that several shards share counts for each).
    pub tables: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Their entries, tombstones and hidden versions included.
    pub entries: u64,
    /// Their tombstones.
    pub tombstones: u64,
}

pub(super) fn collect(view: &View, manifests: &[FoundManifest]) -> VolumeInfo {
    let parts = view.volume.parts();
    let mut keyspaces: BTreeMap<KeyspaceId, KeyspaceInfo> = BTreeMap::new();
    for found in manifests {
        for (id, keyspace) in &found.state.keyspaces {
            let info = keyspaces.entry(*id).or_insert_with(|| KeyspaceInfo {
                id: *id,
                name: keyspace.name.clone(),
                options: decode_options(&keyspace.name, &keyspace.options).ok(),
                levels: vec![LevelInfo::default(); LEVELS],
            });
            for place in keyspace.ssts.values() {
                let Some(level) = info.levels.get_mut(usize::from(place.level)) else { continue };
                level.tables += 1;
                level.bytes += u64::from(place.meta.pages) * u64::from(parts.page_bytes());
                level.entries += place.meta.entries;
                level.tombstones += place.meta.tombstones;
            }
        }
    }
    let ssts: BTreeMap<SstId, usize> =
        manifests.iter().flat_map(|found| found.state.ssts()).map(|(id, meta)| (id, meta.extents.len())).collect();
    let metadata: BTreeSet<ExtentId> = manifests.iter().flat_map(|found| found.extents().collect::<Vec<_>>()).collect();
    let extent_bytes = u64::from(parts.extent_bytes());
    let committed = manifests.first().map(|found| &found.state.committed);
    VolumeInfo {
        path: view.volume.device().path().to_path_buf(),
        uuid: *parts.id(),
        generation: view.superblock.generation,
        page_bytes: parts.page_bytes(),
        extent_bytes: parts.extent_bytes(),
        key_groups: view.superblock.key_groups,
        shards: manifests.len(),
        device_bytes: view.volume.device().len_bytes(),
        capacity_bytes: view.superblock.capacity_bytes,
        geometry: view.volume.device().geometry().clone(),
        profile: view.superblock.profile,
        wear: manifests.iter().fold(WearCounters::default(), |sum, found| sum.plus(&found.state.wear)),
        sst_extent_bytes: ssts.values().map(|&extents| extents as u64 * extent_bytes).sum(),
        metadata_bytes: (metadata.len() as u64 + 1) * extent_bytes,
        epoch: manifests.iter().map(|found| found.state.epoch.0).max().unwrap_or_default(),
        checkpoints: committed.into_iter().flatten().map(|(id, info)| CheckpointInfo::of(*id, info)).collect(),
        keyspaces: keyspaces.into_values().collect(),
    }
}
