//! What was done through an executor, in operations and bytes.

use crate::OpKind;
use crate::device::Placement;
use crate::executor::config::Class;

/// What was done through an executor so far. Splitting and retrying do not count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IoStats {
    /// Completed reads.
    pub reads: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// The same by the classes of the operations; each at the index that the class is as a number.
    pub read_bytes_by_class: [u64; Class::COUNT],
    /// Completed writes.
    pub writes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// The same by their placements, in the order of [`Placement::ALL`].
    pub written_bytes_by_placement: [u64; Placement::ALL.len()],
    /// The same by the classes of the operations; each at the index that the class is as a number.
    pub written_bytes_by_class: [u64; Class::COUNT],
    /// Completed flushes.
    pub flushes: u64,
    /// Completed discards.
    pub discards: u64,
    /// Bytes discarded.
    pub discarded_bytes: u64,
}

impl IoStats {
    /// Bytes written with a placement.
    pub fn written_bytes_of(&self, placement: Placement) -> u64 {
        self.written_bytes_by_placement[placement as usize]
    }

    /// Counts an operation that has succeeded.
    pub(super) fn count(&mut self, kind: OpKind, len: u64, class: Class, placement: Option<Placement>) {
        match kind {
            OpKind::Read => {
                self.reads += 1;
                self.read_bytes += len;
                self.read_bytes_by_class[class as usize] += len;
            }
            OpKind::Write => {
                self.writes += 1;
                self.written_bytes += len;
                self.written_bytes_by_class[class as usize] += len;
                if let Some(placement) = placement {
                    self.written_bytes_by_placement[placement as usize] += len;
                }
            }
            OpKind::Flush => self.flushes += 1,
            OpKind::Discard => {
                self.discards += 1;
                self.discarded_bytes += len;
            }
            _ => {}
        }
    }
}
