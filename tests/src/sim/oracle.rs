//! What must hold, in one place: the operators' journal, the cells, the checkpoints, the keyspaces that were created, and which errors are legitimate.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use siltstone::{Durability, Error};
use siltstone_io::{Damage, Placement, SimDisk};

use super::cells::{CellId, Cells, CutState, Version};
use super::journal::{Journal, WriteId};
use super::order::{Moment, Place};
use super::plan::Contract;
use super::typed::{State, Typed};

/// A checkpoint and what it holds.
#[derive(Clone)]
pub(crate) struct Saved {
    pub(crate) name: String,
    pub(crate) writes: BTreeSet<WriteId>,
    pub(crate) cells: CutState,
    pub(crate) typed: State,
    /// The watermark of its barrier.
    pub(crate) now_ms: u64,
    /// Its drop has begun, or retention may have taken it: it may be there or not.
    pub(crate) doomed: bool,
}

/// A checkpoint that is under way.
pub(crate) struct Pending {
    pub(crate) name: String,
    begun: BTreeSet<WriteId>,
    epoch: u32,
    applied: Vec<(CellId, usize)>,
    now_ms: u64,
}

/// The writes that had been answered at some moment.
pub(crate) struct Applied {
    writes: BTreeSet<WriteId>,
    cells: Vec<(CellId, usize)>,
}

/// What one simulation knows.
pub(crate) struct Oracle {
    pub(crate) contract: Contract,
    pub(crate) journal: Journal,
    pub(crate) cells: Cells,
    pub(crate) typed: Typed,
    /// Complete checkpoints, oldest first.
    pub(crate) checkpoints: Vec<Saved>,
    /// Those whose completion was not heard of, oldest first: under way, or failed, which does not say that they do not exist.
    pub(crate) pending: Vec<Pending>,
    /// Names of keyspaces whose creation was acknowledged.
    pub(crate) created: BTreeSet<String>,
    pub(crate) now_ms: u64,
    /// Faults of which operations may tell that had been injected when this life began.
    excuses_before: u64,
    /// Any damage ever: where and what.
    damage: BTreeMap<u64, Damage>,
    /// Since the last comparison the volume was opened while a log's block was damaged: what was acknowledged may be gone.
    pub(crate) log_was_damaged: bool,
    /// Somebody has begun to close the engine.
    pub(crate) closing: bool,
    /// Names checkpoints and the like.
    counter: u64,
    moments: Moment,
    disk: SimDisk,
}

/// The oracle, shared by clients and the operators that they ship.
#[derive(Clone)]
pub(crate) struct SharedOracle(Arc<Mutex<Oracle>>);

