//! Making a ring with all that the kernel and the process's limits allow.
//!
//! Feature sets are tried from the best to the plainest. A kernel that does not know a flag says EINVAL; a small memlock limit says
//! ENOMEM, and then smaller rings are tried. What is on and off in the end is one log line.

use std::io;

use io_uring::{Builder, IoUring, cqueue, squeue};

use super::enter::EnterFd;
use super::tables::{BUFFER_SLOTS, BufferTable, FILE_SLOTS, FileTable};
use super::uring::Uring;
use crate::executor::{Driving, ExecutorConfig};
use crate::{IoError, OpKind};

pub(super) const ENTRIES_MIN: u32 = 8;
/// Completion entries for each submission entry.
pub(super) const COMPLETIONS_PER_ENTRY: u32 = 4;

pub(super) struct Made {
    pub(super) ring: Uring,
    pub(super) enter_fd: EnterFd,
    pub(super) files: FileTable,
    pub(super) buffers: BufferTable,
}

/// Flags that are tried together.
#[derive(Clone, Copy, Debug, Default)]
struct Flags {
    /// Linux 6.0: one thread issues.
    single_issuer: bool,
    /// Linux 6.1: completions are worked off when we ask for them.
    defer_taskrun: bool,
    /// Linux 5.19: completions do not interrupt us.
    coop_taskrun: bool,
    /// Linux 5.18: a bad entry does not hold up the others.
    submit_all: bool,
    /// Linux 6.6: no indirection of submission entries.
    no_sqarray: bool,
}

/// For a ring that one thread drives.
const PINNED: [Flags; 5] = [
    Flags { single_issuer: true, defer_taskrun: true, coop_taskrun: false, submit_all: true, no_sqarray: true },
    Flags { single_issuer: true, defer_taskrun: true, coop_taskrun: false, submit_all: true, no_sqarray: false },
    Flags { single_issuer: true, defer_taskrun: false, coop_taskrun: true, submit_all: true, no_sqarray: false },
    Flags { single_issuer: false, defer_taskrun: false, coop_taskrun: true, submit_all: true, no_sqarray: false },
    Flags { single_issuer: false, defer_taskrun: false, coop_taskrun: false, submit_all: false, no_sqarray: false },
];

/// For a ring that moves: the thread that started an operation may be busy elsewhere when it completes, and must be interrupted for it.
const MOVING: [Flags; 3] = [
    Flags { single_issuer: false, defer_taskrun: false, coop_taskrun: false, submit_all: true, no_sqarray: true },
    Flags { single_issuer: false, defer_taskrun: false, coop_taskrun: false, submit_all: true, no_sqarray: false },
    Flags { single_issuer: false, defer_taskrun: false, coop_taskrun: false, submit_all: false, no_sqarray: false },
];

/// See the module.
pub(super) fn make(config: &ExecutorConfig) -> Result<Made, IoError> {
    let candidates: &[Flags] = match config.driving {
        Driving::Pinned => &PINNED,
        Driving::Moving => &MOVING,
    };
    let wanted = config.ring_entries.clamp(ENTRIES_MIN, 1 << 15).next_power_of_two();
    let mut last = io::Error::from_raw_os_error(libc::EINVAL);
    for flags in candidates {
        let mut entries = wanted;
        while entries >= ENTRIES_MIN {
            let built = match config.wide_entries {
                false => build(*flags, entries).map(Uring::Plain),
                true => build(*flags, entries).map(Uring::Wide),
            };
            match built {
                Ok(ring) => return finish(config, *flags, ring, entries),
                Err(error) => last = error,
            }
            match last.raw_os_error() {
                Some(libc::ENOMEM) => entries /= 2,
                Some(libc::EINVAL) => break,
                _ => return Err(unavailable(config, &last)),
            }
        }
    }
    Err(unavailable(config, &last))
}

