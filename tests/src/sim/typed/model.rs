//! What typed state must be: the states that a run began with, what was done to them since, and which timers may and must fire.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::super::journal::WriteId;
use super::{Part, Timer};

/// A stored value: the operation that made it, and when it expires (0 is never asked of what was read).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Dated {
    pub(super) id: WriteId,
    pub(super) expires_ms: Option<u64>,
}

impl Dated {
    fn lives(&self, now_ms: u64) -> bool {
        self.expires_ms.is_none_or(|expires_ms| now_ms < expires_ms)
    }
}

/// All states of one key but its timers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Keyed {
    pub(super) value: Option<Dated>,
    pub(super) map: BTreeMap<u16, Dated>,
    pub(super) list: Vec<Dated>,
    pub(super) sum: Option<u64>,
    pub(super) fold: Option<(u64, u64)>,
}

/// All states of all keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct State {
    pub(super) keys: BTreeMap<Part, Keyed>,
    pub(super) timers: BTreeSet<Timer>,
}

/// What an operation does to its key's states.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    Set,
    Unset,
    Put(u16),
    Remove(u16),
    ClearMap,
    /// Appends, and keeps this many.
    Push(Option<u64>),
    PopFront,
    Truncate(u64),
    Add(u64),
    ClearSum,
    Fold(u64),
    TakeFold,
    Register(i64),
    Delete(i64),
    /// Takes the earliest timer of the shard that is due.
    Fire,
}

/// An operation of the current run that was begun.
#[derive(Debug)]
pub(super) struct Operation {
    pub(super) part: Part,
    pub(super) effect: Effect,
    pub(super) expires_ms: Option<u64>,
    /// The watermark when it began. It stands still while clients work.
    pub(super) now_ms: u64,
    /// Of a firing: up to which time, for which keys, and what was taken, once that is known.
    pub(super) until: i64,
    pub(super) owned: Arc<BTreeSet<Part>>,
    pub(super) fired: Option<Timer>,
    /// Of a firing that failed: what it may have taken, or another one that failed: a timer that was found to be gone.
    pub(super) guessed: Option<Timer>,
}

/// When timers were asked for, in moments that count up: what two that overlap take, one by one, only their answers say.
#[derive(Default)]
pub(super) struct Pops {
    now: u64,
    /// Of each its shard, its beginning and its end.
    pops: BTreeMap<WriteId, (usize, u64, u64)>,
}

impl Pops {
    pub(super) fn moment(&mut self) -> u64 {
        self.now += 1;
        self.now
    }

    pub(super) fn begin(&mut self, id: WriteId, shard: usize) -> u64 {
        let now = self.moment();
        self.pops.insert(id, (shard, now, u64::MAX));
        now
    }

    pub(super) fn end(&mut self, id: WriteId) {
        let now = self.moment();
        self.pops.get_mut(&id).expect("it has begun").2 = now;
    }

    /// How many in this shard have not ended since that moment, but for one that has begun just then.
    pub(super) fn beside(&self, shard: usize, since: u64) -> usize {
        let beside = |(of, began, ended): &&(usize, u64, u64)| *of == shard && *began != since && *ended > since;
        self.pops.values().filter(beside).count()
    }
}

/// The model of typed state.
#[derive(Default)]
pub(crate) struct Typed {
    /// The time to live of values, maps and lists.
    pub(crate) ttl_ms: Option<u64>,
    /// What the current run began with.
    pub(super) base: State,
    /// What reads must show.
    pub(super) current: State,
    /// What was begun in the current run; nothing of that need have been applied.
    pub(super) operations: BTreeMap<WriteId, Operation>,
    /// All values ever, with their keys and when they expire.
    pub(super) made: BTreeMap<WriteId, (Part, Option<u64>)>,
    /// Timers whose registration was answered: a firing must see them.
    pub(super) settled: BTreeSet<Timer>,
    /// Timers that are being deleted.
    pub(super) deleting: BTreeSet<Timer>,
    /// Firings that were sent and have not ended.
    pub(super) firing: u32,
    /// When single timers were taken.
    pub(super) pops: Pops,
    /// The newest time up to which timers were fired.
    pub(super) clock: i64,
}

impl Keyed {
    /// Whether a read at this time may find this.
    pub(super) fn fits(&self, found: &Keyed, now_ms: u64) -> bool {
        let lives = |dated: &&Dated| dated.lives(now_ms);
        let map = self.map.iter().filter(|(_, dated)| dated.lives(now_ms)).map(|(slot, dated)| (slot, dated.id));
        self.value.as_ref().filter(lives).map(|dated| dated.id) == found.value.map(|dated| dated.id)
            && map.eq(found.map.iter().map(|(slot, dated)| (slot, dated.id)))
            && (self.sum, self.fold) == (found.sum, found.fold)
            && self.list_fits(&found.list, now_ms)
    }

