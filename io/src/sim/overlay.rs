//! The fault overlay: for damaged blocks, what reads see instead of the base's content.
//!
//! An entry belongs to one version of its block. While another version is the block's current one it sleeps; it goes when no crash can
//! bring its version back: when the block has been rewritten on stable storage.

use std::collections::BTreeMap;
use std::ops::Range;

use super::kinds::FaultKind;
use crate::Placement;

/// A block that does not hold what was written to it, or cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Where it begins.
    pub offset: u64,
    /// Its length: one logical block.
    pub len: u64,
    /// What happened to it, one of `SIM_FAULT_KINDS`.
    pub fault: &'static str,
    /// What kind of data was last written there, if any was.
    pub placement: Option<Placement>,
}

/// What reads see of a damaged block.
pub(super) enum Shown {
    Bytes(Box<[u8]>),
    /// EIO.
    Nothing,
}

pub(super) struct Entry {
    /// The version of the base that it hides.
    version: u64,
    pub(super) shown: Shown,
    pub(super) fault: FaultKind,
}

/// Entries by block.
#[derive(Default)]
pub(super) struct Overlay {
    blocks: BTreeMap<u64, Vec<Entry>>,
}

impl Overlay {
    /// Hides a version of a block.
    pub(super) fn show(&mut self, block: u64, version: u64, shown: Shown, fault: FaultKind) {
        self.unhide(block, version);
        self.blocks.entry(block).or_default().push(Entry { version, shown, fault });
    }

    /// A version of a block is seen as it is.
    pub(super) fn unhide(&mut self, block: u64, version: u64) {
        self.keep(block, |entry| entry != version);
    }

    /// Drops a block's entries for versions that cannot come back.
    pub(super) fn keep(&mut self, block: u64, version_may_be_seen: impl Fn(u64) -> bool) {
        if let Some(entries) = self.blocks.get_mut(&block) {
            entries.retain(|entry| version_may_be_seen(entry.version));
            if entries.is_empty() {
                self.blocks.remove(&block);
            }
        }
    }

    /// What hides this version of a block.
    pub(super) fn get(&self, block: u64, version: u64) -> Option<&Entry> {
        self.blocks.get(&block)?.iter().find(|entry| entry.version == version)
    }

    /// The blocks of a range that have entries, asleep or not.
    pub(super) fn blocks(&self, range: Range<u64>) -> impl Iterator<Item = u64> {
        self.blocks.range(range).map(|(block, _)| *block)
    }

    /// Drops the entries from this block on.
    pub(super) fn truncate(&mut self, block: u64) {
        self.blocks.split_off(&block);
    }

    pub(super) fn clear(&mut self) {
        self.blocks.clear();
    }
}
