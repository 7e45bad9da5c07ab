//! The engine's parts in memory: memtable, block, filter, checksum, cache, log record.

#![expect(clippy::unwrap_used, reason = "a benchmark")]

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use siltstone::internals::{CachePart, MemtablePart, TablePart, WalPart};

const KEYS: u64 = 100_000;
const VALUE: [u8; 100] = [7; 100];

/// Keys as the shard stores them: two bytes of key group, ten of the user's; scattered.
fn key(index: u64) -> [u8; 12] {
    let mut key = [0; 12];
    let hash = (index + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    key[..2].copy_from_slice(&((hash >> 54) as u16).to_be_bytes());
    key[2..10].copy_from_slice(&hash.wrapping_mul(0xd6e8_feb8_6659_fd93).to_be_bytes());
    key[10..].copy_from_slice(&(index as u16).to_be_bytes());
    key
}

/// Steps through the keys so that neighbours in time are far apart.
fn scattered(step: &mut u64) -> u64 {
    *step = (*step + 61_803) % KEYS;
    *step
}

fn memtable(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("memtable");
    group.throughput(Throughput::Elements(KEYS));
    group.bench_function("put, 100 k keys in random order", |bencher| {
        bencher.iter_batched_ref(
            MemtablePart::new,
            |memtable| (0..KEYS).for_each(|index| memtable.put(&key(index), &VALUE)),
            BatchSize::LargeInput,
        );
    });
    let mut memtable = MemtablePart::new();
    (0..KEYS).for_each(|index| memtable.put(&key(index), &VALUE));
    let mut step = 0;
    group.throughput(Throughput::Elements(1));
    group.bench_function("get among 100 k keys", |bencher| {
        bencher.iter(|| memtable.get(&key(scattered(&mut step))).unwrap());
    });
    group.finish();
}

fn table(criterion: &mut Criterion) {
    let mut keys: Vec<[u8; 12]> = (0..KEYS).map(key).collect();
    keys.sort_unstable();
    let entries = || keys.iter().map(|key| (&key[..], &VALUE[..]));
    let table = TablePart::build(entries()).unwrap();
    let mut step = 0;

    let mut group = criterion.benchmark_group("block");
    group.throughput(Throughput::Elements(KEYS));
    group.bench_function("encode: an SST of 100 k entries", |bencher| {
        bencher.iter(|| TablePart::build(entries()).unwrap());
    });
    let block = table.find_block(&keys[keys.len() / 2]).unwrap().unwrap();
    let (in_block, _) = table.scan(block).unwrap();
    group.throughput(Throughput::Elements(in_block as u64));
    group.bench_function("decode: all entries of a block", |bencher| {
        bencher.iter(|| table.scan(black_box(block)).unwrap());
    });
    group.throughput(Throughput::Elements(1));
    group.bench_function("verify a block of 4 KiB", |bencher| bencher.iter(|| table.verify(black_box(block)).unwrap()));
    group.bench_function("seek in the index", |bencher| {
        bencher.iter(|| table.find_block(&key(scattered(&mut step))).unwrap().unwrap());
    });
    let from = keys.iter().position(|key| table.seek(block, key).unwrap().is_some()).unwrap();
    let mut at = 0;
    group.bench_function("seek in a block", |bencher| {
        bencher.iter(|| {
            at = (at + 17) % in_block;
            table.seek(block, &keys[from + at]).unwrap().unwrap()
        });
    });
    group.finish();

    let mut group = criterion.benchmark_group("filter");
    group.bench_function("probe for a key that is there", |bencher| {
        bencher.iter(|| assert!(table.filter_passes(&key(scattered(&mut step))).unwrap()));
    });
    group.bench_function("probe for an absent key", |bencher| {
        bencher.iter(|| table.filter_passes(&key(KEYS + scattered(&mut step))).unwrap());
    });
    group.finish();
}

fn crc(criterion: &mut Criterion) {
    let block: Vec<u8> = (0..4096_u32).map(|byte| ((byte * 31) >> 3) as u8).collect();
    let mut group = criterion.benchmark_group("crc");
    group.throughput(Throughput::Bytes(block.len() as u64));
    group.bench_function("crc32c of 4 KiB", |bencher| bencher.iter(|| crc32c::crc32c(black_box(&block))));
    group.finish();
}

fn cache(criterion: &mut Criterion) {
    const PAGES: u32 = 16 << 10;
    let cache = CachePart::filled(PAGES);
    let mut page = 0;
    criterion.bench_function("cache/hit among 16 k pages", |bencher| {
        bencher.iter(|| {
            page = (page + 6_151) % PAGES;
            cache.hit(page).unwrap()
        });
    });
}

fn wal(criterion: &mut Criterion) {
    let mut wal = WalPart::default();
    let mut step = 0;
    criterion.bench_function("wal/append of one put", |bencher| {
        bencher.iter(|| wal.append(&key(scattered(&mut step)), &VALUE, 256 << 10));
    });
}

criterion_group!(benches, memtable, table, crc, cache, wal);
criterion_main!(benches);
