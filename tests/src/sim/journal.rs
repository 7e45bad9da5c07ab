//! The operators' writes, and what of them must, may and must not be there after a crash.
//!
//! Each write is a batch of changes in `data` and an entry of its own in `journal`, so that what is found says which writes it consists of.
//! A shard's history has two orders: that in which writes were applied (and logged), and that of sequence numbers, in which those of an older
//! epoch come first. The log preserves a prefix of the one, memtables that were written out a prefix of the other. So:
//!
//! 1. What is recovered of a shard is the union of a prefix in each order. Without stragglers these are one.
//! 2. It holds everything that was acknowledged as durable, and everything that an earlier recovery showed.
//! 3. It holds nothing that was not submitted.
//! 4. Batches are whole: the data is what the recovered writes make of it, replayed in the order of sequence numbers.
//! 5. A checkpoint holds exactly what was applied and began before its barrier.
//!
//! Operations on typed state are writes too, without changes and without an entry: of them `typed` says which are there.

use std::collections::{BTreeMap, BTreeSet};

use super::order::{History, Moment, Place, Standing};

/// Names a write; greater ones were submitted later.
pub(crate) type WriteId = u64;

/// Keys and values.
pub(crate) type Data = BTreeMap<Vec<u8>, Vec<u8>>;

/// One batch.
pub(crate) struct Write {
    /// The partition part of all its keys.
    pub(crate) part: [u8; 2],
    /// Keys behind the partition part, and values; none deletes.
    pub(crate) changes: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    /// In which run, and behind how many of its barriers, it began.
    run: u32,
    epoch: u32,
    /// Whether it is an operation on typed state: it has no entry.
    typed: bool,
    /// Its place in its shard's order of application, once it was applied.
    applied: u32,
    /// When that was, and the virtual time of it.
    moment: Moment,
    applied_us: u64,
}

/// All writes ever, and the shards of the current run.
#[derive(Default)]
pub(crate) struct Journal {
    writes: BTreeMap<WriteId, Write>,
    /// What the current run began with.
    base: BTreeSet<WriteId>,
    /// What was submitted in the current run.
    submitted: BTreeSet<WriteId>,
    /// What each shard applied in the current run, in order.
    applied: Vec<Vec<WriteId>>,
    /// What was acknowledged as durable in the current run.
    durable: BTreeSet<WriteId>,
    /// What reads must show: base and everything applied since.
    current: Data,
    run: u32,
    epoch: u32,
}

impl Journal {
    pub(crate) fn submit(&mut self, part: [u8; 2], changes: Vec<(Vec<u8>, Option<Vec<u8>>)>) -> WriteId {
        self.add(part, changes, false)
    }

    /// An operation on typed state, which has no entry.
    pub(crate) fn submit_typed(&mut self, part: [u8; 2]) -> WriteId {
        self.add(part, Vec::new(), true)
    }

    fn add(&mut self, part: [u8; 2], changes: Vec<(Vec<u8>, Option<Vec<u8>>)>, typed: bool) -> WriteId {
        let id = self.writes.last_key_value().map_or(1, |(id, _)| id + 1);
        let (run, epoch) = (self.run, self.epoch);
        self.writes.insert(id, Write { part, changes, run, epoch, typed, applied: 0, moment: 0, applied_us: 0 });
        self.submitted.insert(id);
        id
    }

    pub(crate) fn write(&self, id: WriteId) -> &Write {
        &self.writes[&id]
    }

    /// Its key in the journal.
    pub(crate) fn key_of(&self, id: WriteId) -> Vec<u8> {
        [&self.writes[&id].part[..], &id.to_be_bytes()].concat()
    }

    /// A write has been applied in a shard.
    pub(crate) fn apply(&mut self, shard: usize, id: WriteId, moment: Moment, now_us: u64) {
        let applied = &mut self.applied[shard];
        applied.push(id);
        let write = self.writes.get_mut(&id).expect("applied writes were submitted");
        (write.applied, write.moment, write.applied_us) = (applied.len() as u32, moment, now_us);
        for (key, value) in &write.changes {
            change(&mut self.current, &write.part, key, value.as_ref());
        }
    }

    pub(crate) fn acknowledge(&mut self, ids: impl IntoIterator<Item = WriteId>) {
        self.durable.extend(ids);
    }

