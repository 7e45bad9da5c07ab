//! What the suites share: options of workers, progress, failures, the summary.

use std::time::Duration;

use siltstone_io::Random;

use crate::clock::now;
use crate::session::{Session, Tally};
use crate::worker::{Mode, WorkerOptions};

/// How often progress is told.
const PROGRESS_EVERY: Duration = Duration::from_secs(5);
/// Failures of one volume that are printed.
const PRINTED_MAX: usize = 8;

/// A run of a suite.
pub(crate) struct Suite {
    command: String,
    total: Tally,
    told: std::cell::Cell<std::time::Instant>,
    /// Ends at this many volumes with failures.
    pub(crate) failures_max: u64,
    /// A deliberate bug in the workers.
    pub(crate) mutant: Option<String>,
}

impl Suite {
    /// `command` repeats the run, up to its seed.
    pub(crate) fn new(command: String) -> Suite {
        Suite { command, total: Tally::default(), told: std::cell::Cell::new(now()), failures_max: 3, mutant: None }
    }

    /// Whether there were few enough failures.
    pub(crate) fn goes_on(&self) -> bool {
        self.total.failures < self.failures_max
    }

    /// Tells how far it is, now and then.
    pub(crate) fn progress(&self, session: &Session, round: u64) {
        if self.told.get() + PROGRESS_EVERY > now() {
            return;
        }
        self.told.set(now());
        let kills = self.total.kills + session.kills;
        let acknowledged = self.total.acknowledged + session.oracle.acknowledged;
        println!(
            "  {kills} kills, {acknowledged} acknowledged writes, round {round} of this volume, {} failures",
            self.total.failures
        );
    }

    /// Ends the work on a volume: counts it, and says what went wrong.
    pub(crate) fn end(&mut self, mut session: Session, tally: Tally, result: Result<(), String>, seed: u64) {
        // What is not told any more counts too.
        let killed = session.kill();
        session.oracle.failures.extend(result.err());
        session.oracle.failures.extend(killed.err());
        self.total.kills += session.kills;
        self.total.acknowledged += session.oracle.acknowledged;
        for (class, count) in &session.oracle.failed {
            *self.total.counts.entry(format!("writes that failed: {class}")).or_default() += count;
        }
        for (what, count) in tally.counts {
            *self.total.counts.entry(what).or_default() += count;
        }
        let failures = std::mem::take(&mut session.oracle.failures);
        if failures.is_empty() {
            return;
        }
        self.total.failures += 1;
        println!("FAILURE ({} findings) with seed {seed}, {:?}", failures.len(), session.options);
        for failure in failures.iter().take(PRINTED_MAX) {
            println!("  {failure}");
        }
        println!("  the volume is kept in {}", session.place.keep().display());
        println!("  to try again: {} --seed {seed}", self.command);
    }

    /// Prints the summary; whether there were no failures.
    pub(crate) fn summary(&self) -> bool {
        for (what, count) in &self.total.counts {
            println!("{count:>9} {what}");
        }
        let Tally { kills, acknowledged, failures, .. } = &self.total;
        println!("{kills} kills, {acknowledged} acknowledged writes checked, {failures} failures");
        *failures == 0
    }
}

/// Options of a volume, small in all that is small for tests: its memtables fill and its levels are compacted all the time.
pub(crate) fn worker_options(seed: u64, random: &mut Random) -> WorkerOptions {
    WorkerOptions {
        path: std::path::PathBuf::new(),
        mode: Mode::Sync,
        shards: 1,
        seed,
        first: Vec::new(),
        checkpoint: 1,
        value_bytes_max: [64, 600, 4000][random.below(3) as usize],
        extent_bytes: 64 << 10 << (2 * random.below(3)),
        memtable_bytes: 64 << 10 << (2 * random.below(3)),
        capacity_bytes: 1 << 40,
        retained: 2,
        no_checkpoints: false,
        read_only: false,
        mutant: None,
    }
}
