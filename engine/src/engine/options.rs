//! What a user sets, and its validation. Options are checked once, at open; everything behind that can rely on them.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use siltstone_io::{Backend, DeviceKind, DeviceRequest, IoBudget, OpenMode, SharedDevice, SimClock, SimDisk};

use crate::error::{Error, Result};

/// Largest user key in bytes.
pub const KEY_BYTES_MAX: usize = 32 * 1024;
/// Largest value in bytes.
pub const VALUE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Most shards that a volume can have.
pub const SHARDS_MAX: usize = 256;
/// The name of the volume's file where a directory is given.
pub const VOLUME_FILE_NAME: &str = "siltstone.vol";

/// When a write is acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// When it is on stable storage (the default). Writes of one turn of the shard's loop share one device write and flush.
    Sync,
    /// At once; it is on stable storage after at most this time, and the time that two writes of the log take: that which is under way, and its
    /// own. Where it cannot be written later writes are refused, and [`Engine::close`](crate::Engine::close) says so.
    Interval(Duration),
    /// At once, and without a log: after a crash the state is that of the last complete checkpoint, from which the source replays.
    Checkpoint,
}

/// Which state an opening lands on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Restore {
    /// Everything that was durable (with [`Durability::Checkpoint`]: the last complete checkpoint).
    Latest,
    /// The last complete checkpoint; an empty state where there is none.
    LastCheckpoint,
    /// The checkpoint of this name (the newest of that name). Newer writes are gone. Newer checkpoints stay, and `LastCheckpoint` still means
    /// the newest: drop those that are not wanted any more.
    Checkpoint(String),
}

/// The part of a key that decides its shard: all keys with one partition part live together, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Partition {
    /// The whole key.
    WholeKey,
    /// The first bytes of the key (the whole key where it is shorter).
    Prefix(u16),
    /// The key starts with a length (u16, big-endian); that many bytes behind it are the partition part.
    LengthPrefixed,
    /// Everything after the first bytes of the key.
    After(u16),
}

impl Partition {
    /// The partition part of a key.
    pub fn part<'k>(&self, key: &'k [u8]) -> &'k [u8] {
        match *self {
            Partition::WholeKey => key,
            Partition::Prefix(bytes) => key.get(..usize::from(bytes)).unwrap_or(key),
            Partition::LengthPrefixed => match key.split_first_chunk::<2>() {
                Some((length, rest)) => rest.get(..usize::from(u16::from_be_bytes(*length))).unwrap_or(rest),
                None => key,
            },
            Partition::After(bytes) => key.get(usize::from(bytes)..).unwrap_or_default(),
        }
    }

    /// How many bytes of a key with this prefix are needed before its partition part is complete; `None` where a prefix never is enough.
    pub(crate) fn complete_in_prefix(&self, prefix: &[u8]) -> bool {
        match *self {
            Partition::WholeKey | Partition::After(_) => false,
            Partition::Prefix(bytes) => prefix.len() >= usize::from(bytes),
            Partition::LengthPrefixed => match prefix.split_first_chunk::<2>() {
                Some((length, rest)) => rest.len() >= usize::from(u16::from_be_bytes(*length)),
                None => false,
            },
        }
    }
}

/// Which clock a time to live follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TimeDomain {
    /// The operation's event time, or the shard's watermark where the operation has none.
    Event,
    /// The machine's wall clock.
    Processing,
}

/// How long an entry lives after it was last written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ttl {
    /// The time to live in milliseconds. An entry written at `t` is live before `t + duration_ms` and absent from then on.
    pub duration_ms: u64,
    /// The clock it follows.
    pub time: TimeDomain,
}

/// The options of one keyspace. They are stored in the volume when the keyspace is created.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyspaceOptions {
    pub(crate) partition: Partition,
    pub(crate) filter_bits_per_key: u32,
    pub(crate) ttl: Option<Ttl>,
}

impl Default for KeyspaceOptions {
    fn default() -> Self {
        KeyspaceOptions { partition: Partition::WholeKey, filter_bits_per_key: 10, ttl: None }
    }
}

impl KeyspaceOptions {
    /// Which part of a key decides its shard. Default: the whole key.
    #[must_use]
    pub fn partition(mut self, partition: Partition) -> Self {
        self.partition = partition;
        self
    }

    /// Bits of Bloom filter for each key, 0 for no filter, at most 32. Default 10: one absent key in a hundred costs a read.
    #[must_use]
    pub fn filter_bits_per_key(mut self, bits: u32) -> Self {
        self.filter_bits_per_key = bits;
        self
    }

