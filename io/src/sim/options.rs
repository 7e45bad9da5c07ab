//! What kind of disk to simulate, and how unreliable it is.

use std::ops::Range;

/// What kind of disk to simulate.
#[derive(Clone, Debug)]
pub struct SimOptions {
    /// How much can be allocated.
    pub capacity_bytes: u64,
    /// 512 or 4096.
    pub logical_block_bytes: u32,
    /// The largest single transfer.
    pub max_io_bytes: u32,
    /// How long an operation takes, in virtual microseconds.
    pub latency_us: Range<u64>,
    /// Latencies have a long tail (up to 43 times the mean, which is the middle of the range) instead of being evenly spread over it.
    pub exponential_latency: bool,
    /// Writes stay in a volatile cache until they are flushed. Without it they are on stable storage when they complete.
    pub volatile_cache: bool,
    /// A durable write concerns nothing else. Without it there is a flush behind the write, and where it fails that flush has, too.
    pub fua: bool,
    /// A crash may tear a logical block of 4096 bytes between its sectors of 512, as disks that emulate it do. Without it, and always
    /// where a logical block has 512 bytes, logical blocks are torn from each other only.
    pub torn_blocks: bool,
}

impl Default for SimOptions {
    fn default() -> SimOptions {
        SimOptions {
            capacity_bytes: 1 << 40,
            logical_block_bytes: 4096,
            max_io_bytes: 512 << 10,
            latency_us: 20..120,
            exponential_latency: false,
            volatile_cache: true,
            fua: true,
            torn_blocks: true,
        }
    }
}

/// How often a disk fails, and how: probabilities, all 0 by default. They are drawn when an operation completes, except where it says
/// otherwise, so that a change counts for what is in flight too.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SimFaults {
    /// A read fails with EIO; the next may succeed.
    pub read_error_chance: f64,
    /// A write fails with EIO; the next may succeed. Any of its blocks may have been written.
    pub write_error_chance: f64,
    /// A flush fails with EIO. Some of what it covered no later flush makes durable either, though reads see it until a crash, which
    /// takes it back.
    pub flush_error_chance: f64,
    /// A discard fails with EIO.
    pub discard_error_chance: f64,
    /// An allocation fails with EIO.
    pub allocate_error_chance: f64,
    /// One of a read's blocks becomes unreadable: EIO for each read that touches it, until it is rewritten.
    pub bad_read_chance: f64,
    /// One of a write's blocks becomes unwritable: EIO for each write that touches it, until the disk is healed.
    pub bad_write_chance: f64,
    /// A transfer of several blocks stops short.
    pub short_transfer_chance: f64,
    /// An operation is refused with EAGAIN.
    pub again_chance: f64,
    /// An operation is refused with EINTR.
    pub interrupted_chance: f64,
    /// An operation is refused with ECANCELED.
    pub cancelled_chance: f64,
    /// An allocation or write fails with ENOSPC. Nothing of it is written.
    pub no_space_chance: f64,
    /// A flush is acknowledged, and nothing becomes durable by it.
    pub lost_flush_chance: f64,
    /// A write is acknowledged, and one of its blocks, or all, keep their old content.
    pub lost_write_chance: f64,
    /// A write is acknowledged; one of its blocks, or all, land elsewhere, and the right place keeps its old content.
    pub misdirected_write_chance: f64,
    /// One of a write's blocks has flipped bits from now on.
    pub bit_rot_chance: f64,
    /// An operation takes a time out of `stall_us`. Drawn when it is submitted.
    pub stall_chance: f64,
    /// How long a stalled operation takes, in virtual microseconds.
    pub stall_us: Range<u64>,
}

/// What a disk has done so far, crashed operations included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SimStats {
    /// Reads submitted.
    pub reads: u64,
    /// Bytes that completed reads returned.
    pub read_bytes: u64,
    /// Writes submitted.
    pub writes: u64,
    /// Bytes that completed writes stored.
    pub written_bytes: u64,
    /// Flushes submitted.
    pub flushes: u64,
    /// Discards submitted.
    pub discards: u64,
    /// Bytes that completed discards gave back.
    pub discarded_bytes: u64,
}
