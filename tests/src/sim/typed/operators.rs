//! The operators of typed state, and the operations that they make, one after the other.

use std::collections::BTreeSet;
use std::sync::Arc;

use siltstone::{LocalShard, Result, WriteBatch};

use super::super::journal::WriteId;
use super::super::operators::recorded;
use super::super::oracle::SharedOracle;
use super::super::workload::Client;
use super::model::{Effect, Keyed, Operation, Typed};
use super::read::{parts_beside, read_key, value_of};
use super::{PARTS, Part, States, Timer};

/// Slots of a map.
const SLOTS: u64 = 24;
/// Units of the clock that firings follow; the rest of a time makes it unique.
const UNIT: i64 = 1 << 24;

/// What an operator is to do, each with its number among the writes.
enum Step {
    /// An entry of the journal.
    Entry(WriteId, WriteBatch),
    /// An operation that is drawn from this number when its turn comes.
    Change(WriteId, u64),
    Register(WriteId, i64),
    Fire(WriteId),
    /// Compare all states of the key.
    Read,
}

/// What the steps of an operator share.
struct Visit {
    oracle: SharedOracle,
    states: States,
    part: Part,
    /// The keys beside it on its shard.
    owned: Arc<BTreeSet<Part>>,
    shard: usize,
    /// What a firing takes.
    until: i64,
    /// Whether what is acknowledged is durable.
    durable: bool,
}

impl Client {
    /// An operator on some key's states. False where there are none in this volume.
    pub(crate) fn send_typed(&mut self) -> bool {
        let Some(states) = self.shift.states.clone() else { return false };
        let part = [b't', self.random.below(u64::from(PARTS)) as u8];
        let fires = self.random.chance(0.2);
        let steps = if fires { self.plan_firing(part) } else { self.plan_changes(part) };
        let oracle = self.shift.oracle.clone();
        let until = oracle.lock().typed.clock;
        let visit = Visit {
            oracle: oracle.clone(),
            states,
            part,
            owned: parts_beside(&self.shift.engine, part),
            shard: usize::from(self.shift.engine.shard_of(&part).0),
            until,
            durable: self.shift.acknowledges_durable(),
        };
        let reply = self.shift.engine.on_shard(&part, async move |shard: LocalShard| {
            let visited = visit.run(&shard, steps).await;
            oracle.lock().typed.firing -= u32::from(fires);
            visited
        });
        self.push_operator(reply);
        true
    }

    fn plan_firing(&mut self, part: Part) -> Vec<Step> {
        let mut steps = vec![self.entry(part)];
        let pops = 1 + self.random.below(12);
        let ahead = self.random.below(12) as i64;
        let mut oracle = self.shift.oracle.lock();
        steps.extend((0..pops).map(|_| Step::Fire(oracle.journal.submit_typed(part))));
        oracle.typed.clock += ahead * UNIT;
        oracle.typed.firing += 1;
        steps
    }

    fn plan_changes(&mut self, part: Part) -> Vec<Step> {
        let mut steps = Vec::new();
        for _ in 0..1 + self.random.below(3) {
            steps.push(self.entry(part));
            if self.random.chance(0.35) {
                self.plan_timers(part, &mut steps);
            } else {
                for _ in 0..1 + self.random.below(2) {
                    let draw = self.random.next_u64();
                    steps.push(Step::Change(self.shift.oracle.lock().journal.submit_typed(part), draw));
                }
            }
            if self.random.chance(0.15) {
                steps.push(Step::Read);
            }
        }
        steps
    }

    /// Many timers at a time: more than a shard holds in memory of a key group are where its care is needed.
    fn plan_timers(&mut self, part: Part, steps: &mut Vec<Step>) {
        let spread = [4, 40, 400][self.random.below(3) as usize];
        let late = self.random.chance(0.2);
        for _ in 0..1 + self.random.below(10) {
            let units = 1 + self.random.below(spread) as i64;
            let mut oracle = self.shift.oracle.lock();
            let id = oracle.journal.submit_typed(part);
            let units = if late && oracle.typed.firing == 0 { -units } else { units };
            steps.push(Step::Register(id, oracle.typed.clock + units * UNIT + id as i64));
        }
    }

