//! The earliest timers of a shard, in memory: for each key group that the shard owns, those up to a bound.
//!
//! A group *knows* its timers up to a bound: every stored timer at or below it is in memory, and nothing else is. A new timer at or below the
//! bound goes into memory, one above does not. When a group holds too many, the last leaves and the bound moves down to its
//! predecessor; when a group with a bound runs empty, the next ones are read from the store, from the bound on, so the tombstones of the
//! timers that have fired are not walked again. Over the groups, an ordered set of their first timers gives the earliest of the shard.
//!
//! Invariants: 1. `order` has exactly one entry for each group with timers in memory, its first; 2. `unfilled` has exactly the groups that
//! have none in memory and may have some in the store; 3. a group's timers are at or below its bound.
//!
//! A write to the store and the change here are not one step: the write may wait. Each group counts its changes, so that who finds at the
//! end of a write that another change came between can have the group forgotten and read again (see [`super`]). A timer is *hidden* while its
//! removal is under way: what is read of the store meanwhile may still show it.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::rc::Rc;

use crate::KeyGroup;

/// How many timers of a group are read at a time.
pub(super) const REFILL_TIMERS: usize = 16;
/// How many timers of a group are kept in memory at most: with 1024 groups on one shard, and about 100 bytes each, 6.5 MB.
const GROUP_TIMERS_MAX: usize = 64;

/// A stored timer: time and key, which sort as bytes.
pub(super) type Timer = Rc<[u8]>;

/// The timers of one shard that are known to be the earliest.
#[derive(Debug)]
pub(super) struct Heads {
    first_group: u16,
    groups: Vec<Group>,
    order: BTreeSet<(Timer, u16)>,
    unfilled: BTreeSet<u16>,
}

#[derive(Debug, Default)]
struct Group {
    timers: BTreeSet<Timer>,
    /// Timers of which removals are under way, and how many.
    hidden: BTreeMap<Timer, u32>,
    known: Known,
    changes: Changes,
}

/// Up to where a group's timers are in memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Known {
    /// Nothing has been read.
    #[default]
    Nothing,
    /// All timers up to this one.
    UpTo(Timer),
    /// All timers.
    All,
}

/// How often a group has changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Changes {
    /// Removals (their beginning and their end), refills and forgettings.
    pub(super) removals: u64,
    /// Insertions.
    pub(super) insertions: u64,
}

impl Heads {
    /// Nothing known of the groups that a shard owns.
    pub(super) fn new(owned: Range<u16>) -> Self {
        Heads {
            first_group: owned.start,
            groups: owned.clone().map(|_| Group::default()).collect(),
            order: BTreeSet::new(),
            unfilled: owned.collect(),
        }
    }

    /// The earliest timer in memory and its group. It is the earliest of the shard when no group is unfilled.
    pub(super) fn first(&self) -> Option<(&Timer, KeyGroup)> {
        self.order.first().map(|(timer, group)| (timer, KeyGroup(*group)))
    }

    /// A group of which timers must be read before [`Self::first`] is right, and the point from which on.
    pub(super) fn unfilled(&self) -> Option<(KeyGroup, Known)> {
        let group = KeyGroup(*self.unfilled.first()?);
        Some((group, self.groups[self.index(group)].known.clone()))
    }

    /// How often the group has changed.
    pub(super) fn changes(&self, group: KeyGroup) -> Changes {
        self.groups[self.index(group)].changes
    }

    /// Takes in what was read of an unfilled group: the next timers, in order, and whether they were the last.
    pub(super) fn fill(&mut self, group: KeyGroup, timers: Vec<Timer>, last: bool) {
        self.change(group, |group| {
            assert!(group.timers.is_empty(), "a group that has timers in memory was filled");
            group.known = match timers.last() {
                _ if last => Known::All,
                Some(timer) => Known::UpTo(Rc::clone(timer)),
                None => group.known.clone(),
            };
            group.timers = timers.into_iter().filter(|timer| !group.hidden.contains_key(timer)).collect();
            group.changes.removals += 1;
        });
    }

    /// A timer has been stored.
    pub(super) fn insert(&mut self, group: KeyGroup, timer: &[u8]) {
        self.change(group, |group| {
            group.changes.insertions += 1;
            let known = match &group.known {
                Known::Nothing => false,
                Known::UpTo(bound) => timer <= &**bound && !mutant!(TimerBelowBoundForgotten),
                Known::All => true,
            };
            mark!(TimerBelowBound if known && group.known != Known::All);
            if !known || group.timers.contains(timer) {
                return;
            }
            group.timers.insert(timer.into());
            if group.timers.len() > GROUP_TIMERS_MAX {
                mark!(TimersOverBound);
                group.timers.pop_last();
                group.known = group.timers.last().map_or(Known::Nothing, |last| Known::UpTo(Rc::clone(last)));
            }
        });
    }

    /// A timer's removal begins.
    pub(super) fn hide(&mut self, group: KeyGroup, timer: &[u8]) {
        let index = self.index(group);
        *self.groups[index].hidden.entry(timer.into()).or_default() += 1;
        self.remove(group, timer);
    }

