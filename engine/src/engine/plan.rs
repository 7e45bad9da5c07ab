//! From the manifests that were found to those that the engine goes on with: restoring a checkpoint, changing the number of shards.
//!
//! Both are one pure function over manifest states; the opening then writes the new manifests beside the old ones and switches with one
//! superblock write.
//!
//! # Changing the number of shards
//!
//! Each new shard takes, of each old one, the SSTs (as *pieces*: an SST and the key groups in which it is visible) and logs that overlap its
//! key groups, clipped to them. An SST across a new border becomes a piece of each neighbour. Pieces of one SST that come together again are
//! joined where they touch and lie in one level; where they do not, each stays as it is: what one shard has compacted away in
//! between must stay invisible.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use crate::engine::route::groups_of_shard;
use crate::error::{Error, Result};
use crate::manifest::{CheckpointPart, KeyspaceState, ManifestState, SstPlace, WalChain};
use crate::types::{KeyspaceId, ShardId, SstId};
use crate::volume::WearCounters;

type Keyspaces = BTreeMap<KeyspaceId, Arc<KeyspaceState>>;

/// The states with the current versions replaced by a checkpoint's, or by nothing where that is `None`. The logs go.
pub(crate) fn restored(found: &[ManifestState], checkpoint: Option<u64>) -> Result<Vec<ManifestState>> {
    found
        .iter()
        .map(|state| {
            let mut state = state.clone();
            state.wal.clear();
            state.keyspaces = match checkpoint {
                Some(id) => {
                    let part = state.parts.get(&id).ok_or_else(|| {
                        Error::corruption("manifest", format!("checkpoint {id} has no part in shard {}", state.shard))
                            .located(state.shard.0, 0)
                    })?;
                    part.keyspaces.clone()
                }
                None => state.keyspaces.iter().map(|(id, keyspace)| (*id, Arc::new(without_ssts(keyspace)))).collect(),
            };
            Ok(state)
        })
        .collect()
}

/// The states for another number of shards.
pub(crate) fn resharded(found: &[ManifestState], shards: usize, key_groups: u32) -> Vec<ManifestState> {
    let committed = found.first().map(|first| first.committed.clone()).unwrap_or_default();
    (0..shards)
        .map(|shard| {
            let groups = groups_of_shard(shard, shards, key_groups);
            let parts = committed.keys().filter_map(|id| {
                let parts: Vec<&CheckpointPart> = found.iter().filter_map(|old| old.parts.get(id)).collect();
                let first = parts.first()?;
                let part = CheckpointPart {
                    epoch: first.epoch,
                    last_seq: parts.iter().map(|part| part.last_seq).max().unwrap_or_default(),
                    keyspaces: merged(parts.iter().map(|part| &part.keyspaces), &groups),
                };
                Some((*id, part))
            });
            ManifestState {
                shard: ShardId(shard as u16),
                next_keyspace: found.iter().map(|old| old.next_keyspace).max().unwrap_or_default(),
                keyspaces: merged(found.iter().map(|old| &old.keyspaces), &groups),
                wal: merged_chains(found.iter().flat_map(|old| &old.wal), &groups),
                last_seq: match mutant!(RescaleTakesLeastSeq) {
                    true => found.iter().map(|old| old.last_seq).min().unwrap_or_default(),
                    false => found.iter().map(|old| old.last_seq).max().unwrap_or_default(),
                },
                epoch: found.iter().map(|old| old.epoch).max().unwrap_or_default(),
                parts: parts.collect(),
                committed: if shard == 0 { committed.clone() } else { BTreeMap::new() },
                // Only the sum over all shards counts.
                wear: match shard {
                    0 => found.iter().fold(WearCounters::default(), |sum, old| sum.plus(&old.wear)),
                    _ => WearCounters::default(),
                },
            }
        })
        .collect()
}

fn without_ssts(keyspace: &KeyspaceState) -> KeyspaceState {
    KeyspaceState { name: keyspace.name.clone(), options: keyspace.options.clone(), ssts: BTreeMap::new() }
}

fn merged<'s>(states: impl Iterator<Item = &'s Keyspaces>, groups: &Range<u32>) -> Keyspaces {
    let mut result: BTreeMap<KeyspaceId, KeyspaceState> = BTreeMap::new();
    for keyspaces in states {
        for (id, keyspace) in keyspaces {
            let merged = result.entry(*id).or_insert_with(|| without_ssts(keyspace));
            for place in keyspace.ssts.values().filter_map(|place| clipped(place, groups)) {
                add_piece(&mut merged.ssts, place);
            }
        }
    }
    result.into_iter().map(|(id, keyspace)| (id, Arc::new(keyspace))).collect()
}

