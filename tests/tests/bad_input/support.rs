//! A small volume with known contents, and the check that an engine gives nothing but them.

use std::path::{Path, PathBuf};

use futures_util::future::join_all;
use siltstone::{Corruption, Engine, Error, Keyspace, KeyspaceOptions, Options, Result, ScanRange};
use tempfile::TempDir;

/// Keys that are compacted, keys that are in level 0, and keys that only the log has, in this order.
pub(crate) const COMPACTED: u32 = 700;
pub(crate) const FLUSHED: u32 = 900;
pub(crate) const WRITTEN: u32 = 960;

pub(crate) fn options(path: &Path) -> Options {
    Options::at(path)
        .shards(2)
        .memory(8 << 20)
        .extent_bytes(64 << 10)
        .memtable_bytes(256 << 10)
        .table_bytes(64 << 10)
        .keyspace("k", KeyspaceOptions::default())
}

pub(crate) fn key(index: u32) -> Vec<u8> {
    format!("key {index:06}").into_bytes()
}

pub(crate) fn value(index: u32) -> Vec<u8> {
    format!("value {index} ").into_bytes().repeat(10)
}

/// A closed volume.
pub(crate) struct Volume {
    directory: TempDir,
}

impl Volume {
    /// With SSTs of two levels, a checkpoint, and a log of many commits.
    pub(crate) fn new() -> Volume {
        let directory = tempfile::tempdir().unwrap();
        let engine = Engine::open(options(directory.path())).unwrap();
        let keyspace = engine.keyspace("k").unwrap();
        put_all(&engine, &keyspace, 0..COMPACTED / 2);
        engine.block_on(engine.flush()).unwrap();
        put_all(&engine, &keyspace, COMPACTED / 2..COMPACTED);
        engine.block_on(engine.flush()).unwrap();
        engine.block_on(engine.compact()).unwrap();
        put_all(&engine, &keyspace, COMPACTED..FLUSHED);
        engine.checkpoint_blocking("first", b"offsets".to_vec()).unwrap();
        for index in FLUSHED..WRITTEN {
            engine.put_blocking(&keyspace, &key(index), &value(index)).unwrap();
        }
        engine.close_blocking().unwrap();
        Volume { directory }
    }

    /// With everything in SSTs and nothing in the log.
    pub(crate) fn flushed() -> Volume {
        let directory = tempfile::tempdir().unwrap();
        let engine = Engine::open(options(directory.path())).unwrap();
        let keyspace = engine.keyspace("k").unwrap();
        put_all(&engine, &keyspace, 0..WRITTEN);
        engine.block_on(engine.flush()).unwrap();
        engine.close_blocking().unwrap();
        Volume { directory }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.directory.path().join(siltstone::VOLUME_FILE_NAME)
    }

    pub(crate) fn options(&self) -> Options {
        options(self.directory.path())
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        std::fs::read(self.path()).unwrap()
    }

    pub(crate) fn write(&self, bytes: &[u8]) {
        std::fs::write(self.path(), bytes).unwrap();
    }
}

pub(crate) fn put_all(engine: &Engine, keyspace: &Keyspace, indexes: std::ops::Range<u32>) {
    let entries: Vec<_> = indexes.map(|index| (key(index), value(index))).collect();
    let puts = entries.iter().map(|(key, value)| engine.put(keyspace, key, value));
    for result in engine.block_on(join_all(puts)) {
        result.unwrap();
    }
}

/// What an engine gave for the keys of [`Volume::new`].
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// Damage that reads reported.
    pub(crate) damage: Vec<Corruption>,
    /// Keys that were absent.
    pub(crate) absent: Vec<u32>,
}

/// Opens a volume and reads all keys, one by one and by a scan. A wrong value, and any error but corruption, fails the test.
pub(crate) fn read(options: Options) -> Result<Found> {
    let engine = Engine::open(options)?;
    let found = read_all(&engine);
    engine.close_blocking().unwrap();
    Ok(found)
}

pub(crate) fn read_all(engine: &Engine) -> Found {
    let keyspace = engine.keyspace("k").unwrap();
    let mut found = Found::default();
    let keys: Vec<_> = (0..WRITTEN).map(key).collect();
    let values = engine.block_on(join_all(keys.iter().map(|key| engine.get(&keyspace, key))));
    for (index, result) in (0..).zip(values) {
        match result {
            Ok(Some(got)) => assert!(got == value(index), "key {index} has a wrong value"),
            Ok(None) => found.absent.push(index),
            Err(error) => found.damage.push(corruption(error)),
        }
    }
    let mut scan = engine.scan(&keyspace, ScanRange::all());
    let mut scanned = 0;
    loop {
        match engine.block_on(scan.next()) {
            Ok(Some((key, got))) => {
                let index: u32 = std::str::from_utf8(&key).unwrap()["key ".len()..].parse().unwrap();
                assert!(got == value(index), "key {index} has a wrong value in a scan");
                scanned += 1;
            }
            Ok(None) => break,
            Err(error) => {
                found.damage.push(corruption(error));
                return found;
            }
        }
    }
    assert!(!found.damage.is_empty() || scanned + found.absent.len() == WRITTEN as usize, "a scan lost keys");
    found
}

impl Found {
    pub(crate) fn is_everything(&self) -> bool {
        self.damage.is_empty() && self.absent.is_empty()
    }
}

#[track_caller]
pub(crate) fn corruption(error: Error) -> Corruption {
    match error {
        Error::Corruption(corruption) => *corruption,
        other => panic!("{other:?} where corruption was expected"),
    }
}
