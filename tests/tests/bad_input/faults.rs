//! Reads, writes and flushes that fail: a write or flush that failed makes the shard read-only, and reopening recovers.

use std::collections::BTreeMap;

use siltstone::{Durability, Engine, Error, Keyspace, KeyspaceOptions, LocalShard, Options, ScanRange, ShardDriver};
use siltstone_io::{OpKind, SimClock, SimDisk, SimOptions};

use crate::support::{key, value};

/// An engine of one shard on a simulated disk, driven by the test.
pub(crate) struct Simulated {
    pub(crate) driver: ShardDriver,
    pub(crate) engine: Engine,
    pub(crate) keyspace: Keyspace,
    pub(crate) shard: LocalShard,
}

/// A simulated disk and its clock.
pub(crate) struct Machine {
    pub(crate) disk: SimDisk,
    pub(crate) clock: SimClock,
}

impl Machine {
    pub(crate) fn new(seed: u64) -> Machine {
        Machine { disk: SimDisk::new(seed, SimOptions::default()), clock: SimClock::new() }
    }

    pub(crate) fn options(&self) -> Options {
        Options::simulated(self.disk.clone(), self.clock.clone())
            .memory(4 << 20)
            .extent_bytes(64 << 10)
            .memtable_bytes(32 << 10)
            .table_bytes(64 << 10)
            .keyspace("k", KeyspaceOptions::default())
    }

    pub(crate) fn open(&self) -> Simulated {
        Simulated::open(self.options()).unwrap()
    }
}

impl Simulated {
    pub(crate) fn open(options: Options) -> siltstone::Result<Simulated> {
        let (engine, mut seeds) = Engine::open_driven(options)?;
        let driver = seeds.remove(0).start()?;
        let (keyspace, shard) = (engine.keyspace("k")?, driver.local());
        Ok(Simulated { driver, engine, keyspace, shard })
    }

    pub(crate) fn put(&mut self, index: u32) -> siltstone::Result<()> {
        self.driver.block_on(self.shard.put(&self.keyspace, &key(index), &value(index)))
    }

    pub(crate) fn get(&mut self, index: u32) -> siltstone::Result<Option<Vec<u8>>> {
        let got = self.driver.block_on(self.shard.get(&self.keyspace, &key(index)))?;
        Ok(got.map(|value| value.to_vec()))
    }

    /// Every acknowledged write is there; one whose outcome is unknown may be.
    #[track_caller]
    pub(crate) fn check(&mut self, outcomes: &BTreeMap<u32, bool>) {
        for (&index, &acknowledged) in outcomes {
            match self.get(index).unwrap() {
                Some(got) => assert_eq!(got, value(index)),
                None => assert!(!acknowledged, "write {index} was acknowledged and is lost"),
            }
        }
    }

    pub(crate) fn close(mut self) {
        let close = self.engine.close();
        self.driver.block_on(async {
            let closing = std::pin::pin!(close);
            // The driver's end is what it waits for: begin it here, end it below.
            futures_util::future::select(closing, std::pin::pin!(std::future::ready(()))).await;
        });
        while !self.driver.is_closed() {
            if self.driver.turn(&siltstone_io::Budget::default()) != siltstone_io::Turn::Progress {
                self.driver.park(None);
            }
        }
    }
}

fn assert_poisoned(result: siltstone::Result<()>) {
    match result {
        Err(error @ Error::Poisoned { .. }) => {
            let text = error.to_string();
            assert!(text.contains("Input/output error") && text.contains("reopen the volume"), "{text}");
        }
        other => panic!("{other:?} where a poisoned shard was expected"),
    }
}

/// Fails one operation, at the n-th write, and checks everything that the engine promises then.
fn with_fault(seed: u64, kind: OpKind, durability: Durability, after: u32) {
    let machine = Machine::new(seed);
    let mut node = Simulated::open(machine.options().durability(durability)).unwrap();
    let mut outcomes = BTreeMap::new();
    for index in 0..after {
        outcomes.insert(index, node.put(index).is_ok());
    }
    machine.disk.fail_next(kind, 0..u64::MAX, libc::EIO, 1);
    let mut failed = None;
    for index in after..after + 2000 {
        let result = node.put(index);
        let acknowledged = result.is_ok() && durability == Durability::Sync;
        outcomes.insert(index, acknowledged);
        if let Err(error) = result {
            failed = Some(error);
            break;
        }
    }
    let failed = failed.expect("the fault is met within as many writes as fill many memtables");
    assert!(matches!(failed, Error::Poisoned { .. } | Error::Io(_)), "{failed:?}");
    // It stays read-only, and says why; reads go on.
    assert_poisoned(node.put(0));
    let flushed = node.driver.block_on(node.shard.flush());
    assert_poisoned(flushed);
    for (&index, &acknowledged) in &outcomes {
        let got = node.get(index).unwrap();
        assert!(got.is_some() || !acknowledged, "write {index} is unreadable after a failed write");
    }
    node.close();
    let mut node = Simulated::open(machine.options().durability(Durability::Sync)).unwrap();
    if durability == Durability::Sync {
        node.check(&outcomes);
    }
    for index in 0..600 {
        node.put(index).unwrap();
    }
    node.check(&(0..600).map(|index| (index, true)).collect());
    node.close();
}

