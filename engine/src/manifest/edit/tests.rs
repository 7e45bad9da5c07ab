//! Records are encoded and decoded as they are laid out, and nothing that is read makes a decoder fail otherwise.

use super::*;
use proptest::prelude::*;

/// An SST with this id that the codec accepts.
pub(crate) fn sst(id: u64) -> Arc<SstMeta> {
    Arc::new(SstMeta {
        id: SstId(id),
        pages: 3,
        extents: vec![ExtentId(id as u32 * 2 + 10), ExtentId(id as u32 * 2 + 11)],
        footer_crc: 1,
        smallest: b"\0\0a".as_slice().into(),
        largest: b"\0\0b".as_slice().into(),
        entries: 2,
        tombstones: 1,
        min_seq: SeqNo(1),
        max_seq: SeqNo(2),
        min_expiry: u64::MAX,
        max_expiry: u64::MAX,
        data_bytes: 9,
    })
}

fn any_sst() -> impl Strategy<Value = Arc<SstMeta>> {
    let bytes = || prop::collection::vec(any::<u8>(), 2..20);
    (
        any::<(u64, u32, u64, u64, u64, u64)>(),
        1u32..,
        prop::collection::vec(1u32.., 1..5),
        bytes(),
        bytes(),
        any::<(u64, u64)>(),
    )
        .prop_map(
            |((id, footer_crc, min_expiry, max_expiry, data_bytes, entries), pages, extents, a, b, (s, t))| {
                let (s, t) = (s >> 8, t >> 8);
                let (smallest, largest) = if a <= b { (a, b) } else { (b, a) };
                Arc::new(SstMeta {
                    id: SstId(id),
                    pages,
                    extents: extents.into_iter().map(ExtentId).collect(),
                    footer_crc,
                    smallest: smallest.into(),
                    largest: largest.into(),
                    entries,
                    tombstones: entries / 3,
                    min_seq: SeqNo(s.min(t)),
                    max_seq: SeqNo(s.max(t)),
                    min_expiry,
                    max_expiry,
                    data_bytes,
                })
            },
        )
}

fn any_edit() -> impl Strategy<Value = ManifestEdit> {
    let bytes = || prop::collection::vec(any::<u8>(), 0..20);
    let keyspace = || any::<u32>().prop_map(KeyspaceId);
    let seq = || (0..=SeqNo::MAX.0).prop_map(SeqNo);
    let epoch = || any::<u64>().prop_map(Epoch);
    let groups = || (0..100u32, 1..100u32).prop_map(|(start, count)| start..start + count);
    let chain = (any::<(u64, u32, u32, u64, Option<u64>)>(), groups(), seq()).prop_map(
        |((log_id, extent, page, seq, end), groups, first_entry)| WalChain {
            head: LogPosition { log_id, extent: ExtentId(extent), page, seq },
            end,
            groups,
            first_entry,
        },
    );
    let sst_ref = prop_oneof![any::<u64>().prop_map(|id| SstRef::Known(SstId(id))), any_sst().prop_map(SstRef::Whole)];
    prop_oneof![
        any::<u16>().prop_map(|shard| ManifestEdit::SnapshotStart { shard: ShardId(shard) }),
        keyspace().prop_map(|next| ManifestEdit::KeyspaceIdFloor { next }),
        (keyspace(), ".{0,8}", bytes()).prop_map(|(id, name, options)| ManifestEdit::KeyspaceCreate {
            id,
            name,
            options
        }),
        keyspace().prop_map(|id| ManifestEdit::KeyspaceDrop { id }),
        (keyspace(), any::<u8>(), groups(), any_sst())
            .prop_map(|(keyspace, level, groups, meta)| { ManifestEdit::SstAdd { keyspace, level, groups, meta } }),
        (keyspace(), any::<(u8, u32, u64)>()).prop_map(|(keyspace, (level, first_group, sst))| {
            ManifestEdit::SstRemove { keyspace, level, first_group, sst: SstId(sst) }
        }),
        prop::collection::vec(chain, 0..4).prop_map(|chains| ManifestEdit::WalFloor { chains }),
        seq().prop_map(|seq| ManifestEdit::LastSeq { seq }),
        epoch().prop_map(|epoch| ManifestEdit::Epoch { epoch }),
        (any::<u64>(), epoch()).prop_map(|(id, epoch)| ManifestEdit::CheckpointPart { id, epoch }),
        (any::<(u64, u64, u16)>(), ".{0,8}", bytes()).prop_map(|((id, wall_ms, shards), name, bytes)| {
            ManifestEdit::CheckpointCommit { id, info: CheckpointInfo { name, bytes, wall_ms, shards } }
        }),
        any::<u64>().prop_map(|id| ManifestEdit::CheckpointDrop { id }),
        (any::<u64>(), epoch(), seq()).prop_map(|(id, epoch, last_seq)| ManifestEdit::CheckpointBegin {
            id,
            epoch,
            last_seq
        }),
        (any::<u64>(), keyspace(), ".{0,8}", bytes()).prop_map(|(id, keyspace, name, options)| {
            ManifestEdit::CheckpointKeyspace { id, keyspace, name, options }
        }),
        (keyspace(), any::<(u64, u8)>(), groups(), sst_ref).prop_map(|(keyspace, (id, level), groups, sst)| {
            ManifestEdit::CheckpointSst { id, keyspace, level, groups, sst }
        }),
        any::<[u64; 6]>().prop_map(|numbers| ManifestEdit::Wear { counters: WearCounters::from_numbers(numbers) }),
    ]
}

