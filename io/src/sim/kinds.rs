//! The kinds of faults, each with its name, and how often each was injected.

use std::collections::BTreeMap;

use crate::OpKind;

macro_rules! kinds {
    ($($kind:ident = $name:literal,)*) => {
        /// A kind of fault.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum FaultKind {
            $($kind,)*
        }

        /// The names of all kinds of faults that a simulated disk injects: the keys of `SimDisk::fault_counts`.
        pub const SIM_FAULT_KINDS: &[&str] = &[$($name,)*];
    };
}

kinds! {
    CrashSurvives = "crash: block survives",
    CrashOld = "crash: block is old",
    CrashTorn = "crash: block torn",
    CrashGarbled = "crash: block garbled",
    CrashSizeOld = "crash: size is old",
    CrashFlushFailed = "crash: block of a failed flush is old",
    CrashFlushLost = "crash: block of a lost flush is old",
    ReadError = "transient read error",
    WriteError = "transient write error",
    FlushError = "failed flush",
    DiscardError = "failed discard",
    AllocateError = "failed allocation",
    BadRead = "unreadable block",
    BadWrite = "unwritable block",
    ShortTransfer = "short transfer",
    Again = "EAGAIN",
    Interrupted = "EINTR",
    Cancelled = "ECANCELED",
    NoSpace = "no space",
    LostFlush = "lost flush",
    LostWrite = "lost write",
    MisdirectedWrite = "misdirected write",
    BitRot = "bit rot",
    Stall = "stall",
}

impl FaultKind {
    /// What a failure of an operation counts as, where it counts.
    pub(super) fn of_failure(op: OpKind, errno: i32) -> Option<FaultKind> {
        Some(match (op, errno) {
            (_, libc::ENOSPC) => FaultKind::NoSpace,
            (_, libc::EAGAIN) => FaultKind::Again,
            (_, libc::EINTR) => FaultKind::Interrupted,
            (_, libc::ECANCELED) => FaultKind::Cancelled,
            (OpKind::Read, _) => FaultKind::ReadError,
            (OpKind::Write, _) => FaultKind::WriteError,
            (OpKind::Flush, _) => FaultKind::FlushError,
            (OpKind::Discard, _) => FaultKind::DiscardError,
            (OpKind::Allocate, _) => FaultKind::AllocateError,
            _ => return None,
        })
    }

    pub(super) fn name(self) -> &'static str {
        SIM_FAULT_KINDS[self as usize]
    }
}

/// How often each kind was injected.
#[derive(Default)]
pub(super) struct FaultCounts([u64; SIM_FAULT_KINDS.len()]);

impl FaultCounts {
    pub(super) fn add(&mut self, kind: FaultKind) {
        self.0[kind as usize] += 1;
    }

    /// Those that were injected at all.
    pub(super) fn by_name(&self) -> BTreeMap<&'static str, u64> {
        SIM_FAULT_KINDS.iter().copied().zip(self.0).filter(|(_, count)| *count > 0).collect()
    }
}
