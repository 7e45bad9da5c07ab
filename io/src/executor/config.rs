//! What an executor can be told.

use crate::{SharedDevice, SimClock};

/// What kind of work a task does: decides when it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Class {
    /// What the operator waits for. Runs before everything else.
    Foreground = 0,
    /// Writing memtables out.
    Flush = 1,
    /// Merging.
    Compaction = 2,
    /// Taking and uploading checkpoints.
    Checkpoint = 3,
}

impl Class {
    pub(crate) const COUNT: usize = 4;
    pub(crate) const BACKGROUND: [Class; 3] = [Class::Flush, Class::Compaction, Class::Checkpoint];

    pub(crate) fn from_index(index: u8) -> Class {
        match index {
            0 => Class::Foreground,
            1 => Class::Flush,
            2 => Class::Compaction,
            _ => Class::Checkpoint,
        }
    }
}

/// What a turn came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Something ran, or can run at once: turn again.
    Progress,
    /// Nothing to do until an I/O completes, a timer fires, or another thread wakes it.
    InFlight,
    /// Nothing in flight at all: only another thread (or a new task) can give it work.
    Idle,
}

/// How much one turn may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Foreground tasks polled in a turn, at most.
    pub foreground_tasks_max: u32,
    /// After how long a foreground task is told to yield, in microseconds.
    pub foreground_slice_us: u32,
    /// How long background tasks run in a turn, in microseconds. (A task that does not ask `need_preempt` may run longer.)
    pub background_slice_us: u32,
    /// The caller follows a turn that is not `Progress` with `park` on the same thread, so that operations of this turn may be
    /// handed to the kernel by the system call that also waits. Otherwise each turn hands over its own.
    pub park_follows: bool,
}

impl Default for Budget {
    fn default() -> Budget {
        Budget { foreground_tasks_max: 256, foreground_slice_us: 500, background_slice_us: 200, park_follows: false }
    }
}

/// What of all background classes together may be with the device at once, through one executor. What is more waits in the executor, where a
/// foreground operation overtakes it; in the device it cannot, and waits behind what was sent before it. One background operation always
/// goes, however small the budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoBudget {
    /// Bytes of reads and writes, at most.
    pub background_bytes_max: u64,
    /// Operations after splitting, at most.
    pub background_ops_max: u32,
}

impl IoBudget {
    /// No limit: background operations go to the device as they come.
    pub const UNLIMITED: IoBudget = IoBudget { background_bytes_max: u64::MAX, background_ops_max: u32::MAX };

    /// The budget of one of several executors that share a device which bears this one. Not less than one large transfer or four small ones:
    /// seldom do all of them have background work at a time.
    #[must_use]
    pub fn divided(self, executors: u32) -> IoBudget {
        let executors = executors.max(1);
        IoBudget {
            background_bytes_max: (self.background_bytes_max / u64::from(executors))
                .max(512 << 10)
                .min(self.background_bytes_max),
            background_ops_max: (self.background_ops_max / executors).max(4).min(self.background_ops_max),
        }
    }
}

impl Default for IoBudget {
    /// For a device that nobody has measured: four transfers of 512 KiB, or 32 commands of any size. Where it was measured (a virtual disk of 2.5 GB/s) that
    /// leaves the background four fifths to nine tenths of the bandwidth, and a foreground read takes 0.9 ms instead of 6
    /// (`docs/adr/0010-io-scheduling.md`); at 500 MB/s it waits for 4 ms at most.
    fn default() -> IoBudget {
        IoBudget { background_bytes_max: 2 << 20, background_ops_max: 32 }
    }
}

/// Which threads turn the executor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driving {
    /// Always the thread that made it: the ring is made for a single issuer, with deferred task work.
    Pinned,
    /// One thread after the other (under a baton).
    Moving,
}

/// How an executor is made.
#[derive(Clone, Debug)]
pub struct ExecutorConfig {
    /// Which threads turn it.
    pub driving: Driving,
    /// Operations in one submission, at most; the completion queue has four times as many. A power of two.
    pub ring_entries: u32,
    /// Makes room in the ring's entries for NVMe commands, which take twice as much: needed for NVMe character devices
    /// ([`SharedDevice::needs_wide_entries`](crate::SharedDevice::needs_wide_entries)), of no use for others.
    pub wide_entries: bool,
    /// Makes a second ring, in which completions are polled for: of use for devices that were opened so
    /// ([`Geometry::polled`](crate::Geometry::polled)). While transfers are in flight there the executor does not sleep.
    pub polled: bool,
    /// How long `park` polls for a completion before it sleeps, in microseconds, where I/O is in flight.
    pub spin_us: u32,
    /// How the background's time is divided between flush, compaction and checkpoint while all have work.
    pub background_weights: [u32; 3],
    /// How much I/O of flush, compaction and checkpoint may be with the device at once.
    pub io_budget: IoBudget,
    /// Names it in logs.
    pub name: String,
    /// With a seed, what has no order (ready tasks of one class, timers of one deadline, completions that a simulation makes due at
    /// one time) comes in a random order, decided by the seed; without, first in, first out.
    pub schedule_seed: Option<u64>,
}

impl Default for ExecutorConfig {
    fn default() -> ExecutorConfig {
        ExecutorConfig {
            driving: Driving::Pinned,
            ring_entries: 256,
            wide_entries: false,
            polled: false,
            spin_us: 0,
            background_weights: [4, 2, 1],
            io_budget: IoBudget::default(),
            name: "executor".to_owned(),
            schedule_seed: None,
        }
    }
}

impl ExecutorConfig {
    /// With the rings that a device needs.
    #[must_use]
    pub fn driving_device(self, device: &SharedDevice) -> ExecutorConfig {
        ExecutorConfig { wide_entries: device.needs_wide_entries(), polled: device.geometry().polled, ..self }
    }
}

/// What carries out an executor's operations.
#[derive(Clone, Debug)]
pub enum Backend {
    /// An io_uring, on files.
    Ring,
    /// The simulation, on simulated disks, in virtual time.
    Simulated(SimClock),
}
