//! Siltstone: one shard, driven on the thread of the benchmark.
//!
//! No log (`Durability::Checkpoint`, as its peers run without theirs); everything else as it comes. Closing takes a checkpoint, which
//! the next opening lands on. Operations in flight are as many loops side by side, each of which has one operation under way; where
//! two loops pick one key, the later waits for the earlier.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::future::{Future, poll_fn};
use std::path::Path;
use std::task::{Poll, Waker};

use futures_util::stream::{FuturesUnordered, StreamExt};
use siltstone::{
    Durability, Engine as SiltstoneEngine, Keyspace, KeyspaceOptions, LocalShard, Options, Partition, ScanRange,
    ShardDriver,
};
use siltstone_io::{Budget, Turn};

use crate::Result;
use crate::engines::{Drive, Engine, EngineConfig, unsupported};
use crate::measure::{Recorder, now};
use crate::workload::{Gets, KeyShape, Load, Rmw, Scans};

pub(crate) struct Siltstone {
    engine: SiltstoneEngine,
    keyspace: Keyspace,
    driver: ShardDriver,
}

impl Siltstone {
    pub(crate) fn open(dir: &Path, config: &EngineConfig) -> Result<Self> {
        const NAME: &str = "bench";
        let partition = match config.key_shape {
            KeyShape::Point => Partition::WholeKey,
            KeyShape::Map => Partition::Prefix(8),
        };
        let options = Options::at(dir)
            .shards(1)
            .memory(config.memory_bytes as usize)
            .durability(Durability::Checkpoint)
            .checkpoints_retained(1)
            .keyspace(NAME, KeyspaceOptions::default().partition(partition));
        let (engine, mut seeds) = SiltstoneEngine::open_driven(options)?;
        let driver = seeds.remove(0).start()?;
        let keyspace = engine.keyspace(NAME)?;
        Ok(Siltstone { engine, keyspace, driver })
    }
}

impl Engine for Siltstone {
    fn load(&mut self, load: &Load, recorder: &mut Recorder) -> Result<()> {
        let (shard, keyspace) = (self.driver.local(), &self.keyspace);
        self.driver.block_on(async {
            let mut value = Vec::new();
            for index in load.indexes() {
                let key = load.space.key(index);
                load.values.fill(index, 0, &mut value);
                let start = now();
                shard.put(keyspace, &key, &value).await?;
                recorder.record(start);
            }
            Ok(())
        })
    }

    fn settle(&mut self) -> Result<()> {
        let shard = self.driver.local();
        self.driver.block_on(async {
            shard.flush().await?;
            Ok(shard.compact().await?)
        })
    }

    fn get(&mut self, gets: &Gets, drive: Drive, recorder: &mut Recorder) -> Result<()> {
        let run = Run { shard: self.driver.local(), keyspace: &self.keyspace, recorder: RefCell::new(recorder) };
        let next = Picks::new(gets.picks());
        self.driver.block_on(in_flight(drive, async || {
            while let Some(index) = next.take() {
                let (key, start) = (gets.space.key(index), now());
                gets.check(index, run.shard.get(run.keyspace, &key).await?.as_deref())?;
                run.recorder.borrow_mut().record(start);
            }
            Ok(())
        }))
    }

    fn rmw(&mut self, rmw: &Rmw<'_>, drive: Drive, recorder: &mut Recorder) -> Result<()> {
        let run = Run { shard: self.driver.local(), keyspace: &self.keyspace, recorder: RefCell::new(recorder) };
        let (next, turns) = (Picks::new(rmw.picks()), KeyTurns::default());
        self.driver.block_on(in_flight(drive, async || {
            let mut value = Vec::new();
            while let Some(index) = next.take() {
                let (key, start) = (rmw.space.key(index), now());
                let turn = turns.of(index).await;
                rmw.update(index, run.shard.get(run.keyspace, &key).await?.as_deref(), &mut value)?;
                run.shard.put(run.keyspace, &key, &value).await?;
                drop(turn);
                run.recorder.borrow_mut().record(start);
            }
            Ok(())
        }))
    }

