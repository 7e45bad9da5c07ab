//! Opening a state, and reading what is in it.
//!
//! 1. It is opened and read.
//! 2. The engine is dropped and the power fails again: what was read must be durable now. The second opening finds the same.
//! 3. The engine is closed, and the volume verified.
//! 4. Where there is a checkpoint, the state is opened once more, on that.

use siltstone::{Durability, Engine, Error, KeyspaceOptions, Options, Partition, Restore, Result, ScanRange, inspect};
use siltstone_io::SimDisk;

use super::catch::catch;
use super::history::entry_hash;
use crate::{Node, Simulation};

/// The keyspace of all workloads.
pub(super) const KEYSPACE: &str = "data";
/// The partition part of their keys.
pub(super) const PART_BYTES: u16 = 2;

/// What was found.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Recovered {
    /// Keys, and the hashes of their entries.
    pub(super) entries: Vec<(Vec<u8>, u64)>,
    /// Names, oldest first.
    pub(super) checkpoints: Vec<String>,
    /// What the last checkpoint holds.
    pub(super) at_checkpoint: Option<Vec<(Vec<u8>, u64)>>,
}

/// How the workloads open their volumes, and the checks after them: small in all respects, so that everything happens soon.
pub(super) fn settings(options: Options, shards: usize) -> Options {
    options
        .shards(shards)
        .key_groups(16)
        .memory(shards * (4 << 20))
        .memtable_bytes(16 << 10)
        .extent_bytes(64 << 10)
        .table_bytes(32 << 10)
        .capacity(1 << 30)
        .keyspace(KEYSPACE, KeyspaceOptions::default().partition(Partition::Prefix(PART_BYTES)))
}

/// See the module. `disk` makes the state anew. With `logs` everything that is durable is wanted, otherwise the last checkpoint.
pub(super) fn recover(
    disk: impl Fn() -> SimDisk,
    shards: usize,
    logs: bool,
    seed: u64,
) -> std::result::Result<Recovered, String> {
    let durability = if logs { Durability::Sync } else { Durability::Checkpoint };
    let open = |simulation: &mut Simulation, restore: Restore, what: &str| {
        let options = settings(simulation.options(), shards).durability(durability).restore(restore);
        simulation.open(options).map_err(|error| format!("{what} fails: {error}"))
    };
    let recovered = catch(|| {
        let mut first = Simulation::on(disk(), seed);
        let mut found = read(&open(&mut first, Restore::Latest, "opening")?)?;
        first.disk.crash();
        first.disk.restart();
        let node = open(&mut first, Restore::Latest, "the second opening")?;
        let again = read(&node)?;
        if again != found {
            return Err(format!("the second opening finds {}, the first found {}", again.summary(), found.summary()));
        }
        node.close().map_err(|error| format!("closing fails: {error}"))?;
        let verified = inspect::verify_simulated(&first.disk, &first.clock);
        let report = verified.map_err(|error| format!("verification fails: {error}"))?;
        if !report.is_clean() {
            return Err(format!("verification finds {report:?}"));
        }
        if !found.checkpoints.is_empty() {
            let mut second = Simulation::on(disk(), seed);
            let node = open(&mut second, Restore::LastCheckpoint, "opening the checkpoint")?;
            found.at_checkpoint = Some(read(&node)?.entries);
        }
        Ok(found)
    });
    recovered.unwrap_or_else(|panic| Err(format!("panic: {panic}")))
}

fn read(node: &Node) -> std::result::Result<Recovered, String> {
    let found = node.try_run(read_all(&node.engine)).map_err(|_| "the disk has lost power by itself".to_owned())?;
    found.map_err(|error: Error| format!("reading fails: {error}"))
}

async fn read_all(engine: &Engine) -> Result<Recovered> {
    let checkpoints = engine.checkpoints().await?.into_iter().map(|info| info.name).collect();
    let mut scan = engine.scan(&engine.keyspace(KEYSPACE)?, ScanRange::all());
    let mut entries = Vec::new();
    while let Some((key, value)) = scan.next().await? {
        let hash = entry_hash(&key, &value);
        entries.push((key, hash));
    }
    Ok(Recovered { entries, checkpoints, at_checkpoint: None })
}

impl Recovered {
    fn summary(&self) -> String {
        format!("{} entries and checkpoints {:?}", self.entries.len(), self.checkpoints)
    }
}
