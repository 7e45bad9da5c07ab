//! Devices: where a volume's bytes are.
//!
//! A [`SharedDevice`] is opened once and shared by all executors: a file (or block device), or a simulated disk. [`Handle::attach`]
//! (crate::Handle::attach) makes it a [`Device`] of one executor, which does the I/O.
//!
//! Offsets and lengths are multiples of the logical block. An operation longer than `max_io_bytes` is split. A read or write takes its
//! buffer and gives it back with the result; whoever drops the future gets no result, and the buffer is freed when the operation
//! is complete.
//!
//! What survives a crash: a write made with `WriteDurability::Durable` when it has completed; any other write when a flush that was
//! *submitted after the write's completion* has completed. The same holds for `allocate` and `discard`, which a durable write behind
//! the old end of the file makes durable too.

mod attached;
mod choose;
mod file;
mod geometry;
pub(crate) mod nvme;
mod queue;
#[cfg(feature = "testing")]
pub(crate) mod record;

use std::future::Future;
use std::ops::Range;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

pub(crate) use attached::{Attached, Target};
pub use geometry::{DeviceKind, Discard, Geometry};

use crate::buffer::Buffer;
use crate::executor::{BufferOperation, Class, ControlOperation, Core, Request};
use crate::sim::SimDisk;
use crate::{IoError, OpKind};

/// How to open a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// Existing, for reading; shared with other readers.
    ReadOnly,
    /// Existing, for reading and writing; excludes everybody else.
    ReadWrite,
    /// New: fails where it exists. Excludes everybody else.
    Create,
}

/// How a device is to be driven.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceRequest {
    /// As this kind and no other: `/dev/nvme0n1` as [`DeviceKind::NvmePassthrough`] is `/dev/ng0n1`, for instance. `None`: the best that works.
    pub kind: Option<DeviceKind>,
    /// Completions are polled for, which the device must have queues for. A core is busy as long as anything is in flight.
    pub polled: bool,
}

/// When a write counts as done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteDurability {
    /// The device has it, perhaps in a volatile cache: a flush makes it durable.
    Cached,
    /// It is on stable storage (FUA).
    Durable,
}

/// How long what is written is expected to live: a hint for devices that separate data by it ([`Geometry::write_streams`]). Files have no use
/// for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// Superblock, roots and manifest.
    Metadata,
    /// The write-ahead log: lives until the next flush.
    Wal,
    /// Level 0: lives until the next compaction.
    Level0,
    /// Deeper levels.
    Deep,
}

impl Placement {
    /// All of them; each at the index that it is as a number.
    pub const ALL: [Placement; 4] = [Placement::Metadata, Placement::Wal, Placement::Level0, Placement::Deep];

    /// Which of so many streams it goes to, counted from 0. What lives longest is the first to have one of its own. `None` where there is
    /// nothing to separate.
    pub(crate) fn stream(self, streams: u16) -> Option<u16> {
        let by_placement = match streams {
            0 | 1 => return None,
            2 => [0, 0, 0, 1],
            3 => [0, 0, 1, 2],
            _ => [0, 1, 2, 3],
        };
        Some(by_placement[self as usize])
    }
}

/// An open device, to be shared by executors.
#[derive(Clone)]
pub struct SharedDevice(Arc<Shared>);

struct Shared {
    kind: Kind,
    geometry: Geometry,
    len_bytes: AtomicU64,
    #[cfg(feature = "testing")]
    recorder: Option<record::Recorder>,
}

enum Kind {
    File(file::OpenFile),
    Nvme(nvme::Namespace),
    Simulated(SimDisk),
}

impl SharedDevice {
    /// Whether there is nothing to flush: a write is on stable storage when it has completed. Asked of the kernel anew, since a cache may have
    /// been switched on. About a microsecond.
    pub(crate) fn writes_are_durable(&self) -> bool {
        self.0.geometry.writes_are_durable()
            && match &self.0.kind {
                Kind::File(file) => !file.has_volatile_cache(),
                Kind::Nvme(_) | Kind::Simulated(_) => true,
            }
    }

    /// Opens a file, a block device or an NVMe namespace (`/dev/ng0n1`) in the best way that works, which it says in the log. Direct I/O;
    /// where the filesystem has none (tmpfs), buffered, with a warning.
    ///
    /// Locks it (`flock`): exclusively for writers, shared for readers. A writer of a block device also excludes everything else that the
    /// kernel knows of (`O_EXCL`). What is held is tried again for two seconds, since a process that was killed may hold it for a moment
    /// longer; then it is an error with `EAGAIN` (another process of ours) or `EBUSY` (mounted, below a RAID, or opened exclusively).
    pub fn open(path: &Path, mode: OpenMode) -> Result<SharedDevice, IoError> {
        SharedDevice::open_with(path, mode, DeviceRequest::default())
    }

    /// The same in the way that is asked for, and no other.
    ///
    /// # Errors
    /// Also where the path cannot be driven so: the error says what is missing.
    pub fn open_with(path: &Path, mode: OpenMode, request: DeviceRequest) -> Result<SharedDevice, IoError> {
        choose::open(path, mode, request).map(SharedDevice::opened)
    }

