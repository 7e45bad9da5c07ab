//! What clients do: every public operation, many at a time, each checked against the oracle.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::future::Future;
use std::pin::Pin;

use futures_util::stream::{FuturesUnordered, StreamExt};
use siltstone::{Engine, Error, Keyspace, KeyspaceOptions, Partition, Result, ScanRange, WriteBatch};
use siltstone_io::Random;

use super::cells::{CellId, Version};
use super::order::Place;
use super::plan::{CELL_SPACES, SPACES};
use super::shift::Shift;

/// When the operator was sent, and its end.
type Reply = Pin<Box<dyn Future<Output = (u64, Result<Result<()>>)>>>;

/// One client.
pub(crate) struct Client {
    pub(crate) shift: Shift,
    pub(crate) number: u8,
    pub(crate) random: Random,
    operators: FuturesUnordered<Reply>,
}

impl Client {
    pub(crate) fn new(shift: Shift, number: u8, random: Random) -> Client {
        Client { shift, number, random, operators: FuturesUnordered::new() }
    }

    pub(crate) async fn run(mut self, steps: u32) {
        let in_flight_max = 1 + self.random.below(12) as usize;
        for _ in 0..steps {
            self.step().await;
            while self.operators.len() > in_flight_max {
                self.hear_of_operator().await;
            }
        }
        self.hear_of_all().await;
    }

    async fn step(&mut self) {
        match self.random.below(1000) {
            0..5 => self.send_late_operator().await,
            5..330 => {
                if !(self.random.chance(self.shift.typed.share) && self.send_typed()) {
                    self.send_operator();
                }
            }
            330..450 => self.put().await,
            450..510 => self.delete().await,
            510..630 => self.get().await,
            630..670 => self.get_many().await,
            670..730 => self.write_batch().await,
            730..770 => self.visit_cells().await,
            770..785 => self.look_around().await,
            785..790 => self.give_up().await,
            790..830 => self.scan_cells().await,
            830..850 => self.scan_data().await,
            850..870 => self.sync().await,
            870..885 => self.flush().await,
            885..890 => self.compact().await,
            890..900 => self.stats().await,
            900..930 => self.shift.checkpoint().await,
            930..940 => self.drop_checkpoint().await,
            940..945 => self.create_keyspace().await,
            945..960 => self.take_snapshot().await,
            960..975 => self.check_snapshot().await,
            975..985 => self.misuse().await,
            _ => self.hear_of_all().await,
        }
    }

    pub(crate) fn push_operator(&mut self, reply: impl Future<Output = Result<Result<()>>> + 'static) {
        let sent_us = self.shift.oracle.lock().excuses.now_us();
        self.operators.push(Box::pin(async move { (sent_us, reply.await) }));
    }

    async fn hear_of_operator(&mut self) {
        if let Some((sent_us, ended)) = self.operators.next().await {
            self.shift.seen_late("operator", ended.and_then(|result| result), sent_us);
        }
    }

    async fn hear_of_all(&mut self) {
        while !self.operators.is_empty() {
            self.hear_of_operator().await;
        }
    }

    /// A cell of this client's own.
    pub(crate) fn any_cell(&mut self) -> CellId {
        let space = CELL_SPACES.start + self.random.below(CELL_SPACES.len() as u64) as usize;
        let part = self.any_part();
        self.cell_of(space, part)
    }

    pub(crate) fn any_part(&mut self) -> [u8; 2] {
        [b'A' + self.number, self.random.below(4) as u8]
    }

    pub(crate) fn cell_of(&mut self, space: usize, part: [u8; 2]) -> CellId {
        let mut key = part.to_vec();
        let letters = 1 + self.random.below(3);
        key.extend((0..letters).map(|_| [0, b'a', b'b', 0xff][self.random.below(4) as usize]));
        if self.random.chance(0.002) {
            key.resize(5000, b'x');
        }
        (space, key)
    }