    /// What had been applied in the current run before this time is durable.
    pub(crate) fn acknowledge_before(&mut self, before_us: u64) {
        let is_old = |id: &&WriteId| self.writes[*id].applied_us < before_us;
        let old: Vec<WriteId> = self.applied.iter().flatten().filter(is_old).copied().collect();
        self.durable.extend(old);
    }

    /// What a read of `data` must give now, for who writes to this part alone.
    pub(crate) fn current(&self, part: [u8; 2], key: &[u8]) -> Option<&Vec<u8>> {
        self.current.get(&[&part[..], key].concat())
    }

    pub(crate) fn current_data(&self) -> &Data {
        &self.current
    }

    pub(crate) fn all_applied(&self) -> BTreeSet<WriteId> {
        self.applied.iter().flatten().copied().collect()
    }

    /// Whether a write of the current run was applied.
    pub(crate) fn is_applied(&self, id: WriteId) -> bool {
        let write = &self.writes[&id];
        write.run == self.run && write.applied > 0
    }

    /// The writes to a part that were submitted in the current run and have entries.
    pub(crate) fn entries_of(&self, part: [u8; 2]) -> BTreeSet<WriteId> {
        let has_entry = |id: &&WriteId| {
            let write = &self.writes[*id];
            write.part == part && !write.typed
        };
        self.submitted.iter().filter(has_entry).copied().collect()
    }

    /// Those of these writes that have entries.
    pub(crate) fn with_entries(&self, ids: &BTreeSet<WriteId>) -> BTreeSet<WriteId> {
        ids.iter().filter(|id| !self.writes[*id].typed).copied().collect()
    }

    /// The epoch to which what is sent now belongs.
    pub(crate) fn epoch(&self) -> u32 {
        self.epoch
    }

    /// A barrier opens: what has begun before it.
    pub(crate) fn barrier(&mut self) -> BTreeSet<WriteId> {
        self.epoch += 1;
        self.base.union(&self.submitted).copied().collect()
    }

    /// A write belongs to the epoch after that in which it was sent; which that is.
    pub(crate) fn begin_anew(&mut self, id: WriteId) -> u32 {
        let write = self.writes.get_mut(&id).expect("it was sent");
        write.epoch += 1;
        write.epoch
    }

    /// The last barrier has not opened after all.
    pub(crate) fn no_barrier(&mut self) {
        self.epoch -= 1;
    }

    /// Rule 5: what of the writes that began before a barrier its checkpoint holds, now that all of them have ended.
    pub(crate) fn cut(&self, begun: &BTreeSet<WriteId>) -> BTreeSet<WriteId> {
        let applied = self.all_applied();
        begun.iter().filter(|id| self.base.contains(id) || applied.contains(id)).copied().collect()
    }

    /// Everything with an entry that there may be: for the shard of a snapshot, what was in its part of the base and applied since.
    pub(crate) fn visible(&self) -> BTreeSet<WriteId> {
        self.with_entries(&self.base.union(&self.all_applied()).copied().collect())
    }

    /// Rules 1 to 3, with writes of which nobody can say whether they are there. Where the device has lied, what it lied about may be gone; the
    /// rest holds all the same.
    pub(crate) fn check_recovered(&self, recovered: &BTreeSet<WriteId>, unsure: &BTreeSet<WriteId>, lower_bound: bool) {
        let must: BTreeSet<WriteId> = self.base.union(&self.durable).copied().collect();
        let missing: Vec<_> = must.difference(recovered).filter(|id| !unsure.contains(id)).collect();
        assert!(missing.is_empty() || !lower_bound, "writes {missing:?} were durable and are gone");
        let strange: Vec<_> =
            recovered.iter().filter(|id| !self.base.contains(id) && !self.submitted.contains(id)).collect();
        assert!(strange.is_empty(), "writes {strange:?} were never made, or not on top of this state");
        let mut explained = self.base.clone();
        for applied in &self.applied {
            let mut by_sequence = applied.clone();
            by_sequence.sort_by_key(|id| (self.writes[id].epoch, self.writes[id].applied));
            for order in [applied, &by_sequence] {
                explained.extend(order.iter().take_while(|id| recovered.contains(id) || unsure.contains(id)));
            }
        }
        let holes: Vec<_> = recovered.difference(&explained).collect();
        assert!(
            holes.is_empty() || !lower_bound,
            "writes {holes:?} were recovered without earlier ones; of {:?}",
            self.applied
        );
    }

