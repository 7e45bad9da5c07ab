//! What the simulated disk may and must lose.

#![expect(clippy::unwrap_used, reason = "tests fail by panics")]

use std::collections::BTreeSet;
use std::future::Future;

use crate::*;

const BLOCK: usize = 4096;

/// Of so many seeds, how many are run: all, but few under Miri, where how often something happens is not looked at.
fn seeds(all: u64) -> u64 {
    if cfg!(miri) { 2 + all / 100 } else { all }
}

fn disk(seed: u64) -> SimDisk {
    SimDisk::new(seed, SimOptions::default())
}

/// Runs a body on a fresh executor; `None` where it waits for what a crash has ended.
fn run<F: Future<Output = T>, T>(disk: &SimDisk, body: impl FnOnce(Device) -> F) -> Option<T> {
    let mut executor = Executor::new(ExecutorConfig::default(), Backend::Simulated(SimClock::new())).unwrap();
    let device = executor.handle().attach(&SharedDevice::simulated(disk.clone())).unwrap();
    executor.try_block_on(body(device))
}

async fn write(device: &Device, block: u64, byte: u8, durability: WriteDurability) -> Result<(), IoError> {
    let mut buffer = Buffer::heap(BLOCK);
    buffer.fill(byte);
    device.write(block * BLOCK as u64, buffer, 0..BLOCK, durability, Placement::Wal).await.0
}

fn block(disk: &SimDisk, index: u64) -> Vec<u8> {
    disk.read_raw(index * BLOCK as u64, BLOCK as u64)
}

#[test]
fn what_was_flushed_or_durable_survives_every_crash() {
    for seed in 0..seeds(200) {
        let disk = disk(seed);
        run(&disk, |device| async move {
            device.allocate(0, 1 << 20).await.unwrap();
            write(&device, 0, 1, WriteDurability::Cached).await.unwrap();
            device.flush().await.unwrap();
            write(&device, 1, 2, WriteDurability::Durable).await.unwrap();
        });
        disk.crash();
        assert!(disk.crashed());
        disk.restart();
        assert_eq!(disk.len_bytes(), 1 << 20);
        assert_eq!(block(&disk, 0), [1; BLOCK]);
        assert_eq!(block(&disk, 1), [2; BLOCK]);
    }
}

#[test]
fn what_was_not_flushed_survives_old_new_or_torn() {
    let mut outcomes = BTreeSet::new();
    for seed in 0..seeds(200) {
        let disk = disk(seed);
        run(&disk, |device| async move {
            device.allocate(0, 1 << 20).await.unwrap();
            write(&device, 0, 1, WriteDurability::Cached).await.unwrap();
            write(&device, 1, 1, WriteDurability::Cached).await.unwrap();
            device.flush().await.unwrap();
            write(&device, 0, 2, WriteDurability::Cached).await.unwrap();
            write(&device, 1, 2, WriteDurability::Cached).await.unwrap();
        });
        disk.crash();
        let kind = |bytes: &[u8]| match bytes {
            _ if bytes.iter().all(|byte| *byte == 1) => "old",
            _ if bytes.iter().all(|byte| *byte == 2) => "new",
            _ => "torn",
        };
        outcomes.insert((kind(&block(&disk, 0)), kind(&block(&disk, 1))));
    }
    assert!(cfg!(miri) || outcomes.len() == 9, "blocks are independent: {outcomes:?}");
}

#[test]
fn a_flush_does_not_cover_writes_that_complete_after_its_submission() {
    let mut lost = 0;
    for seed in 0..seeds(200) {
        let disk = disk(seed);
        run(&disk, |device| async move {
            device.allocate(0, 1 << 20).await.unwrap();
            device.flush().await.unwrap();
            let written = write(&device, 0, 1, WriteDurability::Cached);
            let mut written = std::pin::pin!(written);
            let mut context = std::task::Context::from_waker(std::task::Waker::noop());
            assert!(written.as_mut().poll(&mut context).is_pending());
            device.flush().await.unwrap();
            written.await.unwrap();
        });
        disk.crash();
        lost += u32::from(block(&disk, 0) != [1; BLOCK]);
    }
    assert!(cfg!(miri) || lost > 50, "{lost}");
}

#[test]
fn overlapping_writes_land_in_either_order() {
    let mut winners = BTreeSet::new();
    for seed in 0..seeds(50) {
        let disk = disk(seed);
        run(&disk, |device| async move {
            device.allocate(0, 1 << 20).await.unwrap();
            let one = |byte: u8| {
                let mut buffer = Buffer::heap(BLOCK);
                buffer.fill(byte);
                device.write(0, buffer, 0..BLOCK, WriteDurability::Cached, Placement::Wal)
            };
            let (first, second) = (one(1), one(2));
            first.await.0.unwrap();
            second.await.0.unwrap();
        });
        winners.insert(block(&disk, 0)[0]);
    }
    let both = BTreeSet::from([1, 2]);
    assert!(winners == both || cfg!(miri) && winners.is_subset(&both), "{winners:?}");
}

#[test]
fn an_unflushed_size_may_be_lost_and_a_durable_write_keeps_it() {
    let mut sizes = BTreeSet::new();
    for seed in 0..seeds(50) {
        let disk = disk(seed);
        run(&disk, |device| async move {
            device.allocate(0, 8192).await.unwrap();
            device.flush().await.unwrap();
            device.allocate(8192, 8192).await.unwrap();
        });
        disk.crash();
        sizes.insert(disk.len_bytes());
        let other = SimDisk::new(seed, SimOptions::default());
        run(&other, |device| async move {
            device.allocate(0, 16384).await.unwrap();
            write(&device, 3, 1, WriteDurability::Durable).await.unwrap();
        });
        other.crash();
        assert_eq!(other.len_bytes(), 16384);
    }
    let both = BTreeSet::from([8192, 16384]);
    assert!(sizes == both || cfg!(miri) && sizes.is_subset(&both), "{sizes:?}");
}

