//! What runs until the power fails: operators with several writes, many at a time, checkpoints, flush and compaction between.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use futures_util::future::{FutureExt, poll_fn};
use futures_util::stream::{FuturesUnordered, StreamExt};
use siltstone::{CheckpointInfo, Durability, Engine, Keyspace, LocalShard, Result, WriteBatch};
use siltstone_io::Random;

use crate::history::{History, Write, WriteId};

/// How much is done.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Size {
    Small,
    Large,
}

#[derive(Clone)]
pub(crate) struct SharedHistory(Arc<Mutex<History>>);

impl SharedHistory {
    pub(crate) fn new() -> Self {
        SharedHistory(Arc::new(Mutex::new(History::default())))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, History> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

type Reply = Pin<Box<dyn Future<Output = Result<()>>>>;
type Checkpoint = Pin<Box<dyn Future<Output = Result<CheckpointInfo>>>>;

pub(crate) struct Workload {
    pub(crate) engine: Engine,
    pub(crate) durability: Durability,
    pub(crate) random: Random,
    pub(crate) history: SharedHistory,
    data: Keyspace,
    journal: Keyspace,
    operators: FuturesUnordered<Reply>,
    checkpoint: Option<Checkpoint>,
}

impl Workload {
    pub(crate) fn new(engine: Engine, durability: Durability, random: Random, history: SharedHistory) -> Result<Self> {
        let (data, journal) = (engine.keyspace("data")?, engine.keyspace("journal")?);
        let operators = FuturesUnordered::new();
        Ok(Workload { engine, durability, random, history, data, journal, operators, checkpoint: None })
    }

    /// Runs to its end, where the power lasts so long.
    pub(crate) async fn run(mut self, size: Size) -> Result<()> {
        let (steps, in_flight_max) = match size {
            Size::Small => (25, 6),
            Size::Large => (30 + self.random.below(400), 1 + self.random.below(40)),
        };
        for _ in 0..steps {
            self.step().await?;
            while self.operators.len() as u64 > in_flight_max {
                self.operators.next().await.unwrap_or(Ok(()))?;
            }
            self.hear_of_checkpoint()?;
        }
        if self.random.chance(0.5) {
            while let Some(ended) = self.operators.next().await {
                ended?;
            }
            if let Some(checkpoint) = self.checkpoint.take() {
                self.complete(checkpoint.await?);
            }
        }
        Ok(())
    }

    async fn step(&mut self) -> Result<()> {
        match self.random.below(100) {
            0..80 => self.send_operator(),
            80..90 => self.begin_checkpoint().await?,
            90..93 => self.sync().await?,
            93..95 => self.flush().await?,
            95 => self.engine.compact().await?,
            _ => {
                while let Some(ended) = self.operators.next().await {
                    ended?;
                }
            }
        }
        Ok(())
    }

    /// An operator on some partition: a few writes, and reads between them.
    fn send_operator(&mut self) {
        let part = [b'p', self.random.below(24) as u8];
        let ids: Vec<WriteId> = (0..1 + self.random.below(4)).map(|_| self.plan_write(part)).collect();
        let batches: Vec<(WriteId, WriteBatch)> = ids.iter().map(|id| (*id, self.batch(*id))).collect();
        let (history, data) = (self.history.clone(), self.data.clone());
        let acknowledged = self.durability == Durability::Sync;
        let reads = self.random.chance(0.5);
        let shard_index = usize::from(self.engine.shard_of(&part).0);
        let operator = async move |shard: LocalShard| {
            for (id, batch) in &batches {
                if reads {
                    shard.get(&data, &[&part[..], &id.to_le_bytes()[..1]].concat()).await?;
                }
                recorded(&shard, &history, shard_index, *id, shard.write(batch)).await?;
                if acknowledged {
                    history.lock().durable.insert(*id);
                }
            }
            Ok(())
        };
        let reply = self.engine.on_shard(&part, operator);
        self.operators.push(Box::pin(reply.map(|reply| reply.and_then(|ended| ended))));
    }

    fn plan_write(&mut self, part: [u8; 2]) -> WriteId {
        let changes = (0..self.random.below(6)).map(|_| {
            let key = vec![b'k', self.random.below(40) as u8];
            let bytes = if self.random.chance(0.02) { self.random.below(80_000) } else { self.random.below(300) };
            let mut value = vec![0; bytes as usize];
            self.random.fill(&mut value);
            (key, self.random.chance(0.85).then_some(value))
        });
        let changes = changes.collect();
        let mut history = self.history.lock();
        let id = history.writes.last_key_value().map_or(1, |(id, _)| id + 1);
        let (run, epoch) = (history.run, history.epoch);
        history.writes.insert(id, Write { part, changes, run, epoch, applied: 0 });
        history.submitted.insert(id);
        id
    }

    fn batch(&self, id: WriteId) -> WriteBatch {
        let history = self.history.lock();
        let Write { part, changes, .. } = &history.writes[&id];
        let mut batch = WriteBatch::new();
        batch.put(&self.journal, &[&part[..], &id.to_be_bytes()].concat(), &[]);
        for (key, value) in changes {
            let key = [&part[..], key].concat();
            match value {
                Some(value) => batch.put(&self.data, &key, value),
                None => batch.delete(&self.data, &key),
            };
        }
        batch
    }

    async fn begin_checkpoint(&mut self) -> Result<()> {
        if let Some(checkpoint) = self.checkpoint.take() {
            self.complete(checkpoint.await?);
        }
        let mut history = self.history.lock();
        let name = format!("{}.{}", history.run, history.epoch);
        self.checkpoint = Some(Box::pin(self.engine.checkpoint(&name, name.clone().into_bytes())));
        history.epoch += 1;
        let begun = history.begun();
        history.pending = Some((name, begun));
        Ok(())
    }

    fn hear_of_checkpoint(&mut self) -> Result<()> {
        if let Some(mut checkpoint) = self.checkpoint.take() {
            match (&mut checkpoint).now_or_never() {
                Some(info) => self.complete(info?),
                None => self.checkpoint = Some(checkpoint),
            }
        }
        Ok(())
    }

    fn complete(&mut self, info: CheckpointInfo) {
        let mut history = self.history.lock();
        let pending = history.pending.take().expect("a checkpoint was under way");
        assert_eq!((&info.name, &info.bytes[..]), (&pending.0, pending.0.as_bytes()));
        if self.durability != Durability::Checkpoint {
            let new = pending.1.difference(&history.base).copied().collect::<Vec<_>>();
            history.durable.extend(new);
        }
        history.checkpoints.push(pending);
    }

    /// With a log, what was applied before is durable then.
    async fn sync(&mut self) -> Result<()> {
        let applied = self.history.lock().all_applied();
        self.engine.sync().await?;
        if self.durability != Durability::Checkpoint {
            self.history.lock().durable.extend(applied);
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<()> {
        let applied = self.history.lock().all_applied();
        self.engine.flush().await?;
        if self.durability != Durability::Checkpoint {
            self.history.lock().durable.extend(applied);
        }
        Ok(())
    }
}

/// Awaits a write, and records the moment at which it is applied: when the shard's count of writes moves.
async fn recorded(
    shard: &LocalShard,
    history: &SharedHistory,
    index: usize,
    id: WriteId,
    write: impl Future<Output = Result<()>>,
) -> Result<()> {
    let mut write = pin!(write);
    let mut applied = false;
    poll_fn(|context| {
        let before = shard.stats().writes;
        let result: Poll<Result<()>> = write.as_mut().poll(context);
        if !applied && shard.stats().writes > before {
            applied = true;
            history.lock().apply(index, id);
        }
        result
    })
    .await
}
