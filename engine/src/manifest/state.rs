//! What a shard consists of, as replay of its manifest yields it.
//!
//! The state is a fold over records: [`ManifestState::apply`] is the only way it changes, in recovery and at run time alike, so what a
//! restart finds is what ran before. Records that do not fit the state (a second SST of one id, the end of a keyspace that is not
//! there) are corruption.
//!
//! # Invariants
//!
//! 1. A piece of an SST is at most once in the version of a keyspace, and an SST id means the same SST in the live version and in checkpoints.
//! 2. A commit record has a part: `committed` is a subset of `parts`.
//! 3. `snapshot()` applied to an empty state gives this state.
//!
//! A checkpoint part shares its version with the live one until the next change to it (`Arc::make_mut`), so taking one costs a
//! pointer for each keyspace.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use super::edit::{CheckpointInfo, ManifestEdit, SstMeta, SstRef, WalChain};
use crate::types::{Epoch, ExtentId, KeyspaceId, SeqNo, ShardId, SstId};
use crate::version::LEVELS;
use crate::volume::WearCounters;
use crate::{Error, Result};

const STRUCTURE: &str = "manifest";
/// What counts up goes on from what is stored, so that must leave room: no true volume has used up half of any range.
pub(super) const COUNTER_MAX: u64 = u64::MAX / 2;
pub(crate) const LAST_SEQ_MAX: SeqNo = SeqNo(SeqNo::MAX.0 / 2);
const NEXT_KEYSPACE_MAX: KeyspaceId = KeyspaceId(u32::MAX / 2);

/// The state of one shard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ManifestState {
    /// The shard.
    pub(crate) shard: ShardId,
    /// The least keyspace id that was never given out.
    pub(crate) next_keyspace: KeyspaceId,
    /// The live keyspaces.
    pub(crate) keyspaces: BTreeMap<KeyspaceId, Arc<KeyspaceState>>,
    /// What replay has to read.
    pub(crate) wal: Vec<WalChain>,
    /// Sequence numbers up to this one may be in use.
    pub(crate) last_seq: SeqNo,
    /// The newest epoch.
    pub(crate) epoch: Epoch,
    /// This shard's parts of checkpoints, committed or not.
    pub(crate) parts: BTreeMap<u64, CheckpointPart>,
    /// The committed checkpoints (in shard 0 only).
    pub(crate) committed: BTreeMap<u64, CheckpointInfo>,
    /// What the shard has cost the device.
    pub(crate) wear: WearCounters,
}

/// A keyspace: its options and its SSTs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeyspaceState {
    /// Its name.
    pub(crate) name: String,
    /// Its options, encoded by whoever knows them.
    pub(crate) options: Vec<u8>,
    /// Its SSTs by id and first visible key group: after a change of the number of shards several pieces of one SST may be here.
    pub(crate) ssts: BTreeMap<(SstId, u32), SstPlace>,
}

/// An SST and its place in the keyspace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SstPlace {
    /// Its level.
    pub(crate) level: u8,
    /// The key groups in which it is visible.
    pub(crate) groups: Range<u32>,
    /// The SST.
    pub(crate) meta: Arc<SstMeta>,
}

/// What a checkpoint pins of one shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CheckpointPart {
    /// The epoch that it ends.
    pub(crate) epoch: Epoch,
    /// The last sequence number in use.
    pub(crate) last_seq: SeqNo,
    /// The keyspaces as they were.
    pub(crate) keyspaces: BTreeMap<KeyspaceId, Arc<KeyspaceState>>,
}

impl ManifestState {
    /// The state of a new shard.
    pub(crate) fn new(shard: ShardId) -> Self {
        ManifestState { shard, ..ManifestState::default() }
    }

    /// Applies one group of records, in order. After an error the state is of no use.
    ///
    /// [`ManifestEdit::CheckpointPart`] pins the state after the whole group, wherever in the group it stands.
    pub(crate) fn apply_all(&mut self, edits: &[ManifestEdit]) -> Result<()> {
        let (parts, others): (Vec<_>, Vec<_>) =
            edits.iter().partition(|edit| matches!(edit, ManifestEdit::CheckpointPart { .. }));
        // A commit or drop of a checkpoint refers to a part, which may be of the same group.
        let (ends, changes): (Vec<_>, Vec<_>) = others.into_iter().partition(|edit| {
            matches!(edit, ManifestEdit::CheckpointCommit { .. } | ManifestEdit::CheckpointDrop { .. })
        });
        changes.into_iter().chain(parts).chain(ends).try_for_each(|edit| self.apply(edit))
    }

