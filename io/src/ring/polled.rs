//! A second ring, for transfers whose completions are polled for (IOPOLL): the device raises no interrupt, and the kernel looks into its queue
//! when we ask.
//!
//! It takes reads, and writes that need not be durable at once, of devices that were opened for polling; all else (flushes, discards, durable
//! writes, which the kernel may complete elsewhere, wake-ups) goes to the first ring, since a ring of this kind refuses it. Nobody can sleep for these
//! completions, so the executor does not sleep while any is in flight ([`Ring::park`](super::Ring::park)); with none in flight it
//! sleeps as ever.
//!
//! Invariant: registered buffers have the same slots in both rings, or are used in neither.

use std::io;
use std::os::fd::AsRawFd;

use io_uring::{Builder, IoUring, cqueue, squeue};

use super::tables::BUFFER_SLOTS;
use super::uring::Uring;
use crate::executor::{Driving, ExecutorConfig};
use crate::{IoError, OpKind};

const IORING_ENTER_GETEVENTS: u32 = 1 << 0;

pub(super) struct PolledRing {
    ring: Uring,
    in_flight: usize,
    /// It has a table for registered buffers.
    pub(super) has_buffer_table: bool,
}

impl PolledRing {
    pub(super) fn new(config: &ExecutorConfig) -> Result<PolledRing, IoError> {
        let made = match config.wide_entries {
            false => build(config).map(Uring::Plain),
            true => build(config).map(Uring::Wide),
        };
        let ring = made.map_err(|error| {
            let reason = format!("a ring for polled completions cannot be set up: {error}");
            let errno = error.raw_os_error().unwrap_or(0);
            IoError { errno, ..IoError::other(OpKind::Setup, config.name.as_str(), 0, 0, reason) }
        })?;
        let has_buffer_table = ring.submitter().register_buffers_sparse(BUFFER_SLOTS).is_ok();
        tracing::info!(executor = config.name, has_buffer_table, "ring for polled completions set up");
        Ok(PolledRing { ring, in_flight: 0, has_buffer_table })
    }

    pub(super) fn ring(&self) -> &Uring {
        &self.ring
    }

    /// How many operations are in flight.
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Pushes an entry by `push`; false where there is no room.
    pub(super) fn push_with(&mut self, push: impl Fn(&mut Uring) -> bool) -> bool {
        for _ in 0..2 {
            if push(&mut self.ring) {
                self.in_flight += 1;
                return true;
            }
            self.submit();
        }
        false
    }

    pub(super) fn has_unsubmitted(&self) -> bool {
        self.ring.unsubmitted() > 0
    }

    /// Hands over what was pushed.
    pub(super) fn submit(&mut self) {
        if self.has_unsubmitted() {
            self.enter(0);
        }
    }

    /// Looks once whether something has completed; hands over what was pushed.
    pub(super) fn poll(&mut self) {
        if self.in_flight > 0 && !self.ring.has_completion() {
            self.enter(IORING_ENTER_GETEVENTS);
        }
    }

    #[inline]
    pub(super) fn has_completion(&self) -> bool {
        self.ring.has_completion()
    }

    /// Takes a completion.
    pub(super) fn pop(&mut self) -> Option<(u64, i32)> {
        let completion = self.ring.pop();
        self.in_flight -= usize::from(completion.is_some());
        completion
    }

    fn enter(&mut self, flags: u32) {
        let unsubmitted = self.ring.unsubmitted() as u32;
        let none = std::ptr::null::<u8>();
        // SAFETY: no argument is passed. The entries that it hands over are valid by the contract of `Ring::push_with`.
        let result = unsafe {
            libc::syscall(libc::SYS_io_uring_enter, self.ring.as_raw_fd(), unsubmitted, 0u32, flags, none, 0usize)
        };
        if result >= 0 {
            return;
        }
        match io::Error::last_os_error().raw_os_error().unwrap_or(0) {
            libc::EINTR | libc::EAGAIN | libc::EBUSY => (),
            errno => panic!("io_uring_enter of the polled ring: {}", io::Error::from_raw_os_error(errno)),
        }
    }
}

fn build<S: squeue::EntryMarker, C: cqueue::EntryMarker>(config: &ExecutorConfig) -> io::Result<IoUring<S, C>> {
    let entries = config.ring_entries.clamp(super::setup::ENTRIES_MIN, 1 << 15).next_power_of_two();
    let mut refused = io::Error::from_raw_os_error(libc::EINVAL);
    // Linux 6.0 knows rings of one issuer.
    for single_issuer in [config.driving == Driving::Pinned, false] {
        let mut builder: Builder<S, C> = IoUring::builder();
        builder.dontfork().setup_iopoll().setup_clamp().setup_submit_all();
        builder.setup_cqsize(entries * super::setup::COMPLETIONS_PER_ENTRY);
        if single_issuer {
            builder.setup_single_issuer();
        }
        match builder.build(entries) {
            Ok(ring) => return Ok(ring),
            Err(error) => refused = error,
        }
    }
    Err(refused)
}
