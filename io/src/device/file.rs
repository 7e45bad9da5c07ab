//! Opening a file or block device, and what it reports about itself.

use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::statfs::{TMPFS_MAGIC, fstatfs};

use super::{Geometry, OpenMode};
use crate::ring::probe;
use crate::{IoError, OpKind};

/// Larger transfers are handed to worker threads by the kernel.
const IO_BYTES_MAX: u32 = 512 << 10;
/// How long a held lock is tried again for: the kernel may take a moment to end a killed process's ring, which holds the file.
const LOCK_PATIENCE_MS: u64 = 2000;
const LOCK_RETRY_MS: u64 = 10;
const BLOCK_BYTES_DEFAULT: u32 = 4096;

/// An open, locked file.
pub(crate) struct OpenFile {
    file: Flock<File>,
    path: PathBuf,
}

impl OpenFile {
    pub(crate) fn open(path: &Path, mode: OpenMode) -> Result<(OpenFile, Geometry), IoError> {
        let (file, direct) = open_direct(path, mode)?;
        let file = lock(file, path, mode)?;
        let geometry = probe_geometry(&file, direct).map_err(|error| failed(path, &error))?;
        if mode == OpenMode::Create {
            sync_parent(path)?;
        }
        Ok((OpenFile { file, path: path.to_owned() }, geometry))
    }

    pub(crate) fn fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

/// Opens with O_DIRECT, or without where that is refused or would not mean anything.
fn open_direct(path: &Path, mode: OpenMode) -> Result<(File, bool), IoError> {
    let open = |flags: i32| {
        let mut options = OpenOptions::new();
        options.read(true).write(mode != OpenMode::ReadOnly).create_new(mode == OpenMode::Create);
        options.custom_flags(flags).open(path)
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
    // tmpfs accepts O_DIRECT since Linux 6.6, and ignores it.
    let direct = opened_direct && !fstatfs(&file).is_ok_and(|stat| stat.filesystem_type() == TMPFS_MAGIC);
    if !direct {
        tracing::warn!(path = %path.display(), "the filesystem has no direct I/O: reads and writes go through the page cache");
    }
    Ok((file, direct))
}

#[expect(
    clippy::disallowed_methods,
    reason = "a lock is waited for at opening, before there is an executor to wait on"
)]
fn lock(mut file: File, path: &Path, mode: OpenMode) -> Result<Flock<File>, IoError> {
    let wanted = match mode {
        OpenMode::ReadOnly => FlockArg::LockSharedNonblock,
        OpenMode::ReadWrite | OpenMode::Create => FlockArg::LockExclusiveNonblock,
    };
    for _ in 0..LOCK_PATIENCE_MS / LOCK_RETRY_MS {
        match Flock::lock(file, wanted) {
            Ok(locked) => return Ok(locked),
            Err((unlocked, Errno::EAGAIN | Errno::EINTR)) => file = unlocked,
            Err((_, errno)) => return Err(IoError::from_errno(OpKind::Open, path, 0, 0, errno as i32)),
        }
        std::thread::sleep(Duration::from_millis(LOCK_RETRY_MS));
    }
    Err(IoError::from_errno(OpKind::Open, path, 0, 0, libc::EAGAIN))
}

fn probe_geometry(file: &File, direct: bool) -> std::io::Result<Geometry> {
    let metadata = file.metadata()?;
    let is_block_device = metadata.file_type().is_block_device();
    let device = if is_block_device { metadata.rdev() } else { metadata.dev() };
    let queue = Queue::of(device);
    let logical = match probe::direct_alignment(file.as_raw_fd()) {
        _ if !direct => BLOCK_BYTES_DEFAULT,
        Some(alignment) => alignment,
        None => queue.number("logical_block_size").map_or(BLOCK_BYTES_DEFAULT, |bytes| bytes as u32),
    };
    let physical = queue.number("physical_block_size").map_or(logical, |bytes| (bytes as u32).max(logical));
    let device_max = queue.number("max_sectors_kb").map_or(u64::from(IO_BYTES_MAX), |kib| kib << 10);
    let max_io = device_max.min(u64::from(IO_BYTES_MAX)) as u32 / logical * logical;
    let size_bytes = if is_block_device { (&*file).seek(SeekFrom::End(0))? } else { metadata.len() };
    Ok(Geometry {
        logical_block_bytes: logical,
        physical_block_bytes: physical,
        max_io_bytes: max_io.max(logical),
        size_bytes,
        fixed_size: is_block_device,
        atomic_write_bytes: queue.number("atomic_write_unit_max_bytes").map_or(0, |bytes| bytes as u32),
        volatile_cache: queue.text("write_cache").is_none_or(|mode| mode != "write through"),
        direct,
        nowait: probe::takes_nowait(file.as_raw_fd()),
        polled: false,
        placement_handles: 0,
    })
}

/// The kernel's description of a block device's request queue; empty where there is no block device (tmpfs, network filesystems).
struct Queue {
    folder: PathBuf,
}

impl Queue {
    fn of(device: u64) -> Queue {
        let folder = PathBuf::from(format!("/sys/dev/block/{}:{}", libc::major(device), libc::minor(device)));
        // A partition's queue is its disk's.
        let own = folder.join("queue");
        Queue { folder: if own.is_dir() { own } else { folder.join("../queue") } }
    }

    fn text(&self, name: &str) -> Option<String> {
        let text = std::fs::read_to_string(self.folder.join(name)).ok()?;
        Some(text.trim().to_owned())
    }

    fn number(&self, name: &str) -> Option<u64> {
        self.text(name)?.parse().ok().filter(|number| *number > 0)
    }
}

/// Makes the name of a new file durable.
fn sync_parent(path: &Path) -> Result<(), IoError> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    File::open(parent).and_then(|folder| folder.sync_all()).map_err(|error| failed(parent, &error))
}

fn failed(path: &Path, error: &std::io::Error) -> IoError {
    match error.raw_os_error() {
        Some(errno) => IoError::from_errno(OpKind::Open, path, 0, 0, errno),
        None => IoError::other(OpKind::Open, path, 0, 0, error.to_string()),
    }
}
