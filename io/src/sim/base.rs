//! The pristine base: a disk with a volatile cache, on which only crashes lose anything.

use super::disk::DiskState;
use crate::Placement;

/// A content that a block had.
pub(super) struct Version {
    pub(super) number: u64,
    pub(super) bytes: Box<[u8]>,
    /// A flush that covered it has failed: no later one makes it durable.
    pub(super) stranded: bool,
}

/// The versions of a block that are not yet on stable storage, oldest first, and the one that is.
pub(super) struct History {
    pub(super) durable_number: u64,
    pub(super) durable: Box<[u8]>,
    pub(super) versions: Vec<Version>,
}

/// What is known of a block that was ever written.
#[derive(Clone, Copy, Default)]
pub(super) struct BlockInfo {
    /// The number of its current version.
    pub(super) version: u64,
    /// What kind of data was last written to it.
    pub(super) placement: Option<Placement>,
}

impl DiskState {
    pub(super) fn block_bytes(&self) -> u64 {
        u64::from(self.options.logical_block_bytes)
    }

    /// The number of a block's current version.
    pub(super) fn version_of(&self, block: u64) -> u64 {
        self.blocks.get(&block).map_or(0, |info| info.version)
    }

    /// Gives a block its next version.
    pub(super) fn write_block(&mut self, block: u64, bytes: &[u8], durable: bool, placement: Option<Placement>) {
        let offset = block * bytes.len() as u64;
        let info = self.blocks.entry(block).or_default();
        if durable {
            self.unflushed.remove(&block);
            self.unsettled.remove(&block);
            self.overlay.keep(block, |_| false);
        } else {
            let current = &self.current;
            let durable_number = info.version;
            let history = self.unflushed.entry(block).or_insert_with(|| {
                let mut old = vec![0; bytes.len()];
                current.read(offset, &mut old);
                History { durable_number, durable: old.into_boxed_slice(), versions: Vec::new() }
            });
            let version = Version { number: self.version, bytes: Box::from(bytes), stranded: false };
            history.versions.push(version);
        }
        info.version = self.version;
        info.placement = placement.or(info.placement);
        self.current.write(offset, bytes);
    }

    pub(super) fn grow(&mut self, end: u64, durable: bool) {
        if end > self.len {
            self.len = end;
            self.growth.push((self.version, end));
        }
        if durable && end > self.durable_len {
            // What is needed to find the data again is durable with it: the size as it is, never one that the disk did not have.
            self.durable_len = self.len;
        }
    }

    /// Makes durable what had completed when the flush was submitted.
    pub(super) fn flush(&mut self, covers: u64) {
        let overlay = &mut self.overlay;
        self.unflushed.retain(|block, history| {
            let covered = history.versions.partition_point(|version| version.number <= covers);
            if covered == 0 || history.versions[covered - 1].stranded {
                return true;
            }
            if let Some(newest) = history.versions.drain(..covered).next_back() {
                history.durable = newest.bytes;
                history.durable_number = newest.number;
                overlay.keep(*block, |version| version >= newest.number);
            }
            !history.versions.is_empty()
        });
        let covered = self.growth.partition_point(|(version, _)| *version <= covers);
        if let Some((_, len)) = self.growth.drain(..covered).next_back() {
            self.durable_len = self.durable_len.max(len);
        }
    }

    /// A flush fails: of some blocks that it covers it leaves behind versions that no later flush makes durable.
    pub(super) fn fail_flush(&mut self, covers: u64) {
        for history in self.unflushed.values_mut() {
            let covered = history.versions.partition_point(|version| version.number <= covers);
            if covered > 0 && self.random.chance(0.5) {
                history.versions[..covered].iter_mut().for_each(|version| version.stranded = true);
            }
        }
    }

    /// Forgets everything from here on, which is not a write.
    pub(super) fn cut(&mut self, len: u64) {
        let end = len.div_ceil(self.block_bytes());
        self.current.truncate(len);
        self.unflushed.split_off(&(len / self.block_bytes()));
        self.blocks.split_off(&end);
        self.unsettled.split_off(&end);
        self.overlay.truncate(end);
        self.len = self.len.min(len);
        self.durable_len = self.durable_len.min(len);
        self.growth.clear();
    }
}