    pub(crate) fn any_value(&mut self) -> Vec<u8> {
        let number = self.shift.oracle.lock().next();
        let bytes = match self.random.below(200) {
            0 => 20_000 + self.random.below(80_000),
            1..5 => 3000 + self.random.below(12_000),
            5..50 => self.random.below(1500),
            _ => self.random.below(60),
        };
        let mut value = vec![0; bytes as usize + 8];
        self.random.fill(&mut value);
        value[..8].copy_from_slice(&number.to_le_bytes());
        value
    }

    pub(crate) fn space(&self, id: &CellId) -> Keyspace {
        self.shift.spaces[id.0].clone()
    }

    /// When a value written at this time expires.
    pub(crate) fn expiry(space: usize, time_ms: u64) -> Option<u64> {
        SPACES[space].ttl_ms.map(|ttl_ms| time_ms + ttl_ms)
    }

    async fn put(&mut self) {
        let (id, value) = (self.any_cell(), self.any_value());
        self.put_value(id, value).await;
    }

    /// Nothing but writes of some size: flushes are under way nearly always, and behind what the log writes there is more.
    pub(crate) async fn write_much(mut self, count: u32) {
        let bytes_min = [3000, 20_000, 80_000][self.random.below(3) as usize];
        for _ in 0..count {
            let (id, mut value) = (self.any_cell(), self.any_value());
            value.resize(value.len().max(bytes_min), 7);
            self.put_value(id, value).await;
        }
    }

    async fn put_value(&mut self, id: CellId, value: Vec<u8>) {
        let keyspace = self.space(&id);
        let expires_ms = Self::expiry(id.0, self.shift.oracle.lock().now_ms);
        self.begin([(id.clone(), Version { value: Some(value.clone()), expires_ms })]);
        let result = self.shift.engine.put(&keyspace, &id.1, &value).await;
        self.end("put", &[id], result);
    }

    async fn delete(&mut self) {
        let id = self.any_cell();
        let keyspace = self.space(&id);
        self.begin([(id.clone(), Version::absent())]);
        let result = self.shift.engine.delete(&keyspace, &id.1).await;
        self.end("delete", &[id], result);
    }

    async fn write_batch(&mut self) {
        let part = self.any_part();
        let count = 1 + self.random.below(5);
        let ids: BTreeSet<CellId> = (0..count)
            .map(|_| {
                let space = CELL_SPACES.start + 1 + self.random.below(CELL_SPACES.len() as u64 - 1) as usize;
                self.cell_of(space, part)
            })
            .collect();
        let ids: Vec<CellId> = ids.into_iter().collect();
        let mut batch = WriteBatch::new();
        let mut versions = Vec::new();
        for id in &ids {
            let keyspace = self.space(id);
            if self.random.chance(0.2) {
                versions.push((id.clone(), Version::absent()));
                batch.delete(&keyspace, &id.1);
                continue;
            }
            let value = self.any_value();
            let now_ms = self.shift.oracle.lock().now_ms;
            let expires_ms = match self.random.chance(0.2) {
                true => Some(now_ms + self.random.below(1000)),
                false => None,
            };
            match expires_ms {
                Some(expires_ms) => batch.put_expiring(&keyspace, &id.1, &value, expires_ms),
                None => batch.put(&keyspace, &id.1, &value),
            };
            let expires_ms = expires_ms.or(Self::expiry(id.0, now_ms));
            versions.push((id.clone(), Version { value: Some(value), expires_ms }));
        }
        self.begin(versions);
        let result = self.shift.engine.write(batch).await;
        self.end("write", &ids, result);
    }

    /// A write of cells of one shard begins, which is sent at once.
    fn begin(&self, versions: impl IntoIterator<Item = (CellId, Version)>) {
        let mut versions = versions.into_iter().peekable();
        let Some((first, _)) = versions.peek() else { return };
        let mut oracle = self.shift.oracle.lock();
        let place = Place { shard: self.shard_of(first), epoch: oracle.journal.epoch() };
        oracle.begin_cells(versions, place);
    }

