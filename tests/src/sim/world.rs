//! One volume through several lives: open, compare, work, and an end; then a last life without faults, in which everything must work.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use futures_util::future::{FutureExt, join};
use siltstone::{Durability, Engine, Restore, Result, ScanRange};
use siltstone_io::{OpKind, Random};

use super::cells::CellId;
use super::clients::Clients;
use super::excuses::Excuses;
use super::journal::{WriteId, id_of};
use super::oracle::{Oracle, SharedOracle};
use super::plan::{CELL_SPACES, Contract, Plan, SPACES, Way};
use super::shift::Shift;
use super::tally::Tally;
use super::typed::{State, States, read_states};
use super::workload::{Client, collect};
use crate::{Node, Simulation};

/// The disk's capacity where it is not nearly full.
const ROOMY: u64 = 1 << 40;
/// How much later than its interval says a write may be on stable storage: the log is being written when it comes, and then its own turn takes
/// as long again. An operation takes 3 ms at most, where it does not stall.
const INTERVAL_SLACK_US: u64 = 50_000;

pub(crate) struct World {
    pub(super) plan: Plan,
    pub(super) simulation: Simulation,
    pub(super) random: Random,
    pub(super) oracle: SharedOracle,
    pub(super) tally: Rc<RefCell<Tally>>,
    lives: u32,
    /// Whether the volume has ever been opened: before that, its creation may have been cut short.
    pub(super) created: bool,
    /// Whether a process has ended since the disk was empty.
    pub(super) interrupted: bool,
    /// The device has lied about metadata, and the engine has written on top of that: not even the truth makes it whole any more.
    pub(super) lost: bool,
    /// Whether this is the last life.
    pub(super) finishing: bool,
}

/// Everything that is in the volume.
pub(super) struct Found {
    pub(super) checkpoints: Vec<String>,
    pub(super) journal: BTreeSet<WriteId>,
    pub(super) data: BTreeMap<Vec<u8>, Vec<u8>>,
    pub(super) cells: BTreeMap<CellId, Vec<u8>>,
    pub(super) typed: State,
}

impl World {
    pub(crate) fn new(plan: Plan, tally: Rc<RefCell<Tally>>) -> World {
        let simulation = Simulation::with(plan.seed, plan.device.clone(), plan.skip_chance);
        let (disk, clock) = (simulation.disk.clone(), simulation.clock.clone());
        let excuses = Excuses::new(plan.contract, disk, clock, plan.faults.stall_us.end);
        let oracle = SharedOracle::new(plan.contract, excuses);
        let random = Random::new(plan.seed ^ 0x77_6f72_6c64);
        oracle.lock().typed.ttl_ms = plan.typed.ttl_ms;
        oracle.lock().canary = plan.canary;
        World {
            plan,
            simulation,
            random,
            oracle,
            tally,
            lives: 0,
            created: false,
            interrupted: false,
            lost: false,
            finishing: false,
        }
    }

    /// The simulation itself; panics where something is not as it must be.
    pub(crate) fn play(&mut self) {
        for _ in 0..self.plan.lives {
            self.live();
        }
        if !self.lost {
            self.finish();
        }
    }

    /// What the disk has seen and done.
    pub(crate) fn disk(&self) -> &siltstone_io::SimDisk {
        &self.simulation.disk
    }

    /// One life: recovery, comparison, work, and an end.
    fn live(&mut self) {
        if self.lost {
            return;
        }
        self.lives += 1;
        let way = self.any_way();
        let Some(node) = self.recover(&way, true) else { return };
        self.tell(|| format!("life {} begins", self.lives));
        self.plan_crash();
        let shift = self.shift(&node, &way);
        let ended = self.work(&node, &shift);
        self.simulation.disk.set_capacity(ROOMY);
        self.tell(|| format!("work has ended: {ended}"));
        if ended && self.random.chance(0.5) && self.idle_past_interval(&node, &shift) {
            // What was acknowledged is on stable storage by itself.
            self.tally.borrow_mut().count("interval gone by");
        } else if ended && self.audit_at_rest(&node).is_ok() && self.random.chance(0.6) {
            self.close(&node, &shift);
        }
        if let Some(interval_us) = self.interval_us(&shift) {
            let now_us = self.simulation.clock.now_us();
            self.oracle.lock().intervals_over(now_us.saturating_sub(interval_us));
        }
        drop((shift, node));
        self.end_of_process();
    }

    /// Decides whether, and at which of the writes to come or just after which of the discards, the power fails.
    fn plan_crash(&mut self) {
        let most = [60, 600, 4000][self.random.below(3) as usize];
        let after = 1 + self.random.below(most);
        match self.random.below(10) {
            0..2 => self.simulation.disk.crash_at(None),
            2..4 => self.simulation.disk.crash_after_discard(1 + after / 20, self.random.below(3)),
            _ => self.simulation.disk.crash_at(Some(self.simulation.disk.write_ops() + after)),
        }
    }

