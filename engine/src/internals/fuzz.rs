//! Entry points of the fuzz targets: one function for each parser, taking arbitrary bytes.
//!
//! Each checks that its parser ends without a panic whatever the bytes, and, where there is a way back, that what was accepted is what
//! is written again. Checksums are made right first: a fuzzer cannot guess them, and bytes that fail them are rejected before anything is
//! parsed.

use siltstone_io::{Backend, Executor, ExecutorConfig, SharedDevice, SimClock, SimDisk, SimOptions};

use crate::log::BlockHeader;
use crate::manifest::{ManifestState, decode_edits, encode_edits};
use crate::memtable::Memtable;
use crate::shard::{decode_options, encode_options};
use crate::state::{Codec, EncodeBuf, KeyCodec, Postcard};
use crate::table::{
    BlockCursor, BlockHandle, BlockType, Directory, IndexCursor, Lookup, TableBuilder, TableId, TableOptions,
    check_entries, data_get, decode_footer, filter_may_contain, index_find, key_hash, seal, verify_block,
};
use crate::types::{KeyspaceId, Kind, ReadView, SeqNo, SstId, Trailer};
use crate::volume::bytes::{placed_crc, put_u32};
use crate::volume::{Superblock, probe};
use crate::wal::{BatchEncoder, decode_commit};

const PAGE_BYTES: usize = 512;
const ID: TableId = TableId { volume: *b"a volume to fuzz", sst: SstId(1) };
const SUPERBLOCK_CRC_AT: usize = 12;
const LOG_CRC_AT: usize = 4;
const LOG_PAYLOAD_CRC_AT: usize = 36;
const LOG_HEADER_BYTES: usize = 64;

/// Splits off a key to search for: its length is the first byte.
fn split_key(bytes: &[u8]) -> (&[u8], &[u8]) {
    match bytes.split_first() {
        Some((&length, rest)) => rest.split_at(usize::from(length).min(rest.len())),
        None => (&[], &[]),
    }
}

fn moves<B: AsRef<[u8]>>(cursor: &mut BlockCursor<B>, key: &[u8]) -> crate::Result<()> {
    cursor.seek(key, Trailer::NEWEST)?;
    for step in 0..64 {
        if !cursor.valid() {
            break;
        }
        std::hint::black_box((cursor.key().len(), cursor.trailer(), cursor.value().len()));
        if step % 3 == 2 { cursor.prev()? } else { cursor.next()? }
    }
    cursor.seek_last()?;
    while cursor.valid() {
        cursor.prev()?;
    }
    Ok(())
}

/// A data block: lookups and a cursor over bytes that nobody has verified, and then as `verify` sees them.
pub fn data_block(bytes: &[u8]) {
    let (key, block) = split_key(bytes);
    if let Ok(Lookup::Found(_, value)) = data_get(block, key, &ReadView::LATEST) {
        assert!(block.get(value).is_some(), "the value lies in the block");
    }
    let _ = check_entries(block, |_, _, _| Ok(()));
    if let Ok(mut cursor) = BlockCursor::new(block) {
        let _ = moves(&mut cursor, key);
    }
}

/// An index partition.
pub fn index_block(bytes: &[u8]) {
    let (key, block) = split_key(bytes);
    let _ = index_find(block, key, Trailer::NEWEST);
    let Ok(mut cursor) = IndexCursor::new(block) else { return };
    let _ = cursor.seek(key, Trailer::NEWEST);
    let _ = cursor.seek_first();
    while cursor.valid() {
        let _ = cursor.handle();
        if cursor.next().is_err() {
            break;
        }
    }
    let _ = cursor.seek_last().and_then(|()| cursor.prev());
}

/// A filter partition: what is no filter excludes nothing or something, but ends.
pub fn filter_block(bytes: &[u8]) {
    let (key, block) = split_key(bytes);
    std::hint::black_box(filter_may_contain(block, key_hash(key)));
}

/// A whole SST of small pages: footer, directory and all blocks, every checksum made right on the way down.
pub fn sst(bytes: &[u8]) {
    let mut pages = bytes.to_vec();
    pages.truncate(pages.len() / PAGE_BYTES * PAGE_BYTES);
    let _ = walk_sst(&mut pages);
}

/// The block of a handle, resealed, and the handle with its checksum.
fn resealed(pages: &mut [u8], handle: BlockHandle) -> Option<(BlockHandle, &[u8])> {
    let (start, end) = (handle.page as usize, handle.end()? as usize);
    let block = pages.get_mut(start.checked_mul(PAGE_BYTES)?..end.checked_mul(PAGE_BYTES)?)?;
    if block.is_empty() {
        return None;
    }
    let crc = seal(&ID, handle.page, block);
    Some((BlockHandle { crc, ..handle }, block))
}

