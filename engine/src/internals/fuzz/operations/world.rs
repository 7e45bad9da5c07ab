//! The steps, and the comparison of what is read with the model.

use std::cell::RefCell;
use std::future::Future;
use std::ops::{Bound, Range};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use siltstone_io::{SimClock, SimDisk, SimOptions};

use super::machine::{Crashed, Machine};
use super::model::{Cell, Contents, Model, Place, Saved, State, Write, assert_same, live};
use super::plan::{Change, PlannedKey, PlannedRange, Setup, Step, Way};
use crate::{CheckpointInfo, Durability, Engine, KeyGroup, Keyspace, Result, ScanRange, Snapshot, WriteBatch};

/// The keyspaces: name, bytes of the key that are its partition part (none: all), time to live.
pub(super) const SPACES: [(&str, Option<u16>, Option<u64>); 3] =
    [("whole", None, None), ("parts", Some(2), None), ("timed", Some(2), Some(700))];
/// Keys that one partition part can have are many; partition parts are few.
const PARTS: u8 = 8;
const SNAPSHOTS_MAX: usize = 4;
const CHECKPOINTS_MAX: usize = 6;

type Done = std::result::Result<(), Crashed>;
type Reply = Pin<Box<dyn Future<Output = Result<()>>>>;

/// A write that nobody waits for yet.
pub(super) struct InFlight {
    pub(super) write: Write,
    pub(super) reply: Reply,
}

/// A checkpoint that is under way, and what is durable when it is complete.
pub(super) struct Pending {
    pub(super) saved: Saved,
    pub(super) marks: Vec<usize>,
    pub(super) reply: Pin<Box<dyn Future<Output = Result<CheckpointInfo>>>>,
}

/// A snapshot of one shard, kept there, and what it should show.
struct Held {
    id: u64,
    part: Vec<u8>,
    groups: Range<u16>,
    state: State,
}

/// Where a shard keeps its snapshots.
#[derive(Default)]
struct Snapshots(RefCell<Vec<(u64, Snapshot)>>);

/// A volume, its engine, and the model.
pub(super) struct World {
    pub(super) machine: Machine,
    pub(super) model: Model,
    pub(super) key_groups: u32,
    pub(super) durability: Durability,
    pub(super) now_ms: u64,
    pub(super) in_flight: Vec<InFlight>,
    pub(super) pending: Option<Pending>,
    /// The name of a checkpoint that is being dropped.
    pub(super) dropping: Option<String>,
    /// How to open after the next power failure.
    next_way: Way,
    jobs: Vec<Reply>,
    snapshots: Vec<Held>,
    counter: u64,
}

impl World {
    pub(super) fn create(setup: &Setup) -> Self {
        let options = SimOptions {
            volatile_cache: !setup.write_through,
            logical_block_bytes: if setup.small_blocks { 512 } else { 4096 },
            short_transfer_chance: if setup.short_transfers { 0.05 } else { 0.0 },
            again_chance: if setup.refusals { 0.02 } else { 0.0 },
            ..SimOptions::default()
        };
        let seed = u64::from(setup.seed);
        let mut world = World {
            machine: Machine::new(SimDisk::new(seed, options), SimClock::new(), seed),
            model: Model::default(),
            key_groups: [4, 16, 64, 1024][usize::from(setup.key_groups % 4)],
            durability: Durability::Sync,
            now_ms: 1000,
            in_flight: Vec::new(),
            pending: None,
            dropping: None,
            next_way: setup.way.clone(),
            jobs: Vec::new(),
            snapshots: Vec::new(),
            counter: 0,
        };
        world.recover(&setup.way, false);
        world
    }

    pub(super) fn step(&mut self, step: &Step) {
        let way = match step {
            Step::Reopen { way } => {
                if self.close() == Ok(()) {
                    return self.recover(way, true);
                }
                way.clone()
            }
            Step::PowerFailure { way } => way.clone(),
            Step::PlanFailure { after, way } => {
                self.machine.disk.crash_at(Some(self.machine.disk.write_ops() + 1 + u64::from(*after)));
                self.next_way = way.clone();
                return;
            }
            _ => match self.try_step(step) {
                Ok(()) => return,
                Err(Crashed) => self.next_way.clone(),
            },
        };
        self.hear_replies();
        self.recover(&way, false);
    }

