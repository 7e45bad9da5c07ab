//! The checksum of one 4 KiB block.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};

fn crc(criterion: &mut Criterion) {
    let block: Vec<u8> = (0..4096_u32).map(|byte| ((byte * 31) >> 3) as u8).collect();
    let mut group = criterion.benchmark_group("crc");
    group.throughput(Throughput::Bytes(block.len() as u64));
    group.bench_function("crc32c of 4 KiB", |bencher| bencher.iter(|| crc32c::crc32c(black_box(&block))));
    group.finish();
}

criterion_group!(benches, crc);
criterion_main!(benches);
