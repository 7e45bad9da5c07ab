//! The engine and the model side by side.

use std::cell::RefCell;
use std::ops::{Bound, Range};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::Duration;

use siltstone::{
    CheckpointInfo, Durability, Engine, Keyspace, KeyspaceOptions, Options, Partition, Result, Snapshot, TimeDomain,
    Ttl,
};
use siltstone_io::Random;
use siltstone_io::testing::places::{Filesystem, LoopDevice, Mounted, ZramDevice};
use siltstone_tests::{Node, Simulation, keys};
use tempfile::TempDir;

use crate::expected::{Entries, Keys, Space, State, Wanted};

/// Where the volume lies, and who drives its shards.
pub(crate) enum Place {
    Simulated(Simulation),
    File(TempDir),
    Baton(TempDir),
    /// A file of a filesystem of its own.
    Mounted(Mounted, #[expect(dead_code, reason = "the image goes with it")] TempDir),
    Device(BlockDevice),
}

/// A blank block device, as long as it is kept.
pub(crate) enum BlockDevice {
    Loop(LoopDevice, #[expect(dead_code, reason = "the image goes with it")] TempDir),
    Zram(ZramDevice),
    Named(PathBuf),
}

impl BlockDevice {
    fn path(&self) -> &Path {
        match self {
            BlockDevice::Loop(device, _) => device.path(),
            BlockDevice::Zram(device) => device.path(),
            BlockDevice::Named(path) => path,
        }
    }
}

const DEVICE_BYTES: u64 = 256 << 20;

impl Place {
    pub(crate) fn simulated(seed: u64) -> Place {
        Place::Simulated(Simulation::new(seed))
    }

    pub(crate) fn file() -> Place {
        Place::File(tempfile::tempdir().expect("a temporary directory"))
    }

    pub(crate) fn baton() -> Place {
        Place::Baton(tempfile::tempdir().expect("a temporary directory"))
    }

    /// A file of such a filesystem on a loop device; or why there is none.
    pub(crate) fn mounted(filesystem: Filesystem) -> std::result::Result<Place, String> {
        let directory = tempfile::tempdir().expect("a temporary directory");
        Mounted::new(filesystem, directory.path()).map(|mounted| Place::Mounted(mounted, directory))
    }

    /// A loop device with logical blocks of this size; or why there is none.
    pub(crate) fn loop_device(block_bytes: u32) -> std::result::Result<Place, String> {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let device = LoopDevice::new(&directory.path().join("image"), DEVICE_BYTES, Some(block_bytes))?;
        Ok(Place::Device(BlockDevice::Loop(device, directory)))
    }

    /// A device in compressed memory; or why there is none.
    pub(crate) fn zram() -> std::result::Result<Place, String> {
        ZramDevice::new(DEVICE_BYTES).map(|device| Place::Device(BlockDevice::Zram(device)))
    }

    /// A device that is there, whatever is on it.
    pub(crate) fn named(path: PathBuf) -> Place {
        Place::Device(BlockDevice::Named(path))
    }

    /// What is on a device that was there before gives way to an empty volume, as these options have it.
    fn clear(&self, options: &Options) {
        if let Place::Device(BlockDevice::Named(_)) = self {
            siltstone::format(options, 0, true).expect("the device can be formatted");
        }
    }

    pub(crate) fn takes_operators(&self) -> bool {
        !matches!(self, Place::Baton(_))
    }

    pub(crate) fn options(&self) -> Options {
        match self {
            Place::Simulated(simulation) => simulation.options(),
            Place::File(directory) | Place::Baton(directory) => Options::at(directory.path()),
            Place::Mounted(mounted, _) => Options::at(mounted.path()),
            Place::Device(device) => Options::at(device.path()),
        }
    }

