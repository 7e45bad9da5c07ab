//! Opening a volume: what is on the device, which state to go on with, and a plan for each shard.
//!
//! # Steps, and what a crash after each leaves
//!
//! 1. Read the superblock and all manifests; mark every extent that they refer to. Nothing is written.
//! 2. Write the superblock with the next generation: identities given out from here on are new. Harmless by itself. Its
//!    flushes cover what an earlier process wrote and did not live to flush: recovery reads that from the device's cache, and promises it.
//! 3. Where a checkpoint is restored or the number of shards changes: write new manifests into new extents. Crash: they are
//!    unreferenced, the old ones hold.
//! 4. Write the superblock that names the new manifests. This is the switch. Then the old manifests' extents are freed, and those of SSTs and logs
//!    that only they referred to.
//!
//! A new volume is made in the same order; it exists when the superblock names its shards.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use siltstone_io::{
    Executor, ExecutorConfig, Handle, IoBudget, IoError, OpKind, OpenMode, Placement, SharedDevice, entropy,
};

use crate::checkpoint::{CheckpointInfo, EpochGate, by_name};
use crate::engine::options::{Durability, KeyspaceOptions, Options, Place, Restore};
use crate::engine::plan::{resharded, restored};
use crate::engine::route::groups_of_shard;
use crate::error::{Error, Result};
use crate::log::{LogPosition, read_chain};
use crate::manifest::{FoundManifest, Manifest, ManifestState};
use crate::shard::{PlannedManifest, ShardConfig, ShardPlan, decode_options};
use crate::types::{Epoch, ExtentId, KeyspaceId, ShardId, SstId};
use crate::volume::{
    Contents, IoProfile, SharedExtents, SstFile, SstRegistry, Superblock, Volume, VolumeParts, WearCounters, contents,
    holds, wipe, write_superblock,
};

/// Keyspaces with their numbers and names.
type Keyspaces = Vec<(KeyspaceId, String, KeyspaceOptions)>;

/// What an opening yields.
pub(crate) struct Opened {
    pub(crate) plans: Vec<ShardPlan>,
    pub(crate) gate: Arc<EpochGate>,
    pub(crate) keyspaces: Keyspaces,
    pub(crate) key_groups: u32,
    pub(crate) restored: Option<CheckpointInfo>,
    pub(crate) next_keyspace: KeyspaceId,
    /// Of each shard.
    pub(crate) io_budget: IoBudget,
}

/// Opens or creates the volume. Blocking; uses an executor of its own.
pub(crate) fn open_volume(options: &Options) -> Result<Opened> {
    options.validate()?;
    let device = recorded(options, open_device(options)?);
    let config = ExecutorConfig { name: "open".into(), ..ExecutorConfig::default() }.driving_device(&device);
    on_executor(config, &options.place, async |handle| open_on(options, device, handle).await)
}

/// Runs blocking work on an executor of its own. Its name says what the work is.
pub(crate) fn on_executor<T>(
    config: ExecutorConfig,
    place: &Place,
    work: impl AsyncFnOnce(Handle) -> Result<T>,
) -> Result<T> {
    let during = config.name.clone();
    let mut executor = Executor::new(config, place.backend())?;
    let handle = executor.handle();
    executor.try_block_on(work(handle)).unwrap_or_else(|| Err(power_lost(&during)))
}

/// A simulated disk has crashed: what was in flight never completes.
pub(crate) fn power_lost(during: &str) -> Error {
    let reason = format!("the simulated disk lost power during: {during}");
    IoError::other(OpKind::Open, "simulated", 0, 0, reason).into()
}

/// With a recorder, where tests gave one.
#[cfg(feature = "testing")]
fn recorded(options: &Options, device: SharedDevice) -> SharedDevice {
    match &options.recorder {
        Some(recorder) => device.recorded(recorder),
        None => device,
    }
}

/// Nothing records in a normal build.
#[cfg(not(feature = "testing"))]
fn recorded(_: &Options, device: SharedDevice) -> SharedDevice {
    device
}

fn open_device(options: &Options) -> Result<SharedDevice> {
    let given = match &options.place {
        Place::Path(given) => given,
        Place::Simulated(disk, _) => return Ok(SharedDevice::simulated(disk.clone())),
    };
    let path = options.place.path();
    if path.exists() {
        let mode = if options.read_only { OpenMode::ReadOnly } else { OpenMode::ReadWrite };
        return options.open_path(mode);
    }
    if options.read_only || !options.create {
        return Err(Error::NotFound(format!("there is no volume at {}", path.display())));
    }
    if given.starts_with("/dev") && !given.starts_with("/dev/shm") {
        return Err(Error::NotFound(format!("there is no device {}", given.display())));
    }
    // Before anything is created.
    check_shards(options.shards, options.key_groups)?;
    if given.is_dir() {
        return options.open_path(OpenMode::Create);
    }
    // A path that does not exist becomes a directory.
    std::fs::create_dir_all(given).map_err(|error| IoError::from_std(OpKind::Open, given, &error))?;
    options.open_path(OpenMode::Create)
}

