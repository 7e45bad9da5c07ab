//! What the engine should hold, and what may be left of it after a crash.
//!
//! 1. With [`Durability::Sync`](crate::Durability::Sync) writes may be in flight side by side, over different keys. After a crash everything
//!    acknowledged is there, and of each write in flight all or nothing.
//! 2. With the other modes writes are made one at a time. After a crash each shard has a prefix of its writes, at least those known to be
//!    durable.
//! 3. An opening on a checkpoint finds exactly what began before its barrier.
//!
//! Time only goes on, so what has expired once is never seen again, whatever a crash leaves of it.

use std::collections::BTreeMap;
use std::rc::Rc;

/// A key in the order of scans, behind its keyspace: keyspace, key group, key.
pub(super) type Place = (usize, u16, Vec<u8>);

/// A value and when it expires.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cell {
    pub(super) value: Rc<[u8]>,
    pub(super) expires_ms: Option<u64>,
}

impl Cell {
    fn is_live(&self, now_ms: u64) -> bool {
        self.expires_ms.is_none_or(|expires_ms| now_ms < expires_ms)
    }
}

/// The contents of all keyspaces.
pub(super) type State = BTreeMap<Place, Cell>;
/// What reads give.
pub(super) type Contents = BTreeMap<Place, Vec<u8>>;

/// One write or batch: the last change of each key.
#[derive(Clone, Debug, Default)]
pub(super) struct Write {
    pub(super) shard: usize,
    pub(super) changes: BTreeMap<Place, Option<Cell>>,
}

impl Write {
    pub(super) fn apply(&self, state: &mut State) {
        for (place, cell) in &self.changes {
            match cell {
                Some(cell) => drop(state.insert(place.clone(), cell.clone())),
                None => drop(state.remove(place)),
            }
        }
    }
}

/// What is seen of a state at a time.
pub(super) fn live(state: &State, now_ms: u64) -> Contents {
    let live = state.iter().filter(|(_, cell)| cell.is_live(now_ms));
    live.map(|(place, cell)| (place.clone(), cell.value.to_vec())).collect()
}

/// A checkpoint and what it holds.
#[derive(Clone, Debug)]
pub(super) struct Saved {
    pub(super) name: String,
    pub(super) state: State,
}

/// The model of one volume.
#[derive(Default)]
pub(super) struct Model {
    /// Everything that has begun.
    pub(super) current: State,
    /// What the engine had when it was opened; all of it durable.
    base: State,
    /// Acknowledged writes of each shard since, in order. With one write at a time the last may not be acknowledged.
    log: Vec<Vec<Write>>,
    /// How many of them are known to be durable.
    durable: Vec<usize>,
    /// Complete checkpoints, oldest first.
    pub(super) checkpoints: Vec<Saved>,
}

impl Model {
    /// A life begins on this state.
    pub(super) fn begin(&mut self, state: State, shards: usize) {
        self.current = state.clone();
        self.base = state;
        self.log = vec![Vec::new(); shards];
        self.durable = vec![0; shards];
    }

    /// A write was acknowledged, or, where writes are made one at a time, has begun.
    pub(super) fn append(&mut self, write: Write, durable: bool) {
        let shard = write.shard;
        self.log[shard].push(write);
        if durable {
            self.durable[shard] = self.log[shard].len();
        }
    }

    /// How many writes each shard has.
    pub(super) fn marks(&self) -> Vec<usize> {
        self.log.iter().map(Vec::len).collect()
    }

    /// These first writes of each shard are durable.
    pub(super) fn harden(&mut self, marks: &[usize]) {
        for (durable, mark) in self.durable.iter_mut().zip(marks) {
            *durable = (*durable).max(*mark);
        }
    }

    /// Rules 1 and 2: the state that explains what was found. `in_flight` are over different keys.
    ///
    /// # Panics
    /// Where none does.
    pub(super) fn explain(&self, found: &Contents, in_flight: &[Write], all_acknowledged: bool, now_ms: u64) -> State {
        let mut state = self.base.clone();
        for (shard, log) in self.log.iter().enumerate() {
            let least = if all_acknowledged { log.len() } else { self.durable[shard] };
            log[..least].iter().for_each(|write| write.apply(&mut state));
            self.explain_shard(&mut state, &log[least..], found, now_ms);
        }
        for write in in_flight {
            let mut with = state.clone();
            write.apply(&mut with);
            if agree(&with, found, write, now_ms) {
                state = with;
            } else {
                assert!(
                    agree(&state, found, write, now_ms),
                    "half of a batch was recovered: {:?}",
                    write.changes.keys()
                );
            }
        }
        assert_same(&live(&state, now_ms), found, "after recovery");
        state
    }

    /// Applies as many of these writes as were found.
    fn explain_shard(&self, state: &mut State, rest: &[Write], found: &Contents, now_ms: u64) {
        // Places that these writes change: no other write of this shard does after them.
        let mut all = Write::default();
        rest.iter().for_each(|write| all.changes.extend(write.changes.clone()));
        let mut candidate = state.clone();
        for write in rest.iter().map(Some).chain([None]) {
            if agree(&candidate, found, &all, now_ms) {
                *state = candidate;
                return;
            }
            if let Some(write) = write {
                write.apply(&mut candidate);
            }
        }
        let changed = all.changes.keys().map(|place| (place, found.get(place).map(Vec::len))).collect::<Vec<_>>();
        panic!(
            "what was recovered is no prefix of a shard's {} writes behind its durable ones: {changed:?}",
            rest.len()
        );
    }
}

/// Whether a state and what was found are the same at the places of a write.
fn agree(state: &State, found: &Contents, write: &Write, now_ms: u64) -> bool {
    write.changes.keys().all(|place| {
        let cell = state.get(place).filter(|cell| cell.is_live(now_ms));
        cell.map(|cell| &cell.value[..]) == found.get(place).map(|value| &value[..])
    })
}

/// Compares what should be there with what was found, and says where they first differ.
pub(super) fn assert_same(expected: &Contents, found: &Contents, when: &str) {
    for (place, value) in expected {
        let is = found.get(place);
        assert!(is == Some(value), "{when}: {place:?} should have {} bytes, has {:?}", value.len(), is.map(Vec::len));
    }
    let extra = found.keys().find(|place| !expected.contains_key(*place));
    assert!(extra.is_none(), "{when}: {extra:?} should not be there");
}
