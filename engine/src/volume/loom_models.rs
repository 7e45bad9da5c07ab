//! Who may use an extent, under loom: the counts of what refers to SSTs and logs, the queue of what was given up, and the map. Every extent
//! has a cell that only its owner may write and only a holder of what is in it may read: loom reports a second owner, and a reader before whom the
//! space was given away. Each model names the breaks that it was seen to catch.

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;
use siltstone_io::sync::model::explore;
use siltstone_io::{SharedDevice, SimDisk, SimOptions};

use super::*;

/// A volume with the extents 0 and 1, of which 1 is taken, and a cell for what is in it.
struct Space {
    parts: VolumeParts,
    cell: UnsafeCell<u32>,
}

const EXTENT_BYTES: u32 = 64 << 10;

impl Space {
    fn new() -> Arc<Space> {
        let superblock = Superblock {
            volume: [1; 16],
            generation: 1,
            page_bytes: 4096,
            extent_bytes: EXTENT_BYTES,
            key_groups: 8,
            capacity_bytes: 0,
            profile: None,
            roots: Vec::new(),
        };
        let disk = SimDisk::new(1, SimOptions::default());
        let capacity_bytes = 2 * u64::from(EXTENT_BYTES);
        let parts = VolumeParts::new(SharedDevice::simulated(disk), &superblock, capacity_bytes).unwrap();
        parts.shared.map.mark_used(ExtentId(1)).unwrap();
        Arc::new(Space { parts, cell: UnsafeCell::new(0) })
    }

    fn sst(&self) -> SstFile {
        SstFile::placed(self.parts.clone(), SstId(1), 1, vec![ExtentId(1)]).unwrap()
    }

    fn read(&self) {
        self.cell.with(|_contents| {});
    }

    /// What `Volume::reclaim` does, without a device; then takes the extent if it is free. Gives how many it got.
    fn reclaim_and_take(&self) -> u32 {
        while let Some(extents) = self.parts.shared.abandoned.pop() {
            extents.iter().for_each(|&extent| self.parts.shared.map.free(extent));
        }
        match self.parts.shared.map.allocate(None) {
            Some(extent) => {
                assert_eq!(extent, ExtentId(1));
                self.cell.with_mut(|_contents| {});
                1
            }
            None => 0,
        }
    }
}

/// Two shards have one SST; both let it go, one of them while it still reads. Its space is free exactly once, after both.
///
/// Breaks caught: a count taken by load and store; a count that is not looked at; `free` or the claim of a bit with a relaxed exchange.
#[test]
fn an_sst_of_two_shards_is_freed_once_and_after_the_last_reader() {
    explore(3, || {
        let space = Space::new();
        let file = Arc::new(space.sst());
        file.retain();
        file.retain();
        let (other_space, other_file) = (Arc::clone(&space), Arc::clone(&file));
        let thread = thread::spawn(move || {
            other_file.release();
            other_space.read();
            drop(other_file);
            other_space.reclaim_and_take()
        });
        space.read();
        file.release();
        drop(file);
        let mine = space.reclaim_and_take();
        let taken = mine + thread.join().unwrap();
        assert_eq!(taken + space.reclaim_and_take(), 1, "the space of a dead SST is free, once");
    });
}

/// One shard's manifest lets an SST go; the other shard closes, and its manifest still refers to it.
///
/// Breaks caught: an SST that is freed whatever its count.
#[test]
fn an_sst_that_a_manifest_refers_to_is_never_freed() {
    explore(3, || {
        let space = Space::new();
        let file = Arc::new(space.sst());
        file.retain();
        file.retain();
        let (other_space, other_file) = (Arc::clone(&space), Arc::clone(&file));
        let thread = thread::spawn(move || {
            drop(other_file);
            other_space.reclaim_and_take()
        });
        file.release();
        drop(file);
        let mine = space.reclaim_and_take();
        assert_eq!(mine + thread.join().unwrap() + space.reclaim_and_take(), 0);
    });
}

/// A shard retains an SST for its next edit and finds no space for it, while another one lets the SST go.
///
/// Breaks caught: a count taken by load and store.
#[test]
fn an_edit_that_failed_leaves_the_count_as_it_was() {
    explore(3, || {
        let space = Space::new();
        let file = Arc::new(space.sst());
        file.retain();
        let (other_space, other_file) = (Arc::clone(&space), Arc::clone(&file));
        let thread = thread::spawn(move || {
            other_file.retain();
            other_space.read();
            other_file.release();
        });
        file.release();
        drop(file);
        let taken = space.reclaim_and_take();
        thread.join().unwrap();
        assert_eq!(taken + space.reclaim_and_take(), 1);
    });
}

/// Two shards have replayed one log of an earlier opening.
///
/// Breaks caught: a release that is not acquire and release; extents given up by each; `free` or the claim of a bit with a relaxed exchange.
#[test]
fn a_log_of_two_shards_is_freed_once_and_after_both() {
    explore(3, || {
        let space = Space::new();
        let log = SharedExtents::new(space.parts.clone(), vec![ExtentId(1)]);
        log.retain();
        log.retain();
        let (other_space, other_log) = (Arc::clone(&space), log.clone());
        let thread = thread::spawn(move || {
            other_space.read();
            other_log.release();
            other_space.reclaim_and_take()
        });
        space.read();
        log.release();
        let mine = space.reclaim_and_take();
        let taken = mine + thread.join().unwrap();
        assert_eq!(taken + space.reclaim_and_take(), 1);
    });
}

/// What has been given up is not revived: the engine retains a log for all its shards before the first of them runs.
#[test]
#[should_panic(expected = "given up")]
fn a_log_that_was_given_up_cannot_be_retained() {
    explore(1, || {
        let space = Space::new();
        let log = SharedExtents::new(space.parts.clone(), vec![ExtentId(1)]);
        log.retain();
        let other = log.clone();
        let thread = thread::spawn(move || other.release());
        thread.join().unwrap();
        log.retain();
    });
}