    fn entry(&self, part: Part) -> Step {
        let mut oracle = self.shift.oracle.lock();
        let id = oracle.journal.submit(part, Vec::new());
        let mut batch = WriteBatch::new();
        batch.put(&self.shift.spaces[1], &oracle.journal.key_of(id), &[]);
        Step::Entry(id, batch)
    }
}

impl Visit {
    async fn run(&self, shard: &LocalShard, steps: Vec<Step>) -> Result<()> {
        for step in steps {
            match step {
                Step::Entry(id, batch) => {
                    recorded(shard, &self.oracle, self.shard, id, shard.write(&batch)).await?;
                    if self.durable {
                        self.oracle.lock().journal.acknowledge([id]);
                    }
                }
                Step::Change(id, draw) => {
                    let drawn = self.oracle.lock().typed.draw(self.part, draw);
                    if let Some(effect) = drawn {
                        self.change(shard, id, effect, draw).await?;
                    }
                }
                Step::Register(id, time) => self.change(shard, id, Effect::Register(time), 0).await?,
                Step::Fire(id) => {
                    if !self.fire(shard, id).await? {
                        break;
                    }
                }
                Step::Read => {
                    let found = read_key(shard, &self.states, self.part).await?;
                    let oracle = self.oracle.lock();
                    let fits = oracle.typed.shows(self.part, &found, oracle.now_ms);
                    assert!(fits.is_ok(), "an operator's read of the states of {:?}: {fits:?}", self.part);
                }
            }
        }
        Ok(())
    }

    /// One operation on the key's states.
    async fn change(&self, shard: &LocalShard, id: WriteId, effect: Effect, draw: u64) -> Result<()> {
        self.begin(id, effect.clone(), 0);
        let (states, part) = (&self.states, &self.part);
        let write = async {
            let value = value_of(id);
            // One and the same by a write alone, or by a read and a write.
            let reads = draw >> 60 == 0;
            match effect.clone() {
                Effect::Set if reads => states.values.update(shard, part, |_| Some(value)).await,
                Effect::Set => states.values.set(shard, part, &value).await,
                Effect::Unset if reads => states.values.update(shard, part, |_| None).await,
                Effect::Unset => states.values.clear(shard, part).await,
                Effect::Put(slot) if reads => states.maps.update(shard, part, &slot, |_| Some(value)).await,
                Effect::Put(slot) => states.maps.put(shard, part, &slot, &value).await,
                Effect::Remove(slot) => states.maps.remove(shard, part, &slot).await,
                Effect::ClearMap => states.maps.clear(shard, part).await,
                Effect::Push(None) => states.lists.push(shard, part, &value).await,
                Effect::Push(Some(keep)) => states.lists.push_bounded(shard, part, &value, keep).await,
                Effect::PopFront => {
                    let first = self.oracle.lock().typed.first_of_list(*part);
                    let popped = states.lists.pop_front(shard, part).await?;
                    assert_eq!(popped, first.map(value_of), "the first element of the list of {part:?}");
                    Ok(())
                }
                Effect::Truncate(0) => states.lists.clear(shard, part).await,
                Effect::Truncate(keep) => states.lists.truncate_front(shard, part, keep).await,
                Effect::Add(number) => states.sums.add(shard, part, number).await,
                Effect::ClearSum => states.sums.clear(shard, part).await,
                Effect::Fold(number) => states.folds.add(shard, part, number).await,
                Effect::TakeFold => {
                    let fold = self.oracle.lock().typed.fold_of(*part);
                    let taken = states.folds.take(shard, part).await?;
                    assert_eq!(taken, fold, "the fold of {part:?}");
                    Ok(())
                }
                Effect::Register(time) => states.timers.register(shard, time, part).await,
                Effect::Delete(time) => states.timers.delete(shard, time, part).await,
                Effect::Fire => unreachable!("firings go another way"),
            }
        };
        let written = recorded(shard, &self.oracle, self.shard, id, write).await;
        let mut oracle = self.oracle.lock();
        oracle.typed.end(self.part, &effect, written.is_ok());
        if written.is_ok() && self.durable && oracle.journal.is_applied(id) {
            oracle.journal.acknowledge([id]);
        }
        written
    }

