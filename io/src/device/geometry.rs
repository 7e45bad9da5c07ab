//! What a device reports about itself.

/// What a device can do. Sizes in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Geometry {
    /// The unit of addresses and lengths: offsets, lengths and buffer addresses are multiples of it.
    pub logical_block_bytes: u32,
    /// The unit that the device writes without reading first; at least the logical block.
    pub physical_block_bytes: u32,
    /// The largest single transfer: what the device takes, at most 512 KiB (beyond that the kernel uses worker threads).
    pub max_io_bytes: u32,
    /// The size when it was opened; [`Device::len_bytes`](crate::Device::len_bytes) has the present one.
    pub size_bytes: u64,
    /// It does not grow: reserving space beyond its end finds none, and before its end there is nothing to reserve. A block device.
    pub fixed_size: bool,
    /// How large a write the device makes atomic on power loss, 0 where it promises nothing beyond a logical block.
    pub atomic_write_bytes: u32,
    /// The device may lose writes that were not flushed when power fails.
    pub volatile_cache: bool,
    /// Transfers bypass the page cache.
    pub direct: bool,
    /// Operations are started without blocking; where not, the kernel hands each to a worker thread.
    pub nowait: bool,
    /// Completions are polled for.
    pub polled: bool,
    /// How many streams of different lifetime the device separates; 0 where it has no such thing.
    pub placement_handles: u16,
}
