//! One volume through several lives: open, compare, work, and an end; then a last life without faults, in which everything must work.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use futures_util::future::join;
use siltstone::{Durability, Engine, Error, Restore, Result, ScanRange};
use siltstone_io::{OpKind, Random, SimFaults};

use super::cells::{CellId, CutState};
use super::clients::Clients;
use super::excuses::Excuses;
use super::journal::{WriteId, id_of};
use super::oracle::{Oracle, SharedOracle};
use super::plan::{CELL_SPACES, Contract, Plan, SPACES, Way};
use super::tally::Tally;
use super::typed::{Recovered, State, States, read_states};
use super::workload::{Client, Shift, collect};
use crate::{Node, Simulation};

/// Crashes of one recovery, at most.
const RECOVERY_CRASHES_MAX: u32 = 3;
/// Openings that faults make fail, before they are turned off.
const FAILED_OPENINGS_MAX: u32 = 4;

/// The disk's capacity where it is not nearly full.
const ROOMY: u64 = 1 << 40;

pub(crate) struct World {
    pub(super) plan: Plan,
    pub(super) simulation: Simulation,
    pub(super) random: Random,
    pub(super) oracle: SharedOracle,
    pub(super) tally: Rc<RefCell<Tally>>,
    lives: u32,
    /// Whether the volume has ever been opened: before that, its creation may have been cut short.
    created: bool,
    /// The device has lied about metadata, and the engine has written on top of that: not even the truth makes it whole any more.
    lost: bool,
    /// Whether this is the last life.
    pub(super) finishing: bool,
}

/// Everything that is in the volume.
pub(super) struct Found {
    checkpoints: Vec<String>,
    pub(super) journal: BTreeSet<WriteId>,
    data: BTreeMap<Vec<u8>, Vec<u8>>,
    pub(super) cells: BTreeMap<CellId, Vec<u8>>,
    typed: State,
}

impl World {
    pub(crate) fn new(plan: Plan, tally: Rc<RefCell<Tally>>) -> World {
        let simulation = Simulation::with(plan.seed, plan.device.clone(), plan.skip_chance);
        let (disk, clock) = (simulation.disk.clone(), simulation.clock.clone());
        let excuses = Excuses::new(plan.contract, disk, clock, plan.faults.stall_us.end);
        let oracle = SharedOracle::new(plan.contract, excuses);
        let random = Random::new(plan.seed ^ 0x77_6f72_6c64);
        oracle.lock().typed.ttl_ms = plan.typed.ttl_ms;
        World { plan, simulation, random, oracle, tally, lives: 0, created: false, lost: false, finishing: false }
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
        if ended && self.audit_at_rest(&node).is_ok() && self.random.chance(0.6) {
            self.close(&node, &shift);
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
            // Space comes back, and what waits for it goes on.
            self.simulation.disk.set_capacity(ROOMY);
            if self.compare(node, shift).is_err() {
                return false;
            }
            if self.let_time_pass(node, shift).is_err() {
                return false;
            }
        }
        true
    }

