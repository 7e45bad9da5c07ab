//! What the volume may hold, known from what the workers told before they died.
//!
//! # What is known
//!
//! Messages of a life are numbered as they came. A step lies between the number of `Submitted` that covers it and that of its
//! `Acknowledged`; a thing told before another had happened before that was begun. The versions of a key have an order, that of the
//! numbers of the steps of its client.
//!
//! # What is checked at an opening
//!
//! 1. Each value is one that a step gave this key, to the last bit; nothing is found that was not submitted.
//! 2. Each key is at least at its last durable version, and at most at its last submitted. Durable is, with `Sync`, what was acknowledged;
//!    with `Interval`, what was acknowledged before the last complete sync or checkpoint began; with `Checkpoint`, before the last complete
//!    checkpoint began, and that opening also ends at what was submitted before its barrier.
//! 3. A batch is there whole or not at all; in a checkpoint an operator too.
//! 4. What a shard holds is a prefix of its history: where a step is found, everything that the shard had acknowledged before that step was
//!    submitted is there.
//! 5. The checkpoints that exist are the last complete one and, perhaps, one whose end was not heard of.
//!
//! What was found becomes the base of the next life: a version that was lost once can never come back.

use std::collections::BTreeMap;

use xxhash_rust::xxh3::xxh3_64;

use crate::history::{CLIENTS, How, KEYS, client_of, step, value};
use crate::wire::{ErrorClass, Kind, Message};
use crate::worker::Mode;

/// The number of the step that a key's value is from; none where it is absent.
type Content = Option<u64>;

/// A version of a key in the current life.
#[derive(Clone, Copy, Debug)]
struct Version {
    number: u64,
    content: Content,
    /// Numbers of messages.
    submitted: usize,
    acknowledged: Option<usize>,
    /// Its step was told to have failed: it may be missing though later ones are there.
    failed: bool,
}

/// A checkpoint that an opening may land on.
#[derive(Clone, Debug)]
struct Cut {
    /// 0: the beginning of time.
    name: u64,
    /// What each key may hold.
    keys: Vec<Vec<Content>>,
    /// The writes of each step of more than one key that may or may not be in it.
    groups: Vec<Vec<Member>>,
}

/// A write of a step that may or may not be in a checkpoint.
#[derive(Clone, Debug)]
struct Member {
    key: u32,
    /// What the key holds after the step.
    after: Content,
    /// What it may hold where the step is not there.
    before: Vec<Content>,
}

/// A checkpoint of the current life.
#[derive(Clone, Copy, Debug)]
struct Begun {
    name: u64,
    begins: usize,
    barrier: usize,
    /// Whether its end was heard of; `None`: it was not, so that it may exist.
    exists: Option<bool>,
}

/// What the next dump is held against.
enum Expected {
    /// The newest state of the current life.
    Latest,
    /// A checkpoint, whose restore was heard of.
    Cut(Cut),
}

/// See the module.
pub(crate) struct Oracle {
    seed: u64,
    value_bytes_max: usize,
    mode: Mode,
    versions: Vec<Vec<Version>>,
    /// The shard of each key: as last told, and in the current life.
    shards: Vec<u8>,
    shards_of_life: Vec<u8>,
    messages: usize,
    /// Where the last complete sync or checkpoint began.
    synced: usize,
    sync_begins: usize,
    checkpointed: usize,
    begun: Vec<Begun>,
    cuts: Vec<Cut>,
    expected: Expected,
    found: BTreeMap<u32, (u64, u64)>,
    /// The next number of each client's steps.
    pub(crate) next: [u64; CLIENTS],
    /// The next number of a checkpoint.
    pub(crate) next_checkpoint: u64,
    /// Steps acknowledged so far.
    pub(crate) acknowledged: u64,
    /// Steps that failed, by the class of the error.
    pub(crate) failed: BTreeMap<&'static str, u64>,
    /// What was wrong.
    pub(crate) failures: Vec<String>,
}

