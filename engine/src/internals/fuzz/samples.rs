//! Inputs to begin with.

use siltstone_io::Random;

use super::{ID, PAGE_BYTES};
use crate::log::LogPosition;
use crate::log::block::{BlockHeader, HEADER_BYTES};
use crate::manifest::{CheckpointInfo, ManifestEdit, ManifestState, SstRef, WalChain, encode_edits};
use crate::shard::encode_options;
use crate::table::{TableBuilder, TableOptions};
use crate::types::{Epoch, ExtentId, KeyspaceId, Kind, SeqNo, ShardId, Trailer};
use crate::volume::bytes::put_u32;
use crate::volume::{IoProfile, Superblock, WearCounters};
use crate::wal::BatchEncoder;

/// Inputs to begin with, by target: one valid thing each, and some that are nearly valid. Those of structured targets are random: any bytes
/// describe something.
pub fn seeds() -> Vec<(&'static str, Vec<Vec<u8>>)> {
    let table = sample_table();
    let page = |ty: u8| {
        let page = table.chunks(PAGE_BYTES).find(|page| page[1] == ty).expect("an SST has all kinds of blocks");
        [&[4], &b"\0\x01ke"[..], page].concat()
    };
    let last = (table.len() / PAGE_BYTES - 1) as u16;
    let footer = [&last.to_le_bytes()[..], &table[usize::from(last) * PAGE_BYTES..]].concat();
    let history = sample_history();
    vec![
        ("checkpoint_manifest", random(&[200, 700, 1500])),
        ("data_block", vec![page(1)]),
        ("filter_block", vec![page(2)]),
        ("index_block", vec![page(3)]),
        ("key_codec", vec![b"\x08\0\0\0\0\0\0\0\x07\x80\0\0\0\0\0\0\x01".to_vec(), b"\x05a\0\x01bc".to_vec()]),
        ("keyspace_options", vec![encode_options(&Default::default()), b"\x01\x08\x0a\x01\xe8\x07\0".to_vec()]),
        ("log_block", vec![sample_log_block(&sample_commit())]),
        ("log_walk", hostile_logs()),
        (
            "manifest_edits",
            vec![encode_edits(&ManifestState::default().snapshot()), encode_edits(&[]), encode_edits(&history)],
        ),
        (
            "open_volume",
            vec![vec![1, 0, 0, 0], random(&[30]).remove(0), random(&[70]).remove(0), random(&[200]).remove(0)],
        ),
        ("operations", random(&[100, 400, 900, 1600])),
        ("options", vec![small_options(), random(&[60]).remove(0)]),
        ("root_page", vec![sample_root()]),
        ("sst", vec![table.clone()]),
        ("sst_build", random(&[300, 1500])),
        ("sst_footer", vec![footer]),
        (
            "state_codec",
            vec![
                b"\x07\x01\x01\x01a\x04\0\x01\0".to_vec(),
                b"\x01\x01a\x01\0\0\0\0\0\0\xf0\x3f".to_vec(),
                b"\x01\x05\0\0\0\x02\x01a\x02bc".to_vec(),
                b"\x01\x02\x01a\x02bc".to_vec(),
            ],
        ),
        ("superblock", vec![sample_superblock(), b"no volume".to_vec()]),
        ("typed_values", random(&[100, 500])),
        ("wal_batches", random(&[200, 900])),
        ("wal_record", vec![sample_commit()]),
    ]
}

/// Layouts of `log_walk`: a log over three extents, which turn in a circle, then with a damaged block; and random ones.
fn hostile_logs() -> Vec<Vec<u8>> {
    // One head: page 0, log 7, extent 1, sequence 1, not closed. The successors.
    let head = [0, 0, 0, 1, 0, 0, 0, 2, 3, 1, 1, 1];
    // First and last, log 7, sequence 1, durable through 1, one page, next 2; at extent 1, page 0; a run of 90 blocks.
    let run = [4, 0, 0, 0, 2, 0, 0, 0, 90, 0, 0, 0, 0];
    let log = [&head[..], &[0], &run].concat();
    let damaged = [&head[..], &[1, 0x40, 0x50, 2, 0, 0xff], &run].concat();
    // The same log with a closed end, and a single block in its way.
    let closed = [&[0, 0, 0, 1, 0, 1, 40], &head[6..], &[0], &run, &[4, 0, 9, 9, 5, 2, 4, 1]].concat();
    [vec![log, damaged, closed], random(&[300, 800])].concat()
}

fn random(lengths: &[usize]) -> Vec<Vec<u8>> {
    let bytes = |length: &usize| {
        let mut bytes = vec![0; *length];
        Random::new(*length as u64).fill(&mut bytes);
        bytes
    };
    lengths.iter().map(bytes).collect()
}

/// Options that are valid: one shard, 4 MiB, 16 key groups, 64 KiB extents, 4 KiB pages, 32 KiB tables, 16 MiB.
fn small_options() -> Vec<u8> {
    let power = |log2: u8| 64 + log2;
    let mut bytes = vec![1, power(22), 16, power(16), power(12), power(15), power(24)];
    bytes.extend([0, 7, 0, 5, 0, 10, 0, 0]);
    bytes
}