    /// Takes a timer that is due; false where there was none.
    async fn fire(&self, shard: &LocalShard, id: WriteId) -> Result<bool> {
        let (until, visible, since) = {
            let mut oracle = self.oracle.lock();
            let until = oracle.typed.may_fire_until(self.until, &self.owned);
            (until, oracle.typed.due(until, &self.owned), oracle.typed.pops.moment())
        };
        let next = self.states.timers.next_due(shard).await?;
        let late = self.passed_over(&self.oracle.lock().typed, &visible, next.map(|time| (time, [0; 2])), since);
        assert!(late.is_none(), "the next timer is {next:?}, but {late:?} are there");
        self.begin(id, Effect::Fire, until);
        let since = self.oracle.lock().typed.pops.begin(id, self.shard);
        let pop = self.states.timers.pop_due(shard, until);
        let fired = recorded(shard, &self.oracle, self.shard, id, pop).await;
        let mut oracle = self.oracle.lock();
        oracle.typed.pops.end(id);
        if fired.is_err() && oracle.journal.is_applied(id) {
            // Some timer is gone, and nobody knows which.
            oracle.typed.settled.retain(|timer| !visible.contains(timer));
        }
        let fired = fired?;
        let late = self.passed_over(&oracle.typed, &visible, fired, since);
        assert!(late.is_none(), "{fired:?} fires, but {late:?} are there and due at {until}");
        let Some(timer) = fired else { return Ok(false) };
        assert!(timer.0 <= until && self.owned.contains(&timer.1), "{timer:?} is not due at {until} here");
        oracle.typed.fired(id, timer);
        if self.durable {
            oracle.journal.acknowledge([id]);
        }
        Ok(true)
    }

    /// Timers that should have come before this one, or at all: more than other firings may have in hand.
    fn passed_over(
        &self,
        typed: &Typed,
        visible: &BTreeSet<Timer>,
        fired: Option<Timer>,
        since: u64,
    ) -> Option<Vec<Timer>> {
        let earlier = |timer: &&Timer| fired.is_none_or(|fired| **timer < fired) && typed.settled.contains(*timer);
        let late: Vec<Timer> = visible.iter().filter(earlier).copied().collect();
        (late.len() > typed.pops.beside(self.shard, since)).then_some(late)
    }

    fn begin(&self, id: WriteId, effect: Effect, until: i64) {
        let mut oracle = self.oracle.lock();
        let (now_ms, ttl_ms) = (oracle.now_ms, oracle.typed.ttl_ms);
        let expires = matches!(effect, Effect::Set | Effect::Put(_) | Effect::Push(_));
        let expires_ms = ttl_ms.filter(|_| expires).map(|ttl_ms| now_ms + ttl_ms);
        let (part, owned) = (self.part, Arc::clone(&self.owned));
        oracle
            .typed
            .begin(id, Operation { part, effect, expires_ms, now_ms, until, owned, fired: None, guessed: None });
    }
}