impl Oracle {
    pub(crate) fn new(seed: u64, value_bytes_max: usize) -> Oracle {
        let nothing = Cut { name: 0, keys: vec![vec![None]; KEYS], groups: Vec::new() };
        Oracle {
            seed,
            value_bytes_max,
            mode: Mode::Sync,
            versions: vec![
                vec![Version {
                    number: 0,
                    content: None,
                    submitted: 0,
                    acknowledged: Some(0),
                    failed: false
                }];
                KEYS
            ],
            shards: vec![0; KEYS],
            shards_of_life: vec![0; KEYS],
            messages: 0,
            synced: 0,
            sync_begins: 0,
            checkpointed: 0,
            begun: Vec::new(),
            cuts: vec![nothing],
            expected: Expected::Latest,
            found: BTreeMap::new(),
            next: [0; CLIENTS],
            next_checkpoint: 1,
            acknowledged: 0,
            failed: BTreeMap::new(),
            failures: Vec::new(),
        }
    }

    /// Takes a message. A dump is held against what was known when its last message comes.
    pub(crate) fn hear(&mut self, message: &Message, opened_with: Mode) {
        self.messages += 1;
        let at = self.messages;
        match message.kind {
            Kind::Opened => self.opened(&message.numbers(), opened_with),
            Kind::Shards => {
                let from = message.number as usize;
                for (shard, known) in message.payload.iter().zip(self.shards.iter_mut().skip(from)) {
                    *known = *shard;
                }
            }
            Kind::Found => {
                for entry in message.numbers().chunks_exact(3) {
                    self.found.insert(entry[0] as u32, (entry[1], entry[2]));
                }
            }
            Kind::Submitted => self.submitted(message.client, message.number, at),
            Kind::Acknowledged => {
                self.acknowledged += 1;
                let acknowledged = Some(at);
                self.of_step(message.client, message.number, |version| version.acknowledged = acknowledged);
            }
            Kind::Failed => {
                let name = match message.error().0 {
                    ErrorClass::NoSpace => "no space",
                    ErrorClass::Poisoned => "poisoned",
                    ErrorClass::Io => "I/O",
                    ErrorClass::Closed => "closed",
                    ErrorClass::Corruption => "corruption",
                    ErrorClass::Other => "other",
                };
                *self.failed.entry(name).or_default() += 1;
                if name == "no space"
                    && step(self.seed, message.client, message.number).writes.iter().all(|(_, put)| !put)
                {
                    *self.failed.entry("no space, for deletes alone").or_default() += 1;
                }
                self.of_step(message.client, message.number, |version| version.failed = true);
            }
            Kind::SyncBegins => self.sync_begins = at,
            Kind::SyncDone => self.synced = self.sync_begins,
            Kind::CheckpointBegins => {
                self.next_checkpoint = self.next_checkpoint.max(message.number + 1);
                self.begun.push(Begun { name: message.number, begins: at, barrier: usize::MAX, exists: None });
            }
            Kind::CheckpointBarrier => self.of_checkpoint(message.number, |begun| begun.barrier = at),
            Kind::CheckpointDone => {
                self.of_checkpoint(message.number, |begun| begun.exists = Some(true));
                let begun = self.begun.iter().find(|begun| begun.name == message.number);
                self.checkpointed = begun.map_or(0, |begun| begun.begins);
            }
            // With anything but a lack of space, what is on the device is unknown.
            Kind::CheckpointFailed if message.error().0 == ErrorClass::NoSpace => {
                self.of_checkpoint(message.number, |begun| begun.exists = Some(false));
            }
            Kind::Wrong => self.failures.push(message.text()),
            Kind::CheckpointFailed
            | Kind::FoundAll
            | Kind::NotOpened
            | Kind::ReadFailed
            | Kind::ClientEnded
            | Kind::CommandDone => {}
        }
    }

    fn submitted(&mut self, client: usize, to: u64, at: usize) {
        for number in self.next[client]..to {
            for (key, put) in step(self.seed, client, number).writes {
                let content = put.then_some(number);
                self.versions[key as usize].push(Version {
                    number,
                    content,
                    submitted: at,
                    acknowledged: None,
                    failed: false,
                });
            }
        }
        self.next[client] = self.next[client].max(to);
    }

    fn of_step(&mut self, client: usize, number: u64, change: impl Fn(&mut Version)) {
        for (key, _) in step(self.seed, client, number).writes {
            let versions = self.versions[key as usize].iter_mut().skip(1).rev();
            versions.filter(|version| version.number == number).for_each(&change);
        }
    }

    fn of_checkpoint(&mut self, name: u64, change: impl Fn(&mut Begun)) {
        self.begun.iter_mut().filter(|begun| begun.name == name).for_each(change);
    }