    /// The shard of a cell.
    pub(crate) fn shard_of(&self, id: &CellId) -> usize {
        let part = match SPACES[id.0].partition {
            Partition::Prefix(bytes) => &id.1[..usize::from(bytes)],
            _ => &id.1,
        };
        usize::from(self.shift.engine.shard_of(part).0)
    }

    fn end(&mut self, what: &'static str, ids: &[CellId], result: Result<()>) {
        let durable = self.shift.acknowledges_durable();
        let mut oracle = self.shift.oracle.lock();
        oracle.end_cells(ids, result.is_ok(), durable);
        drop(oracle);
        self.shift.seen(what, result);
    }

    pub(crate) async fn get(&mut self) {
        let id = self.any_cell();
        let found = self.shift.engine.get(&self.space(&id), &id.1).await;
        if let Some(found) = self.shift.seen_read("get", found) {
            self.observe(&id, found.as_deref());
        }
    }

    pub(crate) fn observe(&self, id: &CellId, found: Option<&[u8]>) {
        let mut oracle = self.shift.oracle.lock();
        let now_ms = oracle.now_ms;
        if let Err(reason) = oracle.cells.observe(id, found, now_ms) {
            drop(oracle);
            panic!("a read of {id:?}: {reason}");
        }
    }

    async fn get_many(&mut self) {
        let first = self.any_cell();
        let count = self.random.below(20);
        let mut ids: Vec<CellId> = (0..count)
            .map(|_| {
                let part = self.any_part();
                self.cell_of(first.0, part)
            })
            .collect();
        ids.push(first);
        let keys: Vec<&[u8]> = ids.iter().map(|id| &id.1[..]).collect();
        let found = self.shift.engine.get_many(&self.space(&ids[0]), &keys).await;
        for (id, found) in ids.iter().zip(self.shift.seen_read("get_many", found).unwrap_or_default()) {
            self.observe(id, found.as_deref());
        }
    }

    /// Everything that this client has written behind one prefix.
    async fn scan_cells(&mut self) {
        let space = CELL_SPACES.start + self.random.below(CELL_SPACES.len() as u64) as usize;
        let mut prefix = self.any_part().to_vec();
        prefix.truncate(1 + self.random.below(2) as usize);
        let reverse = self.random.chance(0.4);
        let range = ScanRange::prefix(prefix.clone());
        let range = if reverse { range.reverse() } else { range };
        let keyspace = self.shift.spaces[space].clone();
        let entries = collect(&self.shift.engine, &keyspace, range).await;
        let Some(entries) = self.shift.seen_read("scan", entries) else { return };
        let mut found: std::collections::BTreeMap<Vec<u8>, Vec<u8>> = entries.into_iter().collect();
        let ids: Vec<CellId> = self.shift.oracle.lock().cells.ids();
        for id in ids.iter().filter(|id| id.0 == space && id.1.starts_with(&prefix)) {
            self.observe(id, found.remove(&id.1).as_deref());
        }
        assert!(found.is_empty(), "a scan finds what was never written: {:?}", found.keys());
    }

    /// All of the operators' data, while they write: each key is as it was when the scan began, or as a write has left it since.
    async fn scan_data(&mut self) {
        let range = if self.random.chance(0.5) { ScanRange::all() } else { ScanRange::all().reverse() };
        let (since, before) = {
            let mut oracle = self.shift.oracle.lock();
            (oracle.moment(), oracle.journal.current_data().clone())
        };
        let entries = collect(&self.shift.engine, &self.shift.spaces[0].clone(), range).await;
        let Some(entries) = self.shift.seen_read("scan beside writes", entries) else { return };
        let found = entries.into_iter().collect();
        let fits = self.shift.oracle.lock().journal.shows_since(since, &before, &found);
        assert!(fits.is_ok(), "a scan beside writes: {fits:?}");
    }

    async fn sync(&mut self) {
        let applied = self.shift.oracle.lock().applied();
        let result = self.shift.engine.sync().await;
        if self.shift.seen("sync", result).is_some() && self.shift.has_log() {
            self.shift.oracle.lock().acknowledge(applied);
        }
    }

