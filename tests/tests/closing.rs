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
