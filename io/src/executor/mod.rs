//! The executor: tasks, timers and I/O of one core, turned by one thread at a time.
//!
//! A turn does, in order:
//! 1. takes what came from outside: tasks woken by other threads, timers that are due, completions;
//! 2. runs ready foreground tasks, at most `Budget::foreground_tasks_max` of them;
//! 3. runs background tasks (flush, compaction, checkpoint by their weights) for at most `Budget::background_slice_us`, and stops as
//!    soon as foreground work waits; long loops in them ask `need_preempt` and yield;
//! 4. hands the operations that tasks have started to the kernel, all in one system call; of those that background tasks have started, as many
//!    as the budget allows (`queue.rs`).
//!
//! With nothing to do it parks: spins for a bounded time where I/O is in flight, then sleeps until a completion, a timer, or a wake-up
//! from another thread.
//!
//! Invariants
//! 1. Nothing runs a task but `turn`; a wake-up only queues it.
//! 2. Between turns, every operation that was started is with the kernel or waits in the queue (with `park_follows`: after the park).
//! 3. The executor ends only when the kernel has let go of every buffer. Operations of a simulated disk that lost power never complete;
//!    their buffers go with the slab.
//!
//! In a simulation the same code runs on virtual time: `park` moves the clock to the next event.

mod config;
mod core;
mod handle;
mod ops;
mod park;
mod queue;
mod run;
mod schedule;
mod task;
mod timer;

#[cfg(all(test, loom))]
#[expect(clippy::unwrap_used, reason = "a test stops where something is not as it should be")]
mod loom_models;

pub(crate) use self::core::Core;
pub use config::{Backend, Budget, Class, Driving, ExecutorConfig, IoBudget, Turn};
pub use handle::Handle;
pub use ops::{BufferOperation, ControlOperation, IoStats};
pub(crate) use ops::{Driver, POWER_LOST, Request, Transfer};
pub(crate) use park::Remote;
pub use park::RemoteWake;
pub use run::Executor;
pub(crate) use schedule::Order;
pub use timer::Sleep;