    fn apply(&mut self, edit: &ManifestEdit) -> Result<()> {
        match edit {
            ManifestEdit::SnapshotStart { shard } => *self = ManifestState::new(*shard),
            ManifestEdit::KeyspaceIdFloor { next } => {
                self.next_keyspace = self.next_keyspace.max(in_range("a keyspace id", *next, NEXT_KEYSPACE_MAX)?);
            }
            ManifestEdit::KeyspaceCreate { id, name, options } => self.create_keyspace(*id, name, options)?,
            ManifestEdit::KeyspaceDrop { id } => {
                self.keyspaces.remove(id).ok_or_else(|| no_keyspace(*id))?;
            }
            ManifestEdit::SstAdd { keyspace, level, groups, meta } => {
                let place = SstPlace { level: *level, groups: groups.clone(), meta: Arc::clone(meta) };
                add_sst(&mut self.keyspaces, *keyspace, place)?;
            }
            ManifestEdit::SstRemove { keyspace, level, first_group, sst } => {
                self.remove_sst(*keyspace, *level, (*sst, *first_group))?;
            }
            ManifestEdit::WalFloor { chains } => self.wal.clone_from(chains),
            ManifestEdit::LastSeq { seq } => {
                self.last_seq = self.last_seq.max(in_range("a sequence number", *seq, LAST_SEQ_MAX)?);
            }
            ManifestEdit::Epoch { epoch } => {
                self.epoch = self.epoch.max(in_range("an epoch", *epoch, Epoch(COUNTER_MAX))?);
            }
            ManifestEdit::CheckpointPart { id, epoch } => {
                let part = CheckpointPart { epoch: *epoch, last_seq: self.last_seq, keyspaces: self.keyspaces.clone() };
                self.add_part(*id, part)?;
            }
            ManifestEdit::CheckpointCommit { id, info } => {
                if !self.parts.contains_key(id) {
                    return Err(inconsistent(format!("checkpoint {id} is committed but has no part")));
                }
                if self.committed.insert(*id, info.clone()).is_some() {
                    return Err(inconsistent(format!("checkpoint {id} is committed twice")));
                }
            }
            ManifestEdit::CheckpointDrop { id } => {
                self.parts.remove(id).ok_or_else(|| no_checkpoint(*id))?;
                self.committed.remove(id);
            }
            ManifestEdit::CheckpointBegin { id, epoch, last_seq } => {
                let part = CheckpointPart { epoch: *epoch, last_seq: *last_seq, keyspaces: BTreeMap::new() };
                self.add_part(*id, part)?;
            }
            ManifestEdit::CheckpointKeyspace { id, keyspace, name, options } => {
                let part = self.parts.get_mut(id).ok_or_else(|| no_checkpoint(*id))?;
                let state = KeyspaceState::new(name, options);
                if part.keyspaces.insert(*keyspace, Arc::new(state)).is_some() {
                    return Err(inconsistent(format!("checkpoint {id} has keyspace {keyspace} twice")));
                }
            }
            ManifestEdit::CheckpointSst { id, keyspace, level, groups, sst } => {
                let meta = match sst {
                    SstRef::Whole(meta) => Arc::clone(meta),
                    SstRef::Known(sst) => self.find(*keyspace, *sst).ok_or_else(|| no_sst(*keyspace, *sst))?,
                };
                let part = self.parts.get_mut(id).ok_or_else(|| no_checkpoint(*id))?;
                add_sst(&mut part.keyspaces, *keyspace, SstPlace { level: *level, groups: groups.clone(), meta })?;
            }
            ManifestEdit::Wear { counters } => self.wear = *counters,
        }
        Ok(())
    }

