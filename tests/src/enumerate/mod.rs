//! Crash enumeration: from the recorded I/O of a run, the states in which a power failure might have left the device, each opened and
//! compared with what was promised at that moment.
//!
//! # How
//!
//! 1. A workload runs on an engine whose device is recorded ([`workload`], [`small`]). Beside the I/O the trace holds [`marks`]: which batch was applied
//!    in which shard, and which is durable by the engine's word.
//! 2. The trace is played into a model of a disk with a volatile cache (`disk`): each block has a durable content, and the contents that
//!    writes gave it which no flush has made durable yet, those of writes in flight included.
//! 3. At a *crash point* each block holds any one of these, independently of all others, and the device has its durable size or a later one.
//!    All combinations are tried where they are few, some of them where they are many (`states`).
//! 4. Each state is put on a simulated disk and opened, read, crashed again, opened again, closed and verified (`recover`). What is found must
//!    be, of each shard, what a prefix of its writes makes: not less than the durable ones, not more than those applied (`history`).
//!
//! # Crash points
//!
//! The set of possible states grows with each submission, and shrinks only when a flush or a durable write completes. The bounds move only at
//! marks. So it is enough to try all states right before each event of these two kinds, and at the end: the set at any other moment
//! is part of the one at the next crash point, with the same bounds.

mod catch;
mod disk;
mod history;
pub mod marks;
mod recover;
mod run;
pub mod small;
mod states;
mod trace;
pub mod workload;

pub use history::Broken;
pub use run::{Enumerator, Failure, Limits, Report};
pub use trace::{Event, Operation, Trace};