    /// Rounds of many clients; whether the power lasted.
    fn work(&mut self, node: &Node, shift: &Shift) -> bool {
        for _ in 0..self.plan.rounds {
            let steps = self.plan.steps;
            self.fill_disk();
            if node.try_run(shift.tell_time()).is_err() || self.round(node, shift, steps).is_err() {
                return false;
            }
            if self.give_space_back(node).is_err() || self.compare(node, shift).is_err() {
                return false;
            }
            if self.let_time_pass(node, shift).is_err() {
                return false;
            }
        }
        true
    }

    /// Space comes back, and what waits for it goes on: often it gets all the time it needs, and then lack of space is no excuse any more.
    fn give_space_back(&mut self, node: &Node) -> std::result::Result<(), crate::Crashed> {
        self.simulation.disk.set_capacity(ROOMY);
        let (lacked, retried_us) = {
            let excuses = &self.oracle.lock().excuses;
            (excuses.lacked_space(excuses.now_us()), excuses.retried_us())
        };
        match lacked && self.random.chance(0.5) {
            true => node.idle(10 * retried_us),
            false => Ok(()),
        }
    }

    /// How long what was acknowledged at once takes at most until it is on stable storage, where that is promised and can be: on a sound disk
    /// that answers soon.
    fn interval_us(&self, shift: &Shift) -> Option<u64> {
        match shift.durability {
            Durability::Interval(interval)
                if self.plan.contract == Contract::Crash && self.plan.faults.stall_chance == 0.0 =>
            {
                Some(interval.as_micros() as u64 + INTERVAL_SLACK_US)
            }
            _ => None,
        }
    }

    /// Waits until what was acknowledged at once must be on stable storage, where that is promised; whether it was, and the power lasted.
    fn idle_past_interval(&self, node: &Node, shift: &Shift) -> bool {
        self.interval_us(shift).is_some_and(|interval_us| node.idle(interval_us + 1).is_ok())
    }

    /// Event time goes on, at times just behind a barrier: what was live at the cut may expire before it has been written out.
    fn let_time_pass(&mut self, node: &Node, shift: &Shift) -> std::result::Result<(), crate::Crashed> {
        if self.random.chance(0.2) {
            self.idle_past_interval(node, shift);
        }
        let checkpoint = self.random.chance(0.3).then(|| shift.checkpoint());
        if checkpoint.is_some() && self.random.chance(0.3) {
            self.fail_soon();
        }
        self.oracle.lock().now_ms += self.random.below(400);
        match checkpoint {
            Some(checkpoint) => node.try_run(join(shift.tell_time(), checkpoint)).map(drop),
            None => Ok(()),
        }
    }

    /// One of the next writes or flushes fails, where such faults are in the plan.
    fn fail_soon(&mut self) {
        let skip = self.random.below(10) as u32;
        if self.plan.faults.write_error_chance > 0.0 {
            self.simulation.disk.fail_after(OpKind::Write, skip, nix::libc::EIO);
        } else if self.plan.faults.flush_error_chance > 0.0 {
            self.simulation.disk.fail_after(OpKind::Flush, skip, nix::libc::EIO);
        }
    }

    pub(super) fn shift(&self, node: &Node, way: &Way) -> Shift {
        let (oracle, tally) = (self.oracle.clone(), Rc::clone(&self.tally));
        let shift = Shift::new(node.engine.clone(), way.durability, way.retained, self.plan.typed, oracle, tally);
        shift.unwrap_or_else(|error| panic!("the keyspaces are there: {error}"))
    }

    /// Now and then there is hardly any space left.
    fn fill_disk(&mut self) {
        if self.random.chance(self.plan.full_chance) {
            let extents_max = [3, 24][self.random.below(2) as usize];
            let room = self.random.below(extents_max) * self.plan.extent_bytes as u64;
            self.simulation.disk.set_capacity(self.disk().len_bytes() + room);
        }
    }

    pub(super) fn round(&mut self, node: &Node, shift: &Shift, steps: u32) -> std::result::Result<(), crate::Crashed> {
        let clients = self.clients(shift, steps);
        node.try_run(clients)
    }

    fn clients(&mut self, shift: &Shift, steps: u32) -> Clients {
        let mut clients = Clients::new(Random::new(self.random.next_u64()));
        for number in 0..self.plan.clients {
            let client = Client::new(shift.clone(), number as u8, Random::new(self.random.next_u64()));
            clients.add(client.run(steps));
        }
        clients
    }

    /// Closes the engine, often while clients are in the middle of their work, whose operations then end with that. The power may fail meanwhile,
    /// and what closing has still to write may find no space, or fail.
    fn close(&mut self, node: &Node, shift: &Shift) {
        let mut clients = Clients::new(Random::new(self.random.next_u64()));
        let (mut patience, mut last_work) = (0, None);
        // Most of all where much is acknowledged that is not written.
        let at_once = matches!(shift.durability, Durability::Interval(_));
        if self.random.chance(if at_once { 0.9 } else { 0.5 }) && node.try_run(shift.tell_time()).is_ok() {
            clients = self.clients(shift, self.plan.steps / 2);
            patience = self.random.below(60);
            // While who closes works, too, virtual time goes on.
            let last = Client::new(shift.clone(), self.plan.clients as u8, Random::new(self.random.next_u64()));
            last_work = match self.random.below(4) {
                0 => None,
                1 => Some(last.run(self.random.below(16) as u32).boxed_local()),
                _ => Some(last.write_much(self.random.below(50) as u32).boxed_local()),
            };
            if self.random.chance(0.4) {
                self.fill_disk();
                self.fail_soon();
            }
            self.tally.borrow_mut().count("closed under load");
        }
        let closer = shift.clone();
        clients.add(async move {
            for _ in 0..patience {
                let stats = closer.engine.stats_by_shard().await;
                closer.seen_read("stats", stats);
            }
            if let Some(work) = last_work {
                work.await;
            }
            closer.close().await;
        });
        let _ = node.try_run(clients);
        self.simulation.disk.set_capacity(ROOMY);
    }

