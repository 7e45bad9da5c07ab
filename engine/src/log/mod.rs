//! The append-only log.
mod block;
use crate::types::ExtentId;
/// A place in a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LogPosition {
    /// The log.
    pub(crate) log_id: u64,
    /// The extent of the block.
    pub(crate) extent: ExtentId,
    /// The block's first page in its extent.
    pub(crate) page: u32,
    /// The block's sequence.
    pub(crate) seq: u64,
}
