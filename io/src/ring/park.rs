//! Sleeping until a completion or a wake-up from another thread.

use std::sync::Arc;

use io_uring::{opcode, types};
use std::os::fd::AsRawFd;

use super::{INTERNAL_MAX, KEY_TIMER, KEY_WAKE, Ring};
use crate::clock::machine_now_us;
use crate::executor::Remote;

/// Rounds of waiting for the eventfd's read to end, each at most as long as below; it is cancelled, so one does.
const END_ROUNDS_MAX: usize = 100;
const END_ROUND_US: u64 = 10_000;

pub(super) struct Parking {
    remote: Arc<Remote>,
    /// What the eventfd is read into. In a box, so that it does not move with the ring.
    wake_word: Box<u64>,
    wake_armed: bool,
    /// The time of the timer that is set earliest, and its entry's timespec, which the kernel copies at submission.
    timer_us: Option<u64>,
    timespec: Box<types::Timespec>,
    timers: usize,
    /// The eventfd is registered, so completions signal it.
    event_registered: bool,
}

impl Parking {
    pub(super) fn new(remote: Arc<Remote>) -> Parking {
        Parking {
            remote,
            wake_word: Box::new(0),
            wake_armed: false,
            timer_us: None,
            timespec: Box::new(types::Timespec::new()),
            timers: 0,
            event_registered: false,
        }
    }

    /// A completion that belongs to no operation.
    pub(super) fn completed(&mut self, key: u64) {
        match key {
            KEY_WAKE => self.wake_armed = false,
            KEY_TIMER => {
                self.timers -= 1;
                self.timer_us = None;
            }
            _ => (),
        }
    }
}

impl Ring {
    /// Waits until a completion can be taken, another thread wakes us, or the time is over; polls for `spin_us` before it sleeps.
    /// `polled`: the eventfd is signalled at every event, and is slept on by itself.
    pub(crate) fn park(&mut self, wait_us: Option<u64>, spin_us: u64, polled: bool) {
        if self.completion_waits() || wait_us == Some(0) {
            self.submit();
            return;
        }
        if self.must_be_polled() {
            self.poll_until_something(wait_us);
            return;
        }
        if spin_us > 0 && self.spin(spin_us.min(wait_us.unwrap_or(u64::MAX))) {
            return;
        }
        if polled {
            self.submit();
            self.poll_event(wait_us);
            return;
        }
        let remote = Arc::clone(&self.parking.remote);
        if !self.arm_wake_read() {
            // The kernel takes no entries at the moment; what is in flight will end the wait.
            self.enter(0, 0);
            return;
        }
        if remote.flag.fall_asleep() {
            self.enter(1, wait_us.unwrap_or(0));
            remote.flag.wake_up();
        }
    }

    /// Polls; true where there is something to do.
    fn spin(&mut self, spin_us: u64) -> bool {
        self.submit();
        let end_us = machine_now_us() + spin_us;
        loop {
            if self.completion_waits() || self.parking.remote.flag.is_notified() {
                return true;
            }
            if machine_now_us() >= end_us {
                return false;
            }
            std::hint::spin_loop();
        }
    }

    /// Looks into the device's queue again and again, until there is something to do.
    fn poll_until_something(&mut self, wait_us: Option<u64>) {
        self.submit();
        let end_us = wait_us.map(|us| machine_now_us() + us);
        loop {
            if let Some(polled) = &mut self.polled {
                polled.poll();
            }
            let over = end_us.is_some_and(|end_us| machine_now_us() >= end_us);
            if over || self.completion_waits() || self.parking.remote.flag.is_notified() {
                return;
            }
            std::hint::spin_loop();
        }
    }

    /// Keeps a read of the eventfd in flight, whose completion ends the sleep.
    fn arm_wake_read(&mut self) -> bool {
        if self.parking.wake_armed {
            return true;
        }
        let Some(event) = self.parking.remote.event().map(|event| event.as_raw_fd()) else { return true };
        let address = (&raw mut *self.parking.wake_word).cast::<u8>();
        let entry = opcode::Read::new(types::Fd(event), address, size_of::<u64>() as u32).build().user_data(KEY_WAKE);
        self.parking.wake_armed = self.push_entry(&entry);
        self.parking.wake_armed
    }

    /// Sleeps on the eventfd itself.
    fn poll_event(&mut self, wait_us: Option<u64>) {
        let Some(event) = self.parking.remote.event().map(|event| event.as_raw_fd()) else { return };
        let mut poll = libc::pollfd { fd: event, events: libc::POLLIN, revents: 0 };
        let timeout_ms = wait_us.map_or(-1, |us| us.div_ceil(1000).min(i32::MAX as u64) as i32);
        // SAFETY: one valid pollfd, used during the call only. Whatever it returns, the caller's next turn looks at everything.
        unsafe { libc::poll(&raw mut poll, 1, timeout_ms) };
    }

    /// From now on completions signal the eventfd, and reading it does not block.
    pub(crate) fn register_event(&mut self) {
        use nix::fcntl::{FcntlArg, OFlag, fcntl};
        let Some(event) = self.parking.remote.event() else { return };
        let result = fcntl(event, FcntlArg::F_SETFL(OFlag::O_NONBLOCK));
        assert!(result.is_ok(), "an eventfd takes O_NONBLOCK: {result:?}");
        match self.ring.submitter().register_eventfd(event.as_raw_fd()) {
            Ok(()) => self.parking.event_registered = true,
            Err(error) => panic!("the eventfd cannot be registered with the ring: {error}"),
        }
    }

    /// For callers that poll the eventfd: lets a completion signal it at this time.
    pub(crate) fn arm_timer(&mut self, deadline_us: u64, now_us: u64) {
        let set_already = self.parking.timer_us.is_some_and(|set_us| set_us <= deadline_us);
        if set_already || !self.parking.event_registered || self.parking.timers >= INTERNAL_MAX / 2 {
            return;
        }
        // An entry with the last timespec may still wait to be handed over.
        self.submit();
        let wait_us = deadline_us.saturating_sub(now_us).max(1);
        *self.parking.timespec = types::Timespec::from(std::time::Duration::from_micros(wait_us));
        let entry = opcode::Timeout::new(&raw const *self.parking.timespec).build().user_data(KEY_TIMER);
        if self.push_entry(&entry) {
            self.parking.timers += 1;
            self.parking.timer_us = Some(deadline_us);
        }
    }

    /// Ends the eventfd's read, so that its word can be freed.
    pub(super) fn end_wake_read(&mut self) {
        if self.parking.wake_armed {
            self.push_cancel();
        }
        for _ in 0..END_ROUNDS_MAX {
            if !self.parking.wake_armed {
                return;
            }
            self.enter(1, END_ROUND_US);
            let none = self.pop();
            assert!(none.is_none(), "an operation completed after the last");
        }
        // Never seen. The kernel may write to the word as long as it likes.
        tracing::warn!("the ring did not end its read of the eventfd");
        let _: &mut u64 = Box::leak(std::mem::take(&mut self.parking.wake_word));
    }
}