fn walk_sst(pages: &mut [u8]) -> Option<()> {
    let last = (pages.len() / PAGE_BYTES).checked_sub(1)? as u32;
    let (handle, block) = resealed(pages, BlockHandle { page: last, pages: 1, crc: 0 })?;
    let footer = decode_footer(&ID, PAGE_BYTES, last, Some(handle.crc), block).ok()?;
    let (handle, block) = resealed(pages, footer.directory)?;
    let directory = Directory::decode(&ID, &handle, PAGE_BYTES, block).ok()?;
    let smallest = directory.properties().smallest.clone();
    std::hint::black_box(directory.find_index(&smallest, Trailer::NEWEST));
    std::hint::black_box((directory.find_filter(&smallest), directory.heap_bytes()));
    for partition in 0..directory.filter_partitions() {
        let (handle, block) = resealed(pages, directory.filter_handle(partition))?;
        if verify_block(&ID, BlockType::Filter, &handle, PAGE_BYTES, block).is_ok() {
            std::hint::black_box(filter_may_contain(block, key_hash(&smallest)));
        }
    }
    for partition in 0..directory.index_partitions() {
        let (handle, block) = resealed(pages, directory.index_handle(partition))?;
        verify_block(&ID, BlockType::Index, &handle, PAGE_BYTES, block).ok()?;
        let mut cursor = IndexCursor::new(block.to_vec()).ok()?;
        cursor.seek_first().ok()?;
        while cursor.valid() {
            let (handle, block) = resealed(pages, cursor.handle().ok()?)?;
            if verify_block(&ID, BlockType::Data, &handle, PAGE_BYTES, block).is_ok() {
                let _ = check_entries(block, |_, _, _| Ok(()));
                let _ = data_get(block, &smallest, &ReadView::LATEST);
                let _ = BlockCursor::new(block).and_then(|mut cursor| moves(&mut cursor, &smallest));
            }
            cursor.next().ok()?;
        }
    }
    Some(())
}

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
    let Some(header) = bytes.get_mut(..LOG_HEADER_BYTES) else { return };
    let crc = placed_crc(&ID.volume, 0, header, LOG_CRC_AT);
    put_u32(header, LOG_CRC_AT, crc);
    let Ok(header) = BlockHeader::decode(&ID.volume, 0, &bytes) else { return };
    let _ = header.payload(&bytes);
    if let Some(payload) = bytes.get(LOG_HEADER_BYTES..header.block_bytes()) {
        let crc = crc32c::crc32c(payload);
        put_u32(&mut bytes, LOG_PAYLOAD_CRC_AT, crc);
        let crc = placed_crc(&ID.volume, 0, &bytes[..LOG_HEADER_BYTES], LOG_CRC_AT);
        put_u32(&mut bytes, LOG_CRC_AT, crc);
        let header = BlockHeader::decode(&ID.volume, 0, &bytes).expect("only checksums have changed");
        let payload = header.payload(&bytes).expect("its checksum is right");
        assert_eq!(payload.len(), header.payload_bytes as usize);
    }
}

/// A group of manifest records: decoded, applied, and the resulting state written and read again.
pub fn manifest_edits(bytes: &[u8]) {
    let Ok(edits) = decode_edits(bytes) else { return };
    assert_eq!(decode_edits(&encode_edits(&edits)).expect("what was just written"), edits);
    let mut state = ManifestState::default();
    if state.apply_all(&edits).is_err() {
        return;
    }
    let snapshot = decode_edits(&encode_edits(&state.snapshot())).expect("a snapshot reads back");
    let mut again = ManifestState::default();
    again.apply_all(&snapshot).expect("a snapshot applies");
    assert_eq!(again, state, "a snapshot is the state");
}

/// The beginning of a device: a superblock, something else, or nothing.
pub fn superblock(bytes: &[u8]) {
    let mut bytes = bytes.to_vec();
    // Makes the first copy's checksum right for the place where it stands.
    if let Some(copy) = bytes.get_mut(..4096) {
        let mut volume = [0; 16];
        volume.copy_from_slice(&copy[16..32]);
        let crc = placed_crc(&volume, 0, copy, SUPERBLOCK_CRC_AT);
        put_u32(copy, SUPERBLOCK_CRC_AT, crc);
    }
    bytes.resize(bytes.len().next_multiple_of(4096).max(64 << 10), 0);
    let disk = SimDisk::new(1, SimOptions::default());
    disk.write_raw(0, &bytes);
    let backend = Backend::Simulated(SimClock::new());
    let mut executor = Executor::new(ExecutorConfig::default(), backend).expect("a simulation has all it needs");
    let device = executor.handle().attach(&SharedDevice::simulated(disk)).expect("a simulated disk attaches");
    let _ = executor.block_on(probe(&device));
}

/// Keys of typed state: what is accepted is written back as it was, and sorts as its bytes do.
pub fn key_codec(bytes: &[u8]) {
    let (left, right) = split_key(bytes);
    keys_of::<u64>(left, right);
    keys_of::<i32>(left, right);
    keys_of::<String>(left, right);
    keys_of::<Vec<u8>>(left, right);
    keys_of::<(String, i64)>(left, right);
    keys_of::<(Vec<u8>, String, bool)>(left, right);
}

