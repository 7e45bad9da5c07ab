//! The harness of the whole-engine tests.
//!
//! - [`Simulation`] is a simulated disk and clock, and [`Node`] an engine on it (or on a real file) with whoever drives its shards. On a simulated
//!   disk everything runs on one thread: [`Node::run`] polls a client's future and turns the shards in an order drawn from the seed; when
//!   nobody makes progress, the clock moves to the next event. Same seed, same run.
//! - [`seeds`] runs a test for many seeds on all cores and says how to repeat a failure.
//! - [`keys`] draws keys and values.
//! - [`sim`] is the simulator behind `siltstone-sim`.
//! - [`enumerate`] is the crash enumeration behind `siltstone-crash`.

pub mod enumerate;
pub mod keys;
mod node;
pub mod seeds;
pub mod sim;

pub use node::{Crashed, Node, Simulation};
