//! NVMe passthrough: a namespace's character device (`/dev/ng0n1`), to which commands go as they are, past the block layer.
//!
//! | file | what |
//! |---|---|
//! | `command` | commands as the kernel takes them: `struct nvme_uring_cmd`, and `ioctl`s for those that identify |
//! | `identify` | what controller and namespace say of themselves |
//! | `placement` | which reclaim units writes may name |
//! | `status` | what a command's status means, and whether it may be tried again |
//!
//! Commands are `IORING_OP_URING_CMD` in a ring with wide entries. A completion's result is 0, or the status that the device gave, or a negative error
//! of the kernel's. Durable writes have the FUA bit, where the controller has a volatile cache at all; a flush is the flush command.
//!
//! What the kernel makes of memory differs. Registered buffers are refused before Linux 6.12. Others are mapped for each command, a segment for
//! each page, so the kernel's bound of segments is one of the transfer's size. In a virtual machine with Linux 6.1 mapping fails with EFAULT now and
//! then, in some runs for a tenth of the reads, though the memory is there; why is not known (it never does while the kernel is traced). Such
//! a command has not been sent, and succeeds when it is tried again, so it is.
//!
//! The character device knows neither partitions nor mounts, and addresses the whole namespace: whoever writes to it must know that nobody else
//! does. So a writer also holds the namespace's block device exclusively for as long as it has it open, which excludes mounts, RAIDs and other
//! writers. A user who may open the character device alone does without, and is told: then the lock on the character device (`flock`) excludes
//! other Siltstone processes only.

mod command;
mod identify;
mod placement;
mod status;

use std::fs::{File, OpenOptions};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::Flock;

pub(crate) use self::command::{Command, NVME_URING_CMD_IO, Range};
use self::placement::Identifiers;
pub(crate) use self::status::Status;
use super::geometry::{DeviceKind, Discard};
use super::queue::{Queue, Zones};
use super::{Geometry, OpenMode, Placement, file};
use crate::ring::probe;
use crate::{IoError, OpKind};

const PASSTHROUGH_KERNEL: (u32, u32) = (6, 1);
/// Before this one the kernel refused (EINVAL) commands that use a part of a registered buffer.
const REGISTERED_BUFFERS_KERNEL: (u32, u32) = (6, 12);

/// An open namespace.
pub(crate) struct Namespace {
    file: Flock<File>,
    path: PathBuf,
    /// The block device, held so that nobody else uses it.
    _block: Option<Flock<File>>,
    pub(crate) id: u32,
    /// A logical block has two to the power of this many bytes.
    pub(crate) block_shift: u32,
    /// Commands may use registered buffers.
    pub(crate) registered_buffers: bool,
    /// What the writes of each placement carry, where the device separates them.
    pub(crate) placement_identifiers: [Option<u16>; Placement::ALL.len()],
}

/// Whether a path is such a device.
pub(crate) fn is_namespace(path: &Path) -> bool {
    std::fs::metadata(path)
        .is_ok_and(|metadata| metadata.file_type().is_char_device() && class_folder(metadata.rdev()).is_some())
}

/// The kernel's folder of a generic NVMe device.
fn class_folder(device: u64) -> Option<PathBuf> {
    let folder = PathBuf::from(format!("/sys/dev/char/{}:{}", libc::major(device), libc::minor(device)));
    let name = std::fs::canonicalize(folder.join("subsystem")).ok()?;
    (name.file_name()? == "nvme-generic").then_some(folder)
}

