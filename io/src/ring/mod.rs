//! The io_uring under an executor: encodes operations, hands them over in batches, takes completions, and sleeps in the kernel.
//!
//! Set-up asks for everything that pays and falls back feature by feature (`setup`). A driven ring works like this:
//! 1. `push` writes a submission entry. Nothing happens in the kernel yet.
//! 2. `submit`, or `park` together with its wait, hands all entries over in one system call.
//! 3. `pop` takes completions one by one. With deferred task work the kernel posts at most 20 of them for each system call that does
//!    not wait for more, so `pop` enters again while the ring's flags say that more are due.
//!
//! `park` sleeps until a completion. To be woken by other threads it keeps a read of the eventfd in flight, whose completion ends the
//! sleep; polling the ring's own descriptor does not work with deferred task work. A caller that polls for itself gets the same eventfd,
//! which the ring then signals at completions too.
//!
//! Invariants
//! 1. A buffer whose address is in the ring belongs to an operation in the slab (`executor/ops/`), which keeps it until the completion.
//! 2. At most `cap` operations are with the kernel, so the completion queue cannot overflow.
//! 3. The word that the eventfd is read into lives until that read has completed.

mod enter;
mod park;
mod polled;
pub(crate) mod probe;
mod setup;
mod tables;
mod uring;

use std::collections::BTreeMap;
use std::sync::Arc;

use io_uring::{opcode, squeue, types};

pub(crate) use tables::FileSlot;

use self::enter::EnterFd;
use self::park::Parking;
use self::polled::PolledRing;
use self::tables::{BufferTable, FileTable};
use self::uring::Uring;
use crate::buffer::BufferPool;
use crate::device::{Discard, Geometry, Placement, Target, nvme};
use crate::executor::{ExecutorConfig, Remote, Transfer};
use crate::{IoError, OpKind};

/// Keys of completions that belong to no operation.
const KEY_WAKE: u64 = u64::MAX;
const KEY_TIMER: u64 = u64::MAX - 1;
const KEY_CANCEL: u64 = u64::MAX - 2;
const KEYS_INTERNAL: u64 = KEY_CANCEL;

/// Completion entries kept free for the keys above.
const INTERNAL_MAX: usize = 16;

/// The kernel's `_IO(0x12, 0)`: discards as many bytes from the address on as the first word of the command says.
const BLOCK_URING_CMD_DISCARD: u32 = 0x1200;

/// Encodes an operation for a target, a descriptor or a registered one: types that have no common public trait.
macro_rules! encode {
    ($ring:expr, $target:expr, $transfer:expr) => {{
        let Transfer { kind, device, buffer, offset, len, durable, placement } = $transfer;
        let bytes = len as u32;
        match (kind, buffer) {
            (OpKind::Read, Some((buffer, start))) => {
                let index = $ring.registered(buffer);
                let address = buffer[start..start + len as usize].as_mut_ptr();
                match index {
                    Some(index) => opcode::ReadFixed::new($target, address, bytes, index).offset(offset).build(),
                    None => opcode::Read::new($target, address, bytes).offset(offset).build(),
                }
            }
            (OpKind::Write, Some((buffer, start))) => {
                let index = $ring.registered(buffer);
                let address = buffer[start..start + len as usize].as_mut_ptr().cast_const();
                // Also without a volatile cache: it costs nothing then, and a cache may be switched on.
                let flags = if durable { libc::RWF_DSYNC } else { 0 };
                let stream = write_stream(device.geometry(), placement);
                match index {
                    Some(index) => opcode::WriteFixed::new($target, address, bytes, index)
                        .offset(offset)
                        .rw_flags(flags)
                        .write_stream(stream)
                        .build(),
                    None => opcode::Write::new($target, address, bytes)
                        .offset(offset)
                        .rw_flags(flags as _)
                        .write_stream(stream)
                        .build(),
                }
            }
            (OpKind::Flush, None) => opcode::Fsync::new($target).flags(types::FsyncFlags::DATASYNC).build(),
            (OpKind::Allocate, None) => opcode::Fallocate::new($target, len).offset(offset).build(),
            (OpKind::Discard, None) if device.geometry().discard == Discard::Command => {
                let mut command = [0; 16];
                command[..8].copy_from_slice(&len.to_ne_bytes());
                let entry =
                    opcode::UringCmd16::new($target, BLOCK_URING_CMD_DISCARD).addr(Some(offset)).cmd(command).build();
                // A device that takes nothing without waiting refuses this for good, instead of asking to be called again from where it may wait.
                if device.geometry().nowait { entry } else { entry.flags(squeue::Flags::ASYNC) }
            }
            (OpKind::Discard, None) => {
                let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
                opcode::Fallocate::new($target, len).offset(offset).mode(mode).build()
            }
            (kind, _) => unreachable!("{kind:?} is not an operation of a ring"),
        }
    }};
}

