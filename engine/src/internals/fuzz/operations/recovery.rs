//! Opening: until it works, whatever fails in between, and then the check of what is there.

use std::time::Duration;

use super::model::{Contents, Saved, State, assert_same, live};
use super::plan::Way;
use super::world::{SPACES, World};
use crate::testing::Crashed;
use crate::{Durability, KeyspaceOptions, Options, Partition, Restore, TimeDomain, Ttl};

/// The most shards.
const SHARDS_MAX: u8 = 4;

impl World {
    /// Opens the volume this way, after it was closed or after the power has failed, and makes the model what is found there.
    ///
    /// # Panics
    /// Where what is found may not be there, or something is missing.
    pub(super) fn recover(&mut self, way: &Way, closed: bool) {
        let had_log = self.durability != Durability::Checkpoint;
        let durability = match way.mode % 4 {
            0..2 => Durability::Sync,
            2 => Durability::Interval(Duration::from_micros(1 + u64::from(way.mode) * 40)),
            _ => Durability::Checkpoint,
        };
        let restore = self.restore(way.restore);
        if !closed {
            self.machine.power_cycle();
        }
        self.durability = durability;
        for after in way.crashes.iter().copied().map(u64::from).chain([0]) {
            let planned = (after > 0).then(|| self.machine.disk.write_ops() + after);
            self.machine.disk.crash_at(planned);
            let options = self.options(way, restore.clone());
            match self.machine.open(options) {
                Ok(()) => {
                    if self.check(&restore, closed && had_log) == Ok(()) {
                        // A failure that has not come is for later steps.
                        return;
                    }
                }
                Err(error) => {
                    assert!(self.machine.disk.crashed(), "recovery fails: {error}");
                    assert!(!error.is_corruption(), "a crash looks like damage: {error}");
                }
            }
            self.machine.power_cycle();
        }
        unreachable!("nothing keeps the last attempt from its end");
    }

    fn restore(&self, choice: u8) -> Restore {
        // One that is being dropped may be gone.
        let named = self.model.checkpoints.iter().filter(|saved| Some(&saved.name) != self.dropping.as_ref());
        let named: Vec<&Saved> = named.collect();
        match choice {
            0..24 => Restore::LastCheckpoint,
            24..64 if !named.is_empty() => Restore::Checkpoint(named[usize::from(choice) % named.len()].name.clone()),
            _ => Restore::Latest,
        }
    }

    fn options(&self, way: &Way, restore: Restore) -> Options {
        let shards = 1 + usize::from(way.shards % SHARDS_MAX);
        let options = self
            .machine
            .options()
            .shards(shards)
            .key_groups(self.key_groups)
            .memory(shards * (4 << 20))
            .memtable_bytes(16 << 10)
            .extent_bytes(64 << 10)
            .table_bytes(32 << 10)
            .capacity(1 << 30)
            .durability(self.durability)
            .restore(restore);
        SPACES.iter().fold(options, |options, (name, prefix, ttl_ms)| {
            let mut keyspace = KeyspaceOptions::default().filter_bits_per_key(if prefix.is_some() { 10 } else { 0 });
            if let Some(bytes) = prefix {
                keyspace = keyspace.partition(Partition::Prefix(*bytes));
            }
            if let Some(duration_ms) = *ttl_ms {
                keyspace = keyspace.ttl(Ttl { duration_ms, time: TimeDomain::Event });
            }
            options.keyspace(*name, keyspace)
        })
    }

    /// Reads everything, explains it, and begins a new life of the model on it. Changes nothing where the power fails.
    fn check(&mut self, restore: &Restore, all_acknowledged: bool) -> Result<(), Crashed> {
        self.tell_time()?;
        let engine = self.engine();
        let names: Vec<String> = self.must(engine.checkpoints())?.into_iter().map(|info| info.name).collect();
        let found = self.read_all()?;
        let checkpoints = self.explain_checkpoints(&names);
        let landed_on = match restore {
            Restore::Checkpoint(name) => Some(Some(name.clone())),
            Restore::LastCheckpoint => Some(names.last().cloned()),
            Restore::Latest if self.durability == Durability::Checkpoint => Some(names.last().cloned()),
            Restore::Latest => None,
        };
        let restored = engine.restored().map(|info| info.name.clone());
        assert_eq!(restored, landed_on.clone().flatten(), "the opening says on which checkpoint it landed");
        let state = match landed_on {
            Some(name) => self.explain_landing(&checkpoints, name.as_deref(), &found),
            None => {
                let in_flight: Vec<_> = self.in_flight.iter().map(|in_flight| in_flight.write.clone()).collect();
                self.model.explain(&found, &in_flight, all_acknowledged, self.now_ms)
            }
        };
        self.model.begin(state, engine.shards());
        self.model.checkpoints = checkpoints;
        self.in_flight.clear();
        self.pending = None;
        self.dropping = None;
        Ok(())
    }

    /// All that were complete are there, in order; one that was under way may be, and one that was being dropped.
    fn explain_checkpoints(&self, names: &[String]) -> Vec<Saved> {
        let pending = self.pending.as_ref().map(|pending| &pending.saved);
        let known: Vec<Saved> = self.model.checkpoints.iter().chain(pending).cloned().collect();
        let optional = [pending.map(|saved| &saved.name), self.dropping.as_ref()];
        let there: Vec<Saved> = known
            .into_iter()
            .filter(|saved| !optional.contains(&Some(&saved.name)) || names.contains(&saved.name))
            .collect();
        let expected: Vec<&String> = there.iter().map(|saved| &saved.name).collect();
        assert!(names.iter().eq(expected.iter().copied()), "checkpoints {names:?} were found, not {expected:?}");
        there
    }

    fn explain_landing(&self, checkpoints: &[Saved], name: Option<&str>, found: &Contents) -> State {
        let saved = checkpoints.iter().find(|saved| Some(&saved.name[..]) == name);
        let state = saved.map(|saved| saved.state.clone()).unwrap_or_default();
        assert_same(&live(&state, self.now_ms), found, &format!("restored {name:?}"));
        state
    }
}
