//! The only place where threads are started.

use std::thread::JoinHandle;

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

use crate::{IoError, OpKind};

/// Starts a named thread and, where a CPU is given and may be used, pins it there; a refused pin is a warning, not an error.
///
/// ```
/// let thread = siltstone_io::spawn_pinned("shard-0", Some(0), || ())?;
/// assert!(thread.join().is_ok());
/// # Ok::<(), siltstone_io::IoError>(())
/// ```
#[expect(clippy::disallowed_methods, reason = "this is where threads are started")]
pub fn spawn_pinned(
    name: &str,
    cpu: Option<usize>,
    body: impl FnOnce() + Send + 'static,
) -> Result<JoinHandle<()>, IoError> {
    let pin_then_run = move || {
        if let Some(cpu) = cpu {
            pin(cpu);
        }
        body();
    };
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(pin_then_run)
        .map_err(|error| IoError::from_std(OpKind::Setup, name, &error))
}

/// How many CPUs this process may use; at least 1.
#[expect(clippy::disallowed_methods, reason = "its callers decide how many shards there are, before any is simulated")]
pub fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Pins the calling thread to the `index`-th of the CPUs that it may use (a container's first CPU need not be CPU 0).
fn pin(index: usize) {
    let result = sched_getaffinity(Pid::from_raw(0)).and_then(|allowed| {
        let usable: Vec<usize> = (0..CpuSet::count()).filter(|cpu| allowed.is_set(*cpu).unwrap_or(false)).collect();
        let Some(cpu) = usable.get(index % usable.len().max(1)) else { return Ok(()) };
        let mut wanted = CpuSet::new();
        wanted.set(*cpu)?;
        sched_setaffinity(Pid::from_raw(0), &wanted)
    });
    if let Err(errno) = result {
        tracing::warn!(index, %errno, "the thread could not be pinned to a CPU");
    }
}
