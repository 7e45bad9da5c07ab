//! The manifest: what a shard consists of, and the log of how it changes.
//!
//! The state ([`ManifestState`]: keyspaces, SSTs, checkpoint parts, where the WAL begins) is a fold over records ([`ManifestEdit`]). The
//! log begins with a snapshot of the state, one commit, and goes on with one commit for each change. The shard's root pages name the log's head.
//!
//! # Committing
//!
//! 1. Commits take turns. Space for the commit is reserved first, so that a full device is an error that changes nothing.
//! 2. The records are applied to the state in memory; one that does not fit is a bug of the caller, and nothing is written.
//! 3. They are appended durably. The device must have been flushed after the SSTs that they add were written.
//! 4. A group without records follows, in a block of its own that says of the one before that it was durable ([`crate::log`], *Reading*): so damage to
//!    the newest commit is told from a torn tail. It is not waited for to be durable, and nothing is lost with it.
//! 5. Where the log has become larger than four times its snapshot and [`ROTATE_BYTES_MIN`], it is rotated.
//!
//! # Rotation
//!
//! 1. A new log is written, a snapshot of the state, durable. 2. The root pages are made to name it, one after the other, durably.
//! 3. The old log's extents are freed.
//!
//! A log is not continued after the process that wrote it has ended (see [`crate::log`]): opening for writing rotates.
//!
//! # Invariants
//!
//! 1. The state in memory is the state on the device, except between steps 2 and 3 of a commit and after a failure.
//! 2. The log that the newest root page names begins with a whole snapshot; that it does not is corruption, not an empty shard.
//! 3. After a failed write every later commit fails.
//!
//! # What a crash leaves
//!
//! | crash during | found at open |
//! |---|---|
//! | commit | the commit wholly or not at all |
//! | rotation, before a root page is durable | the old log, with all commits; the new one's extents are free |
//! | rotation, later | the new log; the old one's extents are free |

mod coding;
mod edit;
pub(crate) mod root;
mod state;
#[cfg(all(test, not(any(loom, shuttle))))]
#[expect(clippy::unwrap_used, reason = "a test stops where something is not as it should be")]
mod tests;

use std::cell::{Cell, Ref, RefCell};
use std::rc::Rc;

use siltstone_io::Placement;

#[cfg(feature = "fuzz")]
pub(crate) use self::edit::SstRef;
pub(crate) use self::edit::{CheckpointInfo, ManifestEdit, SstMeta, WalChain};
pub(crate) use self::edit::{decode_edits, encode_edits};
pub(crate) use self::root::damaged_roots;
use self::root::{FoundRoot, Root, read_root, write_root};
pub(crate) use self::state::{CheckpointPart, KeyspaceState, LAST_SEQ_MAX, ManifestState, SstPlace};
use crate::log::{Durability, Fifo, LogReader, LogWriter, read_chain};
use crate::types::{ExtentId, ShardId, SstId};
use crate::volume::Volume;
use crate::{Error, Result};

/// A log smaller than this is not rotated.
pub(crate) const ROTATE_BYTES_MIN: u64 = 256 << 10;
/// A log is rotated when it is this many times the size of its snapshot.
const ROTATE_RATIO: u64 = 4;

/// The manifest of one shard, open for writing. Clones are the same.
#[derive(Clone)]
pub(crate) struct Manifest {
    inner: Rc<Inner>,
}

struct Inner {
    volume: Volume,
    root_extent: ExtentId,
    turns: Fifo,
    state: RefCell<ManifestState>,
    log: RefCell<LogWriter>,
    /// The newest root, and the page that it was written to first.
    root: Cell<FoundRoot>,
    rotate_bytes_min: Cell<u64>,
    /// The log's size at which it is rotated.
    rotate_at: Cell<u64>,
    failed: RefCell<Option<Error>>,
}

/// A shard's manifest as it was found: what reading it yields. Nothing has been written.
#[derive(Debug)]
pub(crate) struct FoundManifest {
    /// The state.
    pub(crate) state: ManifestState,
    root_extent: ExtentId,
    root: FoundRoot,
    log_extents: Vec<ExtentId>,
}

