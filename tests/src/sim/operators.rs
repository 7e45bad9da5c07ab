//! What clients ship to the shards: operators that read and write the part of one key, operators on a client's own cells, and snapshots
//! that stay there.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::task::Poll;

use futures_util::future::poll_fn;
use siltstone::testing::{LateOperator, epoch_of};
use siltstone::{Epoch, Keyspace, LocalShard, Result, ScanRange, Snapshot, WriteBatch};

use super::cells::{CellId, Version};
use super::journal::{Data, WriteId, id_of};
use super::oracle::SharedOracle;
use super::order::Place;
use super::plan::CELL_SPACES;
use super::workload::Client;

/// Parts that the operators of all clients share.
const PARTS: u64 = 24;
/// Snapshots that are held at a time, at most.
const SNAPSHOTS_MAX: usize = 6;

/// Snapshots that a shard keeps for the test, each with what it showed when it was taken.
#[derive(Default)]
struct Snapshots(RefCell<Vec<(u64, Snapshot, [Data; 2])>>);

impl Client {
    /// An operator on some partition: a few writes, and reads between them.
    pub(crate) fn send_operator(&mut self) {
        let work = self.plan_operator();
        let reply = self.shift.engine.on_shard(&work.part.clone(), move |shard| work.run(shard));
        self.push_operator(reply);
    }

    /// Such an operator, between whose beginning and arrival a barrier may open.
    pub(crate) async fn send_late_operator(&mut self) {
        let mut work = self.plan_operator();
        let sent_in = Arc::new(OnceLock::new());
        work.sent_in = Some(Arc::clone(&sent_in));
        let (late, reply) = LateOperator::begin(&self.shift.engine, &work.part.clone(), move |shard| work.run(shard));
        sent_in.get_or_init(|| late.epoch());
        for _ in 0..1 + self.random.below(3) {
            // Nothing that waits for the end of an epoch.
            self.get().await;
        }
        late.arrive();
        self.push_operator(reply);
    }

    fn plan_operator(&mut self) -> Work {
        let part = [b'p', self.random.below(PARTS) as u8];
        let ids: Vec<WriteId> = (0..1 + self.random.below(4)).map(|_| self.plan_write(part)).collect();
        let batches: Vec<(WriteId, WriteBatch)> = ids.iter().map(|id| (*id, self.batch(*id))).collect();
        let reads: Vec<u8> = (0..self.random.below(3)).map(|_| self.random.below(40) as u8).collect();
        let shard_index = usize::from(self.shift.engine.shard_of(&part).0);
        Work {
            oracle: self.shift.oracle.clone(),
            data: self.shift.spaces[0].clone(),
            part,
            batches,
            reads,
            shard_index,
            acknowledged: self.shift.acknowledges_durable(),
            sent_in: None,
        }
    }

    fn plan_write(&mut self, part: [u8; 2]) -> WriteId {
        let changes = (0..self.random.below(6)).map(|_| {
            let key = vec![b'k', self.random.below(40) as u8];
            let bytes = if self.random.chance(0.01) { self.random.below(80_000) } else { self.random.below(300) };
            let mut value = vec![0; bytes as usize];
            self.random.fill(&mut value);
            (key, self.random.chance(0.85).then_some(value))
        });
        let changes = changes.collect();
        self.shift.oracle.lock().journal.submit(part, changes)
    }

    fn batch(&self, id: WriteId) -> WriteBatch {
        let oracle = self.shift.oracle.lock();
        let (data, journal) = (&self.shift.spaces[0], &self.shift.spaces[1]);
        let write = oracle.journal.write(id);
        let mut batch = WriteBatch::new();
        batch.put(journal, &oracle.journal.key_of(id), &[]);
        for (key, value) in &write.changes {
            let key = [&write.part[..], key].concat();
            match value {
                Some(value) => batch.put(data, &key, value),
                None => batch.delete(data, &key),
            };
        }
        batch
    }

    /// An operator on some of the client's own cells, at some event time.
    pub(crate) async fn visit_cells(&mut self) {
        let part = self.any_part();
        let mut orders = Vec::new();
        for _ in 0..1 + self.random.below(8) {
            let space = CELL_SPACES.start + 1 + self.random.below(CELL_SPACES.len() as u64 - 1) as usize;
            let id = self.cell_of(space, part);
            let keyspace = self.space(&id);
            let order = match self.random.below(5) {
                0..2 => Order::Get,
                2 => Order::Delete,
                3 => Order::Put(self.any_value()),
                _ => {
                    let until_ms = self.shift.oracle.lock().now_ms + self.random.below(1500);
                    Order::PutExpiring(self.any_value(), until_ms)
                }
            };
            orders.push((id, keyspace, order));
        }
        let now_ms = self.shift.oracle.lock().now_ms;
        let time_ms = self.random.chance(0.5).then(|| now_ms + self.random.below(500));
        let visit = Visit {
            oracle: self.shift.oracle.clone(),
            place: Place {
                shard: usize::from(self.shift.engine.shard_of(&part).0),
                epoch: self.shift.oracle.lock().journal.epoch(),
            },
            time_ms: time_ms.unwrap_or(now_ms),
            durable: self.shift.acknowledges_durable(),
        };
        let visited = self.shift.engine.on_shard(&part, move |shard| async move {
            let shard = time_ms.map_or(shard.clone(), |time_ms| shard.at(time_ms));
            for (id, keyspace, order) in orders {
                order.run(&shard, &visit, &id, &keyspace).await?;
            }
            Ok(())
        });
        let visited = visited.await.and_then(|result| result);
        self.shift.seen("operator on cells", visited);
    }

