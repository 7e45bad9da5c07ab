//! Reads that an operator makes on its shard, of its client's own cells; scans and replies that nobody waits for to their end.

use std::collections::BTreeMap;
use std::ops::Bound;

use siltstone::{Error, Keyspace, LocalShard, Result, ScanRange};

use super::cells::CellId;
use super::plan::{CELL_SPACES, SPACES};
use super::workload::Client;

/// What an operator has found of the cells of one part.
struct Seen {
    got: Vec<Option<Vec<u8>>>,
    in_snapshot: Vec<Option<Vec<u8>>>,
    scanned: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Client {
    /// All ways to read some of the client's cells on their shard. Nobody writes them meanwhile.
    pub(crate) async fn look_around(&mut self) {
        let part = self.any_part();
        let space = CELL_SPACES.start + 1 + self.random.below(CELL_SPACES.len() as u64 - 1) as usize;
        let of_part = |id: &CellId| id.0 == space && id.1.starts_with(&part);
        let ids: Vec<CellId> = self.shift.oracle.lock().cells.ids().into_iter().filter(of_part).collect();
        let keys: Vec<Vec<u8>> = ids.iter().map(|id| id.1.clone()).collect();
        let keyspace = self.shift.spaces[space].clone();
        let (reverse, sync) = (self.random.chance(0.5), self.random.chance(0.2));
        let looked = self.shift.engine.on_shard(&part, move |shard| async move {
            assert!(shard.keyspace(SPACES[space].name).is_some_and(|found| found.id() == keyspace.id()));
            let group = shard.group_of(&keyspace, &part);
            assert!(shard.key_groups().contains(&group.0), "{part:?} is in {group:?}, which is another shard's");
            if sync {
                shard.sync().await?;
            }
            look(&shard, &keyspace, part, &keys, reverse).await
        });
        let looked = looked.await.and_then(|result| result);
        // To wait for the log is to wait for a write.
        let looked = match sync {
            true => self.shift.seen("reads of an operator, and sync", looked),
            false => self.shift.seen_read("reads of an operator", looked),
        };
        let Some(seen) = looked else { return };
        let mut scanned = seen.scanned;
        for (id, (got, in_snapshot)) in ids.iter().zip(seen.got.iter().zip(&seen.in_snapshot)) {
            self.observe(id, got.as_deref());
            assert!(got == in_snapshot, "a snapshot and a read of {id:?} differ");
            assert!(*got == scanned.remove(&id.1), "a scan and a read of {id:?} differ");
        }
        assert!(scanned.is_empty(), "a scan finds what was never written: {:?}", scanned.keys());
    }

    /// Begins to read, and does not wait for the end.
    pub(crate) async fn give_up(&mut self) {
        let id = self.any_cell();
        let (engine, keyspace) = (self.shift.engine.clone(), self.space(&id));
        let key = id.1.clone();
        let data = keyspace.clone();
        drop(engine.on_shard(&self.any_part(), move |shard| async move {
            // The key may be another shard's: that is refused.
            let _ = shard.get(&data, &key).await;
        }));
        let mut scan = engine.scan(&keyspace, ScanRange::all());
        let mut result = Ok(());
        for _ in 0..self.random.below(4) {
            match scan.next().await {
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(error) => result = Err(error),
            }
        }
        drop(scan);
        self.shift.seen_read("scan given up", result);
    }
}

async fn look(shard: &LocalShard, keyspace: &Keyspace, part: [u8; 2], keys: &[Vec<u8>], reverse: bool) -> Result<Seen> {
    let snapshot = shard.snapshot();
    let found = shard.get_many(keyspace, keys).await?;
    let got = found.into_iter().map(|value| value.map(|value| value.to_vec())).collect();
    let mut in_snapshot = Vec::new();
    for key in keys {
        in_snapshot.push(snapshot.get(keyspace, key).await?.map(|value| value.to_vec()));
    }
    // Keys have bytes behind the part; those of the part end before its successor.
    let range = ScanRange::range(Bound::Excluded(part.to_vec()), Bound::Excluded(vec![part[0], part[1] + 1]));
    let range = range.group(shard.group_of(keyspace, &part));
    let mut scan = shard.scan(keyspace, if reverse { range.reverse() } else { range })?;
    let (mut scanned, mut order) = (BTreeMap::new(), Vec::new());
    while let Some(entry) = scan.next().await? {
        order.push(entry.key.to_vec());
        scanned.insert(entry.key.to_vec(), entry.value.to_vec());
    }
    if reverse {
        order.reverse();
    }
    assert!(order.is_sorted(), "a scan of a shard is out of order");
    Ok::<_, Error>(Seen { got, in_snapshot, scanned })
}
