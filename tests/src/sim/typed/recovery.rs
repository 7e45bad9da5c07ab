//! Which operations a state that was found consists of: the rules of the module above.

use std::collections::{BTreeMap, BTreeSet};

use super::super::journal::{Journal, WriteId};
use super::model::{Effect, Keyed, Operation, State, Typed};
use super::{Part, Timer};

/// What a recovery has brought back.
pub(crate) struct Recovered {
    /// Operations of the run that took effect.
    pub(crate) writes: BTreeSet<WriteId>,
    /// Those that may have, or not: what is there is the same.
    pub(crate) unsure: BTreeSet<WriteId>,
    /// All of it.
    pub(crate) state: State,
}

/// The operations of a run that were applied, by what the journal's entries say of them.
struct Sorted<'t> {
    certain: BTreeMap<WriteId, &'t Operation>,
    /// Between the last entry that was recovered and the next.
    candidates: BTreeMap<WriteId, &'t Operation>,
}

impl Typed {
    /// Says which operations of the run a recovered state consists of, given the entries of the journal that were recovered.
    pub(crate) fn recover(
        &self,
        journal: &Journal,
        entries: &BTreeSet<WriteId>,
        found: &State,
        now_ms: u64,
    ) -> Result<Recovered, String> {
        let sorted = self.sort(journal, entries);
        let writes = sorted.certain.keys().copied().collect();
        let mut recovered = Recovered { writes, unsure: BTreeSet::new(), state: State::default() };
        let ours = self.base.keys.keys().chain(found.keys.keys()).copied();
        let parts: BTreeSet<Part> = ours.chain(sorted.all().map(|(_, operation)| operation.part)).collect();
        for part in parts {
            let keyed = self.recover_key(part, &sorted, &found.of(part), now_ms, &mut recovered);
            recovered.state.keys.insert(part, keyed.map_err(|reason| format!("states of {part:?}: {reason}"))?);
        }
        self.recover_timers(&sorted, &found.timers, &mut recovered)?;
        recovered.state.timers = found.timers.clone();
        Ok(recovered)
    }