    /// What of the run was recovered and what was not, for who judges it together with other writes.
    pub(crate) fn tell(&self, recovered: &BTreeSet<WriteId>, unsure: &BTreeSet<WriteId>, history: &mut History) {
        for (shard, applied) in self.applied.iter().enumerate() {
            for id in applied.iter().filter(|id| !unsure.contains(id)) {
                let write = &self.writes[id];
                let standing = match recovered.contains(id) {
                    true => Standing::Last,
                    false => Standing::Lost { certain: true },
                };
                let place = Place { shard, epoch: write.epoch };
                history.add(place, (write.moment, write.moment), standing, || format!("write {id}"));
            }
        }
    }

    /// Rule 5.
    pub(crate) fn check_exact(&self, recovered: &BTreeSet<WriteId>, expected: &BTreeSet<WriteId>) {
        let missing: Vec<_> = expected.difference(recovered).collect();
        let extra: Vec<_> = recovered.difference(expected).collect();
        assert!(missing.is_empty() && extra.is_empty(), "a checkpoint lacks {missing:?} and has too much: {extra:?}");
    }

    /// Rule 4: the keys and values that these writes make.
    pub(crate) fn replay(&self, ids: &BTreeSet<WriteId>) -> Data {
        let mut writes: Vec<&Write> = ids.iter().map(|id| &self.writes[id]).collect();
        writes.sort_by_key(|write| (write.run, write.epoch, write.applied));
        let mut data = Data::new();
        for write in writes {
            for (key, value) in &write.changes {
                change(&mut data, &write.part, key, value.as_ref());
            }
        }
        data
    }

    /// Whether a scan of `data` that began at a moment, when this was there, may show what was found: of each key what was there, or what a write
    /// that was applied since has made of it.
    pub(crate) fn shows_since(&self, since: Moment, before: &Data, found: &Data) -> Result<(), String> {
        let mut made: BTreeMap<Vec<u8>, Vec<Option<&Vec<u8>>>> = BTreeMap::new();
        for applied in &self.applied {
            let recent = applied.iter().rev().map(|id| &self.writes[id]).take_while(|write| write.moment > since);
            for (part, (key, value)) in recent.flat_map(|write| write.changes.iter().map(|change| (write.part, change)))
            {
                made.entry([&part[..], key].concat()).or_default().push(value.as_ref());
            }
        }
        for key in before.keys().chain(found.keys()) {
            let shown = found.get(key);
            if shown != before.get(key) && !made.get(key).is_some_and(|values| values.contains(&shown)) {
                let brief =
                    |value: Option<&Vec<u8>>| value.map(|value| (value.len(), value[..value.len().min(8)].to_vec()));
                return Err(format!("{key:?} is {:?}; it was {:?}", brief(shown), brief(before.get(key))));
            }
        }
        Ok(())
    }

    /// Forgets some write that a read shows: for a check that must fail.
    pub(crate) fn forget_one(&mut self) {
        let applied: Vec<WriteId> = self.visible().into_iter().collect();
        if let Some(id) = applied.last() {
            self.base.remove(id);
            self.applied.iter_mut().for_each(|of_shard| of_shard.retain(|other| other != id));
        }
    }

    /// Forgets that one of these was submitted in the current run: for a check that must fail.
    pub(crate) fn forget_submission(&mut self, recovered: &BTreeSet<WriteId>) {
        if let Some(id) = recovered.intersection(&self.submitted).next().copied() {
            self.submitted.remove(&id);
        }
    }

    /// A new run begins, on this state.
    pub(crate) fn begin_run(&mut self, base: BTreeSet<WriteId>, shards: usize) {
        self.current = self.replay(&base);
        self.base = base;
        self.submitted.clear();
        self.durable.clear();
        self.applied = vec![Vec::new(); shards];
        self.run += 1;
        self.epoch = 0;
    }
}

fn change(data: &mut Data, part: &[u8; 2], key: &[u8], value: Option<&Vec<u8>>) {
    let key = [&part[..], key].concat();
    match value {
        Some(value) => drop(data.insert(key, value.clone())),
        None => drop(data.remove(&key)),
    }
}

/// The write that a key in the journal names.
pub(crate) fn id_of(key: &[u8]) -> WriteId {
    WriteId::from_be_bytes(key[2..].try_into().expect("a key in the journal is a partition part and an id"))
}