    /// The end: everything that is under way ends, and is there afterwards too.
    pub(super) fn finish(mut self) {
        let latest = Way { shards: 1, mode: 0, restore: u8::MAX, crashes: [0, 0] };
        if self.close() == Ok(()) {
            self.recover(&latest, true);
        } else {
            self.hear_replies();
            self.recover(&latest, false);
        }
        assert_eq!(self.close(), Ok(()), "no power failure is planned any more");
    }

    fn try_step(&mut self, step: &Step) -> Done {
        match step {
            Step::Write { key, change, wait } => self.write(&[(*key, *change)], None, *wait),
            Step::Batch { part, changes, wait } => self.write(changes, Some(*part), *wait),
            Step::Get { key } => self.get_many(&[*key], false),
            Step::GetMany { keys } => self.get_many(keys, true),
            Step::Scan { range } => self.scan(range),
            Step::TakeSnapshot { shard } => self.take_snapshot(*shard),
            Step::ReadSnapshot { index, range } => self.read_snapshot(*index, range),
            Step::DropSnapshot { index } => self.drop_snapshot(*index),
            Step::Flush { wait } => {
                let engine = self.engine();
                let marks = self.model.marks();
                self.job(async move { engine.flush().await }, *wait)?;
                self.harden(*wait, &marks);
                Ok(())
            }
            Step::Compact { wait } => {
                let engine = self.engine();
                self.job(async move { engine.compact().await }, *wait)
            }
            Step::Sync => {
                let (engine, marks) = (self.engine(), self.model.marks());
                self.must(async move { engine.sync().await })?;
                self.harden(true, &marks);
                Ok(())
            }
            Step::Checkpoint { wait } => self.checkpoint(*wait),
            Step::DropCheckpoint { index } => self.drop_checkpoint(*index),
            Step::AdvanceTime { by_ms } => {
                self.settle()?;
                self.now_ms += u64::from(*by_ms);
                self.tell_time()
            }
            Step::Idle { us } => self.machine.idle(u64::from(*us)),
            Step::Reopen { .. } | Step::PowerFailure { .. } | Step::PlanFailure { .. } => Ok(()),
        }
    }

    pub(super) fn engine(&self) -> Engine {
        self.machine.engine().clone()
    }

    /// Runs an operation, which fails only with the power.
    pub(super) fn must<T>(&mut self, operation: impl Future<Output = Result<T>>) -> std::result::Result<T, Crashed> {
        match self.machine.run(operation)? {
            Ok(value) => Ok(value),
            Err(_) if self.machine.disk.crashed() => Err(Crashed),
            Err(error) => panic!("an operation fails while the power is on: {error}"),
        }
    }

    /// Raises the watermark of all shards.
    pub(super) fn tell_time(&mut self) -> Done {
        let (engine, now_ms) = (self.engine(), self.now_ms);
        self.must(engine.on_each_shard(move |shard| async move { shard.advance_watermark(now_ms) }))?;
        Ok(())
    }

    /// With a log, these writes are durable.
    fn harden(&mut self, ended: bool, marks: &[usize]) {
        if ended && self.durability != Durability::Checkpoint {
            self.model.harden(marks);
        }
    }

    fn job(&mut self, job: impl Future<Output = Result<()>> + 'static, wait: bool) -> Done {
        if wait {
            return self.must(job);
        }
        let mut job: Reply = Box::pin(job);
        if let Some(ended) = poll_once(&mut job) {
            assert!(ended.is_ok() || self.machine.disk.crashed(), "a job fails: {ended:?}");
        } else {
            self.jobs.push(job);
        }
        Ok(())
    }

