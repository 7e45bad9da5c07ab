//! The clock and the latency recorder that all adapters share.

use std::time::Instant;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// The harness's clock.
#[inline]
#[expect(clippy::disallowed_methods, reason = "a benchmark measures real time")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Collects the latency of each operation. Each thread has its own; they are merged at the end.
pub(crate) struct Recorder {
    histogram: Histogram<u64>,
}

/// Latencies in microseconds.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Latency {
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) p999_us: f64,
    pub(crate) max_us: f64,
}

impl Recorder {
    /// From 1 ns to a minute; what takes longer counts as a minute.
    const MAX_NS: u64 = 60_000_000_000;

    pub(crate) fn new() -> Self {
        let histogram = Histogram::new_with_bounds(1, Self::MAX_NS, 3).expect("constant bounds are valid");
        Recorder { histogram }
    }

    /// Records an operation that began at `start` and ends now.
    #[inline]
    pub(crate) fn record(&mut self, start: Instant) {
        self.record_many(start, 1);
    }

    /// Records `count` operations that began together at `start` and end now.
    #[inline]
    pub(crate) fn record_many(&mut self, start: Instant, count: u64) {
        let ns = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.histogram.saturating_record_n(ns.max(1), count);
    }

    /// Takes over what another one has recorded, of an engine that is driven by threads.
    #[cfg(any(feature = "rocksdb", feature = "fjall", test))]
    pub(crate) fn merge(&mut self, other: &Recorder) {
        self.histogram.add(&other.histogram).expect("recorders have the same bounds");
    }

    /// How many operations were recorded.
    pub(crate) fn count(&self) -> u64 {
        self.histogram.len()
    }

    pub(crate) fn latency(&self) -> Latency {
        let us = |ns: u64| ns as f64 / 1e3;
        Latency {
            p50_us: us(self.histogram.value_at_quantile(0.5)),
            p99_us: us(self.histogram.value_at_quantile(0.99)),
            p999_us: us(self.histogram.value_at_quantile(0.999)),
            max_us: us(self.histogram.max()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn merged_recorders_count_all_operations() {
        let start = now().checked_sub(Duration::from_millis(2)).expect("the clock is past 2 ms");
        let (mut a, mut b) = (Recorder::new(), Recorder::new());
        a.record(start);
        b.record_many(start, 32);
        a.merge(&b);
        assert_eq!(a.count(), 33);
        assert!(a.latency().p50_us >= 2_000.0, "{:?}", a.latency());
    }
}
