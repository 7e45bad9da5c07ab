//! The kernel's ring in its two sizes: plain entries, and entries of twice the size, which NVMe commands need. One interface for both.

use std::os::fd::{AsRawFd, RawFd};

use io_uring::{IoUring, Parameters, Submitter, cqueue, squeue};

/// A ring with 64-byte submission and 16-byte completion entries, or with 128 and 32.
pub(super) enum Uring {
    Plain(IoUring),
    Wide(IoUring<squeue::Entry128, cqueue::Entry32>),
}

macro_rules! each {
    ($self:expr, $ring:ident => $what:expr) => {
        match $self {
            Uring::Plain($ring) => $what,
            Uring::Wide($ring) => $what,
        }
    };
}

impl Uring {
    /// Writes a submission entry; false where the queue is full.
    ///
    /// # Safety
    /// What the entry's addresses name stays valid until its completion.
    pub(super) unsafe fn push(&mut self, entry: &squeue::Entry) -> bool {
        match self {
            // SAFETY: the caller's promise.
            Uring::Plain(ring) => unsafe { ring.submission().push(entry) }.is_ok(),
            // SAFETY: the caller's promise.
            Uring::Wide(ring) => unsafe { ring.submission().push(&entry.clone().into()) }.is_ok(),
        }
    }

    /// The same of an entry that only a wide ring has room for.
    ///
    /// # Safety
    /// As in [`Self::push`].
    pub(super) unsafe fn push_wide(&mut self, entry: &squeue::Entry128) -> bool {
        match self {
            Uring::Plain(_) => unreachable!("attached only to wide rings"),
            // SAFETY: the caller's promise.
            Uring::Wide(ring) => unsafe { ring.submission().push(entry) }.is_ok(),
        }
    }

    pub(super) fn is_wide(&self) -> bool {
        matches!(self, Uring::Wide(_))
    }

    /// How many entries wait to be handed over.
    pub(super) fn unsubmitted(&self) -> usize {
        // SAFETY: no other submission queue handle lives: all are temporaries of one statement of this single-threaded type.
        each!(self, ring => unsafe { ring.submission_shared() }.len())
    }

    /// Whether the kernel has completions that it only posts when it is entered.
    #[inline]
    pub(super) fn must_enter(&self) -> bool {
        each!(self, ring => {
            // SAFETY: as in `unsubmitted`.
            let queue = unsafe { ring.submission_shared() };
            queue.taskrun() || queue.cq_overflow()
        })
    }

    #[inline]
    pub(super) fn has_completion(&self) -> bool {
        // SAFETY: as in `unsubmitted`, of the completion queue.
        each!(self, ring => !unsafe { ring.completion_shared() }.is_empty())
    }

    /// Takes a completion: its key and result.
    #[inline]
    pub(super) fn pop(&mut self) -> Option<(u64, i32)> {
        each!(self, ring => ring.completion().next().map(|entry| (entry.user_data(), entry.result())))
    }

    pub(super) fn submitter(&self) -> Submitter<'_> {
        each!(self, ring => ring.submitter())
    }

    pub(super) fn params(&self) -> &Parameters {
        each!(self, ring => ring.params())
    }
}

impl AsRawFd for Uring {
    fn as_raw_fd(&self) -> RawFd {
        each!(self, ring => ring.as_raw_fd())
    }
}