    /// A snapshot that stays in its shard. It shows exactly what was applied there when it was taken.
    pub(crate) async fn take_snapshot(&mut self) {
        if self.shift.snapshots.borrow().len() >= SNAPSHOTS_MAX {
            return self.drop_snapshot().await;
        }
        let part = [b'p', self.random.below(PARTS) as u8];
        let shard_index = usize::from(self.shift.engine.shard_of(&part).0);
        let engine = self.shift.engine.clone();
        let own: BTreeSet<[u8; 2]> = (0..u8::MAX)
            .flat_map(|letter| [[b'p', letter], [b't', letter]])
            .filter(|part| usize::from(engine.shard_of(part).0) == shard_index)
            .collect();
        let number = self.shift.oracle.lock().next();
        let oracle = self.shift.oracle.clone();
        let (data, journal) = (self.shift.spaces[0].clone(), self.shift.spaces[1].clone());
        let taken = self.shift.engine.on_shard(&part, move |shard| async move {
            let (snapshot, visible) = (shard.snapshot(), oracle.lock().journal.visible());
            let mut found = read_snapshot(&snapshot, &data, &journal).await?;
            let oracle = oracle.lock();
            let expected: BTreeSet<WriteId> =
                visible.into_iter().filter(|id| own.contains(&oracle.journal.write(*id).part)).collect();
            let shown: BTreeSet<WriteId> = found[1].keys().map(|key| id_of(key)).collect();
            let (missing, extra): (Vec<_>, Vec<_>) =
                (expected.difference(&shown).collect(), shown.difference(&expected).collect());
            assert!(missing.is_empty() && extra.is_empty(), "a snapshot lacks {missing:?} and has too much: {extra:?}");
            let replayed = oracle.journal.replay(&expected);
            assert!(found[0] == replayed, "a snapshot's data is not what its writes make");
            oracle.put_canary_in_snapshot(&mut found[0]);
            drop(oracle);
            shard.extension::<Snapshots>(&data).0.borrow_mut().push((number, snapshot, found));
            Ok(())
        });
        let taken = taken.await.and_then(|result| result);
        if self.shift.seen_read("snapshot", taken).is_some() {
            self.shift.snapshots.borrow_mut().push((part, number));
        }
    }

    /// A snapshot shows what it has always shown.
    pub(crate) async fn check_snapshot(&mut self) {
        let Some((part, number)) = self.any_snapshot() else { return };
        let (data, journal) = (self.shift.spaces[0].clone(), self.shift.spaces[1].clone());
        let checked = self.shift.engine.on_shard(&part, move |shard| async move {
            let extension = shard.extension::<Snapshots>(&data);
            let held = extension.0.borrow().iter().find(|held| held.0 == number).map(|held| held.1.clone());
            // Another client may have dropped it meanwhile.
            let Some(snapshot) = held else { return Ok(()) };
            let found = read_snapshot(&snapshot, &data, &journal).await?;
            let held = extension.0.borrow();
            if let Some(held) = held.iter().find(|held| held.0 == number) {
                assert!(found == held.2, "snapshot {number} has changed");
            }
            Ok(())
        });
        let checked = checked.await.and_then(|result: Result<()>| result);
        self.shift.seen_read("snapshot read again", checked);
    }

    async fn drop_snapshot(&mut self) {
        let Some((part, number)) = self.any_snapshot() else { return };
        self.shift.snapshots.borrow_mut().retain(|held| held.1 != number);
        let data = self.shift.spaces[0].clone();
        let dropped = self.shift.engine.on_shard(&part, move |shard| async move {
            shard.extension::<Snapshots>(&data).0.borrow_mut().retain(|held| held.0 != number);
        });
        let dropped = dropped.await;
        self.shift.seen_read("snapshot dropped", dropped);
    }

    fn any_snapshot(&mut self) -> Option<([u8; 2], u64)> {
        let snapshots = self.shift.snapshots.borrow();
        match snapshots.len() as u64 {
            0 => None,
            count => Some(snapshots[self.random.below(count) as usize]),
        }
    }
}

/// Drops all snapshots that a shard keeps.
pub(crate) fn drop_snapshots(shard: &LocalShard, data: &Keyspace) {
    shard.extension::<Snapshots>(data).0.borrow_mut().clear();
}

