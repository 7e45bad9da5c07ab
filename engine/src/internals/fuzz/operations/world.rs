//! The steps that change something; those that only read are in [`super::reads`].

use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use siltstone_io::{SimClock, SimDisk, SimFaults, SimOptions};

use super::machine::Machine;
use super::model::{Cell, Model, Place, Saved, Write};
use super::plan::{Change, PlannedKey, Setup, Step, Way};
use super::reads::Held;
use crate::testing::Crashed;
use crate::{CheckpointInfo, Durability, Engine, Keyspace, Result, WriteBatch};

/// The keyspaces: name, bytes of the key that are its partition part (none: all), time to live.
pub(super) const SPACES: [(&str, Option<u16>, Option<u64>); 3] =
    [("whole", None, None), ("parts", Some(2), None), ("timed", Some(2), Some(700))];
/// Keys that one partition part can have are many; partition parts are few.
const PARTS: u8 = 8;
const CHECKPOINTS_MAX: usize = 6;

pub(super) type Done = std::result::Result<(), Crashed>;
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
    pub(super) snapshots: Vec<Held>,
    /// Numbers values, names, snapshots.
    pub(super) counter: u64,
}

impl World {
    pub(super) fn create(setup: &Setup) -> Self {
        let options = SimOptions {
            volatile_cache: !setup.write_through,
            logical_block_bytes: if setup.small_blocks { 512 } else { 4096 },
            ..SimOptions::default()
        };
        let seed = u64::from(setup.seed);
        let disk = SimDisk::new(seed, options);
        disk.set_faults(SimFaults {
            short_transfer_chance: if setup.short_transfers { 0.05 } else { 0.0 },
            again_chance: if setup.refusals { 0.02 } else { 0.0 },
            ..SimFaults::default()
        });
        let mut world = World {
            machine: Machine::new(disk, SimClock::new(), seed),
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
    pub(super) fn settle_those(&mut self, wanted: impl Fn(&Write) -> bool) -> Done {
        while let Some(index) = self.in_flight.iter().position(|write| wanted(&write.write)) {
            let last = self.in_flight.len() - 1;
            self.in_flight.swap(index, last);
            self.settle_last()?;
        }
        Ok(())
    }

    pub(super) fn settle(&mut self) -> Done {
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

    pub(super) fn keyspace(&self, space: usize) -> Keyspace {
        self.machine.engine().keyspace(SPACES[space].0).expect("the keyspace is there")
    }

    pub(super) fn place(&self, key: PlannedKey) -> (Place, Keyspace) {
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
}

/// Two bytes of partition part, and a suffix that is long now and then.
pub(super) fn key_bytes(key: PlannedKey) -> Vec<u8> {
    let mut bytes = vec![b'p', key.part % PARTS];
    match key.suffix {
        0..240 => bytes.push(key.suffix % 24),
        _ => bytes.resize(usize::from(key.suffix - 239) * 200, key.suffix),
    }
    bytes
}

/// Polls a future that nobody needs to be woken for.
fn poll_once<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
    match Pin::new(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}
