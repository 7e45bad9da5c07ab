//! Full disks: an error before it is a failure. Reads go on, nothing acknowledged is lost, and once there is space writing goes on.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::Path;

use siltstone::{Engine, Error, KeyspaceOptions, Options};
use siltstone_io::testing::places::{Filesystem, Mounted, or_skipped};

use crate::faults::{Machine, Simulated};
use crate::support::{key, value};

/// More writes than fit into any of the small disks here.
const MANY: u32 = 100_000;

/// Writes until the disk is full; what was acknowledged.
fn fill(node: &mut Simulated, from: u32) -> BTreeMap<u32, bool> {
    let mut outcomes = BTreeMap::new();
    for index in from..from + MANY {
        match node.put(index) {
            Ok(()) => outcomes.insert(index, true),
            Err(Error::NoSpace(reason)) => {
                assert!(!reason.is_empty());
                outcomes.insert(index, false);
                return outcomes;
            }
            Err(other) => panic!("{other:?} where no space was expected"),
        };
    }
    panic!("the disk is never full");
}

/// Writes until one is accepted, letting virtual time pass in between.
fn write_again(node: &mut Simulated, index: u32) {
    for _ in 0..1000 {
        match node.put(index) {
            Ok(()) => return,
            Err(Error::NoSpace(_)) => node.driver.park(Some(50_000)),
            Err(other) => panic!("{other:?}"),
        }
        while node.driver.turn(&siltstone_io::Budget::default()) == siltstone_io::Turn::Progress {}
    }
    panic!("writing does not go on");
}

#[test]
fn a_full_simulated_disk_is_an_error_until_there_is_space() {
    for seed in 0..6 {
        let machine = Machine::new(seed);
        machine.disk.set_capacity((30 + 20 * seed) * (64 << 10));
        let mut node = machine.open();
        let mut outcomes = fill(&mut node, 0);
        assert!(outcomes.len() > 100, "{}", outcomes.len());
        node.check(&outcomes);
        // It stays so, and what asks for space says so too.
        for index in MANY..MANY + 20 {
            outcomes.insert(index, node.put(index).is_ok());
        }
        let flushed = node.driver.block_on(node.shard.flush());
        assert!(matches!(flushed, Ok(()) | Err(Error::NoSpace(_))), "{flushed:?}");
        let compacted = node.driver.block_on(node.shard.compact());
        assert!(matches!(compacted, Ok(()) | Err(Error::NoSpace(_))), "{compacted:?}");
        node.check(&outcomes);
        machine.disk.set_capacity(1 << 30);
        for index in 2 * MANY..2 * MANY + 1000 {
            write_again(&mut node, index);
            outcomes.insert(index, true);
        }
        node.driver.block_on(node.shard.flush()).unwrap();
        node.driver.block_on(node.shard.compact()).unwrap();
        node.check(&outcomes);
        node.close();
        let mut node = machine.open();
        node.check(&outcomes);
        node.close();
    }
}

#[test]
fn a_volume_at_its_capacity_goes_on_with_a_larger_one() {
    let machine = Machine::new(77);
    let mut node = Simulated::open(machine.options().capacity(32 * (64 << 10))).unwrap();
    let mut outcomes = fill(&mut node, 0);
    node.check(&outcomes);
    node.close();
    assert!(machine.disk.len_bytes() <= 32 * (64 << 10));
    // Full as it is, it can be read; opening it for writing needs a little space, and says so where there is none.
    let mut node = Simulated::open(machine.options().capacity(32 * (64 << 10)).read_only(true)).unwrap();
    node.check(&outcomes);
    node.close();
    match Simulated::open(machine.options().capacity(32 * (64 << 10))) {
        Ok(mut node) => {
            node.check(&outcomes);
            node.close();
        }
        Err(error) => assert!(matches!(error, Error::NoSpace(_)), "{error:?}"),
    }
    let mut node = Simulated::open(machine.options().capacity(1 << 30)).unwrap();
    for index in MANY..MANY + 500 {
        node.put(index).unwrap();
        outcomes.insert(index, true);
    }
    node.check(&outcomes);
    node.close();
}

#[test]
fn a_full_volume_can_be_closed_and_reopened_at_once() {
    let machine = Machine::new(3);
    machine.disk.set_capacity(40 * (64 << 10));
    let mut node = machine.open();
    let outcomes = fill(&mut node, 0);
    node.close();
    machine.disk.set_capacity(60 * (64 << 10));
    let mut node = machine.open();
    node.check(&outcomes);
    node.close();
}

