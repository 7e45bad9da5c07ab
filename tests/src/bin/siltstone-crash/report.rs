//! Progress, failures and the summary.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use siltstone_tests::enumerate::{Failure, Report};

/// How often progress is told.
const PROGRESS_EVERY: Duration = Duration::from_secs(5);

/// What has been tried so far.
pub(crate) struct Progress {
    began: Instant,
    told: Instant,
    workloads: u64,
    pub(crate) total: Report,
}

impl Progress {
    pub(crate) fn begin() -> Progress {
        let began = now();
        Progress { began, told: began, workloads: 0, total: Report::default() }
    }

    pub(crate) fn seconds(&self) -> f64 {
        (now() - self.began).as_secs_f64()
    }

    /// One more workload was enumerated; `repeat` repeats it.
    pub(crate) fn add(&mut self, report: Report, repeat: impl Fn(&Failure) -> String) {
        for failure in &report.failures {
            println!("FAILURE ({:?}) of a crash before record {}", failure.broken, failure.point);
            println!("  {}", failure.text.replace('\n', "\n  "));
            println!("  the device: {}", failure.state);
            println!(
                "  to repeat it: cargo run --release -p siltstone-tests --bin siltstone-crash -- {}",
                repeat(failure)
            );
        }
        self.workloads += 1;
        self.total.add(report);
        if now() - self.told >= PROGRESS_EVERY {
            self.told = now();
            eprintln!("{:>6.0} s: {}", self.seconds(), self.summary());
        }
    }

    fn summary(&self) -> String {
        let Report { states, failures, .. } = &self.total;
        format!("{states} crash states, {} workloads, {} failures", self.workloads, failures.len())
    }

    pub(crate) fn end(&self) -> ExitCode {
        let Report { points, sampled_points, opened, failures, .. } = &self.total;
        println!(
            "{:.1} s: {points} crash points, {sampled_points} of them with more states than were tried; {opened} different states opened",
            self.seconds()
        );
        println!("{}", self.summary());
        if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

#[expect(clippy::disallowed_methods, reason = "progress is told in real time")]
fn now() -> Instant {
    Instant::now()
}
