//! Whole engines on a simulated disk, small enough for Miri. There all parts with `unsafe` in or below them meet: the arena, guards that outlive
//! it, cache frames, buffers lent to the device, the slots of tasks, and shards that move from thread to thread.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use siltstone_io::sync::{AtomicBool, Ordering};
use siltstone_io::{Budget, Class, IoBudget, IoStats, Placement, SimClock, SimDisk, SimOptions, Turn};

use super::*;
use crate::shard::ScanRange;

/// A disk, and engines on it one after the other.
struct World {
    disk: SimDisk,
    clock: SimClock,
}

impl World {
    fn new() -> World {
        World { disk: SimDisk::new(1, SimOptions::default()), clock: SimClock::new() }
    }

    fn options(&self) -> Options {
        Options::simulated(self.disk.clone(), self.clock.clone())
            .key_groups(4)
            .extent_bytes(64 << 10)
            .memory(4 << 20)
            .capacity(16 << 20)
            .keyspace("words", KeyspaceOptions::default())
    }

    fn open(&self, options: Options) -> Node {
        let (engine, seeds) = Engine::open_driven(options).unwrap();
        let drivers = seeds.into_iter().map(|seed| seed.start().unwrap()).collect();
        Node { words: engine.keyspace("words").unwrap(), engine, drivers, clock: self.clock.clone() }
    }
}

/// An engine whose shards this thread turns.
struct Node {
    engine: Engine,
    words: Keyspace,
    drivers: Vec<ShardDriver>,
    clock: SimClock,
}

struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

impl Node {
    fn run<F: Future>(&mut self, future: F) -> F::Output {
        let mut future = pin!(future);
        let woken = Arc::new(Woken(AtomicBool::new(true)));
        let waker = Waker::from(Arc::clone(&woken));
        loop {
            if woken.0.swap(false, Ordering::SeqCst)
                && let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker))
            {
                return output;
            }
            let mut progress = false;
            for driver in &mut self.drivers {
                progress |= driver.turn(&Budget::default()) == Turn::Progress;
            }
            let before = self.drivers.len();
            self.drivers.retain(|driver| !driver.is_closed());
            if !progress && self.drivers.len() == before && !woken.0.load(Ordering::SeqCst) {
                let next = self.drivers.iter().filter_map(ShardDriver::next_event_us).min();
                self.clock.advance_to(next.expect("the future waits for something"));
            }
        }
    }

    fn put(&mut self, model: &mut Model, key: u8, value: Vec<u8>) {
        let (engine, words) = (self.engine.clone(), self.words.clone());
        self.run(engine.put(&words, &[key], &value)).unwrap();
        model.insert(vec![key], value);
    }

    /// All of it by scan, forwards and backwards, and each key by get.
    fn expect(&mut self, model: &Model) {
        let (engine, words) = (self.engine.clone(), self.words.clone());
        for range in [ScanRange::all(), ScanRange::all().reverse()] {
            let mut scan = engine.scan(&words, range);
            let mut found = Model::new();
            while let Some((key, value)) = self.run(scan.next()).unwrap() {
                assert!(found.insert(key, value).is_none(), "a key came twice");
            }
            assert!(found == *model, "{:?} instead of {:?}", found.keys(), model.keys());
        }
        let keys: Vec<[u8; 1]> = (0..=KEYS).map(|key| [key]).collect();
        let found = self.run(engine.get_many(&words, &keys)).unwrap();
        for (key, value) in keys.iter().zip(found) {
            assert!(value.as_ref() == model.get(&key[..]), "key {key:?}");
        }
    }

    fn io_stats(&mut self) -> IoStats {
        let shared = Arc::clone(&self.engine.shared);
        let stats = shared.on_every_shard(|shard| async move { shard.handle.io_stats() });
        self.run(stats).remove(0).unwrap()
    }

    fn close(mut self) {
        let engine = self.engine.clone();
        self.run(engine.close()).unwrap();
    }
}

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

const KEYS: u8 = 9;
/// The keys that threads share among them.
const KEYS_SHARED: u8 = 4;

/// A value that tells its key and version; some are larger than a page.
fn value(key: u8, version: u8) -> Vec<u8> {
    let mut value = vec![version; if key % 10 == 7 { 5000 } else { 300 }];
    value[0] = key;
    value
}