/// Calls with all rings in a slice.
macro_rules! each_ring {
    ($self:expr, $rings:ident => $what:expr) => {
        match &$self.polled {
            Some(polled) => {
                let $rings = &[&$self.ring, polled.ring()];
                $what
            }
            None => {
                let $rings = &[&$self.ring];
                $what
            }
        }
    };
}

/// The kernel's number of the stream that a write goes to: 0 is none.
#[inline]
fn write_stream(geometry: &Geometry, placement: Option<Placement>) -> u8 {
    let stream = placement.and_then(|placement| placement.stream(geometry.placement_handles));
    stream.map_or(0, |stream| stream as u8 + 1)
}

/// Whether a device has no use for an operation.
fn needless(transfer: &Transfer<'_>) -> bool {
    let geometry = transfer.device.geometry();
    match transfer.kind {
        // A device has its space, and refuses to reserve it.
        OpKind::Allocate => geometry.fixed_size,
        OpKind::Flush => transfer.device.shared().writes_are_durable(),
        OpKind::Discard => geometry.discard == Discard::None,
        _ => false,
    }
}

/// See the module.
pub(crate) struct Ring {
    ring: Uring,
    polled: Option<PolledRing>,
    enter_fd: EnterFd,
    executor: u64,
    /// Operations with the kernel, or about to be.
    with_kernel: usize,
    cap: usize,
    files: FileTable,
    buffers: BufferTable,
    parking: Parking,
    /// What discards of NVMe namespaces under way point to.
    ranges: BTreeMap<u64, Box<nvme::Range>>,
    cancelled: bool,
}

impl Ring {
    pub(crate) fn new(config: &ExecutorConfig, executor: u64, remote: Arc<Remote>) -> Result<Ring, IoError> {
        let setup::Made { ring, enter_fd, files, mut buffers } = setup::make(config)?;
        let polled = config.polled.then(|| PolledRing::new(config)).transpose()?;
        if polled.as_ref().is_some_and(|polled| !polled.has_buffer_table) {
            buffers = BufferTable::new(false);
        }
        let cap = (ring.params().cq_entries() as usize).saturating_sub(INTERNAL_MAX).max(1);
        Ok(Ring {
            ring,
            polled,
            enter_fd,
            executor,
            with_kernel: 0,
            cap,
            files,
            buffers,
            parking: Parking::new(remote),
            ranges: BTreeMap::new(),
            cancelled: false,
        })
    }

    /// Takes an operation; false where there is no room, so that it has to wait for a completion.
    pub(crate) fn push(&mut self, key: u64, transfer: Transfer<'_>) -> bool {
        if self.with_kernel >= self.cap {
            return false;
        }
        let polled = self.is_polled(&transfer);
        let pushed = match transfer.device.target() {
            Target::Nvme { .. } if !needless(&transfer) => {
                let entry = self.encode_nvme(key, transfer, polled).user_data(key);
                self.push_with(polled, |ring| {
                    // SAFETY: as in `push_entry`; a discard's range is in `ranges` until its completion.
                    unsafe { ring.push_wide(&entry) }
                })
            }
            _ => {
                let entry = self.encode(transfer, polled).user_data(key);
                self.push_to(polled, &entry)
            }
        };
        self.with_kernel += usize::from(pushed);
        pushed
    }

