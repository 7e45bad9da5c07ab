//! Keys that are written one by one, each by one client at a time: what a read may find, and what may be found after a crash.
//!
//! A cell has the versions of the current run behind those with which the run began (more than one where an observation did not tell
//! them apart). Its writer has at most one write in flight.
//!
//! 1. A read finds the last version that ended well, or one that failed since: who fails may have taken effect.
//! 2. What is recovered is one of the versions from the newest durable one on.
//! 3. A checkpoint holds the last version of its epochs; where that one's write failed, maybe an earlier one. A write belongs to the epoch in which
//!    the operation that makes it was sent.
//!
//! What of several cells may be there together `order` says.

use std::collections::{BTreeMap, BTreeSet};

use super::order::{History, Moment, Place, Standing};

/// A value and when it expires; no value where it was deleted or never written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Version {
    pub(crate) value: Option<Vec<u8>>,
    pub(crate) expires_ms: Option<u64>,
}

impl Version {
    pub(crate) fn absent() -> Version {
        Version { value: None, expires_ms: None }
    }

    /// What a reader sees at this time.
    fn at(&self, now_ms: u64) -> Option<&Vec<u8>> {
        self.value.as_ref().filter(|_| self.expires_ms.is_none_or(|expires_ms| now_ms < expires_ms))
    }
}

/// Space and key.
pub(crate) type CellId = (usize, Vec<u8>);

/// One write of a cell.
struct Attempt {
    version: Version,
    place: Place,
    /// When it was sent, the same for all of a batch, and when its end was heard of.
    begun: Moment,
    ended: Moment,
    /// The virtual time of that.
    ended_us: u64,
    /// Whether it ended well; nothing while it is in flight.
    outcome: Option<bool>,
}

struct Cell {
    base: Vec<Version>,
    run: Vec<Attempt>,
    /// What a read may find: 0 is the base, others count versions of the run.
    visible: BTreeSet<usize>,
    /// The newest version that is durable.
    durable: usize,
}

/// The state of a checkpoint: for each cell, what it may be.
pub(crate) type CutState = BTreeMap<CellId, Vec<Version>>;

#[derive(Default)]
pub(crate) struct Cells(BTreeMap<CellId, Cell>);

impl Cell {
    fn new(base: Vec<Version>) -> Cell {
        Cell { base, run: Vec::new(), visible: BTreeSet::from([0]), durable: 0 }
    }

    fn in_flight(&self) -> bool {
        self.run.last().is_some_and(|attempt| attempt.outcome.is_none())
    }

    fn versions(&self, which: impl IntoIterator<Item = usize>) -> Vec<Version> {
        let mut found = Vec::new();
        for index in which {
            match index {
                0 => found.extend(self.base.iter().cloned()),
                _ => found.push(self.run[index - 1].version.clone()),
            }
        }
        found
    }
}

impl Cells {
    /// A write begins.
    pub(crate) fn begin(&mut self, id: &CellId, version: Version, place: Place, begun: Moment) {
        let cell = self.0.entry(id.clone()).or_insert_with(|| Cell::new(vec![Version::absent()]));
        assert!(!cell.in_flight(), "a cell has one write at a time");
        cell.run.push(Attempt { version, place, begun, ended: Moment::MAX, ended_us: u64::MAX, outcome: None });
    }

    /// It ends.
    pub(crate) fn end(&mut self, id: &CellId, succeeded: bool, durable: bool, ended: Moment, now_us: u64) {
        let cell = self.0.get_mut(id).expect("the write has begun");
        let attempt = cell.run.last_mut().expect("the write has begun");
        (attempt.ended, attempt.ended_us, attempt.outcome) = (ended, now_us, Some(succeeded));
        if succeeded {
            cell.visible.clear();
            if durable {
                cell.durable = cell.run.len();
            }
        }
        cell.visible.insert(cell.run.len());
    }

    /// A read, with no write in flight. Says whether it may find this, and keeps what it tells about failed writes.
    pub(crate) fn observe(&mut self, id: &CellId, found: Option<&[u8]>, now_ms: u64) -> Result<(), String> {
        let Some(cell) = self.0.get_mut(id) else {
            return found.map_or(Ok(()), |_| Err("a key is there that was never written".into()));
        };
        assert!(!cell.in_flight(), "nobody reads a cell that is being written");
        let fits = |version: &Version| version.at(now_ms).map(|value| &value[..]) == found;
        let fitting: BTreeSet<usize> =
            cell.visible.iter().copied().filter(|index| cell.versions([*index]).iter().any(fits)).collect();
        if fitting.is_empty() {
            let expected: Vec<String> = cell.versions(cell.visible.iter().copied()).iter().map(brief).collect();
            let found = found
                .map_or("nothing".into(), |value| format!("{} bytes, {:?}", value.len(), &value[..value.len().min(8)]));
            return Err(format!("found {found}; it should be one of {expected:?} at {now_ms} ms"));
        }
        if fitting == BTreeSet::from([0]) {
            cell.base.retain(|version| fits(version));
        }
        cell.visible = fitting;
        Ok(())
    }

    /// What must be there, cell by cell, for readers at this time: those whose value is certain.
    pub(crate) fn ids(&self) -> Vec<CellId> {
        self.0.keys().cloned().collect()
    }

    /// Whether some version ever had this value.
    pub(crate) fn was_written(&self, id: &CellId, value: &[u8]) -> bool {
        let has = |version: &Version| version.value.as_deref() == Some(value);
        let versions = |cell: &Cell| cell.base.iter().chain(cell.run.iter().map(|attempt| &attempt.version)).any(has);
        self.0.get(id).is_some_and(versions)
    }

