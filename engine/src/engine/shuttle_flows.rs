//! Whole engines under shuttle: shards on threads of their own, callers, checkpoints and the end, in random order. The simulated disk and the
//! virtual clock are the simulator's; what is random here is who runs at each access to what crosses threads. Mailboxes hold two
//! messages, so that they overflow.

use shuttle::rand::{Rng, thread_rng};
use shuttle::thread::{self, JoinHandle};
use siltstone_io::sync::model::{block_on, shuffle};
use siltstone_io::{SimClock, SimDisk, SimOptions};

use super::*;

/// A disk, and engines on it one after the other.
pub(super) struct World {
    disk: SimDisk,
    clock: SimClock,
}

impl World {
    pub(super) fn new() -> World {
        World { disk: SimDisk::new(1, SimOptions::default()), clock: SimClock::new() }
    }

    /// Opens an engine, each of its shards driven by a thread.
    pub(super) fn open(&self, shards: usize, restore: Restore) -> (Engine, Vec<JoinHandle<()>>) {
        let options = Options::simulated(self.disk.clone(), self.clock.clone())
            .shards(shards)
            .key_groups(4)
            .extent_bytes(64 << 10)
            .memory(12 << 20)
            .capacity(64 << 20)
            .keyspace("words", KeyspaceOptions::default())
            .restore(restore);
        let (engine, seeds) = Engine::open_driven(options).unwrap();
        let drive = |seed: ShardSeed| {
            thread::spawn(move || {
                let mut driver = seed.start().unwrap();
                while !driver.is_closed() {
                    if driver.turn(&siltstone_io::Budget::default()) != siltstone_io::Turn::Progress {
                        driver.park(None);
                    }
                }
            })
        };
        let threads = seeds.into_iter().map(drive).collect();
        (engine, threads)
    }
}

pub(super) fn end(threads: Vec<JoinHandle<()>>) {
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

/// A caller's own key in each shard.
fn keys(engine: &Engine, caller: usize) -> [Vec<u8>; 2] {
    let key = |shard: u16| {
        let mut keys = (0u8..=255).map(|byte| vec![caller as u8, byte]);
        keys.find(|key| engine.shard_of(key) == crate::ShardId(shard)).unwrap()
    };
    [key(0), key(1)]
}

fn number(value: Option<Vec<u8>>) -> u8 {
    value.map_or(0, |value| value[0])
}

/// Callers write to both shards while another thread closes the engine: each call is answered or fails with `Closed`, nobody waits for
/// ever, and what was acknowledged is there afterwards.
#[test]
fn shuttle_every_call_is_answered_while_the_engine_closes() {
    shuffle(2000, || {
        let world = World::new();
        let (engine, threads) = world.open(2, Restore::Latest);
        let keys = [0, 1].map(|caller| keys(&engine, caller)[caller].clone());
        let callers: Vec<_> = keys
            .iter()
            .map(|key| {
                let (engine, key) = (engine.clone(), key.clone());
                thread::spawn(move || {
                    let words = engine.keyspace("words").unwrap();
                    let mut acknowledged = 0;
                    for value in 1..=3 {
                        // Two in flight: either may be the last.
                        let values = [[value], [value + 10]];
                        let both = values.each_ref().map(|value| engine.put(&words, &key, value));
                        let [first, second] = block_on(join_all(both)).try_into().unwrap();
                        match (first, second) {
                            (Ok(()), Ok(())) => acknowledged = value,
                            (Ok(()) | Err(Error::Closed), Err(Error::Closed)) | (Err(Error::Closed), Ok(())) => break,
                            (first, second) => panic!("{first:?} {second:?}"),
                        }
                    }
                    acknowledged
                })
            })
            .collect();
        for _ in 0..thread_rng().gen_range(0..20) {
            thread::yield_now();
        }
        block_on(engine.close()).unwrap();
        let acknowledged: Vec<u8> = callers.into_iter().map(|caller| caller.join().unwrap()).collect();
        end(threads);
        drop(engine);
        let (engine, threads) = world.open(2, Restore::Latest);
        let words = engine.keyspace("words").unwrap();
        for (caller, &acknowledged) in acknowledged.iter().enumerate() {
            let found = number(block_on(engine.get(&words, &keys[caller])).unwrap());
            let last = acknowledged + if acknowledged > 0 { 10 } else { 0 };
            let allowed = [acknowledged, last, acknowledged + 1, acknowledged + 11];
            assert!(allowed.contains(&found), "found {found}, acknowledged {acknowledged}");
        }
        block_on(engine.close()).unwrap();
        end(threads);
    });
}

/// A caller writes a number to one shard and then, when that is acknowledged, to the other, while checkpoints are taken: at every cut the second
/// shard is behind the first by one at most, and never ahead. The last checkpoint is opened and looked at.
#[test]
fn shuttle_a_checkpoint_is_a_cut_across_shards() {
    shuffle(1000, || {
        let world = World::new();
        let (engine, threads) = world.open(2, Restore::Latest);
        let keys = [0, 1].map(|caller| keys(&engine, caller));
        let callers: Vec<_> = keys
            .iter()
            .map(|keys| {
                let (engine, keys) = (engine.clone(), keys.clone());
                thread::spawn(move || {
                    let words = engine.keyspace("words").unwrap();
                    for value in 1..=4u8 {
                        block_on(engine.put(&words, &keys[0], &[value])).unwrap();
                        block_on(engine.put(&words, &keys[1], &[value])).unwrap();
                    }
                })
            })
            .collect();
        let mut taken = 0;
        for _ in 0..2 {
            for _ in 0..thread_rng().gen_range(0..30) {
                thread::yield_now();
            }
            match block_on(engine.checkpoint("cut", Vec::new())) {
                Ok(_) => taken += 1,
                Err(Error::Busy(_)) => {}
                Err(error) => panic!("{error}"),
            }
        }
        callers.into_iter().for_each(|caller| caller.join().unwrap());
        block_on(engine.close()).unwrap();
        end(threads);
        drop(engine);
        if taken == 0 {
            return;
        }
        let (engine, threads) = world.open(2, Restore::Checkpoint("cut".into()));
        let words = engine.keyspace("words").unwrap();
        for keys in &keys {
            let [first, second] = [0, 1].map(|shard| number(block_on(engine.get(&words, &keys[shard])).unwrap()));
            assert!(second <= first && first <= second + 1, "{keys:?}: {first} {second}");
        }
        block_on(engine.close()).unwrap();
        end(threads);
    });
}
