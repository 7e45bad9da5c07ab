//! The write-ahead log's records, log blocks, and the superblock.

use arbitrary::{Arbitrary, Unstructured};
use siltstone_io::{Backend, Executor, ExecutorConfig, SharedDevice, SimClock, SimDisk, SimOptions};

use super::ID;
use super::damage::Damage;
use crate::log::block::{self, BlockHeader, HEADER_BYTES};
use crate::memtable::Memtable;
use crate::types::{KeyspaceId, Kind, SeqNo, Trailer};
use crate::volume::bytes::{placed_crc, put_u32};
use crate::volume::contents;
use crate::volume::superblock::{self, SUPERBLOCK_BYTES};
use crate::wal::{BatchEncoder, WalOperation, decode_commit};

/// Batches of one commit, and operations of one batch, at most.
const BATCHES_MAX: usize = 8;

/// A commit of the write-ahead log, replayed into a memtable.
pub fn wal_record(bytes: &[u8]) {
    let memtable = Memtable::new();
    let mut operations = 0;
    let decoded = decode_commit(bytes, |operation| {
        operations += 1;
        let value = [operation.value, &[]];
        memtable.insert(operation.keyspace, operation.key, operation.trailer, value, SeqNo(0));
    });
    if decoded.is_ok() {
        assert_eq!(memtable.is_empty(), operations == 0, "every operation is an entry");
    }
}

/// Log blocks, one after the other.
pub fn log_block(bytes: &[u8]) {
    let mut bytes = bytes.to_vec();
    let Some(header) = bytes.get_mut(..HEADER_BYTES) else { return };
    let crc = placed_crc(&ID.volume, 0, header, block::CRC_AT);
    put_u32(header, block::CRC_AT, crc);
    let Ok(header) = BlockHeader::decode(&ID.volume, 0, &bytes) else { return };
    let _ = header.payload(&bytes);
    if let Some(payload) = bytes.get(HEADER_BYTES..header.block_bytes()) {
        let crc = crc32c::crc32c(payload);
        put_u32(&mut bytes, block::PAYLOAD_CRC_AT, crc);
        let crc = placed_crc(&ID.volume, 0, &bytes[..HEADER_BYTES], block::CRC_AT);
        put_u32(&mut bytes, block::CRC_AT, crc);
        let header = BlockHeader::decode(&ID.volume, 0, &bytes).expect("only checksums have changed");
        let payload = header.payload(&bytes).expect("its checksum is right");
        assert_eq!(payload.len(), header.payload_bytes as usize);
    }
}

/// Batches as a shard makes them: what is encoded is decoded, also after other batches; a damaged commit decodes or is corruption.
pub fn wal_batches(bytes: &[u8]) {
    let mut input = Unstructured::new(bytes);
    let Ok(batches) = draw_batches(&mut input) else { return };
    let Ok(damage) = Damage::arbitrary(&mut input) else { return };
    let mut payload = Vec::new();
    let mut expected = Vec::new();
    for (base, operations) in &batches {
        let mut encoder = BatchEncoder::begin(&mut payload, SeqNo(*base));
        for (index, (kind, keyspace, key, value)) in operations.iter().enumerate() {
            encoder.push(*kind, KeyspaceId(*keyspace), key, value.split_at(value.len() / 2).into());
            let trailer = Trailer::new(SeqNo(base + index as u64), *kind);
            expected.push(WalOperation { keyspace: KeyspaceId(*keyspace), key, trailer, value });
        }
        encoder.end();
    }
    let mut found = Vec::new();
    decode_commit(&payload, |operation| found.push(operation)).expect("what was just encoded");
    assert_eq!(found, expected, "a commit reads back");
    let mut damaged = payload.clone();
    damage.apply(&mut damaged);
    wal_record(&damaged);
    if damaged.len() < payload.len() && payload.starts_with(&damaged) {
        let mut left = 0;
        let cut = decode_commit(&damaged, |_| left += 1);
        assert!(cut.is_err() || left < expected.len() || batches.last().is_some_and(|batch| batch.1.is_empty()));
    }
}

type Operation = (Kind, u32, Vec<u8>, Vec<u8>);

fn draw_batches(input: &mut Unstructured<'_>) -> arbitrary::Result<Vec<(u64, Vec<Operation>)>> {
    let mut batches = Vec::new();
    for _ in 0..u8::arbitrary(input)? as usize % (BATCHES_MAX + 1) {
        let base = u64::arbitrary(input)? % (SeqNo::MAX.0 - BATCHES_MAX as u64);
        let mut operations = Vec::new();
        for _ in 0..u8::arbitrary(input)? as usize % (BATCHES_MAX + 1) {
            let kind = [Kind::Put, Kind::Delete, Kind::PutExpiring][usize::from(u8::arbitrary(input)? % 3)];
            let mut key = vec![0, 1];
            key.extend_from_slice(draw_bytes(input)?);
            let mut value = if kind == Kind::PutExpiring { vec![7; 8] } else { Vec::new() };
            value.extend_from_slice(draw_bytes(input)?);
            operations.push((kind, input.arbitrary()?, key, value));
        }
        batches.push((base, operations));
    }
    Ok(batches)
}

/// Some bytes behind their length.
pub(super) fn draw_bytes<'a>(input: &mut Unstructured<'a>) -> arbitrary::Result<&'a [u8]> {
    let length = usize::from(u8::arbitrary(input)?);
    input.bytes(length.min(input.len()))
}

/// The beginning of a device: a superblock, something else, or nothing.
pub fn superblock(bytes: &[u8]) {
    let mut bytes = bytes.to_vec();
    // Makes the first copy's checksum right for the place where it stands.
    if let Some(copy) = bytes.get_mut(..SUPERBLOCK_BYTES) {
        let mut volume = [0; 16];
        volume.copy_from_slice(&copy[superblock::VOLUME_AT..][..16]);
        let crc = placed_crc(&volume, 0, copy, superblock::CRC_AT);
        put_u32(copy, superblock::CRC_AT, crc);
    }
    bytes.resize(bytes.len().next_multiple_of(4096).max(64 << 10), 0);
    let disk = SimDisk::new(1, SimOptions::default());
    disk.write_raw(0, &bytes);
    let backend = Backend::Simulated(SimClock::new());
    let mut executor = Executor::new(ExecutorConfig::default(), backend).expect("a simulation has all it needs");
    let device = executor.handle().attach(&SharedDevice::simulated(disk)).expect("a simulated disk attaches");
    let _ = executor.block_on(contents(&device));
}
