//! Reading SSTs: single blocks through the cache, runs of tables with a cursor, several runs merged.
//!
//! ```text
//!   point get ──────────────┐
//!   scan ── MergeCursor ── RunCursor ── BlockReader ── cache ── device
//!   flush, compaction ──┘   (streaming: large reads beside the cache)
//! ```

mod blocks;
mod merge;
mod run;
mod value;

pub(crate) use blocks::{BlockBytes, BlockReader};
pub(crate) use merge::{MergeCursor, Source};
pub(crate) use run::{Access, RunCursor};
pub use value::ValueRef;