/// The piece of an SST that lies in these key groups.
fn clipped(place: &SstPlace, groups: &Range<u32>) -> Option<SstPlace> {
    let first = u32::from(group(&place.meta.smallest));
    let end = u32::from(group(&place.meta.largest)) + 1;
    let mut visible = intersection(&place.groups, groups)?;
    if visible != place.groups && mutant!(HandoverLosesAGroup) {
        visible.end -= 1;
    }
    intersection(&visible, &(first..end))?;
    Some(SstPlace { groups: visible, ..place.clone() })
}

/// The pieces of logs that lie in these key groups, those of one log joined where they touch.
fn merged_chains<'s>(chains: impl Iterator<Item = &'s WalChain>, groups: &Range<u32>) -> Vec<WalChain> {
    let mut merged: Vec<WalChain> = Vec::new();
    for chain in chains {
        let Some(groups) = intersection(&chain.groups, groups) else { continue };
        if groups.start > chain.groups.start && mutant!(LogHandedToOneShard) {
            continue;
        }
        // Shards own groups in order, so what touches comes next to each other.
        let touching = merged.iter_mut().find(|other| {
            (other.head, other.end, other.first_entry, other.groups.end)
                == (chain.head, chain.end, chain.first_entry, groups.start)
        });
        match touching {
            Some(other) => other.groups.end = groups.end,
            None => merged.push(WalChain { groups, ..chain.clone() }),
        }
    }
    merged
}

/// Adds a piece, joined with one of the same SST and level that it touches.
fn add_piece(pieces: &mut BTreeMap<(SstId, u32), SstPlace>, mut place: SstPlace) {
    let sst = place.meta.id;
    let touches = pieces.range((sst, 0)..=(sst, u32::MAX)).find(|(_, other)| {
        other.level == place.level && (other.groups.end == place.groups.start || place.groups.end == other.groups.start)
    });
    if let Some((&key, other)) = touches {
        place.groups = other.groups.start.min(place.groups.start)..other.groups.end.max(place.groups.end);
        pieces.remove(&key);
        return add_piece(pieces, place);
    }
    pieces.insert((sst, place.groups.start), place);
}

fn intersection(left: &Range<u32>, right: &Range<u32>) -> Option<Range<u32>> {
    let both = left.start.max(right.start)..left.end.min(right.end);
    (!both.is_empty()).then_some(both)
}

