//! Siltstone: an embedded storage engine for the state of latency-critical stream operators.

mod error;
mod log;
mod manifest;
mod types;
mod volume;

pub use error::{Corruption, Error, Result};
pub use types::{Epoch, KeyGroup, KeyspaceId, SeqNo, ShardId};
#[expect(unused_imports, reason = "used by the parts that come next")]
pub(crate) use types::{ExtentId, Kind, ReadView, SstId, Trailer};