impl FoundManifest {
    /// Reads the manifest whose root pages are in `root_extent`.
    ///
    /// # Errors
    ///
    /// Corruption, with shard and offset: no root page is whole, the log does not begin with a snapshot of this shard, a durable block is missing, or a
    /// record does not fit.
    pub(crate) async fn read(volume: &Volume, shard: ShardId, root_extent: ExtentId) -> Result<FoundManifest> {
        let root = read_root(volume, root_extent, shard).await?;
        let head = root.root.head;
        let log_offset = volume.parts().offset(head.extent);
        let located = |error: Error| {
            if error.is_corruption() {
                mark!(ManifestDamaged);
            }
            error.located(shard.0, log_offset)
        };
        let mut reader = LogReader::open(volume.clone(), head, None);
        let mut state = None;
        while let Some((_, group)) = reader.next().await.map_err(located)? {
            let edits = decode_edits(&group).map_err(located)?;
            if state.is_none() && !matches!(edits.first(), Some(ManifestEdit::SnapshotStart { .. })) {
                return Err(located(Error::corruption("manifest", "the log does not begin with a snapshot")));
            }
            state.get_or_insert_with(ManifestState::default).apply_all(&edits).map_err(located)?;
        }
        let Some(state) = state else {
            return Err(located(Error::corruption("manifest", "the log that the root page names is not there")));
        };
        if state.shard != shard {
            let reason = format!("the manifest of shard {shard} is of shard {}", state.shard);
            return Err(located(Error::corruption("manifest", reason)));
        }
        let log_extents = read_chain(volume, head, None).await?;
        Ok(FoundManifest { state, root_extent, root, log_extents })
    }

    /// The extents of the manifest itself: the root extent and its log. To be marked used, like those of the SSTs and the WAL, before anything is
    /// allocated.
    pub(crate) fn extents(&self) -> impl Iterator<Item = ExtentId> + '_ {
        std::iter::once(self.root_extent).chain(self.log_extents.iter().copied())
    }
}

impl Manifest {
    /// Writes the manifest of a new shard with this state, its root pages in `root_extent`. Durable when it returns.
    pub(crate) async fn create(volume: Volume, root_extent: ExtentId, state: ManifestState) -> Result<Manifest> {
        Manifest::begin(volume, root_extent, state, 0).await
    }

    /// Goes on with a manifest that was found, in a new log. All extents in use are marked.
    pub(crate) async fn resume(volume: Volume, found: FoundManifest) -> Result<Manifest> {
        let FoundManifest { state, root_extent, root, log_extents } = found;
        let manifest = Manifest::begin(volume.clone(), root_extent, state, 1 - root.page).await?;
        volume.free_extents(log_extents).await;
        Ok(manifest)
    }

    async fn begin(volume: Volume, root_extent: ExtentId, state: ManifestState, page: usize) -> Result<Manifest> {
        // Flush, compaction and checkpoints wait for each other's edits.
        let volume = volume.urgent();
        let (log, snapshot_bytes) = write_snapshot(&volume, &state).await?;
        let root = Root { shard: state.shard, head: log.head() };
        write_root(&volume, root_extent, &root, page).await?;
        let inner = Inner {
            volume,
            root_extent,
            turns: Fifo::default(),
            state: RefCell::new(state),
            log: RefCell::new(log),
            root: Cell::new(FoundRoot { root, page }),
            rotate_bytes_min: Cell::new(ROTATE_BYTES_MIN),
            rotate_at: Cell::new(0),
            failed: RefCell::new(None),
        };
        inner.plan_rotation(snapshot_bytes);
        Ok(Manifest { inner: Rc::new(inner) })
    }

    /// The state after the last commit. Not to be held across an await.
    pub(crate) fn state(&self) -> Ref<'_, ManifestState> {
        self.inner.state.borrow()
    }

    /// Commits a group of records atomically; durable when it returns. Gives the SSTs to which this manifest refers no longer: the caller
    /// releases them.
    ///
    /// # Errors
    ///
    /// `NoSpace`: nothing has changed. Any other error is final: what the device holds is unknown.
    pub(crate) async fn commit(&self, edits: Vec<ManifestEdit>) -> Result<Vec<SstId>> {
        let inner = &*self.inner;
        let _turn = inner.turns.turn().await;
        inner.check()?;
        let group = match mutant!(CheckpointDropNotWritten) {
            true => encode_edits(&without_drops(&edits)),
            false => encode_edits(&edits),
        };
        let log = inner.log.borrow().clone();
        log.reserve(group.len()).await?;
        let candidates = inner.state.borrow().touched_ssts(&edits);
        // From here on the state is ahead of the device until the append is durable.
        let guard = Guard { inner, done: false };
        inner.state.borrow_mut().apply_all(&edits).map_err(|error| inner.fail(&error))?;
        let durability = if mutant!(ManifestEditNotDurable) { Durability::Cached } else { Durability::Durable };
        log.append(&[&group], durability).await.map_err(|error| inner.fail(&error))?;
        guard.done();
        if !mutant!(ManifestSealForgotten) {
            inner.seal(&log).await;
        }
        if log.bytes_written() >= inner.rotate_at.get() {
            inner.rotate().await;
        }
        let state = inner.state.borrow();
        Ok(candidates
            .into_iter()
            .filter(|&(keyspace, sst)| !state.refers_to(keyspace, sst))
            .map(|(_, sst)| sst)
            .collect())
    }

    /// Where the root pages are.
    #[cfg(feature = "testing")]
    pub(crate) fn root_extent(&self) -> ExtentId {
        self.inner.root_extent
    }

    /// The extents of the log.
    #[cfg(feature = "testing")]
    pub(crate) fn log_extents(&self) -> Vec<ExtentId> {
        self.inner.log.borrow().extents()
    }

    /// The least size at which the log is rotated.
    #[cfg(test)]
    fn set_rotate_bytes_min(&self, bytes: u64) {
        self.inner.rotate_bytes_min.set(bytes);
        self.inner.rotate_at.set(self.inner.rotate_at.get().min(bytes));
    }
}

