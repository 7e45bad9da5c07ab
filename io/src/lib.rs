//! The I/O layer under the Siltstone storage engine: a per-core executor on io_uring, devices, and their simulation.
//!
//! Every system call, clock, random number and thread of the engine is here, and so is all unsafe code that faces the kernel. The same
//! engine code runs on files and, from a seed and in virtual time, on simulated disks that crash.
//!
//! | part | what it holds |
//! |---|---|
//! | [`Executor`], [`Handle`] | tasks, classes and budgets, timers, parking; one executor drives one shard |
//! | [`SharedDevice`], [`Device`] | read, write, flush, allocate, discard on aligned buffers |
//! | [`Buffer`], [`BufferPool`] | memory that the kernel may touch, and nothing else meanwhile |
//! | [`SimDisk`], [`SimClock`] | the simulation |
//! | [`local`], [`mailbox`], [`Baton`] | waiting within a thread, messages across threads, and driving from the caller's threads |

#[macro_use]
mod hooks;

mod baton;
mod buffer;
mod clock;
mod device;
mod error;
mod executor;
pub mod local;
pub mod mailbox;
mod random;
mod ring;
mod sim;
#[doc(hidden)]
pub mod sync;
#[cfg(feature = "testing")]
#[doc(hidden)]
pub mod testing;
mod thread;

pub use baton::{Baton, Pump};
pub use buffer::{ALIGNMENT, Buffer, BufferPool};
pub use clock::SimClock;
pub use device::{
    Device, DeviceKind, DeviceRequest, Discard, Geometry, OpenMode, Placement, SharedDevice, WriteDurability,
};
pub use error::{IoError, OpKind};
pub use executor::{
    Backend, Budget, BufferOperation, Class, ControlOperation, Driving, Executor, ExecutorConfig, Handle, IoBudget,
    IoStats, RemoteWake, Sleep, Turn,
};
pub use random::{Random, entropy};
pub use sim::{Damage, SIM_FAULT_KINDS, SimDisk, SimFaults, SimOptions, SimStats, Told};
pub use thread::{cpus, spawn_pinned};
