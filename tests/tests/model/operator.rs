//! Steps on a shard's own core: operators with several operations, and snapshots that are kept there.

use siltstone::{Keyspace, LocalShard, Result, Snapshot, WriteBatch};

use crate::expected::{Entries, Wanted};
use crate::world::{Snapshots, World, assert_same};

/// One operation of an operator.
enum Do {
    Get(Keyspace, Vec<u8>),
    GetMany(Keyspace, Vec<Vec<u8>>),
    Put(Keyspace, Vec<u8>, Vec<u8>),
    PutExpiring(Keyspace, Vec<u8>, Vec<u8>, u64),
    Delete(Keyspace, Vec<u8>),
    Batch(WriteBatch),
    Scan(Keyspace, Wanted),
}

/// What it saw.
#[derive(PartialEq)]
enum Seen {
    Values(Vec<Option<Vec<u8>>>),
    Entries(Entries),
    Done,
}

impl World {
    /// An operator that reads and writes.
    pub(crate) fn run_operator(&mut self) {
        if !self.place.takes_operators() {
            return;
        }
        let shard = self.any_shard();
        let time_ms = self.random.chance(0.5).then(|| self.now_ms + self.random.below(500));
        let scoped = self.random.chance(0.3);
        let mut orders = Vec::new();
        let mut expected = Vec::new();
        for _ in 0..1 + self.random.below(12) {
            if let Some((order, seen)) = self.any_order(shard, time_ms.unwrap_or(self.now_ms)) {
                orders.push(order);
                expected.push(seen);
            }
        }
        let part = self.part_in_shard(shard);
        let found = self.must(self.engine().on_shard(&part, move |shard| async move {
            let shard = time_ms.map_or(shard.clone(), |time_ms| shard.at(time_ms));
            let shard = if scoped { shard.begin() } else { shard };
            let mut found = Vec::new();
            for order in orders {
                found.push(order.run(&shard).await?);
            }
            Ok::<_, siltstone::Error>(found)
        }));
        let found = found.unwrap_or_else(|error| panic!("an operator fails: {error}"));
        for (index, (found, expected)) in found.iter().zip(&expected).enumerate() {
            assert!(found == expected, "operation {index} of an operator on shard {shard}");
        }
    }

    /// An operation, and what it should see; the model has it applied.
    fn any_order(&mut self, shard: usize, time_ms: u64) -> Option<(Do, Seen)> {
        let (space, keyspace) = self.any_space();
        let key = self.key_in_shard(&space, shard)?;
        Some(match self.random.below(10) {
            0..2 => {
                let seen = self.state[&space].get(&keyspace, &key, time_ms);
                (Do::Get(keyspace, key), Seen::Values(vec![seen]))
            }
            2 => {
                let keys: Vec<Vec<u8>> = (0..10).filter_map(|_| self.key_in_shard(&space, shard)).collect();
                let seen = keys.iter().map(|key| self.state[&space].get(&keyspace, key, time_ms)).collect();
                (Do::GetMany(keyspace, keys), Seen::Values(seen))
            }
            3..5 => {
                let value = self.any_value();
                self.apply(&space, &key, Some(&value), self.expiry(&space, time_ms));
                (Do::Put(keyspace, key, value), Seen::Done)
            }
            5 => {
                let value = self.any_value();
                let until_ms = self.now_ms + self.random.below(3000);
                self.apply(&space, &key, Some(&value), Some(until_ms));
                (Do::PutExpiring(keyspace, key, value, until_ms), Seen::Done)
            }
            6 => {
                self.apply(&space, &key, None, None);
                (Do::Delete(keyspace, key), Seen::Done)
            }
            7 => {
                let other = self.key_in_shard(&space, shard)?;
                let value = self.any_value();
                let mut batch = WriteBatch::new();
                batch.put(&keyspace, &key, &value).delete(&keyspace, &other).put(&keyspace, &key, &value);
                self.apply(&space, &other, None, None);
                self.apply(&space, &key, Some(&value), self.expiry(&space, time_ms));
                (Do::Batch(batch), Seen::Done)
            }
            _ => {
                let mut wanted = self.any_range(&space);
                let groups = self.groups_of(shard);
                wanted.group = wanted.group.map(|group| groups.start + group % (groups.end - groups.start));
                if wanted.group.is_none() && !wanted.is_all() {
                    // A range that lies in one key group may lie in another shard's.
                    wanted.group = Some(keyspace.group_of(&key).0);
                }
                let seen = self.state[&space].scan(&wanted, groups, time_ms);
                (Do::Scan(keyspace, wanted), Seen::Entries(seen))
            }
        })
    }