    pub(crate) fn open(&mut self, options: Options) -> Result<Node> {
        match self {
            Place::Simulated(simulation) => simulation.open(options),
            Place::File(_) | Place::Mounted(..) | Place::Device(_) => Engine::open(options).map(Node::real),
            Place::Baton(_) => Engine::open_under_baton(options).map(Node::real),
        }
    }
}

/// A checkpoint and the state that it holds.
#[derive(Clone)]
pub(crate) struct Saved {
    pub(crate) name: String,
    pub(crate) bytes: Vec<u8>,
    pub(crate) state: State,
    /// Keyspaces created while it was under way: they may be part of it, empty.
    pub(crate) created_meanwhile: State,
}

/// A snapshot of one shard, kept there, and the state that it should show.
pub(crate) struct Held {
    pub(crate) id: u64,
    /// A partition part of the shard.
    pub(crate) part: Vec<u8>,
    pub(crate) state: State,
}

/// Snapshots that a shard keeps for the test.
#[derive(Default)]
pub(crate) struct Snapshots(pub(crate) RefCell<Vec<(u64, Snapshot)>>);

pub(crate) type Pending = Pin<Box<dyn Future<Output = Result<CheckpointInfo>>>>;

pub(crate) struct World {
    pub(crate) place: Place,
    pub(crate) random: Random,
    pub(crate) node: Option<Node>,
    pub(crate) durability: Durability,
    pub(crate) retained: Option<usize>,
    pub(crate) key_groups: u32,
    pub(crate) state: State,
    /// Complete checkpoints, oldest first.
    pub(crate) checkpoints: Vec<Saved>,
    /// A checkpoint under way.
    pub(crate) pending: Option<(Saved, Pending)>,
    pub(crate) held: Vec<Held>,
    pub(crate) now_ms: u64,
    /// Numbers values, names, snapshots.
    pub(crate) counter: u64,
}

/// The keyspaces that exist from the beginning.
const SPACES: [(&str, Partition, u32, Option<u64>); 5] = [
    ("whole", Partition::WholeKey, 10, None),
    ("prefix", Partition::Prefix(2), 0, None),
    ("length", Partition::LengthPrefixed, 4, None),
    ("after", Partition::After(1), 10, None),
    ("ttl", Partition::WholeKey, 10, Some(700)),
];

impl World {
    pub(crate) fn create(seed: u64, place: Place) -> World {
        let mut random = Random::new(seed ^ 0x6d6f_6465_6c00);
        let key_groups = [4, 16, 64, 1024][random.below(4) as usize];
        let mut world = World {
            place,
            random,
            node: None,
            durability: Durability::Sync,
            retained: None,
            key_groups,
            state: State::new(),
            checkpoints: Vec::new(),
            pending: None,
            held: Vec::new(),
            now_ms: 0,
            counter: 0,
        };
        for (name, partition, _, ttl_ms) in SPACES {
            world.state.insert(name.into(), Space { partition, ttl_ms, cells: Default::default() });
        }
        world.durability = world.any_durability();
        let options = SPACES.iter().fold(world.options(), |options, (name, partition, bits, ttl_ms)| {
            options.keyspace(*name, space_options(*partition, *bits, *ttl_ms))
        });
        world.place.clear(&options);
        world.open(options);
        world
    }

    /// Options with the sizes of these tests.
    pub(crate) fn options(&mut self) -> Options {
        let shards = 1 + self.random.below(4) as usize;
        self.retained = self.random.chance(0.3).then(|| 1 + self.random.below(3) as usize);
        let options = self.place.options();
        let options = options
            .shards(shards)
            .key_groups(self.key_groups)
            .memory(shards * (4 << 20))
            .memtable_bytes(16 << 10)
            .extent_bytes(64 << 10)
            .page_bytes(4096)
            .table_bytes(32 << 10)
            .capacity(1 << 30)
            .durability(self.durability);
        match self.retained {
            Some(retained) => options.checkpoints_retained(retained),
            None => options,
        }
    }

    pub(crate) fn any_durability(&mut self) -> Durability {
        match self.random.below(5) {
            0..2 => Durability::Sync,
            2..4 => Durability::Interval(Duration::from_micros(1 + self.random.below(20_000))),
            _ => Durability::Checkpoint,
        }
    }

    pub(crate) fn open(&mut self, options: Options) {
        let node = self.place.open(options).unwrap_or_else(|error| panic!("the volume does not open: {error}"));
        self.node = Some(node);
        self.tell_time();
    }

    pub(crate) fn node(&self) -> &Node {
        self.node.as_ref().expect("the engine is open between steps")
    }

    pub(crate) fn engine(&self) -> &Engine {
        &self.node().engine
    }

    /// Runs an operation that must succeed.
    pub(crate) fn must<T>(&self, operation: impl Future<Output = Result<T>>) -> T {
        self.node().run(operation).unwrap_or_else(|error| panic!("an operation fails: {error}"))
    }

    /// Raises the watermark of all shards.
    pub(crate) fn tell_time(&mut self) {
        if self.place.takes_operators() {
            let now_ms = self.now_ms;
            self.must(self.engine().on_each_shard(move |shard| async move { shard.advance_watermark(now_ms) }));
        }
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.counter += 1;
        self.counter
    }

    /// A keyspace of the model and its handle.
    pub(crate) fn any_space(&mut self) -> (String, Keyspace) {
        let names: Vec<&String> = self.state.keys().collect();
        let name = names[self.random.below(names.len() as u64) as usize].clone();
        let keyspace = self.keyspace(&name);
        (name, keyspace)
    }

    pub(crate) fn keyspace(&self, name: &str) -> Keyspace {
        self.engine().keyspace(name).unwrap_or_else(|error| panic!("{error}"))
    }

    pub(crate) fn any_key(&mut self, space: &str) -> Vec<u8> {
        keys::key(&mut self.random, self.state[space].partition)
    }

    /// A key of this keyspace that lies in a shard; none where chance finds none.
    pub(crate) fn key_in_shard(&mut self, space: &str, shard: usize) -> Option<Vec<u8>> {
        (0..64).find_map(|_| {
            let key = self.any_key(space);
            (self.shard_of(space, &key) == shard).then_some(key)
        })
    }

