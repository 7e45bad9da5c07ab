//! The same behaviour on every device: simulated, a file with direct I/O, a file without, each driven in every way.

#![cfg(not(loom))]
#![expect(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests fail by panics, and may sleep")]

use std::cell::{Cell, RefCell};
use std::path::PathBuf;
use std::rc::Rc;

use siltstone_io::*;

struct Setting {
    name: &'static str,
    executor: Executor,
    shared: SharedDevice,
    // Removes the file at the end.
    _folder: Option<tempfile::TempDir>,
}

/// Every combination of backend, device and driving.
fn settings() -> Vec<Setting> {
    let mut all = Vec::new();
    for (name, again, short, block) in [
        ("simulated", 0.0, 0.0, 4096),
        ("simulated, faltering", 0.2, 0.3, 512),
        ("simulated, small blocks", 0.0, 0.0, 512),
    ] {
        let disk = SimDisk::new(7, SimOptions { logical_block_bytes: block, ..SimOptions::default() });
        disk.set_faults(SimFaults { again_chance: again, short_transfer_chance: short, ..SimFaults::default() });
        all.push(Setting {
            name,
            executor: Executor::new(ExecutorConfig::default(), Backend::Simulated(SimClock::new())).unwrap(),
            shared: SharedDevice::simulated(disk),
            _folder: None,
        });
    }
    for (name, place, driving, spin_us, ring_entries) in [
        ("file", None, Driving::Pinned, 0, 256),
        ("file, wide entries", None, Driving::Pinned, 0, 256),
        ("file, spinning", None, Driving::Pinned, 200, 256),
        ("file, tiny ring", None, Driving::Pinned, 0, 8),
        ("file, moving", None, Driving::Moving, 0, 256),
        ("buffered", Some("/dev/shm"), Driving::Pinned, 0, 256),
        ("buffered, moving", Some("/dev/shm"), Driving::Moving, 0, 256),
    ] {
        let folder = match place {
            Some(place) => tempfile::tempdir_in(place),
            None => tempfile::tempdir(),
        }
        .unwrap();
        let wide_entries = name.ends_with("wide entries");
        let config = ExecutorConfig { driving, spin_us, ring_entries, wide_entries, ..ExecutorConfig::default() };
        all.push(Setting {
            name,
            executor: Executor::new(config, Backend::Ring).unwrap(),
            shared: SharedDevice::open(&folder.path().join("volume"), OpenMode::Create).unwrap(),
            _folder: Some(folder),
        });
    }
    all
}

fn everywhere(test: impl Fn(&mut Executor, &SharedDevice)) {
    for mut setting in settings() {
        eprintln!("on {}", setting.name);
        test(&mut setting.executor, &setting.shared);
    }
}

fn filled(len: usize, seed: u64) -> Buffer {
    let mut buffer = Buffer::heap(len);
    Random::new(seed).fill(&mut buffer);
    buffer
}

const MIB: u64 = 1 << 20;

#[test]
fn what_is_written_is_read_back() {
    everywhere(|executor, shared| {
        let device = executor.handle().attach(shared).unwrap();
        let pool = executor.handle().buffer_pool(16384, 8);
        executor.block_on(async {
            device.allocate(0, 4 * MIB).await.unwrap();
            assert_eq!(device.len_bytes(), 4 * MIB);
            for (seed, durability) in [(1, WriteDurability::Cached), (2, WriteDurability::Durable)] {
                let mut frame = pool.take().unwrap();
                frame.copy_from_slice(&filled(16384, seed));
                let (result, frame) = device.write(8192, frame, 4096..12288, durability, Placement::Deep).await;
                result.unwrap();
                let (result, heap) = device.read(8192, Buffer::heap(8192), 8192).await;
                result.unwrap();
                assert_eq!(heap[..], frame[4096..12288]);
                let (result, read) = device.read(8192, pool.take().unwrap(), 4096).await;
                result.unwrap();
                assert_eq!(read[..4096], frame[4096..8192]);
            }
            device.flush().await.unwrap();
            let (result, zeros) = device.read(MIB, Buffer::heap(4096), 4096).await;
            result.unwrap();
            assert!(zeros.iter().all(|byte| *byte == 0));
        });
        assert_eq!(pool.free(), 8);
        let stats = executor.handle().io_stats();
        assert_eq!((stats.reads, stats.writes, stats.flushes, stats.discards), (5, 2, 1, 0));
        assert_eq!((stats.read_bytes, stats.written_bytes), (2 * (8192 + 4096) + 4096, 2 * 8192));
    });
}