    /// An engine is open: `names` are the checkpoint on which it landed, and those that exist.
    fn opened(&mut self, names: &[u64], mode: Mode) {
        self.end_life();
        let Some((&landed, existing)) = names.split_first() else { return };
        let newest = existing.last().copied().unwrap_or_default();
        let known: Vec<u64> = self.cuts.iter().map(|cut| cut.name).collect();
        let Some(at) = self.cuts.iter().position(|cut| cut.name == newest) else {
            self.failures.push(format!("the newest checkpoint is {newest}, but one of {known:?} must be"));
            return;
        };
        self.cuts.drain(..at);
        self.cuts.truncate(1);
        if mode != Mode::Checkpoint {
            return;
        }
        if landed != newest {
            self.failures.push(format!("the engine landed on checkpoint {landed}, but the newest is {newest}"));
        }
        self.expected = Expected::Cut(self.cuts[0].clone());
    }

    /// Works out on which checkpoints the next opening may land.
    fn end_life(&mut self) {
        for begun in std::mem::take(&mut self.begun) {
            if begun.exists == Some(false) {
                continue;
            }
            if begun.exists == Some(true) {
                self.cuts.clear();
            }
            let cut = self.cut(&begun);
            self.cuts.push(cut);
        }
    }

    fn cut(&self, begun: &Begun) -> Cut {
        let mut keys = Vec::with_capacity(KEYS);
        let mut steps: BTreeMap<(usize, u64), Vec<Member>> = BTreeMap::new();
        for (key, versions) in self.versions.iter().enumerate() {
            let first = last_acknowledged(versions, begun.begins);
            let submitted = versions.iter().rposition(|version| version.submitted < begun.barrier).unwrap_or_default();
            for index in first + 1..=submitted.max(first) {
                let before = versions[first..index].iter().map(|version| version.content).collect();
                let group = steps.entry((client_of(key as u32), versions[index].number)).or_default();
                group.push(Member { key: key as u32, after: versions[index].content, before });
            }
            keys.push(versions[first..=submitted.max(first)].iter().map(|version| version.content).collect());
        }
        Cut { name: begun.name, keys, groups: steps.into_values().filter(|group| group.len() > 1).collect() }
    }

    /// Holds a complete dump of an engine that was just opened against what is known; what it holds is the base of the next life.
    pub(crate) fn check_opened(&mut self, opened_with: Mode) {
        let found = self.take_found();
        match std::mem::replace(&mut self.expected, Expected::Latest) {
            Expected::Cut(cut) => self.check_cut(&cut, &found),
            Expected::Latest => {
                let durable = self.durable();
                self.check_latest(&found, durable);
                self.check_prefixes(&found);
            }
        }
        for (versions, content) in self.versions.iter_mut().zip(&found) {
            versions.clear();
            versions.push(Version {
                number: content.unwrap_or_default(),
                content: *content,
                submitted: 0,
                acknowledged: Some(0),
                failed: false,
            });
        }
        // What a checkpoint restored is that checkpoint.
        if opened_with == Mode::Checkpoint
            && let Some(cut) = self.cuts.first_mut()
        {
            cut.keys = found.iter().map(|content| vec![*content]).collect();
            cut.groups.clear();
        }
        self.shards_of_life.clone_from(&self.shards);
        (self.mode, self.messages) = (opened_with, 0);
        (self.synced, self.sync_begins, self.checkpointed) = (0, 0, 0);
    }

    /// Holds a dump of a running engine, whose clients have stopped, against what it has acknowledged.
    pub(crate) fn check_running(&mut self) {
        let found = self.take_found();
        self.check_latest(&found, usize::MAX);
    }

    /// The engine was closed: what its log held back is durable too.
    pub(crate) fn closed(&mut self) {
        self.synced = usize::MAX;
    }

    /// All checkpoints were dropped.
    pub(crate) fn dropped_all(&mut self) {
        self.begun.clear();
        self.cuts = vec![Cut { name: 0, keys: vec![vec![None]; KEYS], groups: Vec::new() }];
    }

    /// Up to which message what was acknowledged is durable.
    fn durable(&self) -> usize {
        match self.mode {
            Mode::Sync => usize::MAX,
            Mode::Interval => self.synced.max(self.checkpointed),
            Mode::Checkpoint => self.checkpointed,
        }
    }