    fn write(&mut self, changes: &[(PlannedKey, Change)], part: Option<u8>, wait: bool) -> Done {
        let engine = self.engine();
        let mut batch = WriteBatch::new();
        let mut write = Write::default();
        for (key, change) in changes {
            let key = match part {
                // One partition part, in those keyspaces that have one.
                Some(part) => PlannedKey { space: 1 + key.space % 2, part, suffix: key.suffix },
                None => *key,
            };
            let (place, keyspace) = self.place(key);
            write.shard = self.shard_of(&place);
            let cell = self.cell(place.0, *change);
            match (change, &cell) {
                (Change::PutExpiring { .. }, Some(Cell { value, expires_ms: Some(at_ms) })) => {
                    batch.put_expiring(&keyspace, &place.2, value, *at_ms)
                }
                (_, Some(Cell { value, .. })) => batch.put(&keyspace, &place.2, value),
                (_, None) => batch.delete(&keyspace, &place.2),
            };
            write.changes.insert(place, cell);
        }
        self.settle_those(|other| other.changes.keys().any(|place| write.changes.contains_key(place)))?;
        write.apply(&mut self.model.current);
        let side_by_side = self.durability == Durability::Sync;
        if !side_by_side {
            self.model.append(write, false);
            return self.must(async move { engine.write(batch).await });
        }
        let mut reply: Reply = Box::pin(async move { engine.write(batch).await });
        // Sent by the first poll.
        let ended = poll_once(&mut reply);
        assert!(ended.is_none(), "a write ends before its shard has had a turn: {ended:?}");
        self.in_flight.push(InFlight { write, reply });
        if wait { self.settle_last() } else { Ok(()) }
    }

    fn settle_last(&mut self) -> Done {
        let Some(last) = self.in_flight.last_mut() else { return Ok(()) };
        match self.machine.run(last.reply.as_mut())? {
            Ok(()) => {
                if let Some(acknowledged) = self.in_flight.pop() {
                    self.model.append(acknowledged.write, true);
                }
                Ok(())
            }
            Err(_) if self.machine.disk.crashed() => Err(Crashed),
            Err(error) => panic!("a write fails while the power is on: {error}"),
        }
    }

    /// Waits for the writes in flight for which this holds.
    fn settle_those(&mut self, wanted: impl Fn(&Write) -> bool) -> Done {
        while let Some(index) = self.in_flight.iter().position(|write| wanted(&write.write)) {
            let last = self.in_flight.len() - 1;
            self.in_flight.swap(index, last);
            self.settle_last()?;
        }
        Ok(())
    }

    fn settle(&mut self) -> Done {
        self.settle_those(|_| true)
    }

    fn settle_jobs(&mut self) -> Done {
        for job in std::mem::take(&mut self.jobs) {
            self.must(job)?;
        }
        Ok(())
    }

    /// Ends the engine in good order.
    fn close(&mut self) -> Done {
        self.settle()?;
        self.settle_jobs()?;
        self.settle_checkpoint()?;
        self.snapshots.clear();
        self.machine.close();
        if self.machine.disk.crashed() { Err(Crashed) } else { Ok(()) }
    }

    /// After a power failure: replies that had come before it count.
    fn hear_replies(&mut self) {
        self.machine.disk.crash();
        for mut in_flight in std::mem::take(&mut self.in_flight) {
            match poll_once(&mut in_flight.reply) {
                Some(Ok(())) => self.model.append(in_flight.write, true),
                _ => self.in_flight.push(in_flight),
            }
        }
        self.jobs.clear();
        self.snapshots.clear();
    }

    fn get_many(&mut self, keys: &[PlannedKey], together: bool) -> Done {
        let engine = self.engine();
        let space = usize::from(keys[0].space) % SPACES.len();
        let places: Vec<_> = keys.iter().map(|key| self.place(PlannedKey { space: space as u8, ..*key })).collect();
        self.settle_those(|write| places.iter().any(|(place, _)| write.changes.contains_key(place)))?;
        let expected = live(&self.model.current, self.now_ms);
        let keyspace = places[0].1.clone();
        let keys: Vec<&[u8]> = places.iter().map(|(place, _)| &place.2[..]).collect();
        let found = match together {
            true => self.must(engine.get_many(&keyspace, &keys))?,
            false => vec![self.must(engine.get(&keyspace, keys[0]))?],
        };
        for ((place, _), found) in places.iter().zip(found) {
            assert!(found.as_ref() == expected.get(place), "a get of {place:?}");
        }
        Ok(())
    }