    /// Whether a transfer's completion is polled for.
    fn is_polled(&self, transfer: &Transfer<'_>) -> bool {
        let geometry = transfer.device.geometry();
        self.polled.is_some()
            && geometry.polled
            && match transfer.kind {
                OpKind::Read => true,
                OpKind::Write => !transfer.durable,
                _ => false,
            }
    }

    fn push_entry(&mut self, entry: &squeue::Entry) -> bool {
        self.push_to(false, entry)
    }

    fn push_to(&mut self, polled: bool, entry: &squeue::Entry) -> bool {
        self.push_with(polled, |ring| {
            // SAFETY: the entry's addresses stay valid until its completion: buffers by invariant 1, the eventfd's word by invariant 3,
            // and a timeout's is only read during submission, before which `Parking` does not drop it.
            unsafe { ring.push(entry) }
        })
    }

    fn push_with(&mut self, polled: bool, push: impl Fn(&mut Uring) -> bool) -> bool {
        if polled && let Some(polled) = &mut self.polled {
            return polled.push_with(push);
        }
        for _ in 0..2 {
            if push(&mut self.ring) {
                return true;
            }
            // The queue is full: hand it over, then there is room, unless the kernel is out of resources.
            self.submit();
        }
        false
    }

    fn encode(&self, transfer: Transfer<'_>, polled: bool) -> squeue::Entry {
        if needless(&transfer) {
            return opcode::Nop::new().build();
        }
        let Target::File { fd, slot } = transfer.device.target() else {
            unreachable!("attached only to files");
        };
        match slot {
            // The other ring has no table of files.
            Some(slot) if !polled => {
                let target = types::Fixed(slot.index());
                encode!(self, target, transfer)
            }
            _ => {
                let target = types::Fd(*fd);
                encode!(self, target, transfer)
            }
        }
    }

    fn encode_nvme(&mut self, key: u64, transfer: Transfer<'_>, polled: bool) -> squeue::Entry128 {
        let Transfer { kind, device, buffer, offset, len, durable, placement } = transfer;
        let Target::Nvme { fd, slot, namespace, block_shift, registered_buffers, placement_identifiers } =
            device.target()
        else {
            unreachable!("the target is an NVMe namespace");
        };
        let (start, blocks) = (offset >> block_shift, (len >> block_shift) as u32);
        let fua = durable && !device.geometry().writes_are_durable();
        let (command, index) = match (kind, buffer) {
            (OpKind::Read | OpKind::Write, Some((buffer, from))) => {
                let index = self.registered(buffer).filter(|_| *registered_buffers);
                let address = buffer[from..from + len as usize].as_mut_ptr() as u64;
                let command = match kind {
                    OpKind::Read => nvme::Command::read(*namespace, start, blocks, address, len as u32),
                    _ => {
                        let write = nvme::Command::write(*namespace, start, blocks, address, len as u32, fua);
                        let identifier = placement.and_then(|placement| placement_identifiers[placement as usize]);
                        identifier.map_or(write, |identifier| write.placed(identifier))
                    }
                };
                (command, index)
            }
            (OpKind::Flush, None) => (nvme::Command::flush(*namespace), None),
            (OpKind::Discard, None) => {
                let range = Box::new(nvme::Range::new(start, blocks));
                let address = (&raw const *range) as u64;
                self.ranges.insert(key, range);
                (nvme::Command::deallocate(*namespace, address), None)
            }
            (kind, _) => unreachable!("{kind:?} is not an operation of a namespace"),
        };
        let command = command.bytes();
        match slot {
            Some(slot) if !polled => opcode::UringCmd80::new(types::Fixed(slot.index()), nvme::NVME_URING_CMD_IO),
            _ => opcode::UringCmd80::new(types::Fd(*fd), nvme::NVME_URING_CMD_IO),
        }
        .cmd(command)
        .buf_index(index)
        .build()
    }

