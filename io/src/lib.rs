//! The I/O layer under the Siltstone storage engine: a per-core executor on io_uring, devices, and their simulation.

mod error;

pub use error::{IoError, OpKind};
