//! Runs a test for many seeds.
//!
//! `SILTSTONE_SEED=n` runs one seed, `SILTSTONE_SEEDS=n` another number of them.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use siltstone_io::spawn_pinned;

/// Runs `test` for the seeds `0..count`, on all cores. After the first failure it prints the seed and a command that repeats it.
///
/// # Panics
/// When a seed fails.
#[expect(clippy::disallowed_methods, reason = "each seed is a run of its own, whoever runs it")]
pub fn run(name: &'static str, count: u64, test: fn(u64)) {
    if let Some(seed) = number("SILTSTONE_SEED") {
        return test(seed);
    }
    let count = number("SILTSTONE_SEEDS").unwrap_or(count);
    static FAILED: Mutex<Vec<(&str, u64)>> = Mutex::new(Vec::new());
    let next = std::sync::Arc::new(AtomicU64::new(0));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut workers = Vec::new();
    for thread in 0..threads {
        let next = std::sync::Arc::clone(&next);
        let worker = spawn_pinned(&format!("{name}-{thread}"), None, move || {
            loop {
                let seed = next.fetch_add(1, Ordering::SeqCst);
                if seed >= count {
                    return;
                }
                if let Err(panic) = catch_unwind(AssertUnwindSafe(|| test(seed))) {
                    eprintln!("{name} fails with seed {seed}. To repeat it:");
                    eprintln!("  SILTSTONE_SEED={seed} cargo test -p siltstone-tests {name}");
                    lock(&FAILED).push((name, seed));
                    if number("SILTSTONE_KEEP_GOING").is_none() {
                        next.store(count, Ordering::SeqCst);
                        resume_unwind(panic);
                    }
                }
            }
        });
        workers.push(worker.unwrap_or_else(|error| panic!("{error}")));
    }
    for worker in workers {
        let _ = worker.join();
    }
    let failed: Vec<u64> = lock(&FAILED).iter().filter(|(test, _)| *test == name).map(|(_, seed)| *seed).collect();
    assert!(failed.is_empty(), "{name} fails with seeds {failed:?}");
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[expect(clippy::disallowed_methods, reason = "which seeds to run is not part of any run")]
fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{variable} is not a number")))
}