#[test]
fn a_failed_write_makes_the_shard_read_only_until_it_is_reopened() {
    for after in [0, 1, 50, 333, 800] {
        with_fault(u64::from(after), OpKind::Write, Durability::Sync, after);
    }
}

#[test]
fn a_failed_flush_makes_the_shard_read_only_until_it_is_reopened() {
    for after in [0, 50, 333, 800] {
        with_fault(u64::from(after), OpKind::Flush, Durability::Sync, after);
    }
}

#[test]
fn without_a_log_a_failed_write_of_an_sst_does_the_same() {
    for kind in [OpKind::Write, OpKind::Flush] {
        with_fault(5, kind, Durability::Checkpoint, 100);
    }
}

#[test]
fn an_interval_of_durability_reports_the_failure_to_the_next_write() {
    with_fault(6, OpKind::Write, Durability::Interval(std::time::Duration::from_millis(1)), 100);
}

#[test]
fn a_failed_read_fails_the_get_and_nothing_else() {
    let machine = Machine::new(9);
    let mut node = machine.open();
    for index in 0..300 {
        node.put(index).unwrap();
    }
    node.driver.block_on(node.shard.flush()).unwrap();
    node.close();
    let mut node = machine.open();
    machine.disk.fail_next(OpKind::Read, 0..u64::MAX, libc::EIO, 1);
    let error = node.get(5).unwrap_err();
    assert!(matches!(&error, Error::Io(io) if io.op == OpKind::Read && io.errno == libc::EIO), "{error:?}");
    assert_eq!(node.get(5).unwrap(), Some(value(5)));
    node.put(5).unwrap();
    node.close();
}

#[test]
fn a_fault_while_a_volume_is_opened_is_an_error_and_changes_nothing() {
    let machine = Machine::new(10);
    let mut node = machine.open();
    let outcomes: BTreeMap<u32, bool> = (0..300).map(|index| (index, node.put(index).is_ok())).collect();
    node.close();
    for kind in [OpKind::Read, OpKind::Write, OpKind::Flush, OpKind::Allocate] {
        machine.disk.fail_next(kind, 0..u64::MAX, libc::EIO, 1);
        let error = Simulated::open(machine.options()).err().expect("an opening reads, writes, flushes and allocates");
        assert!(matches!(&error, Error::Io(io) if io.op == kind), "{kind:?}: {error:?}");
        let mut node = machine.open();
        node.check(&outcomes);
        node.close();
    }
}

/// Checkpoints that failed in a poisoned shard left one epoch after the other open, and the third made a scan panic.
#[test]
fn a_poisoned_shard_refuses_checkpoints_and_goes_on_reading() {
    let machine = Machine::new(7);
    let mut node = machine.open();
    node.put(1).unwrap();
    machine.disk.fail_next(OpKind::Write, 0..u64::MAX, libc::EIO, 1);
    assert!(node.put(2).is_err());
    for _ in 0..4 {
        assert_poisoned(node.driver.block_on(node.engine.checkpoint("refused", Vec::new())).map(drop));
        assert_eq!(node.get(1).unwrap(), Some(value(1)));
        let mut scan = node.shard.scan(&node.keyspace, ScanRange::all()).unwrap();
        assert!(node.driver.block_on(scan.next()).unwrap().is_some());
        drop(node.shard.snapshot());
    }
}

#[test]
fn a_read_only_engine_refuses_checkpoints_and_goes_on_reading() {
    let machine = Machine::new(8);
    let mut node = machine.open();
    node.put(1).unwrap();
    node.driver.block_on(node.engine.checkpoint("kept", b"bytes".to_vec())).unwrap();
    node.close();
    let mut node = Simulated::open(machine.options().read_only(true)).unwrap();
    for _ in 0..4 {
        let refused = node.driver.block_on(node.engine.checkpoint("refused", Vec::new()));
        assert!(matches!(refused, Err(Error::ReadOnly)), "{refused:?}");
        assert!(matches!(node.put(2), Err(Error::ReadOnly)));
        assert_eq!(node.get(1).unwrap(), Some(value(1)));
        drop(node.shard.snapshot());
    }
    let checkpoints = node.driver.block_on(node.engine.checkpoints()).unwrap();
    assert_eq!(checkpoints.iter().map(|info| info.name.as_str()).collect::<Vec<_>>(), ["kept"]);
}