    /// The records that rebuild this state from nothing; one group.
    pub(crate) fn snapshot(&self) -> Vec<ManifestEdit> {
        let mut edits = vec![
            ManifestEdit::SnapshotStart { shard: self.shard },
            ManifestEdit::KeyspaceIdFloor { next: self.next_keyspace },
            ManifestEdit::LastSeq { seq: self.last_seq },
            ManifestEdit::Epoch { epoch: self.epoch },
            ManifestEdit::WalFloor { chains: self.wal.clone() },
            ManifestEdit::Wear { counters: self.wear },
        ];
        let mut known: BTreeSet<(KeyspaceId, SstId)> = BTreeSet::new();
        for (&id, keyspace) in &self.keyspaces {
            let (name, options) = (keyspace.name.clone(), keyspace.options.clone());
            edits.push(ManifestEdit::KeyspaceCreate { id, name, options });
            for place in keyspace.ssts.values() {
                known.insert((id, place.meta.id));
                let meta = Arc::clone(&place.meta);
                edits.push(ManifestEdit::SstAdd {
                    keyspace: id,
                    level: place.level,
                    groups: place.groups.clone(),
                    meta,
                });
            }
        }
        for (&id, part) in &self.parts {
            edits.push(ManifestEdit::CheckpointBegin { id, epoch: part.epoch, last_seq: part.last_seq });
            for (&keyspace, state) in &part.keyspaces {
                let (name, options) = (state.name.clone(), state.options.clone());
                edits.push(ManifestEdit::CheckpointKeyspace { id, keyspace, name, options });
                for place in state.ssts.values() {
                    let sst = if known.insert((keyspace, place.meta.id)) {
                        SstRef::Whole(Arc::clone(&place.meta))
                    } else {
                        SstRef::Known(place.meta.id)
                    };
                    edits.push(ManifestEdit::CheckpointSst {
                        id,
                        keyspace,
                        level: place.level,
                        groups: place.groups.clone(),
                        sst,
                    });
                }
            }
        }
        let commits = self.committed.iter().filter(|_| !mutant!(SnapshotForgetsCheckpoints));
        edits.extend(commits.map(|(&id, info)| ManifestEdit::CheckpointCommit { id, info: info.clone() }));
        edits
    }

    /// Every SST that the live version or a checkpoint part holds, once.
    pub(crate) fn ssts(&self) -> BTreeMap<SstId, Arc<SstMeta>> {
        let parts = self.parts.values().flat_map(|part| part.keyspaces.values());
        let places = self.keyspaces.values().chain(parts).flat_map(|keyspace| keyspace.ssts.values());
        places.map(|place| (place.meta.id, Arc::clone(&place.meta))).collect()
    }

    /// Whether the live version holds an SST.
    pub(crate) fn keeps_live(&self, sst: SstId) -> bool {
        self.keyspaces.values().any(|keyspace| keyspace.ssts.keys().any(|key| key.0 == sst))
    }

    /// The extents of [`ManifestState::ssts`]. The WAL's are known to its chain, the manifest's own to its log.
    pub(crate) fn sst_extents(&self) -> Vec<ExtentId> {
        self.ssts().values().flat_map(|meta| meta.extents.iter().copied()).collect()
    }

    /// The SSTs of the live version and of checkpoints that these records may be the last to refer to.
    pub(super) fn touched_ssts(&self, edits: &[ManifestEdit]) -> BTreeSet<(KeyspaceId, SstId)> {
        let all = |id: KeyspaceId, keyspace: &KeyspaceState| -> Vec<_> {
            keyspace.ssts.keys().map(|&(sst, _)| (id, sst)).collect()
        };
        let touched = edits.iter().flat_map(|edit| match edit {
            ManifestEdit::SstRemove { keyspace, sst, .. } => vec![(*keyspace, *sst)],
            ManifestEdit::KeyspaceDrop { id } => self.keyspaces.get(id).map(|ks| all(*id, ks)).unwrap_or_default(),
            ManifestEdit::CheckpointDrop { id } => {
                let keyspaces = self.parts.get(id).into_iter().flat_map(|part| &part.keyspaces);
                keyspaces.flat_map(|(&id, keyspace)| all(id, keyspace)).collect()
            }
            _ => Vec::new(),
        });
        touched.collect()
    }

    /// Whether the live version or a checkpoint part holds an SST.
    pub(super) fn refers_to(&self, keyspace: KeyspaceId, sst: SstId) -> bool {
        self.find(keyspace, sst).is_some()
    }

    fn create_keyspace(&mut self, id: KeyspaceId, name: &str, options: &[u8]) -> Result<()> {
        if self.keyspaces.values().any(|keyspace| keyspace.name == name) {
            return Err(inconsistent(format!("there are two keyspaces of the name {name:?}")));
        }
        if self.keyspaces.insert(id, Arc::new(KeyspaceState::new(name, options))).is_some() {
            return Err(inconsistent(format!("keyspace {id} is created twice")));
        }
        in_range("a keyspace id", id, NEXT_KEYSPACE_MAX)?;
        self.next_keyspace = self.next_keyspace.max(KeyspaceId(id.0 + 1));
        Ok(())
    }