    /// Between rounds nothing is in flight: everything is as the oracle says.
    pub(super) fn compare(&mut self, node: &Node, shift: &Shift) -> std::result::Result<(), crate::Crashed> {
        let now_ms = self.oracle.lock().now_ms;
        let found = node.try_run(read_all(&node.engine, shift.states.as_ref(), now_ms))?;
        if let Some(found) = shift.seen_read("read of everything", found) {
            self.check(&found);
        }
        Ok(())
    }

    /// What was found is what the oracle holds for true.
    pub(super) fn check(&self, found: &Found) {
        let mut oracle = self.oracle.lock();
        let visible = oracle.journal.visible();
        let missing: Vec<_> = visible.difference(&found.journal).collect();
        let extra: Vec<_> = found.journal.difference(&visible).collect();
        assert!(missing.is_empty() && extra.is_empty(), "the journal lacks {missing:?} and has too much: {extra:?}");
        assert!(found.data == *oracle.journal.current_data(), "the operators' data is not what they wrote");
        let now_ms = oracle.now_ms;
        let Oracle { journal, typed, .. } = &mut *oracle;
        let typed = typed.check_at_rest(journal, &found.typed, now_ms);
        assert!(typed.is_ok(), "typed state at rest: {typed:?}");
        for id in oracle.cells.ids() {
            let value = found.cells.get(&id).map(|value| &value[..]);
            let observed = oracle.cells.observe(&id, value, now_ms);
            assert!(observed.is_ok(), "cell {id:?} at rest: {observed:?}");
        }
        let whole = oracle.cells.visible_history().check_batches();
        assert!(whole.is_ok(), "cells at rest: {whole:?}");
        let strange: Vec<_> =
            found.cells.iter().filter(|(id, value)| !oracle.was_written(id, value)).map(|(id, _)| id).collect();
        assert!(strange.is_empty(), "cells {strange:?} are there that were never written");
    }

    pub(super) fn tell(&self, what: impl FnOnce() -> String) {
        if self.plan.verbose {
            eprintln!("{:>10} us, write {}: {}", self.simulation.clock.now_us(), self.disk().write_ops(), what());
        }
    }

    /// The process is gone: often the power with it, at times only the process. (Not where flushes have failed or lied: what only the cache holds
    /// then nobody can promise.)
    pub(super) fn end_of_process(&mut self) {
        self.interrupted = true;
        if !self.disk().crashed() && self.plan.contract == Contract::Crash && self.random.chance(0.3) {
            self.tally.borrow_mut().count("process killed");
            self.simulation.disk.crash_at(None);
            self.simulation.disk.kill();
        } else {
            self.power_cycle();
        }
    }

    pub(super) fn power_cycle(&mut self) {
        self.simulation.disk.crash();
        self.simulation.disk.restart();
    }

    pub(super) fn any_way(&mut self) -> Way {
        let durability = Plan::any_durability(&mut self.random);
        let oracle = self.oracle.lock();
        let names: Vec<&String> =
            oracle.checkpoints.iter().filter(|saved| !saved.doomed).map(|saved| &saved.name).collect();
        let restore = match self.random.below(10) {
            0 => Restore::LastCheckpoint,
            1 if !names.is_empty() => {
                Restore::Checkpoint(names[self.random.below(names.len() as u64) as usize].clone())
            }
            _ => Restore::Latest,
        };
        let retained = self.random.chance(0.3).then(|| 1 + self.random.below(3) as usize);
        Way { durability, restore, retained }
    }
}

/// Reads all keyspaces, with the checkpoints' names left empty.
pub(super) async fn read_all(engine: &Engine, states: Option<&States>, now_ms: u64) -> Result<Found> {
    let read = async |name: &str| collect(engine, &engine.keyspace(name)?, ScanRange::all()).await;
    let journal = read("journal").await?.iter().map(|(key, _)| id_of(key)).collect();
    let data = read("data").await?.into_iter().collect();
    let mut cells = BTreeMap::new();
    for space in CELL_SPACES {
        for (key, value) in read(SPACES[space].name).await? {
            cells.insert((space, key), value);
        }
    }
    let typed = match states {
        Some(states) => read_states(engine, states, now_ms).await?,
        None => State::default(),
    };
    Ok(Found { checkpoints: Vec::new(), journal, data, cells, typed })
}
