//! The simulated disk: in memory, in virtual time, and as unreliable as a real one, all from a seed.
//!
//! # Layers
//!
//! ```text
//!   fault overlay   for damaged blocks, what reads see instead: what other faults than crashes do    overlay.rs, faults.rs
//!   cached          versions of blocks that no flush has made durable yet            } the base      base.rs
//!   durable         what is on stable storage                                        }               store.rs
//! ```
//!
//! The *base* is pristine: the disk as it would be with crashes and no other fault. All other damage lies above it, so that `heal`,
//! which drops the overlay, leaves a disk on which only crashes have happened, and `atlas` can name every damaged block.
//!
//! # The base
//!
//! 1. An operation is submitted with a copy of its data, and completes after a latency drawn from the seed. Operations in flight
//!    complete, and so take effect, in the order of those times: two that overlap may land in either order.
//! 2. A completed write is in the volatile cache: reads see it, but each of its logical blocks is on stable storage only when a flush
//!    that was submitted after the write's completion has completed. A durable write (FUA) is on stable storage when it completes.
//! 3. A flush that fails strands some of what it covered: no later flush makes those versions durable, though reads see them. Whoever
//!    takes the next flush's success for theirs loses them in a crash. (The error has been told, so this is no damage.)
//! 4. A crash ends all operations in flight: they never complete. Each block that has versions not yet on stable storage, those of
//!    writes and discards in flight included, then holds one of them, or what was on stable storage, or a torn mix of two
//!    neighbours (of sectors, never inside one), or garbage in one sector or all, independently of the other blocks. The size is the
//!    durable one or the latest.
//! 5. `restart` gives power back. Attachments from before the crash stay dead: what they submit fails.
//!
//! # The overlay
//!
//! 1. An entry says what reads of a block see, bytes or EIO. It belongs to one version of the block: it goes when the block is
//!    rewritten, and comes back with the version where a crash undoes the rewriting.
//! 2. A lost write leaves an entry with the old content; a misdirected one such an entry too, and one with the stray content at
//!    the place where it landed. Bit rot leaves one with flipped bits, a bad block one that cannot be read.
//! 3. A lost flush is a flush for the base. What it covered is remembered until a flush that is not lost, or a durable write of the
//!    block, or a crash: then some of these blocks get entries with older content. (A size that it covered is not taken back.)
//!
//! Unwritable blocks refuse writes, which says so; what they hold is not damaged, and they are not in the atlas.
//!
//! Invariants
//! 1. For each block in `unflushed`, the history holds what was durable and every later version, oldest first; the last one equals
//!    `current`. Its number is the block's in `blocks`.
//! 2. An entry's bytes differ from those of the version that it hides.
//! 3. Everything random is drawn from the disk's own generator, in the order of submissions and completions: same seed, same run, same
//!    `trace_hash`. Rates that are 0 draw nothing.

mod base;
mod crash;
mod disk;
mod driver;
#[cfg(all(test, not(loom)))]
mod fault_tests;
mod faults;
mod kinds;
mod operation;
mod options;
mod overlay;
mod store;
#[cfg(all(test, not(any(loom, shuttle))))]
mod tests;
mod told;
mod trace;

pub use disk::SimDisk;
pub(crate) use driver::{SimAttachment, SimDriver};
pub use kinds::SIM_FAULT_KINDS;
pub use options::{SimFaults, SimOptions, SimStats};
pub use overlay::Damage;
pub use told::Told;
