//! A machine with a simulated disk, for the tests of what stands on a volume.

use siltstone_io::{Backend, Executor, ExecutorConfig, SharedDevice, SimClock, SimDisk, SimOptions};

use super::{Superblock, Volume, VolumeParts};
use crate::types::ExtentId;

/// The extents of test volumes are small, so that everything crosses their ends.
pub(crate) const EXTENT_BYTES: u32 = 64 << 10;

/// A disk, and the number of times that the machine was started.
pub(crate) struct Machine {
    pub(crate) disk: SimDisk,
    pub(crate) generation: u64,
    pub(crate) capacity_bytes: u64,
}

/// A running machine: an executor and a volume on the disk.
pub(crate) struct Life {
    pub(crate) executor: Executor,
    pub(crate) volume: Volume,
}

impl Machine {
    pub(crate) fn new(seed: u64) -> Machine {
        Machine::with(seed, SimOptions::default())
    }

    pub(crate) fn with(seed: u64, options: SimOptions) -> Machine {
        let capacity_bytes = options.capacity_bytes.min(64 << 20);
        Machine { disk: SimDisk::new(seed, options), generation: 0, capacity_bytes }
    }

    /// Starts the machine: power is on, and the volume's extents are all free.
    pub(crate) fn start(&mut self) -> Life {
        self.disk.restart();
        self.start_without_restart()
    }

    /// Starts the machine and leaves a crash that is planned.
    pub(crate) fn start_without_restart(&mut self) -> Life {
        self.generation += 1;
        let config = ExecutorConfig::default();
        let executor = Executor::new(config, Backend::Simulated(SimClock::new())).unwrap();
        let shared = SharedDevice::simulated(self.disk.clone());
        let device = executor.handle().attach(&shared).unwrap();
        let parts = VolumeParts::new(shared, &superblock(self.generation), self.capacity_bytes).unwrap();
        let volume = Volume::new(parts, device, executor.handle(), None);
        Life { executor, volume }
    }
}

impl Life {
    /// Runs to the end, or until the power fails: `None` then.
    pub(crate) fn run<T>(&mut self, test: impl AsyncFnOnce(Volume) -> T) -> Option<T> {
        let volume = self.volume.clone();
        self.executor.try_block_on(test(volume))
    }
}

/// The superblock of test volumes.
pub(crate) fn superblock(generation: u64) -> Superblock {
    Superblock {
        volume: *b"a test's volume!",
        generation,
        page_bytes: 4096,
        extent_bytes: EXTENT_BYTES,
        key_groups: 16,
        capacity_bytes: 0,
        roots: vec![ExtentId(1)],
        profile: None,
    }
}
