//! The random steps.

use futures_util::future::{FutureExt, join_all};
use siltstone::{Error, KeyspaceOptions, Partition, WriteBatch};

use crate::expected::{Space, State};
use crate::world::{Held, Place, Saved, Snapshots, World, assert_same};

impl World {
    pub(crate) fn step(&mut self) {
        match self.random.below(1000) {
            0..250 => self.put(),
            250..340 => self.delete(),
            340..440 => self.get(),
            440..470 => self.get_many(),
            470..530 => self.write_batch(),
            530..590 => self.burst(),
            590..650 => self.scan_some(),
            650..750 => self.run_operator(),
            750..780 => self.append_in_order(),
            780..810 => self.pass_time(),
            810..830 => self.take_snapshot(),
            830..845 => self.check_held(),
            845..855 => self.drop_snapshot(),
            855..870 => self.begin_checkpoint(),
            870..885 => self.finish_checkpoint(),
            885..895 => self.check_checkpoints(),
            895..901 => self.drop_checkpoint(),
            901..906 => self.create_keyspace(),
            906..911 => self.must(self.engine().flush()),
            911..914 => self.compact(),
            914..919 => self.must(self.engine().sync()),
            919..924 => self.stats(),
            924..934 => self.misuse(),
            934..942 => self.check_all(),
            942..988 => self.fill(),
            _ => self.reopen(),
        }
    }

    fn put(&mut self) {
        let (space, keyspace) = self.any_space();
        let (key, value) = (self.any_key(&space), self.any_value());
        self.must(self.engine().put(&keyspace, &key, &value));
        self.apply(&space, &key, Some(&value), self.expiry(&space, self.now_ms));
    }

    fn delete(&mut self) {
        let (space, keyspace) = self.any_space();
        let key = self.any_key(&space);
        self.must(self.engine().delete(&keyspace, &key));
        self.apply(&space, &key, None, None);
    }

    fn get(&mut self) {
        let (space, keyspace) = self.any_space();
        let key = self.any_key(&space);
        let found = self.must(self.engine().get(&keyspace, &key));
        assert!(found == self.state[&space].get(&keyspace, &key, self.now_ms), "get of {key:?} in {space}");
    }

    fn get_many(&mut self) {
        let (space, keyspace) = self.any_space();
        let keys: Vec<Vec<u8>> = (0..self.random.below(40)).map(|_| self.any_key(&space)).collect();
        let found = self.must(self.engine().get_many(&keyspace, &keys));
        assert_eq!(found.len(), keys.len());
        for (key, found) in keys.iter().zip(found) {
            assert!(found == self.state[&space].get(&keyspace, key, self.now_ms), "get_many of {key:?} in {space}");
        }
    }

    /// A batch over several keyspaces, in one shard.
    fn write_batch(&mut self) {
        let shard = self.any_shard();
        let mut batch = WriteBatch::new();
        for _ in 0..self.random.below(20) {
            let (space, keyspace) = self.any_space();
            let Some(key) = self.key_in_shard(&space, shard) else { continue };
            if self.random.chance(0.3) {
                batch.delete(&keyspace, &key);
                self.apply(&space, &key, None, None);
                continue;
            }
            let value = self.any_value();
            let mut expires_ms = self.expiry(&space, self.now_ms);
            if self.random.chance(0.1) && self.place.takes_operators() {
                let until_ms = self.now_ms + self.random.below(2000);
                expires_ms = Some(until_ms);
                batch.put_expiring(&keyspace, &key, &value, until_ms);
            } else {
                batch.put(&keyspace, &key, &value);
            }
            self.apply(&space, &key, Some(&value), expires_ms);
        }
        self.must(self.engine().write(batch));
    }

    /// Many writes, and reads of other keys, at once.
    fn burst(&mut self) {
        let (space, keyspace) = self.any_space();
        let before = self.state[&space].clone();
        let mut writes = Vec::new();
        let mut written = std::collections::BTreeSet::new();
        for _ in 0..self.random.below(60) {
            let key = self.any_key(&space);
            if written.insert(key.clone()) {
                let value = self.random.chance(0.8).then(|| self.any_value());
                self.apply(&space, &key, value.as_deref(), self.expiry(&space, self.now_ms));
                writes.push((key, value));
            }
        }
        let reads: Vec<Vec<u8>> = (0..20).map(|_| self.any_key(&space)).filter(|key| !written.contains(key)).collect();
        let engine = self.engine();
        let writes = join_all(writes.iter().map(|(key, value)| {
            let keyspace = &keyspace;
            async move {
                match value {
                    Some(value) => engine.put(keyspace, key, value).await,
                    None => engine.delete(keyspace, key).await,
                }
            }
        }));
        let gets = join_all(reads.iter().map(|key| engine.get(&keyspace, key)));
        let (written, found) = self.node().run(futures_util::future::join(writes, gets));
        written.into_iter().for_each(|result| result.unwrap_or_else(|error| panic!("a write fails: {error}")));
        for (key, found) in reads.iter().zip(found) {
            let found = found.unwrap_or_else(|error| panic!("a get fails: {error}"));
            assert!(found == before.get(&keyspace, key, self.now_ms), "get of {key:?} in {space} beside writes");
        }
    }