    fn remove_sst(&mut self, keyspace: KeyspaceId, level: u8, piece: (SstId, u32)) -> Result<()> {
        let state = self.keyspaces.get_mut(&keyspace).ok_or_else(|| no_keyspace(keyspace))?;
        let sst = piece.0;
        match state.ssts.get(&piece) {
            None => return Err(no_sst(keyspace, sst)),
            Some(place) if place.level != level => {
                let reason = format!("SST {sst} is removed from level {level} but is in level {}", place.level);
                return Err(inconsistent(reason));
            }
            Some(_) => {}
        }
        Arc::make_mut(state).ssts.remove(&piece);
        Ok(())
    }

    fn add_part(&mut self, id: u64, part: CheckpointPart) -> Result<()> {
        in_range("a checkpoint id", id, COUNTER_MAX)?;
        in_range("an epoch", part.epoch, Epoch(COUNTER_MAX))?;
        in_range("a sequence number", part.last_seq, LAST_SEQ_MAX)?;
        if self.parts.insert(id, part).is_some() {
            return Err(inconsistent(format!("checkpoint {id} has two parts")));
        }
        Ok(())
    }

    fn find(&self, keyspace: KeyspaceId, sst: SstId) -> Option<Arc<SstMeta>> {
        let versions = std::iter::once(&self.keyspaces).chain(self.parts.values().map(|part| &part.keyspaces));
        let pieces = |keyspaces: &'_ BTreeMap<KeyspaceId, Arc<KeyspaceState>>| {
            let mut pieces = keyspaces.get(&keyspace)?.ssts.range((sst, 0)..=(sst, u32::MAX));
            pieces.next().map(|(_, place)| Arc::clone(&place.meta))
        };
        versions.filter_map(pieces).next()
    }
}

impl KeyspaceState {
    fn new(name: &str, options: &[u8]) -> Self {
        KeyspaceState { name: name.to_owned(), options: options.to_vec(), ssts: BTreeMap::new() }
    }
}

fn add_sst(
    keyspaces: &mut BTreeMap<KeyspaceId, Arc<KeyspaceState>>,
    keyspace: KeyspaceId,
    place: SstPlace,
) -> Result<()> {
    let state = keyspaces.get_mut(&keyspace).ok_or_else(|| no_keyspace(keyspace))?;
    let id = place.meta.id;
    if usize::from(place.level) >= LEVELS {
        return Err(inconsistent(format!("SST {id} is in level {}; there are {LEVELS}", place.level)));
    }
    if Arc::make_mut(state).ssts.insert((id, place.groups.start), place).is_some() {
        return Err(inconsistent(format!("SST {id} is in keyspace {keyspace} twice")));
    }
    Ok(())
}

fn in_range<T: PartialOrd + std::fmt::Debug>(what: &str, value: T, max: T) -> Result<T> {
    if value > max { Err(inconsistent(format!("{what} has no room behind it: {value:?}"))) } else { Ok(value) }
}

fn inconsistent(reason: String) -> Error {
    Error::corruption(STRUCTURE, reason)
}

fn no_keyspace(id: KeyspaceId) -> Error {
    inconsistent(format!("there is no keyspace {id}"))
}

fn no_sst(keyspace: KeyspaceId, sst: SstId) -> Error {
    inconsistent(format!("there is no SST {sst} in keyspace {keyspace}"))
}

fn no_checkpoint(id: u64) -> Error {
    inconsistent(format!("there is no checkpoint {id}"))
}

#[cfg(test)]
mod tests {
    use super::super::edit::tests::sst;
    use super::*;
    use proptest::prelude::*;

    fn keyspace(id: u32) -> ManifestEdit {
        ManifestEdit::KeyspaceCreate { id: KeyspaceId(id), name: format!("ks{id}"), options: vec![id as u8] }
    }

    fn add(keyspace: u32, id: u64) -> ManifestEdit {
        ManifestEdit::SstAdd { keyspace: KeyspaceId(keyspace), level: (id % 3) as u8, groups: 0..8, meta: sst(id) }
    }

    fn remove(keyspace: u32, id: u64) -> ManifestEdit {
        ManifestEdit::SstRemove {
            keyspace: KeyspaceId(keyspace),
            level: (id % 3) as u8,
            first_group: 0,
            sst: SstId(id),
        }
    }

    fn commit(id: u64) -> ManifestEdit {
        let info = CheckpointInfo { name: format!("c{id}"), bytes: vec![1, 2], wall_ms: 5, shards: 2 };
        ManifestEdit::CheckpointCommit { id, info }
    }

    fn state(edits: &[ManifestEdit]) -> ManifestState {
        let mut state = ManifestState::new(ShardId(3));
        state.apply_all(edits).unwrap();
        state
    }

