//! Compaction: what to merge (a [`Strategy`]), and the merge itself ([`rewrite`]), which flush uses too.
//!
//! # The merge
//!
//! Entries come in the order (key ascending, newest first). Of the versions of one key, one is kept where it is the newest that some
//! live view, or the latest state, sees; all others go. A tombstone, or an expired value, that every view sees and
//! below which no deeper level can hold the key, goes too. Where the output is the deepest place that can hold a key, and every view
//! sees the entry, its sequence number becomes 0, which costs one byte.
//!
//! # Slices
//!
//! The merge asks `need_preempt` every few entries and yields; the executor lets foreground tasks go first. Reads and writes are large
//! and beside the cache.
//!
//! # What a crash leaves
//!
//! Extents of outputs that no manifest edit names: they are free again at the next open.

mod leveled;
mod rewrite;

use std::rc::Rc;

use crate::version::{Table, Version};

pub(crate) use leveled::Leveled;
pub(crate) use rewrite::{Output, RewriteContext, rewrite};

/// Chooses what to compact next.
pub(crate) trait Strategy {
    /// The most urgent work, if any is due. Tables that are busy are left alone.
    fn pick(&self, version: &Version) -> Option<CompactionJob>;
}

/// Merge these tables into a level.
pub(crate) struct CompactionJob {
    /// The inputs with their levels.
    pub(crate) inputs: Vec<(usize, Rc<Table>)>,
    /// Where the result goes.
    pub(crate) output_level: usize,
    /// How urgent it is: work is due from 1.0 on.
    pub(crate) score: f64,
}

impl CompactionJob {
    /// Whether the one input can change its level without being rewritten.
    pub(crate) fn is_trivial_move(&self) -> bool {
        matches!(&self.inputs[..], [(level, table)] if *level != self.output_level && table.meta().tombstones == 0)
    }
}
