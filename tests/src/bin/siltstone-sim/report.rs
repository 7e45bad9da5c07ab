//! Runs of many seeds: progress, failures, the summary.

use std::collections::BTreeMap;
use std::ops::Range;
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use siltstone_tests::sim::run::{Outcome, run_many, simulate};
use siltstone_tests::sim::{Limits, Plan};

/// How often progress is told.
const PROGRESS_EVERY: Duration = Duration::from_secs(5);

pub(crate) struct Run {
    pub(crate) seeds: Range<u64>,
    pub(crate) minutes: Option<f64>,
    pub(crate) threads: usize,
    /// The range of seeds has no end.
    pub(crate) endless: bool,
    pub(crate) twice: bool,
    pub(crate) coverage: bool,
    pub(crate) failures_max: u64,
    pub(crate) limits: Limits,
}

struct Progress {
    began: Instant,
    told: Instant,
    seeds: u64,
    operations: u64,
    failures: Vec<u64>,
    counts: BTreeMap<&'static str, u64>,
}

pub(crate) fn run(options: Run) -> ExitCode {
    let began = now();
    let progress = Arc::new(Mutex::new(Progress {
        began,
        told: began,
        seeds: 0,
        operations: 0,
        failures: Vec::new(),
        counts: BTreeMap::new(),
    }));
    let stop = Arc::new(AtomicBool::new(false));
    let next = {
        let (stop, next, range) = (Arc::clone(&stop), AtomicU64::new(options.seeds.start), options.seeds.clone());
        let endless = options.minutes.is_some() && options.endless;
        let until = options.minutes.map(|minutes| began + Duration::from_secs_f64(minutes * 60.0));
        move || {
            let seed = next.fetch_add(1, Ordering::SeqCst);
            let more = (seed < range.end || endless) && until.is_none_or(|until| now() < until);
            (more && !stop.load(Ordering::SeqCst)).then_some(seed)
        }
    };
    let (limits, twice, failures_max, shared) =
        (options.limits.clone(), options.twice, options.failures_max, Arc::clone(&progress));
    run_many(options.threads, &options.limits, next, move |mut outcome| {
        if twice && outcome.failure.is_none() {
            let again = simulate(outcome.seed, &limits);
            if again.trace != outcome.trace {
                outcome.failure =
                    Some(format!("two runs differ: traces {:016x} and {:016x}", outcome.trace, again.trace));
            }
        }
        let mut progress = shared.lock().unwrap_or_else(PoisonError::into_inner);
        progress.add(outcome, &limits);
        if progress.failures.len() as u64 >= failures_max {
            stop.store(true, Ordering::SeqCst);
        }
    });
    let progress = progress.lock().unwrap_or_else(PoisonError::into_inner);
    let uncovered = progress.summary(options.coverage);
    let failures = progress.failures.len() as u64 + uncovered;
    println!("{} seeds, {} operations, {failures} failures", progress.seeds, progress.operations);
    if failures == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

impl Progress {
    fn add(&mut self, outcome: Outcome, limits: &Limits) {
        self.seeds += 1;
        self.operations += outcome.operations;
        for (what, count) in outcome.faults.into_iter().chain(outcome.done) {
            *self.counts.entry(what).or_default() += count;
        }
        if let Some(failure) = outcome.failure {
            self.failures.push(outcome.seed);
            print_failure(outcome.seed, limits, &failure);
        }
        if self.told.elapsed() >= PROGRESS_EVERY {
            self.told = now();
            eprintln!(
                "{:>6.0} s: {} seeds, {} operations, {} failures",
                self.began.elapsed().as_secs_f64(),
                self.seeds,
                self.operations,
                self.failures.len()
            );
        }
    }

    /// Prints the counts; how many of those that must not be 0 are.
    fn summary(&self, coverage: bool) -> u64 {
        for (what, count) in &self.counts {
            println!("{count:>12} {what}");
        }
        let marks = siltstone::testing::marks::counts();
        for (name, count) in &marks {
            println!("{count:>12} path: {name}");
        }
        if !coverage {
            return 0;
        }
        let faults =
            siltstone_io::SIM_FAULT_KINDS.iter().map(|kind| (*kind, self.counts.get(kind).copied().unwrap_or(0)));
        let missing: Vec<&str> = faults.chain(marks).filter(|(_, count)| *count == 0).map(|(name, _)| name).collect();
        for name in &missing {
            println!("never hit: {name}");
        }
        missing.len() as u64
    }
}

/// Says what failed, and how to repeat it.
pub(crate) fn print_failure(seed: u64, limits: &Limits, failure: &str) {
    println!("FAILURE of seed {seed} at commit {}", commit());
    println!("  {}", failure.replace('\n', "\n  "));
    println!("  {:?}", Plan::new(seed, limits));
    println!(
        "  to repeat it: cargo run --release -p siltstone-tests --bin siltstone-sim -- repeat {seed}{}",
        flags(limits)
    );
}

/// Limits as command-line flags.
pub(crate) fn flags(limits: &Limits) -> String {
    let mut flags = String::new();
    let fields =
        [("lives", limits.lives), ("rounds", limits.rounds), ("clients", limits.clients), ("steps", limits.steps)];
    for (name, value) in fields {
        if let Some(value) = value {
            flags += &format!(" --{name} {value}");
        }
    }
    if !limits.without.is_empty() {
        flags += &format!(" --without {}", limits.without.iter().cloned().collect::<Vec<_>>().join(","));
    }
    flags
}

fn commit() -> String {
    let git =
        Command::new("git").args(["describe", "--always", "--dirty"]).current_dir(env!("CARGO_MANIFEST_DIR")).output();
    let text = git.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default();
    if text.is_empty() { "unknown".into() } else { text }
}

fn now() -> Instant {
    Instant::now()
}
