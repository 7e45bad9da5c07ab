//! The baton with real executors and real threads: on a file through the ring, under Miri on a simulated disk.

#![expect(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests fail by panics, and may sleep")]

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};

use super::*;
use crate::mailbox::{Sender, channel};
use crate::{
    Backend, Buffer, Class, Driving, ExecutorConfig, OpenMode, Placement, SharedDevice, SimClock, SimDisk, SimOptions,
    WriteDurability, spawn_pinned,
};

type Request = (u64, Sender<u64>);

/// A shard that writes and reads back a block for each request, then answers with twice its number.
fn shard() -> (Baton<Executor>, Sender<Request>, Option<tempfile::TempDir>) {
    let (folder, backend, shared) = if cfg!(miri) {
        let disk = SimDisk::new(1, SimOptions::default());
        (None, Backend::Simulated(SimClock::new()), SharedDevice::simulated(disk))
    } else {
        let folder = tempfile::tempdir().unwrap();
        let shared = SharedDevice::open(&folder.path().join("volume"), OpenMode::Create).unwrap();
        (Some(folder), Backend::Ring, shared)
    };
    let config = ExecutorConfig { driving: Driving::Moving, ..ExecutorConfig::default() };
    let executor = Executor::new(config, backend).unwrap();
    let handle = executor.handle();
    let device = handle.attach(&shared).unwrap();
    let (requests, mut receiver) = channel::<Request>(64);
    let inner = handle.clone();
    drop(handle);
    executor.handle().spawn(Class::Foreground, async move {
        device.allocate(0, 1 << 20).await.unwrap();
        while let Some((number, reply)) = receiver.recv().await {
            let device = device.clone();
            inner.spawn(Class::Foreground, async move {
                let offset = number % 256 * 4096;
                let mut buffer = Buffer::heap(4096);
                buffer.fill(1);
                let (result, _) = device.write(offset, buffer, 0..4096, WriteDurability::Cached, Placement::Wal).await;
                result.unwrap();
                let (result, _) = device.read(offset, Buffer::heap(4096), 4096).await;
                result.unwrap();
                reply.try_send(number * 2).unwrap();
            });
        }
    });
    // SAFETY: all handles and the device are in the executor's own tasks, and its ring may move.
    (unsafe { Baton::new(executor) }, requests, folder)
}

async fn ask(requests: Sender<Request>, number: u64) -> u64 {
    let (reply, mut answer) = channel(1);
    requests.send((number, reply)).await.unwrap();
    answer.recv().await.unwrap()
}

#[test]
fn threads_that_come_and_go_are_all_served() {
    let (rounds, callers, each) = if cfg!(miri) { (1, 2, 3) } else { (3, 4, 50) };
    let (baton, requests, _folder) = shard();
    let baton = Arc::new(baton);
    let stop = Arc::new(AtomicBool::new(false));
    let background = {
        let (baton, stop) = (Arc::clone(&baton), Arc::clone(&stop));
        spawn_pinned("background", None, move || {
            while !stop.load(Ordering::Relaxed) {
                if baton.drive(&Budget::default(), 500).is_none() {
                    std::thread::yield_now();
                }
            }
        })
        .unwrap()
    };
    let served = Arc::new(AtomicU64::new(0));
    for _ in 0..rounds {
        let threads: Vec<_> = (0..callers)
            .map(|thread| {
                let (baton, requests, served) = (Arc::clone(&baton), requests.clone(), Arc::clone(&served));
                spawn_pinned("caller", None, move || {
                    for index in 0..each {
                        let number = thread * 1000 + index;
                        assert_eq!(baton.wait(ask(requests.clone(), number)), number * 2);
                        served.fetch_add(1, Ordering::Relaxed);
                    }
                })
                .unwrap()
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    }
    stop.store(true, Ordering::Relaxed);
    background.join().unwrap();
    assert_eq!(served.load(Ordering::Relaxed), rounds * callers * each);
    let executor = Arc::into_inner(baton).unwrap().into_inner().unwrap();
    assert_eq!(executor.handle().io_stats().writes, rounds * callers * each);
}

#[test]
fn a_driver_that_is_parked_hears_its_future_woken_from_elsewhere() {
    let (baton, _requests, _folder) = shard();
    let (sender, mut receiver) = channel::<u32>(1);
    let thread = spawn_pinned("elsewhere", None, move || {
        std::thread::sleep(std::time::Duration::from_millis(20));
        sender.try_send(5).unwrap();
    })
    .unwrap();
    assert_eq!(baton.wait(receiver.recv()), Some(5));
    thread.join().unwrap();
}

#[test]
fn the_baton_is_not_taken_from_its_holder() {
    let (baton, _requests, _folder) = shard();
    let held = baton.hand.try_take().unwrap();
    assert!(baton.try_turn(&Budget::default()).is_none() && baton.drive(&Budget::default(), 0).is_none());
    drop(held);
    assert!(baton.try_turn(&Budget::default()).is_some());
}

#[test]
fn a_panic_of_the_driver_reaches_all_who_wait() {
    struct Bomb(mpsc::Receiver<()>);
    impl Pump for Bomb {
        fn turn(&mut self, _: &Budget) -> Turn {
            let _ = self.0.recv();
            panic!("broken invariant");
        }
        fn park(&mut self, _: Option<u64>) {}
    }
    let (fuse, receiver) = mpsc::channel();
    // SAFETY: everything in the pump is `Send`.
    let baton = Arc::new(unsafe { Baton::new(Bomb(receiver)) });
    let threads: Vec<_> = (0..2)
        .map(|_| {
            let baton = Arc::clone(&baton);
            std::thread::Builder::new().spawn(move || baton.wait(std::future::pending::<()>())).unwrap()
        })
        .collect();
    while lock(&baton.hand.state).queue.is_empty() {
        std::thread::yield_now();
    }
    fuse.send(()).unwrap();
    assert!(threads.into_iter().all(|thread| thread.join().is_err()));
}

#[test]
fn a_closed_baton_gives_the_shard_back_once() {
    let (baton, requests, _folder) = shard();
    assert_eq!(baton.wait(ask(requests, 4)), 8);
    assert!(baton.close().is_some());
    assert!(baton.close().is_none() && baton.try_turn(&Budget::default()).is_none());
}

/// A baton whose driver panicked used to panic again in `close`, which an engine calls when it is dropped.
#[test]
fn a_baton_whose_driver_panicked_is_closed_without_the_shard() {
    struct Bomb;
    impl Pump for Bomb {
        fn turn(&mut self, _: &Budget) -> Turn {
            panic!("broken invariant");
        }
        fn park(&mut self, _: Option<u64>) {}
    }
    // SAFETY: everything in the pump is `Send`.
    let baton = Arc::new(unsafe { Baton::new(Bomb) });
    let driver = Arc::clone(&baton);
    let driver = std::thread::Builder::new().spawn(move || driver.try_turn(&Budget::default())).unwrap();
    assert!(driver.join().is_err());
    assert!(baton.close().is_none());
}
