//! Workloads that mark in the trace of their engine what they did and what they were promised.

use std::future::{Future, poll_fn};
use std::path::Path;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use siltstone::{Durability, Engine, Keyspace, LocalShard, Options, Result, WriteBatch};
use siltstone_io::{Random, testing::Recorder};

use super::marks::{self, Change};
use super::recover::{KEYSPACE, settings};

/// Writes in flight at once.
const IN_FLIGHT_MAX: u64 = 16;
/// After how many writes all of them are awaited, and something else is done.
const ROUND: u64 = 50;

/// Writes to an engine, and says so in its trace.
pub(super) struct Client {
    engine: Engine,
    recorder: Recorder,
    data: Keyspace,
    mode: Mode,
    state: Arc<Mutex<State>>,
    batches: AtomicU64,
    checkpoints: AtomicU64,
}

/// What makes a workload's writes durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// They are when they are acknowledged.
    Sync,
    /// Only syncing and flushing do: the interval never ends.
    Interval,
    /// Only a checkpoint does: there is no log.
    Checkpoint,
}

impl Mode {
    /// All of them.
    pub const ALL: [Mode; 3] = [Mode::Sync, Mode::Interval, Mode::Checkpoint];

    /// As in the text of a workload.
    pub fn name(self) -> &'static str {
        match self {
            Mode::Sync => "sync",
            Mode::Interval => "interval",
            Mode::Checkpoint => "checkpoint",
        }
    }

    pub(super) fn durability(self) -> Durability {
        match self {
            Mode::Sync => Durability::Sync,
            Mode::Interval => Durability::Interval(Duration::from_secs(3600)),
            Mode::Checkpoint => Durability::Checkpoint,
        }
    }
}

/// What was applied and is not marked as durable yet.
#[derive(Default)]
struct State {
    volatile: Vec<u64>,
}

impl Client {
    /// Marks the beginning, before the engine is opened.
    pub(super) fn begin(recorder: &Recorder, shards: usize, mode: Mode, seed: u64, name: &str) {
        recorder.mark(marks::BEGIN, [shards as u64, seed], name.as_bytes());
        if mode == Mode::Checkpoint {
            recorder.mark(marks::WITHOUT_LOG, [0, 0], &[]);
        }
    }

    pub(super) fn new(engine: Engine, recorder: Recorder, mode: Mode) -> Result<Client> {
        let data = engine.keyspace(KEYSPACE)?;
        let (batches, checkpoints) = (AtomicU64::new(0), AtomicU64::new(0));
        Ok(Client { engine, recorder, data, mode, state: Arc::default(), batches, checkpoints })
    }

    /// A partition part that this shard owns.
    pub(super) fn part_in(&self, shard: usize) -> [u8; 2] {
        let part =
            (0..=u8::MAX).map(|byte| [b'p', byte]).find(|part| usize::from(self.engine.shard_of(part).0) == shard);
        part.unwrap_or_else(|| unreachable!("each shard owns some key groups"))
    }

    /// Writes a batch; its keys begin with the part.
    pub(super) fn write(&self, part: [u8; 2], changes: Vec<Change>) -> impl Future<Output = Result<()>> + use<> {
        let number = self.batches.fetch_add(1, Ordering::SeqCst);
        let (recorder, data, state) = (self.recorder.clone(), self.data.clone(), Arc::clone(&self.state));
        let sync = self.mode == Mode::Sync;
        let operator = async move |shard: LocalShard| {
            let mut batch = WriteBatch::new();
            for (key, value) in &changes {
                match value {
                    Some(value) => batch.put(&data, key, value),
                    None => batch.delete(&data, key),
                };
            }
            let words = [number, u64::from(shard.shard_id().0)];
            let applied = || {
                recorder.mark(marks::APPLIED, words, &marks::changes(&changes));
                if !sync {
                    lock(&state).volatile.push(number);
                }
            };
            when_applied(&shard, shard.write(&batch), applied).await?;
            if sync {
                recorder.mark(marks::DURABLE, [number, 0], &[]);
            }
            Ok(())
        };
        let reply = self.engine.on_shard(&part, operator);
        async move { reply.await? }
    }

    /// Writes the memtables out. Without a log nothing is promised by that.
    pub(super) async fn flush(&self) -> Result<()> {
        let applied = self.applied();
        self.engine.flush().await?;
        if self.mode != Mode::Checkpoint {
            self.durable(&applied);
        }
        Ok(())
    }

    /// Makes the log durable.
    pub(super) async fn sync(&self) -> Result<()> {
        let applied = self.applied();
        self.engine.sync().await?;
        self.durable(&applied);
        Ok(())
    }

