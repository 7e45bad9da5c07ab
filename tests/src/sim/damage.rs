//! One damaged block in a volume at rest: what is read is right, or an error names the place; also where the volume is then opened for writing, with
//! any number of shards, and written out and compacted. Healed, it shows everything.
//!
//! Faults of media are injected while clients work, too; but then much is damaged at a time, and much is excused by it. Here it is known what is
//! there and which block is damaged, so what is shown is never excused, not even that it is older. An error must be near the block; only what metadata names,
//! and the other blocks of a large value, may be anywhere.

use siltstone::{Durability, Error, Restore, Result};
use siltstone_io::Placement;

use super::excuses::{NEAR_BYTES, damage_in};
use super::plan::{SPACES, Way};
use super::shift::Shift;
use super::world::{World, read_all};
use crate::Node;

/// Blocks that are damaged, one after the other.
const BLOCKS: u32 = 5;
/// The last that were written are the likeliest to matter.
const RECENT: usize = 48;
/// That a log goes on behind a damaged block is certain where so many later blocks say so.
const LOG_BLOCKS_BEHIND: usize = 4;

impl World {
    /// Damages blocks of a volume that was closed, and reads it; nothing is written.
    pub(super) fn damage_at_rest(&mut self, way: &Way) {
        for _ in 0..BLOCKS {
            let kind = self.random.below(4) as usize;
            let placement = [Placement::Metadata, Placement::Wal, Placement::Level0, Placement::Deep][kind];
            let Some(place) = self.block_to_damage(placement, way) else { continue };
            self.disk().rot(place);
            self.read_damaged(placement, place, way);
            self.disk().heal();
            self.tally
                .borrow_mut()
                .count(["metadata damaged", "log damaged", "level 0 damaged", "level damaged"][kind]);
        }
    }

    /// Damages a block, and opens the volume for writing: what was there must be there when the disk is healed.
    pub(super) fn write_on_damage(&mut self, way: &Way) {
        let kind = self.random.below(4) as usize;
        let placement = [Placement::Metadata, Placement::Wal, Placement::Level0, Placement::Deep][kind];
        let Some(place) = self.block_to_damage(placement, way) else { return };
        self.disk().rot(place);
        let way = Way { restore: Restore::Latest, retained: None, ..way.clone() };
        let options = self.plan.options(self.simulation.options(), &way, &mut self.random);
        if let Some(node) = named(Asked::Opening, self.simulation.open(options), placement, place) {
            let shift = self.shift(&node, &way);
            self.read_and_compare(&node, &shift, placement, place);
            for written in [node.run(node.engine.flush()), node.run(node.engine.compact())] {
                named(Asked::Write, written, placement, place);
            }
            self.read_and_compare(&node, &shift, placement, place);
        }
        self.power_cycle();
        self.tally.borrow_mut().count("written on damage");
    }

    fn block_to_damage(&mut self, placement: Placement, way: &Way) -> Option<u64> {
        let mut blocks = self.disk().written(placement);
        if placement == Placement::Wal {
            // Of a log that was not synced at once, nothing says how far it went; nor of its end.
            if way.durability != Durability::Sync {
                return None;
            }
            let extent_of = |offset: u64| offset / self.plan.extent_bytes as u64;
            let all = blocks.clone();
            let behind = |&(offset, version): &(u64, u64)| {
                let same_extent = all.iter().filter(|(other, _)| extent_of(*other) == extent_of(offset));
                same_extent.filter(|(other, later)| *other > offset && *later > version).count()
            };
            let blocks_of_page = (4096 / self.plan.device.logical_block_bytes) as usize;
            blocks.retain(|block| behind(block) >= LOG_BLOCKS_BEHIND * blocks_of_page);
        }
        let block_bytes = u64::from(self.plan.device.logical_block_bytes);
        blocks.retain(|&(offset, _)| self.disk().read_raw(offset, block_bytes).iter().any(|&byte| byte != 0));
        blocks.sort_by_key(|(_, version)| *version);
        let recent = if self.random.chance(0.7) { blocks.len().saturating_sub(RECENT) } else { 0 };
        let blocks = &blocks[recent..];
        (!blocks.is_empty()).then(|| blocks[self.random.below(blocks.len() as u64) as usize].0)
    }