    /// A timer's removal has ended, one way or the other. Another of it may go on.
    pub(super) fn unhide(&mut self, group: KeyGroup, timer: &[u8]) {
        let index = self.index(group);
        let hidden = &mut self.groups[index].hidden;
        let removals = hidden.get_mut(timer).expect("a removal that has begun");
        *removals -= 1;
        if *removals == 0 {
            hidden.remove(timer);
        }
    }

    /// A timer has been removed.
    pub(super) fn remove(&mut self, group: KeyGroup, timer: &[u8]) {
        self.change(group, |group| {
            group.changes.removals += 1;
            group.timers.remove(timer);
        });
    }

    /// What is known of the group is in doubt: it must be read again.
    pub(super) fn forget(&mut self, group: KeyGroup) {
        self.change(group, |group| {
            group.changes.removals += 1;
            group.timers.clear();
            group.known = Known::Nothing;
        });
    }

    /// Changes a group and restores invariants 1 and 2.
    fn change(&mut self, group: KeyGroup, change: impl FnOnce(&mut Group)) {
        let index = self.index(group);
        let state = &mut self.groups[index];
        let before = state.timers.first().cloned();
        change(state);
        if before.as_ref() != state.timers.first() {
            if let Some(timer) = before {
                self.order.remove(&(timer, group.0));
            }
            if let Some(timer) = state.timers.first() {
                self.order.insert((Rc::clone(timer), group.0));
            }
        }
        if state.timers.is_empty() && state.known != Known::All {
            self.unfilled.insert(group.0);
        } else {
            self.unfilled.remove(&group.0);
        }
    }

    fn index(&self, group: KeyGroup) -> usize {
        usize::from(group.0 - self.first_group)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::ops::Bound;

    #[derive(Clone, Debug)]
    enum Step {
        Insert(u16, u16),
        Remove(u16, u16),
        Forget(u16),
        PopFirst,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            6 => (0..3u16, 0..400u16).prop_map(|(group, time)| Step::Insert(group, time)),
            1 => (0..3u16, 0..400u16).prop_map(|(group, time)| Step::Remove(group, time)),
            1 => (0..3u16).prop_map(Step::Forget),
            3 => Just(Step::PopFirst),
        ];
        prop::collection::vec(step, 1..if cfg!(miri) { 40 } else { 600 })
    }

    fn fill_all(heads: &mut Heads, store: &BTreeSet<(u16, u16)>) {
        while let Some((group, known)) = heads.unfilled() {
            let from = match known {
                Known::Nothing => Bound::Included((group.0, 0)),
                Known::UpTo(timer) => Bound::Excluded((group.0, u16::from_be_bytes([timer[0], timer[1]]))),
                Known::All => panic!("a group of which all is known is unfilled"),
            };
            let to = Bound::Included((group.0, u16::MAX));
            let timers: Vec<Timer> = store
                .range((from, to))
                .take(REFILL_TIMERS)
                .map(|(_, time)| Timer::from(&time.to_be_bytes()[..]))
                .collect();
            let last = timers.len() < REFILL_TIMERS;
            heads.fill(group, timers, last);
        }
    }

    /// A deletion that is given up while the same timer fires must not have it fire twice.
    #[test]
    fn a_timer_stays_hidden_until_its_last_removal_has_ended() {
        let mut heads = Heads::new(0..1);
        let timer: &[u8] = &[0, 5];
        let seen = |heads: &mut Heads| {
            heads.forget(KeyGroup(0));
            heads.fill(KeyGroup(0), vec![timer.into()], true);
            heads.first().is_some()
        };
        heads.hide(KeyGroup(0), timer);
        heads.hide(KeyGroup(0), timer);
        heads.unhide(KeyGroup(0), timer);
        assert!(!seen(&mut heads));
        heads.unhide(KeyGroup(0), timer);
        assert!(seen(&mut heads));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 1 } else { 64 }))]
        #[test]
        fn first_is_the_earliest_stored_timer(steps in steps()) {
            let mut store = BTreeSet::new();
            let mut heads = Heads::new(7..10);
            for step in steps {
                match step {
                    Step::Insert(group, time) => {
                        store.insert((group + 7, time));
                        heads.insert(KeyGroup(group + 7), &time.to_be_bytes());
                    }
                    Step::Remove(group, time) => {
                        store.remove(&(group + 7, time));
                        heads.remove(KeyGroup(group + 7), &time.to_be_bytes());
                    }
                    Step::Forget(group) => heads.forget(KeyGroup(group + 7)),
                    Step::PopFirst => {
                        fill_all(&mut heads, &store);
                        let found = heads.first().map(|(timer, group)| (u16::from_be_bytes([timer[0], timer[1]]), group.0));
                        let expected = store.iter().map(|&(group, time)| (time, group)).min();
                        prop_assert_eq!(found, expected);
                        if let Some((time, group)) = expected {
                            store.remove(&(group, time));
                            heads.remove(KeyGroup(group), &time.to_be_bytes());
                        }
                    }
                }
            }
        }

        #[test]
        fn memory_is_bounded(times in prop::collection::vec(any::<u32>(), 0..if cfg!(miri) { 30 } else { 500 })) {
            let mut heads = Heads::new(0..1);
            heads.fill(KeyGroup(0), Vec::new(), true);
            for time in times {
                heads.insert(KeyGroup(0), &time.to_be_bytes());
                prop_assert!(heads.groups[0].timers.len() <= GROUP_TIMERS_MAX);
            }
        }
    }
}