    /// Takes a checkpoint of what was applied so far: no write is under way. The barrier is opened by the call itself.
    pub(super) fn checkpoint(&self, name: &str) -> impl Future<Output = Result<()>> + use<'_> {
        let applied = self.applied();
        let number = self.checkpoints.fetch_add(1, Ordering::SeqCst);
        self.recorder.mark(marks::CHECKPOINT_BEGUN, [number, 0], name.as_bytes());
        let done = self.engine.checkpoint(name, Vec::new());
        async move {
            done.await?;
            self.durable(&applied);
            self.recorder.mark(marks::CHECKPOINT_DONE, [number, 0], &[]);
            Ok(())
        }
    }

    fn applied(&self) -> Vec<u64> {
        lock(&self.state).volatile.clone()
    }

    fn durable(&self, batches: &[u64]) {
        for number in batches {
            self.recorder.mark(marks::DURABLE, [*number, 0], &[]);
        }
        lock(&self.state).volatile.retain(|number| !batches.contains(number));
    }
}

fn lock(state: &Mutex<State>) -> std::sync::MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Awaits a write, and says when it is applied: when the shard's count of writes moves.
async fn when_applied(
    shard: &LocalShard,
    write: impl Future<Output = Result<()>>,
    applied: impl FnOnce(),
) -> Result<()> {
    let mut write = pin!(write);
    let mut applied = Some(applied);
    poll_fn(|context| {
        let before = shard.stats().writes;
        let result: Poll<Result<()>> = write.as_mut().poll(context);
        if shard.stats().writes > before
            && let Some(applied) = applied.take()
        {
            applied();
        }
        result
    })
    .await
}

/// A run on a real file, through the real ring: tiny memtables and tables, so that logs, flushes, compactions, manifests and checkpoints
/// take turns.
#[derive(Clone, Debug)]
pub struct Large {
    /// Decides what it does.
    pub seed: u64,
    /// Shards, each a thread.
    pub shards: usize,
    /// Batches written.
    pub batches: u64,
}

impl Large {
    /// Runs it in a directory that exists, and records it.
    pub fn record(&self, directory: &Path, recorder: &Recorder, name: &str) -> Result<()> {
        let mut random = Random::new(self.seed ^ 0x6c_6172_6765);
        let sync = random.chance(0.6);
        let durability = match sync {
            true => Durability::Sync,
            false => Durability::Interval(Duration::from_millis(1 + random.below(50))),
        };
        let options = settings(Options::at(directory), self.shards).durability(durability);
        let mode = if sync { Mode::Sync } else { Mode::Interval };
        Client::begin(recorder, self.shards, mode, self.seed, name);
        let engine = Engine::open(siltstone::testing::record(options, recorder))?;
        let client = Client::new(engine.clone(), recorder.clone(), mode)?;
        engine.block_on(self.run(&client, &mut random))?;
        let applied = client.applied();
        engine.close_blocking()?;
        client.durable(&applied);
        Ok(())
    }

    async fn run(&self, client: &Client, random: &mut Random) -> Result<()> {
        let mut under_way = FuturesUnordered::new();
        let mut checkpoint = None;
        for number in 0..self.batches {
            let (part, changes) = batch(random, number);
            under_way.push(client.write(part, changes));
            while under_way.len() as u64 > random.below(IN_FLIGHT_MAX) {
                under_way.next().await.unwrap_or(Ok(()))?;
            }
            if number % ROUND != ROUND - 1 {
                continue;
            }
            while let Some(written) = under_way.next().await {
                written?;
            }
            match random.below(8) {
                0..3 => {
                    if let Some(under_way) = checkpoint.take() {
                        under_way.await?;
                    }
                    // It goes on while the next writes come.
                    checkpoint = Some(Box::pin(client.checkpoint(&format!("behind {number}"))));
                }
                3 | 4 => client.flush().await?,
                5 => client.sync().await?,
                6 => client.engine.compact().await?,
                _ => (),
            }
        }
        while let Some(written) = under_way.next().await {
            written?;
        }
        match checkpoint {
            Some(checkpoint) => checkpoint.await,
            None => Ok(()),
        }
    }
}

/// Some changes in one partition part, and a key that is this batch's alone.
fn batch(random: &mut Random, number: u64) -> ([u8; 2], Vec<Change>) {
    let part = [b'p', random.below(24) as u8];
    let mut changes = vec![([&part[..], b"journal", &number.to_be_bytes()].concat(), Some(Vec::new()))];
    for _ in 0..random.below(4) {
        let key = [&part[..], b"key", &[random.below(30) as u8]].concat();
        let bytes = if random.chance(0.02) { random.below(60_000) } else { random.below(500) };
        let mut value = vec![0; bytes as usize];
        random.fill(&mut value);
        // One key at most once in a batch.
        changes.retain(|change| change.0 != key);
        changes.push((key, random.chance(0.85).then_some(value)));
    }
    (part, changes)
}
