//! The manifest: records, root pages, and histories of checkpoints.

use std::collections::BTreeSet;
use std::sync::Arc;

use arbitrary::{Arbitrary, Unstructured};

use super::ID;
use super::damage::Damage;
use super::logs::draw_bytes;
use crate::log::LogPosition;
use crate::manifest::root::{self, ROOT_BYTES, rewritten_root};
use crate::manifest::{
    CheckpointInfo, ManifestEdit, ManifestState, SstMeta, SstRef, WalChain, decode_edits, encode_edits,
};
use crate::types::{Epoch, ExtentId, KeyspaceId, SeqNo, ShardId, SstId};
use crate::volume::WearCounters;
use crate::volume::bytes::{placed_crc, put_u32};

/// Commits of one history, and records of one commit, at most.
const COMMITS_MAX: usize = 64;
const RECORDS_MAX: usize = 6;

/// A root page: what is accepted is written back as it was.
pub fn root_page(bytes: &[u8]) {
    let mut page = bytes.to_vec();
    page.resize(ROOT_BYTES, 0);
    let _ = rewritten_root(&ID.volume, &page);
    let crc = placed_crc(&ID.volume, 0, &page, root::CRC_AT);
    put_u32(&mut page, root::CRC_AT, crc);
    match rewritten_root(&ID.volume, &page) {
        Ok(again) => assert!(again == page, "a root page has one encoding"),
        Err(error) => assert!(error.is_corruption()),
    }
}

/// A group of manifest records: decoded, applied, and the resulting state written and read again.
pub fn manifest_edits(bytes: &[u8]) {
    let edits = match decode_edits(bytes) {
        Ok(edits) => edits,
        Err(error) => {
            assert!(error.is_corruption());
            return;
        }
    };
    assert_eq!(decode_edits(&encode_edits(&edits)).expect("what was just written"), edits);
    let mut state = ManifestState::default();
    match state.apply_all(&edits) {
        Ok(()) => check_state(&state),
        Err(error) => assert!(error.is_corruption()),
    }
}

/// A shard's history of commits over few keyspaces, SSTs and checkpoints, so that its records meet: each either fits and keeps the state's
/// invariants, or is refused as corruption. Then the snapshot of what they made is damaged and read once more.
pub fn checkpoint_manifest(bytes: &[u8]) {
    let mut input = Unstructured::new(bytes);
    let Ok(damage) = Damage::arbitrary(&mut input) else { return };
    let mut state = ManifestState::new(ShardId(1));
    for _ in 0..COMMITS_MAX {
        if input.is_empty() {
            break;
        }
        let Ok(edits) = draw_commit(&mut input) else { break };
        let encoded = encode_edits(&edits);
        assert_eq!(decode_edits(&encoded).expect("what was just written"), edits);
        let mut next = state.clone();
        match next.apply_all(&edits) {
            Ok(()) => {
                check_dropped(&state, &next, &edits);
                state = next;
            }
            Err(error) => assert!(error.is_corruption(), "{edits:?}: {error}"),
        }
        check_state(&state);
    }
    let mut snapshot = encode_edits(&state.snapshot());
    damage.apply(&mut snapshot);
    manifest_edits(&snapshot);
}

/// A checkpoint that was dropped holds nothing any more, and takes nothing from the others or the live version.
fn check_dropped(before: &ManifestState, after: &ManifestState, edits: &[ManifestEdit]) {
    let [ManifestEdit::CheckpointDrop { id }] = edits else { return };
    assert!(!after.parts.contains_key(id) && !after.committed.contains_key(id));
    let kept = |state: &ManifestState| -> BTreeSet<SstId> {
        let parts = state.parts.iter().filter(|(part, _)| *part != id).flat_map(|(_, part)| part.keyspaces.values());
        parts.chain(state.keyspaces.values()).flat_map(|keyspace| keyspace.ssts.keys().map(|piece| piece.0)).collect()
    };
    assert_eq!(kept(before), after.ssts().into_keys().collect(), "what others hold stays, and nothing else");
}

fn check_state(state: &ManifestState) {
    assert!(state.committed.keys().all(|id| state.parts.contains_key(id)), "a committed checkpoint has a part");
    let snapshot = decode_edits(&encode_edits(&state.snapshot())).expect("a snapshot reads back");
    let mut again = ManifestState::default();
    again.apply_all(&snapshot).expect("a snapshot applies");
    assert_eq!(again, *state, "a snapshot is the state");
    let pinned = state.parts.values().flat_map(|part| part.keyspaces.values());
    let mut held = state.keyspaces.values().chain(pinned).flat_map(|keyspace| keyspace.ssts.keys());
    let ssts = state.ssts();
    assert!(held.all(|(sst, _)| ssts.contains_key(sst)), "what a part pins is known");
}

/// One commit; ids are from small ranges.
fn draw_commit(input: &mut Unstructured<'_>) -> arbitrary::Result<Vec<ManifestEdit>> {
    let records = 1 + usize::from(u8::arbitrary(input)?) % RECORDS_MAX;
    (0..records).map(|_| draw_edit(input)).collect()
}

