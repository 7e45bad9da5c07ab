//! For the tests of the engine and of its tests: deliberate bugs, coverage marks, an audit. No part of the public API, and in no build
//! without the feature `testing`.
//!
//! - [`mutants`]: mistakes that a harness must notice, switched on by name.
//! - [`marks`]: counts of the paths of recovery and fault handling that were taken.
//! - [`audit()`]: whether the extents in use are those that something refers to.
//! - [`LateOperator`]: an operator that arrives behind a barrier which it came before.
//! - [`record`]: writes down all of a volume's I/O.
//! - [`limit_cache`]: a cache that is smaller than the least memory allows.
//! - [`TurnedShards`]: an engine in virtual time, turned by the calling thread.

mod audit;
mod late;
pub mod marks;
pub mod mutants;
#[cfg(all(test, not(loom)))]
#[expect(clippy::unwrap_used, reason = "a test stops where something is not as it should be")]
mod tests;
mod turns;

pub use audit::{Audit, audit, audit_quiet, lose_extent};
pub(crate) use audit::{Owner, References};
pub use late::{LateOperator, epoch_of};
pub use siltstone_io::testing::Recorder;
pub use turns::{Crashed, TurnedShards};

use crate::Options;

/// Options with which a volume's device is recorded from its opening on.
#[must_use]
pub fn record(mut options: Options, recorder: &Recorder) -> Options {
    options.recorder = Some(recorder.clone());
    options
}

/// Options with which a shard's cache has at most so many frames, so that a small volume does not fit into it. Memory has a minimum.
#[must_use]
pub fn limit_cache(mut options: Options, frames: usize) -> Options {
    options.cache_frames_max = frames;
    options
}