    /// The registration of a buffer with this ring.
    fn registered(&self, buffer: &crate::Buffer) -> Option<u16> {
        buffer.registered_index().filter(|_| buffer.registered_with() == Some(self.executor))
    }

    /// Takes the next completion of an operation: its key and result.
    pub(crate) fn pop(&mut self) -> Option<(u64, i32)> {
        let mut entered = false;
        loop {
            let Some((key, result)) = self.ring.pop() else {
                if entered || !self.ring.must_enter() {
                    return self.pop_polled();
                }
                entered = true;
                self.enter(0, 0);
                continue;
            };
            entered = false;
            if key >= KEYS_INTERNAL {
                self.parking.completed(key);
                continue;
            }
            self.with_kernel -= 1;
            if !self.ranges.is_empty() {
                self.ranges.remove(&key);
            }
            return Some((key, result));
        }
    }

    fn pop_polled(&mut self) -> Option<(u64, i32)> {
        let completion = self.polled.as_mut()?.pop()?;
        self.with_kernel -= 1;
        Some(completion)
    }

    /// Whether a completion can be taken, or would be after an enter.
    #[inline]
    pub(crate) fn completion_waits(&self) -> bool {
        self.ring.has_completion()
            || self.ring.must_enter()
            || self.polled.as_ref().is_some_and(PolledRing::has_completion)
    }

    /// Whether operations are in flight for whose completions nobody can sleep.
    #[inline]
    pub(crate) fn must_be_polled(&self) -> bool {
        self.polled.as_ref().is_some_and(|polled| polled.in_flight() > 0)
    }

    /// Whether NVMe commands fit into its entries.
    pub(crate) fn has_wide_entries(&self) -> bool {
        self.ring.is_wide()
    }

    pub(crate) fn has_unsubmitted(&self) -> bool {
        self.ring.unsubmitted() > 0 || self.polled.as_ref().is_some_and(PolledRing::has_unsubmitted)
    }

    /// At the beginning of a turn: lets the kernel post what it has deferred, and gives back table slots that are not used any more.
    pub(crate) fn enter_if_needed(&mut self) {
        self.files.collect(&self.ring);
        each_ring!(self, rings => self.buffers.collect(rings));
        if self.ring.must_enter() {
            self.enter(0, 0);
        }
        if let Some(polled) = &mut self.polled {
            polled.poll();
        }
    }

    /// Hands all entries over.
    pub(crate) fn submit(&mut self) {
        if self.ring.unsubmitted() > 0 {
            self.enter(0, 0);
        }
        if let Some(polled) = &mut self.polled {
            polled.submit();
        }
    }

    /// Registers a descriptor; `None` where there is no room or no such feature.
    pub(crate) fn register_file(&mut self, fd: std::os::fd::RawFd) -> Option<FileSlot> {
        self.files.register(&self.ring, fd)
    }

    /// Registers a pool's memory, where that is possible.
    pub(crate) fn register_pool(&mut self, pool: &BufferPool) {
        each_ring!(self, rings => self.buffers.register(rings, pool));
    }

    /// Cancels what can be cancelled, and waits for at least one completion.
    pub(crate) fn cancel_all_and_wait(&mut self) {
        if !std::mem::replace(&mut self.cancelled, true) {
            self.push_cancel();
        }
        match &mut self.polled {
            // Those cannot be waited for, and are not cancelled: the device ends them.
            Some(polled) if polled.in_flight() > 0 => {
                polled.poll();
                self.enter(0, 0);
            }
            _ => self.enter(1, 0),
        }
    }

    fn push_cancel(&mut self) {
        let all = types::CancelBuilder::any().all();
        let entry = opcode::AsyncCancel2::new(all).build().user_data(KEY_CANCEL);
        self.push_entry(&entry);
    }

    /// Ends the ring's use of memory and files. All operations have completed.
    pub(crate) fn close(&mut self) {
        assert_eq!(self.with_kernel, 0, "operations are still with the kernel");
        self.end_wake_read();
        self.files.unregister(&self.ring);
        each_ring!(self, rings => self.buffers.unregister(rings));
        self.enter_fd.unregister(&self.ring);
    }
}
