//! Which paths of recovery and fault handling were taken, and how often (`mark!(Name)` in the code).
//!
//! The counts are the process's, over all engines in it.

siltstone_io::mark_table! {
    // Opening and recovery.
    CreationTakenUpAgain: "creation that was cut short taken up again",
    SuperblockCopyDamaged: "superblock copy not whole and another used",
    SuperblockCopiesDiffer: "superblock copies of several generations",
    RootPageDamaged: "root page not whole and its twin used",
    RootPagesDiffer: "root pages that name different logs",
    RestoredNamedCheckpoint: "checkpoint restored by name",
    RestoredLastCheckpoint: "last checkpoint restored",
    RestoredNothing: "nothing to restore: empty state",
    OpenedWithSameShards: "opened with the same number of shards",
    RescaledUp: "opened with more shards",
    RescaledDown: "opened with fewer shards",
    SstShared: "SST shared by several shards",
    SharedLogKept: "log that several shards have replayed kept for another",
    UncommittedPartDropped: "part of a checkpoint without a commit dropped",
    KeyspaceCreatedAtOpen: "keyspace that a shard lacks created at opening",
    // Logs.
    EmptyLogReplayed: "empty log replayed",
    OneLogReplayed: "one log replayed",
    SeveralLogsReplayed: "several logs replayed",
    EntryBelowFloorSkipped: "log entry below the floor skipped",
    TornLogBlock: "torn or damaged log block",
    LogEndsInsideCommit: "log ends inside a commit",
    LogGoesOnBehindDamage: "log goes on behind a block that is not there",
    BlockBehindGap: "log block behind a gap",
    DurableLogBlockMissing: "durable log block missing: reported as damage",
    NewManifestLogBegun: "new manifest log begun",
    ManifestDamaged: "damaged manifest reported",
    // Damage to SSTs.
    DataBlockDamaged: "checksum mismatch in a data block",
    IndexPartitionDamaged: "checksum mismatch in an index partition",
    FilterPartitionDamaged: "checksum mismatch in a filter partition",
    DirectoryDamaged: "checksum mismatch in a directory",
    FooterDamaged: "checksum mismatch in a footer",
    // Failures.
    PoisonedByLog: "shard poisoned by a write of the log",
    FlushBehindWriteFailed: "flush behind a durable write failed",
    PoisonedByManifest: "shard poisoned by a write of the manifest",
    PoisonedByFlush: "flush failed for good",
    PoisonedByCompaction: "compaction failed for good",
    // Space.
    NoSpaceInAllocate: "no space for an extent at first",
    SpaceFoundByReclaiming: "space found by giving back what was kept",
    NoSpaceInLog: "no space in the log",
    NoSpaceInFlush: "no space in flush",
    NoSpaceInCompaction: "no space in compaction",
    NoSpaceInManifestRotation: "no space for a new manifest log",
    WriteRefusedWithoutSpace: "write refused for want of space",
    LoggedAfterNoSpace: "log goes on after it had no space",
    FlushedAfterNoSpace: "flush succeeds after it had no space",
    CompactedAfterNoSpace: "compaction succeeds after it had no space",
    ExtentsReclaimed: "extents reclaimed from the queue",
    RecycledExtentUsed: "extent of an old log used for a new one",
    WriterDropped: "unfinished writer dropped with its extents",
    // Epochs and operators.
    StragglerWritten: "straggler writes into an old epoch's memtable",
    OperatorBegunAnew: "operator that arrives behind a newer epoch's begun anew",
    WriteWaited: "write waits for admission",
    CheckpointFailed: "checkpoint failed",
    CheckpointBeyondRetentionDropped: "checkpoint beyond those to be kept dropped",
    FlushGivenUp: "flush given up by a closing",
    CompactionGivenUp: "compaction given up by a closing",
    ClosedWithPendingLog: "closed with writes in the log's buffer",
    // Timers.
    TimersRefilled: "timers of a key group read from the store",
    TimerRefillCrossed: "timers that were read changed meanwhile: read again",
    TimerBelowBound: "timer registered below the bound of those in memory",
    TimersOverBound: "more timers of a key group than are kept in memory",
    TimerGroupForgotten: "timer written across another change: its key group forgotten",
    // Reads.
    FetchShared: "read of a block shared by several readers",
    BlockAcrossExtents: "block across extents read",
}

/// All marks and their counts, of the engine and of the I/O layer.
pub fn counts() -> Vec<(&'static str, u64)> {
    [counts_here(), siltstone_io::testing::mark_counts()].concat()
}

/// Sets all counts to zero.
pub fn reset() {
    reset_here();
    siltstone_io::testing::reset_marks();
}