    /// How long entries live after their last write. Default: for ever.
    #[must_use]
    pub fn ttl(mut self, ttl: Ttl) -> Self {
        self.ttl = Some(ttl);
        self
    }

    pub(crate) fn validate(&self, name: &str) -> Result<()> {
        if name.is_empty() || name.len() > 255 {
            return Err(Error::InvalidArgument(format!("a keyspace's name has 1 to 255 bytes, not {}", name.len())));
        }
        if self.filter_bits_per_key > 32 {
            return Err(Error::InvalidArgument(format!(
                "filter_bits_per_key of keyspace {name} is {}: 0 to 32 are allowed",
                self.filter_bits_per_key
            )));
        }
        if self.ttl.is_some_and(|ttl| ttl.duration_ms == 0) {
            return Err(Error::InvalidArgument(format!(
                "the TTL of keyspace {name} is zero: nothing could ever be read"
            )));
        }
        Ok(())
    }
}

/// How to open a volume. Every option has a default but the place.
///
/// ```
/// use siltstone::{Durability, KeyspaceOptions, Options};
/// let options = Options::at("/tmp/state").shards(2).memory(256 << 20).durability(Durability::Checkpoint)
///     .keyspace("counts", KeyspaceOptions::default());
/// # let _ = options;
/// ```
#[derive(Clone, Debug)]
pub struct Options {
    pub(crate) place: Place,
    pub(crate) device: DeviceRequest,
    pub(crate) shards: usize,
    pub(crate) memory_bytes: usize,
    pub(crate) durability: Durability,
    pub(crate) key_groups: u32,
    pub(crate) extent_bytes: usize,
    pub(crate) page_bytes: usize,
    pub(crate) memtable_bytes: Option<usize>,
    pub(crate) table_bytes: usize,
    pub(crate) keyspaces: Vec<(String, KeyspaceOptions)>,
    pub(crate) restore: Restore,
    pub(crate) checkpoints_retained: Option<usize>,
    pub(crate) capacity_bytes: u64,
    pub(crate) read_only: bool,
    pub(crate) create: bool,
    pub(crate) spin_us: u32,
    pub(crate) pin_cpus: bool,
    pub(crate) io_budget: Option<IoBudget>,
    #[cfg(feature = "testing")]
    pub(crate) recorder: Option<siltstone_io::testing::Recorder>,
    #[cfg(feature = "testing")]
    pub(crate) cache_frames_max: usize,
}

#[derive(Clone)]
pub(crate) enum Place {
    Path(PathBuf),
    Simulated(SimDisk, SimClock),
}

impl Options {
    /// A volume in this file or device, or in the file `siltstone.vol` of this directory. A path that does not exist is made a directory.
    ///
    /// How a device is driven is chosen when it is opened, and said in the log: a block device through the block layer, an NVMe character
    /// device (`/dev/ng0n1`) past it, where that works. See [`device_kind`](Options::device_kind).
    pub fn at(path: impl AsRef<Path>) -> Options {
        Options::new(Place::Path(path.as_ref().to_path_buf()))
    }

    /// A volume on a simulated disk, in virtual time.
    pub fn simulated(disk: SimDisk, clock: SimClock) -> Options {
        Options::new(Place::Simulated(disk, clock))
    }

    fn new(place: Place) -> Options {
        Options {
            place,
            device: DeviceRequest::default(),
            shards: 1,
            memory_bytes: 256 << 20,
            durability: Durability::Sync,
            key_groups: 1024,
            extent_bytes: 1 << 20,
            page_bytes: 4096,
            memtable_bytes: None,
            table_bytes: 32 << 20,
            keyspaces: Vec::new(),
            restore: Restore::Latest,
            checkpoints_retained: None,
            capacity_bytes: 1 << 40,
            read_only: false,
            create: true,
            spin_us: 20,
            pin_cpus: false,
            io_budget: None,
            #[cfg(feature = "testing")]
            recorder: None,
            #[cfg(feature = "testing")]
            cache_frames_max: usize::MAX,
        }
    }

    /// Drives the path as this kind of device, and as no other: what is missing is an error. `/dev/nvme0n1` as
    /// [`DeviceKind::NvmePassthrough`] is its namespace past the block layer. Default: the best that works.
    #[must_use]
    pub fn device_kind(mut self, kind: DeviceKind) -> Self {
        self.device.kind = Some(kind);
        self
    }

