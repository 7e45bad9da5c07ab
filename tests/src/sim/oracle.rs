//! What must hold, in one place: the operators' journal, the cells, the checkpoints, the keyspaces that were created, and (in `excuses`) which errors are legitimate.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use siltstone::Error;

use super::cells::{CellId, Cells, CutState, Version};
use super::excuses::{Effect, Excuses};
use super::journal::{Journal, WriteId};
use super::order::{Moment, Place};
use super::plan::{Canary, Contract};
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
    pub(crate) excuses: Excuses,
    /// What it is made to believe.
    pub(crate) canary: Option<Canary>,
    /// Names checkpoints and the like.
    counter: u64,
    moments: Moment,
}

/// The oracle, shared by clients and the operators that they ship.
#[derive(Clone)]
pub(crate) struct SharedOracle(Arc<Mutex<Oracle>>);

impl SharedOracle {
    pub(crate) fn new(contract: Contract, excuses: Excuses) -> Self {
        SharedOracle(Arc::new(Mutex::new(Oracle {
            contract,
            journal: Journal::default(),
            cells: Cells::default(),
            typed: Typed::default(),
            checkpoints: Vec::new(),
            pending: Vec::new(),
            created: BTreeSet::new(),
            now_ms: 1000,
            excuses,
            canary: None,
            counter: 0,
            moments: 0,
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

    pub(crate) fn moment(&mut self) -> Moment {
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
        let now_us = self.excuses.now_us();
        ids.into_iter().for_each(|id| self.cells.end(id, succeeded, durable, moment, now_us));
    }

    /// A write has been applied in a shard.
    pub(crate) fn apply(&mut self, shard: usize, id: WriteId) {
        let moment = self.moment();
        self.journal.apply(shard, id, moment, self.excuses.now_us());
        self.typed.apply(id);
    }

    /// What has been answered by now, to be acknowledged later.
    pub(crate) fn applied(&self) -> Applied {
        Applied { writes: self.journal.all_applied(), cells: self.cells.applied() }
    }

    /// What had been answered before this time is durable by now.
    pub(crate) fn intervals_over(&mut self, before_us: u64) {
        self.journal.acknowledge_before(before_us);
        self.cells.durable_before(before_us);
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
    pub(crate) fn judge(&mut self, effect: Effect, what: &str, error: &Error) {
        let now_us = self.excuses.now_us();
        self.judge_sent(effect, what, error, now_us);
    }

    /// The same, of one that was sent at this moment, and whose end may have been heard of late.
    ///
    /// # Panics
    /// When it may not.
    pub(crate) fn judge_sent(&mut self, effect: Effect, what: &str, error: &Error, sent_us: u64) {
        if let Err(reason) = self.excuses.legitimate(effect, error, sent_us) {
            panic!("{what} fails, which nothing excuses ({reason}): {error}");
        }
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

    /// A checkpoint is complete. What it holds is durable, whether there is a log or not.
    pub(crate) fn complete(&mut self, retained: Option<usize>) {
        let pending = self.pending.pop().expect("a checkpoint was under way");
        self.cells.synced(pending.applied.clone());
        let saved = self.saved(pending);
        self.journal.acknowledge(saved.writes.iter().copied());
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