fn keys_of<K: KeyCodec + Ord>(left: &[u8], right: &[u8]) {
    let encoded = |key: &K| {
        let mut out = EncodeBuf::new();
        key.encode_key(&mut out);
        out.to_vec()
    };
    let (left, right) = (K::decode_key(left).map(|key| (key, left)), K::decode_key(right).map(|key| (key, right)));
    for (key, bytes) in left.iter().chain(&right) {
        assert_eq!(encoded(key), *bytes, "a key has one encoding");
    }
    if let (Ok((left, left_bytes)), Ok((right, right_bytes))) = (&left, &right) {
        assert_eq!(left.cmp(right), left_bytes.cmp(right_bytes), "keys sort as their bytes do");
    }
}

/// Values of typed state.
pub fn state_codec(bytes: &[u8]) {
    type Nested = (u8, Option<Vec<(String, i64)>>, [bool; 3]);
    fn value<T: serde::Serialize + serde::de::DeserializeOwned>(bytes: &[u8]) {
        let Ok(value) = <Postcard as Codec<T>>::decode(bytes) else { return };
        let mut out = EncodeBuf::new();
        Postcard::encode(&value, &mut out).expect("what was decoded can be encoded");
        <Postcard as Codec<T>>::decode(&out).expect("what was encoded can be decoded");
    }
    value::<u64>(bytes);
    value::<String>(bytes);
    value::<Nested>(bytes);
    value::<std::collections::BTreeMap<String, Vec<f64>>>(bytes);
}

/// The stored options of a keyspace.
pub fn keyspace_options(bytes: &[u8]) {
    if let Ok(options) = decode_options("fuzzed", bytes) {
        let again = decode_options("fuzzed", &encode_options(&options)).expect("what was just written");
        assert_eq!(again, options);
    }
}

/// Inputs to begin with, by target: one valid thing each, and some that are nearly valid.
pub fn seeds() -> Vec<(&'static str, Vec<Vec<u8>>)> {
    let table = sample_table();
    let page = |ty: u8| {
        let page = table.chunks(PAGE_BYTES).find(|page| page[1] == ty).expect("an SST has all kinds of blocks");
        [&[4], &b"\0\x01ke"[..], page].concat()
    };
    vec![
        ("data_block", vec![page(1)]),
        ("filter_block", vec![page(2)]),
        ("index_block", vec![page(3)]),
        ("sst", vec![table.clone()]),
        ("wal_record", vec![sample_commit()]),
        ("log_block", vec![sample_log_block(&sample_commit())]),
        ("manifest_edits", vec![encode_edits(&ManifestState::default().snapshot()), encode_edits(&[])]),
        ("superblock", vec![sample_superblock(), b"no volume".to_vec()]),
        ("key_codec", vec![b"\x08\0\0\0\0\0\0\0\x07\x80\0\0\0\0\0\0\x01".to_vec(), b"\x05a\0\x01bc".to_vec()]),
        ("state_codec", vec![b"\x07\x01\x01\x01a\x04\0\x01\0".to_vec(), b"\x01\x01a\x01\0\0\0\0\0\0\xf0\x3f".to_vec()]),
        ("keyspace_options", vec![encode_options(&Default::default()), b"\x01\x08\x0a\x01\xe8\x07\0".to_vec()]),
    ]
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
    block[LOG_HEADER_BYTES..LOG_HEADER_BYTES + payload.len()].copy_from_slice(payload);
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
        roots: vec![crate::types::ExtentId(1)],
    };
    let mut page = vec![0; 4096];
    superblock.encode(0, &mut page);
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    type Target = fn(&[u8]);

    /// Each target takes its seeds and all their prefixes; with every byte changed in turn it still ends.
    #[test]
    fn targets_take_their_seeds_and_what_is_near_them() {
        let targets: [(&str, Target); 11] = [
            ("data_block", data_block),
            ("filter_block", filter_block),
            ("index_block", index_block),
            ("sst", sst),
            ("wal_record", wal_record),
            ("log_block", log_block),
            ("manifest_edits", manifest_edits),
            ("superblock", superblock),
            ("key_codec", key_codec),
            ("state_codec", state_codec),
            ("keyspace_options", keyspace_options),
        ];
        for ((name, seeds), (target_name, target)) in seeds().into_iter().zip(targets) {
            assert_eq!(name, target_name);
            for seed in seeds {
                target(&seed);
                for at in (0..seed.len()).step_by(1 + seed.len() / 200) {
                    target(&seed[..at]);
                    let mut changed = seed.clone();
                    changed[at] ^= 0x11;
                    target(&changed);
                }
            }
        }
    }

    #[test]
    fn the_sample_table_is_walked_to_its_end() {
        assert!(walk_sst(&mut sample_table()).is_some());
    }
}