    fn prefix_scan(&mut self, scans: &Scans, drive: Drive, recorder: &mut Recorder) -> Result<()> {
        let run = Run { shard: self.driver.local(), keyspace: &self.keyspace, recorder: RefCell::new(recorder) };
        let next = Picks::new(scans.picks());
        self.driver.block_on(in_flight(drive, async || {
            while let Some(user) = next.take() {
                let (prefix, start) = (scans.space.user(user), now());
                let mut check = scans.check(user);
                let mut entries = run.shard.scan(run.keyspace, ScanRange::prefix(prefix))?;
                while let Some(entry) = entries.next().await? {
                    check.entry(entry.key, entry.value)?;
                }
                check.end()?;
                run.recorder.borrow_mut().record(start);
            }
            Ok(())
        }))
    }

    fn close(self: Box<Self>) -> Result<()> {
        let Siltstone { engine, keyspace, mut driver } = *self;
        driver.block_on(engine.checkpoint("closed", Vec::new()))?;
        drop((keyspace, engine));
        // The last handle is gone: the shard ends.
        let budget = Budget { park_follows: true, ..Budget::default() };
        while !driver.is_closed() {
            if driver.turn(&budget) != Turn::Progress {
                driver.park(None);
            }
        }
        Ok(())
    }
}

/// What the loops of a run share.
struct Run<'r> {
    shard: LocalShard,
    keyspace: &'r Keyspace,
    recorder: RefCell<&'r mut Recorder>,
}

/// Runs as many loops side by side as operations are to be in flight, up to the first error.
async fn in_flight<F: Future<Output = Result<()>>>(drive: Drive, worker: impl Fn() -> F) -> Result<()> {
    match drive {
        Drive::Blocking => worker().await,
        Drive::InFlight(depth) => {
            let mut workers: FuturesUnordered<F> = (0..depth).map(|_| worker()).collect();
            while let Some(outcome) = workers.next().await {
                outcome?;
            }
            Ok(())
        }
        Drive::Batch(_) | Drive::Threads(_) => unsupported(drive),
    }
}

/// The picks of a run, handed out one by one.
struct Picks<'p> {
    picks: &'p [u32],
    next: Cell<usize>,
}

impl<'p> Picks<'p> {
    fn new(lists: &'p [Vec<u32>]) -> Self {
        assert!(lists.len() <= 1, "the run is split for threads");
        Picks { picks: lists.first().map_or(&[], Vec::as_slice), next: Cell::new(0) }
    }

    #[inline]
    fn take(&self) -> Option<u32> {
        let next = self.next.get();
        self.next.set(next + 1);
        self.picks.get(next).copied()
    }
}

/// Lets one operation of each key run at a time. Those that wait for a key are alike, so it does not matter which goes first.
#[derive(Default)]
struct KeyTurns {
    busy: RefCell<HashSet<u32>>,
    waiting: RefCell<Vec<(u32, Waker)>>,
}

struct KeyTurn<'t> {
    turns: &'t KeyTurns,
    index: u32,
}

impl KeyTurns {
    fn of(&self, index: u32) -> impl Future<Output = KeyTurn<'_>> {
        poll_fn(move |context| {
            if self.busy.borrow_mut().insert(index) {
                return Poll::Ready(KeyTurn { turns: self, index });
            }
            self.waiting.borrow_mut().push((index, context.waker().clone()));
            Poll::Pending
        })
    }
}

impl Drop for KeyTurn<'_> {
    fn drop(&mut self) {
        self.turns.busy.borrow_mut().remove(&self.index);
        let mut waiting = self.turns.waiting.borrow_mut();
        if let Some(at) = waiting.iter().position(|(index, _)| *index == self.index) {
            waiting.swap_remove(at).1.wake();
        }
    }
}
