//! The traces' hashes of many seeds, for comparing processes with each other: what depends on addresses, or on what a process did before, is the
//! same in two runs within one process, and seldom in two processes.

use std::collections::BTreeMap;
use std::ops::Range;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use siltstone_tests::sim::Limits;
use siltstone_tests::sim::run::run_many;

/// Prints a line for each seed, in order.
pub(crate) fn run(seeds: Range<u64>, threads: usize) -> ExitCode {
    let hashes: Arc<Mutex<BTreeMap<u64, u64>>> = Arc::default();
    let (shared, next) = (Arc::clone(&hashes), Mutex::new(seeds));
    let next = move || next.lock().unwrap_or_else(PoisonError::into_inner).next();
    run_many(threads, &Limits::default(), next, move |outcome| {
        shared.lock().unwrap_or_else(PoisonError::into_inner).insert(outcome.seed, outcome.trace);
    });
    for (seed, hash) in &*hashes.lock().unwrap_or_else(PoisonError::into_inner) {
        println!("{seed} {hash:016x}");
    }
    ExitCode::SUCCESS
}