/// The log and the manifest, which all wait for, are foreground's whoever writes them; SSTs belong to the task that writes them. With the least
/// budget there is, everything comes to its end.
#[test]
fn each_write_is_of_the_class_of_those_who_wait_for_it() {
    let world = World::new();
    let least = IoBudget { background_bytes_max: 0, background_ops_max: 0 };
    let mut node = world.open(world.options().memtable_bytes(16 << 10).table_bytes(32 << 10).io_budget(least));
    let (engine, mut model) = (node.engine.clone(), Model::new());
    for version in 0..6 {
        for key in 0..KEYS {
            node.put(&mut model, key, value(key, version));
        }
        node.run(engine.flush()).unwrap();
    }
    let before = node.io_stats();
    node.run(engine.compact()).unwrap();
    node.run(engine.checkpoint("cut", Vec::new())).unwrap();
    let stats = node.io_stats();
    let [metadata, wal, level_0, deep] = Placement::ALL.map(|placement| stats.written_bytes_of(placement));
    assert!(wal > 0 && level_0 > 0 && deep > 0 && metadata > before.written_bytes_of(Placement::Metadata));
    assert_eq!(stats.written_bytes_by_class, [metadata + wal, level_0, deep, 0]);
    let read = stats.read_bytes_by_class;
    assert!(read[Class::Compaction as usize] > 0 && read[Class::Flush as usize] == 0, "{read:?}");
    node.expect(&model);
    let read_since = node.io_stats().read_bytes_by_class;
    assert!(read_since[Class::Foreground as usize] > read[Class::Foreground as usize]);
    assert_eq!(read_since[Class::Compaction as usize], read[Class::Compaction as usize]);
    node.close();
}

