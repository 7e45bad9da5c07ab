//! What reaches the device or another thread: ring reads, commits of the log, the mailbox.
//!
//! The files are made in the system's temporary directory: set `TMPDIR` to the filesystem to be measured.

#![expect(clippy::unwrap_used, clippy::disallowed_methods, reason = "a benchmark")]

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use siltstone::{Durability, Engine, KeyspaceOptions, Options};
use siltstone_io::{
    Backend, Buffer, Class, Executor, ExecutorConfig, OpenMode, Placement, SharedDevice, WriteDurability, local,
    mailbox,
};

const FILE_BYTES: u64 = 256 << 20;
const PAGE_BYTES: u64 = 4096;

/// Random reads of 4 KiB by the executor's ring, so many in flight.
fn ring_read(criterion: &mut Criterion) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pages");
    let shared = SharedDevice::open(&path, OpenMode::Create).unwrap();
    let mut executor = Executor::new(ExecutorConfig::default(), Backend::Ring).unwrap();
    let handle = executor.handle();
    let device = handle.attach(&shared).unwrap();
    executor.block_on(async {
        const CHUNK: usize = 256 << 10;
        device.allocate(0, FILE_BYTES).await.unwrap();
        for offset in (0..FILE_BYTES).step_by(CHUNK) {
            let write =
                device.write(offset, Buffer::heap(CHUNK), 0..CHUNK, WriteDurability::Cached, Placement::Deep).await;
            write.0.unwrap();
        }
        device.flush().await.unwrap();
    });
    for depth in [1_u64, 32] {
        let pool = handle.buffer_pool(PAGE_BYTES as usize, depth as usize);
        criterion.bench_function(&format!("ring/read of 4 KiB at depth {depth}"), |bencher| {
            bencher.iter_custom(|reads| {
                let start = Instant::now();
                let left = Rc::new(Cell::new(reads));
                let (done, event) = (Rc::new(Cell::new(0)), Rc::new(local::Event::new()));
                for task in 0..depth {
                    let (device, pool, left) = (device.clone(), pool.clone(), Rc::clone(&left));
                    let (done, event) = (Rc::clone(&done), Rc::clone(&event));
                    handle.spawn(Class::Foreground, async move {
                        let mut page = task.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
                        while left.get() > 0 {
                            left.set(left.get() - 1);
                            page = page.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
                            let offset = (page >> 33) % (FILE_BYTES / PAGE_BYTES) * PAGE_BYTES;
                            let frame = pool.take().unwrap();
                            device.read(offset, frame, PAGE_BYTES as usize).await.0.unwrap();
                        }
                        done.set(done.get() + 1);
                        event.notify_all();
                    });
                }
                executor.block_on(async {
                    while done.get() < depth {
                        event.wait().await;
                    }
                });
                start.elapsed()
            });
        });
    }
}

/// One put and its commit: through the log to stable storage, and only into the log's buffer.
fn wal_commit(criterion: &mut Criterion) {
    let durabilities = [("sync", Durability::Sync), ("interval", Durability::Interval(Duration::from_millis(100)))];
    for (name, durability) in durabilities {
        let directory = tempfile::tempdir().unwrap();
        let options =
            Options::at(directory.path()).durability(durability).keyspace("bench", KeyspaceOptions::default());
        let (engine, mut seeds) = Engine::open_driven(options).unwrap();
        let mut driver = seeds.remove(0).start().unwrap();
        let (shard, keyspace) = (driver.local(), engine.keyspace("bench").unwrap());
        let mut index = 0_u64;
        criterion.bench_function(&format!("wal/put, durability {name}"), |bencher| {
            bencher.iter_custom(|puts| {
                let start = Instant::now();
                driver.block_on(async {
                    for _ in 0..puts {
                        index += 1;
                        let key = index.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes();
                        shard.put(&keyspace, &key, &[7; 100]).await.unwrap();
                    }
                });
                start.elapsed()
            });
        });
    }
}

/// A message on one thread, and an operator to a shard's thread and back.
fn mailbox_round_trip(criterion: &mut Criterion) {
    let (sender, mut receiver) = mailbox::channel(64);
    criterion.bench_function("mailbox/send and receive on one thread", |bencher| {
        bencher.iter(|| {
            assert!(sender.try_send(1_u64).is_ok());
            receiver.try_recv().unwrap()
        });
    });
    let directory = tempfile::tempdir().unwrap();
    let engine = Engine::open(Options::at(directory.path()).keyspace("bench", KeyspaceOptions::default())).unwrap();
    criterion.bench_function("mailbox/round trip to a shard that sleeps", |bencher| {
        bencher.iter(|| engine.block_on(engine.on_shard(b"key", |_| async { 1_u64 })).unwrap());
    });
    engine.close_blocking().unwrap();
}

criterion_group!(benches, ring_read, wal_commit, mailbox_round_trip);
criterion_main!(benches);