#[test]
fn after_a_crash_nothing_completes_and_old_attachments_stay_dead() {
    for nth in 1..=4 {
        let disk = disk(nth);
        disk.crash_at(Some(nth));
        let result = run(&disk, |device| async move {
            device.allocate(0, 1 << 20).await.unwrap();
            for index in 0..3 {
                write(&device, index, 1, WriteDurability::Cached).await.unwrap();
            }
            device.flush().await.unwrap();
        });
        assert!(result.is_none() && disk.crashed(), "crash at {nth}");
        assert_eq!(disk.write_ops(), nth);
    }
    let disk = disk(9);
    let refused = run(&disk, |device| {
        let disk = disk.clone();
        async move {
            device.allocate(0, 1 << 20).await.unwrap();
            disk.crash();
            let first = device.flush().await.unwrap_err();
            disk.restart();
            let second = write(&device, 0, 1, WriteDurability::Durable).await.unwrap_err();
            (first.to_string(), second.to_string())
        }
    });
    let (first, second) = refused.unwrap();
    assert!(first.contains("lost power") && second.contains("lost power"), "{first}; {second}");
    assert!(run(&disk, |device| async move { device.flush().await }).unwrap().is_ok());
}

#[test]
fn the_power_fails_at_or_behind_a_discard() {
    for (nth, operations, expected) in [(1, 0, 2), (1, 2, 4), (2, 0, 4), (2, 1, 5)] {
        let disk = disk(3);
        run(&disk, |device| {
            let disk = disk.clone();
            async move {
                device.allocate(0, 1 << 20).await.unwrap();
                disk.crash_after_discard(nth, operations);
                for _ in 0..4 {
                    let _ = write(&device, 0, 1, WriteDurability::Cached).await;
                    let _ = device.discard(65536, 65536).await;
                }
            }
        });
        assert_eq!((disk.crashed(), disk.write_ops()), (true, expected), "{nth} {operations}");
    }
}

#[test]
fn a_crash_may_leave_any_part_of_a_write_in_flight() {
    let mut outcomes = BTreeSet::new();
    for seed in 0..seeds(100) {
        let disk = disk(seed);
        disk.crash_at(Some(2));
        run(&disk, |device| async move {
            device.allocate(0, 1 << 20).await.unwrap();
            device.flush().await.unwrap();
            let mut buffer = Buffer::heap(2 * BLOCK);
            buffer.fill(1);
            let _ = device.write(0, buffer, 0..2 * BLOCK, WriteDurability::Durable, Placement::Wal).await;
        });
        let whole = |index| block(&disk, index) == [1; BLOCK];
        outcomes.insert((whole(0), whole(1)));
    }
    assert!(cfg!(miri) || outcomes.len() == 4, "{outcomes:?}");
}

#[test]
fn injected_faults_hit_their_offsets_and_count_down() {
    let disk = disk(1);
    disk.fail_next(OpKind::Write, 4096..8192, libc::EIO, 1);
    disk.fail_next(OpKind::Flush, 0..1, libc::EIO, 1);
    run(&disk, |device| async move {
        device.allocate(0, 1 << 20).await.unwrap();
        write(&device, 0, 1, WriteDurability::Cached).await.unwrap();
        assert_eq!(write(&device, 1, 1, WriteDurability::Cached).await.unwrap_err().errno, libc::EIO);
        write(&device, 1, 1, WriteDurability::Cached).await.unwrap();
        assert_eq!(device.flush().await.unwrap_err().op, OpKind::Flush);
        device.flush().await.unwrap();
    })
    .unwrap();
}

#[test]
fn a_full_disk_refuses_to_grow_and_reads_on() {
    let disk = disk(1);
    disk.set_capacity(8192);
    run(&disk, |device| async move {
        device.allocate(0, 8192).await.unwrap();
        assert!(device.allocate(8192, 4096).await.unwrap_err().is_no_space());
        assert!(device.read(0, Buffer::heap(BLOCK), BLOCK).await.0.is_ok());
    })
    .unwrap();
}

#[test]
fn damage_is_done_behind_the_engines_back() {
    let disk = disk(1);
    run(&disk, |device| async move {
        device.allocate(0, 1 << 20).await.unwrap();
        write(&device, 0, 0, WriteDurability::Durable).await.unwrap();
    });
    disk.flip_bit(100, 3);
    assert_eq!(block(&disk, 0)[100], 8);
    disk.truncate(4096);
    assert_eq!(disk.snapshot().len(), 4096);
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let run_once = |seed| {
        let disk = disk(seed);
        disk.crash_at(Some(20));
        run(&disk, |device| async move {
            device.allocate(0, 1 << 20).await.unwrap();
            device.flush().await.unwrap();
            for index in 0..40 {
                write(&device, index % 7, index as u8, WriteDurability::Cached).await.unwrap();
            }
        });
        disk.snapshot()
    };
    assert_eq!(run_once(5), run_once(5));
    assert_ne!(run_once(5), run_once(6));
}

#[test]
#[should_panic(expected = "standstill")]
fn waiting_for_what_will_never_happen_panics() {
    let mut executor = Executor::new(ExecutorConfig::default(), Backend::Simulated(SimClock::new())).unwrap();
    executor.block_on(std::future::pending::<()>());
}