async fn open_on(options: &Options, shared: SharedDevice, handle: Handle) -> Result<Opened> {
    let device = handle.attach(&shared)?;
    let found = match contents(&device).await? {
        Contents::Volume(superblock) if !superblock.roots.is_empty() => Some(superblock),
        Contents::Volume(_) | Contents::Blank if options.read_only || !options.create => {
            return Err(Error::NotAVolume {
                path: device.path().to_path_buf(),
                reason: "it is empty or its creation was cut short; open it for writing with Options::create".into(),
            });
        }
        Contents::Volume(_) => {
            mark!(CreationTakenUpAgain);
            None
        }
        Contents::Blank => None,
    };
    match found {
        Some(superblock) => Opening { options, shared, handle }.existing(superblock).await,
        None => Opening { options, shared, handle }.create(0).await,
    }
}

/// Makes an empty volume, whatever `options` says of opening, keyspaces and state. Blocking; uses an executor of its own.
///
/// `size_bytes` bounds the space it will ever use (0: only the device's end does); a file is given all of it now. With `force` what the device
/// holds is destroyed; without, a device that holds anything is refused.
///
/// # Errors
///
/// [`Error::NotAVolume`] says what it holds; [`Error::InvalidArgument`] for sizes out of range; I/O errors, among them `EBUSY` where it is in use. After an
/// error with `force` the device may hold nothing.
pub fn format(options: &Options, size_bytes: u64, force: bool) -> Result<()> {
    let options = options.clone().create(true).read_only(false).shards(1);
    options.validate()?;
    let shared = recorded(&options, open_device(&options)?);
    let config = ExecutorConfig { name: "format".into(), ..ExecutorConfig::default() }.driving_device(&shared);
    on_executor(config, &options.place, async |handle| {
        let device = handle.attach(&shared)?;
        let geometry = device.geometry();
        if geometry.fixed_size && size_bytes > geometry.size_bytes {
            return Err(Error::InvalidArgument(format!(
                "{} has {} bytes: a volume of {size_bytes} bytes does not fit",
                device.path().display(),
                geometry.size_bytes
            )));
        }
        // What cannot be made is told before anything is destroyed.
        VolumeParts::new(shared.clone(), &new_superblock(&options, size_bytes), options.capacity_bytes)?;
        if let Some(what) = holds(&device).await? {
            if !force {
                let reason = format!("it holds {what}, which `--force` would destroy");
                return Err(Error::NotAVolume { path: device.path().to_path_buf(), reason });
            }
            wipe(&device).await?;
        }
        let extents_bytes = size_bytes / options.extent_bytes as u64 * options.extent_bytes as u64;
        if extents_bytes > 0 {
            device.allocate(0, extents_bytes).await.map_err(no_space)?;
        }
        Opening { options: &options, shared: shared.clone(), handle }.create(size_bytes).await.map(drop)
    })
}

/// The superblock of a volume that is to be made.
fn new_superblock(options: &Options, size_bytes: u64) -> Superblock {
    Superblock {
        volume: entropy_of(&options.place),
        generation: 1,
        page_bytes: options.page_bytes as u32,
        extent_bytes: options.extent_bytes as u32,
        key_groups: options.key_groups,
        capacity_bytes: size_bytes,
        roots: Vec::new(),
        profile: None,
    }
}

struct Opening<'o> {
    options: &'o Options,
    shared: SharedDevice,
    handle: Handle,
}

/// The state of an existing volume before anything is changed.
pub(crate) struct Existing {
    manifests: Vec<FoundManifest>,
    /// Each log that some manifest names, and its extents.
    logs: BTreeMap<LogPosition, Vec<ExtentId>>,
}

