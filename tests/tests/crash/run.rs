//! One disk through several lives: open, check, work, crash.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use siltstone::{Durability, Engine, KeyspaceOptions, Options, Partition, Restore, Result, ScanRange};
use siltstone_io::Random;
use siltstone_tests::{Node, Simulation};

use crate::history::WriteId;
use crate::workload::{SharedHistory, Size, Workload};

/// Crashes of one recovery, at most.
const RECOVERY_CRASHES_MAX: u32 = 3;

pub(crate) struct Run {
    simulation: Simulation,
    random: Random,
    history: SharedHistory,
    key_groups: u32,
}

/// How a life begins.
#[derive(Clone)]
struct Way {
    durability: Durability,
    restore: Restore,
}

type Data = BTreeMap<Vec<u8>, Vec<u8>>;

impl Run {
    pub(crate) fn new(seed: u64) -> Run {
        let mut random = Random::new(seed ^ 0x63_7261_7368);
        let key_groups = [4, 64, 1024][random.below(3) as usize];
        Run { simulation: Simulation::new(seed), random, history: SharedHistory::new(), key_groups }
    }

    /// Writes, flushes and discards so far.
    pub(crate) fn operations(&self) -> u64 {
        self.simulation.disk.write_ops()
    }

    /// One life: recovery, check, work, and a crash: at this operation, or wherever chance will have it.
    pub(crate) fn cycle(&mut self, size: Size, crash_at: Option<u64>) {
        let way = self.any_way();
        self.simulation.disk.crash_at(crash_at);
        let node = self.recover(&way, crash_at.is_none());
        if crash_at.is_none() {
            let most = if self.random.chance(0.5) { 60 } else { 1500 };
            let after = self.random.below(most);
            self.simulation.disk.crash_at(self.random.chance(0.8).then_some(self.operations() + 1 + after));
        }
        let random = Random::new(self.random.next_u64());
        let workload = Workload::new(node.engine.clone(), way.durability, random, self.history.clone());
        let workload = workload.unwrap_or_else(|error| panic!("the keyspaces are there: {error}"));
        let ended = node.try_run(workload.run(size));
        if let Ok(Err(error)) = &ended {
            assert!(self.simulation.disk.crashed(), "the workload fails without a crash: {error}");
        }
        if !self.simulation.disk.crashed() && self.random.chance(0.3) {
            self.close(node, &way);
        }
        self.power_cycle();
    }

    /// The end: nothing crashes any more, and all is there.
    pub(crate) fn finish(mut self) {
        let way = self.any_way();
        let node = self.recover(&way, false);
        let closed = node.close();
        assert!(closed.is_ok(), "{closed:?}");
        let again = self.recover(&Way { restore: Restore::Latest, ..way }, false);
        drop(again);
    }

    fn close(&mut self, node: Node, way: &Way) {
        let closed = node.close();
        if closed.is_ok() && !self.simulation.disk.crashed() && way.durability != Durability::Checkpoint {
            let mut history = self.history.lock();
            let applied = history.all_applied();
            history.durable.extend(applied);
        }
    }

    fn power_cycle(&mut self) {
        self.simulation.disk.crash();
        self.simulation.disk.restart();
    }

    fn any_way(&mut self) -> Way {
        let durability = match self.random.below(3) {
            0 => Durability::Sync,
            1 => Durability::Interval(Duration::from_micros(1 + self.random.below(5000))),
            _ => Durability::Checkpoint,
        };
        let names: Vec<String> = self.history.lock().checkpoints.iter().map(|found| found.0.clone()).collect();
        let restore = match self.random.below(10) {
            0 => Restore::LastCheckpoint,
            1 if !names.is_empty() => {
                Restore::Checkpoint(names[self.random.below(names.len() as u64) as usize].clone())
            }
            _ => Restore::Latest,
        };
        Way { durability, restore }
    }

    /// Opens until it works, and checks what is there.
    fn recover(&mut self, way: &Way, may_crash: bool) -> Node {
        for attempt in 0.. {
            if may_crash && attempt < RECOVERY_CRASHES_MAX && self.random.chance(0.4) {
                let after = self.random.below(60);
                self.simulation.disk.crash_at(Some(self.operations() + 1 + after));
            }
            let options = self.options(way);
            let opened = self.simulation.open(options);
            match opened.and_then(|node| self.check(&node, way).map(|()| node)) {
                Ok(node) if !self.simulation.disk.crashed() => return node,
                Ok(_) => {}
                Err(error) => {
                    assert!(self.simulation.disk.crashed(), "recovery fails: {error}");
                    assert!(!error.is_corruption(), "a crash looks like damage: {error}");
                }
            }
            self.power_cycle();
        }
        unreachable!("the loop has no end")
    }

    fn options(&mut self, way: &Way) -> Options {
        let shards = 1 + self.random.below(4) as usize;
        let keyspace = || KeyspaceOptions::default().partition(Partition::Prefix(2));
        self.simulation
            .options()
            .shards(shards)
            .key_groups(self.key_groups)
            .memory(shards * (4 << 20))
            .memtable_bytes(16 << 10)
            .extent_bytes(64 << 10)
            .table_bytes(32 << 10)
            .capacity(1 << 30)
            .durability(way.durability)
            .restore(way.restore.clone())
            .keyspace("data", keyspace())
            .keyspace("journal", keyspace())
    }

    /// Reads everything and compares it with the history; then a new run begins on it. Fails where the power does.
    fn check(&mut self, node: &Node, way: &Way) -> Result<()> {
        let read = async {
            let names = node.engine.checkpoints().await?.into_iter().map(|info| info.name).collect::<Vec<_>>();
            Ok::<_, siltstone::Error>((names, scan(&node.engine, "journal").await?, scan(&node.engine, "data").await?))
        };
        let Ok(read) = node.try_run(read) else { return Err(siltstone::Error::Closed) };
        let (names, journal, data) = read?;
        let recovered: BTreeSet<WriteId> = journal.keys().map(|key| id_of(key)).collect();
        let mut history = self.history.lock();
        history.found_checkpoints(&names);
        let restored = node.engine.restored().map(|info| info.name.clone());
        let expected = match (&way.restore, way.durability) {
            (Restore::Checkpoint(name), _) => Some(Some(name.clone())),
            (Restore::LastCheckpoint, _) | (_, Durability::Checkpoint) => Some(names.last().cloned()),
            _ => None,
        };
        match &expected {
            Some(name) => {
                assert_eq!(restored, *name);
                let found = history.checkpoints.iter().find(|found| Some(&found.0) == name.as_ref());
                let members = found.map(|found| found.1.clone()).unwrap_or_default();
                history.check_exact(&recovered, &members);
            }
            None => history.check_recovered(&recovered),
        }
        let replayed = history.replay(&recovered);
        assert!(data.keys().eq(replayed.keys()), "keys differ from those of the recovered writes");
        let differing = data.iter().find(|(key, value)| replayed[*key] != **value);
        assert!(differing.is_none(), "the value of {:?} is not the recovered writes'", differing.map(|entry| entry.0));
        history.begin_run(recovered, node.engine.shards());
        Ok(())
    }
}

async fn scan(engine: &Engine, keyspace: &str) -> Result<Data> {
    let mut scan = engine.scan(&engine.keyspace(keyspace)?, ScanRange::all());
    let mut entries = Data::new();
    while let Some((key, value)) = scan.next().await? {
        entries.insert(key, value);
    }
    Ok(entries)
}

fn id_of(key: &[u8]) -> WriteId {
    let id = key.last_chunk().expect("keys of the journal end with the id");
    u64::from_be_bytes(*id)
}
