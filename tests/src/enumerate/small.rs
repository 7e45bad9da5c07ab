//! All small workloads: up to three operations and two flushes, on two keys.
//!
//! Operations are a put or delete of either key, a batch of two keys, and a checkpoint. With two shards the keys are in different ones. Writes are
//! durable at once, or when they are flushed, or with a checkpoint ([`Mode`]). A
//! flush writes the memtables out (`F`) or, where writes are not durable at once but there is a log, only makes that durable (`S`). A flush comes behind an operation, and no
//! two behind the same one: with nothing in between the second has nothing to do. With one shard the keys change roles in half of them, and those
//! are left out in which the second key comes first.

use std::fmt;
use std::str::FromStr;

use siltstone::Error;
use siltstone_io::{SimOptions, testing::Recorder};

use super::recover::settings;
use super::trace::Trace;
use super::workload::{Client, Mode};
use crate::Simulation;

/// Operations in a workload, at most.
pub const OPERATIONS_MAX: usize = 3;
/// Flushes in a workload, at most.
pub const FLUSHES_MAX: usize = 2;
/// All run on the same disk, so that workloads with the same beginning share its states.
const SEED: u64 = 1;

/// One step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Puts the first or second key.
    Put(u8),
    /// Deletes the first or second key.
    Delete(u8),
    /// Puts the first key, and another beside it, in one batch.
    Batch,
    /// A checkpoint, and waits for it.
    Checkpoint,
    /// Writes the memtables out.
    Flush,
    /// Makes the log durable.
    Sync,
}

const OPERATIONS: [Step; 6] =
    [Step::Put(1), Step::Put(2), Step::Delete(1), Step::Delete(2), Step::Batch, Step::Checkpoint];

/// A small workload. As text: `sync/2:P1,F,D1`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Small {
    /// When its writes are durable.
    pub mode: Mode,
    /// Shards.
    pub shards: usize,
    /// What it does.
    pub steps: Vec<Step>,
}

/// All of them.
pub fn all(shards: usize) -> Vec<Small> {
    let mut found = Vec::new();
    for mode in Mode::ALL {
        let flushes: &[Step] = if mode == Mode::Interval { &[Step::Flush, Step::Sync] } else { &[Step::Flush] };
        let mut begun = vec![(Vec::new(), 0, 0)];
        while let Some((steps, operations, flushed)) = begun.pop() {
            for operation in OPERATIONS {
                let longer = [&steps[..], &[operation]].concat();
                let more = operations + 1 < OPERATIONS_MAX;
                if flushed < FLUSHES_MAX {
                    for flush in flushes {
                        let longer = [&longer[..], &[*flush]].concat();
                        if more {
                            begun.push((longer.clone(), operations + 1, flushed + 1));
                        }
                        found.push(Small { mode, shards, steps: longer });
                    }
                }
                if more {
                    begun.push((longer.clone(), operations + 1, flushed));
                }
                found.push(Small { mode, shards, steps: longer });
            }
        }
    }
    found.retain(|small| shards > 1 || !small.begins_with_second_key());
    found
}

impl Small {
    fn begins_with_second_key(&self) -> bool {
        let keyed = self.steps.iter().find(|step| !matches!(step, Step::Checkpoint | Step::Flush | Step::Sync));
        matches!(keyed, Some(Step::Put(2) | Step::Delete(2)))
    }

    /// Runs it on a simulated disk.
    pub fn record(&self) -> Result<Trace, Error> {
        let recorder = Recorder::in_memory();
        let options = SimOptions { latency_us: 5..20, ..SimOptions::default() };
        let mut simulation = Simulation::with(SEED, options, 0.0);
        let options = settings(simulation.options(), self.shards).durability(self.mode.durability());
        let name = format!("siltstone-crash small --only {self}");
        Client::begin(&recorder, self.shards, self.mode, SEED, &name);
        let node = simulation.open(siltstone::testing::record(options, &recorder))?;
        let client = Client::new(node.engine.clone(), recorder.clone(), self.mode)?;
        node.run(self.run(&client))?;
        drop(node);
        let trace = recorder.finish().unwrap_or_else(|error| unreachable!("memory does not fail: {error}"));
        Ok(Trace::parse(trace).unwrap_or_else(|error| panic!("the recorder writes what the reader reads: {error}")))
    }