#[test]
fn what_was_written_is_told_by_placement_and_what_was_discarded_in_bytes() {
    everywhere(|executor, shared| {
        let device = executor.handle().attach(shared).unwrap();
        executor.block_on(async {
            device.allocate(0, 4 * MIB).await.unwrap();
            for (placement, len) in Placement::ALL.into_iter().zip([4096, 8192, 16384, MIB as usize]) {
                let written = device.write(0, Buffer::heap(len), 0..len, WriteDurability::Cached, placement);
                written.await.0.unwrap();
            }
            let written = device.write(0, Buffer::heap(4096), 0..4096, WriteDurability::Cached, Placement::Wal);
            written.await.0.unwrap();
            device.discard(MIB, 2 * MIB).await.unwrap();
            device.discard(0, 65536).await.unwrap();
        });
        let stats = executor.handle().io_stats();
        assert_eq!(Placement::ALL.map(|placement| stats.written_bytes_of(placement)), [4096, 12288, 16384, MIB]);
        assert_eq!(stats.written_bytes, stats.written_bytes_by_placement.iter().sum());
        assert_eq!((stats.discards, stats.discarded_bytes), (2, 2 * MIB + 65536));
    });
}

#[test]
fn large_transfers_are_split_and_joined() {
    everywhere(|executor, shared| {
        let device = executor.handle().attach(shared).unwrap();
        executor.block_on(async {
            device.allocate(0, 8 * MIB).await.unwrap();
            let data = filled(3 * MIB as usize + 4096, 5);
            let range = 0..data.len();
            let (result, data) = device.write(MIB, data, range, WriteDurability::Cached, Placement::Level0).await;
            result.unwrap();
            let (result, read) = device.read(MIB, Buffer::heap(data.len()), data.len()).await;
            result.unwrap();
            assert!(data[..] == read[..]);
        });
        assert_eq!(executor.handle().io_stats().writes, 1);
    });
}

#[test]
fn discarded_space_reads_as_zero() {
    everywhere(|executor, shared| {
        let device = executor.handle().attach(shared).unwrap();
        executor.block_on(async {
            device.allocate(0, MIB).await.unwrap();
            let (result, _) =
                device.write(0, filled(65536, 3), 0..65536, WriteDurability::Durable, Placement::Wal).await;
            result.unwrap();
            device.discard(16384, 32768).await.unwrap();
            let (result, read) = device.read(0, Buffer::heap(65536), 65536).await;
            result.unwrap();
            assert!(read[..16384] == filled(65536, 3)[..16384]);
            assert!(read[16384..49152].iter().all(|byte| *byte == 0));
            assert!(read[49152..] == filled(65536, 3)[49152..]);
            assert_eq!(device.len_bytes(), MIB);
        });
    });
}

#[test]
fn a_read_beyond_the_end_is_an_error_that_says_so() {
    everywhere(|executor, shared| {
        let device = executor.handle().attach(shared).unwrap();
        executor.block_on(async {
            device.allocate(0, 8192).await.unwrap();
            for offset in [4096, 8192, MIB] {
                let (result, buffer) = device.read(offset, Buffer::heap(8192), 8192).await;
                let error = result.unwrap_err();
                assert_eq!((error.op, error.errno, error.offset), (OpKind::Read, 0, offset), "{error}");
                assert_eq!(buffer.len(), 8192);
            }
        });
    });
}