    async fn flush(&mut self) {
        let applied = self.shift.oracle.lock().applied();
        let result = self.shift.engine.flush().await;
        if self.shift.seen("flush", result).is_some() && self.shift.has_log() {
            self.shift.oracle.lock().acknowledge(applied);
        }
    }

    async fn compact(&mut self) {
        let compacted = self.shift.engine.compact().await;
        self.shift.seen("compact", compacted);
    }

    async fn stats(&mut self) {
        let stats = self.shift.engine.stats_by_shard().await;
        if let Some(stats) = self.shift.seen_read("stats", stats) {
            assert_eq!(stats.len(), self.shift.engine.shards());
        }
        let all = self.shift.engine.stats().await;
        self.shift.seen_read("stats", all);
        let listed = self.shift.engine.checkpoints().await;
        self.shift.seen_read("checkpoints", listed);
    }

    async fn drop_checkpoint(&mut self) {
        // One at a time with checkpoints, whose retention drops some too.
        if self.shift.checkpoint_busy.replace(true) {
            return;
        }
        let chosen = {
            let mut oracle = self.shift.oracle.lock();
            let count = oracle.checkpoints.len() as u64;
            let index = if count == 0 { 0 } else { self.random.below(count) as usize };
            oracle.checkpoints.get_mut(index).map(|saved| {
                saved.doomed = true;
                saved.name.clone()
            })
        };
        let name = chosen.clone().unwrap_or("no such checkpoint".into());
        match self.shift.engine.drop_checkpoint(&name).await {
            Err(Error::NotFound(_)) => {
                // Unless an earlier drop, of which nobody heard, had taken it.
                let oracle = self.shift.oracle.lock();
                assert!(chosen.is_none() || oracle.contract != super::plan::Contract::Crash, "{name} is not found");
            }
            dropped => {
                assert!(chosen.is_some() || dropped.is_err(), "a checkpoint was dropped that there was not");
                if self.shift.seen("drop_checkpoint", dropped).is_some() {
                    self.shift.oracle.lock().checkpoints.retain(|saved| saved.name != name);
                }
            }
        }
        self.shift.checkpoint_busy.set(false);
    }

    async fn create_keyspace(&mut self) {
        // Its own of each client: two at a time are refused.
        let name = format!("created {}.{}", self.number, self.random.below(3));
        let options = KeyspaceOptions::default().partition(Partition::Prefix(1 + self.random.below(3) as u16));
        let created = self.shift.engine.create_keyspace(&name, options).await;
        if self.shift.seen("create_keyspace", created).is_some() {
            assert!(self.shift.engine.keyspaces().contains(&name));
            self.shift.oracle.lock().created.insert(name);
        }
    }

    /// What must be refused, and change nothing.
    async fn misuse(&mut self) {
        let keyspace = self.shift.spaces[2].clone();
        let results = [
            self.shift.engine.put(&keyspace, b"", b"value").await,
            self.shift.engine.put(&keyspace, &vec![1; siltstone::KEY_BYTES_MAX + 1], b"value").await,
        ];
        for result in results {
            assert!(matches!(result, Err(Error::InvalidArgument(_) | Error::Closed)), "{result:?}");
        }
    }
}

/// All entries of a range, which come in the order of key groups and keys, or the reverse of it, each once.
pub(crate) async fn collect(engine: &Engine, keyspace: &Keyspace, range: ScanRange) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let ascending = if range.is_reverse() { Ordering::Greater } else { Ordering::Less };
    let mut scan = engine.scan(keyspace, range);
    let mut entries: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    while let Some(entry) = scan.next().await? {
        if let Some((last, _)) = entries.last() {
            let order = (keyspace.group_of(last), last).cmp(&(keyspace.group_of(&entry.0), &entry.0));
            assert!(order == ascending, "a scan of {} is out of order: {last:?}, {:?}", keyspace.name(), entry.0);
        }
        entries.push(entry);
    }
    Ok(entries)
}
