//! The epoch cut: operators in flight at a barrier are in the checkpoint wholly or not at all, by when they began.

use siltstone::testing::{LateOperator, epoch_of};
use siltstone::{
    Durability, Engine, Keyspace, KeyspaceOptions, LocalShard, Options, Partition, Restore, Result, ScanRange,
    TimeDomain, Ttl,
};
use siltstone_io::{OpKind, Random, SimClock, SimDisk, SimOptions};
use siltstone_tests::{Node, Simulation, seeds};

const WRITES: u8 = 5;

/// Operators write, wait until they are let go on, and write again; the barrier opens while they wait.
#[test]
fn stragglers_are_in_the_checkpoint_wholly_and_later_operators_not_at_all() {
    seeds::run("stragglers_are_in_the_checkpoint_wholly_and_later_operators_not_at_all", 60, |seed| {
        let mut random = Random::new(seed);
        let mut simulation = Simulation::new(seed);
        let shards = 1 + random.below(4) as usize;
        let durability = if random.chance(0.5) { Durability::Sync } else { Durability::Checkpoint };
        let node = open(&mut simulation, shards, durability, Restore::Latest);
        let keyspace = node.engine.keyspace("state").unwrap_or_else(|error| panic!("{error}"));
        node.run(write_around_a_barrier(&node.engine, &keyspace, &mut random))
            .unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(values(&node), vec![1; 40 * usize::from(WRITES)], "later operators have the last word");

        // After a crash, also of the log's tail: newer versions must not give way to stragglers' that are replayed.
        if random.chance(0.5) {
            let closed = node.close();
            assert!(closed.is_ok(), "{closed:?}");
        } else {
            drop(node);
            simulation.disk.crash();
            simulation.disk.restart();
        }
        if durability == Durability::Sync {
            let node = open(&mut simulation, 1 + random.below(4) as usize, durability, Restore::Latest);
            assert_eq!(values(&node), vec![1; 40 * usize::from(WRITES)], "replay brings stragglers' versions back");
            drop(node);
        }
        let node = open(&mut simulation, 1 + random.below(4) as usize, durability, Restore::Checkpoint("cut".into()));
        assert_eq!(values(&node), vec![0; 40 * usize::from(WRITES)], "the checkpoint is not what began before it");
    });
}

/// An operator that was sent while the barrier opened may arrive behind one that was sent after it. On one key it runs behind that one, so that
/// what it writes must be the newer version, and belong to the newer epoch, before and after recovery.
#[test]
fn an_operator_that_arrives_late_is_newer_than_those_before_it() {
    for (seed, durability) in (0..20).flat_map(|seed| [(seed, Durability::Sync), (seed, Durability::Checkpoint)]) {
        let mut simulation = Simulation::new(seed);
        let shards = 1 + seed as usize % 3;
        let node = open(&mut simulation, shards, durability, Restore::Latest);
        let keyspace = node.engine.keyspace("state").unwrap_or_else(|error| panic!("{error}"));
        let write = |value: u8| {
            let keyspace = keyspace.clone();
            move |shard: LocalShard| async move { (epoch_of(&shard), shard.put(&keyspace, &[7, 0], &[value]).await) }
        };
        let (late, reply) = LateOperator::begin(&node.engine, &[7], write(3));
        let sent_in = late.epoch();
        let cut = node.engine.checkpoint("cut", Vec::new());
        let (newer, written) = node.run(node.engine.on_shard(&[7], write(2))).unwrap_or_else(|error| panic!("{error}"));
        assert!(written.is_ok() && newer > Some(sent_in), "{written:?} in epoch {newer:?}");
        late.arrive();
        let (epoch, written) = node.run(reply).unwrap_or_else(|error| panic!("{error}"));
        assert!(written.is_ok() && epoch == newer, "{written:?} in epoch {epoch:?}");
        assert_eq!(values(&node), [3], "the last operator has the last word");
        // It waits for the end of the operator's first epoch, which began before it.
        node.run(cut).unwrap_or_else(|error| panic!("{error}"));
        node.run(node.engine.checkpoint("after", Vec::new())).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(values(&node), [3], "the last operator has the last word in tables");
        drop(node);
        simulation.disk.crash();
        simulation.disk.restart();
        let node = open(&mut simulation, shards, durability, Restore::Latest);
        assert_eq!(values(&node), [3], "the last operator has the last word after a crash");
        drop(node);
        let node = open(&mut simulation, shards, durability, Restore::Checkpoint("cut".into()));
        assert_eq!(values(&node), [0; 0], "the cut holds what was written after it");
    }
}

/// Whichever write of a checkpoint fails: the volume opens again, whether or not the checkpoint exists then.
#[test]
fn a_checkpoint_that_fails_at_any_write_leaves_a_volume_that_opens() {
    for (seed, nth) in (0..6).flat_map(|seed| (0..12).map(move |nth| (seed, nth))) {
        let mut simulation = Simulation::new(seed);
        let node = open(&mut simulation, 2, Durability::Checkpoint, Restore::Latest);
        let keyspace = node.engine.keyspace("state").unwrap_or_else(|error| panic!("{error}"));
        let written = node.run(async {
            for part in 0..20u8 {
                node.engine.put(&keyspace, &[part, 0], b"value").await?;
            }
            Ok::<_, siltstone::Error>(())
        });
        assert!(written.is_ok(), "{written:?}");
        simulation.disk.fail_after(OpKind::Write, nth, 5);
        let taken = node.run(node.engine.checkpoint("cut", Vec::new()));
        drop(node);
        simulation.disk.crash();
        simulation.disk.restart();
        simulation.disk.heal();
        let node = open(&mut simulation, 2, Durability::Checkpoint, Restore::Latest);
        let found = node.run(node.engine.checkpoints()).unwrap_or_else(|error| panic!("{error}"));
        assert!(taken.is_err() || found.len() == 1, "seed {seed}, write {nth}: a complete checkpoint is gone");
        let values = values(&node).len();
        assert_eq!(values, if found.is_empty() { 0 } else { 20 }, "seed {seed}, write {nth}");
    }
}

