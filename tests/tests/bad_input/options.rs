//! Options, keys, names and values out of range: the message says which one, and what is allowed; nothing is created.

use std::time::Duration;

use siltstone::{
    Durability, Engine, Error, KEY_BYTES_MAX, KeyspaceOptions, Options, Partition, Restore, SHARDS_MAX, TimeDomain,
    Ttl, VALUE_BYTES_MAX, WriteBatch,
};

use crate::support::options;

#[track_caller]
fn assert_invalid<T>(result: siltstone::Result<T>, says: &[&str]) {
    match result.err() {
        Some(Error::InvalidArgument(text)) => {
            says.iter().for_each(|word| assert!(text.contains(word), "{text:?} does not say {word:?}"));
        }
        other => panic!("{other:?} where an invalid argument was expected"),
    }
}

#[test]
fn options_out_of_range_are_refused_by_name_and_create_nothing() {
    let refused = |says: &[&str], change: &dyn Fn(Options) -> Options| {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state");
        assert_invalid(Engine::open(change(Options::at(&path))), says);
        assert_invalid(Engine::open_driven(change(Options::at(&path))), says);
        assert_invalid(Engine::open_under_baton(change(Options::at(&path))), says);
        assert!(!path.exists(), "{says:?} left a file behind");
    };
    refused(&["shards", "0", "1 to 256"], &|o| o.shards(0));
    refused(&["shards", "257"], &|o| o.shards(SHARDS_MAX + 1).memory(4 << 30));
    refused(&["key_groups", "0"], &|o| o.key_groups(0));
    refused(&["key_groups", "32769", "32768"], &|o| o.key_groups(32_769));
    refused(&["shards", "8", "4"], &|o| o.key_groups(4).shards(8));
    for bytes in [0, 1, 4096, 32 << 10, 100_000, (1 << 20) + 1, 32 << 20, 64 << 20, usize::MAX] {
        refused(&["extent_bytes", &bytes.to_string()], &|o| o.extent_bytes(bytes));
    }
    for bytes in [0, 512, 2048, 5000, 128 << 10] {
        refused(&["page_bytes", &bytes.to_string()], &|o| o.page_bytes(bytes));
    }
    refused(&["extent_bytes", "8 pages"], &|o| o.extent_bytes(64 << 10).page_bytes(16 << 10));
    refused(&["memory", "4 MiB"], &|o| o.memory((4 << 20) - 1));
    refused(&["memory", "2 shards"], &|o| o.memory(6 << 20).shards(2));
    refused(&["memtable_bytes", "16 KiB"], &|o| o.memtable_bytes(100));
    refused(&["memtable_bytes", "quarter"], &|o| o.memory(8 << 20).memtable_bytes(3 << 20));
    refused(&["table_bytes", "8 pages"], &|o| o.table_bytes(32_767));
    refused(&["table_bytes", "1 GiB"], &|o| o.table_bytes((1 << 30) + 1));
    refused(&["checkpoints_retained"], &|o| o.checkpoints_retained(0));
    refused(&["capacity", "16 extents"], &|o| o.capacity(1 << 20));
    refused(&["interval"], &|o| o.durability(Durability::Interval(Duration::ZERO)));
    refused(&["interval", "hour"], &|o| o.durability(Durability::Interval(Duration::from_secs(3601))));
    refused(&["keyspace", "twice"], &|o| {
        o.keyspace("a", KeyspaceOptions::default()).keyspace("a", KeyspaceOptions::default())
    });
    refused(&["name", "1 to 255"], &|o| o.keyspace("", KeyspaceOptions::default()));
    refused(&["name", "256"], &|o| o.keyspace("n".repeat(256), KeyspaceOptions::default()));
    refused(&["filter_bits_per_key", "33", "32"], &|o| {
        o.keyspace("a", KeyspaceOptions::default().filter_bits_per_key(33))
    });
    let ttl = Ttl { duration_ms: 0, time: TimeDomain::Event };
    refused(&["TTL", "zero"], &|o| o.keyspace("a", KeyspaceOptions::default().ttl(ttl)));
}

#[test]
fn the_bounds_themselves_are_allowed() {
    let allowed = |change: &dyn Fn(Options) -> Options| {
        let directory = tempfile::tempdir().unwrap();
        let engine = Engine::open(change(options(directory.path()))).unwrap();
        let keyspace = engine.keyspace("k").unwrap();
        engine.put_blocking(&keyspace, b"key", b"value").unwrap();
        engine.block_on(engine.flush()).unwrap();
        engine.close_blocking().unwrap();
        let engine = Engine::open(change(options(directory.path()))).unwrap();
        assert_eq!(engine.get_blocking(&keyspace, b"key").unwrap().as_deref(), Some(&b"value"[..]));
        engine.close_blocking().unwrap();
    };
    allowed(&|o| o.shards(1).key_groups(1));
    allowed(&|o| o.key_groups(32_768));
    allowed(&|o| o.extent_bytes(16 << 20));
    allowed(&|o| o.extent_bytes(512 << 10).page_bytes(64 << 10).table_bytes(512 << 10));
    allowed(&|o| o.memtable_bytes(16 << 10).table_bytes(32 << 10));
    allowed(&|o| o.capacity(16 * (64 << 10)));
    allowed(&|o| o.durability(Durability::Interval(Duration::from_secs(3600))));
    allowed(&|o| o.keyspace("n".repeat(255), KeyspaceOptions::default().filter_bits_per_key(32)));
    allowed(&|o| o.keyspace("none", KeyspaceOptions::default().filter_bits_per_key(0)));
}

