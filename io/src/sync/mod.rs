//! The synchronisation primitives of everything that crosses threads: `std`'s and crossbeam's, loom's under `--cfg loom`, shuttle's under
//! `--cfg shuttle`.
//!
//! Code that crosses threads takes its atomics, fences, mutexes, queues and thread-locals from here, so that the models run the code that
//! ships and not a copy of it. What each of the two checks:
//!
//! - loom explores every interleaving up to a number of preemptions, and lets a load see every value that the memory model allows. It
//!   knows sequentially consistent fences, but takes sequentially consistent loads and stores for acquire and release: so what needs the
//!   order of all stores before a load is written with a fence.
//! - shuttle runs random interleavings of larger flows, with sequentially consistent memory.

#[cfg(any(loom, shuttle))]
pub mod model;

#[cfg(not(any(loom, shuttle)))]
pub use crossbeam_queue::{ArrayQueue, SegQueue};
#[cfg(not(any(loom, shuttle)))]
pub use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};
#[cfg(not(any(loom, shuttle)))]
pub use std::sync::{Condvar, Mutex, MutexGuard};
#[cfg(not(any(loom, shuttle)))]
pub use std::thread_local;

#[cfg(loom)]
pub use loom::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};
#[cfg(loom)]
pub use loom::sync::{Condvar, Mutex, MutexGuard};
#[cfg(loom)]
pub use loom::thread_local;

#[cfg(shuttle)]
pub use shuttle::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};
#[cfg(shuttle)]
pub use shuttle::sync::{Condvar, Mutex, MutexGuard};
#[cfg(shuttle)]
pub use shuttle::thread_local;

#[cfg(any(loom, shuttle))]
pub use model::{ArrayQueue, SegQueue};

/// Locks, whether or not a holder panicked: what these locks guard is valid between any two statements of its holders.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
