//! Leveled compaction with dynamic level sizes.
//!
//! The deepest level with data holds almost everything; each level above it may hold a tenth of the one below, down to the *base
//! level*, the first whose size would fall under the smallest useful one. Level 0 is merged into the base level; the levels
//! between are empty. This keeps space amplification near 1.1 whatever the size of the data.
//!
//! Source: "Dynamic level size for level-based compaction" (RocksDB, 2015); Dong et al., "Optimizing Space Amplification in RocksDB",
//! CIDR 2017.

use std::rc::Rc;

use crate::compaction::{CompactionJob, Strategy};
use crate::version::{LEVELS, Table, Version};

/// Size ratio of neighbouring levels.
const FANOUT: u64 = 10;
/// Tables of level 0 from which on they may be merged down, ...
const LEVEL_0_TRIGGER: usize = 4;
/// ... as soon as their bytes are this share of the level below, which is rewritten with them: so merging level 0 writes each byte of
/// it at most about four times, ...
const LEVEL_0_SHARE: u64 = 3;
/// ... or as soon as they are so many that lookups feel it.
const LEVEL_0_TABLES: usize = 12;
/// How urgent it is to empty a level above the base level.
const EMPTY_LEVEL_SCORE: f64 = 1.5;
const LAST: usize = LEVELS - 1;

pub(crate) struct Leveled {
    /// The smallest size that a level is given, in bytes: about four memtables.
    pub(crate) base_bytes: u64,
}

impl Leveled {
    /// The level that level 0 is merged into, the base level by size, and the target size of each level from there on.
    ///
    /// The two differ while a deeper level has become the base: until the levels above it have been emptied, level 0
    /// must not be merged past them.
    fn targets(&self, version: &Version) -> (usize, usize, [u64; LEVELS]) {
        let mut targets = [0; LEVELS];
        let mut size: u64 = (1..LEVELS).map(|level| version.level_bytes(level)).sum();
        let mut base = LAST;
        targets[LAST] = u64::MAX;
        while base > 1 && size / FANOUT >= self.base_bytes {
            base -= 1;
            size /= FANOUT;
            targets[base] = size;
        }
        let first_used = (1..LEVELS).find(|&level| !version.level(level).is_empty()).unwrap_or(LAST);
        (base.min(first_used), base, targets)
    }

    fn level_0_job(&self, version: &Version, base: usize) -> Option<CompactionJob> {
        let tables = version.level(0);
        let score = tables.len() as f64 / LEVEL_0_TRIGGER as f64;
        if score < 1.0 || tables.iter().any(|table| table.is_busy()) {
            return None;
        }
        if version.level_bytes(0) * LEVEL_0_SHARE < version.level_bytes(base) && tables.len() < LEVEL_0_TABLES {
            return None;
        }
        let smallest = tables.iter().map(|table| table.lower()).min()?;
        let largest = tables.iter().map(|table| table.upper()).max()?;
        let below = version.overlapping(base, smallest, largest);
        let below = &version.level(base)[below];
        if below.iter().any(|table| table.is_busy()) {
            return None;
        }
        let oldest_stays = tables.len() > 1 && mutant!(OldestOfLevelZeroLeftAbove);
        let tables = &tables[..tables.len() - usize::from(oldest_stays)];
        let inputs = with_level(0, tables).chain(with_level(base, below)).collect();
        Some(CompactionJob { inputs, output_level: base, score })
    }

    /// The table of a level with the least work for its size below it.
    fn level_job(&self, version: &Version, level: usize, score: f64) -> Option<CompactionJob> {
        if score <= 1.0 {
            return None;
        }
        let cost = |table: &Rc<Table>| {
            let below = &version.level(level + 1)[version.overlapping(level + 1, table.lower(), table.upper())];
            let bytes: u64 = below.iter().map(|table| table.bytes()).sum();
            let busy = table.is_busy() || below.iter().any(|table| table.is_busy());
            (!busy).then(|| bytes as f64 / table.bytes().max(1) as f64)
        };
        let (_, table) = version
            .level(level)
            .iter()
            .filter_map(|table| cost(table).map(|cost| (cost, table)))
            .min_by(|left, right| left.0.total_cmp(&right.0))?;
        let below = &version.level(level + 1)[version.overlapping(level + 1, table.lower(), table.upper())];
        let inputs = std::iter::once((level, Rc::clone(table))).chain(with_level(level + 1, below)).collect();
        Some(CompactionJob { inputs, output_level: level + 1, score })
    }
}

impl Strategy for Leveled {
    fn pick(&self, version: &Version) -> Option<CompactionJob> {
        let (level_0_output, base, targets) = self.targets(version);
        let level_0 = self.level_0_job(version, level_0_output);
        let deeper = (level_0_output..LAST).filter_map(|level| {
            let score = match version.level_bytes(level) {
                0 => 0.0,
                _ if level < base => EMPTY_LEVEL_SCORE,
                bytes => bytes as f64 / targets[level] as f64,
            };
            self.level_job(version, level, score)
        });
        level_0.into_iter().chain(deeper).max_by(|left, right| left.score.total_cmp(&right.score))
    }
}

fn with_level(level: usize, tables: &[Rc<Table>]) -> impl Iterator<Item = (usize, Rc<Table>)> + '_ {
    tables.iter().map(move |table| (level, Rc::clone(table)))
}