    fn read_damaged(&mut self, placement: Placement, place: u64, way: &Way) {
        let way = Way { restore: Restore::Latest, ..way.clone() };
        let options = self.plan.options(self.simulation.options(), &way, &mut self.random).read_only(true);
        let Some(node) = named(Asked::Opening, self.simulation.open(options), placement, place) else { return };
        let shift = self.shift(&node, &way);
        self.read_and_compare(&node, &shift, placement, place);
    }

    fn read_and_compare(&self, node: &Node, shift: &Shift, placement: Placement, place: u64) {
        node.run(shift.tell_time());
        let now_ms = self.oracle.lock().now_ms;
        let found = node.run(read_all(&node.engine, shift.states.as_ref(), now_ms));
        if let Some(found) = named(Asked::Read, found, placement, place) {
            self.check(&found);
        }
        self.get_everything(node, shift, placement, place);
    }

    /// Every key by itself: through filters and indexes, which scans pass by.
    fn get_everything(&self, node: &Node, shift: &Shift, placement: Placement, place: u64) {
        let (ids, data, now_ms) = {
            let oracle = self.oracle.lock();
            (oracle.cells.ids(), oracle.journal.current_data().clone(), oracle.now_ms)
        };
        for (key, value) in &data {
            let found = node.run(node.engine.get(&shift.spaces[0], key));
            if let Some(found) = named(Asked::Read, found, placement, place) {
                assert_eq!(
                    found.as_ref(),
                    Some(value),
                    "{placement:?} at {place} is damaged: a wrong value of {key:?}"
                );
            }
        }
        for id in &ids {
            let found = node.run(node.engine.get(&shift.spaces[id.0], &id.1));
            if let Some(found) = named(Asked::Read, found, placement, place) {
                let observed = self.oracle.lock().cells.observe(id, found.as_deref(), now_ms);
                assert!(
                    observed.is_ok(),
                    "{placement:?} at {place} is damaged: {} {id:?}: {observed:?}",
                    SPACES[id.0].name
                );
            }
        }
    }
}

/// What met the damage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Opening,
    /// A read of an engine that is open.
    Read,
    /// A flush or compaction, which makes its shard read-only.
    Write,
}

/// What was asked for; or nothing, where an error names the damage: with its place, unless it is metadata, and of an open engine with the shard.
fn named<T>(asked: Asked, result: Result<T>, placement: Placement, place: u64) -> Option<T> {
    let names_it = |structure: &str, offset: Option<u64>| match placement {
        // What the root pages name.
        Placement::Metadata => true,
        Placement::Wal => offset.is_some_and(|offset| offset.abs_diff(place) < NEAR_BYTES),
        // A large block crosses extents, which lie anywhere.
        Placement::Level0 | Placement::Deep => {
            offset.is_some_and(|offset| structure == "data block" || offset.abs_diff(place) < NEAR_BYTES)
        }
    };
    let error = match result {
        Ok(value) => return Some(value),
        Err(error) => error,
    };
    let is_named = match &error {
        Error::Corruption(corruption) => {
            names_it(corruption.structure, corruption.offset) && (asked == Asked::Opening || corruption.shard.is_some())
        }
        // Flush or compaction has come upon it; reads go on.
        Error::Poisoned { cause, .. } if asked == Asked::Write => {
            damage_in(cause).is_some_and(|(structure, offset)| names_it(structure, offset))
        }
        _ => false,
    };
    assert!(is_named, "{placement:?} at {place} is damaged, and the error of {asked:?} does not name that: {error}");
    None
}