    fn opened((kind, geometry): (Kind, Geometry)) -> SharedDevice {
        let len_bytes = AtomicU64::new(geometry.size_bytes);
        SharedDevice::new(kind, geometry, len_bytes)
    }

    /// Whether an executor must have a ring with wide entries to drive it.
    pub fn needs_wide_entries(&self) -> bool {
        self.0.geometry.kind == DeviceKind::NvmePassthrough
    }

    /// A simulated disk, as it is now. After a crash and restart of the disk make a new one.
    pub fn simulated(disk: SimDisk) -> SharedDevice {
        let geometry = disk.geometry();
        SharedDevice::new(Kind::Simulated(disk), geometry, AtomicU64::new(0))
    }

    fn new(kind: Kind, geometry: Geometry, len_bytes: AtomicU64) -> SharedDevice {
        SharedDevice(Arc::new(Shared {
            kind,
            geometry,
            len_bytes,
            #[cfg(feature = "testing")]
            recorder: None,
        }))
    }

    /// The same, with everything that it is asked and answers recorded from now on.
    ///
    /// # Panics
    /// When it is in use already.
    #[cfg(feature = "testing")]
    #[doc(hidden)]
    #[must_use]
    pub fn recorded(mut self, recorder: &record::Recorder) -> SharedDevice {
        recorder.opened(self.geometry(), self.len_bytes());
        let Some(shared) = Arc::get_mut(&mut self.0) else {
            panic!("a device is recorded from its opening, or not at all")
        };
        shared.recorder = Some(recorder.clone());
        self
    }

    #[cfg(feature = "testing")]
    pub(crate) fn recorder(&self) -> Option<&record::Recorder> {
        self.0.recorder.as_ref()
    }

    /// What it can do; the size is that at opening.
    pub fn geometry(&self) -> &Geometry {
        &self.0.geometry
    }

    /// Its file's path.
    pub fn path(&self) -> &Path {
        match &self.0.kind {
            Kind::File(file) => file.path(),
            Kind::Nvme(namespace) => namespace.path(),
            Kind::Simulated(_) => Path::new("simulated disk"),
        }
    }

    /// Its present size in bytes.
    pub fn len_bytes(&self) -> u64 {
        match &self.0.kind {
            Kind::File(_) | Kind::Nvme(_) => self.0.len_bytes.load(Ordering::Acquire),
            Kind::Simulated(disk) => disk.len_bytes(),
        }
    }

    fn grown_to(&self, len_bytes: u64) {
        self.0.len_bytes.fetch_max(len_bytes, Ordering::AcqRel);
    }
}

/// A device attached to one executor.
///
/// ```
/// use siltstone_io::*;
/// let mut executor = Executor::new(ExecutorConfig::default(), Backend::Simulated(SimClock::new()))?;
/// let disk = SharedDevice::simulated(SimDisk::new(1, SimOptions::default()));
/// let device = executor.handle().attach(&disk)?;
/// let read = executor.block_on(async {
///     device.allocate(0, 1 << 20).await?;
///     let mut buffer = Buffer::heap(4096);
///     buffer.fill(7);
///     let (written, buffer) = device.write(8192, buffer, 0..4096, WriteDurability::Durable, Placement::Wal).await;
///     written?;
///     let (read, buffer) = device.read(8192, buffer, 4096).await;
///     read.map(|()| buffer[4095])
/// })?;
/// assert_eq!(read, 7);
/// # Ok::<(), IoError>(())
/// ```
#[derive(Clone)]
pub struct Device {
    core: Rc<Core>,
    attached: Rc<Attached>,
    class: Option<Class>,
}

impl Device {
    pub(crate) fn attach(core: Rc<Core>, shared: &SharedDevice) -> Result<Device, IoError> {
        let attached = Rc::new(Attached::new(&core, shared)?);
        Ok(Device { core, attached, class: None })
    }

    /// The same device, but its operations are of this class, whatever the class of the task that starts them: for what tasks of other
    /// classes wait for, too.
    #[must_use]
    pub fn in_class(&self, class: Class) -> Device {
        Device { class: Some(class), ..self.clone() }
    }

    /// What the device can do; the size is that at opening.
    pub fn geometry(&self) -> &Geometry {
        self.attached.geometry()
    }

    /// Its file's path.
    pub fn path(&self) -> &Path {
        self.attached.path()
    }

    /// Its present size in bytes; grows with [`allocate`](Device::allocate), by whichever executor.
    pub fn len_bytes(&self) -> u64 {
        self.attached.shared().len_bytes()
    }

    /// Reads `len` bytes at `offset` into `buffer[..len]`: one device read for each `max_io_bytes`. It begins at the call.
    ///
    /// # Panics
    /// When offset or length is not a multiple of the logical block, or the buffer is too short.
    pub fn read(&self, offset: u64, buffer: Buffer, len: usize) -> BufferOperation {
        self.check_alignment(offset, len as u64);
        assert!(len <= buffer.len(), "a read of {len} bytes into a buffer of {}", buffer.len());
        assert!(len > 0, "a transfer of no bytes");
        let request = Request {
            kind: OpKind::Read,
            offset,
            len: len as u64,
            start: 0,
            durable: false,
            placement: None,
            buffer: Some(buffer),
            class: self.class,
        };
        BufferOperation::start(&self.core, &self.attached, request)
    }

