//! All small workloads, on several threads.

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use siltstone_io::spawn_pinned;
use siltstone_tests::enumerate::small::{Small, all};
use siltstone_tests::enumerate::{Enumerator, Report};

use crate::Effort;
use crate::report::Progress;

/// Workloads that a thread takes at once: neighbours begin in the same way, and share states.
const BATCH: usize = 32;

pub(crate) fn run(shards: Option<usize>, every: usize, only: Option<Small>, effort: &Effort) -> ExitCode {
    let workloads: Vec<Small> = match only {
        Some(only) => vec![only],
        None => {
            let all = [1, 2].into_iter().filter(|number| shards.is_none_or(|shards| shards == *number)).flat_map(all);
            all.step_by(every).collect()
        }
    };
    let (workloads, limits) = (Arc::new(workloads), effort.limits());
    let progress = Arc::new(Mutex::new(Progress::begin()));
    let (next, stop, failures_max) =
        (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)), effort.failures_max);
    let threads: Vec<_> = (0..effort.threads())
        .map(|thread| {
            let (workloads, limits, progress) = (Arc::clone(&workloads), limits.clone(), Arc::clone(&progress));
            let (next, stop) = (Arc::clone(&next), Arc::clone(&stop));
            let started = spawn_pinned(&format!("crash-{thread}"), None, move || {
                let mut enumerator = Enumerator::default();
                loop {
                    let first = next.fetch_add(BATCH, Ordering::SeqCst);
                    if first >= workloads.len() {
                        return;
                    }
                    for small in &workloads[first..workloads.len().min(first + BATCH)] {
                        if stop.load(Ordering::SeqCst) {
                            return;
                        }
                        let report = enumerate(&mut enumerator, small, &limits);
                        let mut progress = progress.lock().unwrap_or_else(PoisonError::into_inner);
                        progress.add(report, |_| format!("small --only {small}"));
                        if progress.total.failures.len() >= failures_max {
                            stop.store(true, Ordering::SeqCst);
                        }
                    }
                }
            });
            started.unwrap_or_else(|error| panic!("{error}"))
        })
        .collect();
    for thread in threads {
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    }
    let progress = progress.lock().unwrap_or_else(PoisonError::into_inner);
    progress.end()
}

fn enumerate(enumerator: &mut Enumerator, small: &Small, limits: &siltstone_tests::enumerate::Limits) -> Report {
    let trace = small.record().unwrap_or_else(|error| panic!("{small} fails without a crash: {error}"));
    let report = enumerator.enumerate(&trace, limits, || true);
    report.unwrap_or_else(|error| panic!("{small} makes a trace that cannot be played: {error}"))
}
