//! What the job tells its user: progress on the way and a summary at the end.

use std::fmt;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use indicatif::{ProgressBar, ProgressStyle};

use crate::clock;
use crate::size;

/// Between two lines of progress.
const LINE_INTERVAL: Duration = Duration::from_secs(1);
/// Between two updates of the bar.
const BAR_INTERVAL: Duration = Duration::from_millis(100);

/// Progress on standard error: a bar on a terminal, plain lines elsewhere.
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    file_bytes: u64,
    shown: Instant,
}

impl Progress {
    pub(crate) fn new(file_bytes: u64) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{bar:40} {percent:>3}% of the input, {msg}, {eta} left");
            ProgressBar::new(file_bytes).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
        });
        Progress { bar, file_bytes, shown: clock::now() }
    }

    /// Shows how far the job is, if it is time to.
    pub(crate) fn show(&mut self, read_bytes: u64, events: u64, checkpoints: u64) {
        let interval = if self.bar.is_some() { BAR_INTERVAL } else { LINE_INTERVAL };
        let now = clock::now();
        if now.duration_since(self.shown) < interval {
            return;
        }
        self.shown = now;
        let text = format!("{events} events, {checkpoints} checkpoints");
        match &self.bar {
            Some(bar) => {
                bar.set_position(read_bytes);
                bar.set_message(text);
            }
            None => eprintln!("{}% of the input, {text}", read_bytes * 100 / self.file_bytes.max(1)),
        }
    }

    pub(crate) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// What a run did.
pub(crate) struct Summary {
    /// Events of this run and its time.
    pub(crate) events: u64,
    pub(crate) elapsed: Duration,
    /// Events, and rows without a tail number, of the whole job.
    pub(crate) events_total: u64,
    pub(crate) skipped_total: u64,
    /// From handing an event to the engine to its operator's end, nanoseconds.
    pub(crate) latency_ns: Histogram<u64>,
    /// From each barrier to the checkpoint being durable.
    pub(crate) checkpoints: Vec<Duration>,
    pub(crate) bytes_written: u64,
    pub(crate) cache_hits: u64,
    pub(crate) cache_misses: u64,
    pub(crate) output_dir: PathBuf,
    /// Name and rows of each output.
    pub(crate) outputs: [(&'static str, u64); 4],
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.elapsed.as_secs_f64();
        let rate = self.events as f64 / seconds.max(1e-9);
        writeln!(f, "events       {} in {seconds:.2} s, {rate:.0} events/s", self.events)?;
        let [p50, p99, p999] = [50.0, 99.0, 99.9].map(|q| show_ns(self.latency_ns.value_at_percentile(q)));
        let max = show_ns(self.latency_ns.max());
        writeln!(f, "latency      p50 {p50}, p99 {p99}, p99.9 {p999}, max {max}")?;
        write!(f, "checkpoints  {}", self.checkpoints.len())?;
        let mut sorted = self.checkpoints.clone();
        sorted.sort_unstable();
        if let (Some(median), Some(longest)) = (sorted.get(sorted.len() / 2), sorted.last()) {
            write!(f, ", median {}, longest {}", show(*median), show(*longest))?;
        }
        writeln!(f, "\nwritten      {} to the store", size::show(self.bytes_written))?;
        match self.cache_hits + self.cache_misses {
            0 => writeln!(f, "cache        not asked: all reads were served by memtables")?,
            reads => {
                writeln!(f, "cache        {:.2}% of {reads} reads hit", self.cache_hits as f64 * 100.0 / reads as f64)?
            }
        }
        let rows = self.outputs.map(|(name, rows)| format!("{name} {rows}")).join(", ");
        writeln!(f, "outputs      {}: rows of {rows}", self.output_dir.display())?;
        write!(
            f,
            "whole job    {} events, {} rows without a tail number skipped",
            self.events_total, self.skipped_total
        )
    }
}

fn show_ns(ns: u64) -> String {
    show(Duration::from_nanos(ns))
}

fn show(duration: Duration) -> String {
    let us = duration.as_secs_f64() * 1e6;
    match us {
        us if us < 1e3 => format!("{us:.1} us"),
        us if us < 1e6 => format!("{:.2} ms", us / 1e3),
        us => format!("{:.2} s", us / 1e6),
    }
}