#[test]
fn a_disk_too_small_for_a_new_volume_is_refused() {
    for extents in 0..6u64 {
        let machine = Machine::new(extents);
        machine.disk.set_capacity(extents * (64 << 10));
        let error = Simulated::open(machine.options()).err().expect("a volume needs more");
        assert!(matches!(error, Error::NoSpace(_)), "{extents} extents: {error:?}");
        // Once there is space, what was begun is no hindrance.
        machine.disk.set_capacity(1 << 30);
        machine.open().close();
    }
}

#[test]
fn a_checkpoint_without_space_fails_and_a_later_one_succeeds() {
    let machine = Machine::new(8);
    machine.disk.set_capacity(40 * (64 << 10));
    let mut node = machine.open();
    let mut outcomes = fill(&mut node, 0);
    let failed = node.driver.block_on(node.engine.checkpoint("full", Vec::new()));
    assert!(matches!(failed, Ok(_) | Err(Error::NoSpace(_))), "{failed:?}");
    machine.disk.set_capacity(1 << 30);
    for index in MANY..MANY + 300 {
        write_again(&mut node, index);
        outcomes.insert(index, true);
    }
    node.driver.block_on(node.engine.checkpoint("later", b"bytes".to_vec())).unwrap();
    node.check(&outcomes);
    node.close();
}

/// A real filesystem: fill, read, free, go on, reopen.
fn on_a_full_filesystem(path: &Path, free: impl FnOnce()) {
    let options = || {
        Options::at(path.join("state"))
            .memory(8 << 20)
            .extent_bytes(64 << 10)
            .memtable_bytes(64 << 10)
            .table_bytes(128 << 10)
            .keyspace("k", KeyspaceOptions::default())
    };
    let engine = Engine::open(options()).unwrap();
    let keyspace = engine.keyspace("k").unwrap();
    let large = |index: u32| value(index).repeat(20);
    let mut acknowledged = Vec::new();
    let full = loop {
        let index = acknowledged.len() as u32;
        match engine.put_blocking(&keyspace, &key(index), &large(index)) {
            Ok(()) => acknowledged.push(index),
            Err(error) => break error,
        }
        assert!(index < MANY, "the disk is never full");
    };
    assert!(matches!(full, Error::NoSpace(_)), "{full:?}");
    let check = |engine: &Engine, acknowledged: &[u32]| {
        for &index in acknowledged {
            assert_eq!(engine.get_blocking(&keyspace, &key(index)).unwrap(), Some(large(index)), "{index}");
        }
    };
    check(&engine, &acknowledged);
    free();
    let mut tries = 0;
    for index in MANY..MANY + 200 {
        while let Err(error) = engine.put_blocking(&keyspace, &key(index), &large(index)) {
            assert!(matches!(error, Error::NoSpace(_)), "{error:?}");
            tries += 1;
            assert!(tries < 1_000_000, "writing does not go on");
        }
        acknowledged.push(index);
    }
    check(&engine, &acknowledged);
    engine.close_blocking().unwrap();
    let engine = Engine::open(options()).unwrap();
    check(&engine, &acknowledged);
    engine.close_blocking().unwrap();
}

#[test]
fn a_full_tmpfs_is_an_error_until_there_is_space() {
    let folder = tempfile::tempdir().unwrap();
    let Some(mounted) = or_skipped(Mounted::tmpfs(&folder.path().join("mounted"), 6 << 20)) else { return };
    on_a_full_filesystem(mounted.path(), || mounted.remount("size=64m").unwrap());
}

/// Another file takes all but this many bytes, and is removed.
fn on_an_almost_full_filesystem(filesystem: Filesystem, spare_bytes: u64) {
    let folder = tempfile::tempdir().unwrap();
    let Some(mounted) = or_skipped(Mounted::new(filesystem, folder.path())) else { return };
    let path = mounted.path().join("filler");
    let mut filler = File::create(&path).unwrap();
    while filler.write_all(&[1; 64 << 10]).is_ok() {}
    // Some give blocks to what is written only later.
    let _ = filler.sync_all();
    filler.set_len(filler.metadata().unwrap().len() - spare_bytes).unwrap();
    filler.sync_all().unwrap();
    drop(filler);
    on_a_full_filesystem(mounted.path(), || std::fs::remove_file(&path).unwrap());
}

#[test]
fn a_full_ext4_is_an_error_until_there_is_space() {
    on_an_almost_full_filesystem(Filesystem::Ext4, 16 << 20);
}

#[test]
fn a_full_xfs_is_an_error_until_there_is_space() {
    on_an_almost_full_filesystem(Filesystem::Xfs, 16 << 20);
}

#[test]
fn a_full_btrfs_is_an_error_until_there_is_space() {
    on_an_almost_full_filesystem(Filesystem::Btrfs, 32 << 20);
}