#[test]
fn keys_values_and_batches_out_of_range_are_refused_and_change_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let engine = Engine::open(options(directory.path())).unwrap();
    let keyspace = engine.keyspace("k").unwrap();
    assert_invalid(engine.put_blocking(&keyspace, b"", b"value"), &["key of 0 bytes"]);
    let long = vec![7; KEY_BYTES_MAX + 1];
    assert_invalid(engine.put_blocking(&keyspace, &long, b"value"), &["32769", "32768"]);
    assert_invalid(engine.delete_blocking(&keyspace, &long), &["32769"]);
    assert_invalid(engine.put_blocking(&keyspace, b"key", &vec![0; VALUE_BYTES_MAX + 1]), &["16777217"]);
    assert_invalid(engine.put_blocking(&keyspace, b"key", &vec![0; 1 << 20]), &["quarter of the shard's memory"]);
    let mut batch = WriteBatch::new();
    for index in 0..100u32 {
        batch.put(&keyspace, &index.to_be_bytes(), b"value");
    }
    assert_invalid(engine.write_blocking(batch), &["one shard"]);
    let mut batch = WriteBatch::new();
    batch.put(&keyspace, b"key", b"value");
    batch.put(&keyspace, b"", b"value");
    assert!(engine.write_blocking(batch).is_err());
    assert_eq!(engine.get_blocking(&keyspace, b"key").unwrap(), None);
    assert_eq!(engine.get_blocking(&keyspace, b"").unwrap(), None);
    assert_eq!(engine.get_blocking(&keyspace, &long).unwrap(), None);
    engine.put_blocking(&keyspace, &long[1..], &vec![1; 900 << 10]).unwrap();
    engine.block_on(engine.flush()).unwrap();
    assert_eq!(engine.get_blocking(&keyspace, &long[1..]).unwrap(), Some(vec![1; 900 << 10]));
    engine.close_blocking().unwrap();
}

#[test]
fn names_that_are_not_there_or_out_of_range_are_named() {
    let directory = tempfile::tempdir().unwrap();
    let engine = Engine::open(options(directory.path())).unwrap();
    let not_found = |result: Option<Error>, says: &str| {
        assert!(matches!(&result, Some(Error::NotFound(text)) if text.contains(says)), "{result:?}");
    };
    not_found(engine.keyspace("other").err(), "\"other\"; there are [\"k\"]");
    assert_invalid(engine.block_on(engine.create_keyspace("", KeyspaceOptions::default())), &["1 to 255"]);
    assert_invalid(engine.checkpoint_blocking("", Vec::new()), &["1 to 255"]);
    assert_invalid(engine.checkpoint_blocking(&"n".repeat(256), Vec::new()), &["256"]);
    assert_invalid(engine.checkpoint_blocking("large", vec![0; 64 << 20]), &["67108864"]);
    engine.checkpoint_blocking("present", Vec::new()).unwrap();
    not_found(engine.block_on(engine.drop_checkpoint("absent")).err(), "absent");
    engine.close_blocking().unwrap();
    let restore = options(directory.path()).restore(Restore::Checkpoint("absent".into()));
    not_found(Engine::open(restore).err(), "\"absent\"; it has [\"present\"]");
    let missing = options(directory.path()).read_only(true).keyspace("other", KeyspaceOptions::default());
    not_found(Engine::open(missing).err(), "other");
    let many = options(directory.path()).shards(256).key_groups(1024).memory(1 << 30);
    Engine::open(many).unwrap().close_blocking().unwrap();
}

#[test]
fn a_keyspace_with_another_partition_part_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    Engine::open(options(directory.path())).unwrap().close_blocking().unwrap();
    let other = Options::at(directory.path()).keyspace("k", KeyspaceOptions::default().partition(Partition::Prefix(2)));
    assert_invalid(Engine::open(other), &["keyspace k", "WholeKey", "Prefix(2)", "cannot change"]);
}

#[test]
fn more_shards_than_a_volume_has_key_groups_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    Engine::open(options(directory.path()).key_groups(2)).unwrap().close_blocking().unwrap();
    let more = options(directory.path()).shards(3).memory(16 << 20);
    assert_invalid(Engine::open(more), &["shards is 3", "2 key groups"]);
    Engine::open(options(directory.path())).unwrap().close_blocking().unwrap();
}

#[test]
fn a_closed_engine_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let engine = Engine::open(options(directory.path())).unwrap();
    let keyspace = engine.keyspace("k").unwrap();
    engine.close_blocking().unwrap();
    assert!(matches!(engine.put_blocking(&keyspace, b"key", b"value"), Err(Error::Closed)));
    assert!(matches!(engine.get_blocking(&keyspace, b"key"), Err(Error::Closed)));
    assert!(matches!(engine.block_on(engine.flush()), Err(Error::Closed)));
    assert!(matches!(engine.checkpoint_blocking("late", Vec::new()), Err(Error::Closed)));
    engine.close_blocking().unwrap();
}
