//! Opening a file or block device, and what it reports about itself.
//!
//! A writer excludes everybody else: Siltstone's other processes by a lock on the file (`flock`), and on a block device everything that
//! the kernel knows of (a mount, a RAID or LVM above it, another exclusive opening) by `O_EXCL`. Who only looks takes a shared lock.
//!
//! A new file is overwritten in place also by a filesystem that else copies on write (btrfs, `chattr +C`). There every write takes new
//! space, the second one to reserved space as well: on a full disk a write would fail that needs nothing. The filesystem's
//! checksums and compression, which such a file does without, are the engine's business.

use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::statfs::{BTRFS_SUPER_MAGIC, TMPFS_MAGIC, fstatfs};

use super::geometry::{DeviceKind, Discard};
use super::queue::{Queue, WriteCache, Zones};
use super::{Geometry, OpenMode};
use crate::ring::probe;
use crate::{IoError, OpKind};

/// `FS_NOCOW_FL` of `linux/fs.h`.
const NO_COPY_ON_WRITE: libc::c_int = 0x0080_0000;
/// How long a held lock is tried again for: the kernel may take a moment to end a killed process's ring, which holds the file.
const LOCK_PATIENCE_MS: u64 = 2000;
const LOCK_RETRY_MS: u64 = 10;
const BLOCK_BYTES_DEFAULT: u32 = 4096;
pub(super) const ZONED: &str =
    "it is a device of zones that must be written in order, which Siltstone cannot use: give one without zones";

/// An open, locked file.
pub(crate) struct OpenFile {
    file: Flock<File>,
    path: PathBuf,
    /// Of a block device.
    write_cache: Option<WriteCache>,
}

impl OpenFile {
    pub(crate) fn open(path: &Path, mode: OpenMode) -> Result<(OpenFile, Geometry), IoError> {
        let on_block_device = check_type(path)?;
        let exclusive = if on_block_device && mode != OpenMode::ReadOnly { libc::O_EXCL } else { 0 };
        let (file, direct) = patiently(libc::EBUSY, || open_direct(path, mode, exclusive))?;
        let file = lock(file, path, mode)?;
        let geometry = probe_geometry(&file, path, direct)?;
        if mode == OpenMode::Create {
            overwrite_in_place(&file, path);
            sync_parent(path)?;
        }
        let write_cache = if on_block_device {
            file.metadata().ok().and_then(|node| Queue::of(node.rdev()).write_cache())
        } else {
            None
        };
        Ok((OpenFile { file, path: path.to_owned(), write_cache }, geometry))
    }

    /// Whether there is a volatile cache now.
    pub(crate) fn has_volatile_cache(&self) -> bool {
        self.write_cache.as_ref().is_none_or(WriteCache::is_volatile)
    }

    pub(crate) fn fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it is a block device that was taken away: nothing is left of it then.
    pub(crate) fn is_gone(&self) -> bool {
        let is_block_device = self.file.metadata().is_ok_and(|metadata| metadata.file_type().is_block_device());
        is_block_device && (&*self.file).seek(SeekFrom::End(0)).is_ok_and(|bytes| bytes == 0)
    }
}

/// Whether it is a block device. Anything but that, a file, and nothing yet, is refused.
fn check_type(path: &Path) -> Result<bool, IoError> {
    let kind = match std::fs::metadata(path) {
        Ok(metadata) => metadata.file_type(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(failed(path, &error)),
    };
    if kind.is_block_device() || kind.is_file() {
        return Ok(kind.is_block_device());
    }
    Err(IoError::other(OpKind::Open, path, 0, 0, "it is neither a file nor a block device: give one of these"))
}

/// Tries again for a while where this error says that somebody else has it.
#[expect(
    clippy::disallowed_methods,
    reason = "a lock is waited for at opening, before there is an executor to wait on"
)]
pub(super) fn patiently<T>(held: i32, mut attempt: impl FnMut() -> Result<T, IoError>) -> Result<T, IoError> {
    for _ in 0..LOCK_PATIENCE_MS / LOCK_RETRY_MS {
        match attempt() {
            Err(error) if error.errno == held => std::thread::sleep(Duration::from_millis(LOCK_RETRY_MS)),
            other => return other,
        }
    }
    attempt()
}

/// Opens with O_DIRECT, or without where that is refused or would not mean anything.
fn open_direct(path: &Path, mode: OpenMode, exclusive: i32) -> Result<(File, bool), IoError> {
    let open = |flags: i32| {
        let mut options = OpenOptions::new();
        options.read(true).write(mode != OpenMode::ReadOnly).create_new(mode == OpenMode::Create);
        options.custom_flags(flags | exclusive).open(path)
    };
    let (file, opened_direct) = match open(libc::O_DIRECT) {
        Ok(file) => (file, true),
        // With O_CREAT a filesystem may make the file before it refuses O_DIRECT: then it is ours to open.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            let again = open(0).or_else(|again| match again.raw_os_error() {
                Some(libc::EEXIST) => OpenOptions::new().read(true).write(true).open(path),
                _ => Err(again),
            });
            (again.map_err(|error| failed(path, &error))?, false)
        }
        Err(error) => return Err(failed(path, &error)),
    };
    // tmpfs accepts O_DIRECT since Linux 6.6, and ignores it. The node of a block device is in such a filesystem too, but the device is not.
    let is_file = file.metadata().is_ok_and(|metadata| metadata.is_file());
    let on_tmpfs = is_file && fstatfs(&file).is_ok_and(|stat| stat.filesystem_type() == TMPFS_MAGIC);
    let direct = opened_direct && !on_tmpfs;
    if !direct {
        tracing::warn!(path = %path.display(), "the filesystem has no direct I/O: reads and writes go through the page cache");
    }
    Ok((file, direct))
}

