//! The append-only log under both the WAL and the manifest.
//!
//! A log is a chain of extents filled with blocks ([`block`]), each of which names the extent after its own. A *commit*, what one append
//! writes, is one or more blocks and is atomic. A log is never written to again after the process that wrote it has ended: recovery
//! reads it and begins a new one. So the blocks of a commit that was in flight at a crash, and may have arrived behind a
//! gap, can never be taken for a continuation.
//!
//! # Appending ([`LogWriter`])
//!
//! 1. The append waits for its turn; turns are in the order of the calls.
//! 2. It makes sure that every extent it will write to has a successor. This alone can find the device full, and nothing has changed then.
//!    Successors are reserved ahead of time, so that it rarely waits here.
//! 3. It cuts the payload into blocks, numbers and seals them, and ends its turn: the next append goes on while this one writes.
//! 4. It writes its blocks, all at once.
//! 5. It waits for the appends before it, makes itself durable if asked to, and is acknowledged.
//!
//! A durable commit of one block is written through (`RWF_DSYNC`); one of several blocks, or one that follows commits that were only
//! cached, is written and then flushed: a write-through covers no earlier write.
//!
//! # Reading ([`LogReader`])
//!
//! Follows the chain and gives whole commits. The first place that does not hold the block that should be there is the end of the log: a torn
//! tail. Except where a later block of the same log stands behind it which says that the missing one was durable when it was
//! built: then something acknowledged is damaged, and that is corruption, not an end.
//!
//! # Invariants
//!
//! 1. A commit is acknowledged only after all before it. What is durable is always a prefix.
//! 2. A block's sequence, place, log and volume are in its checksum: what an extent held before is never taken for a block.
//! 3. After a failed or abandoned write every later append fails: what is on the device behind that point is unknown.
//! 4. The position after the last commit always names an extent of the chain and a page in it, never the end of an extent.
//! 5. An extent that is full holds at least two blocks. So one damaged block never takes all that names the next extent, and what
//!    stands behind it is found: by the reader, and by [`read_chain`], which must know what is in use.
//!
//! # A crash
//!
//! leaves whole commits, then at most a torn or missing tail, in which later blocks may stand by themselves. None of it was acknowledged as
//! durable.

pub(crate) mod block;
mod fifo;
mod reader;
#[cfg(all(test, not(any(loom, shuttle))))]
#[expect(clippy::unwrap_used, reason = "a test stops where something is not as it should be")]
mod tests;
mod writer;

pub(crate) use self::fifo::Fifo;
pub(crate) use self::reader::{LogReader, read_chain};
pub(crate) use self::writer::LogWriter;
use crate::types::ExtentId;

/// The place of a block in a log: where the block that has the sequence stands or will stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LogPosition {
    /// The log.
    pub(crate) log_id: u64,
    /// The extent.
    pub(crate) extent: ExtentId,
    /// The page in the extent.
    pub(crate) page: u32,
    /// The block's sequence, from 1.
    pub(crate) seq: u64,
}

/// Whether what is appended must be on stable storage when the append returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Durability {
    /// It is.
    Durable,
    /// It is with the device, and durable after [`LogWriter::sync`] or the next durable append.
    Cached,
}
