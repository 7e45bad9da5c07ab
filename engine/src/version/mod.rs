//! The levels of SSTs of one keyspace in one shard.
//!
//! A [`Version`] is immutable and shared by `Rc`: a read or an iterator holds the one it began with, and flush and compaction
//! install a new one. Level 0 holds runs that overlap, newest first; each deeper level is one run of SSTs that do not.
//!
//! # Invariants
//!
//! 1. For any key, what is in a lower-numbered level, and in level 0 in an earlier table, is newer.
//! 2. The visible bounds of the tables of a level above 0 do not overlap, and they are in order.
//! 3. A table is visible only in its key groups: an SST that several shards share after a change of their number shows each
//!    of them its own part.

mod table;

use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use crate::engine::route::GROUP_BYTES;
use crate::error::{Error, Result};
use crate::manifest::SstMeta;
use crate::types::SstId;

pub(crate) use table::Table;

/// Number of levels, level 0 included.
pub(crate) const LEVELS: usize = 7;

/// Which tables a keyspace consists of.
#[derive(Clone, Default)]
pub(crate) struct Version {
    /// `levels[0]` newest first; the others in key order.
    levels: [Vec<Rc<Table>>; LEVELS],
}

/// What is visible of an SST: its first and last key there, or border of groups.
type VisibleBounds = (Box<[u8]>, Box<[u8]>, SstId);

/// A change of a version: tables that go and tables that come, with their levels.
#[derive(Default)]
pub(crate) struct VersionChange {
    pub(crate) removed: Vec<(usize, Rc<Table>)>,
    pub(crate) added: Vec<(usize, Rc<Table>)>,
}

impl Version {
    /// Builds a version from tables with their levels, in any order.
    pub(crate) fn from_tables(tables: Vec<(usize, Rc<Table>)>) -> Result<Self> {
        Version::default().with(&VersionChange { removed: Vec::new(), added: tables })
    }

    /// The version after a change.
    pub(crate) fn with(&self, change: &VersionChange) -> Result<Self> {
        let mut next = self.clone();
        for (level, table) in &change.removed {
            let tables = &mut next.levels[*level];
            let at = tables.iter().position(|other| Rc::ptr_eq(other, table)).expect("a removed table is in its level");
            tables.remove(at);
        }
        for (level, table) in &change.added {
            next.levels[*level].push(Rc::clone(table));
        }
        let (level_0, deeper) = next.levels.split_at_mut(1);
        level_0[0].sort_by_key(|table| std::cmp::Reverse((table.meta().max_seq, table.meta().id)));
        if mutant!(LevelZeroReversed) {
            level_0[0].reverse();
        }
        for tables in deeper {
            tables.sort_by(|left, right| left.lower().cmp(right.lower()));
        }
        next.check()?;
        Ok(next)
    }

    /// Invariant 2. Checked on each change: it costs less than the manifest write beside it, and wrong data if broken.
    fn check(&self) -> Result<()> {
        let tables = self.tables().map(|(level, table)| (level, table.meta(), table.groups()));
        Self::check_bounds(tables)
    }

    /// Whether the tables of each level above 0 do not overlap where they are visible.
    pub(crate) fn check_bounds<'t>(
        tables: impl Iterator<Item = (usize, &'t Arc<SstMeta>, &'t Range<u32>)>,
    ) -> Result<()> {
        let mut levels: [Vec<VisibleBounds>; LEVELS] = Default::default();
        for (level, meta, groups) in tables {
            let Some(tables) = levels.get_mut(level) else {
                return Err(Error::corruption("manifest", format!("SST {} is in level {level}", meta.id)));
            };
            let (lower, upper) = table::visible_bounds(meta, groups);
            tables.push((lower, upper, meta.id));
        }
        for tables in &mut levels[1..] {
            tables.sort();
            for pair in tables.windows(2) {
                let ((_, upper, left), (lower, _, right)) = (&pair[0], &pair[1]);
                // A border between groups, two bytes, is no key: tables may meet there.
                if upper > lower || (upper == lower && upper.len() > GROUP_BYTES) {
                    return Err(Error::corruption("manifest", format!("SSTs {left} and {right} of one level overlap")));
                }
            }
        }
        Ok(())
    }

    pub(crate) fn level(&self, level: usize) -> &[Rc<Table>] {
        &self.levels[level]
    }

    /// All tables with their levels.
    pub(crate) fn tables(&self) -> impl Iterator<Item = (usize, &Rc<Table>)> {
        self.levels.iter().enumerate().flat_map(|(level, tables)| tables.iter().map(move |table| (level, table)))
    }

    /// The bytes of a level.
    pub(crate) fn level_bytes(&self, level: usize) -> u64 {
        self.levels[level].iter().map(|table| table.bytes()).sum()
    }

    /// The table of a level above 0 that may hold the key.
    #[inline]
    pub(crate) fn find(&self, level: usize, key: &[u8]) -> Option<&Rc<Table>> {
        let tables = &self.levels[level];
        let after = tables.partition_point(|table| table.lower() <= key);
        tables[..after].last().filter(|table| table.may_hold(key))
    }

    /// The tables of a level whose bounds overlap an inclusive range of stored keys, as a range of indexes (levels above 0).
    pub(crate) fn overlapping(&self, level: usize, smallest: &[u8], largest: &[u8]) -> Range<usize> {
        debug_assert!(level > 0);
        let tables = &self.levels[level];
        let start = tables.partition_point(|table| table.upper() < smallest);
        let end = tables.partition_point(|table| table.lower() <= largest);
        start..end.max(start)
    }

    /// Whether something older than an output of this level may hold the key: for level 0 (a flush) all tables, else the deeper levels.
    pub(crate) fn older_may_hold(&self, level: usize, key: &[u8]) -> bool {
        (level == 0 && self.levels[0].iter().any(|table| table.may_hold(key)))
            || (level + 1..LEVELS).any(|deeper| self.find(deeper, key).is_some())
    }

    /// Bytes that lookups keep in memory for the open tables.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.tables().map(|(_, table)| table.memory_bytes()).sum()
    }
}