pub(super) fn draw_edit(input: &mut Unstructured<'_>) -> arbitrary::Result<ManifestEdit> {
    let tag = u8::arbitrary(input)? % 20;
    let keyspace = KeyspaceId(u32::from(u8::arbitrary(input)? % 3));
    let id = u64::from(u8::arbitrary(input)? % 6);
    let level = |sst: SstId| (sst.0 % 3) as u8;
    Ok(match tag {
        0..=1 => ManifestEdit::KeyspaceCreate { id: keyspace, name: draw_name(input)?, options: vec![tag] },
        2 => ManifestEdit::KeyspaceDrop { id: keyspace },
        3..=6 => {
            let meta = draw_sst(input)?;
            ManifestEdit::SstAdd { keyspace, level: level(meta.id), groups: draw_groups(input)?, meta }
        }
        7..=8 => {
            let sst = SstId(u64::from(u8::arbitrary(input)? % 16));
            ManifestEdit::SstRemove { keyspace, level: level(sst), first_group: draw_groups(input)?.start, sst }
        }
        9..=11 => ManifestEdit::CheckpointPart { id, epoch: Epoch(input.arbitrary()?) },
        12 => {
            let bytes = draw_bytes(input)?.to_vec();
            let info = CheckpointInfo { name: draw_name(input)?, bytes, wall_ms: input.arbitrary()?, shards: 2 };
            ManifestEdit::CheckpointCommit { id, info }
        }
        13..=14 => ManifestEdit::CheckpointDrop { id },
        15 => ManifestEdit::CheckpointBegin { id, epoch: Epoch(1), last_seq: draw_seq(input)? },
        16 => ManifestEdit::CheckpointKeyspace { id, keyspace, name: draw_name(input)?, options: Vec::new() },
        17 => {
            let meta = draw_sst(input)?;
            let (level, groups) = (level(meta.id), draw_groups(input)?);
            let sst = if bool::arbitrary(input)? { SstRef::Known(meta.id) } else { SstRef::Whole(meta) };
            ManifestEdit::CheckpointSst { id, keyspace, level, groups, sst }
        }
        18 => {
            let chains = (0..u8::arbitrary(input)? % 4).map(|_| draw_chain(input)).collect::<arbitrary::Result<_>>()?;
            ManifestEdit::WalFloor { chains }
        }
        _ => match id {
            0 => ManifestEdit::SnapshotStart { shard: ShardId(1) },
            1 => ManifestEdit::KeyspaceIdFloor { next: KeyspaceId(input.arbitrary()?) },
            2..=3 => ManifestEdit::Epoch { epoch: Epoch(input.arbitrary()?) },
            4 => ManifestEdit::Wear { counters: WearCounters::from_numbers(input.arbitrary()?) },
            _ => ManifestEdit::LastSeq { seq: draw_seq(input)? },
        },
    })
}

fn draw_name(input: &mut Unstructured<'_>) -> arbitrary::Result<String> {
    Ok(["a", "b", "c", "", "a checkpoint's name"][usize::from(u8::arbitrary(input)? % 5)].to_owned())
}

fn draw_groups(input: &mut Unstructured<'_>) -> arbitrary::Result<std::ops::Range<u32>> {
    let start = u32::from(u8::arbitrary(input)? % 4);
    Ok(start..start + 1 + u32::from(u8::arbitrary(input)? % 4))
}

fn draw_seq(input: &mut Unstructured<'_>) -> arbitrary::Result<SeqNo> {
    Ok(SeqNo(u64::arbitrary(input)? & SeqNo::MAX.0))
}

/// An SST that follows from its id, as one does that was written once.
fn draw_sst(input: &mut Unstructured<'_>) -> arbitrary::Result<Arc<SstMeta>> {
    let id = u64::from(u8::arbitrary(input)? % 16);
    Ok(Arc::new(sample_sst(id)))
}

/// An SST of this id.
pub(super) fn sample_sst(id: u64) -> SstMeta {
    SstMeta {
        id: SstId(id),
        pages: 3 + id as u32,
        extents: vec![ExtentId(id as u32 * 2 + 10), ExtentId(id as u32 * 2 + 11)],
        footer_crc: id as u32,
        smallest: [&[0, 0], &id.to_be_bytes()[..]].concat().into(),
        largest: [0, 9].into(),
        entries: 2 + id,
        tombstones: id,
        min_seq: SeqNo(1),
        max_seq: SeqNo(2 + id),
        min_expiry: u64::MAX,
        max_expiry: u64::MAX,
        data_bytes: 9,
    }
}

fn draw_chain(input: &mut Unstructured<'_>) -> arbitrary::Result<WalChain> {
    let (log_id, extent, page, seq) = input.arbitrary()?;
    Ok(WalChain {
        head: LogPosition { log_id, extent: ExtentId(extent), page, seq },
        end: input.arbitrary()?,
        groups: draw_groups(input)?,
        first_entry: draw_seq(input)?,
    })
}
