//! Measuring a device: how long reads and writes take, how much it moves, and how much of the background's I/O it bears before reads
//! beside it suffer.
//!
//! # Algorithm
//!
//! 1. Find out what the path holds, and so which bytes may be written ([`target`]).
//! 2. Fill them with large writes: what was never written, a device or filesystem answers without looking.
//! 3. For a slice of the time each: reads and writes of small and large transfers, at several depths ([`plan`], [`load`]).
//! 4. Reads beside background writes of which more and more are in flight; from these the background's budget ([`saturation`]).
//! 5. Give the space back. On a volume, store the profile in the superblock.
//!
//! All of it is asynchronous I/O of one executor by the executor's clock, so that it runs on a simulated disk as well.
//!
//! # Invariants
//!
//! 1. Nothing is written to anything but free extents of a volume, a file that the probe has made itself, and, where that was asked for, a device
//!    that is blank or was to be destroyed. Everything else is opened for reading only: the kernel would refuse a write.
//! 2. What a volume holds is not changed but for the superblock's profile: free extents are known from the manifests, as at every opening, and no
//!    extent that is taken for measuring is ever referred to. A crash leaves nothing but bytes in free space.
//!
//! The sequence and the choice follow Seastar's iotune, which measures saturation in the same way.

mod load;
mod plan;
mod saturation;
mod target;
#[cfg(all(test, not(any(loom, shuttle, miri))))]
#[expect(clippy::unwrap_used, reason = "a test stops where something is not as it should be")]
mod tests;

use std::path::PathBuf;
use std::time::Duration;

use siltstone_io::{ExecutorConfig, Geometry, IoBudget};

use crate::engine::{Options, on_executor};
use crate::error::{Error, Result};
use crate::volume::IoProfile;

/// Bounds of the time that measuring takes.
const DURATION_MIN: Duration = Duration::from_millis(100);
const DURATION_MAX: Duration = Duration::from_secs(600);

/// How to measure.
///
/// ```
/// use siltstone::{Options, ProbeOptions, SimClock, SimDisk, SimOptions, format, probe};
/// # fn main() -> siltstone::Result<()> {
/// let options = Options::simulated(SimDisk::new(1, SimOptions::default()), SimClock::new());
/// format(&options, 1 << 30, false)?;
/// let measuring = ProbeOptions::default().duration(std::time::Duration::from_millis(100));
/// let report = probe(&options, &measuring, |_| ())?;
/// assert!(report.profile.is_some() && report.stored);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct ProbeOptions {
    duration: Duration,
    write: bool,
    force: bool,
}

impl Default for ProbeOptions {
    fn default() -> ProbeOptions {
        ProbeOptions { duration: Duration::from_secs(5), write: false, force: false }
    }
}

impl ProbeOptions {
    /// How long it takes, about: 100 ms to 10 minutes, 5 seconds by default.
    #[must_use]
    pub fn duration(mut self, duration: Duration) -> Self {
        self.duration = duration;
        self
    }

    /// Writes also to a device that is no volume: only to one that is blank, which it is again afterwards. Without it such a device is only read.
    #[must_use]
    pub fn write(mut self, write: bool) -> Self {
        self.write = write;
        self
    }

    /// With [`write`](ProbeOptions::write): destroys what the device holds, unless it is a volume.
    #[must_use]
    pub fn force(mut self, force: bool) -> Self {
        self.force = force;
        self
    }

    fn validate(&self) -> Result<()> {
        if !(DURATION_MIN..=DURATION_MAX).contains(&self.duration) {
            return Err(Error::InvalidArgument(format!(
                "a probe of {:?}: {DURATION_MIN:?} to {DURATION_MAX:?} are allowed",
                self.duration
            )));
        }
        if self.force && !self.write {
            return Err(Error::InvalidArgument("force without write: nothing would be destroyed".into()));
        }
        Ok(())
    }
}

/// What the measured operations do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Access {
    /// Writes one after the other into space that was not written before.
    Fill,
    /// Reads at random places.
    Read,
    /// Writes at random places that were written before.
    Write,
    /// The same, each on stable storage before it counts as done.
    DurableWrite,
}