#[test]
fn many_more_operations_than_the_ring_has_room_for() {
    everywhere(|executor, shared| {
        let handle = executor.handle();
        let device = handle.attach(shared).unwrap();
        let done = Rc::new(Cell::new(0));
        executor.block_on(device.allocate(0, 8 * MIB)).unwrap();
        for index in 0..1500u64 {
            let (device, done) = (device.clone(), Rc::clone(&done));
            handle.spawn(Class::Foreground, async move {
                let offset = index * 4096;
                let (result, data) =
                    device.write(offset, filled(4096, index), 0..4096, WriteDurability::Cached, Placement::Deep).await;
                result.unwrap();
                let (result, read) = device.read(offset, Buffer::heap(4096), 4096).await;
                result.unwrap();
                assert!(data[..] == read[..]);
                done.set(done.get() + 1);
            });
        }
        let finished = Rc::clone(&done);
        let waiter = executor.handle();
        executor.block_on(async move {
            while finished.get() < 1500 {
                waiter.sleep_us(100).await;
            }
        });
        assert_eq!((done.get(), executor.tasks()), (1500, 0));
    });
}

#[test]
fn a_dropped_future_leaves_its_operation_to_complete_and_frees_the_buffer() {
    everywhere(|executor, shared| {
        let device = executor.handle().attach(shared).unwrap();
        let pool = executor.handle().buffer_pool(4096, 4);
        executor.block_on(async {
            device.allocate(0, MIB).await.unwrap();
            let mut frame = pool.take().unwrap();
            frame.fill(9);
            drop(device.write(0, frame, 0..4096, WriteDurability::Durable, Placement::Wal));
            drop(device.read(4096, pool.take().unwrap(), 4096));
            assert_eq!(pool.free(), 2);
        });
        while pool.free() < 4 {
            executor.turn(&Budget::default());
            executor.park(Some(1000));
        }
        executor.block_on(async {
            let (result, read) = device.read(0, Buffer::heap(4096), 4096).await;
            result.unwrap();
            assert!(read.iter().all(|byte| *byte == 9));
        });
    });
}

#[test]
fn an_executor_ends_with_operations_and_tasks_under_way() {
    for setting in settings() {
        let Setting { name, mut executor, shared, _folder } = setting;
        eprintln!("on {name}");
        let device = executor.handle().attach(&shared).unwrap();
        let pool = executor.handle().buffer_pool(65536, 64);
        executor.block_on(device.allocate(0, 8 * MIB)).unwrap();
        let handle = executor.handle();
        let ended = Rc::new(Cell::new(0));
        struct Guard(Rc<Cell<u32>>);
        impl Drop for Guard {
            fn drop(&mut self) {
                self.0.set(self.0.get() + 1);
            }
        }
        for index in 0..64u64 {
            let (device, frame, guard) = (device.clone(), pool.take().unwrap(), Guard(Rc::clone(&ended)));
            handle.spawn(Class::Flush, async move {
                let _guard = guard;
                let _ = device.write(index * 65536, frame, 0..65536, WriteDurability::Durable, Placement::Deep).await;
                std::future::pending::<()>().await;
            });
        }
        executor.turn(&Budget { background_slice_us: 10_000, ..Budget::default() });
        drop(executor);
        assert_eq!(ended.get(), 64);
        if !name.starts_with("simulated") {
            assert_eq!(pool.free(), 64);
        }
        // What outlives the executor fails, and does not hang.
        let late = device.read(0, Buffer::heap(4096), 4096);
        let mut late = std::pin::pin!(late);
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        match late.as_mut().poll(&mut context) {
            std::task::Poll::Ready((result, _)) => assert!(result.unwrap_err().to_string().contains("ended")),
            std::task::Poll::Pending => panic!("hangs"),
        }
        assert!(handle.attach(&shared).is_err());
    }
}

#[test]
fn timers_fire_in_the_order_of_their_deadlines() {
    everywhere(|executor, _| {
        let handle = executor.handle();
        let order = Rc::new(RefCell::new(Vec::new()));
        for delay_us in [3000, 1000, 2000] {
            let (inner, order) = (handle.clone(), Rc::clone(&order));
            handle.spawn(Class::Flush, async move {
                inner.sleep_us(delay_us).await;
                order.borrow_mut().push(delay_us);
            });
        }
        let begin_us = handle.now_us();
        executor.block_on(handle.sleep_us(5000));
        assert!(handle.now_us() >= begin_us + 5000);
        assert_eq!(*order.borrow(), [1000, 2000, 3000]);
    });
}