impl Inner {
    /// Vouches for the commit before, which is durable already: a failure here is the next commit's. Without space the next commit does it.
    async fn seal(&self, log: &LogWriter) {
        match log.append(&[&encode_edits(&[])], Durability::Cached).await {
            Ok(_) | Err(Error::NoSpace(_)) => {}
            Err(error) => {
                self.fail(&error);
            }
        }
    }

    /// Replaces the log by a new one. The commit that caused it is durable already: a failure here is the next commit's.
    async fn rotate(&self) {
        let state = self.state.borrow().clone();
        let (log, snapshot_bytes) = match write_snapshot(&self.volume, &state).await {
            Ok(written) => written,
            Err(Error::NoSpace(reason)) => {
                // The old log is as good; try again when it has grown by as much once more.
                tracing::warn!(reason, "no space to rewrite the manifest");
                let bytes = self.log.borrow().bytes_written();
                self.rotate_at.set(bytes + self.rotate_bytes_min.get());
                mark!(NoSpaceInManifestRotation);
                return;
            }
            Err(error) => {
                self.fail(&error);
                return;
            }
        };
        let newest = self.root.get();
        let root = Root { shard: state.shard, head: log.head() };
        let page = 1 - newest.page;
        if mutant!(OldManifestFreedBeforeRoot) {
            let log = self.log.borrow().clone();
            self.volume.free_extents(log.retire().await).await;
        }
        if let Err(error) = write_root(&self.volume, self.root_extent, &root, page).await {
            self.fail(&error);
            return;
        }
        self.root.set(FoundRoot { root, page });
        let old = self.log.replace(log);
        self.plan_rotation(snapshot_bytes);
        mark!(NewManifestLogBegun);
        let extents = old.retire().await;
        self.volume.free_extents(extents).await;
    }

    fn plan_rotation(&self, snapshot_bytes: u64) {
        self.rotate_at.set((snapshot_bytes * ROTATE_RATIO).max(self.rotate_bytes_min.get()));
    }

    fn check(&self) -> Result<()> {
        self.failed.borrow().as_ref().map_or(Ok(()), |error| Err(error.clone()))
    }

    fn fail(&self, error: &Error) -> Error {
        self.failed.borrow_mut().get_or_insert_with(|| error.clone()).clone()
    }
}

/// Latches a failure where a commit does not come to its end after the state has changed.
struct Guard<'a> {
    inner: &'a Inner,
    done: bool,
}

impl Guard<'_> {
    fn done(mut self) {
        self.done = true;
    }
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        if !self.done {
            self.inner.fail(&Error::Closed);
        }
    }
}

/// The records but for the ends of checkpoints.
fn without_drops(edits: &[ManifestEdit]) -> Vec<ManifestEdit> {
    edits.iter().filter(|edit| !matches!(edit, ManifestEdit::CheckpointDrop { .. })).cloned().collect()
}

/// Writes a new log that begins with this state, durably; with its size.
async fn write_snapshot(volume: &Volume, state: &ManifestState) -> Result<(LogWriter, u64)> {
    let group = encode_edits(&state.snapshot());
    let log = LogWriter::create(volume.clone(), Placement::Metadata).await?;
    let durability = if mutant!(NewManifestNotDurable) { Durability::Cached } else { Durability::Durable };
    if let Err(error) = log.append(&[&group], durability).await {
        if matches!(error, Error::NoSpace(_)) {
            volume.free_extents(log.retire().await).await;
        }
        return Err(error);
    }
    let bytes = log.bytes_written();
    Ok((log, bytes))
}