    /// Where and when the write was sent that gave a cell this value in the current run.
    pub(crate) fn sent(&self, id: &CellId, value: &[u8]) -> Option<(Place, Moment)> {
        let attempt = self.0.get(id)?.run.iter().find(|attempt| attempt.version.value.as_deref() == Some(value))?;
        Some((attempt.place, attempt.begun))
    }

    /// Forgets a cell: for a check that must fail.
    pub(crate) fn forget(&mut self, id: &CellId) {
        self.0.remove(id);
    }

    /// What is certain to be applied now, and so durable after a sync that begins now.
    pub(crate) fn applied(&self) -> Vec<(CellId, usize)> {
        let newest = |cell: &Cell| cell.visible.first().copied().unwrap_or(0);
        self.0.iter().map(|(id, cell)| (id.clone(), newest(cell))).collect()
    }

    /// These are durable now.
    pub(crate) fn synced(&mut self, applied: Vec<(CellId, usize)>) {
        for (id, version) in applied {
            if let Some(cell) = self.0.get_mut(&id) {
                cell.durable = cell.durable.max(version);
            }
        }
    }

    /// What had ended well before this time is durable now.
    pub(crate) fn durable_before(&mut self, before_us: u64) {
        for cell in self.0.values_mut() {
            let is_old = |attempt: &Attempt| attempt.outcome == Some(true) && attempt.ended_us < before_us;
            let count = cell.run.iter().rposition(is_old).map_or(0, |index| index + 1);
            cell.durable = cell.durable.max(count);
        }
    }

    /// Rule 3 for the checkpoint that ends this epoch, when everything that had begun has ended.
    pub(crate) fn cut(&self, epoch: u32) -> CutState {
        let state = |(id, cell): (&CellId, &Cell)| {
            let last = cell.run.partition_point(|attempt| attempt.place.epoch <= epoch);
            let certain = (1..=last).rev().find(|index| cell.run[index - 1].outcome == Some(true)).unwrap_or(0);
            (id.clone(), cell.versions(certain..=last))
        };
        self.0.iter().map(state).collect()
    }

    /// After a recovery of the latest state: rule 2. Where the device has lied, older versions may have come back.
    pub(crate) fn allowed_after_recovery(&self, lower_bound: bool) -> CutState {
        let floor = |cell: &Cell| if lower_bound { cell.durable } else { 0 };
        self.0.iter().map(|(id, cell)| (id.clone(), cell.versions(floor(cell)..=cell.run.len()))).collect()
    }

    /// What a recovery has brought back of each cell, for who judges them together.
    pub(crate) fn recovered_history(
        &self,
        found: &BTreeMap<CellId, Vec<u8>>,
        expired_ms: u64,
        lower_bound: bool,
    ) -> History {
        self.history(|id, cell| {
            let value = found.get(id);
            let fits = |version: &Version| match value {
                Some(_) => version.value.as_ref() == value,
                None => version.at(expired_ms).is_none(),
            };
            let floor = if lower_bound { cell.durable } else { 0 };
            (floor..=cell.run.len()).filter(|index| cell.versions([*index]).iter().any(fits)).collect()
        })
    }

    /// What reads show of each cell now.
    pub(crate) fn visible_history(&self) -> History {
        self.history(|_, cell| cell.visible.clone())
    }

    fn history(&self, candidates: impl Fn(&CellId, &Cell) -> BTreeSet<usize>) -> History {
        let mut history = History::default();
        for (id, cell) in &self.0 {
            let candidates = candidates(id, cell);
            let (Some(&least), Some(&most)) = (candidates.first(), candidates.last()) else { continue };
            for (index, attempt) in (1..).zip(&cell.run) {
                let standing = if index <= most {
                    match index == least {
                        true if index == most => Standing::Last,
                        true => Standing::ThisOrLater,
                        false => continue,
                    }
                } else {
                    Standing::Lost { certain: attempt.outcome == Some(true) }
                };
                let name = || format!("cell {id:?}, version {index}");
                history.add(attempt.place, (attempt.begun, attempt.ended), standing, name);
            }
        }
        history
    }

    /// A new run begins on what was found; it must be among what is allowed. Nobody has told the shards the time yet, so that nothing is hidden;
    /// but what had expired may have been dropped.
    pub(crate) fn recover(
        &mut self,
        allowed: &CutState,
        found: &BTreeMap<CellId, Vec<u8>>,
        expired_ms: u64,
    ) -> Result<(), String> {
        let mut cells = BTreeMap::new();
        for (id, versions) in allowed {
            let value = found.get(id);
            let fits = |version: &&Version| match value {
                Some(_) => version.value.as_ref() == value,
                None => version.at(expired_ms).is_none(),
            };
            let fitting: Vec<Version> = versions.iter().filter(fits).cloned().collect();
            if fitting.is_empty() {
                let expected: Vec<String> = versions.iter().map(brief).collect();
                let found = value.map_or("nothing".into(), |value| {
                    format!("{} bytes, {:?}", value.len(), &value[..value.len().min(8)])
                });
                return Err(format!("cell {id:?}: found {found}; it should be one of {expected:?} at {expired_ms} ms"));
            }
            cells.insert(id.clone(), Cell::new(fitting));
        }
        if let Some(id) = found.keys().find(|id| !allowed.contains_key(*id)) {
            return Err(format!("cell {id:?} is there and should not be"));
        }
        self.0 = cells;
        Ok(())
    }
}

fn brief(version: &Version) -> String {
    match &version.value {
        None => "nothing".into(),
        Some(value) => {
            format!("{} bytes, {:?}, until {:?}", value.len(), &value[..value.len().min(8)], version.expires_ms)
        }
    }
}