    /// Reads all snapshots that are held.
    pub(crate) fn check_held(&mut self) {
        for index in 0..self.held.len() {
            for space in self.held[index].state.keys().cloned().collect::<Vec<_>>() {
                let reverse = self.random.chance(0.5);
                self.check_snapshot(index, &space, &Wanted::all(reverse));
            }
        }
    }

    fn check_snapshot(&mut self, index: usize, space: &str, wanted: &Wanted) {
        let (keyspace, home) = (self.keyspace(space), self.keyspace("whole"));
        let keys: Vec<Vec<u8>> = (0..20).map(|_| self.any_key(space)).collect();
        let held = &self.held[index];
        let shard = usize::from(self.engine().shard_of(&held.part).0);
        let of_shard = |key: &Vec<u8>| self.shard_of(space, key) == shard;
        let keys: Vec<Vec<u8>> = keys.into_iter().filter(of_shard).collect();
        let (id, space_then) = (held.id, &held.state[space]);
        let expected: Vec<_> = keys.iter().map(|key| space_then.get(&keyspace, key, self.now_ms)).collect();
        let range = wanted.range();
        let (found, values) = self
            .must(self.engine().on_shard(&held.part, move |shard| async move {
                let snapshot = {
                    let snapshots = shard.extension::<Snapshots>(&home);
                    let snapshots = snapshots.0.borrow();
                    let held = snapshots.iter().find(|held| held.0 == id);
                    held.expect("the shard holds the snapshot").1.clone()
                };
                read_snapshot(&snapshot, &keyspace, range, &keys).await
            }))
            .unwrap_or_else(|error| panic!("a snapshot's read fails: {error}"));
        assert_same(space, wanted, &found, &space_then.scan(wanted, self.groups_of(shard), self.now_ms));
        assert!(values == expected, "gets of a snapshot in {space}");
    }
}

async fn read_snapshot(
    snapshot: &Snapshot,
    keyspace: &Keyspace,
    range: siltstone::ScanRange,
    keys: &[Vec<u8>],
) -> Result<(Entries, Vec<Option<Vec<u8>>>)> {
    let mut scan = snapshot.scan(keyspace, range)?;
    let mut entries = Vec::new();
    while let Some(entry) = scan.next().await? {
        entries.push((entry.key.to_vec(), entry.value.to_vec()));
    }
    let mut values = Vec::new();
    for key in keys {
        values.push(snapshot.get(keyspace, key).await?.map(|value| value.to_vec()));
    }
    Ok((entries, values))
}

impl Do {
    async fn run(self, shard: &LocalShard) -> Result<Seen> {
        Ok(match self {
            Do::Get(keyspace, key) => Seen::Values(vec![shard.get(&keyspace, &key).await?.map(|value| value.to_vec())]),
            Do::GetMany(keyspace, keys) => {
                let values = shard.get_many(&keyspace, &keys).await?;
                Seen::Values(values.into_iter().map(|value| value.map(|value| value.to_vec())).collect())
            }
            Do::Put(keyspace, key, value) => {
                shard.put(&keyspace, &key, &value).await?;
                Seen::Done
            }
            Do::PutExpiring(keyspace, key, value, until_ms) => {
                shard.put_expiring(&keyspace, &key, &value, until_ms).await?;
                Seen::Done
            }
            Do::Delete(keyspace, key) => {
                shard.delete(&keyspace, &key).await?;
                Seen::Done
            }
            Do::Batch(batch) => {
                shard.write(&batch).await?;
                Seen::Done
            }
            Do::Scan(keyspace, wanted) => {
                let mut scan = shard.scan(&keyspace, wanted.range())?;
                let mut entries = Vec::new();
                while let Some(entry) = scan.next().await? {
                    entries.push((entry.key.to_vec(), entry.value.to_vec()));
                }
                Seen::Entries(entries)
            }
        })
    }
}