/// One measurement.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Measurement {
    /// What the operations did.
    pub access: Access,
    /// Bytes of each.
    pub transfer_bytes: u32,
    /// How many were in flight at a time.
    pub depth: u32,
    /// Bytes of large writes in flight beside them; `None` where reads beside writes were not the question.
    pub beside_bytes: Option<u64>,
    /// Operations.
    pub operations: u64,
    /// Bytes that they moved.
    pub bytes: u64,
    /// Bytes that the writes beside them moved.
    pub background_bytes: u64,
    /// How long all of it took, in microseconds.
    pub elapsed_us: u64,
    /// The median time of an operation, in microseconds.
    pub p50_us: u32,
    /// The 90th percentile.
    pub p90_us: u32,
    /// The 99th percentile.
    pub p99_us: u32,
}

impl Measurement {
    /// Operations in a second.
    pub fn operations_per_s(&self) -> u64 {
        per_second(self.operations, self.elapsed_us)
    }

    /// Bytes in a second.
    pub fn bytes_per_s(&self) -> u64 {
        per_second(self.bytes, self.elapsed_us)
    }

    /// Bytes in a second of the writes beside.
    pub fn background_bytes_per_s(&self) -> u64 {
        per_second(self.background_bytes, self.elapsed_us)
    }
}

fn per_second(amount: u64, elapsed_us: u64) -> u64 {
    (u128::from(amount) * 1_000_000 / u128::from(elapsed_us.max(1))) as u64
}

/// What was measured on.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProbeSubject {
    /// Free space of a volume.
    Volume,
    /// A file that the probe has made in this directory; it is gone again.
    TemporaryFile,
    /// Something that is no volume.
    Other,
}

/// What came of a probe.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ProbeReport {
    /// The file or device.
    pub path: PathBuf,
    /// What was measured on.
    pub subject: ProbeSubject,
    /// What the device is and can do.
    pub geometry: Geometry,
    /// Bytes among which the operations had their places.
    pub area_bytes: u64,
    /// Why nothing was written, where nothing was.
    pub only_read: Option<String>,
    /// All measurements, in their order.
    pub measurements: Vec<Measurement>,
    /// What follows from them; `None` where only reads could be measured.
    pub profile: Option<IoProfile>,
    /// The profile is in the volume: the engine uses it from the next opening on.
    pub stored: bool,
}

impl ProbeReport {
    /// The budget that each of so many shards has with this profile.
    pub fn budget(&self, shards: usize) -> Option<IoBudget> {
        self.profile.as_ref().map(|profile| profile.budget(shards))
    }
}

/// Measures the device that `options` names. Blocking; uses an executor of its own. `progress` is called with each measurement as it is made.
///
/// - A **volume** that nobody has open is measured in its free space, and the profile is stored in it. What it holds stays as it is.
/// - In a **directory** without a volume, or beside an **empty file**, a temporary file is made and measured.
/// - **Anything else** is only read, unless [`ProbeOptions::write`] is set.
///
/// Where there is too little free space, only reads of what is there are measured, and there is no profile.
///
/// # Errors
/// [`Error::NotFound`]; [`Error::NotAVolume`] for a device that holds something and was to be written to without force; [`Error::InvalidArgument`] for a
/// device with nothing to read on it; I/O errors, among them `EAGAIN` for a volume that is open elsewhere.
pub fn probe(
    options: &Options,
    measuring: &ProbeOptions,
    mut progress: impl FnMut(&Measurement),
) -> Result<ProbeReport> {
    options.validate()?;
    measuring.validate()?;
    let target = target::Target::choose(options, measuring)?;
    let config = ExecutorConfig {
        name: "probe".into(),
        io_budget: IoBudget::UNLIMITED,
        spin_us: options.spin_us,
        ..ExecutorConfig::default()
    }
    .driving_device(target.device());
    on_executor(config, &options.place, async |handle| {
        plan::run(target.prepare(&handle, options, measuring).await?, measuring, &mut progress).await
    })
}