    /// Rules 1 and 2.
    fn sort(&self, journal: &Journal, entries: &BTreeSet<WriteId>) -> Sorted<'_> {
        let applied = journal.all_applied();
        let mut sorted = Sorted { certain: BTreeMap::new(), candidates: BTreeMap::new() };
        for part in super::all_parts() {
            let written = journal.entries_of(part);
            let Some(last) = written.iter().rev().find(|id| entries.contains(id)) else { continue };
            let next = written.range(last + 1..).next().copied().unwrap_or(WriteId::MAX);
            let of_part = |(id, operation): &(&WriteId, &Operation)| operation.part == part && applied.contains(id);
            for (id, operation) in self.operations.range(..next).filter(of_part) {
                let into = if id < last { &mut sorted.certain } else { &mut sorted.candidates };
                into.insert(*id, operation);
            }
        }
        sorted
    }

    /// Rule 3 for all states of a key but its timers.
    fn recover_key(
        &self,
        part: Part,
        sorted: &Sorted<'_>,
        found: &Keyed,
        now_ms: u64,
        recovered: &mut Recovered,
    ) -> Result<Keyed, String> {
        let of_part = |(_, operation): &(&WriteId, &&Operation)| operation.part == part && !operation.is_of_timers();
        let mut state = State { keys: BTreeMap::from([(part, self.base.of(part))]), timers: BTreeSet::new() };
        for (id, operation) in sorted.certain.iter().filter(of_part) {
            state.apply(*id, operation);
        }
        let candidates: Vec<WriteId> = sorted.candidates.iter().filter(of_part).map(|(id, _)| *id).collect();
        let mut states = vec![state.of(part)];
        for id in &candidates {
            state.apply(*id, sorted.candidates[id]);
            states.push(state.of(part));
        }
        let fitting: Vec<usize> = (0..states.len()).filter(|taken| states[*taken].fits(found, now_ms)).collect();
        let (Some(least), Some(most)) = (fitting.first(), fitting.last()) else {
            return Err(format!("found {found:?} at {now_ms} ms; it should be one of {states:?}"));
        };
        recovered.writes.extend(&candidates[..*least]);
        recovered.unsure.extend(&candidates[*least..*most]);
        Ok(states.swap_remove(*most))
    }

    /// Rule 3 for timers, each by itself.
    fn recover_timers(
        &self,
        sorted: &Sorted<'_>,
        found: &BTreeSet<Timer>,
        recovered: &mut Recovered,
    ) -> Result<(), String> {
        let mut known = self.base.timers.clone();
        let (mut registered, mut removed) = (BTreeMap::new(), BTreeMap::new());
        // Firings that nobody heard of, and what they may have taken: the last of a shard.
        let mut unheard = BTreeMap::new();
        // Timers of which one of several firings has taken each.
        let mut shared = 0;
        for (id, operation) in sorted.all() {
            match operation.effect {
                Effect::Register(time) => drop(registered.insert((time, operation.part), id)),
                Effect::Fire if operation.fired.is_none() => drop(unheard.insert(id, operation)),
                _ => drop(operation.removed().map(|timer| removed.insert(timer, id))),
            }
        }
        known.extend(registered.keys());
        for timer in known.union(found) {
            let candidate = |id: &&WriteId| sorted.candidates.contains_key(id);
            let (by, gone) = (registered.get(timer), removed.get(timer));
            let is_there = self.base.timers.contains(timer) || by.is_some_and(|id| !candidate(&id));
            let (may_register, may_remove) = (by.filter(candidate), gone.filter(candidate));
            if found.contains(timer) {
                if !(is_there || may_register.is_some()) {
                    return Err(format!("timer {timer:?} is there and was never registered"));
                }
                if gone.is_some() && may_remove.is_none() {
                    return Err(format!("timer {timer:?} is there again: it was deleted or has fired"));
                }
                recovered.writes.extend(may_register);
            } else if let Some(id) = may_register {
                // Neither registered nor removed, or both; unless it is certain that it was removed.
                if gone.is_some() && may_remove.is_none() {
                    recovered.writes.insert(*id);
                } else {
                    let takers = match may_remove {
                        Some(other) => vec![*other],
                        None => those_that_may_take(&unheard, timer),
                    };
                    if !takers.is_empty() {
                        recovered.unsure.insert(*id);
                        recovered.unsure.extend(takers);
                    }
                }
            } else if let Some(id) = may_remove {
                recovered.writes.insert(*id);
            } else if is_there && gone.is_none() {
                match those_that_may_take(&unheard, timer)[..] {
                    [] => return Err(format!("timer {timer:?} is gone: nothing deleted it, and it did not fire")),
                    [id] => {
                        recovered.writes.insert(id);
                        unheard.remove(&id);
                    }
                    // One of them, and nobody can say which.
                    ref several => {
                        recovered.unsure.extend(several);
                        shared += 1;
                        if shared > unheard.len() {
                            return Err(format!("timer {timer:?} is gone: nothing deleted it, and too few have fired"));
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Between rounds everything is as the model says. A firing that failed may have taken its timer all the same.
    pub(crate) fn check_at_rest(&mut self, journal: &Journal, found: &State, now_ms: u64) -> Result<(), String> {
        self.current.check_keys(found, now_ms)?;
        if let Some(timer) = found.timers.difference(&self.current.timers).next() {
            return Err(format!("timer {timer:?} is there, and was deleted, has fired, or was never registered"));
        }
        let applied = journal.all_applied();
        let missing: Vec<Timer> = self.current.timers.difference(&found.timers).copied().collect();
        for timer in missing {
            let unheard = |(id, operation): &(&WriteId, &mut Operation)| {
                let is_free = operation.effect == Effect::Fire && operation.guessed.is_none();
                applied.contains(id) && is_free && operation.may_have_taken(&timer)
            };
            let Some((_, firing)) = self.operations.iter_mut().find(unheard) else {
                return Err(format!("timer {timer:?} is gone: nothing deleted it, and it did not fire"));
            };
            firing.guessed = Some(timer);
            self.current.timers.remove(&timer);
        }
        Ok(())
    }

    /// What was found where the device has lied: values must be those that some operation made for that key, the rest may be anything.
    pub(crate) fn adopt(&self, found: &State) -> Result<State, String> {
        let mut state = found.clone();
        for (part, keyed) in &mut state.keys {
            let values = keyed.value.iter_mut().chain(keyed.map.values_mut()).chain(&mut keyed.list);
            for value in values {
                match self.made.get(&value.id) {
                    Some((made_for, expires_ms)) if made_for == part => value.expires_ms = *expires_ms,
                    other => return Err(format!("{value:?} is there for {part:?}, but was made for {other:?}")),
                }
            }
        }
        Ok(state)
    }
}

impl State {
    /// A checkpoint's state is exactly this, at a time when some of it may have expired.
    pub(crate) fn check_exact(&self, found: &State, now_ms: u64) -> Result<(), String> {
        self.check_keys(found, now_ms)?;
        match self.timers.symmetric_difference(&found.timers).next() {
            Some(timer) => Err(format!("timer {timer:?}: there should be {:?}", self.timers)),
            None => Ok(()),
        }
    }

    fn check_keys(&self, found: &State, now_ms: u64) -> Result<(), String> {
        let parts: BTreeSet<Part> = self.keys.keys().chain(found.keys.keys()).copied().collect();
        let differing = parts.into_iter().find(|part| !self.of(*part).fits(&found.of(*part), now_ms));
        if let Some(part) = differing {
            let (found, expected) = (found.of(part), self.of(part));
            return Err(format!("states of {part:?}: found {found:?} at {now_ms} ms; expected {expected:?}"));
        }
        Ok(())
    }
}

impl Operation {
    fn may_have_taken(&self, timer: &Timer) -> bool {
        self.fired.is_none() && timer.0 <= self.until && self.owned.contains(&timer.1)
    }
}

impl<'t> Sorted<'t> {
    fn all(&self) -> impl Iterator<Item = (WriteId, &'t Operation)> {
        self.certain.iter().chain(&self.candidates).map(|(id, operation)| (*id, *operation))
    }
}

fn those_that_may_take(unheard: &BTreeMap<WriteId, &Operation>, timer: &Timer) -> Vec<WriteId> {
    unheard.iter().filter(|(_, operation)| operation.may_have_taken(timer)).map(|(id, _)| *id).collect()
}
