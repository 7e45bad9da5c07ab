//! Which operations go to the device first, and how many: through whole executors, on the simulated device and on the ring.

#![cfg(not(loom))]
#![expect(clippy::unwrap_used, reason = "tests fail by panics")]

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use siltstone_io::*;

const KIB: usize = 1 << 10;
const MIB: u64 = 1 << 20;
/// Each operation takes this long, however many there are.
const LATENCY_US: u64 = 100;

const BACKGROUND: [Class; 3] = [Class::Flush, Class::Compaction, Class::Checkpoint];

fn budget(background_bytes_max: u64, background_ops_max: u32) -> IoBudget {
    IoBudget { background_bytes_max, background_ops_max }
}

/// An executor with this budget, on a disk with a fixed latency, and transfers of at most 64 KiB.
fn simulated(io_budget: IoBudget, faults: SimFaults) -> (Executor, Device) {
    let config = ExecutorConfig { io_budget, ..ExecutorConfig::default() };
    let mut executor = Executor::new(config, Backend::Simulated(SimClock::new())).unwrap();
    let latency_us = LATENCY_US..LATENCY_US + 1;
    let disk = SimDisk::new(3, SimOptions { latency_us, max_io_bytes: 64 << 10, ..SimOptions::default() });
    let device = executor.handle().attach(&SharedDevice::simulated(disk.clone())).unwrap();
    executor.block_on(device.allocate(0, 64 * MIB)).unwrap();
    disk.set_faults(faults);
    (executor, device)
}

/// Spawns a task that writes so many bytes at an offset, and notes its name when it is done.
fn spawn_write(executor: &Executor, device: &Device, class: Class, at: u64, len: usize, log: &Log) {
    let (device, log) = (device.clone(), Rc::clone(log));
    let handle = executor.handle();
    executor.handle().spawn(class, async move {
        let buffer = filled(len, at);
        let written = device.write(at, buffer, 0..len, WriteDurability::Cached, Placement::Deep).await;
        written.0.unwrap();
        log.borrow_mut().push((handle.now_us(), class));
    });
}

type Log = Rc<RefCell<Vec<(u64, Class)>>>;

fn filled(len: usize, seed: u64) -> Buffer {
    let mut buffer = Buffer::heap(len);
    Random::new(seed).fill(&mut buffer);
    buffer
}

/// Turns until all tasks are done.
fn drain(executor: &mut Executor) {
    while executor.tasks() > 0 {
        match executor.turn(&Budget::default()) {
            Turn::Progress => (),
            Turn::InFlight => executor.park(None),
            Turn::Idle => panic!("tasks wait, and nothing is in flight"),
        }
    }
}

#[test]
fn the_background_has_as_many_pieces_under_way_as_its_budget_allows() {
    let pieces = 24u64;
    for (io_budget, at_once) in [
        (budget(u64::MAX, 4), 4),
        (budget(3 * 64 * KIB as u64, 100), 3),
        (budget(4 * 64 * KIB as u64 - 1, 100), 3),
        (budget(0, 0), 1),
        (IoBudget::UNLIMITED, pieces),
    ] {
        let (mut executor, device) = simulated(io_budget, SimFaults::default());
        let log = Log::default();
        let begin_us = executor.handle().now_us();
        // Two operations of twelve pieces each.
        for at in [0, 4 * MIB] {
            spawn_write(&executor, &device, Class::Compaction, at, 12 * 64 * KIB, &log);
        }
        drain(&mut executor);
        assert_eq!(executor.handle().now_us() - begin_us, pieces / at_once * LATENCY_US, "{io_budget:?}");
    }
}

#[test]
fn a_foreground_read_takes_no_longer_for_what_waits_in_the_background() {
    let (mut executor, device) = simulated(budget(64 << 10, 1), SimFaults::default());
    let log = Log::default();
    for at in 0..50 {
        spawn_write(&executor, &device, Class::Flush, at * MIB, 256 * KIB, &log);
    }
    let handle = executor.handle();
    executor.block_on(async {
        for _ in 0..20 {
            let begin_us = handle.now_us();
            device.read(0, Buffer::heap(4096), 4096).await.0.unwrap();
            assert_eq!(handle.now_us() - begin_us, LATENCY_US);
        }
    });
    assert!(log.borrow().len() < 50);
    drain(&mut executor);
    assert_eq!(log.borrow().len(), 50);
}

#[test]
fn flush_goes_before_compaction_before_checkpoint_and_none_of_them_starves() {
    let (mut executor, device) = simulated(budget(u64::MAX, 1), SimFaults::default());
    let log = Log::default();
    let classes = [Class::Checkpoint, Class::Compaction, Class::Flush];
    for (class, at) in (0..28).flat_map(|at| classes.map(|class| (class, at))) {
        spawn_write(&executor, &device, class, at * MIB, 64 * KIB, &log);
    }
    drain(&mut executor);
    let log = log.borrow();
    // While all three wait: four, two and one of seven. (Tasks of a class that share a turn may start in any order, but not the classes.)
    for seven in log[..42].chunks(7) {
        let count = |class| seven.iter().filter(|(_, of)| *of == class).count();
        assert_eq!(classes.map(count), [1, 2, 4], "{seven:?}");
    }
    let last = |class| log.iter().rposition(|(_, of)| *of == class).unwrap();
    assert!(last(Class::Flush) < last(Class::Compaction) && last(Class::Compaction) < last(Class::Checkpoint));
}

