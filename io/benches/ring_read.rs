//! What the executor costs above the bare ring: CPU time of a random 4 KiB read at depth 1 and 32.
//!
//! `cargo bench -p siltstone-io --bench ring_read [-- FOLDER]`. The two are interleaved, and the medians of the rounds are printed.

#![expect(clippy::unwrap_used, clippy::disallowed_methods, reason = "a benchmark")]

use std::cell::Cell;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Instant;

use io_uring::{IoUring, opcode, types};
use nix::sys::resource::{UsageWho, getrusage};
use siltstone_io::*;

const FILE_BYTES: u64 = 1 << 30;
const READS: u64 = 30_000;
const ROUNDS: usize = 5;

fn main() {
    let place = std::env::args().nth(1).filter(|argument| !argument.starts_with('-'));
    let folder = tempfile::tempdir_in(place.map_or_else(std::env::temp_dir, PathBuf::from)).unwrap();
    let path = folder.path().join("volume");
    fill(&path);
    for depth in [1, 32] {
        let (mut bare, mut ours) = (Vec::new(), Vec::new());
        for round in 0..ROUNDS as u64 {
            bare.push(bare_reads(&path, depth, round));
            ours.push(executor_reads(&path, depth, round));
        }
        report(&format!("bare ring, depth {depth}"), bare);
        report(&format!("executor, depth {depth}"), ours);
    }
}

fn report(name: &str, mut rounds: Vec<(f64, f64)>) {
    rounds.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (cpu_us, elapsed_us) = rounds[rounds.len() / 2];
    println!("{name:24} {cpu_us:6.2} us CPU, {elapsed_us:6.2} us elapsed for each read");
}

fn cpu_us() -> f64 {
    let usage = getrusage(UsageWho::RUSAGE_SELF).unwrap();
    let us = |time: nix::sys::time::TimeVal| time.tv_sec() as f64 * 1e6 + time.tv_usec() as f64;
    us(usage.user_time()) + us(usage.system_time())
}

/// CPU and elapsed microseconds of each read.
fn timed(body: impl FnOnce()) -> (f64, f64) {
    let (cpu, start) = (cpu_us(), Instant::now());
    body();
    ((cpu_us() - cpu) / READS as f64, start.elapsed().as_secs_f64() * 1e6 / READS as f64)
}

fn fill(path: &Path) {
    let shared = SharedDevice::open(path, OpenMode::Create).unwrap();
    let mut executor = Executor::new(ExecutorConfig::default(), Backend::Ring).unwrap();
    let device = executor.handle().attach(&shared).unwrap();
    executor.block_on(async {
        device.allocate(0, FILE_BYTES).await.unwrap();
        let mut buffer = Buffer::heap(4 << 20);
        Random::new(1).fill(&mut buffer);
        for offset in (0..FILE_BYTES).step_by(4 << 20) {
            let len = buffer.len();
            let (result, back) = device.write(offset, buffer, 0..len, WriteDurability::Cached, Placement::Deep).await;
            result.unwrap();
            buffer = back;
        }
        device.flush().await.unwrap();
    });
}

fn executor_reads(path: &Path, depth: u64, seed: u64) -> (f64, f64) {
    let shared = SharedDevice::open(path, OpenMode::ReadOnly).unwrap();
    let mut executor = Executor::new(ExecutorConfig::default(), Backend::Ring).unwrap();
    let handle = executor.handle();
    let device = handle.attach(&shared).unwrap();
    let pool = handle.buffer_pool(4096, depth as usize);
    let left = Rc::new(Cell::new(READS));
    let (done, event) = (Rc::new(Cell::new(0)), Rc::new(local::Event::new()));
    timed(|| {
        for task in 0..depth {
            let (device, pool, left) = (device.clone(), pool.clone(), Rc::clone(&left));
            let (done, event) = (Rc::clone(&done), Rc::clone(&event));
            let mut random = Random::new(seed * 100 + task);
            handle.spawn(Class::Foreground, async move {
                let mut frame = pool.take().unwrap();
                while left.get() > 0 {
                    left.set(left.get() - 1);
                    let (result, back) = device.read(random.below(FILE_BYTES / 4096) * 4096, frame, 4096).await;
                    result.unwrap();
                    frame = back;
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
    })
}

fn bare_reads(path: &Path, depth: u64, seed: u64) -> (f64, f64) {
    let file = std::fs::OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(path).unwrap();
    let mut ring: IoUring = IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_taskrun_flag()
        .setup_submit_all()
        .build(256)
        .unwrap();
    ring.submitter().register_files(&[file.as_raw_fd()]).unwrap();
    let mut buffer = Buffer::heap(4096 * depth as usize);
    let vector = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: the buffer outlives the ring's use of it: all reads are awaited below.
    unsafe { ring.submitter().register_buffers(&[vector]).unwrap() };
    let mut random = Random::new(seed * 100);
    let start = buffer.as_mut_ptr();
    timed(|| {
        let (mut submitted, mut completed) = (0, 0);
        let mut free: Vec<u64> = (0..depth).collect();
        while completed < READS {
            while submitted < READS
                && let Some(slot) = free.pop()
            {
                let offset = random.below(FILE_BYTES / 4096) * 4096;
                let address = start.wrapping_add(slot as usize * 4096);
                let entry = opcode::ReadFixed::new(types::Fixed(0), address, 4096, 0).offset(offset).build();
                // SAFETY: the slot's part of the buffer is not used by another read until this one has completed.
                unsafe { ring.submission().push(&entry.user_data(slot)).unwrap() };
                submitted += 1;
            }
            ring.submit_and_wait(1).unwrap();
            for completion in ring.completion() {
                assert_eq!(completion.result(), 4096);
                free.push(completion.user_data());
                completed += 1;
            }
        }
    })
}
