//! The volume is opened again, until it works: faults and more crashes keep it from that at first. Then what is there is compared with the oracle.

use std::collections::BTreeSet;

use siltstone::{Durability, Error, Restore, Result};
use siltstone_io::SimFaults;

use super::cells::CutState;
use super::excuses::Effect;
use super::oracle::Oracle;
use super::plan::Way;
use super::typed::{Recovered, State};
use super::world::{Found, World, read_all};
use crate::Node;

/// Crashes of one recovery, at most.
const RECOVERY_CRASHES_MAX: u32 = 3;
/// Openings that faults make fail, before they are turned off.
const FAILED_OPENINGS_MAX: u32 = 4;
/// How often a creation may have to begin anew, at most: without faults only after crashes.
const CREATIONS_MAX: u32 = FAILED_OPENINGS_MAX + RECOVERY_CRASHES_MAX;

impl World {
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
            // What has been open once is whole.
            self.created |= opened.is_ok();
            let compared = match opened {
                Ok(node) => self.compare_recovered(&node, way).map(|()| node).map_err(|error| (Effect::Read, error)),
                Err(error) => Err((Effect::Write, error)),
            };
            match compared {
                Ok(node) if !self.simulation.disk.crashed() => {
                    self.tally.borrow_mut().count("open");
                    return Some(node);
                }
                Ok(_) => {}
                Err((effect, error)) => {
                    self.tell(|| format!("opening failed: {error}"));
                    if !self.created && is_unfinished(&error) {
                        failed += 1;
                        assert!(failed <= CREATIONS_MAX, "the volume cannot be created: {error}");
                        self.create_anew(&error);
                        continue;
                    }
                    self.oracle.lock().judge(effect, "recovery", &error);
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

    /// A creation was cut short: garbage where the first superblock should be cannot be told from somebody else's data. There was nothing in it.
    ///
    /// # Panics
    /// When nothing has disturbed it.
    fn create_anew(&mut self, error: &Error) {
        let disturbed = self.interrupted || self.disk().crashed() || self.oracle.lock().excuses.has_faults();
        assert!(disturbed, "a creation fails that nothing has disturbed: {error}");
        self.tally.borrow_mut().count("creation begun anew");
        self.simulation.disk.truncate(0);
        self.power_cycle();
        self.interrupted = false;
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
                let (mut writes, cells, states, then_ms) = saved.unwrap_or_default();
                oracle.put_canary_in_checkpoint(&mut writes);
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
