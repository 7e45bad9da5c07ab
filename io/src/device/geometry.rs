//! What a device reports about itself.

use super::Placement;

/// What kind of device it is, and so how it is driven.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DeviceKind {
    /// A file of a filesystem.
    File,
    /// A block device.
    Block,
    /// An NVMe namespace, past the block layer.
    NvmePassthrough,
    /// A simulated disk.
    Simulated,
}

/// How space is given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Discard {
    /// The device has no use for it: a discard does nothing.
    None,
    /// A hole is punched: a file's blocks go back to the filesystem; a block device zeroes them without writing, if it can.
    Hole,
    /// The device is told, and may do as it likes with what was there.
    Command,
}

/// What a device can do. Sizes in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Geometry {
    /// What it is.
    pub kind: DeviceKind,
    /// The unit of addresses and lengths: offsets, lengths and buffer addresses are multiples of it.
    pub logical_block_bytes: u32,
    /// The unit that the device writes without reading first; at least the logical block.
    pub physical_block_bytes: u32,
    /// The size of transfer that the device likes best, 0 where it does not say.
    pub optimal_io_bytes: u32,
    /// The alignment of memory that it transfers from and to.
    pub dma_alignment_bytes: u32,
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
    /// A durable write is one command, which makes durable what it writes alone (FUA). Where not, the kernel sends a flush behind it: when that
    /// fails, what others had written may be lost as well.
    pub fua: bool,
    /// Transfers bypass the page cache.
    pub direct: bool,
    /// Operations are started without blocking; where not, the kernel hands each to a worker thread.
    pub nowait: bool,
    /// Completions are polled for, as was asked when it was opened.
    pub polled: bool,
    /// How space is given back.
    pub discard: Discard,
    /// It has zones, though it can be written anywhere.
    pub host_aware_zones: bool,
    /// How many streams of different lifetime the device separates; 0 where it has no such thing. NVMe: reclaim unit handles.
    pub placement_handles: u16,
}

impl Geometry {
    /// Whether a write was on stable storage when it had completed, when the device was opened: a device, not a file with its metadata,
    /// that had no volatile cache.
    pub fn writes_are_durable(&self) -> bool {
        matches!(self.kind, DeviceKind::Block | DeviceKind::NvmePassthrough) && self.direct && !self.volatile_cache
    }

    /// In how many streams writes come, by their [`Placement`]; 0 where the device does not separate them.
    pub fn write_streams(&self) -> u16 {
        let last = Placement::ALL.into_iter().filter_map(|placement| placement.stream(self.placement_handles)).max();
        last.map_or(0, |last| last + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lives_longest_has_a_stream_of_its_own_first() {
        let streams = |count| Placement::ALL.map(|placement| placement.stream(count));
        assert_eq!(streams(0), [None; 4]);
        assert_eq!(streams(1), [None; 4]);
        assert_eq!(streams(2), [Some(0), Some(0), Some(0), Some(1)]);
        assert_eq!(streams(3), [Some(0), Some(0), Some(1), Some(2)]);
        for count in [4, 5, 128, u16::MAX] {
            assert_eq!(streams(count), [Some(0), Some(1), Some(2), Some(3)]);
        }
        for count in 0..10 {
            for (placement, stream) in Placement::ALL.into_iter().zip(streams(count)) {
                assert_eq!(Placement::ALL[placement as usize], placement);
                assert!(stream.is_none_or(|stream| stream < count));
            }
        }
    }
}