    fn scan(&mut self, range: &PlannedRange) -> Done {
        self.settle()?;
        let wanted = self.wanted(range, 0..self.key_groups as u16);
        let mut scan = self.engine().scan(&wanted.keyspace, wanted.range.clone());
        let found = self.must(async {
            let mut entries = Vec::new();
            while let Some(entry) = scan.next().await? {
                entries.push(entry);
            }
            Ok(entries)
        })?;
        wanted.check(&live(&self.model.current, self.now_ms), &found);
        Ok(())
    }

    fn take_snapshot(&mut self, shard: u8) -> Done {
        if self.snapshots.len() == SNAPSHOTS_MAX {
            return Ok(());
        }
        self.settle()?;
        let (engine, home) = (self.engine(), self.keyspace(0));
        let shard = usize::from(shard) % engine.shards();
        let part = part_in(&engine, shard);
        self.counter += 1;
        let id = self.counter;
        self.must(engine.on_shard(&part, move |shard| async move {
            let snapshot = shard.snapshot();
            shard.extension::<Snapshots>(&home).0.borrow_mut().push((id, snapshot));
        }))?;
        let groups = self.groups_of(shard);
        let state = self.model.current.iter().filter(|(place, _)| groups.contains(&place.1));
        let state = state.map(|(place, cell)| (place.clone(), cell.clone())).collect();
        self.snapshots.push(Held { id, part, groups, state });
        Ok(())
    }

    fn read_snapshot(&mut self, index: u8, range: &PlannedRange) -> Done {
        if self.snapshots.is_empty() {
            return Ok(());
        }
        let (engine, home) = (self.engine(), self.keyspace(0));
        let index = usize::from(index) % self.snapshots.len();
        let (id, part) = (self.snapshots[index].id, self.snapshots[index].part.clone());
        // A range that lies in one key group may lie in another shard's.
        let range = PlannedRange { kind: range.kind % 2 * 5, ..range.clone() };
        let wanted = self.wanted(&range, self.snapshots[index].groups.clone());
        let (keyspace, scanned) = (wanted.keyspace.clone(), wanted.range.clone());
        let found = self.must(engine.on_shard(&part, move |shard| async move {
            let snapshots = shard.extension::<Snapshots>(&home);
            let found = snapshots.0.borrow().iter().find(|(held, _)| *held == id).map(|(_, snapshot)| snapshot.clone());
            let mut scan = found.expect("the shard holds the snapshot").scan(&keyspace, scanned)?;
            let mut entries = Vec::new();
            while let Some(entry) = scan.next().await? {
                entries.push((entry.key.to_vec(), entry.value.to_vec()));
            }
            Ok::<_, crate::Error>(entries)
        }))?;
        let found = match found {
            Err(_) if self.machine.disk.crashed() => return Err(Crashed),
            found => found.expect("a snapshot can be read while the power is on"),
        };
        wanted.check(&live(&self.snapshots[index].state, self.now_ms), &found);
        Ok(())
    }

    fn drop_snapshot(&mut self, index: u8) -> Done {
        if self.snapshots.is_empty() {
            return Ok(());
        }
        let (engine, home) = (self.engine(), self.keyspace(0));
        let held = self.snapshots.remove(usize::from(index) % self.snapshots.len());
        self.must(engine.on_shard(&held.part, move |shard| async move {
            shard.extension::<Snapshots>(&home).0.borrow_mut().retain(|(id, _)| *id != held.id);
        }))
    }

    fn checkpoint(&mut self, wait: bool) -> Done {
        self.settle_checkpoint()?;
        if self.model.checkpoints.len() == CHECKPOINTS_MAX {
            return Ok(());
        }
        self.counter += 1;
        let name = format!("checkpoint {}", self.counter);
        let reply = Box::pin(self.engine().checkpoint(&name, name.clone().into_bytes()));
        let saved = Saved { name, state: self.model.current.clone() };
        self.pending = Some(Pending { saved, marks: self.model.marks(), reply });
        if wait { self.settle_checkpoint() } else { Ok(()) }
    }

