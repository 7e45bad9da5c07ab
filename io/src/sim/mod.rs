//! The simulated disk: in memory, in virtual time, and as unreliable as a real one, all from a seed.
//!
//! 1. An operation is submitted with a copy of its data, and completes after a latency drawn from the seed. Operations in flight
//!    complete, and so take effect, in the order of those times: two that overlap may land in either order.
//! 2. A completed write is in the volatile cache: reads see it, but each of its logical blocks is on stable storage only when a flush
//!    that was submitted after the write's completion has completed. A durable write (FUA) is on stable storage when it completes.
//! 3. A crash ends all operations in flight: they never complete. Each block that has versions not yet on stable storage, those of
//!    writes in flight included, then holds one of them, or what was on stable storage, or a torn mix of two neighbours (cut at a
//!    sector or at any byte), independently of the other blocks. The size is the durable one or the latest.
//! 4. `restart` gives power back. Attachments from before the crash stay dead: what they submit fails.
//!
//! Invariants
//! 1. `current` is what reads see. For each block in `unflushed`, the history holds what was durable and every later version, oldest
//!    first; the last one equals `current`.
//! 2. Everything random is drawn from the disk's own generator, in the order of submissions and completions: same seed, same run.

mod crash;
mod disk;
mod driver;
mod store;
#[cfg(all(test, not(any(loom, shuttle))))]
mod tests;

pub(crate) use disk::Ticket;
pub use disk::{SimDisk, SimOptions, SimStats};
pub(crate) use driver::{SimAttachment, SimDriver};
