//! Drives a shard from the program's own loop: no thread of Siltstone's, state is a function call away, and the loop decides when the shard
//! works on its background tasks.
//!
//! `cargo run --release -p siltstone --example own_loop`

use std::cell::Cell;
use std::rc::Rc;

use siltstone::{Budget, Durability, Engine, KeyspaceOptions, Options, Result, Turn};

fn main() -> Result<()> {
    let directory = std::env::temp_dir().join("siltstone-own-loop");
    let options =
        Options::at(&directory).durability(Durability::Checkpoint).keyspace("totals", KeyspaceOptions::default());
    let (engine, seeds) = Engine::open_driven(options)?;
    let seed = seeds.into_iter().next().expect("one shard, one seed");
    let mut driver = seed.start()?;
    let totals = engine.keyspace("totals")?;

    let done = Rc::new(Cell::new(0));
    for event in 0..1000u64 {
        // An event is an operator: a task of the shard's executor.
        let (shard, totals, done) = (driver.local().begin(), totals.clone(), Rc::clone(&done));
        driver.spawn(async move {
            let key = (event % 10).to_be_bytes();
            let total = match shard.get(&totals, &key).await {
                Ok(Some(value)) => u64::from_le_bytes(value[..8].try_into().expect("totals have 8 bytes")),
                _ => 0,
            };
            if shard.put(&totals, &key, &(total + event).to_le_bytes()).await.is_ok() {
                done.set(done.get() + 1);
            }
        });
        driver.turn(&Budget::default());
    }
    while done.get() < 1000 {
        if driver.turn(&Budget::default()) != Turn::Progress {
            driver.park(None);
        }
    }
    let checkpoint = driver.block_on(engine.checkpoint("events-0-999", b"offset 1000".to_vec()))?;
    println!("1000 events, checkpoint {} is durable", checkpoint.name);
    Ok(())
}