    /// The contents of all keys that a dump told; values that are not those of their steps are failures.
    fn take_found(&mut self) -> Vec<Content> {
        let mut contents = vec![None; KEYS];
        for (key, (number, hash)) in std::mem::take(&mut self.found) {
            if xxh3_64(&value(self.seed, key, number, self.value_bytes_max)) != hash {
                self.failures.push(format!("key {key} has a value that says number {number} and is not that step's"));
            }
            contents[key as usize] = Some(number);
        }
        contents
    }

    fn check_latest(&mut self, found: &[Content], durable: usize) {
        let mut reached = BTreeMap::new();
        for (key, (versions, content)) in self.versions.iter().zip(found).enumerate() {
            let first = last_acknowledged(versions, durable);
            let Some((least, most)) = matches(versions, *content, first) else {
                let may: Vec<Content> = versions[first..].iter().map(|version| version.content).collect();
                let lost = versions.iter().position(|version| version.content == *content);
                self.failures.push(format!(
                    "key {key} is at {content:?}, but must be at one of {may:?} (shard {}; that is its version {lost:?}, {first} is durable)",
                    self.shards[key]
                ));
                continue;
            };
            for version in versions.iter().skip(1) {
                let step = (client_of(key as u32), version.number);
                let reached_number = if version.failed {
                    versions[least].number == version.number
                } else {
                    versions[least].number >= version.number
                };
                let certainly_there = reached_number && least > 0;
                let certainly_not = versions[most].number < version.number || most == 0;
                let state: &mut (bool, bool) = reached.entry(step).or_default();
                state.0 |= certainly_there;
                state.1 |= certainly_not;
            }
        }
        for ((client, number), (some, not_all)) in reached {
            if some && not_all && step(self.seed, client, number).how == How::Batch {
                self.failures.push(format!("half of batch {number} of client {client} is there"));
            }
        }
    }

    fn check_prefixes(&mut self, found: &[Content]) {
        let shards = &self.shards_of_life;
        let mut newest: BTreeMap<u8, (usize, usize)> = BTreeMap::new();
        for (key, (versions, content)) in self.versions.iter().zip(found).enumerate() {
            if let Some((least, _)) = matches(versions, *content, 0) {
                let entry = newest.entry(shards[key]).or_default();
                *entry = (*entry).max((versions[least].submitted, key));
            }
        }
        for (key, (versions, content)) in self.versions.iter().zip(found).enumerate() {
            let Some(&(submitted, other)) = newest.get(&shards[key]) else { continue };
            let first = last_acknowledged(versions, submitted);
            if matches(versions, *content, first).is_none() {
                self.failures.push(format!(
                    "shard {} is no prefix of its history: key {other} has what was submitted at {submitted}, key {key} is at {content:?}, \
                     though {:?} was acknowledged before",
                    shards[key], versions[first]
                ));
            }
        }
    }

    fn check_cut(&mut self, cut: &Cut, found: &[Content]) {
        for (key, (may, content)) in cut.keys.iter().zip(found).enumerate() {
            if !may.contains(content) {
                self.failures
                    .push(format!("key {key} of checkpoint {} is at {content:?}, not one of {may:?}", cut.name));
            }
        }
        for group in &cut.groups {
            // A later step may have changed a key again: only what the step's own write tells for certain counts.
            let last_write = |member: &&Member| {
                let may = &cut.keys[member.key as usize];
                may.last() == Some(&member.after) && may.len() == member.before.len() + 1
            };
            let telling = |member: &&Member| !member.before.contains(&member.after);
            let group: Vec<&Member> = group.iter().filter(last_write).filter(telling).collect();
            let there = |member: &&Member| found[member.key as usize] == member.after;
            if group.iter().any(there) && !group.iter().all(there) {
                self.failures.push(format!("checkpoint {} holds half of a step: {group:?}", cut.name));
            }
        }
    }
}

/// The last version that had been acknowledged before a message.
fn last_acknowledged(versions: &[Version], before: usize) -> usize {
    let acknowledged = |version: &Version| version.acknowledged.is_some_and(|at| at < before);
    versions.iter().rposition(acknowledged).unwrap_or_default()
}

