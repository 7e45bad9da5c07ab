//! Operations on a small engine over a simulated disk, as an input plans them, checked against sorted maps.
//!
//! 1. The input is a [`plan`]: the disk, options, and steps: reads, writes and batches that are waited for or not, scans, snapshots, flush,
//!    compaction, checkpoints, time, closing and opening with other numbers of shards and other durability, power failures now or at a write to
//!    come, also in recovery.
//! 2. A [`machine`] runs the engine, one thread, in virtual time, in an order that follows from the input.
//! 3. The [`world`] carries the steps out and compares every read with the [`model`].
//! 4. After a failure, [`recovery`] opens the volume until that works, and checks that what is there can be explained: everything that
//!    was acknowledged as durable, prefixes, whole batches, exact checkpoints.
//!
//! No fault but loss of power is planned, so any error while the power is on is a bug.

mod machine;
mod model;
mod plan;
mod reads;
mod recovery;
mod world;

use arbitrary::{Arbitrary, Unstructured};

pub(super) use machine::Machine;
use plan::Plan;
use world::World;

/// Carries a plan out.
pub fn operations(bytes: &[u8]) {
    let Ok(plan) = Plan::arbitrary(&mut Unstructured::new(bytes)) else { return };
    let mut world = World::create(&plan.setup);
    for step in &plan.steps {
        world.step(step);
    }
    world.finish();
}