    /// Whether completions are polled for instead of waited for: less latency, and a core that is busy as long as anything is in flight. The device
    /// must have queues for it (`nvme.poll_queues`), else it is an error. Default false.
    #[must_use]
    pub fn polled(mut self, polled: bool) -> Self {
        self.device.polled = polled;
        self
    }

    /// Opens the path, which is there or may be created.
    pub(crate) fn open_path(&self, mode: OpenMode) -> Result<SharedDevice> {
        Ok(SharedDevice::open_with(&self.place.path(), mode, self.device)?)
    }

    /// How many shards (threads) serve the volume, 1 to 256 and at most as many as there are key groups. May differ from opening to opening. Default 1.
    #[must_use]
    pub fn shards(mut self, shards: usize) -> Self {
        self.shards = shards;
        self
    }

    /// The memory that all shards together may use, in bytes: memtables, cache, filters, indexes and I/O buffers. Default 256 MiB; at least 4 MiB for each shard.
    #[must_use]
    pub fn memory(mut self, bytes: usize) -> Self {
        self.memory_bytes = bytes;
        self
    }

    /// When a write is acknowledged. Default [`Durability::Sync`].
    #[must_use]
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// The number of key groups, 1 to 32,768, fixed when the volume is created: the most shards it can ever have. Default 1024.
    #[must_use]
    pub fn key_groups(mut self, key_groups: u32) -> Self {
        self.key_groups = key_groups;
        self
    }

    /// The unit of space on the device, a power of two from 64 KiB to 16 MiB, fixed when the volume is created. Default 1 MiB.
    #[must_use]
    pub fn extent_bytes(mut self, bytes: usize) -> Self {
        self.extent_bytes = bytes;
        self
    }

    /// The size of a block, a power of two from 4 KiB to 64 KiB, fixed when the volume is created. Default 4 KiB.
    #[must_use]
    pub fn page_bytes(mut self, bytes: usize) -> Self {
        self.page_bytes = bytes;
        self
    }

    /// The size at which one shard's memtable is written out, in bytes. Default: an eighth of the shard's memory.
    #[must_use]
    pub fn memtable_bytes(mut self, bytes: usize) -> Self {
        self.memtable_bytes = Some(bytes);
        self
    }

    /// The size of an SST that compaction writes, in bytes: 8 pages to 1 GiB. Default 32 MiB.
    #[must_use]
    pub fn table_bytes(mut self, bytes: usize) -> Self {
        self.table_bytes = bytes;
        self
    }

    /// A keyspace that the opening creates where it is missing. One that exists keeps its partition; its filter bits and TTL are those given here, for this opening.
    #[must_use]
    pub fn keyspace(mut self, name: impl Into<String>, options: KeyspaceOptions) -> Self {
        self.keyspaces.push((name.into(), options));
        self
    }

    /// Which state the opening lands on. Default [`Restore::Latest`].
    #[must_use]
    pub fn restore(mut self, restore: Restore) -> Self {
        self.restore = restore;
        self
    }

    /// How many checkpoints are kept: when one more is complete, the oldest is dropped. Default: all, until dropped by name.
    #[must_use]
    pub fn checkpoints_retained(mut self, count: usize) -> Self {
        self.checkpoints_retained = Some(count);
        self
    }

    /// The size to which the volume's file may grow, in bytes: at most 2^28 extents, and at most the size that it was formatted with. A block device has its size. Default 1 TiB.
    #[must_use]
    pub fn capacity(mut self, bytes: u64) -> Self {
        self.capacity_bytes = bytes;
        self
    }

    /// Open for reading only: nothing is written, and a running engine's volume is refused. Default false.
    #[must_use]
    pub fn read_only(mut self, read_only: bool) -> Self {
        self.read_only = read_only;
        self
    }

    /// Whether a volume that does not exist is created. Default true.
    #[must_use]
    pub fn create(mut self, create: bool) -> Self {
        self.create = create;
        self
    }

    /// How long a shard's thread spins before it sleeps while I/O is in flight, in microseconds. Default 20.
    #[must_use]
    pub fn spin_us(mut self, spin_us: u32) -> Self {
        self.spin_us = spin_us;
        self
    }

    /// Whether the threads of [`Engine::open`](crate::Engine::open) are each bound to a CPU. Default false.
    #[must_use]
    pub fn pin_cpus(mut self, pin: bool) -> Self {
        self.pin_cpus = pin;
        self
    }

