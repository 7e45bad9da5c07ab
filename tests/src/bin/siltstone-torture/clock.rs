//! Time of real processes.

use std::time::{Duration, Instant};

#[expect(clippy::disallowed_methods, reason = "real processes run in real time")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

#[expect(clippy::disallowed_methods, reason = "real processes run in real time")]
pub(crate) fn sleep(duration: Duration) {
    std::thread::sleep(duration);
}
