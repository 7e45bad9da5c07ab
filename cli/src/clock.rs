//! The wall clock, for what is measured and shown; no result depends on it.

use std::time::Instant;

/// The time now.
#[expect(
    clippy::disallowed_methods,
    reason = "a program's own measurements; the engine's time comes from its executor"
)]
pub(crate) fn now() -> Instant {
    Instant::now()
}