/// 40 operators begin, write value 0 and wait; the barrier; operators on the same keys write value 1 and end; then the first ones go on.
async fn write_around_a_barrier(engine: &Engine, keyspace: &Keyspace, random: &mut Random) -> Result<()> {
    let bulk = 200 + random.below(600) as usize;
    let mut gates = Vec::new();
    let mut before = Vec::new();
    for part in 0..40u8 {
        let (gate, wait) = oneshot::channel::<()>();
        gates.push(gate);
        let keyspace = keyspace.clone();
        before.push(engine.on_shard(&[part], move |shard| async move {
            shard.put(&keyspace, &[part, 0], &vec![0; bulk]).await?;
            let _ = wait.into_future().await;
            for index in 1..WRITES {
                shard.put(&keyspace, &[part, index], &vec![0; bulk]).await?;
            }
            Ok::<_, siltstone::Error>(())
        }));
    }
    let checkpoint = engine.checkpoint("cut", Vec::new());
    let mut after = Vec::new();
    for part in 0..40u8 {
        for index in 0..WRITES {
            let put = async move |value: &[u8]| engine.put(keyspace, &[part, index], value).await;
            after.push(async move { put(&vec![1; bulk / 4]).await });
        }
    }
    let after = futures_util::future::join_all(after);
    let release = async {
        random.shuffle(&mut gates);
        for gate in gates {
            engine.stats().await?;
            let _ = gate.send(());
        }
        for operator in before {
            operator.await??;
        }
        checkpoint.await
    };
    let (after, checkpoint) = futures_util::future::join(after, release).await;
    after.into_iter().collect::<Result<()>>()?;
    checkpoint?;
    // Time for the memtables of the new epoch that are full to be written out: the log's floor then lies before the stragglers' entries.
    for part in 0..200 {
        engine.get(keyspace, &[part % 40, 0]).await?;
    }
    engine.put(keyspace, &[0, 0], &vec![1; bulk]).await
}

/// The first byte of each value, by scan and, which looks in other places, by get.
fn values(node: &Node) -> Vec<u8> {
    let keyspace = node.engine.keyspace("state").unwrap_or_else(|error| panic!("{error}"));
    let mut scan = node.engine.scan(&keyspace, ScanRange::all());
    let mut values = Vec::new();
    while let Some((key, value)) = node.run(scan.next()).unwrap_or_else(|error| panic!("{error}")) {
        let got = node.run(node.engine.get(&keyspace, &key)).unwrap_or_else(|error| panic!("{error}"));
        assert!(got.as_ref() == Some(&value), "get and scan disagree on {key:?}");
        values.push(value[0]);
    }
    values
}

fn open(simulation: &mut Simulation, shards: usize, durability: Durability, restore: Restore) -> Node {
    let options: Options = simulation
        .options()
        .shards(shards)
        .memory(shards * (4 << 20))
        .memtable_bytes(16 << 10)
        .extent_bytes(64 << 10)
        .durability(durability)
        .restore(restore)
        .keyspace("state", KeyspaceOptions::default().partition(Partition::Prefix(1)));
    simulation.open(options).unwrap_or_else(|error| panic!("the volume does not open: {error}"))
}

/// A flush after the barrier dropped what had expired since, so that the checkpoint lacked what was live at its cut.
#[test]
fn a_checkpoint_holds_what_was_live_at_its_barrier() {
    let (disk, clock) = (SimDisk::new(1, SimOptions::default()), SimClock::new());
    let ttl = Ttl { duration_ms: 100, time: TimeDomain::Event };
    let open = || {
        let options = Options::simulated(disk.clone(), clock.clone())
            .durability(Durability::Checkpoint)
            .keyspace("k", KeyspaceOptions::default().ttl(ttl));
        let (engine, mut seeds) = Engine::open_driven(options).unwrap();
        let driver = seeds.remove(0).start().unwrap();
        let keyspace = engine.keyspace("k").unwrap();
        (engine, driver, keyspace)
    };
    let (engine, mut driver, keyspace) = open();
    let shard = driver.local();
    shard.advance_watermark(1000);
    driver.block_on(shard.at(1000).put(&keyspace, b"key", b"value")).unwrap();
    let straggler = shard.begin();
    let checkpoint = engine.checkpoint("cut", Vec::new());
    shard.advance_watermark(2000);
    drop(straggler);
    driver.block_on(checkpoint).unwrap();
    drop((shard, driver, engine));

    let (engine, mut driver, keyspace) = open();
    assert_eq!(engine.restored().unwrap().name, "cut");
    let shard = driver.local().at(1099);
    let value = driver.block_on(shard.get(&keyspace, b"key")).unwrap();
    assert_eq!(value.as_deref(), Some(&b"value"[..]));
}
