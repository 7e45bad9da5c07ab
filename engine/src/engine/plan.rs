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
                wal: found.iter().flat_map(|old| &old.wal).filter_map(|chain| clipped_chain(chain, &groups)).collect(),
                last_seq: found.iter().map(|old| old.last_seq).max().unwrap_or_default(),
                epoch: found.iter().map(|old| old.epoch).max().unwrap_or_default(),
                parts: parts.collect(),
                committed: if shard == 0 { committed.clone() } else { BTreeMap::new() },
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
    let visible = intersection(&place.groups, groups)?;
    intersection(&visible, &(first..end))?;
    Some(SstPlace { groups: visible, ..place.clone() })
}

fn clipped_chain(chain: &WalChain, groups: &Range<u32>) -> Option<WalChain> {
    Some(WalChain { groups: intersection(&chain.groups, groups)?, ..chain.clone() })
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
