//! Operators that come faster than a shard takes them: they keep their order, and a checkpoint holds all that were sent before it, whether
//! anybody polls their replies or not.

use siltstone::{Durability, Engine, Keyspace, KeyspaceOptions, LocalShard, Options, Result};

/// More than a mailbox holds.
const OPERATORS: u64 = 20_000;

#[test]
fn operators_beyond_the_mailbox_keep_their_order_and_belong_to_the_checkpoint_after_them() {
    let directory = tempfile::tempdir().unwrap();
    let open = || {
        let options = Options::at(directory.path());
        Engine::open(options.durability(Durability::Checkpoint).keyspace("k", KeyspaceOptions::default())).unwrap()
    };
    let engine = open();
    let keyspace = engine.keyspace("k").unwrap();
    // The replies are kept and not polled.
    let send = |index: u64| {
        let keyspace = keyspace.clone();
        engine.on_shard(b"key", move |shard| async move { follow(&shard, &keyspace, index).await })
    };
    let before: Vec<_> = (0..OPERATORS).map(send).collect();
    let checkpoint = engine.checkpoint("cut", Vec::new());
    let after: Vec<_> = (OPERATORS..OPERATORS + 1000).map(send).collect();
    engine.block_on(checkpoint).unwrap();
    for reply in before.into_iter().chain(after) {
        engine.block_on(reply).unwrap().unwrap();
    }
    assert_eq!(engine.get_blocking(&keyspace, b"key").unwrap(), Some((OPERATORS + 1000).to_be_bytes().to_vec()));
    engine.close_blocking().unwrap();

    let engine = open();
    let keyspace = engine.keyspace("k").unwrap();
    assert_eq!(engine.get_blocking(&keyspace, b"key").unwrap(), Some(OPERATORS.to_be_bytes().to_vec()));
    engine.close_blocking().unwrap();
}

/// Counts, and checks that the operator is the next in order.
async fn follow(shard: &LocalShard, keyspace: &Keyspace, index: u64) -> Result<()> {
    let found = shard.get(keyspace, b"key").await?;
    let count = found.and_then(|value| value.first_chunk().copied()).map_or(0, u64::from_be_bytes);
    assert_eq!(count, index, "an operator was overtaken");
    shard.put(keyspace, b"key", &(count + 1).to_be_bytes()).await
}
