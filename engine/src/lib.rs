//! Siltstone: an embedded storage engine for the state of latency-critical stream operators.

#[expect(dead_code, reason = "used by the parts that come next")]
mod cache;
mod error;
#[expect(dead_code, reason = "used by the parts that come next")]
mod memtable;
mod types;

pub use error::{Corruption, Error, Result};
pub use types::{Epoch, KeyGroup, KeyspaceId, SeqNo, ShardId};
#[expect(unused_imports, reason = "used by the parts that come next")]
pub(crate) use types::{ExtentId, Kind, ReadView, SstId, Trailer};