    pub(crate) fn shard_of(&self, space: &str, key: &[u8]) -> usize {
        usize::from(self.engine().shard_of(self.state[space].partition.part(key)).0)
    }

    pub(crate) fn any_value(&mut self) -> Vec<u8> {
        let number = self.next();
        keys::value(&mut self.random, number)
    }

    /// A partition part that lies in a shard.
    pub(crate) fn part_in_shard(&mut self, shard: usize) -> Vec<u8> {
        loop {
            let part = self.random.next_u64().to_le_bytes().to_vec();
            if usize::from(self.engine().shard_of(&part).0) == shard {
                return part;
            }
        }
    }

    pub(crate) fn any_shard(&mut self) -> usize {
        let shards = self.engine().shards() as u64;
        self.random.below(shards) as usize
    }

    pub(crate) fn all_groups(&self) -> Range<u16> {
        0..self.key_groups as u16
    }

    /// The key groups of a shard, as `docs/architecture.md` divides them.
    pub(crate) fn groups_of(&self, shard: usize) -> Range<u16> {
        let border = |index: usize| (self.key_groups as usize * index / self.engine().shards()) as u16;
        border(shard)..border(shard + 1)
    }

    pub(crate) fn any_range(&mut self, space: &str) -> Wanted {
        let partition = self.state[space].partition;
        let reverse = self.random.chance(0.4);
        let group = self.random.chance(0.2).then(|| self.random.below(u64::from(self.key_groups)) as u16);
        let bound = |random: &mut Random| match random.below(5) {
            0 => Bound::Unbounded,
            1..3 => Bound::Excluded(keys::prefix(random, partition)),
            _ => Bound::Included(keys::prefix(random, partition)),
        };
        let keys = match self.random.below(10) {
            0..2 => Keys::All,
            2..6 => Keys::Prefix(keys::prefix(&mut self.random, partition)),
            6 => {
                // Both bounds behind one partition part.
                let prefix = keys::prefix(&mut self.random, partition);
                Keys::Range(
                    Bound::Excluded([&prefix[..], &[0]].concat()),
                    Bound::Included([&prefix[..], b"bb"].concat()),
                )
            }
            _ => Keys::Range(bound(&mut self.random), bound(&mut self.random)),
        };
        Wanted { keys, group, reverse }
    }

    /// When a value written at this time expires.
    pub(crate) fn expiry(&self, space: &str, time_ms: u64) -> Option<u64> {
        self.state[space].ttl_ms.map(|ttl_ms| time_ms + ttl_ms)
    }

    pub(crate) fn apply(&mut self, space: &str, key: &[u8], value: Option<&[u8]>, expires_ms: Option<u64>) {
        let keyspace = self.keyspace(space);
        let expires_ms = value.and(expires_ms);
        self.state.get_mut(space).expect("the model has the keyspace").apply(&keyspace, key, value, expires_ms);
    }

    /// Reads everything, forwards and backwards.
    pub(crate) fn check_all(&mut self) {
        for space in self.state.keys().cloned().collect::<Vec<_>>() {
            for reverse in [false, true] {
                let wanted = Wanted::all(reverse);
                let found = self.scan(&space, &wanted);
                let expected = self.state[&space].scan(&wanted, self.all_groups(), self.now_ms);
                assert_same(&space, &wanted, &found, &expected);
            }
        }
    }

    pub(crate) fn scan(&self, space: &str, wanted: &Wanted) -> Entries {
        let mut scan = self.engine().scan(&self.keyspace(space), wanted.range());
        self.must(async {
            let mut entries = Vec::new();
            while let Some(entry) = scan.next().await? {
                entries.push(entry);
            }
            Ok(entries)
        })
    }

    pub(crate) fn finish(mut self) {
        self.finish_checkpoint();
        self.check_held();
        self.check_all();
        if let Some(node) = self.node.take() {
            node.close().unwrap_or_else(|error| panic!("closing fails: {error}"));
        }
    }
}

pub(crate) fn space_options(partition: Partition, bits: u32, ttl_ms: Option<u64>) -> KeyspaceOptions {
    let options = KeyspaceOptions::default().partition(partition).filter_bits_per_key(bits);
    match ttl_ms {
        Some(duration_ms) => options.ttl(Ttl { duration_ms, time: TimeDomain::Event }),
        None => options,
    }
}

/// Compares entries, and says where they first differ: values may be large.
pub(crate) fn assert_same(space: &str, wanted: &Wanted, found: &Entries, expected: &Entries) {
    for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert_eq!(found.0, expected.0, "key {index} of {wanted:?} in {space}");
        assert!(found.1 == expected.1, "the value of {:?} (key {index} of {wanted:?}) in {space}", found.0);
    }
    let next = found.get(expected.len()).or(expected.get(found.len())).map(|entry| &entry.0);
    assert_eq!(found.len(), expected.len(), "number of entries of {wanted:?} in {space}; next is {next:?}");
}