impl SharedOracle {
    pub(crate) fn new(contract: Contract, disk: SimDisk) -> Self {
        SharedOracle(Arc::new(Mutex::new(Oracle {
            contract,
            journal: Journal::default(),
            cells: Cells::default(),
            typed: Typed::default(),
            checkpoints: Vec::new(),
            pending: Vec::new(),
            created: BTreeSet::new(),
            now_ms: 1000,
            excuses_before: 0,
            damage: BTreeMap::new(),
            log_was_damaged: false,
            closing: false,
            counter: 0,
            moments: 0,
            disk,
        })))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Oracle> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Oracle {
    pub(crate) fn next(&mut self) -> u64 {
        self.counter += 1;
        self.counter
    }

    fn moment(&mut self) -> Moment {
        self.moments += 1;
        self.moments
    }

    /// A write of these cells begins: all of them or none.
    pub(crate) fn begin_cells(&mut self, versions: impl IntoIterator<Item = (CellId, Version)>, place: Place) {
        let moment = self.moment();
        versions.into_iter().for_each(|(id, version)| self.cells.begin(&id, version, place, moment));
    }

    /// It has ended.
    pub(crate) fn end_cells<'c>(&mut self, ids: impl IntoIterator<Item = &'c CellId>, succeeded: bool, durable: bool) {
        let moment = self.moment();
        ids.into_iter().for_each(|id| self.cells.end(id, succeeded, durable, moment));
    }

    /// A write has been applied in a shard.
    pub(crate) fn apply(&mut self, shard: usize, id: WriteId) {
        let moment = self.moment();
        self.journal.apply(shard, id, moment);
        self.typed.apply(id);
    }

    /// What has been answered by now, to be acknowledged later.
    pub(crate) fn applied(&self) -> Applied {
        Applied { writes: self.journal.all_applied(), cells: self.cells.applied() }
    }

    /// What had been answered then is durable.
    pub(crate) fn acknowledge(&mut self, applied: Applied) {
        self.journal.acknowledge(applied.writes);
        self.cells.synced(applied.cells);
    }

    /// Whether an operation may fail with this error.
    ///
    /// # Panics
    /// When it may not.
    pub(crate) fn judge(&mut self, what: &str, error: &Error) {
        if let Err(reason) = self.legitimate(error) {
            panic!("{what} fails, which nothing excuses ({reason}): {error}");
        }
    }

    fn legitimate(&mut self, error: &Error) -> Result<(), String> {
        self.learn_damage();
        match error {
            // A large block may cross extents, which lie anywhere: it is named by its beginning.
            Error::Corruption(corruption) if corruption.structure == "data block" => {
                self.is_damaged(corruption.offset).or_else(|reason| match self.is_table_damaged() {
                    true => Ok(()),
                    false => Err(reason),
                })
            }
            Error::Corruption(corruption) => self.is_damaged(corruption.offset),
            Error::NotFound(_) if self.log_was_damaged => Ok(()),
            Error::NotAVolume { .. } | Error::Version { .. } => self.is_damaged(Some(0)),
            _ if self.disk.crashed() => Ok(()),
            Error::Closed if self.closing => Ok(()),
            Error::Closed | Error::Busy(_) => Err("nobody has closed it".into()),
            Error::NoSpace(_) if self.lacked_space() => Ok(()),
            Error::NoSpace(_) => Err("there is space".into()),
            Error::Io(_) | Error::Poisoned { .. } => match self.excuses() > self.excuses_before || self.persistent() {
                true => Ok(()),
                false if self.contract == Contract::Media => self.is_damaged(None),
                false => Err("the device has not failed".into()),
            },
            _ => Err("such errors are the caller's".into()),
        }
    }

    /// Whether the disk was ever full.
    pub(crate) fn lacked_space(&self) -> bool {
        self.disk.fault_counts().contains_key("no space")
    }

    /// Faults of which an operation tells.
    fn excuses(&self) -> u64 {
        let counts = self.disk.fault_counts();
        TELLING.iter().chain(&PERSISTENT).filter_map(|name| counts.get(name)).sum()
    }

    /// Blocks that have failed for ever go on to fail in later lives.
    fn persistent(&self) -> bool {
        let counts = self.disk.fault_counts();
        PERSISTENT.iter().any(|name| counts.contains_key(name))
    }

    fn learn_damage(&mut self) {
        for damage in self.disk.atlas() {
            self.damage.insert(damage.offset, damage);
        }
    }

    /// Whether some block near this place is or was damaged: errors name a structure's beginning, or the extent.
    fn is_damaged(&self, offset: Option<u64>) -> Result<(), String> {
        if self.contract != Contract::Media {
            return Err("the device has lied about nothing".into());
        }
        // Metadata that has come back in an older state names what is not there any more: the error then is elsewhere.
        let stale = |damage: &Damage| damage.placement == Some(Placement::Metadata);
        let near =
            |damage: &&Damage| stale(damage) || offset.is_none_or(|offset| damage.offset.abs_diff(offset) < NEAR_BYTES);
        match self.damage.values().find(near) {
            Some(_) => Ok(()),
            None => Err(format!(
                "no damage near byte {offset:?}; there is some at {:?}",
                self.damage.keys().collect::<Vec<_>>()
            )),
        }
    }

    /// Whether some block of an SST is or was damaged.
    fn is_table_damaged(&self) -> bool {
        let of_table = |damage: &Damage| !matches!(damage.placement, Some(Placement::Wal | Placement::Metadata));
        self.damage.values().any(of_table)
    }

    /// A life begins: from now on errors need a new excuse.
    pub(crate) fn begin_life(&mut self) {
        self.excuses_before = self.excuses();
        self.closing = false;
    }

    /// The volume is about to be opened: remembers whether its logs are damaged.
    pub(crate) fn before_opening(&mut self) {
        self.learn_damage();
        let of_log = |damage: &Damage| {
            damage.placement.is_none_or(|placement| matches!(placement, Placement::Wal | Placement::Metadata))
        };
        self.log_was_damaged |= self.disk.atlas().iter().any(of_log);
    }

    /// A barrier opens for a checkpoint of this name.
    pub(crate) fn barrier(&mut self, name: String, retained: Option<usize>) {
        let (epoch, begun) = (self.journal.epoch(), self.journal.barrier());
        let applied = self.cells.applied();
        self.pending.push(Pending { name, begun, epoch, applied, now_ms: self.now_ms });
        if let Some(retained) = retained {
            // If it completes, and nobody hears of it, the oldest may be gone.
            let excess = (self.checkpoints.len() + 1).saturating_sub(retained);
            self.checkpoints.iter_mut().take(excess).for_each(|saved| saved.doomed = true);
        }
    }

    /// These writes were sent before the last barrier and arrived behind it: they belong to the epoch after it.
    pub(crate) fn began_anew(&mut self, ids: impl Iterator<Item = WriteId>) {
        for id in ids {
            let epoch = self.journal.begin_anew(id);
            for pending in self.pending.iter_mut().filter(|pending| pending.epoch < epoch) {
                pending.begun.remove(&id);
            }
        }
    }

    /// The barrier has not opened after all.
    pub(crate) fn no_barrier(&mut self) {
        self.pending.pop();
        self.journal.no_barrier();
    }

    fn saved(&self, pending: Pending) -> Saved {
        let Pending { name, begun, epoch, now_ms, .. } = pending;
        let writes = self.journal.cut(&begun);
        let typed = self.typed.replay(&writes);
        Saved { name, writes, cells: self.cells.cut(epoch), typed, now_ms, doomed: false }
    }

    /// A checkpoint is complete.
    pub(crate) fn complete(&mut self, durability: Durability, retained: Option<usize>) {
        let pending = self.pending.pop().expect("a checkpoint was under way");
        if durability != Durability::Checkpoint {
            self.cells.synced(pending.applied.clone());
        }
        let saved = self.saved(pending);
        if durability != Durability::Checkpoint {
            self.journal.acknowledge(saved.writes.iter().copied());
        }
        self.checkpoints.push(saved);
        if let Some(retained) = retained {
            let excess = self.checkpoints.len().saturating_sub(retained);
            match self.contract {
                Contract::Crash => drop(self.checkpoints.drain(..excess)),
                // The device may have failed retention, not the checkpoint.
                _ => self.checkpoints.iter_mut().take(excess).for_each(|saved| saved.doomed = true),
            }
        }
    }

    /// Compares the checkpoints found with those known. Of those whose completion was not heard of it is known now whether they exist.
    pub(crate) fn found_checkpoints(&mut self, names: &[String]) {
        for pending in std::mem::take(&mut self.pending) {
            if names.contains(&pending.name) {
                let saved = self.saved(pending);
                self.checkpoints.push(saved);
            }
        }
        let known: Vec<(String, bool)> =
            self.checkpoints.iter().map(|saved| (saved.name.clone(), saved.doomed)).collect();
        let mut wanted = names.iter().peekable();
        for (name, doomed) in &known {
            if wanted.next_if_eq(&name).is_none() {
                assert!(*doomed, "checkpoints {names:?} were found; {name} is missing of {known:?}");
            }
        }
        assert!(wanted.peek().is_none(), "checkpoints {names:?} were found; there should be {known:?}");
        self.checkpoints.retain(|saved| names.contains(&saved.name));
    }

    /// Like [`found_checkpoints`](Oracle::found_checkpoints) where the device has lied: some may have been forgotten, or come back.
    pub(crate) fn found_some_checkpoints(&mut self, names: &[String]) {
        for pending in std::mem::take(&mut self.pending) {
            let saved = self.saved(pending);
            self.checkpoints.push(saved);
        }
        self.checkpoints.retain(|saved| names.contains(&saved.name));
        let strange: Vec<_> =
            names.iter().filter(|name| self.checkpoints.iter().all(|saved| saved.name != **name)).collect();
        assert!(strange.is_empty(), "checkpoints {strange:?} were found, which were dropped or never made");
    }

    pub(crate) fn was_written(&self, id: &CellId, value: &[u8]) -> bool {
        self.cells.was_written(id, value)
    }
}

/// How far from a block an error may name its place: SSTs and logs are named by extent.
pub(crate) const NEAR_BYTES: u64 = 256 << 10;

/// Faults of which operations tell, by the disk's names.
const TELLING: [&str; 6] = [
    "transient read error",
    "transient write error",
    "failed flush",
    "failed discard",
    "failed allocation",
    "no space",
];
/// Those that go on until the disk is healed.
const PERSISTENT: [&str; 2] = ["unreadable block", "unwritable block"];