/// The key group of a stored key; the manifest's codec refuses bounds that have none.
fn group(stored: &[u8]) -> u16 {
    stored.first_chunk().map_or(0, |bytes| u16::from_be_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::log::LogPosition;
    use crate::manifest::{CheckpointInfo, ManifestEdit, SstMeta};
    use crate::types::{Epoch, ExtentId, SeqNo};

    const KEY_GROUPS: u32 = 64;

    fn sst(id: u64, groups: &Range<u32>) -> Arc<SstMeta> {
        let key = |group: u32| [&(group as u16).to_be_bytes()[..], b"key"].concat().into();
        Arc::new(SstMeta {
            id: SstId(id),
            pages: 1,
            extents: vec![ExtentId(id as u32)],
            footer_crc: 0,
            smallest: key(groups.start),
            largest: key(groups.end - 1),
            entries: 1,
            tombstones: 0,
            min_seq: SeqNo(0),
            max_seq: SeqNo(0),
            min_expiry: u64::MAX,
            max_expiry: u64::MAX,
            data_bytes: 1,
        })
    }

    /// One shard with these SSTs (group ranges), all of which a checkpoint holds too, and an open log.
    fn volume(ssts: &[Range<u32>]) -> Vec<ManifestState> {
        let mut state = ManifestState::new(ShardId(0));
        let options = Vec::new();
        let mut edits = vec![ManifestEdit::KeyspaceCreate { id: KeyspaceId(0), name: "k".into(), options }];
        edits.extend(ssts.iter().enumerate().map(|(id, groups)| ManifestEdit::SstAdd {
            keyspace: KeyspaceId(0),
            level: (id % 3) as u8,
            groups: 0..KEY_GROUPS,
            meta: sst(id as u64, groups),
        }));
        let head = LogPosition { log_id: 9, extent: ExtentId(99), page: 0, seq: 1 };
        edits.push(ManifestEdit::WalFloor {
            chains: vec![WalChain { head, end: Some(4), groups: 0..KEY_GROUPS, first_entry: crate::types::SeqNo(1) }],
        });
        edits.push(ManifestEdit::CheckpointPart { id: 1, epoch: Epoch(1) });
        let info = CheckpointInfo { name: "c".into(), bytes: vec![], wall_ms: 0, shards: 1 };
        edits.push(ManifestEdit::CheckpointCommit { id: 1, info });
        edits.push(ManifestEdit::Wear { counters: WearCounters::from_numbers([1, 2, 3, 4, 5, 6]) });
        state.apply_all(&edits).unwrap();
        vec![state]
    }

    /// For each key group, the SSTs with their levels that show it something, in the shard that owns it.
    fn visible(keyspaces: &[&Keyspaces]) -> Vec<BTreeSet<(u64, u8)>> {
        let owner = |group: u32| {
            (0..keyspaces.len())
                .find(|&shard| groups_of_shard(shard, keyspaces.len(), KEY_GROUPS).contains(&group))
                .unwrap()
        };
        let shows = |group: u32| {
            let places = keyspaces[owner(group)].values().flat_map(|keyspace| keyspace.ssts.values());
            let here = places.filter(|place| {
                let keys = u32::from(super::group(&place.meta.smallest))..=u32::from(super::group(&place.meta.largest));
                place.groups.contains(&group) && keys.contains(&group)
            });
            here.map(|place| (place.meta.id.0, place.level)).collect()
        };
        (0..KEY_GROUPS).map(shows).collect()
    }

    fn live(states: &[ManifestState]) -> Vec<BTreeSet<(u64, u8)>> {
        visible(&states.iter().map(|state| &state.keyspaces).collect::<Vec<_>>())
    }

    fn pinned(states: &[ManifestState]) -> Vec<BTreeSet<(u64, u8)>> {
        visible(&states.iter().map(|state| &state.parts[&1].keyspaces).collect::<Vec<_>>())
    }

    fn any_ssts() -> impl Strategy<Value = Vec<Range<u32>>> {
        prop::collection::vec(
            (0..KEY_GROUPS, 1..KEY_GROUPS).prop_map(|(start, n)| start..(start + n).min(KEY_GROUPS)),
            0..8,
        )
    }

    proptest! {
        /// What each key group sees survives any sequence of shard counts, and so does what a shard has dropped in between.
        #[test]
        fn resharding_changes_no_visibility(
            ssts in any_ssts(),
            steps in prop::collection::vec((1usize..9, any::<prop::sample::Index>(), any::<prop::sample::Index>()), 1..6),
        ) {
            let mut states = volume(&ssts);
            let checkpoint = pinned(&states);
            for (shards, at, which) in steps {
                let before = live(&states);
                states = resharded(&states, shards, KEY_GROUPS);
                prop_assert_eq!(states.len(), shards);
                prop_assert_eq!(&live(&states), &before);
                prop_assert_eq!(&pinned(&states), &checkpoint);
                // Every group's entries are replayed by exactly its owner.
                for (shard, state) in states.iter().enumerate() {
                    let groups = groups_of_shard(shard, shards, KEY_GROUPS);
                    prop_assert!(state.wal.iter().all(|chain| chain.groups == groups && chain.end == Some(4)));
                    prop_assert_eq!(state.wal.len(), 1);
                    prop_assert_eq!(state.committed.len(), usize::from(shard == 0));
                }
                let wear = states.iter().fold(WearCounters::default(), |sum, state| sum.plus(&state.wear));
                prop_assert_eq!(wear, WearCounters::from_numbers([1, 2, 3, 4, 5, 6]));
                // One shard compacts one of its pieces away: its groups never see that SST again.
                let shard = at.index(shards);
                let keyspace = Arc::make_mut(states[shard].keyspaces.get_mut(&KeyspaceId(0)).unwrap());
                if !keyspace.ssts.is_empty() {
                    let piece = *keyspace.ssts.keys().nth(which.index(keyspace.ssts.len())).unwrap();
                    keyspace.ssts.remove(&piece);
                }
            }
        }
    }

    #[test]
    fn pieces_of_one_sst_are_joined_again() {
        let whole = resharded(&volume(std::slice::from_ref(&(0..KEY_GROUPS))), 1, KEY_GROUPS);
        let split = resharded(&whole, 5, KEY_GROUPS);
        assert!(split.iter().all(|state| state.keyspaces[&KeyspaceId(0)].ssts.len() == 1));
        assert_eq!(resharded(&split, 1, KEY_GROUPS), whole);
    }

    #[test]
    fn restoring_takes_the_checkpoints_tables_and_no_log() {
        let mut states = volume(&[0..8, 8..64]);
        let before = pinned(&states);
        let keyspace = Arc::make_mut(states[0].keyspaces.get_mut(&KeyspaceId(0)).unwrap());
        keyspace.ssts.clear();
        let states = restored(&states, Some(1)).unwrap();
        assert_eq!(live(&states), before);
        assert!(states[0].wal.is_empty());
        assert!(restored(&states, Some(2)).unwrap_err().is_corruption());
        assert!(live(&restored(&states, None).unwrap()).iter().all(BTreeSet::is_empty));
    }
}
