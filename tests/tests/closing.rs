//! Closing at every moment of a flush, and where what is left cannot be written.

use std::time::Duration;

use futures_util::future::join_all;
use siltstone::{Durability, Error, KeyspaceOptions, Options, Result};
use siltstone_io::OpKind;
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

/// Simulator, seed 300494: a log without entries was held by a shard that nobody wrote to, though no manifest named it.
#[test]
fn a_log_without_entries_is_given_back_at_the_next_opening() {
    let mut simulation = Simulation::new(1);
    let node = simulation.open(options(&simulation)).unwrap_or_else(|error| panic!("{error}"));
    node.close().unwrap_or_else(|error| panic!("{error}"));
    let node = simulation.open(options(&simulation)).unwrap_or_else(|error| panic!("{error}"));
    let audit = node.run(siltstone::testing::audit_quiet(&node.engine)).unwrap_or_else(|error| panic!("{error}"));
    assert!(audit.is_clean(), "{audit:?}");
}

/// Puts that are acknowledged at once, then the end, which says whether they are written: what closing said, and whether all of them are there.
fn end_of(count: u32, durability: Durability, prepare: impl FnOnce(&Simulation)) -> (Result<()>, bool) {
    let mut simulation = Simulation::new(u64::from(count));
    let options = |simulation: &Simulation| options(simulation).durability(durability);
    let node = simulation.open(options(&simulation)).unwrap_or_else(|error| panic!("{error}"));
    prepare(&simulation);
    let written = node.run(async {
        let keyspace = node.engine.keyspace("k")?;
        let puts = (0..count).map(|number| {
            let (engine, keyspace) = (&node.engine, &keyspace);
            async move { engine.put(keyspace, &number.to_be_bytes(), &[7; 1000]).await }
        });
        // Who is refused was acknowledged nothing.
        Ok::<_, Error>(join_all(puts).await)
    });
    let acknowledged: Vec<u32> = match written {
        Ok(results) => (0..count).zip(results).filter(|(_, result)| result.is_ok()).map(|(number, _)| number).collect(),
        Err(error) => panic!("{error}"),
    };
    let closed = node.close();
    simulation.disk.heal();
    simulation.disk.set_capacity(1 << 30);
    simulation.disk.crash();
    simulation.disk.restart();
    let node = simulation.open(options(&simulation)).unwrap_or_else(|error| panic!("{error}"));
    let complete = node.run(async {
        let keyspace = node.engine.keyspace("k")?;
        for number in &acknowledged {
            if node.engine.get(&keyspace, &number.to_be_bytes()).await?.is_none() {
                return Ok(false);
            }
        }
        Ok::<_, Error>(true)
    });
    (closed, complete.unwrap_or_else(|error| panic!("{error}")))
}

const LATER: Durability = Durability::Interval(Duration::from_secs(1));

/// Closing always said that all was well, also where the log found no space for what had been acknowledged.
#[test]
fn closing_says_that_there_was_no_space_for_what_was_acknowledged() {
    let (mut well, mut refused) = (0, 0);
    for count in (20..260).step_by(20) {
        let (closed, complete) =
            end_of(count, LATER, |simulation| simulation.disk.set_capacity(simulation.disk.len_bytes()));
        match closed {
            Ok(()) => well += 1,
            Err(Error::NoSpace(_)) => refused += 1,
            Err(error) => panic!("{count} writes: {error}"),
        }
        assert!(complete || closed.is_err(), "closed well after {count} writes, and some are lost");
    }
    assert!(well > 0 && refused > 0, "{well} closed well, {refused} not");
}

/// The same where the last write of the log failed.
#[test]
fn closing_says_that_what_was_acknowledged_could_not_be_written() {
    let fail = |simulation: &Simulation| simulation.disk.fail_after(OpKind::Write, 0, nix::libc::EIO);
    let (closed, complete) = end_of(20, LATER, fail);
    assert!(!complete, "the write did not fail");
    assert!(matches!(closed, Err(Error::Poisoned { .. })), "{closed:?}");
    // Here nobody was told that it was written, and what only a checkpoint keeps is not.
    assert!(matches!(end_of(20, Durability::Sync, fail), (Ok(()), true)));
    assert!(matches!(end_of(20, Durability::Checkpoint, fail), (Ok(()), false)));
}
