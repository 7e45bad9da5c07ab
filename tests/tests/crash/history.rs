//! What was written, and what of it must, may and must not be there after a crash.
//!
//! A shard's history has two orders: that in which writes were applied (and logged), and that of sequence numbers, in which those of an older
//! epoch come first. The log preserves a prefix of the one, memtables that were written out a prefix of the other. So:
//!
//! 1. What is recovered of a shard is the union of a prefix in each order. Without stragglers these are one.
//! 2. It holds everything that was acknowledged as durable, and everything that an earlier recovery showed.
//! 3. Batches are whole: the data is what the recovered writes make of it, replayed in the order of sequence numbers.
//! 4. A checkpoint holds exactly what began before its barrier.

use std::collections::{BTreeMap, BTreeSet};

/// Names a write; greater ones were submitted later.
pub(crate) type WriteId = u64;

/// One batch.
pub(crate) struct Write {
    /// The partition part of all its keys.
    pub(crate) part: [u8; 2],
    /// Keys behind the partition part, and values; none deletes.
    pub(crate) changes: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    /// In which run, and behind how many of its barriers, it began.
    pub(crate) run: u32,
    pub(crate) epoch: u32,
    /// Its place in its shard's order of application, once it was applied.
    pub(crate) applied: u32,
}

/// All writes ever, and the shards of the current run.
#[derive(Default)]
pub(crate) struct History {
    pub(crate) writes: BTreeMap<WriteId, Write>,
    /// What the current run began with.
    pub(crate) base: BTreeSet<WriteId>,
    /// What was submitted in the current run.
    pub(crate) submitted: BTreeSet<WriteId>,
    /// What each shard applied in the current run, in order.
    pub(crate) applied: Vec<Vec<WriteId>>,
    /// What was acknowledged as durable in the current run.
    pub(crate) durable: BTreeSet<WriteId>,
    /// Complete checkpoints, oldest first.
    pub(crate) checkpoints: Vec<(String, BTreeSet<WriteId>)>,
    /// One whose completion was not heard of.
    pub(crate) pending: Option<(String, BTreeSet<WriteId>)>,
    pub(crate) run: u32,
    pub(crate) epoch: u32,
}

impl History {
    /// A write has been applied in a shard.
    pub(crate) fn apply(&mut self, shard: usize, id: WriteId) {
        let applied = &mut self.applied[shard];
        applied.push(id);
        self.writes.get_mut(&id).expect("applied writes were submitted").applied = applied.len() as u32;
    }

    /// Everything that has begun so far.
    pub(crate) fn begun(&self) -> BTreeSet<WriteId> {
        self.base.union(&self.submitted).copied().collect()
    }

    pub(crate) fn all_applied(&self) -> BTreeSet<WriteId> {
        self.applied.iter().flatten().copied().collect()
    }

    /// Whether this checkpoint is the one not heard of, which now is known to exist.
    pub(crate) fn found_checkpoints(&mut self, names: &[String]) {
        if let Some(pending) = self.pending.take_if(|pending| names.last() == Some(&pending.0)) {
            self.checkpoints.push(pending);
        }
        self.pending = None;
        let known: Vec<&String> = self.checkpoints.iter().map(|checkpoint| &checkpoint.0).collect();
        assert!(names.iter().eq(known.iter().copied()), "checkpoints {names:?} were found; there should be {known:?}");
    }

    /// Rules 1 and 2.
    pub(crate) fn check_recovered(&self, recovered: &BTreeSet<WriteId>) {
        let must: BTreeSet<WriteId> = self.base.union(&self.durable).copied().collect();
        let missing: Vec<_> = must.difference(recovered).collect();
        assert!(missing.is_empty(), "writes {missing:?} were durable and are gone");
        let begun = self.begun();
        let strange: Vec<_> = recovered.difference(&begun).collect();
        assert!(strange.is_empty(), "writes {strange:?} were never made, or not on top of this state");
        let mut explained = self.base.clone();
        for applied in &self.applied {
            let mut by_sequence = applied.clone();
            by_sequence.sort_by_key(|id| (self.writes[id].epoch, self.writes[id].applied));
            for order in [applied, &by_sequence] {
                explained.extend(order.iter().take_while(|id| recovered.contains(id)));
            }
        }
        let holes: Vec<_> = recovered.difference(&explained).collect();
        assert!(holes.is_empty(), "writes {holes:?} were recovered without earlier ones; of {:?}", self.applied);
    }

    /// Rule 4.
    pub(crate) fn check_exact(&self, recovered: &BTreeSet<WriteId>, expected: &BTreeSet<WriteId>) {
        let missing: Vec<_> = expected.difference(recovered).collect();
        let extra: Vec<_> = recovered.difference(expected).collect();
        assert!(missing.is_empty() && extra.is_empty(), "a checkpoint lacks {missing:?} and has too much: {extra:?}");
    }

    /// Rule 3: the keys and values that these writes make.
    pub(crate) fn replay(&self, ids: &BTreeSet<WriteId>) -> BTreeMap<Vec<u8>, Vec<u8>> {
        let mut writes: Vec<&Write> = ids.iter().map(|id| &self.writes[id]).collect();
        writes.sort_by_key(|write| (write.run, write.epoch, write.applied));
        let mut data = BTreeMap::new();
        for write in writes {
            for (key, value) in &write.changes {
                let key = [&write.part[..], key].concat();
                match value {
                    Some(value) => drop(data.insert(key, value.clone())),
                    None => drop(data.remove(&key)),
                }
            }
        }
        data
    }

    /// A new run begins, on this state.
    pub(crate) fn begin_run(&mut self, base: BTreeSet<WriteId>, shards: usize) {
        self.base = base;
        self.submitted.clear();
        self.durable.clear();
        self.applied = vec![Vec::new(); shards];
        self.run += 1;
        self.epoch = 0;
    }
}
