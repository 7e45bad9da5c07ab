//! The simulator: whole engines on simulated disks, in virtual time, under faults, from one seed.
//!
//! One thread runs everything. A [`Plan`] is drawn from the seed: the disk and the rates of its faults, the sizes of the volume, how many clients do
//! how much. A world leads a volume through its lives: it is opened (with any number of shards, on the latest state or a checkpoint),
//! compared with the oracle, worked on by many clients, and closed or crashed, also in the middle of a recovery. Shards and clients take
//! their turns, messages and completions come, in an order drawn from the seed. In the last life there are no faults, and everything that
//! is asked for must be done.
//!
//! # What must hold
//!
//! 1. Crash faults: everything is recovered that was acknowledged as durable, and of each shard a prefix of what was submitted.
//! 2. Reads give what the model says, or fail with an error that an injected fault explains: it names the damaged place.
//! 3. A checkpoint holds exactly what began before its barrier, over all shards. Snapshots do not change.
//! 4. Once faults stop, everything that is asked for is done; nothing waits for ever.
//! 5. The extents in use are those that somebody refers to; a verification of the volume finds nothing.
//! 6. Opening again changes nothing.
//! 7. Same seed, same run.

mod canary;
mod cells;
mod clients;
mod damage;
mod excuses;
mod finish;
mod journal;
mod local;
mod operators;
mod oracle;
mod order;
mod plan;
mod recovery;
pub mod run;
mod shift;
mod tally;
mod typed;
mod workload;
mod world;

pub use plan::{Canary, CanaryPlan, Contract, Limits, Plan, fault_names};
pub use tally::Tally;
