//! Errors of the I/O layer.

use std::io;
use std::path::PathBuf;

/// Which operation failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum OpKind {
    /// Opening or creating a device.
    Open,
    /// Reading.
    Read,
    /// Writing.
    Write,
    /// Making writes durable.
    Flush,
    /// Giving space back.
    Discard,
    /// Reserving space.
    Allocate,
    /// Setting up a ring, thread or other resource.
    Setup,
}

/// A failed operation on a device.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{op:?} of {length} bytes at offset {offset} of {}: {reason}{}", path.display(), hint(*.errno))]
pub struct IoError {
    /// What was tried.
    pub op: OpKind,
    /// Where, in bytes from the start of the device.
    pub offset: u64,
    /// How much, in bytes.
    pub length: u64,
    /// The device.
    pub path: PathBuf,
    /// The operating system's error number; 0 where the failure has none (a short transfer, a crashed simulated device).
    pub errno: i32,
    /// What the operating system says.
    pub reason: String,
}

fn hint(errno: i32) -> &'static str {
    match errno {
        libc::EACCES | libc::EPERM => " (check the owner and mode of the file, or run as a user who may open it)",
        libc::EROFS => " (the filesystem is mounted read-only)",
        libc::ENOSPC | libc::EDQUOT => " (free some space, then try again)",
        libc::EAGAIN => " (another process may hold it)",
        libc::EBUSY => " (it is mounted, part of a RAID or LVM volume, or opened exclusively by another process)",
        libc::ENODEV | libc::ENXIO => " (the device is gone)",
        _ => "",
    }
}

impl IoError {
    /// An error with the operating system's error number.
    pub fn from_errno(op: OpKind, path: impl Into<PathBuf>, offset: u64, length: u64, errno: i32) -> Self {
        let reason = io::Error::from_raw_os_error(errno).to_string();
        IoError { op, offset, length, path: path.into(), errno, reason }
    }

    /// The error of a call of the standard library.
    pub fn from_std(op: OpKind, path: impl Into<PathBuf>, error: &io::Error) -> Self {
        match error.raw_os_error() {
            Some(errno) => IoError::from_errno(op, path, 0, 0, errno),
            None => IoError::other(op, path, 0, 0, error.to_string()),
        }
    }

    /// An error that the operating system has no number for.
    pub fn other(op: OpKind, path: impl Into<PathBuf>, offset: u64, length: u64, reason: impl Into<String>) -> Self {
        IoError { op, offset, length, path: path.into(), errno: 0, reason: reason.into() }
    }

    /// Whether the device or filesystem is full.
    pub fn is_no_space(&self) -> bool {
        matches!(self.errno, libc::ENOSPC | libc::EDQUOT)
    }

    /// Whether what was to be made is there already.
    pub fn is_exists(&self) -> bool {
        self.errno == libc::EEXIST
    }
}
