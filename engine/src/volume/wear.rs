//! What a volume's life has cost its device: bytes written by what they were, and discards.
//!
//! Each shard counts from its executor's counters on, and stores the sum in its manifest, with whatever it commits there anyway
//! ([`crate::shard::Shard::wear`]). So after a crash what was written since the last flush, compaction or checkpoint is not counted.

use siltstone_io::{IoStats, Placement};

/// What has been written to a volume and discarded from it since it was made, by engines. (What probes have written is in
/// [`IoProfile::probed_bytes`](crate::IoProfile::probed_bytes).)
///
/// The counters are stored with each flush, compaction and checkpoint, and at closing: a process that ends otherwise leaves out what it has done
/// since. Blocks that were written twice count twice; what the device writes beyond that, only the device knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct WearCounters {
    /// Bytes of superblocks, roots and manifests.
    pub metadata_bytes: u64,
    /// Bytes of the log.
    pub wal_bytes: u64,
    /// Bytes of SSTs in level 0: by flush.
    pub level_0_bytes: u64,
    /// Bytes of SSTs in deeper levels: by compaction.
    pub deep_bytes: u64,
    /// Discards.
    pub discards: u64,
    /// Bytes discarded.
    pub discarded_bytes: u64,
}

impl WearCounters {
    /// What an executor has done so far.
    pub(crate) fn of(io: &IoStats) -> WearCounters {
        WearCounters {
            metadata_bytes: io.written_bytes_of(Placement::Metadata),
            wal_bytes: io.written_bytes_of(Placement::Wal),
            level_0_bytes: io.written_bytes_of(Placement::Level0),
            deep_bytes: io.written_bytes_of(Placement::Deep),
            discards: io.discards,
            discarded_bytes: io.discarded_bytes,
        }
    }

    /// Both together.
    #[must_use]
    pub fn plus(&self, other: &WearCounters) -> WearCounters {
        let sums = self.numbers().into_iter().zip(other.numbers()).map(|(one, other)| one.saturating_add(other));
        let mut numbers = [0; WearCounters::COUNT];
        numbers.iter_mut().zip(sums).for_each(|(number, sum)| *number = sum);
        WearCounters::from_numbers(numbers)
    }

    /// All bytes written.
    pub fn written_bytes(&self) -> u64 {
        self.metadata_bytes.saturating_add(self.data_bytes())
    }

    /// Bytes written but for metadata.
    pub(crate) fn data_bytes(&self) -> u64 {
        self.wal_bytes.saturating_add(self.level_0_bytes).saturating_add(self.deep_bytes)
    }

    /// How many numbers they are.
    pub(crate) const COUNT: usize = 6;

    /// In the order in which they are stored.
    pub(crate) fn numbers(&self) -> [u64; WearCounters::COUNT] {
        let WearCounters { metadata_bytes, wal_bytes, level_0_bytes, deep_bytes, discards, discarded_bytes } = *self;
        [metadata_bytes, wal_bytes, level_0_bytes, deep_bytes, discards, discarded_bytes]
    }

    pub(crate) fn from_numbers(numbers: [u64; WearCounters::COUNT]) -> WearCounters {
        let [metadata_bytes, wal_bytes, level_0_bytes, deep_bytes, discards, discarded_bytes] = numbers;
        WearCounters { metadata_bytes, wal_bytes, level_0_bytes, deep_bytes, discards, discarded_bytes }
    }
}