#[test]
fn turns_say_whether_there_is_something_to_wait_for() {
    everywhere(|executor, shared| {
        let budget = Budget::default();
        let handle = executor.handle();
        let device = handle.attach(shared).unwrap();
        while executor.turn(&budget) == Turn::Progress {}
        assert_eq!(executor.turn(&budget), Turn::Idle);
        let inner = handle.clone();
        handle.spawn(Class::Foreground, async move {
            device.allocate(0, MIB).await.unwrap();
            inner.sleep_us(20_000).await;
        });
        assert_eq!(executor.turn(&budget), Turn::Progress);
        let mut turns = 0;
        while executor.tasks() > 0 {
            match executor.turn(&budget) {
                Turn::Progress => (),
                Turn::InFlight => executor.park(None),
                Turn::Idle => panic!("a timer or an operation is in flight"),
            }
            turns += 1;
        }
        assert!(turns < 100, "{turns} turns: it does not sleep");
        while executor.turn(&budget) == Turn::Progress {}
        assert_eq!(executor.turn(&budget), Turn::Idle);
    });
}

#[test]
fn foreground_work_goes_before_background_work_which_yields_to_it() {
    everywhere(|executor, _| {
        let handle = executor.handle();
        let log = Rc::new(RefCell::new(Vec::new()));
        let (inner, background) = (handle.clone(), Rc::clone(&log));
        handle.spawn(Class::Compaction, async move {
            for round in 0..3 {
                background.borrow_mut().push(format!("background {round}"));
                let (again, foreground) = (inner.clone(), Rc::clone(&background));
                assert!(!again.need_preempt() || round > 0);
                inner.spawn(Class::Foreground, async move {
                    foreground.borrow_mut().push(format!("foreground {round}"));
                });
                assert!(inner.need_preempt());
                inner.yield_now().await;
            }
        });
        while executor.tasks() > 0 {
            executor.turn(&Budget::default());
        }
        let expected: Vec<String> =
            (0..3).flat_map(|round| [format!("background {round}"), format!("foreground {round}")]).collect();
        assert_eq!(*log.borrow(), expected);
    });
}

#[test]
fn background_classes_share_time_by_their_weights() {
    let config = ExecutorConfig { background_weights: [4, 2, 1], ..ExecutorConfig::default() };
    let mut executor = Executor::new(config, Backend::Simulated(SimClock::new())).unwrap();
    let handle = executor.handle();
    let counts: Rc<[Cell<u64>; 3]> = Rc::default();
    for (index, class) in [Class::Flush, Class::Compaction, Class::Checkpoint].into_iter().enumerate() {
        let (inner, counts) = (handle.clone(), Rc::clone(&counts));
        handle.spawn(class, async move {
            loop {
                while !inner.need_preempt() {
                    counts[index].set(counts[index].get() + 1);
                }
                inner.yield_now().await;
            }
        });
    }
    for _ in 0..700 {
        assert_eq!(executor.turn(&Budget::default()), Turn::Progress);
    }
    let total: u64 = counts.iter().map(Cell::get).sum();
    for (count, weight) in counts.iter().zip([4, 2, 1]) {
        let share = count.get() as f64 / total as f64;
        assert!((share - f64::from(weight) / 7.0).abs() < 0.02, "{counts:?}");
    }
}

