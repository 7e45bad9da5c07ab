//! Flexible data placement (FDP): writes that say which of the namespace's reclaim units they go to, so that what dies together lies together.
//!
//! 1. A controller that knows it says so (CTRATT of the identify data).
//! 2. Whether it is enabled for the namespace's endurance group, its feature would say; but to ask for a feature is not for everybody, and the next step
//!    fails where it is disabled.
//! 3. *I/O management receive* gives the status of the reclaim unit handles that the namespace may use: a list of placement identifiers. Several can name
//!    the same handle, in different reclaim groups; the first of each is taken, in the device's order.
//! 4. Each placement of ours gets one of them ([`Placement::stream`]), and every write carries it: directive type 2, and the identifier as its
//!    specific.
//!
//! A device without, or whose answer is of no use, is written to as ever: a placement is never needed.

use std::fs::File;
use std::os::fd::AsRawFd;

use super::{Command, Status};
use crate::Buffer;
use crate::device::Placement;

/// `_IOWR('N', 0x43, struct nvme_passthru_cmd)`: an I/O command.
const NVME_IOCTL_IO_CMD: libc::Ioctl = 0xc048_4e43_u32 as libc::Ioctl;
/// As much as any controller transfers at least.
const STATUS_BYTES: usize = 4096;
const HEADER_BYTES: usize = 16;
const DESCRIPTOR_BYTES: usize = 32;
const COUNT_AT: usize = 14;
const HANDLE_AT: usize = 2;

/// The identifiers that writes may carry, one for each reclaim unit handle.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Identifiers(Vec<u16>);

impl Identifiers {
    /// Asks a namespace whose controller knows placement; or why there is none.
    pub(super) fn ask(file: &File, namespace: u32) -> Result<Identifiers, String> {
        let mut data = Buffer::heap(STATUS_BYTES);
        data.fill(0);
        let address = data.as_mut_ptr() as u64;
        let mut command = Command::reclaim_unit_status(namespace, address, STATUS_BYTES as u32);
        // SAFETY: the kernel reads and writes one command and, at the address in it, that many bytes of the buffer, during the call only.
        match unsafe { libc::ioctl(file.as_raw_fd(), NVME_IOCTL_IO_CMD, &raw mut command) } {
            0 => Ok(Identifiers::parse(&data[..STATUS_BYTES])),
            -1 => Err(std::io::Error::last_os_error().to_string()),
            status => Err(Status(status as u16).to_string()),
        }
    }

    /// Of the status of the reclaim unit handles. What it counts but has no room for is left out.
    fn parse(data: &[u8]) -> Identifiers {
        let u16_at = |bytes: &[u8], at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let Some((header, descriptors)) = data.split_at_checked(HEADER_BYTES) else { return Identifiers::default() };
        let mut handles = Vec::new();
        let mut identifiers = Vec::new();
        for descriptor in descriptors.chunks_exact(DESCRIPTOR_BYTES).take(usize::from(u16_at(header, COUNT_AT))) {
            let handle = u16_at(descriptor, HANDLE_AT);
            if !handles.contains(&handle) {
                handles.push(handle);
                identifiers.push(u16_at(descriptor, 0));
            }
        }
        Identifiers(identifiers)
    }

    /// How many there are.
    pub(super) fn count(&self) -> u16 {
        self.0.len() as u16
    }

    /// What the writes of each placement carry.
    pub(super) fn by_placement(&self) -> [Option<u16>; Placement::ALL.len()] {
        Placement::ALL
            .map(|placement| placement.stream(self.count()).and_then(|stream| self.0.get(usize::from(stream)).copied()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As a device answers: placement identifiers and the handles that they name.
    fn status(descriptors: &[(u16, u16)]) -> Vec<u8> {
        let mut data = vec![0; HEADER_BYTES + descriptors.len() * DESCRIPTOR_BYTES];
        data[14..16].copy_from_slice(&(descriptors.len() as u16).to_le_bytes());
        for (descriptor, (identifier, handle)) in
            data[HEADER_BYTES..].chunks_exact_mut(DESCRIPTOR_BYTES).zip(descriptors)
        {
            descriptor[0..2].copy_from_slice(&identifier.to_le_bytes());
            descriptor[2..4].copy_from_slice(&handle.to_le_bytes());
            descriptor[4..16].fill(0xff);
        }
        data
    }

    #[test]
    fn each_placement_has_an_identifier_of_its_own_where_there_are_enough() {
        let of = |descriptors: &[(u16, u16)]| Identifiers::parse(&status(descriptors)).by_placement();
        let eight: Vec<(u16, u16)> = (0..8).map(|number| (number + 0x100, number)).collect();
        assert_eq!(of(&eight), [Some(0x100), Some(0x101), Some(0x102), Some(0x103)]);
        assert_eq!(of(&[(7, 0), (8, 1)]), [Some(7), Some(7), Some(7), Some(8)]);
        assert_eq!(of(&[(7, 0)]), [None; 4], "there is nothing to separate");
        assert_eq!(of(&[]), [None; 4]);
        // Two reclaim groups: the identifiers of the second name the same handles.
        assert_eq!(of(&[(0, 0), (0x8000, 0), (1, 1), (0x8001, 1)]), [Some(0), Some(0), Some(0), Some(1)]);
    }

    proptest! {
        #[test]
        fn what_is_listed_is_taken_once_for_each_handle(
            descriptors in proptest::collection::vec((any::<u16>(), 0u16..12), 0..127),
            behind in 0usize..300,
        ) {
            let mut data = status(&descriptors);
            // What stands behind the list is nobody's.
            data.resize(data.len() + behind, 0xa5);
            let identifiers = Identifiers::parse(&data);
            let handles: std::collections::BTreeSet<u16> = descriptors.iter().map(|(_, handle)| *handle).collect();
            prop_assert_eq!(usize::from(identifiers.count()), handles.len());
            for identifier in identifiers.by_placement().into_iter().flatten() {
                prop_assert!(descriptors.iter().any(|(listed, _)| *listed == identifier));
            }
            prop_assert_eq!(identifiers.by_placement()[0].is_some(), handles.len() > 1);
        }

        #[test]
        fn no_answer_panics_or_is_read_beyond_its_end(data in proptest::collection::vec(any::<u8>(), 0..600)) {
            let identifiers = Identifiers::parse(&data);
            prop_assert!(usize::from(identifiers.count()) <= data.len() / DESCRIPTOR_BYTES);
            let _ = identifiers.by_placement();
        }
    }
}
