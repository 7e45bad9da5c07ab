//! Deliberate bugs.
//!
//! Each is one plausible mistake in one place (`mutant!(Name)` in the code), and breaks a promise of the engine: it is not a matter of taste
//! or speed. At most one is active, for the whole process. [`hits`] tells a mutant that was not noticed from one that was never come by.

use std::sync::LazyLock;

pub use siltstone_io::testing::Mutant;

siltstone_io::mutant_table! {
    // Superblock and opening.
    SuperblockFlushSkipped:
        "the copies of the superblock are not flushed: after a crash the volume names manifests of before a change of the number of shards, which are freed, or gives identities out again",
    GenerationNotRaised:
        "opening does not raise the generation: identities of SSTs and logs are given out twice",
    CheckpointExtentsNotMarked:
        "opening does not mark the extents of SSTs that only checkpoints hold: they are overwritten, and the checkpoint is damaged",
    ReplayForgetsOlderLogs:
        "only the newest of several logs is replayed: a second crash before the first flush loses acknowledged writes",
    // Extents.
    RecycledBeforeEdit:
        "extents of the log are free for reuse before the edit that moves the floor is durable: after a crash acknowledged entries are gone",
    RecycledAndFreed:
        "an extent that is kept for the next log is freed as well: it has two owners, who overwrite each other",
    FreedBeforeDiscard:
        "an extent counts as free before its discard has ended: the discard wipes out what the next owner has written",
    SstExtentsLeaked:
        "the extents of an SST that nobody needs any more are not given back: they leak",
    WriterExtentsLeaked:
        "the extents of a writer that fails or is cancelled are not given back: they leak",
    LogExtentsLeaked:
        "the extents before the log's new floor are not given back: they leak",
    RefusedExtentLeaked:
        "an extent whose space the device refuses stays marked: it leaks",
    ForgottenSstKept:
        "an SST that no manifest names any more is held as before: its space is lost until the next opening",
    SstFreedUnderReaders:
        "an SST is freed when no manifest refers to it, though scans still read it: they find other data",
    SharedSstFreedByFirst:
        "an SST that several shards share is freed when the first lets go: the others lose its data",
    SharedLogFreedByFirst:
        "a log that several shards have replayed is freed when the first has written its part out: a crash loses the others' part",
    // Log.
    WalAckedBeforeDurable:
        "a write is acknowledged when its log write begins: a crash loses acknowledged writes",
    LargeCommitNotFlushed:
        "a commit of several blocks counts as durable without a flush: a crash loses acknowledged writes",
    WriteThroughCoversEarlier:
        "a durable commit behind cached ones is written through without a flush: a crash loses a block before it, and so the commit",
    TornBlockAccepted:
        "the payload's checksum is not checked in replay: a torn block counts as whole, and its garbage as entries",
    StaleLogBlockAccepted:
        "log and sequence of a block are not checked in replay: blocks of an earlier log in a recycled extent come back to life",
    DamageTakenForTornTail:
        "that a later block vouches for a missing one is not heeded: damage to the log silently loses acknowledged writes",
    LogWriteFailureIgnored:
        "a failed write of the log counts as done: acknowledged writes are lost",
    // Manifest.
    ManifestEditNotDurable:
        "an edit of the manifest takes effect before it is durable: after a crash the manifest names extents that were freed",
    ManifestSealForgotten:
        "nothing vouches for the newest edit: damage to it is taken for a torn tail, and silently loses a flush or a checkpoint",
    CheckpointDropNotWritten:
        "the end of a checkpoint is not written to the manifest: the next opening finds it, with its extents freed",
    NewManifestNotDurable:
        "the root pages name a new manifest that is not durable: after a crash the shard has none",
    OldManifestFreedBeforeRoot:
        "the old manifest is freed before the root pages name the new one: after a crash the shard has none",
    RootPagesNotDurable:
        "the root pages are not durable when the old manifest is freed: after a crash they name what is gone",
    SnapshotForgetsCheckpoints:
        "a new manifest lacks the commit records of checkpoints: they cease to exist",
    // Flush.
    FlushOutputNotFlushed:
        "the device is not flushed between a memtable's SSTs and the edit that adds them: after a crash the SSTs are not whole",
    SstFinishedBeforeItsWrites:
        "an SST counts as written while its last writes are in flight: the flush does not cover them, and reads come too early",
    SstWriteFailureIgnored:
        "a failed write of an SST counts as done: its blocks are damaged",
    FloorOfNewestMemtable:
        "a flush moves the log's floor to the newest memtable instead of the next: a crash loses what is between",
    MemtableDroppedBeforeEdit:
        "a memtable is dropped before its tables are installed: reads meanwhile miss its entries",
    FlushForgetsAKeyspace:
        "a flush writes the first keyspace of a memtable only: the entries of the others are lost",
    FlushWithoutSpaceDropsMemtable:
        "a memtable is dropped although its flush found no space: its entries are lost",
    OutOfSpaceForEver:
        "that a flush finds space again is not noted: writes are refused though there is space",
    // Compaction.
    CompactionOutputNotFlushed:
        "the device is not flushed between compaction's outputs and the edit: after a crash they are not whole, and the inputs are gone",
    TombstoneDroppedAboveBottom:
        "compaction drops tombstones although deeper levels may hold the key: deleted keys come back",
    SeqForgottenAboveBottom:
        "an entry loses its sequence number although a deeper level has an older version: scans and compaction prefer that",
    CompactionIgnoresSnapshots:
        "compaction keeps the newest version only: snapshots lose what they saw",
    OldestOfLevelZeroLeftAbove:
        "the oldest table of level 0 stays when the newer ones are merged down: it hides what is newer",
    EntryAtTableBorderLost:
        "the first entry behind a full output is not written: it is lost",
    ExpiryIgnoresBarrier:
        "what has expired since the barrier is dropped while the epoch before it is written out: the checkpoint lacks it",
    // Reads.
    LevelZeroReversed:
        "lookups search level 0 from the oldest table on: they find old values",
    DeeperLevelsShadow:
        "lookups pass by level 0 where a deeper level may hold the key: they find old values",
    MergePrefersOlder:
        "scans and compaction take a key's oldest version first: they see old values",
    FilterLosesLastKey:
        "the last key of a table is not in its filter: lookups do not find it",
    SeparatorIsNextKey:
        "the index separates two blocks by the first key of the second: lookups do not find that key",
    BlockSearchSkipsRestart:
        "the search in a block begins one restart point too late: lookups do not find keys",
    DataChecksumNotChecked:
        "checksums of data blocks are not checked: damage is returned as data",
    FilterChecksumNotChecked:
        "checksums of filters are not checked: damage hides keys",
    LentFrameReused:
        "the cache reads another block into a frame that a reader holds: the reader sees other data",
    BlockCachedByPlace:
        "the cache knows blocks by their place on the device: after an extent has got another owner the old block is served",
    // Writes.
    BatchHalfLogged:
        "only the first operation of a batch goes into the log: after a crash half of it is there",
    HandleBatchSplit:
        "a batch through the engine's handle is applied in two steps: after a crash the first is there without the second",
    NoSpaceHalfApplied:
        "a batch that is refused for want of space has its first operation applied: half of it is there",
    PoisonNotHeeded:
        "a shard goes on taking writes after its log has failed: it acknowledges what it cannot write, or waits for ever",
    LogFailureIsEverybodys:
        "a failed write of one shard's log counts as a failed flush of the volume: shards become read-only that no fault has hit",
    FlushFailureIgnored:
        "a failed flush of the device counts as done: acknowledged writes are lost in a crash",
    DurableWriteFailureIsOnes:
        "a failed durable write with a flush behind it counts for its shard alone: what others had written before it is lost in a crash",
    FailedFlushTriedAgain:
        "a failed flush of the device is tried again and believed: what the first had covered is lost in a crash",
    FlushFailureOfOtherShardIgnored:
        "after a failed flush other shards believe the next one: what they had written before it is lost in a crash",
    CloseForgetsPending:
        "closing acknowledges what is in the log's buffer without writing it: it is lost",
    FlushGivenUpPoisons:
        "a flush that closing gives up counts as a failed write: what the log still has to write is lost",
    CloseAlwaysSaysOk:
        "closing says that all is well where what was acknowledged could not be written: it is lost without a word",
    ReadsNeedAWritableShard:
        "reads fail in a shard that cannot be written any more: what is there cannot be had",
    IntervalNeverWrites:
        "the end of the interval is not noticed: what is acknowledged at once is written only when there is much of it, and lost in a crash",
    AdmissionNotWoken:
        "writers that wait for a flush are not told of it: they wait until something else wakes them, or for ever",
    // Operators, snapshots, epochs, checkpoints.
    KeyNotLocked:
        "operators of one key run side by side: one overwrites what another has just written",
    OperatorsOvertake:
        "of the operators that wait for a key the last goes first: they run in another order than they were sent in",
    SnapshotNotPinned:
        "a snapshot is not known to writers, flush and compaction: it loses what it saw",
    SnapshotSeesStragglers:
        "a snapshot's view has no hole for an epoch that still drains: what stragglers write later appears in it",
    StragglersForgotten:
        "an epoch's memtable is flushed while operations of the epoch are under way: what they write is lost or missing in the checkpoint",
    CutIncludesNextEpoch:
        "writes of a new epoch go into the old one's memtable while that is there: the checkpoint holds what began after it",
    PartTakenTooEarly:
        "a checkpoint's part is taken with the flush of its epoch's first memtable: what is in the later ones is missing",
    CheckpointCommitsEarly:
        "a checkpoint is committed when shard 0 has its part: after a crash the other parts are missing",
    CheckpointPartsDroppedFirst:
        "a checkpoint's parts are dropped before its commit record: after a crash it exists without them",
    DrainedEpochNotNoticed:
        "that the last operation of an epoch has ended wakes nobody: the checkpoint waits until something else happens, or for ever",
    // Change of the number of shards.
    HandoverLosesAGroup:
        "an SST that is cut at a new border shows one key group too few: that group's entries are lost",
    LogHandedToOneShard:
        "a log is handed over only to the first of the shards that own its key groups now: the others' entries are lost",
    RescaleTakesLeastSeq:
        "new shards go on from the least sequence number of the old ones: new writes are hidden by older ones",
    // Typed state.
    TimerBelowBoundForgotten:
        "a timer that is registered below the bound of those in memory is not kept there: it does not fire in time",
}

/// All mutants, of the engine and of the I/O layer.
pub fn all() -> &'static [Mutant] {
    static ALL: LazyLock<Vec<Mutant>> = LazyLock::new(|| [MUTANTS, siltstone_io::testing::mutants()].concat());
    &ALL
}

/// Switches on the mutant of this name, or none.
///
/// # Panics
/// Where there is none of this name.
pub fn activate(name: Option<&str>) {
    let here = activate_here(name);
    let below = siltstone_io::testing::activate(name);
    assert!(name.is_none() || here != below, "there is no mutant {name:?}");
}

/// How often the active mutant's place was come by, in circumstances where it makes a difference as far as can be said there.
pub fn hits() -> u64 {
    hits_here() + siltstone_io::testing::hits()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_mutant_has_a_name_of_its_own_and_says_what_it_breaks() {
        let names: BTreeSet<&str> = all().iter().map(|mutant| mutant.name).collect();
        assert_eq!(names.len(), all().len());
        assert!(all().iter().all(|mutant| mutant.what.contains(": ")));
    }
}