    /// Writes `buffer[range]` at `offset`. It begins at the call.
    ///
    /// # Panics
    /// When offset, or start or end of the range is not a multiple of the logical block, or the range is not inside the buffer.
    pub fn write(
        &self,
        offset: u64,
        buffer: Buffer,
        range: Range<usize>,
        durability: WriteDurability,
        placement: Placement,
    ) -> BufferOperation {
        assert!(range.start < range.end && range.end <= buffer.len(), "{range:?} of a buffer of {}", buffer.len());
        self.check_alignment(offset, range.len() as u64);
        self.check_alignment(range.start as u64, 0);
        let (start, len, durable) = (range.start, range.len() as u64, durability == WriteDurability::Durable);
        let (kind, placement, buffer, class) = (OpKind::Write, Some(placement), Some(buffer), self.class);
        let request = Request { kind, offset, len, start, durable, placement, buffer, class };
        BufferOperation::start(&self.core, &self.attached, request)
    }

    /// Makes durable what was written, allocated and discarded before: everything that had completed when this was called. Nothing is done
    /// where nothing is needed: on a block device without a volatile cache. (A file is flushed even there, for its metadata.)
    pub fn flush(&self) -> impl Future<Output = Result<(), IoError>> + use<> {
        self.control(OpKind::Flush, 0, 0)
    }

    /// Reserves space, and grows the device to `offset + len` where it is shorter. New bytes read as zero. A full filesystem is an error
    /// for which `is_no_space` holds, and so is the end of a device of fixed size, which has all its space from the beginning (with what was
    /// last written to it).
    pub fn allocate(&self, offset: u64, len: u64) -> impl Future<Output = Result<(), IoError>> + use<> {
        self.check_alignment(offset, len);
        self.control(OpKind::Allocate, offset, len)
    }

    /// Gives space back. In a file the bytes read as zero from then on; on a device they are anything (what they were, zeros) until they are written,
    /// and it may do nothing.
    pub fn discard(&self, offset: u64, len: u64) -> impl Future<Output = Result<(), IoError>> + use<> {
        self.check_alignment(offset, len);
        self.control(OpKind::Discard, offset, len)
    }

    fn control(&self, kind: OpKind, offset: u64, len: u64) -> ControlOperation {
        let class = self.class;
        let request = Request { kind, offset, len, start: 0, durable: false, placement: None, buffer: None, class };
        ControlOperation::start(&self.core, &self.attached, request)
    }

    fn check_alignment(&self, offset: u64, len: u64) {
        let block = u64::from(self.geometry().logical_block_bytes);
        let aligned = offset.is_multiple_of(block) && len.is_multiple_of(block);
        assert!(aligned, "offset {offset} and length {len} must be multiples of the logical block, {block} bytes");
    }
}

#[cfg(all(test, feature = "testing", not(any(loom, shuttle))))]
mod tests {
    use super::*;
    use crate::ring::probe;
    use crate::testing::places::{LoopDevice, or_skipped};
    use crate::{Backend, Executor, ExecutorConfig};

    /// A loop device has no streams. Of one that claims to have some, the kernel refuses writes to them: so it has found the stream in them.
    #[test]
    #[cfg_attr(miri, ignore = "Miri has no io_uring")]
    fn writes_to_a_block_device_carry_their_stream_where_it_has_any() {
        if !probe::kernel_is_at_least(6, 16) {
            return eprintln!("skipped: write streams need Linux 6.16");
        }
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("image");
        let Some(place) = or_skipped(LoopDevice::new(&image, 1 << 20, Some(512))) else { return };
        for (handles, streams) in [(0, 0), (1, 0), (2, 2), (3, 3), (200, 4)] {
            let opened = choose::open(place.path(), OpenMode::ReadWrite, DeviceRequest::default());
            let (kind, geometry) = opened.unwrap();
            assert_eq!(geometry.placement_handles, 0);
            let shared = SharedDevice::opened((kind, Geometry { placement_handles: handles, ..geometry }));
            assert_eq!(shared.geometry().write_streams(), streams);
            let mut executor = Executor::new(ExecutorConfig::default(), Backend::Ring).unwrap();
            let device = executor.handle().attach(&shared).unwrap();
            let pool = executor.handle().buffer_pool(4096, 4);
            executor.block_on(async {
                for placement in Placement::ALL {
                    for buffer in [Buffer::heap(4096), pool.take().unwrap()] {
                        let (written, buffer) =
                            device.write(0, buffer, 0..4096, WriteDurability::Cached, placement).await;
                        let errno = written.err().map(|error| error.errno);
                        assert_eq!(errno, (streams > 0).then_some(libc::EINVAL), "{placement:?} of {handles} handles");
                        device.read(0, buffer, 4096).await.0.unwrap();
                    }
                }
            });
        }
    }
}