    fn settle_checkpoint(&mut self) -> Done {
        let Some(pending) = &mut self.pending else { return Ok(()) };
        let info = match self.machine.run(pending.reply.as_mut())? {
            Ok(info) => info,
            Err(_) if self.machine.disk.crashed() => return Err(Crashed),
            Err(error) => panic!("a checkpoint fails while the power is on: {error}"),
        };
        if let Some(pending) = self.pending.take() {
            assert_eq!((&info.name, &info.bytes[..]), (&pending.saved.name, pending.saved.name.as_bytes()));
            self.harden(true, &pending.marks);
            self.model.checkpoints.push(pending.saved);
        }
        Ok(())
    }

    fn drop_checkpoint(&mut self, index: u8) -> Done {
        self.settle_checkpoint()?;
        if self.model.checkpoints.is_empty() {
            return Ok(());
        }
        let index = usize::from(index) % self.model.checkpoints.len();
        let name = self.model.checkpoints[index].name.clone();
        self.dropping = Some(name.clone());
        let engine = self.engine();
        self.must(async move { engine.drop_checkpoint(&name).await })?;
        self.dropping = None;
        self.model.checkpoints.remove(index);
        Ok(())
    }

    /// Everything that the engine has.
    pub(super) fn read_all(&mut self) -> std::result::Result<Contents, Crashed> {
        let mut found = Contents::new();
        for space in 0..SPACES.len() {
            let keyspace = self.keyspace(space);
            let mut scan = self.engine().scan(&keyspace, ScanRange::all());
            let entries = self.must(async {
                let mut entries = Vec::new();
                while let Some(entry) = scan.next().await? {
                    entries.push(entry);
                }
                Ok(entries)
            })?;
            let places = entries.into_iter().map(|(key, value)| ((space, keyspace.group_of(&key).0, key), value));
            let places: Vec<_> = places.collect();
            assert!(places.is_sorted_by(|left, right| left.0 < right.0), "a scan is in order");
            found.extend(places);
        }
        Ok(found)
    }

    pub(super) fn keyspace(&self, space: usize) -> Keyspace {
        self.machine.engine().keyspace(SPACES[space].0).expect("the keyspace is there")
    }

    fn place(&self, key: PlannedKey) -> (Place, Keyspace) {
        let space = usize::from(key.space) % SPACES.len();
        let keyspace = self.keyspace(space);
        let key = key_bytes(key);
        ((space, keyspace.group_of(&key).0, key), keyspace)
    }

    fn shard_of(&self, place: &Place) -> usize {
        let part = SPACES[place.0].1.map_or(&place.2[..], |bytes| &place.2[..usize::from(bytes)]);
        usize::from(self.machine.engine().shard_of(part).0)
    }

    /// The key groups of a shard, as `docs/architecture.md` divides them.
    pub(super) fn groups_of(&self, shard: usize) -> Range<u16> {
        let border = |index: usize| (self.key_groups as usize * index / self.machine.engine().shards()) as u16;
        border(shard)..border(shard + 1)
    }

    /// What a change makes of a key. No two values are the same.
    fn cell(&mut self, space: usize, change: Change) -> Option<Cell> {
        let (size, expires_ms) = match change {
            Change::Put(size) => (size, SPACES[space].2.map(|ttl_ms| self.now_ms + ttl_ms)),
            Change::PutExpiring { size, in_ms } => (size, Some(self.now_ms + u64::from(in_ms))),
            Change::Delete => return None,
        };
        let bytes = match size {
            0..200 => usize::from(size),
            200..248 => usize::from(size - 199) * 150,
            248.. => usize::from(size - 247) * 12_000,
        };
        self.counter += 1;
        let value: Vec<u8> = self.counter.to_le_bytes().into_iter().cycle().take(bytes.max(8)).collect();
        Some(Cell { value: value.into(), expires_ms })
    }