    fn refuses(before: &[ManifestEdit], edit: ManifestEdit) {
        let error = state(before).apply_all(std::slice::from_ref(&edit)).expect_err("an inconsistent record");
        assert!(error.is_corruption(), "{edit:?}: {error}");
    }

    #[test]
    fn a_checkpoint_part_pins_what_is_removed_later() {
        let part = ManifestEdit::CheckpointPart { id: 1, epoch: Epoch(4) };
        let mut state = state(&[keyspace(1), add(1, 7), part.clone(), add(1, 8)]);
        state.apply_all(&[remove(1, 7), commit(1)]).unwrap();
        state.apply_all(&[ManifestEdit::KeyspaceDrop { id: KeyspaceId(1) }]).unwrap();
        assert!(state.keyspaces.is_empty());
        assert_eq!(
            state.ssts().into_keys().collect::<Vec<_>>(),
            [SstId(7), SstId(8)],
            "the part is of the whole group"
        );
        assert_eq!(state.sst_extents().len(), 4);
        state.apply_all(&[ManifestEdit::CheckpointDrop { id: 1 }]).unwrap();
        assert!(state.ssts().is_empty() && state.committed.is_empty());
        assert_eq!(state.next_keyspace, KeyspaceId(2), "ids are not given out again");
    }

    #[test]
    fn inconsistent_records_are_corruption() {
        let part = |id| ManifestEdit::CheckpointPart { id, epoch: Epoch(1) };
        refuses(&[keyspace(1)], keyspace(1));
        refuses(&[], ManifestEdit::KeyspaceDrop { id: KeyspaceId(1) });
        // Each once came to an overflow when the volume was opened.
        refuses(&[], ManifestEdit::KeyspaceIdFloor { next: KeyspaceId(u32::MAX) });
        refuses(&[], ManifestEdit::LastSeq { seq: SeqNo::MAX });
        refuses(&[], ManifestEdit::Epoch { epoch: Epoch(u64::MAX) });
        refuses(&[], ManifestEdit::CheckpointBegin { id: 1, epoch: Epoch(u64::MAX), last_seq: SeqNo(1) });
        refuses(&[], ManifestEdit::CheckpointBegin { id: 1, epoch: Epoch(1), last_seq: SeqNo::MAX });
        refuses(&[], part(u64::MAX));
        refuses(&[], add(1, 1));
        refuses(&[keyspace(1), add(1, 1)], add(1, 1));
        refuses(&[keyspace(1)], remove(1, 1));
        let elsewhere = ManifestEdit::SstRemove { keyspace: KeyspaceId(1), level: 2, first_group: 0, sst: SstId(1) };
        refuses(&[keyspace(1), add(1, 1)], elsewhere);
        refuses(&[part(1)], part(1));
        refuses(&[], commit(1));
        refuses(&[part(1), commit(1)], commit(1));
        refuses(&[], ManifestEdit::CheckpointDrop { id: 1 });
        let unknown = SstRef::Known(SstId(9));
        refuses(
            &[keyspace(1), part(1)],
            ManifestEdit::CheckpointSst { id: 1, keyspace: KeyspaceId(1), level: 0, groups: 0..8, sst: unknown },
        );
    }

    proptest! {
        /// Random histories: whatever is accepted, its snapshot rebuilds the same state.
        #[test]
        fn a_snapshot_rebuilds_the_state(steps in prop::collection::vec((0u8..10, 0u32..3, 0u64..12), 0..if cfg!(miri) { 12 } else { 80 })) {
            let mut state = ManifestState::new(ShardId(3));
            for (step, ks, id) in steps {
                let edit = match step {
                    0 => keyspace(ks),
                    1..=3 => add(ks, id),
                    4 => remove(ks, id),
                    5 => ManifestEdit::CheckpointPart { id, epoch: Epoch(id) },
                    6 => commit(id),
                    7 => ManifestEdit::CheckpointDrop { id },
                    8 => ManifestEdit::Wear { counters: WearCounters::from_numbers([id; 6]) },
                    _ => ManifestEdit::LastSeq { seq: SeqNo(id) },
                };
                let mut next = state.clone();
                if next.apply_all(&[edit]).is_ok() {
                    state = next;
                }
            }
            let bytes = super::super::edit::encode_edits(&state.snapshot());
            let mut rebuilt = ManifestState::default();
            rebuilt.apply_all(&super::super::edit::decode_edits(&bytes).unwrap()).unwrap();
            prop_assert_eq!(rebuilt, state);
        }
    }
}
