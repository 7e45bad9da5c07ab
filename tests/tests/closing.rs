//! Closing at every moment of a flush.

use std::time::Duration;

use siltstone::{Durability, Error, KeyspaceOptions, Options, Result};
use siltstone_tests::Simulation;

fn options(simulation: &Simulation) -> Options {
    simulation
        .options()
        .memory(8 << 20)
        .memtable_bytes(512 << 10)
        .extent_bytes(64 << 10)
        // About as long as a write takes: one is under way nearly always, and there is more to write behind it.
        .durability(Durability::Interval(Duration::from_micros(50)))
        .keyspace("k", KeyspaceOptions::default())
}

/// Simulator, seed 50: a flush that closing gave up counted as a failed write. The shard was read-only, and what was acknowledged and still in the
/// log's buffer was never written.
#[test]
fn what_was_acknowledged_is_there_when_the_engine_was_closed_during_a_flush() {
    for count in (200..800u32).step_by(3) {
        let mut simulation = Simulation::new(u64::from(count));
        let node = simulation.open(options(&simulation)).unwrap_or_else(|error| panic!("{error}"));
        let written = node.run(async {
            let keyspace = node.engine.keyspace("k")?;
            for number in 0..count {
                node.engine.put(&keyspace, &number.to_be_bytes(), &[7; 1000]).await?;
            }
            Ok::<(), Error>(())
        });
        written.unwrap_or_else(|error| panic!("{count} writes: {error}"));
        node.close().unwrap_or_else(|error| panic!("{count} writes: {error}"));
        let node = simulation.open(options(&simulation)).unwrap_or_else(|error| panic!("{error}"));
        let missing: Result<Vec<u32>> = node.run(async {
            let keyspace = node.engine.keyspace("k")?;
            let mut missing = Vec::new();
            for number in 0..count {
                if node.engine.get(&keyspace, &number.to_be_bytes()).await?.is_none() {
                    missing.push(number);
                }
            }
            Ok(missing)
        });
        assert_eq!(missing.unwrap_or_else(|error| panic!("{error}")), [0u32; 0], "of {count} writes");
    }
}

/// Simulator, seed 200374: a shard that was closing with an epoch's straggler under way was told of two barriers more, since the checkpoint of the first
/// had ended with the closing. It panicked at a third epoch.
#[test]
fn checkpoints_while_some_shards_are_closing_already() {
    let mut late = 0;
    for seed in 0..200 {
        let mut simulation = Simulation::new(seed);
        let options = options(&simulation).shards(2);
        let node = simulation.open(options).unwrap_or_else(|error| panic!("{error}"));
        let engine = &node.engine;
        let keyspace = engine.keyspace("k").unwrap_or_else(|error| panic!("{error}"));
        let keys: Vec<[u8; 1]> = (0..=255).map(|byte| [byte]).filter(|key| engine.shard_of(key).0 == 1).collect();
        let (_sender, receiver) = oneshot::channel::<()>();
        let ended: Result<()> = node.run(async {
            for key in &keys {
                engine.put(&keyspace, key, &[7; 1000]).await?;
            }
            // It never ends, so neither does its epoch.
            let straggler = engine.on_shard(&keys[0], |_| async move { receiver.await.is_ok() });
            engine.stats().await?;
            let first = engine.checkpoint("first", Vec::new());
            engine.stats().await?;
            let checkpoints = async {
                let mut result = first.await;
                while let Err(error) = result {
                    assert!(matches!(error, Error::Closed | Error::Busy(_)), "{error}");
                    let second = engine.checkpoint("second", Vec::new());
                    let read = engine.get(&keyspace, &keys[1]).await;
                    if read.is_err() {
                        break;
                    }
                    late += 1;
                    result = second.await;
                }
            };
            let (closed, (), _) = futures_util::future::join3(engine.close(), checkpoints, straggler).await;
            closed
        });
        ended.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    }
    assert!(late > 0, "no shard was told of a barrier while it was closing");
}