    /// A list expires with its newest element; before that it may lose the oldest that have expired.
    fn list_fits(&self, found: &[Dated], now_ms: u64) -> bool {
        if !self.list.last().is_some_and(|newest| newest.lives(now_ms)) {
            return found.is_empty();
        }
        let living = self.list.iter().filter(|dated| dated.lives(now_ms)).count();
        let ids = |list: &[Dated]| list.iter().map(|dated| dated.id).collect::<Vec<_>>();
        found.len() >= living && ids(&self.list).ends_with(&ids(found))
    }

    /// What an operation makes of it.
    fn apply(&mut self, id: WriteId, operation: &Operation) {
        let dated = Dated { id, expires_ms: operation.expires_ms };
        match operation.effect {
            Effect::Set => self.value = Some(dated),
            Effect::Unset => self.value = None,
            Effect::Put(slot) => drop(self.map.insert(slot, dated)),
            Effect::Remove(slot) => drop(self.map.remove(&slot)),
            Effect::ClearMap => self.map.clear(),
            Effect::Push(keep) => {
                if !self.list.last().is_some_and(|newest| newest.lives(operation.now_ms)) {
                    self.list.clear();
                }
                self.list.push(dated);
                self.truncate(keep.unwrap_or(u64::MAX));
            }
            Effect::PopFront => drop(self.list.drain(..1.min(self.list.len()))),
            Effect::Truncate(keep) => self.truncate(keep),
            Effect::Add(number) => self.sum = Some(self.sum.unwrap_or(0).wrapping_add(number)),
            Effect::ClearSum => self.sum = None,
            Effect::Fold(number) => {
                let (count, sum) = self.fold.unwrap_or_default();
                self.fold = Some((count + 1, sum.wrapping_add(number)));
            }
            Effect::TakeFold => self.fold = None,
            Effect::Register(_) | Effect::Delete(_) | Effect::Fire => {}
        }
    }

    fn truncate(&mut self, keep: u64) {
        let surplus = self.list.len().saturating_sub(usize::try_from(keep).unwrap_or(usize::MAX));
        self.list.drain(..surplus);
    }
}

impl State {
    /// The state of a key.
    pub(super) fn of(&self, part: Part) -> Keyed {
        self.keys.get(&part).cloned().unwrap_or_default()
    }

    /// Adds what an operation did; of a firing, what it is known to have taken.
    pub(super) fn apply(&mut self, id: WriteId, operation: &Operation) {
        match operation.effect {
            Effect::Register(time) => drop(self.timers.insert((time, operation.part))),
            Effect::Delete(time) => drop(self.timers.remove(&(time, operation.part))),
            Effect::Fire => drop(operation.removed().map(|timer| self.timers.remove(&timer))),
            _ => self.keys.entry(operation.part).or_default().apply(id, operation),
        }
    }
}

impl Operation {
    pub(super) fn is_of_timers(&self) -> bool {
        matches!(self.effect, Effect::Register(_) | Effect::Delete(_) | Effect::Fire)
    }

    /// The timer that it removes, as far as that is known.
    pub(super) fn removed(&self) -> Option<Timer> {
        match self.effect {
            Effect::Delete(time) => Some((time, self.part)),
            Effect::Fire => self.fired.or(self.guessed),
            _ => None,
        }
    }
}

impl Typed {
    /// A write has been applied: an operation of this model, or another of the journal.
    pub(crate) fn apply(&mut self, id: WriteId) {
        let Some(operation) = self.operations.get(&id) else { return };
        self.current.apply(id, operation);
    }

    /// The state that these writes of the current run make, on top of what it began with.
    pub(crate) fn replay(&self, ids: &BTreeSet<WriteId>) -> State {
        let mut state = self.base.clone();
        // Those of one key were applied in this order. Of timers a removal has the greater epoch or number than the registration.
        let mut removed = BTreeSet::new();
        for (id, operation) in self.operations.iter().filter(|(id, _)| ids.contains(id)) {
            state.apply(*id, operation);
            removed.extend(operation.removed());
        }
        state.timers.retain(|timer| !removed.contains(timer));
        state
    }

    /// A new run begins on this state.
    pub(crate) fn begin_run(&mut self, base: State) {
        self.settled = base.timers.clone();
        self.current = base.clone();
        self.base = base;
        self.operations.clear();
        self.deleting.clear();
        self.pops = Pops::default();
        self.firing = 0;
    }
}