/// Puts, deletes, batches, reads of all kinds from memtables and SSTs, guards and scans held across flush and compaction, a checkpoint, a
/// power failure, and the checkpoint opened with another number of shards.
#[test]
fn a_life_with_a_crash_and_another_with_more_shards() {
    let world = World::new();
    let mut model = Model::new();
    let mut node = world.open(world.options().memtable_bytes(16 << 10).table_bytes(32 << 10));
    let (engine, words) = (node.engine.clone(), node.words.clone());
    let mut batch = WriteBatch::new();
    for key in 0..KEYS {
        batch.put(&words, &[key], &value(key, 1));
        model.insert(vec![key], value(key, 1));
    }
    node.run(engine.write(batch)).unwrap();
    let shard = node.drivers[0].local();
    let in_memory = node.run(shard.get(&words, &[KEYS - 1])).unwrap().unwrap();
    let snapshot = shard.snapshot();
    node.run(engine.flush()).unwrap();
    let on_disk = [1, 7].map(|key| node.run(shard.get(&words, &[key])).unwrap().unwrap());
    let mut scan = shard.scan(&words, ScanRange::all()).unwrap();
    assert!(node.run(scan.next()).unwrap().is_some());

    let at_snapshot = model.clone();
    let mut batch = WriteBatch::new();
    for key in (0..KEYS).step_by(3) {
        batch.delete(&words, &[key]).put(&words, &[key + 1], &value(key + 1, 2));
        model.remove(&[key][..]);
        model.insert(vec![key + 1], value(key + 1, 2));
    }
    node.run(engine.write(batch)).unwrap();
    node.run(engine.flush()).unwrap();
    node.run(engine.compact()).unwrap();
    let stats = node.run(engine.stats()).unwrap();
    assert!(stats.flushed_bytes > 0 && stats.cache_hits > 0, "{stats:?}");
    node.expect(&model);
    for (guard, key) in on_disk.iter().chain([&in_memory]).zip([1, 7, KEYS - 1]) {
        assert!(**guard == value(key, 1), "the guard of key {key}");
    }
    let mut rest = 1;
    while let Some(entry) = node.run(scan.next()).unwrap() {
        assert!(**entry.value == at_snapshot[entry.key]);
        rest += 1;
    }
    assert_eq!(rest, at_snapshot.len());
    assert!(node.run(snapshot.get(&words, &[0])).unwrap().is_some_and(|found| *found == value(0, 1)));
    drop((snapshot, scan));

    node.run(engine.checkpoint("cut", vec![1, 2, 3])).unwrap();
    let at_cut = model.clone();
    for key in 0..2 {
        node.put(&mut model, key, value(key, 3));
    }
    // Submitted, and cut off by the power failure. What guards hold outlives the engine.
    let mut lost = Box::pin(engine.put(&words, &[KEYS], b"lost"));
    assert!(lost.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    node.drivers[0].turn(&Budget::default());
    world.disk.crash();
    drop(lost);
    drop((node, engine, shard));
    assert!(*in_memory == value(KEYS - 1, 1) && *on_disk[1] == value(7, 1));
    drop((in_memory, on_disk));
    world.disk.restart();

    // A memtable of a quarter of the memory leaves nothing for the cache.
    let mut node = world.open(world.options().memtable_bytes(1 << 20));
    let (engine, words) = (node.engine.clone(), node.words.clone());
    if let Some(found) = node.run(engine.get(&words, &[KEYS])).unwrap() {
        model.insert(vec![KEYS], found);
    }
    node.expect(&model);
    node.close();

    let mut node = world.open(world.options().memory(8 << 20).shards(2).restore(Restore::Checkpoint("cut".into())));
    assert_eq!(node.engine.restored().unwrap().bytes, [1, 2, 3]);
    node.expect(&at_cut);
    node.close();
}

/// Blocking threads, which take turns at driving the shards of an engine that belong to none of them.
#[test]
fn shards_move_between_threads_under_a_baton() {
    let world = World::new();
    let engine = Engine::open_under_baton(world.options().memory(8 << 20).shards(2)).unwrap();
    let words = engine.keyspace("words").unwrap();
    let callers: Vec<_> = (0..2u8)
        .map(|caller| {
            let (engine, words) = (engine.clone(), words.clone());
            spawn(move || {
                for key in (caller..KEYS_SHARED).step_by(2) {
                    engine.put_blocking(&words, &[key], &value(key, 1)).unwrap();
                    assert_eq!(engine.get_blocking(&words, &[key]).unwrap(), Some(value(key, 1)));
                }
            })
        })
        .collect();
    callers.into_iter().for_each(|caller| caller.join().unwrap());
    engine.block_on(engine.flush()).unwrap();
    let keys: Vec<[u8; 1]> = (0..KEYS_SHARED).map(|key| [key]).collect();
    let found = engine.get_many_blocking(&words, &keys).unwrap();
    assert!(found == (0..KEYS_SHARED).map(|key| Some(value(key, 1))).collect::<Vec<_>>());
    engine.close_blocking().unwrap();
}

/// Shards on threads of their own, operators and checkpoints from two others: each counter is what was added to it, also at the cut.
#[test]
fn operators_of_two_threads_count_on_pinned_shards() {
    let world = World::new();
    let options = world.options().memory(8 << 20).shards(2).durability(Durability::Checkpoint);
    let engine = Engine::open(options.clone()).unwrap();
    let callers: Vec<_> = (0..2)
        .map(|_| {
            let (engine, words) = (engine.clone(), engine.keyspace("words").unwrap());
            spawn(move || {
                for key in [0u8, 1, 0, 1] {
                    let words = words.clone();
                    let counted = engine.on_shard(&[key], move |shard| async move {
                        let before = shard.get(&words, &[key]).await?.map_or(0, |count| count[0]);
                        shard.put(&words, &[key], &[before + 1]).await
                    });
                    engine.block_on(counted).unwrap().unwrap();
                }
            })
        })
        .collect();
    callers.into_iter().for_each(|caller| caller.join().unwrap());
    engine.checkpoint_blocking("cut", Vec::new()).unwrap();
    engine.close_blocking().unwrap();
    drop(engine);

    let mut node = world.open(options.shards(1));
    node.expect(&(0..2).map(|key| (vec![key], vec![4])).collect());
    node.close();
}

fn spawn(run: impl FnOnce() + Send + 'static) -> std::thread::JoinHandle<()> {
    siltstone_io::spawn_pinned("caller", None, run).unwrap()
}

/// The typed states, whose encodings and caches lie above the shard's.
#[test]
fn typed_states_hold_what_was_put_in() {
    use crate::state::{Descriptor, ListState, MapState, Timers, ValueState};
    let world = World::new();
    let values = Descriptor::<ValueState<u32, String>>::new("values");
    let maps = Descriptor::<MapState<u32, u8, u64>>::new("maps");
    let lists = Descriptor::<ListState<u32, u16>>::new("lists");
    let timers = Descriptor::<Timers<u32>>::new("timers");
    let options = world.options().durability(Durability::Checkpoint);
    let mut node = world.open(options.state(&values).state(&maps).state(&lists).state(&timers));
    let shard = node.drivers[0].local();
    let values = values.bind(&node.engine).unwrap();
    let maps = maps.bind(&node.engine).unwrap();
    let lists = lists.bind(&node.engine).unwrap();
    let timers = timers.bind(&node.engine).unwrap();
    let engine = node.engine.clone();
    for flushed in [false, true] {
        let written: Result<()> = node.run(async {
            values.set(&shard, &1, &format!("flushed {flushed}")).await?;
            maps.put(&shard, &1, &u8::from(flushed), &7).await?;
            lists.push(&shard, &1, &u16::from(flushed)).await?;
            timers.register(&shard, 10 + i64::from(flushed), &1).await
        });
        written.unwrap();
        node.run(engine.flush()).unwrap();
    }
    assert_eq!(node.run(values.get(&shard, &1)).unwrap().as_deref(), Some("flushed true"));
    assert_eq!(node.run(maps.get(&shard, &1, &0)).unwrap(), Some(7));
    assert_eq!(node.run(lists.get(&shard, &1)).unwrap(), [0, 1]);
    let due = [0; 3].map(|_| node.run(timers.pop_due(&shard, 20)).unwrap());
    assert_eq!(due, [Some((10, 1)), Some((11, 1)), None]);
    drop((shard, engine));
    node.close();
}