    async fn run(&self, client: &Client) -> Result<(), Error> {
        // One key in each shard.
        let first = client.part_in(0);
        let second = client.part_in(self.shards - 1);
        let key = |part: [u8; 2], which: u8| [&part[..], &[which]].concat();
        for (number, step) in self.steps.iter().enumerate() {
            let value = Some(format!("value {number}").into_bytes());
            let (part, changes) = match step {
                Step::Put(1) => (first, vec![(key(first, 1), value)]),
                Step::Put(_) => (second, vec![(key(second, 2), value)]),
                Step::Delete(1) => (first, vec![(key(first, 1), None)]),
                Step::Delete(_) => (second, vec![(key(second, 2), None)]),
                Step::Batch => (first, vec![(key(first, 1), value.clone()), (key(first, 3), value)]),
                Step::Checkpoint => {
                    client.checkpoint(&format!("checkpoint {number}")).await?;
                    continue;
                }
                Step::Flush => {
                    client.flush().await?;
                    continue;
                }
                Step::Sync => {
                    client.sync().await?;
                    continue;
                }
            };
            client.write(part, changes).await?;
        }
        Ok(())
    }
}

impl fmt::Display for Small {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}:", self.mode.name(), self.shards)?;
        for (index, step) in self.steps.iter().enumerate() {
            let comma = if index > 0 { "," } else { "" };
            match step {
                Step::Put(key) => write!(f, "{comma}P{key}")?,
                Step::Delete(key) => write!(f, "{comma}D{key}")?,
                Step::Batch => write!(f, "{comma}B")?,
                Step::Checkpoint => write!(f, "{comma}C")?,
                Step::Flush => write!(f, "{comma}F")?,
                Step::Sync => write!(f, "{comma}S")?,
            }
        }
        Ok(())
    }
}

impl FromStr for Small {
    type Err = String;

    fn from_str(text: &str) -> Result<Small, String> {
        let wrong = || format!("{text:?} is not a workload such as sync/2:P1,F,D1");
        let (head, steps) = text.split_once(':').ok_or_else(wrong)?;
        let (name, shards) = head.split_once('/').ok_or_else(wrong)?;
        let mode = Mode::ALL.into_iter().find(|mode| mode.name() == name).ok_or_else(wrong)?;
        let step = |step: &str| match step {
            "P1" => Ok(Step::Put(1)),
            "P2" => Ok(Step::Put(2)),
            "D1" => Ok(Step::Delete(1)),
            "D2" => Ok(Step::Delete(2)),
            "B" => Ok(Step::Batch),
            "C" => Ok(Step::Checkpoint),
            "F" => Ok(Step::Flush),
            "S" => Ok(Step::Sync),
            _ => Err(wrong()),
        };
        let shards = shards.parse().ok().filter(|shards| (1..=2).contains(shards)).ok_or_else(wrong)?;
        Ok(Small { mode, shards, steps: steps.split(',').map(step).collect::<Result<_, _>>()? })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn all_small_workloads_are_there_once_and_come_back_from_their_text() {
        let all = all(2);
        // With n operations, of 6 kinds each, and up to two flushes, of one or two kinds, behind different ones.
        let durable = 6 * 2 + 36 * 4 + 216 * 7;
        let interval = 6 * 3 + 36 * 9 + 216 * 19;
        // Without a log there is one kind of flush, as where writes are durable at once.
        assert_eq!(all.len(), 2 * durable + interval);
        let texts: BTreeSet<String> = all.iter().map(Small::to_string).collect();
        assert_eq!(texts.len(), all.len());
        assert!(all.iter().all(|small| small.to_string().parse() == Ok(small.clone())));
    }

    /// The kinds of ends: the mode, the last operation, and the flush behind it.
    fn ends<'s>(of: impl Iterator<Item = &'s Small>) -> BTreeSet<String> {
        let end = |small: &Small| {
            let steps = &small.steps;
            let operation = steps.iter().rposition(|step| !matches!(step, Step::Flush | Step::Sync)).unwrap();
            Small { steps: steps[operation..].to_vec(), ..small.clone() }.to_string()
        };
        of.map(end).collect()
    }

    /// Neighbours differ in their ends, in blocks of 18, 12 and 6: a step that shares a factor with these leaves some ends out.
    #[test]
    fn the_sample_of_the_gate_has_all_ends() {
        let gate = concat!(env!("CARGO_MANIFEST_DIR"), "/../.ci/run");
        let gate = std::fs::read_to_string(gate).unwrap();
        let every = gate.split("small --shards 2 --every ").nth(1).and_then(|rest| rest.split_whitespace().next());
        let every: usize = every.unwrap().parse().unwrap();
        let all = all(2);
        let expected = ends(all.iter());
        assert_eq!(expected.len(), 6 * (2 + 3 + 2));
        assert_eq!(ends(all.iter().step_by(every)), expected);
        assert_ne!(ends(all.iter().step_by(9)), expected, "a step of 9 was once taken");
    }
}