#[test]
fn an_executor_can_be_driven_from_a_poll_loop() {
    for mut setting in settings() {
        if setting.executor.wake_fd().is_none() {
            continue;
        }
        eprintln!("on {}", setting.name);
        let executor = &mut setting.executor;
        let device = executor.handle().attach(&setting.shared).unwrap();
        let handle = executor.handle();
        let (sender, mut receiver) = mailbox::channel::<u64>(4);
        let done = Rc::new(Cell::new(false));
        let seen = Rc::clone(&done);
        let inner = handle.clone();
        handle.spawn(Class::Foreground, async move {
            device.allocate(0, MIB).await.unwrap();
            inner.sleep_us(3000).await;
            while let Some(offset) = receiver.recv().await {
                let (result, _) = device.read(offset, Buffer::heap(4096), 4096).await;
                result.unwrap();
            }
            inner.sleep_us(3000).await;
            seen.set(true);
        });
        let thread = spawn_pinned("sender", None, move || {
            for offset in 0..20 {
                std::thread::sleep(std::time::Duration::from_micros(300));
                while sender.try_send(offset * 4096).is_err() {}
            }
        })
        .unwrap();
        let mut sleeps = 0;
        while !done.get() {
            if executor.turn(&Budget::default()) == Turn::Progress {
                continue;
            }
            sleeps += 1;
            let fd = executor.wake_fd().unwrap();
            let mut readable = [libc_poll(std::os::fd::AsRawFd::as_raw_fd(&fd))];
            // SAFETY: one valid pollfd. Five seconds: a missed wake-up fails the test.
            let ready = unsafe { libc::poll(readable.as_mut_ptr(), 1, 5000) };
            assert_eq!(ready, 1, "no wake-up");
        }
        assert!(sleeps < 500, "{sleeps}: the descriptor stays readable");
        thread.join().unwrap();
    }
}

fn libc_poll(fd: i32) -> libc::pollfd {
    libc::pollfd { fd, events: libc::POLLIN, revents: 0 }
}

#[test]
fn a_pump_waker_hears_of_work_from_outside() {
    struct Count(std::sync::atomic::AtomicU32);
    impl std::task::Wake for Count {
        fn wake(self: std::sync::Arc<Self>) {
            self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
    }
    everywhere(|executor, _| {
        let count = std::sync::Arc::new(Count(std::sync::atomic::AtomicU32::new(0)));
        while executor.turn(&Budget::default()) == Turn::Progress {}
        executor.set_pump_waker(Some(std::task::Waker::from(count.clone())));
        executor.handle().spawn(Class::Foreground, async {});
        assert_eq!(count.0.load(std::sync::atomic::Ordering::Relaxed), 1);
        while executor.turn(&Budget::default()) == Turn::Progress {}
        executor.remote().wake();
        assert_eq!(count.0.load(std::sync::atomic::Ordering::Relaxed), 2);
    });
}

#[test]
fn files_are_locked_against_a_second_writer() {
    let folder = tempfile::tempdir().unwrap();
    let path: PathBuf = folder.path().join("volume");
    assert_eq!(SharedDevice::open(&path, OpenMode::ReadWrite).map(drop).unwrap_err().errno, libc::ENOENT);
    let writer = SharedDevice::open(&path, OpenMode::Create).unwrap();
    assert_eq!(SharedDevice::open(&path, OpenMode::Create).map(drop).unwrap_err().errno, libc::EEXIST);
    let second = SharedDevice::open(&path, OpenMode::ReadWrite).map(drop).unwrap_err();
    assert_eq!(second.errno, libc::EAGAIN);
    assert!(second.to_string().contains("another process may hold it"), "{second}");
    drop(writer);
    let reader = SharedDevice::open(&path, OpenMode::ReadOnly).unwrap();
    let other = SharedDevice::open(&path, OpenMode::ReadOnly).unwrap();
    assert!(other.geometry().max_io_bytes <= 512 << 10);
    let mut executor = Executor::new(ExecutorConfig::default(), Backend::Ring).unwrap();
    let device = executor.handle().attach(&reader).unwrap();
    let refused = executor.block_on(device.allocate(0, 4096)).unwrap_err();
    assert_eq!((refused.op, refused.errno), (OpKind::Allocate, libc::EBADF));
}

#[test]
fn devices_and_executors_of_different_worlds_do_not_mix() {
    let folder = tempfile::tempdir().unwrap();
    let file = SharedDevice::open(&folder.path().join("volume"), OpenMode::Create).unwrap();
    let disk = SharedDevice::simulated(SimDisk::new(1, SimOptions::default()));
    let simulated = Executor::new(ExecutorConfig::default(), Backend::Simulated(SimClock::new())).unwrap();
    let ring = Executor::new(ExecutorConfig::default(), Backend::Ring).unwrap();
    assert!(simulated.handle().attach(&file).is_err());
    assert!(ring.handle().attach(&disk).is_err());
}
