//! The audit and the marks, on engines over a simulated disk.

use std::future::Future;

use siltstone_io::{Random, SimClock, SimDisk, SimOptions};

use super::{Audit, TurnedShards, audit, marks, mutants};
use crate::{Durability, Engine, Error, Keyspace, KeyspaceOptions, Options, ScanRange};

struct Node {
    engine: Engine,
    shards: TurnedShards,
}

impl Node {
    fn open(disk: &SimDisk, change: impl FnOnce(Options) -> Options) -> Node {
        disk.restart();
        let clock = SimClock::new();
        let options = Options::simulated(disk.clone(), clock.clone())
            .shards(2)
            .key_groups(16)
            .memory(16 << 20)
            .extent_bytes(64 << 10)
            .keyspace("numbers", KeyspaceOptions::default());
        let (engine, shards) = TurnedShards::open(change(options), disk.clone(), clock, Random::new(7), 0.0).unwrap();
        Node { engine, shards }
    }

    fn numbers(&self) -> Keyspace {
        self.engine.keyspace("numbers").unwrap()
    }

    fn run<F: Future>(&mut self, future: F) -> F::Output {
        self.shards.run(future).unwrap()
    }

    fn fill(&mut self, from: u32, to: u32) {
        let (engine, numbers) = (self.engine.clone(), self.numbers());
        self.run(async {
            for number in from..to {
                engine.put(&numbers, &number.to_be_bytes(), &[7; 200]).await.unwrap();
            }
            engine.flush().await.unwrap();
            engine.compact().await.unwrap();
        });
    }

    fn audit(&mut self) -> Audit {
        let audit = audit(&self.engine);
        self.run(audit).unwrap()
    }

    fn close(mut self) {
        let engine = self.engine.clone();
        self.run(engine.close()).unwrap();
    }
}

fn disk() -> SimDisk {
    SimDisk::new(7, SimOptions::default())
}

#[test]
fn extents_in_use_are_those_that_something_refers_to() {
    let disk = disk();
    let mut node = Node::open(&disk, |options| options);
    assert_eq!(node.audit(), Audit { used: node.audit().used, ..Audit::default() });
    for round in 0..6 {
        node.fill(round * 1000, round * 1000 + 2000);
        let checkpoint = node.engine.checkpoint(&format!("round {round}"), Vec::new());
        node.run(checkpoint).unwrap();
        let found = node.audit();
        assert!(found.is_clean() && found.used > 10, "{found:?}");
    }
    let engine = node.engine.clone();
    node.run(engine.drop_checkpoint("round 2")).unwrap();
    assert!(node.audit().is_clean());
    node.close();

    for shards in [2, 3, 1] {
        let mut node = Node::open(&disk, |options| options.shards(shards));
        let found = node.audit();
        assert!(found.is_clean(), "{found:?} with {shards} shards");
        node.fill(0, 500);
        let found = node.audit();
        assert!(found.is_clean(), "{found:?} with {shards} shards");
        node.close();
    }
}

#[test]
fn what_a_scan_reads_and_what_a_crash_leaves_is_accounted_for() {
    let disk = disk();
    let mut node = Node::open(&disk, |options| options);
    node.fill(0, 3000);
    let local = node.shards.local(0);
    let mut scan = local.scan(&node.numbers(), ScanRange::all()).unwrap();
    assert!(node.run(scan.next()).unwrap().is_some());
    node.fill(0, 3000);
    assert!(node.audit().is_clean());
    drop((scan, local));
    assert!(node.audit().is_clean());
    drop(node);
    disk.crash();
    let mut node = Node::open(&disk, |options| options.durability(Durability::Checkpoint));
    assert!(node.audit().is_clean());
}

#[test]
fn a_leak_is_found_and_so_is_a_second_owner() {
    for (mutant, leaked, double) in [("SstExtentsLeaked", true, false), ("RecycledAndFreed", false, true)] {
        let mut node = Node::open(&disk(), |options| options);
        mutants::activate(Some(mutant));
        let mut found = Audit::default();
        for round in 0..20 {
            node.fill(round * 100, round * 100 + 2000);
            found = node.audit();
            if !found.is_clean() {
                break;
            }
        }
        assert!(mutants::hits() > 0);
        mutants::activate(None);
        assert_eq!(
            (!found.leaked.is_empty(), !(found.double.is_empty() && found.unowned.is_empty())),
            (leaked, double),
            "{found:?}"
        );
        assert!(!found.reasons.is_empty());
        // Its end would meet the damage.
        std::mem::forget(node);
    }
}

#[test]
fn a_read_only_engine_has_nothing_to_audit() {
    let disk = disk();
    Node::open(&disk, |options| options).close();
    let mut node = Node::open(&disk, |options| options.read_only(true));
    let audit = audit(&node.engine);
    assert!(matches!(node.run(audit).unwrap_err(), Error::ReadOnly));
}

#[test]
fn marks_count_what_was_come_by() {
    let count = |path: &str| marks::counts().into_iter().find(|(name, _)| *name == path).unwrap().1;
    let before = count("opened with more shards");
    let disk = disk();
    Node::open(&disk, |options| options).close();
    Node::open(&disk, |options| options.shards(3)).close();
    assert!(count("opened with more shards") > before);
    let names: std::collections::BTreeSet<&str> = marks::counts().into_iter().map(|(name, _)| name).collect();
    assert_eq!(names.len(), marks::counts().len());
}
