//! What the clients of one life have in common: the engine, the oracle, and what is done of everything but one client's own keys.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::rc::Rc;

use siltstone::{Durability, Engine, Error, Keyspace, Result};

use super::excuses::Effect;
use super::oracle::SharedOracle;
use super::plan::{Contract, SPACES};
use super::tally::Tally;
use super::typed::{States, TypedPlan};

/// What all clients of one life share.
#[derive(Clone)]
pub(crate) struct Shift {
    pub(crate) engine: Engine,
    pub(crate) durability: Durability,
    pub(crate) retained: Option<usize>,
    pub(crate) oracle: SharedOracle,
    pub(crate) spaces: Rc<Vec<Keyspace>>,
    pub(crate) states: Option<States>,
    pub(crate) typed: TypedPlan,
    pub(crate) tally: Rc<RefCell<Tally>>,
    /// Whether a checkpoint is under way.
    pub(crate) checkpoint_busy: Rc<Cell<bool>>,
    /// Snapshots that shards keep for the test.
    pub(crate) snapshots: Rc<RefCell<Vec<HeldSnapshot>>>,
}

/// A partition part of the shard, and the snapshot's number.
type HeldSnapshot = ([u8; 2], u64);

impl Shift {
    pub(crate) fn new(
        engine: Engine,
        durability: Durability,
        retained: Option<usize>,
        typed: TypedPlan,
        oracle: SharedOracle,
        tally: Rc<RefCell<Tally>>,
    ) -> Result<Shift> {
        let spaces = SPACES.iter().map(|space| engine.keyspace(space.name)).collect::<Result<Vec<_>>>()?;
        let states = typed.bind(&engine)?;
        Ok(Shift {
            states,
            typed,
            engine,
            durability,
            retained,
            oracle,
            spaces: Rc::new(spaces),
            tally,
            checkpoint_busy: Rc::default(),
            snapshots: Rc::default(),
        })
    }

    /// The value of an operation that succeeded. One that failed must have been allowed to.
    pub(crate) fn seen<T>(&self, what: &'static str, result: Result<T>) -> Option<T> {
        let now_us = self.oracle.lock().excuses.now_us();
        self.seen_late(what, result, now_us)
    }

    /// The same of an operation that writes nothing, and so needs no shard that can.
    pub(crate) fn seen_read<T>(&self, what: &'static str, result: Result<T>) -> Option<T> {
        let now_us = self.oracle.lock().excuses.now_us();
        self.judged(Effect::Read, what, result, now_us)
    }

    /// The value of an operation that was sent at this moment, and whose end may have been heard of late.
    pub(crate) fn seen_late<T>(&self, what: &'static str, result: Result<T>, sent_us: u64) -> Option<T> {
        self.judged(Effect::Write, what, result, sent_us)
    }

    fn judged<T>(&self, effect: Effect, what: &'static str, result: Result<T>, sent_us: u64) -> Option<T> {
        let mut tally = self.tally.borrow_mut();
        match result {
            Ok(value) => {
                tally.count(what);
                Some(value)
            }
            Err(error) => {
                self.oracle.lock().judge_sent(effect, what, &error, sent_us);
                tally.count_failure(what, &error);
                None
            }
        }
    }

    pub(crate) fn acknowledges_durable(&self) -> bool {
        self.durability == Durability::Sync
    }

    pub(crate) fn has_log(&self) -> bool {
        self.durability != Durability::Checkpoint
    }

    /// Opens a barrier at once, unless a checkpoint is under way. The future waits for the checkpoint.
    pub(crate) fn checkpoint(&self) -> impl Future<Output = ()> + use<> {
        let shift = self.clone();
        let begun = (!shift.checkpoint_busy.replace(true)).then(|| {
            let name = {
                let mut oracle = shift.oracle.lock();
                let name = format!("checkpoint {}", oracle.next());
                oracle.barrier(name.clone(), shift.retained);
                name
            };
            let checkpoint = shift.engine.checkpoint(&name, name.clone().into_bytes());
            (name, checkpoint)
        });
        async move {
            let Some((name, checkpoint)) = begun else { return };
            let result = checkpoint.await;
            if let Err(Error::Busy(_)) = result {
                // One that failed for want of space is under way until there is space again. Then the barrier has not opened.
                let mut oracle = shift.oracle.lock();
                assert!(
                    oracle.excuses.lacked_space(oracle.excuses.now_us()),
                    "a checkpoint is refused where none is under way"
                );
                oracle.no_barrier();
            } else if let Some(info) = shift.seen("checkpoint", result) {
                assert_eq!((&info.name, &info.bytes[..]), (&name, name.as_bytes()));
                shift.oracle.lock().complete(shift.retained);
            }
            shift.checkpoint_busy.set(false);
        }
    }

    /// Closes the engine: where that succeeds, all that was answered is durable, also what was while it closed.
    pub(crate) async fn close(&self) {
        self.oracle.lock().excuses.closing = true;
        let closed = self.engine.close().await;
        if self.seen("close", closed).is_none() {
            return;
        }
        let mut oracle = self.oracle.lock();
        // Where each write waits to be durable, one that was applied may have failed, and closing promises nothing of it.
        let all_answered = oracle.contract == Contract::Crash || matches!(self.durability, Durability::Interval(_));
        if all_answered && self.has_log() {
            let applied = oracle.applied();
            oracle.acknowledge(applied);
        }
    }

    /// Raises the watermark of all shards.
    pub(crate) async fn tell_time(&self) {
        let now_ms = self.oracle.lock().now_ms;
        let told = self.engine.on_each_shard(move |shard| async move { shard.advance_watermark(now_ms) }).await;
        self.seen_read("on_each_shard", told);
    }
}
