//! Siltstone: an embedded storage engine for the state of latency-critical stream operators.

mod error;
#[allow(dead_code, unused_imports, reason = "used by the shard")]
mod table;
mod types;

pub use error::{Corruption, Error, Result};
pub use types::{Epoch, KeyGroup, KeyspaceId, SeqNo, ShardId};
#[expect(unused_imports, reason = "used by the parts that come next")]
pub(crate) use types::{ExtentId, Kind, ReadView, SstId, Trailer};