impl Typed {
    /// An operation on a key, drawn from a number; nothing where there is no timer to delete.
    fn draw(&self, part: Part, draw: u64) -> Option<Effect> {
        let number = draw >> 8;
        let expires = self.ttl_ms.is_some();
        Some(match draw % 20 {
            0..3 => Effect::Set,
            3 => Effect::Unset,
            4..8 => Effect::Put((number % SLOTS) as u16),
            8..10 => Effect::Remove((number % SLOTS) as u16),
            10 if number.is_multiple_of(4) => Effect::ClearMap,
            // What is left of a list whose chunks have expired the model does not know so well.
            10..13 => Effect::Push(None),
            13 if number.is_multiple_of(8) => Effect::Truncate(0),
            13 | 14 if expires => Effect::Push(None),
            13 => Effect::Push(Some(1 + number % 30)),
            14 if number.is_multiple_of(2) => Effect::Truncate(1 + number % 20),
            14 => Effect::PopFront,
            15 => Effect::Add(number),
            16 if number.is_multiple_of(4) => Effect::ClearSum,
            16 => Effect::Fold(number),
            17 if number.is_multiple_of(4) => Effect::TakeFold,
            17 => Effect::Fold(number),
            _ => {
                // Not one that a firing may be about to take.
                let mine = |timer: &&Timer| timer.1 == part && timer.0 > self.clock;
                let count = self.settled.iter().filter(mine).count() as u64;
                let chosen = self.settled.iter().filter(mine).nth(number.checked_rem(count)? as usize)?;
                Effect::Delete(chosen.0)
            }
        })
    }

    fn begin(&mut self, id: WriteId, operation: Operation) {
        match operation.effect {
            Effect::Delete(time) => {
                self.settled.remove(&(time, operation.part));
                self.deleting.insert((time, operation.part));
            }
            Effect::Set | Effect::Put(_) | Effect::Push(_) => {
                self.made.insert(id, (operation.part, operation.expires_ms));
            }
            _ => {}
        }
        self.operations.insert(id, operation);
    }

    fn end(&mut self, part: Part, effect: &Effect, succeeded: bool) {
        match effect {
            // It may have fired before its registration was answered.
            Effect::Register(time) if succeeded && self.current.timers.contains(&(*time, part)) => {
                self.settled.insert((*time, part));
            }
            Effect::Delete(time) => {
                let timer = (*time, part);
                self.deleting.remove(&timer);
                // One that could not be deleted is to fire.
                if self.current.timers.contains(&timer) {
                    self.settled.insert(timer);
                }
            }
            _ => {}
        }
    }

    /// How far a firing may go without meeting a timer that is being deleted.
    fn may_fire_until(&self, until: i64, owned: &BTreeSet<Part>) -> i64 {
        let deleted = self.deleting.iter().find(|timer| owned.contains(&timer.1));
        deleted.map_or(until, |timer| until.min(timer.0 - 1))
    }

    /// The timers that a firing which begins now must see.
    fn due(&self, until: i64, owned: &BTreeSet<Part>) -> BTreeSet<Timer> {
        self.settled
            .iter()
            .take_while(|timer| timer.0 <= until)
            .filter(|timer| owned.contains(&timer.1))
            .copied()
            .collect()
    }

    fn fired(&mut self, id: WriteId, timer: Timer) {
        let was_there = self.current.timers.remove(&timer);
        assert!(was_there, "{timer:?} fires, and was deleted, has fired before, or was never registered");
        self.settled.remove(&timer);
        self.operations.get_mut(&id).expect("the firing has begun").fired = Some(timer);
    }

    fn shows(&self, part: Part, found: &Keyed, now_ms: u64) -> std::result::Result<(), String> {
        let expected = self.current.of(part);
        match expected.fits(found, now_ms) {
            true => Ok(()),
            false => Err(format!("found {found:?} at {now_ms} ms; expected {expected:?}")),
        }
    }

    fn first_of_list(&self, part: Part) -> Option<WriteId> {
        self.current.of(part).list.first().map(|dated| dated.id)
    }

    fn fold_of(&self, part: Part) -> Option<(u64, u64)> {
        self.current.of(part).fold
    }
}