fn build<S: squeue::EntryMarker, C: cqueue::EntryMarker>(flags: Flags, entries: u32) -> io::Result<IoUring<S, C>> {
    let mut builder: Builder<S, C> = IoUring::builder();
    builder.dontfork().setup_clamp().setup_cqsize(entries * COMPLETIONS_PER_ENTRY);
    if flags.single_issuer {
        builder.setup_single_issuer();
    }
    if flags.defer_taskrun {
        builder.setup_defer_taskrun();
    }
    if flags.coop_taskrun {
        builder.setup_coop_taskrun();
    }
    if flags.defer_taskrun || flags.coop_taskrun {
        builder.setup_taskrun_flag();
    }
    if flags.submit_all {
        builder.setup_submit_all();
    }
    if flags.no_sqarray {
        builder.setup_no_sqarray();
    }
    builder.build(entries)
}

fn finish(config: &ExecutorConfig, flags: Flags, ring: Uring, entries: u32) -> Result<Made, IoError> {
    let params = ring.params();
    if !(params.is_feature_ext_arg() && params.is_feature_nodrop() && params.is_feature_submit_stable()) {
        let reason = "the kernel's io_uring is too old: Linux 5.15 or newer is needed";
        return Err(IoError::other(OpKind::Setup, "io_uring", 0, 0, reason));
    }
    let registered_files = ring.submitter().register_files_sparse(FILE_SLOTS);
    let registered_buffers = ring.submitter().register_buffers_sparse(BUFFER_SLOTS);
    // The registration is the thread's own: a ring that moves does without.
    let enter_fd = match config.driving {
        Driving::Pinned => EnterFd::register(&ring).unwrap_or(EnterFd::Raw),
        Driving::Moving => EnterFd::Raw,
    };
    let on = |is_on: bool| if is_on { "on" } else { "off" };
    tracing::info!(
        executor = config.name,
        entries,
        completions = ring.params().cq_entries(),
        wide_entries = on(ring.is_wide()),
        single_issuer = on(flags.single_issuer),
        defer_taskrun = on(flags.defer_taskrun),
        coop_taskrun = on(flags.coop_taskrun),
        submit_all = on(flags.submit_all),
        no_sqarray = on(flags.no_sqarray),
        registered_files = on(registered_files.is_ok()),
        registered_buffers = on(registered_buffers.is_ok()),
        registered_ring = on(enter_fd != EnterFd::Raw),
        "ring set up"
    );
    let files = FileTable::new(registered_files.is_ok());
    let buffers = BufferTable::new(registered_buffers.is_ok());
    Ok(Made { ring, enter_fd, files, buffers })
}

fn unavailable(config: &ExecutorConfig, error: &io::Error) -> IoError {
    let errno = error.raw_os_error().unwrap_or(0);
    let reason = match errno {
        libc::ENOSYS => "this kernel has no io_uring: Linux 5.15 or newer is needed".to_owned(),
        libc::EPERM | libc::EACCES => {
            "io_uring is not allowed here: see the sysctl kernel.io_uring_disabled and the container's seccomp profile"
                .to_owned()
        }
        libc::ENOMEM => "no memory for the ring, even a small one: raise the memlock limit (ulimit -l)".to_owned(),
        _ => format!("io_uring cannot be set up: {error}"),
    };
    IoError { op: OpKind::Setup, offset: 0, length: 0, path: config.name.clone().into(), errno, reason }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    #[test]
    #[cfg_attr(miri, ignore = "Miri has no io_uring")]
    fn every_feature_set_makes_a_ring_here_or_says_einval() {
        for flags in PINNED.iter().chain(&MOVING) {
            let plain = build::<squeue::Entry, cqueue::Entry>(*flags, 8).map(drop);
            let wide = build::<squeue::Entry128, cqueue::Entry32>(*flags, 8).map(drop);
            for made in [plain, wide] {
                assert!(made.is_ok() || made.is_err_and(|error| error.raw_os_error() == Some(libc::EINVAL)));
            }
        }
    }

    #[test]
    fn a_refused_ring_says_why() {
        let config = ExecutorConfig::default();
        let refused = unavailable(&config, &io::Error::from_raw_os_error(libc::EPERM));
        assert!(refused.to_string().contains("io_uring_disabled"), "{refused}");
        let missing = unavailable(&config, &io::Error::from_raw_os_error(libc::ENOSYS));
        assert!(missing.to_string().contains("no io_uring"), "{missing}");
    }
}
