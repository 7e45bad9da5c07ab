//! For the tests of the engine and of its tests: deliberate bugs, coverage marks, an audit. No part of the public API, and in no build
//! without the feature `testing`.
//!
//! - [`mutants`]: mistakes that a harness must notice, switched on by name.
//! - [`marks`]: counts of the paths of recovery and fault handling that were taken.
//! - [`audit()`]: whether the extents in use are those that something refers to.

mod audit;
pub mod marks;
pub mod mutants;

pub use audit::{Audit, audit};
pub(crate) use audit::{Owner, References};