    /// Enough data to make memtables full and levels deep.
    fn fill(&mut self) {
        let (space, keyspace) = self.any_space();
        let mut writes = std::collections::BTreeMap::new();
        for _ in 0..100 + self.random.below(200) {
            let (key, number) = (self.any_key(&space), self.next());
            let mut value = vec![0; self.random.below(200) as usize];
            self.random.fill(&mut value);
            value.extend(number.to_le_bytes());
            writes.insert(key, value);
        }
        for (key, value) in &writes {
            self.apply(&space, key, Some(value), self.expiry(&space, self.now_ms));
        }
        let puts = writes.iter().map(|(key, value)| self.engine().put(&keyspace, key, value));
        let results = self.node().run(join_all(puts));
        results.into_iter().for_each(|result| result.unwrap_or_else(|error| panic!("a put fails: {error}")));
    }

    fn scan_some(&mut self) {
        let (space, keyspace) = self.any_space();
        let wanted = self.any_range(&space);
        let expected = self.state[&space].scan(&wanted, self.all_groups(), self.now_ms);
        if self.random.chance(0.2) {
            // Left before its end.
            let mut scan = self.engine().scan(&keyspace, wanted.range());
            let first = self.must(scan.next());
            assert!(first.as_ref() == expected.first(), "first entry of {wanted:?} in {space}");
            return;
        }
        assert_same(&space, &wanted, &self.scan(&space, &wanted), &expected);
    }

    /// Operators of one key, sent together: they run in order. Now and then with a checkpoint's barrier between them.
    fn append_in_order(&mut self) {
        if !self.place.takes_operators() {
            return;
        }
        let (space, keyspace) = self.any_space();
        let key = self.any_key(&space);
        let part = self.state[&space].partition.part(&key).to_vec();
        let mut value = self.state[&space].get(&keyspace, &key, self.now_ms).unwrap_or_default();
        let count = 1 + self.random.below(8);
        let barrier_at = self.random.chance(0.3).then(|| self.random.below(count));
        let mut replies = Vec::new();
        for index in 0..count {
            if barrier_at == Some(index) {
                self.begin_checkpoint();
            }
            let (of, at) = (keyspace.clone(), key.clone());
            replies.push(self.engine().on_shard(&part, move |shard| async move {
                let mut value = shard.get(&of, &at).await?.map(|value| value.to_vec()).unwrap_or_default();
                value.push(index as u8);
                shard.put(&of, &at, &value).await
            }));
            value.push(index as u8);
            self.apply(&space, &key, Some(&value), self.expiry(&space, self.now_ms));
        }
        for reply in replies {
            self.must(reply).unwrap_or_else(|error| panic!("an operator's write fails: {error}"));
        }
        let found = self.must(self.engine().get(&keyspace, &key));
        assert!(found.as_ref() == Some(&value), "operators of {key:?} in {space} ran out of order");
    }

    /// Without operators nobody can tell the shards the time.
    fn pass_time(&mut self) {
        if !self.place.takes_operators() {
            return;
        }
        self.now_ms += self.random.below(300);
        self.tell_time();
    }

    fn take_snapshot(&mut self) {
        if !self.place.takes_operators() || self.held.len() > 5 {
            return;
        }
        let shard = self.any_shard();
        let (part, id, keyspace) = (self.part_in_shard(shard), self.next(), self.keyspace("whole"));
        self.must(self.engine().on_shard(&part, move |shard| async move {
            shard.extension::<Snapshots>(&keyspace).0.borrow_mut().push((id, shard.snapshot()));
        }));
        self.held.push(Held { id, part, state: self.state.clone() });
    }

    fn drop_snapshot(&mut self) {
        if self.held.is_empty() {
            return;
        }
        let index = self.random.below(self.held.len() as u64) as usize;
        let Held { id, part, .. } = self.held.remove(index);
        let keyspace = self.keyspace("whole");
        self.must(self.engine().on_shard(&part, move |shard| async move {
            let snapshots = shard.extension::<Snapshots>(&keyspace);
            snapshots.0.borrow_mut().retain(|held| held.0 != id);
        }));
    }