    /// Event time goes on, at times just behind a barrier: what was live at the cut may expire before it has been written out.
    fn let_time_pass(&mut self, node: &Node, shift: &Shift) -> std::result::Result<(), crate::Crashed> {
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

    /// Closes the engine, often while clients are in the middle of their work, whose operations then end with that. The power may fail meanwhile.
    fn close(&mut self, node: &Node, shift: &Shift) {
        let mut clients = Clients::new(Random::new(self.random.next_u64()));
        let mut patience = 0;
        if self.random.chance(0.5) && node.try_run(shift.tell_time()).is_ok() {
            clients = self.clients(shift, self.plan.steps / 2);
            patience = self.random.below(60);
            self.tally.borrow_mut().count("closed under load");
        }
        let closer = shift.clone();
        clients.add(async move {
            for _ in 0..patience {
                let stats = closer.engine.stats_by_shard().await;
                closer.seen("stats", stats);
            }
            closer.close().await;
        });
        let _ = node.try_run(clients);
    }

    /// Between rounds nothing is in flight: everything is as the oracle says.
    pub(super) fn compare(&mut self, node: &Node, shift: &Shift) -> std::result::Result<(), crate::Crashed> {
        let now_ms = self.oracle.lock().now_ms;
        let found = node.try_run(read_all(&node.engine, shift.states.as_ref(), now_ms))?;
        if let Some(found) = shift.seen("read of everything", found) {
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

    fn tell(&self, what: impl FnOnce() -> String) {
        if self.plan.verbose {
            eprintln!("{:>10} us, write {}: {}", self.simulation.clock.now_us(), self.disk().write_ops(), what());
        }
    }

    /// The process is gone: often the power with it, at times only the process. (Not where flushes have failed or lied: what only the cache holds
    /// then nobody can promise.)
    fn end_of_process(&mut self) {
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

    /// Opens until it works, and compares what is there. Faults that keep it from opening are turned off after a while: then nothing
    /// may be missing.
    pub(super) fn recover(&mut self, way: &Way, may_fail: bool) -> Option<Node> {
        let mut failed = 0;
        for attempt in 0.. {
            let faulty = may_fail && failed < FAILED_OPENINGS_MAX;
            self.simulation.disk.set_faults(if faulty { self.plan.faults.clone() } else { SimFaults::default() });
            if !faulty {
                self.simulation.disk.heal();
            }
            if may_fail && attempt < RECOVERY_CRASHES_MAX && self.random.chance(0.4) {
                let after = self.random.below(60);
                self.simulation.disk.crash_at(Some(self.simulation.disk.write_ops() + 1 + after));
            }
            let options = self.plan.options(self.simulation.options(), way, &mut self.random);
            {
                let mut oracle = self.oracle.lock();
                oracle.excuses.begin_life();
                oracle.excuses.before_opening();
            }
            self.tell(|| format!("opening, attempt {attempt}, faults {faulty}, {way:?}, {options:?}"));
            let opened = self.simulation.open(options);
            match opened.and_then(|node| self.compare_recovered(&node, way).map(|()| node)) {
                Ok(node) if !self.simulation.disk.crashed() => {
                    self.tally.borrow_mut().count("open");
                    self.created = true;
                    return Some(node);
                }
                Ok(_) => {}
                Err(error) => {
                    self.tell(|| format!("opening failed: {error}"));
                    if !self.created && is_unfinished(&error) {
                        // Garbage where the first superblock should be cannot be told from somebody else's data. There was nothing in it.
                        self.tally.borrow_mut().count("creation begun anew");
                        self.simulation.disk.truncate(0);
                        self.power_cycle();
                        continue;
                    }
                    self.oracle.lock().judge("recovery", &error);
                    self.tally.borrow_mut().count_failure("open", &error);
                    if !self.simulation.disk.crashed() {
                        if !faulty && self.oracle.lock().excuses.metadata_was_damaged {
                            self.tally.borrow_mut().count("volume lost to stale metadata");
                            self.lost = true;
                            return None;
                        }
                        assert!(faulty, "recovery fails without a fault: {error}");
                        failed += 1;
                    }
                }
            }
            self.end_of_process();
        }
        unreachable!("the loop has no end")
    }

    /// Reads everything and compares it with the oracle; then a new run begins on it. Fails where the power does, or the device.
    fn compare_recovered(&mut self, node: &Node, way: &Way) -> Result<()> {
        let now_ms = self.oracle.lock().now_ms;
        let read = async {
            let names = node.engine.checkpoints().await?.into_iter().map(|info| info.name).collect::<Vec<_>>();
            let states = self.plan.typed.bind(&node.engine)?;
            let mut found = read_all(&node.engine, states.as_ref(), now_ms).await?;
            found.checkpoints = names;
            Ok::<_, Error>(found)
        };
        let Ok(found) = node.try_run(read) else { return Err(Error::Closed) };
        let found = found?;
        let lower_bound = {
            let mut oracle = self.oracle.lock();
            oracle.excuses.before_opening();
            !oracle.excuses.log_was_damaged
        };
        let is_latest = way.restore == Restore::Latest && way.durability != Durability::Checkpoint;
        if lower_bound && is_latest && !self.disk().crashed() {
            self.put_canary_in_recovery(&found);
        }
        let mut oracle = self.oracle.lock();
        if lower_bound {
            oracle.found_checkpoints(&found.checkpoints);
        } else {
            oracle.found_some_checkpoints(&found.checkpoints);
        }
        let restored = node.engine.restored().map(|info| info.name.clone());
        let exact = match (&way.restore, way.durability) {
            (Restore::Checkpoint(name), _) => Some(Some(name.clone())),
            (Restore::LastCheckpoint, _) | (_, Durability::Checkpoint) => Some(found.checkpoints.last().cloned()),
            _ => None,
        };
        let now_ms = oracle.now_ms;
        let typed;
        let (allowed, expired_ms): (CutState, u64) = match &exact {
            Some(name) => {
                assert_eq!(restored, *name, "the opening landed on another checkpoint");
                let saved = oracle.checkpoints.iter().find(|saved| Some(&saved.name) == name.as_ref());
                let saved =
                    saved.map(|saved| (saved.writes.clone(), saved.cells.clone(), saved.typed.clone(), saved.now_ms));
                let (writes, cells, states, then_ms) = saved.unwrap_or_default();
                oracle.journal.check_exact(&found.journal, &oracle.journal.with_entries(&writes));
                let fits = states.check_exact(&found.typed, now_ms);
                assert!(fits.is_ok(), "typed state of a checkpoint: {fits:?}");
                typed = states;
                (cells, then_ms)
            }
            None => {
                typed = self.compare_recovered_writes(&oracle, &found, lower_bound);
                let created = node.engine.keyspaces();
                let missing: Vec<_> = oracle.created.iter().filter(|name| !created.contains(name)).collect();
                assert!(missing.is_empty() || !lower_bound, "keyspaces {missing:?} were created and are gone");
                let history = oracle.cells.recovered_history(&found.cells, now_ms, lower_bound);
                let whole = history.check_batches();
                assert!(whole.is_ok(), "cells that were recovered: {whole:?}");
                (oracle.cells.allowed_after_recovery(lower_bound), now_ms)
            }
        };
        oracle.created = node.engine.keyspaces().into_iter().filter(|name| name.starts_with("created")).collect();
        let replayed = oracle.journal.replay(&found.journal);
        assert!(found.data.keys().eq(replayed.keys()), "keys differ from those of the recovered writes");
        let differing = found.data.iter().find(|(key, value)| replayed[*key] != **value);
        assert!(differing.is_none(), "the value of {:?} is not the recovered writes'", differing.map(|entry| entry.0));
        let recovered = oracle.cells.recover(&allowed, &found.cells, expired_ms);
        assert!(recovered.is_ok(), "{recovered:?}");
        oracle.journal.begin_run(found.journal, node.engine.shards());
        oracle.typed.begin_run(typed);
        oracle.excuses.compared();
        Ok(())
    }

    /// The operators' writes in the latest state, with and without entries of their own. What there is of typed state.
    fn compare_recovered_writes(&self, oracle: &Oracle, found: &Found, lower_bound: bool) -> State {
        if !lower_bound {
            oracle.journal.check_recovered(&found.journal, &BTreeSet::new(), false);
            let adopted = oracle.typed.adopt(&found.typed);
            return adopted.unwrap_or_else(|reason| panic!("typed state: {reason}"));
        }
        let recovered = oracle.typed.recover(&oracle.journal, &found.journal, &found.typed, oracle.now_ms);
        let Recovered { writes, unsure, state } =
            recovered.unwrap_or_else(|reason| panic!("typed state that was recovered: {reason}"));
        let writes = writes.union(&found.journal).copied().collect();
        oracle.journal.check_recovered(&writes, &unsure, true);
        let mut history = oracle.cells.recovered_history(&found.cells, oracle.now_ms, true);
        oracle.journal.tell(&writes, &unsure, &mut history);
        let ordered = history.check_order();
        assert!(ordered.is_ok(), "a shard's writes were recovered out of order: {ordered:?}");
        state
    }
}

/// Whether an opening refuses what a creation may have left when it was cut short.
fn is_unfinished(error: &Error) -> bool {
    match error {
        Error::Corruption(corruption) => corruption.structure == "superblock",
        Error::NotAVolume { .. } => true,
        _ => false,
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
