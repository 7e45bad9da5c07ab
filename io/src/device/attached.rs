//! One executor's attachment to a device: what the drivers need to address it.

use std::os::fd::RawFd;
use std::path::Path;

use super::{Geometry, Kind, Placement, SharedDevice};
use crate::executor::Core;
use crate::executor::Driver;
use crate::ring::FileSlot;
use crate::sim::SimAttachment;
use crate::{IoError, OpKind};

/// See the module. Operations hold a reference until they are complete, so descriptors outlive all use by the kernel.
pub(crate) struct Attached {
    shared: SharedDevice,
    target: Target,
}

/// How a driver addresses the device.
pub(crate) enum Target {
    /// A descriptor, and its slot in the ring's table where it has one.
    File {
        fd: RawFd,
        slot: Option<FileSlot>,
    },
    /// The same of an NVMe namespace, with its number and the power of two of its logical block.
    Nvme {
        fd: RawFd,
        slot: Option<FileSlot>,
        namespace: u32,
        block_shift: u32,
        /// Commands may use registered buffers.
        registered_buffers: bool,
        /// What the writes of each placement carry, where the device separates them.
        placement_identifiers: [Option<u16>; Placement::ALL.len()],
    },
    Simulated(SimAttachment),
}

impl Attached {
    pub(crate) fn new(core: &Core, shared: &SharedDevice) -> Result<Attached, IoError> {
        let mismatch = |reason| Err(IoError::other(OpKind::Setup, shared.path(), 0, 0, reason));
        let target = match (&shared.0.kind, core.ops.borrow_mut().driver()) {
            (Kind::File(file), Driver::Ring(ring)) => {
                Target::File { fd: file.fd(), slot: ring.register_file(file.fd()) }
            }
            (Kind::Nvme(_), Driver::Ring(ring)) if !ring.has_wide_entries() => {
                return mismatch("an NVMe namespace needs an executor with `wide_entries`");
            }
            (Kind::Nvme(namespace), Driver::Ring(ring)) => Target::Nvme {
                fd: namespace.fd(),
                slot: ring.register_file(namespace.fd()),
                namespace: namespace.id,
                block_shift: namespace.block_shift,
                registered_buffers: namespace.registered_buffers,
                placement_identifiers: namespace.placement_identifiers,
            },
            (Kind::Simulated(disk), Driver::Simulated(_)) => Target::Simulated(disk.attach()),
            (Kind::File(_) | Kind::Nvme(_), Driver::Simulated(_)) => {
                return mismatch("a simulated executor needs a simulated disk");
            }
            (Kind::Simulated(_), Driver::Ring(_)) => return mismatch("a simulated disk needs a simulated executor"),
        };
        Ok(Attached { shared: shared.clone(), target })
    }

    pub(crate) fn target(&self) -> &Target {
        &self.target
    }

    pub(crate) fn shared(&self) -> &SharedDevice {
        &self.shared
    }

    #[inline]
    pub(crate) fn geometry(&self) -> &Geometry {
        self.shared.geometry()
    }

    pub(crate) fn path(&self) -> &Path {
        self.shared.path()
    }

    /// Whether it is a block device that was taken away.
    pub(crate) fn is_gone(&self) -> bool {
        matches!(&self.shared.0.kind, Kind::File(file) if file.is_gone())
    }

    /// An allocation up to here has completed.
    pub(crate) fn grown_to(&self, len_bytes: u64) {
        self.shared.grown_to(len_bytes);
    }
}