    /// How much I/O of flush, compaction and checkpoint each shard may have with the device at once: less makes reads wait for less, more moves
    /// more. Default: what [`probe`](crate::probe()) has measured of the volume's device, or [`IoBudget::default`] where nothing was measured,
    /// [divided](IoBudget::divided) by the shards.
    #[must_use]
    pub fn io_budget(mut self, budget: IoBudget) -> Self {
        self.io_budget = Some(budget);
        self
    }

    pub(crate) fn validate(&self) -> Result<()> {
        let invalid = |text: String| Err(Error::InvalidArgument(text));
        if self.shards == 0 || self.shards > SHARDS_MAX {
            return invalid(format!("shards is {}: 1 to {SHARDS_MAX} are allowed", self.shards));
        }
        if self.key_groups == 0 || self.key_groups > 32_768 {
            return invalid(format!("key_groups is {}: 1 to 32768 are allowed", self.key_groups));
        }
        if !self.extent_bytes.is_power_of_two() || !(64 << 10..=16 << 20).contains(&self.extent_bytes) {
            return invalid(format!(
                "extent_bytes is {}: a power of two from 65536 (64 KiB) to 16777216 (16 MiB) is needed",
                self.extent_bytes
            ));
        }
        if !self.page_bytes.is_power_of_two() || !(4096..=64 << 10).contains(&self.page_bytes) {
            return invalid(format!(
                "page_bytes is {}: a power of two from 4096 to 65536 (64 KiB) is needed",
                self.page_bytes
            ));
        }
        if self.extent_bytes < 8 * self.page_bytes {
            return invalid(format!(
                "extent_bytes is {}: at least 8 pages of {} are needed",
                self.extent_bytes, self.page_bytes
            ));
        }
        if self.memory_bytes / self.shards < 4 << 20 {
            return invalid(format!(
                "memory is {} bytes for {} shards: at least 4194304 (4 MiB) for each shard are needed",
                self.memory_bytes, self.shards
            ));
        }
        if let Some(bytes) = self.memtable_bytes
            && (bytes < 16 << 10 || bytes > self.memory_bytes / self.shards / 4)
        {
            return invalid(format!(
                "memtable_bytes is {bytes}: 16384 (16 KiB) to a quarter of a shard's memory ({}) are allowed",
                self.memory_bytes / self.shards / 4
            ));
        }
        // Four pages are index, filter, directory and footer: with not much more, each SST would hold a handful of entries.
        if self.table_bytes < self.page_bytes * 8 || self.table_bytes > 1 << 30 {
            return invalid(format!(
                "table_bytes is {}: 8 pages ({}) to 1 GiB are allowed",
                self.table_bytes,
                self.page_bytes * 8
            ));
        }
        if self.checkpoints_retained == Some(0) {
            return invalid("checkpoints_retained is 0: at least the last one must be kept".into());
        }
        if self.capacity_bytes < 16 * self.extent_bytes as u64 {
            return invalid(format!(
                "capacity is {} bytes: at least 16 extents of {} are needed",
                self.capacity_bytes, self.extent_bytes
            ));
        }
        if let Durability::Interval(interval) = self.durability
            && (interval.is_zero() || interval > Duration::from_secs(3600))
        {
            return invalid(format!(
                "a durability interval of {interval:?}: more than zero and at most an hour is allowed"
            ));
        }
        let mut names: Vec<&str> = self.keyspaces.iter().map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return invalid(format!("keyspace {} is given twice", pair[0]));
        }
        self.keyspaces.iter().try_for_each(|(name, options)| options.validate(name))
    }

    /// One shard's memtable size.
    pub(crate) fn memtable_bytes_per_shard(&self) -> usize {
        self.memtable_bytes.unwrap_or((self.memory_bytes / self.shards / 8).max(64 << 10))
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.path(), f)
    }
}

impl Place {
    /// The file that holds the volume.
    pub(crate) fn path(&self) -> PathBuf {
        match self {
            Place::Path(path) if path.is_dir() => path.join(VOLUME_FILE_NAME),
            Place::Path(path) => path.clone(),
            Place::Simulated(..) => PathBuf::from("simulated"),
        }
    }

    /// What drives a volume in this place.
    pub(crate) fn backend(&self) -> Backend {
        match self {
            Place::Path(_) => Backend::Ring,
            Place::Simulated(_, clock) => Backend::Simulated(clock.clone()),
        }
    }
}