    fn wanted(&self, range: &PlannedRange, groups: Range<u16>) -> Wanted {
        let space = usize::from(range.lower.space) % SPACES.len();
        let (lower, upper) =
            (key_bytes(range.lower), key_bytes(PlannedKey { space: range.lower.space, ..range.upper }));
        let prefix = lower[..usize::from(range.cut) % (lower.len() + 1)].to_vec();
        let (mut group, mut bounds) = (None, (Bound::Unbounded, Bound::Unbounded));
        let mut scanned = match range.kind % 8 {
            0..2 => ScanRange::all(),
            2..4 => {
                bounds.0 = Bound::Included(prefix.clone());
                ScanRange::prefix(prefix.clone())
            }
            kind @ (4..7) => {
                bounds = (Bound::Included(lower.clone()), Bound::Excluded(upper.clone()));
                if kind == 5 {
                    bounds.1 = Bound::Unbounded;
                }
                ScanRange::range(bounds.0.clone(), bounds.1.clone())
            }
            _ => {
                group = Some(u16::from(range.group) % self.key_groups as u16);
                ScanRange::all().group(KeyGroup(u16::from(range.group) % self.key_groups as u16))
            }
        };
        if range.reverse {
            scanned = scanned.reverse();
        }
        let prefix = matches!(range.kind % 8, 2..4).then_some(prefix);
        Wanted { keyspace: self.keyspace(space), space, groups, only_group: group, prefix, bounds, range: scanned }
    }
}

/// A range to scan, and how to say what is in it.
struct Wanted {
    keyspace: Keyspace,
    space: usize,
    groups: Range<u16>,
    /// The only key group, where there is one.
    only_group: Option<u16>,
    prefix: Option<Vec<u8>>,
    bounds: (Bound<Vec<u8>>, Bound<Vec<u8>>),
    range: ScanRange,
}

impl Wanted {
    fn holds(&self, place: &Place) -> bool {
        place.0 == self.space
            && self.groups.contains(&place.1)
            && self.only_group.is_none_or(|group| group == place.1)
            && match &self.prefix {
                Some(prefix) => place.2.starts_with(prefix),
                None => std::ops::RangeBounds::contains(&self.bounds, &place.2),
            }
    }

    fn check(&self, contents: &Contents, found: &[(Vec<u8>, Vec<u8>)]) {
        let mut expected: Vec<_> = contents.iter().filter(|(place, _)| self.holds(place)).collect();
        if self.range.is_reverse() {
            expected.reverse();
        }
        let same = expected.len() == found.len()
            && expected.iter().zip(found).all(|(expected, found)| expected.0.2 == found.0 && *expected.1 == found.1);
        if !same {
            let placed = |(key, value): &(Vec<u8>, Vec<u8>)| {
                ((self.space, self.keyspace.group_of(key).0, key.clone()), value.clone())
            };
            let expected = expected.into_iter().map(|(place, value)| (place.clone(), value.clone())).collect();
            assert_same(&expected, &found.iter().map(placed).collect(), &format!("a scan of {:?}", self.range));
            panic!("a scan of {:?} is out of order or has an entry twice", self.range);
        }
    }
}

/// Two bytes of partition part, and a suffix that is long now and then.
fn key_bytes(key: PlannedKey) -> Vec<u8> {
    let mut bytes = vec![b'p', key.part % PARTS];
    match key.suffix {
        0..240 => bytes.extend([key.suffix % 24; 1]),
        _ => bytes.resize(usize::from(key.suffix - 239) * 200, key.suffix),
    }
    bytes
}

/// A partition part that lies in a shard.
fn part_in(engine: &Engine, shard: usize) -> Vec<u8> {
    let parts = (0u64..).map(|number| number.to_le_bytes().to_vec());
    let mut found = parts.filter(|part| usize::from(engine.shard_of(part).0) == shard);
    found.next().expect("every shard has key groups")
}

/// Polls a future that nobody needs to be woken for.
fn poll_once<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
    match Pin::new(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}
