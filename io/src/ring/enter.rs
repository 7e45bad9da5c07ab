//! `io_uring_enter`, through the ring's registered descriptor where that is possible.
//!
//! Done by hand because the `io-uring` crate keeps the registration in a borrowed submitter, which cannot live beside the ring.

use std::io;
use std::os::fd::{AsRawFd, RawFd};

use super::Ring;
use super::uring::Uring;

const IORING_ENTER_GETEVENTS: u32 = 1 << 0;
const IORING_ENTER_EXT_ARG: u32 = 1 << 3;
const IORING_ENTER_REGISTERED_RING: u32 = 1 << 4;
const IORING_REGISTER_RING_FDS: u32 = 20;
const IORING_UNREGISTER_RING_FDS: u32 = 21;

/// `struct io_uring_rsrc_update`.
#[repr(C)]
struct ResourceUpdate {
    offset: u32,
    reserved: u32,
    data: u64,
}

/// `struct io_uring_getevents_arg`.
#[repr(C)]
struct GetEventsArg {
    sigmask: u64,
    sigmask_bytes: u32,
    min_wait_us: u32,
    timespec: u64,
}

/// `struct __kernel_timespec`.
#[repr(C)]
struct KernelTimespec {
    seconds: i64,
    nanoseconds: i64,
}

/// How the ring is named to the kernel: saves the look-up of the descriptor on each call. The registration is the thread's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EnterFd {
    Raw,
    Registered(u32),
}

impl EnterFd {
    /// Registers the ring's descriptor for the calling thread.
    pub(super) fn register(ring: &Uring) -> io::Result<EnterFd> {
        let mut update = ResourceUpdate { offset: u32::MAX, reserved: 0, data: ring.as_raw_fd() as u64 };
        // SAFETY: the kernel reads and writes one `io_uring_rsrc_update` at this address, during the call only.
        let result = unsafe {
            libc::syscall(
                libc::SYS_io_uring_register,
                ring.as_raw_fd(),
                IORING_REGISTER_RING_FDS,
                &raw mut update,
                1u32,
            )
        };
        if result == 1 { Ok(EnterFd::Registered(update.offset)) } else { Err(io::Error::last_os_error()) }
    }

    pub(super) fn unregister(&mut self, ring: &Uring) {
        let EnterFd::Registered(offset) = std::mem::replace(self, EnterFd::Raw) else { return };
        let mut update = ResourceUpdate { offset, reserved: 0, data: 0 };
        // SAFETY: as in `register`.
        unsafe {
            libc::syscall(
                libc::SYS_io_uring_register,
                ring.as_raw_fd(),
                IORING_UNREGISTER_RING_FDS,
                &raw mut update,
                1u32,
            )
        };
    }
}

impl Ring {
    /// Hands over what is pushed, lets the kernel post completions, and waits for `completions_min` of them, at most `wait_us` (0: without
    /// limit).
    ///
    /// # Panics
    /// On errors that say that the ring itself is broken.
    pub(super) fn enter(&mut self, completions_min: u32, wait_us: u64) {
        let unsubmitted = self.ring.unsubmitted() as u32;
        let timespec =
            KernelTimespec { seconds: (wait_us / 1_000_000) as i64, nanoseconds: (wait_us % 1_000_000 * 1000) as i64 };
        let argument =
            GetEventsArg { sigmask: 0, sigmask_bytes: 0, min_wait_us: 0, timespec: (&raw const timespec) as u64 };
        let (fd, registered): (RawFd, u32) = match self.enter_fd {
            EnterFd::Raw => (self.ring.as_raw_fd(), 0),
            EnterFd::Registered(index) => (index as RawFd, IORING_ENTER_REGISTERED_RING),
        };
        let wants_events = completions_min > 0 || self.ring.must_enter();
        let mut flags = registered | if wants_events { IORING_ENTER_GETEVENTS } else { 0 };
        let (mut address, mut bytes) = (std::ptr::null(), 0usize);
        if wait_us > 0 {
            flags |= IORING_ENTER_EXT_ARG;
            (address, bytes) = (&raw const argument, size_of::<GetEventsArg>());
        }
        // SAFETY: the argument and the timespec it points to live until the call returns. The entries that it hands over are valid by the
        // contract of `push_entry`.
        let result =
            unsafe { libc::syscall(libc::SYS_io_uring_enter, fd, unsubmitted, completions_min, flags, address, bytes) };
        if result >= 0 {
            return;
        }
        match io::Error::last_os_error().raw_os_error().unwrap_or(0) {
            // The time is over; a signal came; the kernel is short of something for the moment, and takes the entries at the next call.
            libc::ETIME | libc::EINTR | libc::EAGAIN | libc::EBUSY => (),
            errno => panic!("io_uring_enter: {}", io::Error::from_raw_os_error(errno)),
        }
    }
}