impl Opening<'_> {
    /// Makes a volume on a blank device, with space up to `size_bytes` where that is not 0.
    async fn create(self, size_bytes: u64) -> Result<Opened> {
        let device = self.handle.attach(&self.shared)?;
        let mut superblock = new_superblock(self.options, size_bytes);
        check_shards(self.options.shards, superblock.key_groups)?;
        let parts = VolumeParts::new(self.shared.clone(), &superblock, self.options.capacity_bytes)?;
        let volume = Volume::new(parts.clone(), device.clone(), self.handle.clone(), None);
        device.allocate(0, u64::from(parts.extent_bytes())).await.map_err(no_space)?;
        write_superblock(&device, &superblock).await.map_err(|error| self.full(error))?;
        let states = (0..self.options.shards).map(|shard| ManifestState::new(ShardId(shard as u16))).collect();
        let roots = self.write_manifests(&volume, states).await.map_err(|error| self.full(error))?;
        superblock = superblock.next(roots);
        write_superblock(&device, &superblock).await.map_err(|error| self.full(error))?;
        let manifests = read_manifests(&volume, &superblock).await?;
        let existing = Existing { manifests, logs: BTreeMap::new() };
        self.plan(parts, superblock, existing, None)
    }

    async fn existing(self, superblock: Superblock) -> Result<Opened> {
        check_shards(self.options.shards, superblock.key_groups)?;
        let device = self.handle.attach(&self.shared)?;
        let mut superblock = superblock;
        if !self.options.read_only {
            superblock = superblock.next(superblock.roots.clone());
            if mutant!(GenerationNotRaised) {
                superblock.generation -= 1;
            }
        }
        let parts = VolumeParts::new(self.shared.clone(), &superblock, self.options.capacity_bytes)?;
        let volume = Volume::new(parts.clone(), device.clone(), self.handle.clone(), None);
        let manifests = read_manifests(&volume, &superblock).await?;
        let existing = mark_used(&volume, manifests).await?;
        let committed = &existing.manifests[0].state.committed;
        let target = match (&self.options.restore, self.options.durability) {
            (Restore::Checkpoint(name), _) => Some(Some(by_name(committed, name).ok_or_else(|| {
                let names: Vec<&str> = committed.values().map(|info| info.name.as_str()).collect();
                Error::NotFound(format!("the volume has no checkpoint {name:?}; it has {names:?}"))
            })?)),
            (Restore::LastCheckpoint, _) | (Restore::Latest, Durability::Checkpoint) => {
                Some(committed.keys().next_back().copied())
            }
            (Restore::Latest, _) => None,
        };
        match (&self.options.restore, target) {
            (Restore::Checkpoint(_), _) => mark!(RestoredNamedCheckpoint),
            (_, Some(Some(_))) => mark!(RestoredLastCheckpoint),
            (_, Some(None)) => mark!(RestoredNothing),
            (_, None) => {}
        }
        let info = target.flatten().map(|id| CheckpointInfo::of(id, &committed[&id]));
        let before: Vec<ManifestState> = existing.manifests.iter().map(|found| found.state.clone()).collect();
        let mut states = match target {
            Some(checkpoint) => restored(&before, checkpoint)?,
            None => before.clone(),
        };
        match states.len().cmp(&self.options.shards) {
            std::cmp::Ordering::Less => mark!(RescaledUp),
            std::cmp::Ordering::Equal => mark!(OpenedWithSameShards),
            std::cmp::Ordering::Greater => mark!(RescaledDown),
        }
        if states.len() != self.options.shards {
            states = resharded(&states, self.options.shards, superblock.key_groups);
        }
        if self.options.read_only {
            let manifests = states.into_iter().map(PlannedManifest::ReadOnly).collect();
            return self.plan_states(parts, superblock, manifests, existing.logs, info);
        }
        write_superblock(&device, &superblock).await?;
        if states == before {
            return self.plan(parts, superblock, existing, info);
        }
        let roots = self.write_manifests(&volume, states).await.map_err(|error| self.full(error))?;
        superblock = superblock.next(roots);
        write_superblock(&device, &superblock).await?;
        let manifests = read_manifests(&volume, &superblock).await?;
        let old_metadata = existing.manifests.iter().flat_map(|found| found.extents().collect::<Vec<_>>()).collect();
        volume.free_extents(old_metadata).await;
        // What only the old manifests referred to: free what no new one does.
        let ssts = |states: &mut dyn Iterator<Item = &ManifestState>| {
            states.flat_map(|state| state.sst_extents()).collect::<BTreeSet<ExtentId>>()
        };
        let old = ssts(&mut before.iter());
        let new = ssts(&mut manifests.iter().map(|found| &found.state));
        volume.free_extents(old.difference(&new).copied().collect()).await;
        let used: BTreeSet<LogPosition> =
            manifests.iter().flat_map(|found| found.state.wal.iter().map(|chain| chain.head)).collect();
        let (logs, unused): (BTreeMap<_, _>, BTreeMap<_, _>) =
            existing.logs.into_iter().partition(|(head, _)| used.contains(head));
        let kept: BTreeSet<ExtentId> = logs.values().flatten().copied().collect();
        let unused: BTreeSet<ExtentId> = unused.into_values().flatten().collect();
        volume.free_extents(unused.difference(&kept).copied().collect()).await;
        self.plan(parts, superblock, Existing { manifests, logs }, info)
    }

    async fn write_manifests(&self, volume: &Volume, states: Vec<ManifestState>) -> Result<Vec<ExtentId>> {
        let mut roots = Vec::new();
        for state in states {
            let root = volume.allocate_extent(Placement::Metadata).await?;
            Manifest::create(volume.clone(), root, state).await?;
            roots.push(root);
        }
        Ok(roots)
    }

    fn plan(
        &self,
        parts: VolumeParts,
        superblock: Superblock,
        existing: Existing,
        info: Option<CheckpointInfo>,
    ) -> Result<Opened> {
        let manifests = existing.manifests.into_iter().map(PlannedManifest::Found).collect();
        self.plan_states(parts, superblock, manifests, existing.logs, info)
    }

    fn plan_states(
        &self,
        parts: VolumeParts,
        superblock: Superblock,
        manifests: Vec<PlannedManifest>,
        logs: BTreeMap<LogPosition, Vec<ExtentId>>,
        restored: Option<CheckpointInfo>,
    ) -> Result<Opened> {
        let shards = manifests.len();
        let committed_infos = manifests[0].state().committed.clone();
        let committed: BTreeSet<u64> = committed_infos.keys().copied().collect();
        let (keyspaces, next_keyspace) = self.keyspaces(manifests.iter().map(PlannedManifest::state))?;
        let newest = manifests.iter().map(|manifest| manifest.state().epoch).max().unwrap_or_default();
        let epoch = Epoch(newest.0 + 1);
        let gate = EpochGate::new(epoch, shards);
        let config = self.shard_config(superblock.key_groups);
        let io_budget = self.io_budget(superblock.profile.as_ref(), shards);
        // What the opening itself has written counts for the first shard.
        let mut wear = WearCounters::of(&self.handle.io_stats());
        let mut registry = SstRegistry::new(parts.clone());
        let mut shared_logs: BTreeMap<LogPosition, Arc<SharedExtents>> = BTreeMap::new();
        let mut plans = Vec::new();
        for (shard, manifest) in manifests.into_iter().enumerate() {
            let mut files: BTreeMap<SstId, Arc<SstFile>> = BTreeMap::new();
            for (id, meta) in manifest.state().ssts() {
                files.insert(id, registry.open(id, meta.pages, &meta.extents)?);
            }
            let mut replayed = Vec::new();
            for chain in &manifest.state().wal {
                let log = shared_logs.entry(chain.head).or_insert_with(|| {
                    SharedExtents::new(parts.clone(), logs.get(&chain.head).cloned().unwrap_or_default())
                });
                log.retain();
                replayed.push(Arc::clone(log));
            }
            plans.push(ShardPlan {
                id: ShardId(shard as u16),
                groups: groups_of_shard(shard, shards, superblock.key_groups),
                config: config.clone(),
                parts: parts.clone(),
                gate: Arc::clone(&gate),
                manifest,
                files,
                logs: replayed,
                committed: committed.clone(),
                keyspaces: keyspaces.clone(),
                epoch,
                wear: std::mem::take(&mut wear),
            });
        }
        let key_groups = superblock.key_groups;
        Ok(Opened { plans, gate, keyspaces, key_groups, restored, next_keyspace, io_budget })
    }

    /// All keyspaces that some shard has, and those that the options ask for.
    fn keyspaces<'s>(&self, states: impl Iterator<Item = &'s ManifestState>) -> Result<(Keyspaces, KeyspaceId)> {
        let mut by_id: BTreeMap<KeyspaceId, (String, KeyspaceOptions)> = BTreeMap::new();
        let mut next = KeyspaceId(0);
        for state in states {
            next = next.max(state.next_keyspace);
            for (id, keyspace) in &state.keyspaces {
                let options = decode_options(&keyspace.name, &keyspace.options)?;
                by_id.entry(*id).or_insert_with(|| (keyspace.name.clone(), options));
            }
        }
        for (name, options) in &self.options.keyspaces {
            match by_id.values_mut().find(|(known, _)| known == name) {
                Some((_, known)) if known.partition != options.partition => {
                    return Err(Error::InvalidArgument(format!(
                        "keyspace {name} was created with {:?} and is opened with {:?}: the partition part of a keyspace cannot change",
                        known.partition, options.partition
                    )));
                }
                Some((_, known)) => *known = *options,
                None if self.options.read_only => {
                    return Err(Error::NotFound(format!("the volume has no keyspace {name}, and is opened read-only")));
                }
                None => {
                    by_id.insert(next, (name.clone(), *options));
                    next = KeyspaceId(next.0 + 1);
                }
            }
        }
        Ok((by_id.into_iter().map(|(id, (name, options))| (id, name, options)).collect(), next))
    }

    /// What each shard may have of the background in flight: what the options say, else what the device's profile does, else the default.
    fn io_budget(&self, profile: Option<&IoProfile>, shards: usize) -> IoBudget {
        let (budget, why) = match (self.options.io_budget, profile) {
            (Some(given), _) => (given, "the options say so"),
            (None, Some(profile)) => (profile.budget(shards), "a probe has measured the device"),
            (None, None) => {
                (IoBudget::default().divided(shards as u32), "the default: no probe has measured the device")
            }
        };
        let IoBudget { background_bytes_max, background_ops_max } = budget;
        tracing::info!(
            background_bytes_max,
            background_ops_max,
            shards,
            why,
            "the background's I/O budget of each shard"
        );
        budget
    }

    fn shard_config(&self, key_groups: u32) -> ShardConfig {
        ShardConfig {
            durability: self.options.durability,
            memory_bytes: self.options.memory_bytes / self.options.shards,
            memtable_bytes: self.options.memtable_bytes_per_shard(),
            table_bytes: self.options.table_bytes,
            key_groups,
            read_only: self.options.read_only,
            #[cfg(feature = "testing")]
            cache_frames_max: self.options.cache_frames_max,
        }
    }

    fn full(&self, error: Error) -> Error {
        match error {
            Error::Io(io) if io.is_no_space() => Error::NoSpace(io.to_string()),
            other => other,
        }
    }
}