async fn read_snapshot(snapshot: &Snapshot, data: &Keyspace, journal: &Keyspace) -> Result<[Data; 2]> {
    let mut found = [Data::new(), Data::new()];
    for (entries, keyspace) in found.iter_mut().zip([data, journal]) {
        let mut scan = snapshot.scan(keyspace, ScanRange::all())?;
        while let Some(entry) = scan.next().await? {
            entries.insert(entry.key.to_vec(), entry.value.to_vec());
        }
    }
    Ok(found)
}

/// An operator on a partition.
struct Work {
    oracle: SharedOracle,
    data: Keyspace,
    part: [u8; 2],
    batches: Vec<(WriteId, WriteBatch)>,
    reads: Vec<u8>,
    shard_index: usize,
    /// Whether what is acknowledged is durable.
    acknowledged: bool,
    /// Where it may arrive late, the epoch in which it was sent.
    sent_in: Option<Arc<OnceLock<Epoch>>>,
}

impl Work {
    async fn run(self, shard: LocalShard) -> Result<()> {
        let Work { oracle, part, .. } = &self;
        if let Some(sent_in) = self.sent_in.as_ref().and_then(|sent_in| sent_in.get())
            && epoch_of(&shard) > Some(*sent_in)
        {
            // There is one barrier at a time, and its checkpoint would still wait for this.
            oracle.lock().began_anew(self.batches.iter().map(|(id, _)| *id));
        }
        for (id, batch) in &self.batches {
            for letter in &self.reads {
                let key = [b'k', *letter];
                let found = shard.get(&self.data, &[&part[..], &key].concat()).await;
                let found = found?.map(|value| value.to_vec());
                // Operators of one key run one at a time.
                let expected = oracle.lock().journal.current(*part, &key).cloned();
                assert!(found == expected, "an operator's read of {key:?} in {part:?} before write {id}");
            }
            recorded(&shard, oracle, self.shard_index, *id, shard.write(batch)).await?;
            if self.acknowledged {
                oracle.lock().journal.acknowledge([*id]);
            }
        }
        Ok(())
    }
}

/// One operation on a cell.
enum Order {
    Get,
    Put(Vec<u8>),
    PutExpiring(Vec<u8>, u64),
    Delete,
}

/// An operator on cells.
struct Visit {
    oracle: SharedOracle,
    place: Place,
    time_ms: u64,
    /// Whether what is acknowledged is durable.
    durable: bool,
}

impl Order {
    async fn run(self, shard: &LocalShard, visit: &Visit, id: &CellId, keyspace: &Keyspace) -> Result<()> {
        let Visit { oracle, place, time_ms, durable } = visit;
        let mut write = None;
        let mut begin = |version: Version| {
            oracle.lock().begin_cells([(id.clone(), version)], *place);
            write = Some(CellWrite { oracle, id, succeeded: false, durable: *durable });
        };
        let written = match self {
            Order::Get => {
                let found = shard.get(keyspace, &id.1).await?.map(|value| value.to_vec());
                let observed = oracle.lock().cells.observe(id, found.as_deref(), *time_ms);
                assert!(observed.is_ok(), "an operator's read of {id:?}: {observed:?}");
                return Ok(());
            }
            Order::Put(value) => {
                begin(Version { value: Some(value.clone()), expires_ms: Client::expiry(id.0, *time_ms) });
                shard.put(keyspace, &id.1, &value).await
            }
            Order::PutExpiring(value, until_ms) => {
                begin(Version { value: Some(value.clone()), expires_ms: Some(until_ms) });
                shard.put_expiring(keyspace, &id.1, &value, until_ms).await
            }
            Order::Delete => {
                begin(Version::absent());
                shard.delete(keyspace, &id.1).await
            }
        };
        write.iter_mut().for_each(|write| write.succeeded = written.is_ok());
        written
    }
}

/// A write of a cell that has begun. It ends with the operator at the latest, which a closing engine may give up.
struct CellWrite<'w> {
    oracle: &'w SharedOracle,
    id: &'w CellId,
    succeeded: bool,
    durable: bool,
}

impl Drop for CellWrite<'_> {
    fn drop(&mut self) {
        self.oracle.lock().end_cells([self.id], self.succeeded, self.durable);
    }
}

/// Awaits a write, and records the moment at which it is applied: when the shard's count of writes moves.
pub(crate) async fn recorded<T>(
    shard: &LocalShard,
    oracle: &SharedOracle,
    index: usize,
    id: WriteId,
    write: impl Future<Output = Result<T>>,
) -> Result<T> {
    let mut write = pin!(write);
    let mut applied = false;
    poll_fn(|context| {
        let before = shard.stats().writes;
        let result: Poll<Result<T>> = write.as_mut().poll(context);
        if !applied && shard.stats().writes > before {
            applied = true;
            oracle.lock().apply(index, id);
        }
        result
    })
    .await
}
