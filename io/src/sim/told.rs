//! What the disk has told of its failures: one line for each operation that ended with EIO or ENOSPC.

use crate::OpKind;

/// An operation that failed, and said so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    /// What was tried.
    pub op: OpKind,
    /// Where, in bytes from the start of the disk.
    pub offset: u64,
    /// How much, in bytes.
    pub len: u64,
    /// It is a flush, or has one behind it.
    pub flushes: bool,
    /// EIO or ENOSPC.
    pub errno: i32,
    /// When, in virtual microseconds.
    pub at_us: u64,
}