impl Namespace {
    pub(crate) fn open(path: &Path, mode: OpenMode) -> Result<(Namespace, Geometry), IoError> {
        let refused = |reason: String| IoError::other(OpKind::Open, path, 0, 0, reason);
        if !probe::kernel_is_at_least(PASSTHROUGH_KERNEL.0, PASSTHROUGH_KERNEL.1) {
            let (major, minor) = PASSTHROUGH_KERNEL;
            let reason = format!("NVMe passthrough needs Linux {major}.{minor}: give the block device instead");
            return Err(IoError { errno: libc::ENOSYS, ..refused(reason) });
        }
        // Without O_DIRECT: a character device has none.
        let open = OpenOptions::new().read(true).write(mode != OpenMode::ReadOnly).open(path);
        let file = open.map_err(|error| file::failed(path, &error))?;
        let device = file.metadata().map_err(|error| file::failed(path, &error))?.rdev();
        let file = file::lock(file, path, mode)?;
        let block_path = block_device(path);
        let block = hold(path, block_path.as_deref(), mode)?;
        let (id, namespace, controller) = identify::identify(&file, path)?;
        if namespace.metadata_bytes > 0 {
            return Err(refused(format!(
                "its blocks have {} bytes of metadata: give it a format without",
                namespace.metadata_bytes
            )));
        }
        if namespace.is_write_protected && mode != OpenMode::ReadOnly {
            return Err(IoError::from_errno(OpKind::Open, path, 0, 0, libc::EROFS));
        }
        let queue =
            block_path.as_deref().and_then(|path| std::fs::metadata(path).ok()).map(|block| Queue::of(block.rdev()));
        if queue.as_ref().is_some_and(|queue| queue.zones() == Zones::HostManaged) || is_zoned(device) {
            return Err(refused(file::ZONED.into()));
        }
        let identifiers = match controller.placement {
            true => Identifiers::ask(&file, id).unwrap_or_else(|why| {
                tracing::info!(path = %path.display(), why, "the controller knows placement, but it is not to be had: writes are not separated");
                Identifiers::default()
            }),
            false => Identifiers::default(),
        };
        let block_bytes = 1u32 << namespace.block_shift;
        let kernel_max = queue.as_ref().map_or(Queue::TRANSFER_BYTES_MAX, Queue::transfer_bytes_max);
        let max_io = controller.transfer_bytes_max.min(kernel_max) / block_bytes * block_bytes;
        let geometry = Geometry {
            kind: DeviceKind::NvmePassthrough,
            logical_block_bytes: block_bytes,
            physical_block_bytes: block_bytes
                .max(namespace.preferred_write_blocks.saturating_mul(block_bytes))
                .min(1 << 16),
            optimal_io_bytes: namespace.optimal_io_blocks.saturating_mul(block_bytes),
            dma_alignment_bytes: 4,
            max_io_bytes: max_io.max(block_bytes),
            size_bytes: namespace.blocks << namespace.block_shift,
            fixed_size: true,
            atomic_write_bytes: namespace
                .atomic_write_blocks
                .unwrap_or(controller.atomic_write_blocks)
                .saturating_mul(block_bytes),
            volatile_cache: controller.volatile_cache,
            fua: true,
            direct: true,
            nowait: true,
            polled: false,
            discard: if controller.dataset_management { Discard::Command } else { Discard::None },
            host_aware_zones: false,
            placement_handles: identifiers.count(),
        };
        let registered_buffers = probe::kernel_is_at_least(REGISTERED_BUFFERS_KERNEL.0, REGISTERED_BUFFERS_KERNEL.1);
        let (path, block_shift) = (path.to_owned(), namespace.block_shift);
        let placement_identifiers = identifiers.by_placement();
        let namespace =
            Namespace { file, path, _block: block, id, block_shift, registered_buffers, placement_identifiers };
        Ok((namespace, geometry))
    }

    pub(crate) fn fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

/// The block device of the same namespace: `nvme0n1` of `ng0n1`.
pub(crate) fn block_device(path: &Path) -> Option<PathBuf> {
    let real = std::fs::canonicalize(path).ok()?;
    let name = real.file_name()?.to_str()?.strip_prefix("ng")?;
    let block = real.with_file_name(format!("nvme{name}"));
    block.exists().then_some(block)
}

/// The character device of the namespace of which this block device is the whole: `ng0n1` of `nvme0n1`, and none of `nvme0n1p1`.
pub(crate) fn namespace_of(path: &Path) -> Option<PathBuf> {
    let real = std::fs::canonicalize(path).ok()?;
    let number = real.file_name()?.to_str()?.strip_prefix("nvme")?;
    let namespace = real.with_file_name(format!("ng{number}"));
    is_namespace(&namespace).then_some(namespace)
}

/// Opens the block device as well, and locks it like the character device, so that it is not used for another opening of the volume; for a
/// writer exclusively, so that nobody mounts it. Not to be allowed to is no error.
fn hold(path: &Path, block: Option<&Path>, mode: OpenMode) -> Result<Option<Flock<File>>, IoError> {
    let Some(block) = block else { return Ok(None) };
    let exclusive = if mode == OpenMode::ReadOnly { 0 } else { libc::O_EXCL };
    let open = || {
        let open = OpenOptions::new().read(true).custom_flags(exclusive).open(block);
        open.map_err(|error| file::failed(block, &error))
    };
    match file::patiently(libc::EBUSY, open) {
        Ok(file) => file::lock(file, block, mode).map(Some),
        Err(error) if matches!(error.errno, libc::EACCES | libc::EPERM) => {
            tracing::warn!(path = %path.display(), block = %block.display(), "the block device may not be opened: nothing keeps others from mounting it");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Whether the namespace has the command set of zoned devices, which the kernel gives no block device where it does not know it.
fn is_zoned(device: u64) -> bool {
    const ZONED_COMMAND_SET: &str = "2";
    let csi = class_folder(device).and_then(|folder| std::fs::read_to_string(folder.join("csi")).ok());
    csi.is_some_and(|csi| csi.trim() == ZONED_COMMAND_SET)
}