pub(super) fn lock(file: File, path: &Path, mode: OpenMode) -> Result<Flock<File>, IoError> {
    let wanted = match mode {
        OpenMode::ReadOnly => FlockArg::LockSharedNonblock,
        OpenMode::ReadWrite | OpenMode::Create => FlockArg::LockExclusiveNonblock,
    };
    let mut unlocked = Some(file);
    patiently(libc::EAGAIN, || {
        let file = unlocked.take().expect("given back by the attempt before");
        Flock::lock(file, wanted).map_err(|(file, errno)| {
            unlocked = Some(file);
            let errno = if errno == Errno::EINTR { Errno::EAGAIN } else { errno };
            IoError::from_errno(OpKind::Open, path, 0, 0, errno as i32)
        })
    })
}

/// Has the filesystem overwrite this new, empty file in place. Most do anyway, and do not know the flag.
fn overwrite_in_place(file: &File, path: &Path) {
    let mut flags: libc::c_int = 0;
    // SAFETY: the command writes an int to where the pointer leads.
    let mut done = unsafe { libc::ioctl(file.as_raw_fd(), libc::FS_IOC_GETFLAGS, &raw mut flags) };
    if done == 0 {
        flags |= NO_COPY_ON_WRITE;
        // SAFETY: the command reads an int from there.
        done = unsafe { libc::ioctl(file.as_raw_fd(), libc::FS_IOC_SETFLAGS, &raw const flags) };
    }
    if done != 0 && fstatfs(file).is_ok_and(|stat| stat.filesystem_type() == BTRFS_SUPER_MAGIC) {
        tracing::warn!(path = %path.display(), "btrfs copies on write: on a full disk writes fail for which space was reserved");
    }
}

fn probe_geometry(file: &File, path: &Path, direct: bool) -> Result<Geometry, IoError> {
    let metadata = file.metadata().map_err(|error| failed(path, &error))?;
    let is_block_device = metadata.file_type().is_block_device();
    let queue = Queue::of(if is_block_device { metadata.rdev() } else { metadata.dev() });
    if is_block_device && queue.zones() == Zones::HostManaged {
        return Err(IoError::other(OpKind::Open, path, 0, 0, ZONED));
    }
    let logical = match probe::direct_alignment(file.as_raw_fd()) {
        _ if !direct => BLOCK_BYTES_DEFAULT,
        Some(alignment) => alignment,
        None => queue.number("logical_block_size").map_or(BLOCK_BYTES_DEFAULT, |bytes| bytes as u32),
    };
    if logical > BLOCK_BYTES_DEFAULT {
        let reason = format!("its logical blocks have {logical} bytes: at most {BLOCK_BYTES_DEFAULT} are supported");
        return Err(IoError::other(OpKind::Open, path, 0, 0, reason));
    }
    let physical = queue.number("physical_block_size").map_or(logical, |bytes| (bytes as u32).max(logical));
    let max_io = queue.transfer_bytes_max() / logical * logical;
    let size_bytes = if is_block_device {
        (&*file).seek(SeekFrom::End(0)).map_err(|error| failed(path, &error))?
    } else {
        metadata.len()
    };
    Ok(Geometry {
        kind: if is_block_device { DeviceKind::Block } else { DeviceKind::File },
        logical_block_bytes: logical,
        physical_block_bytes: physical,
        optimal_io_bytes: queue.number("optimal_io_size").unwrap_or(0) as u32,
        dma_alignment_bytes: queue.number("dma_alignment").map_or(logical, |mask| mask as u32 + 1),
        max_io_bytes: max_io.max(logical),
        size_bytes,
        fixed_size: is_block_device,
        atomic_write_bytes: queue.number("atomic_write_unit_max_bytes").map_or(0, |bytes| bytes as u32),
        volatile_cache: queue.has_volatile_cache(),
        fua: is_block_device && (!queue.has_volatile_cache() || queue.number("fua").is_some()),
        direct,
        nowait: probe::takes_nowait(file.as_raw_fd()),
        polled: false,
        discard: match is_block_device {
            false => Discard::Hole,
            true if queue.number("discard_max_bytes").is_none() => Discard::None,
            true if probe::kernel_is_at_least(6, 12) => Discard::Command,
            true => Discard::Hole,
        },
        host_aware_zones: is_block_device && queue.zones() == Zones::HostAware,
        placement_handles: if is_block_device { queue.write_streams() } else { 0 },
    })
}

/// Makes the name of a new file durable.
fn sync_parent(path: &Path) -> Result<(), IoError> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    File::open(parent).and_then(|folder| folder.sync_all()).map_err(|error| failed(parent, &error))
}

pub(super) fn failed(path: &Path, error: &std::io::Error) -> IoError {
    IoError::from_std(OpKind::Open, path, error)
}