#[test]
fn a_device_in_a_class_ignores_the_class_of_the_task() {
    let (mut executor, device) = simulated(budget(0, 0), SimFaults::default());
    let log = Log::default();
    for at in 0..10 {
        spawn_write(&executor, &device, Class::Compaction, at * MIB, 64 * KIB, &log);
    }
    let done_us = Rc::new(Cell::new(0));
    let (inner, handle) = (Rc::clone(&done_us), executor.handle());
    let begin_us = handle.now_us();
    let urgent = device.in_class(Class::Foreground);
    executor.handle().spawn(Class::Compaction, async move {
        urgent.flush().await.unwrap();
        inner.set(handle.now_us() - begin_us);
    });
    drain(&mut executor);
    assert_eq!(done_us.get(), LATENCY_US);
    assert_eq!(executor.handle().io_stats().written_bytes_by_class, [0, 0, 640 << 10, 0]);
}

#[test]
fn faltering_transfers_keep_the_account_of_the_budget() {
    let mut failures = 0;
    for seed in 0..20 {
        let faults = SimFaults {
            short_transfer_chance: 0.3,
            again_chance: 0.2,
            interrupted_chance: 0.1,
            write_error_chance: if seed % 2 == 0 { 0.0 } else { 0.1 },
            ..SimFaults::default()
        };
        let small = budget(1 + seed * 40 * KIB as u64, 1 + seed as u32 % 5);
        let (mut executor, device) = simulated(small, faults);
        let failed = Rc::new(Cell::new(0));
        for at in 0..30 {
            let (device, failed) = (device.clone(), Rc::clone(&failed));
            executor.handle().spawn(BACKGROUND[at as usize % 3], async move {
                let (len, offset) = (300 * KIB, at * MIB);
                let write = device.write(offset, filled(len, at), 0..len, WriteDurability::Cached, Placement::Deep);
                if at % 7 == 3 {
                    // Nobody waits for it, and it goes all the same.
                    return drop(write);
                }
                if write.await.0.is_err() {
                    return failed.set(failed.get() + 1);
                }
                let (result, read) = device.read(offset, Buffer::heap(len), len).await;
                result.unwrap();
                assert!(read[..len] == filled(len, at)[..len]);
            });
        }
        drain(&mut executor);
        assert!(failed.get() == 0 || seed % 2 == 1, "{} of seed {seed}", failed.get());
        failures += failed.get();
        // The executor asserts that the budget is free when nothing of the background is left; what was dropped may be.
        executor.block_on(executor.handle().sleep_us(1_000_000));
        executor.handle().spawn(Class::Flush, async move { device.flush().await.unwrap() });
        drain(&mut executor);
    }
    assert!(failures > 0);
}

#[test]
fn what_waits_when_the_executor_ends_fails_and_what_nobody_waits_for_is_freed() {
    let (mut executor, device) = simulated(budget(0, 0), SimFaults::default());
    let frames = executor.handle().buffer_pool(64 * KIB, 10);
    let pool = frames.clone();
    let kept = Rc::new(RefCell::new(Vec::new()));
    let operations = Rc::clone(&kept);
    executor.handle().spawn(Class::Compaction, async move {
        for at in 0..10 {
            let frame = pool.take().unwrap();
            let write = device.write(at * MIB, frame, 0..64 * KIB, WriteDurability::Cached, Placement::Deep);
            if at % 2 == 1 {
                operations.borrow_mut().push(write);
            }
        }
    });
    executor.turn(&Budget::default());
    assert_eq!(frames.free(), 0);
    drop(executor);
    assert_eq!(frames.free(), 5, "those that nobody waits for");
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    for operation in kept.take() {
        let mut operation = std::pin::pin!(operation);
        match operation.as_mut().poll(&mut context) {
            std::task::Poll::Ready((result, _)) => drop(result.unwrap_err()),
            std::task::Poll::Pending => panic!("hangs"),
        }
    }
    assert_eq!(frames.free(), 10);
}

#[test]
fn a_flood_of_foreground_on_a_full_ring_does_not_stop_the_background() {
    let folder = tempfile::tempdir().unwrap();
    let config = ExecutorConfig { ring_entries: 8, io_budget: budget(64 << 10, 2), ..ExecutorConfig::default() };
    let mut executor = Executor::new(config, Backend::Ring).unwrap();
    let shared = SharedDevice::open(&folder.path().join("volume"), OpenMode::Create).unwrap();
    let device = executor.handle().attach(&shared).unwrap();
    executor.block_on(device.allocate(0, 4 * MIB)).unwrap();
    let done = Rc::new(Cell::new(false));
    // More at a time than the ring has room for, until the background is done.
    let reads = Rc::new(Cell::new(0u64));
    for _ in 0..64 {
        let (device, done, reads) = (device.clone(), Rc::clone(&done), Rc::clone(&reads));
        executor.handle().spawn(Class::Foreground, async move {
            while !done.get() {
                device.read(0, Buffer::heap(4096), 4096).await.0.unwrap();
                reads.set(reads.get() + 1);
            }
        });
    }
    executor.handle().spawn(Class::Checkpoint, async move {
        for at in 0..16u64 {
            let write = device.write(at * 65536, filled(65536, at), 0..65536, WriteDurability::Cached, Placement::Deep);
            write.await.0.unwrap();
        }
        done.set(true);
    });
    drain(&mut executor);
    assert!(reads.get() > 64);
}
