//! Timers beside a barrier.

use siltstone::state::{Descriptor, Timers, partition_of};
use siltstone::{Durability, Error, KeyspaceOptions, Partition, Restore, Result};
use siltstone_tests::{Node, Simulation};

/// Simulator, seeds 2 and 55: an operator of the new epoch that fired a timer held the lock of the timers while its write waited for admission;
/// admission waited for the end of an operator of the old epoch, and that for the lock.
#[test]
fn an_operator_of_an_old_epoch_finds_its_timers_while_a_newer_one_waits_to_fire() {
    let mut simulation = Simulation::new(1);
    let descriptor = Descriptor::<Timers<u8>>::new("timers");
    let options = simulation
        .options()
        .shards(1)
        .memory(4 << 20)
        .memtable_bytes(16 << 10)
        .extent_bytes(64 << 10)
        .durability(Durability::Checkpoint)
        .restore(Restore::Latest)
        .keyspace("bulk", KeyspaceOptions::default().partition(Partition::Prefix(1)))
        .state(&descriptor);
    let node = simulation.open(options).unwrap_or_else(|error| panic!("{error}"));
    let fired = node.run(fire_beside_a_straggler(&node, &descriptor)).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(fired, ((Some(20), Some((10, 1))), Some((20, 1))));
}

type Fired = Option<(i64, u8)>;

/// What a straggler finds, and what the newer operator, which waits for the straggler's end, has fired; and what comes after.
async fn fire_beside_a_straggler(
    node: &Node,
    descriptor: &Descriptor<Timers<u8>>,
) -> Result<((Option<i64>, Fired), Fired)> {
    let engine = &node.engine;
    let (timers, bulk) = (descriptor.bind(engine)?, engine.keyspace("bulk")?);
    let pop = |key: u8| {
        let timers = timers.clone();
        engine.on_shard(&partition_of(&key), move |shard| async move { timers.pop_due(&shard, 100).await })
    };
    let of_straggler = timers.clone();
    let (release, wait) = oneshot::channel::<()>();
    let straggler = engine.on_shard(&partition_of(&1u8), move |shard| async move {
        of_straggler.register(&shard, 10, &1).await?;
        of_straggler.register(&shard, 20, &1).await?;
        let _ = wait.into_future().await;
        of_straggler.next_due(&shard).await
    });
    engine.stats().await?;
    let cut = engine.checkpoint("cut", Vec::new());
    // The new epoch fills all memtables: nothing is written out before the straggler has ended.
    let filler = engine.on_shard(&[2], move |shard| async move {
        for index in 0..400u16 {
            shard.put(&bulk, &[&[2], &index.to_be_bytes()[..]].concat(), &[0; 1000]).await?;
        }
        Ok::<(), Error>(())
    });
    while engine.stats().await?.admission_waits == 0 {}
    let newer = pop(3);
    for _ in 0..20 {
        engine.stats().await?;
    }
    let _ = release.send(());
    let next = straggler.await??;
    let fired = newer.await??;
    filler.await??;
    cut.await?;
    Ok(((next, fired), pop(4).await??))
}