    /// Opens a barrier; the checkpoint goes on beside the next steps.
    pub(crate) fn begin_checkpoint(&mut self) {
        self.finish_checkpoint();
        let name = format!("checkpoint {}", self.random.below(6));
        let bytes = vec![7; self.random.below(40) as usize];
        let future = self.engine().checkpoint(&name, bytes.clone());
        self.pending =
            Some((Saved { name, bytes, state: self.state.clone(), created_meanwhile: State::new() }, Box::pin(future)));
        // Shards with threads of their own may have ended the first by now, and would take the second.
        if matches!(self.place, Place::Simulated(_)) {
            let busy = self.engine().checkpoint("too early", Vec::new()).now_or_never();
            assert!(matches!(busy, Some(Err(Error::Busy(_))) | None), "two checkpoints at a time");
        }
    }

    pub(crate) fn finish_checkpoint(&mut self) {
        let Some((saved, future)) = self.pending.take() else { return };
        let info = self.must(future);
        assert_eq!((&info.name, &info.bytes), (&saved.name, &saved.bytes));
        self.checkpoints.push(saved);
        if let Some(retained) = self.retained {
            let excess = self.checkpoints.len().saturating_sub(retained);
            self.checkpoints.drain(..excess);
        }
    }

    fn check_checkpoints(&mut self) {
        self.finish_checkpoint();
        let found = self.must(self.engine().checkpoints());
        let found: Vec<_> = found.iter().map(|info| (&info.name, &info.bytes)).collect();
        let expected: Vec<_> = self.checkpoints.iter().map(|saved| (&saved.name, &saved.bytes)).collect();
        assert_eq!(found, expected);
    }

    fn drop_checkpoint(&mut self) {
        self.finish_checkpoint();
        let name = format!("checkpoint {}", self.random.below(6));
        let dropped = self.node().run(self.engine().drop_checkpoint(&name));
        match self.checkpoints.iter().rposition(|saved| saved.name == name) {
            Some(newest) => {
                assert!(dropped.is_ok(), "{dropped:?}");
                self.checkpoints.remove(newest);
            }
            None => assert!(matches!(dropped, Err(Error::NotFound(_))), "{dropped:?}"),
        }
    }

    fn create_keyspace(&mut self) {
        let name = format!("created {}", self.random.below(4));
        let partition = [Partition::WholeKey, Partition::Prefix(1), Partition::After(2)][self.random.below(3) as usize];
        self.must(self.engine().create_keyspace(&name, KeyspaceOptions::default().partition(partition)));
        let space = Space { partition, ttl_ms: None, cells: Default::default() };
        if !self.state.contains_key(&name) {
            if let Some((saved, _)) = &mut self.pending {
                saved.created_meanwhile.insert(name.clone(), space.clone());
            }
            self.state.insert(name, space);
        }
        let found = self.engine().keyspaces();
        assert!(found.iter().eq(self.state.keys()), "{found:?}");
    }

    fn compact(&mut self) {
        self.must(self.engine().compact());
        let stats = self.must(self.engine().stats_by_shard());
        assert!(stats.iter().all(|stats| stats.memtable_bytes > 0 || stats.sst_bytes < u64::MAX));
    }

    fn stats(&mut self) {
        let stats = self.must(self.engine().stats());
        let by_shard = self.must(self.engine().stats_by_shard());
        assert_eq!(by_shard.len(), self.engine().shards());
        assert_eq!(stats.writes, by_shard.iter().map(|stats| stats.writes).sum::<u64>());
    }

    /// What must be refused, and change nothing.
    fn misuse(&mut self) {
        let (space, keyspace) = self.any_space();
        let run = |result| assert!(matches!(result, Err(Error::InvalidArgument(_))), "{result:?}");
        run(self.node().run(self.engine().put(&keyspace, b"", b"value")));
        run(self.node().run(self.engine().put(&keyspace, &vec![1; siltstone::KEY_BYTES_MAX + 1], b"value")));
        let (one, other) = (self.any_key(&space), self.any_key(&space));
        if self.shard_of(&space, &one) != self.shard_of(&space, &other) {
            let mut batch = WriteBatch::new();
            batch.put(&keyspace, &one, b"never").put(&keyspace, &other, b"never");
            run(self.node().run(self.engine().write(batch)));
        }
        if !self.place.takes_operators() {
            run(self.node().run(self.engine().on_shard(b"key", |_| async {})));
        }
    }
}