#[test]
fn an_unknown_record_is_skipped_only_where_it_says_so() {
    let group = |tag: u8| [&[VERSION, 1, 0, 0, 0, tag, 2, 0, 0, 0], b"xy".as_slice()].concat();
    assert_eq!(decode_edits(&group(0x80 | 99)).unwrap(), vec![]);
    let error = decode_edits(&group(99)).unwrap_err();
    assert!(error.is_corruption() && error.to_string().contains("record type 99"), "{error}");
}

#[test]
fn another_version_is_an_error() {
    let mut bytes = encode_edits(&[]);
    bytes[0] = 2;
    assert!(decode_edits(&bytes).unwrap_err().to_string().contains("version 2"));
}

#[test]
fn impossible_ssts_are_refused() {
    let refused = |change: fn(&mut SstMeta)| {
        let mut meta = (*sst(1)).clone();
        change(&mut meta);
        let edit = ManifestEdit::SstAdd { keyspace: KeyspaceId(1), level: 0, groups: 0..8, meta: Arc::new(meta) };
        assert!(decode_edits(&encode_edits(std::slice::from_ref(&edit))).unwrap_err().is_corruption(), "{edit:?}");
    };
    refused(|meta| meta.pages = 0);
    refused(|meta| meta.extents.clear());
    refused(|meta| meta.smallest = b"\0\0z".as_slice().into());
    refused(|meta| meta.max_seq = SeqNo(0));
    refused(|meta| meta.max_seq = SeqNo(1 << 56));
    refused(|meta| meta.tombstones = 3);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 2 } else { 512 }))]

    #[test]
    fn encodes_and_decodes(edits in prop::collection::vec(any_edit(), 0..8)) {
        prop_assert_eq!(decode_edits(&encode_edits(&edits)).unwrap(), edits);
    }

    #[test]
    fn a_group_cut_short_or_with_more_behind_it_is_refused(edits in prop::collection::vec(any_edit(), 0..4), cut: prop::sample::Index) {
        let mut bytes = encode_edits(&edits);
        prop_assert!(decode_edits(&bytes[..cut.index(bytes.len())]).is_err());
        bytes.push(0);
        prop_assert!(decode_edits(&bytes).is_err());
    }

    #[test]
    fn damaged_bytes_never_panic(edits in prop::collection::vec(any_edit(), 1..4), at: prop::sample::Index, value: u8) {
        let mut bytes = encode_edits(&edits);
        let at = at.index(bytes.len());
        bytes[at] = value;
        let _ = decode_edits(&bytes);
    }
}