/// The first and last version from `first` on that has this content.
fn matches(versions: &[Version], content: Content, first: usize) -> Option<(usize, usize)> {
    let least = versions.iter().skip(first).position(|version| version.content == content)? + first;
    let most = versions.iter().rposition(|version| version.content == content)?;
    Some((least, most))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BYTES_MAX: usize = 100;

    /// An oracle that has heard of some steps of client 0, the first `acknowledged` of them as acknowledged, and a worker that was killed then.
    fn killed_after(mode: Mode, steps: u64, acknowledged: u64) -> Oracle {
        let mut oracle = Oracle::new(1, BYTES_MAX);
        hear(&mut oracle, mode, Kind::Opened, 0, &[0; 8]);
        oracle.check_opened(mode);
        for number in 0..steps {
            hear(&mut oracle, mode, Kind::Submitted, number + 1, &[]);
            if number < acknowledged {
                hear(&mut oracle, mode, Kind::Acknowledged, number, &[]);
            }
        }
        hear(&mut oracle, mode, Kind::Opened, 0, &[0; 8]);
        oracle
    }

    fn hear(oracle: &mut Oracle, mode: Mode, kind: Kind, number: u64, payload: &[u8]) {
        oracle.hear(&Message { kind, client: 0, number, payload: payload.to_vec() }, mode);
    }

    /// What the volume holds after these steps.
    fn after(steps: impl IntoIterator<Item = u64>) -> BTreeMap<u32, u64> {
        let mut state = BTreeMap::new();
        for number in steps {
            for (key, put) in step(1, 0, number).writes {
                state.remove(&key);
                if put {
                    state.insert(key, number);
                }
            }
        }
        state
    }

    /// How many failures there are when a volume with this state is opened.
    fn failures(mut oracle: Oracle, state: &BTreeMap<u32, u64>) -> usize {
        for (&key, &number) in state {
            let hash = xxh3_64(&value(1, key, number, BYTES_MAX));
            let payload: Vec<u8> = [u64::from(key), number, hash].iter().flat_map(|part| part.to_le_bytes()).collect();
            hear(&mut oracle, Mode::Sync, Kind::Found, 0, &payload);
        }
        oracle.check_opened(Mode::Sync);
        oracle.failures.len()
    }

    /// Steps after which every key of their partitions has been written more than once.
    const STEPS: u64 = 3000;

    #[test]
    fn what_may_be_is_accepted() {
        assert_eq!(failures(killed_after(Mode::Sync, STEPS, STEPS), &after(0..STEPS)), 0);
        assert_eq!(failures(killed_after(Mode::Sync, STEPS, STEPS - 50), &after(0..STEPS - 50)), 0);
        assert_eq!(failures(killed_after(Mode::Sync, STEPS, STEPS - 50), &after(0..STEPS - 20)), 0);
        assert_eq!(failures(killed_after(Mode::Interval, STEPS, STEPS), &after(0..1)), 0);
        assert_eq!(failures(killed_after(Mode::Interval, STEPS, STEPS), &after([])), 0);
    }

    #[test]
    fn a_lost_acknowledged_write_is_noticed() {
        assert!(failures(killed_after(Mode::Sync, STEPS, STEPS), &after(0..STEPS - 1)) > 0);
    }

    #[test]
    fn what_was_not_submitted_is_noticed() {
        assert!(failures(killed_after(Mode::Sync, STEPS, STEPS), &after(0..STEPS + 3)) > 0);
    }

    #[test]
    fn a_hole_in_the_history_is_noticed() {
        assert!(failures(killed_after(Mode::Interval, STEPS, STEPS), &after((0..2000).chain(2003..STEPS))) > 0);
    }

    #[test]
    fn half_a_batch_is_noticed() {
        let last = (STEPS..).find(|number| step(1, 0, *number).how == How::Batch).unwrap_or(STEPS);
        let puts: Vec<u32> = step(1, 0, last).writes.into_iter().filter(|(_, put)| *put).map(|(key, _)| key).collect();
        assert!(puts.len() > 1, "another seed is needed");
        let mut half = after(0..last);
        half.insert(puts[0], last);
        assert_eq!(failures(killed_after(Mode::Sync, last + 1, last), &half), 1);
    }

    #[test]
    fn a_value_of_another_step_is_noticed() {
        let mut oracle = killed_after(Mode::Sync, STEPS, STEPS);
        let (key, number) = after(0..STEPS).into_iter().next().unwrap_or_default();
        let payload: Vec<u8> = [u64::from(key), number, 7].iter().flat_map(|part| part.to_le_bytes()).collect();
        hear(&mut oracle, Mode::Sync, Kind::Found, 0, &payload);
        let found = oracle.take_found();
        assert_eq!((found[key as usize], oracle.failures.len()), (Some(number), 1));
    }
}