/// Reads the manifests of all shards.
pub(crate) async fn read_manifests(volume: &Volume, superblock: &Superblock) -> Result<Vec<FoundManifest>> {
    let mut manifests = Vec::new();
    for (shard, root) in superblock.roots.iter().enumerate() {
        manifests.push(FoundManifest::read(volume, ShardId(shard as u16), *root).await?);
    }
    Ok(manifests)
}

/// Marks everything that the manifests refer to.
pub(crate) async fn mark_used(volume: &Volume, manifests: Vec<FoundManifest>) -> Result<Existing> {
    let parts = volume.parts();
    let mut ssts: BTreeMap<SstId, Vec<ExtentId>> = BTreeMap::new();
    let mut logs: BTreeMap<LogPosition, Vec<ExtentId>> = BTreeMap::new();
    let mut log_extents: BTreeSet<ExtentId> = BTreeSet::new();
    for found in &manifests {
        found.extents().try_for_each(|extent| parts.mark_used(extent))?;
        for (id, meta) in found.state.ssts() {
            if mutant!(CheckpointExtentsNotMarked) && !found.state.keeps_live(id) {
                continue;
            }
            let extents = ssts.entry(id).or_insert_with(|| meta.extents.clone());
            if *extents != meta.extents {
                return Err(Error::corruption("manifest", format!("two manifests disagree on where SST {id} is")));
            }
        }
        for chain in &found.state.wal {
            if let std::collections::btree_map::Entry::Vacant(entry) = logs.entry(chain.head) {
                let extents = read_chain(volume, chain.head, chain.end).await?;
                log_extents.extend(&extents);
                entry.insert(extents);
            }
        }
    }
    // Several shards may share an SST, and several positions a log.
    ssts.values().flatten().try_for_each(|&extent| parts.mark_used(extent))?;
    log_extents.iter().try_for_each(|&extent| parts.mark_used(extent))?;
    Ok(Existing { manifests, logs })
}

impl PlannedManifest {
    pub(crate) fn state(&self) -> &ManifestState {
        match self {
            PlannedManifest::Found(found) => &found.state,
            PlannedManifest::ReadOnly(state) => state,
        }
    }
}

fn check_shards(shards: usize, key_groups: u32) -> Result<()> {
    if shards as u32 > key_groups {
        let text = format!("shards is {shards}, but the volume has only {key_groups} key groups");
        return Err(Error::InvalidArgument(text));
    }
    Ok(())
}

fn no_space(error: siltstone_io::IoError) -> Error {
    if error.is_no_space() { Error::NoSpace(error.to_string()) } else { error.into() }
}

/// A volume's identity: random, but for simulated disks, where all must repeat.
#[expect(clippy::disallowed_methods, reason = "the one use of real randomness")]
fn entropy_of(place: &Place) -> [u8; 16] {
    match place {
        Place::Path(_) => entropy(),
        Place::Simulated(..) => *b"simulated volume",
    }
}
