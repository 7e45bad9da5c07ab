//! Time: the machine's, or the simulation's virtual microseconds.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// The wall clock's reading when a simulation begins, in milliseconds since 1970.
const SIM_WALL_START_MS: u64 = 1_700_000_000_000;

/// Virtual time, shared by everything in one simulation. It moves only when it is told to.
#[derive(Clone, Debug, Default)]
pub struct SimClock(Arc<AtomicU64>);

impl SimClock {
    /// A clock at 0.
    pub fn new() -> SimClock {
        SimClock::default()
    }

    /// Virtual microseconds since the beginning.
    #[inline]
    pub fn now_us(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Moves the clock forward; an earlier time leaves it where it is.
    pub fn advance_to(&self, us: u64) {
        self.0.fetch_max(us, Ordering::Relaxed);
    }
}

/// The clock of one executor.
#[derive(Clone, Debug)]
pub(crate) enum Clock {
    Machine,
    Simulated(SimClock),
}

impl Clock {
    /// Monotonic microseconds; all executors of a process (or of a simulation) agree.
    #[inline]
    pub(crate) fn now_us(&self) -> u64 {
        match self {
            Clock::Machine => machine_now_us(),
            Clock::Simulated(clock) => clock.now_us(),
        }
    }

    /// Milliseconds since 1970.
    pub(crate) fn wall_ms(&self) -> u64 {
        match self {
            Clock::Machine => machine_wall_ms(),
            Clock::Simulated(clock) => SIM_WALL_START_MS + clock.now_us() / 1000,
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "this is the clock that the engine's time comes from")]
pub(crate) fn machine_now_us() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    let start = START.get_or_init(Instant::now);
    start.elapsed().as_micros() as u64
}

#[expect(clippy::disallowed_methods, reason = "this is the clock that the engine's time comes from")]
fn machine_wall_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    #[test]
    fn virtual_time_never_goes_back() {
        let clock = SimClock::new();
        clock.advance_to(10);
        clock.advance_to(5);
        assert_eq!(clock.now_us(), 10);
        assert_eq!(Clock::Simulated(clock).wall_ms(), SIM_WALL_START_MS);
    }
}