fn sample_table() -> Vec<u8> {
    let mut pages = Vec::new();
    let options = TableOptions { page_bytes: PAGE_BYTES, ..TableOptions::default() };
    let mut builder = TableBuilder::new(ID, options);
    for index in 0..200u32 {
        let key = [&[0, 1], format!("key {index:05}").as_bytes()].concat();
        let kind = [Kind::Put, Kind::Delete, Kind::PutExpiring][index as usize % 3];
        let value = if kind == Kind::Delete { vec![] } else { vec![index as u8; 8 + index as usize % 20] };
        builder.add(&key, Trailer::new(SeqNo(u64::from(index)), kind), &value, &mut pages);
    }
    builder.finish(&mut pages);
    pages
}

fn sample_commit() -> Vec<u8> {
    let mut payload = Vec::new();
    for base in [1, 10] {
        let mut encoder = BatchEncoder::begin(&mut payload, SeqNo(base));
        encoder.push(Kind::Put, KeyspaceId(1), b"\0\x01key", [b"", b"value"]);
        encoder.push(Kind::PutExpiring, KeyspaceId(1), b"\0\x02key", [&[0; 8], b"value"]);
        encoder.push(Kind::Delete, KeyspaceId(2), b"\0\x02key", [b"", b""]);
        encoder.end();
    }
    payload
}

fn sample_log_block(payload: &[u8]) -> Vec<u8> {
    let header = BlockHeader {
        first: true,
        last: true,
        log_id: 1,
        seq: 1,
        durable_through: 0,
        payload_bytes: payload.len() as u32,
        next: crate::types::ExtentId(2),
    };
    let mut block = vec![0; header.block_bytes()];
    block[HEADER_BYTES..HEADER_BYTES + payload.len()].copy_from_slice(payload);
    header.seal(&ID.volume, 0, &mut block);
    block
}

fn sample_superblock() -> Vec<u8> {
    let superblock = Superblock {
        volume: ID.volume,
        generation: 1,
        page_bytes: 4096,
        extent_bytes: 1 << 20,
        key_groups: 1024,
        capacity_bytes: 0,
        roots: vec![crate::types::ExtentId(1)],
        profile: Some(IoProfile {
            measured_ms: 1,
            read_p50_us: 80,
            read_p99_us: 150,
            read_iops: 400_000,
            read_bytes_per_s: 3 << 30,
            write_bytes_per_s: 1 << 30,
            durable_write_us: 20,
            background_bytes: 1 << 20,
            background_ops: 400,
            probed_bytes: 4 << 30,
        }),
    };
    let mut page = vec![0; 4096];
    superblock.encode(0, &mut page);
    page
}

/// A manifest with a keyspace, SSTs, a log and a checkpoint.
fn sample_history() -> Vec<ManifestEdit> {
    let (keyspace, groups) = (KeyspaceId(1), 0..8);
    let meta = |id| std::sync::Arc::new(super::manifest::sample_sst(id));
    let head = LogPosition { log_id: 3, extent: ExtentId(4), page: 0, seq: 1 };
    let chain = WalChain { head, end: Some(9), groups: groups.clone(), first_entry: SeqNo(5) };
    let info = CheckpointInfo { name: "c".into(), bytes: vec![1, 2], wall_ms: 5, shards: 2 };
    let pinned = |sst| ManifestEdit::CheckpointSst { id: 2, keyspace, level: 1, groups: 0..8, sst };
    vec![
        ManifestEdit::SnapshotStart { shard: ShardId(1) },
        ManifestEdit::KeyspaceIdFloor { next: KeyspaceId(2) },
        ManifestEdit::LastSeq { seq: SeqNo(9) },
        ManifestEdit::Epoch { epoch: Epoch(3) },
        ManifestEdit::WalFloor { chains: vec![chain] },
        ManifestEdit::Wear { counters: WearCounters::from_numbers([1, 2, 3, 4, 5, 6]) },
        ManifestEdit::KeyspaceCreate { id: keyspace, name: "k".into(), options: encode_options(&Default::default()) },
        ManifestEdit::SstAdd { keyspace, level: 0, groups: groups.clone(), meta: meta(6) },
        ManifestEdit::CheckpointBegin { id: 2, epoch: Epoch(2), last_seq: SeqNo(8) },
        ManifestEdit::CheckpointKeyspace { id: 2, keyspace, name: "k".into(), options: Vec::new() },
        pinned(SstRef::Known(meta(6).id)),
        pinned(SstRef::Whole(meta(7))),
        ManifestEdit::CheckpointCommit { id: 2, info },
        ManifestEdit::CheckpointPart { id: 3, epoch: Epoch(3) },
        ManifestEdit::SstRemove { keyspace, level: 0, first_group: 0, sst: meta(6).id },
        ManifestEdit::CheckpointDrop { id: 3 },
    ]
}

/// A root page that says: log 3 from its first block on, in extent 4.
fn sample_root() -> Vec<u8> {
    let mut page = vec![0; 4096];
    page[0] = 1;
    for (at, value) in [(8, 3), (16, 1), (24, 4), (32, 1)] {
        put_u32(&mut page, at, value);
    }
    page
}
