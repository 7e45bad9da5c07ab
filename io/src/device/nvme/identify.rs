//! What a controller and a namespace say of themselves: the identify commands.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;

use super::Command;
use crate::device::file;
use crate::{Buffer, IoError, OpKind};

/// `_IO('N', 0x40)`: the number of the namespace.
const NVME_IOCTL_ID: libc::Ioctl = 0x4e40;
/// `_IOWR('N', 0x41, struct nvme_admin_cmd)`.
const NVME_IOCTL_ADMIN_CMD: libc::Ioctl = 0xc048_4e41_u32 as libc::Ioctl;
const IDENTIFY_BYTES: usize = 4096;
/// The least page of a controller, in units of which it gives its largest transfer.
const CONTROLLER_PAGE_BYTES: u64 = 4096;

/// Powers of two of logical blocks. A larger one cannot hold a superblock's copy by itself.
const BLOCK_SHIFTS: std::ops::RangeInclusive<u32> = 9..=12;

/// What is identified.
#[derive(Clone, Copy)]
enum Structure {
    Namespace = 0,
    Controller = 1,
}

/// Of a namespace.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NamespaceData {
    pub(super) blocks: u64,
    pub(super) block_shift: u32,
    pub(super) metadata_bytes: u16,
    /// What it writes atomically when power fails, where that differs from the controller's.
    pub(super) atomic_write_blocks: Option<u32>,
    /// The unit that it likes to be written in, 1 where it does not say.
    pub(super) preferred_write_blocks: u32,
    /// 0 where it does not say.
    pub(super) optimal_io_blocks: u32,
    pub(super) is_write_protected: bool,
}

/// Of a controller.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ControllerData {
    pub(super) transfer_bytes_max: u32,
    pub(super) volatile_cache: bool,
    pub(super) dataset_management: bool,
    /// It knows flexible data placement, which may be disabled.
    pub(super) placement: bool,
    /// What it writes atomically when power fails, in blocks.
    pub(super) atomic_write_blocks: u32,
}

/// Asks the device: the namespace's number, what it says, and what its controller says.
pub(super) fn identify(file: &File, path: &Path) -> Result<(u32, NamespaceData, ControllerData), IoError> {
    // SAFETY: this request takes no argument.
    let id = unsafe { libc::ioctl(file.as_raw_fd(), NVME_IOCTL_ID) };
    if id <= 0 {
        return Err(file::failed(path, &std::io::Error::last_os_error()));
    }
    let id = id as u32;
    let namespace = parse_namespace(&ask(file, path, id, Structure::Namespace)?)
        .map_err(|reason| IoError::other(OpKind::Open, path, 0, 0, reason))?;
    let controller = parse_controller(&ask(file, path, 0, Structure::Controller)?);
    Ok((id, namespace, controller))
}

fn ask(file: &File, path: &Path, namespace: u32, structure: Structure) -> Result<Buffer, IoError> {
    let mut data = Buffer::heap(IDENTIFY_BYTES);
    data.fill(0);
    let address = data.as_mut_ptr() as u64;
    let mut command = Command::identify(namespace, structure as u32, address, IDENTIFY_BYTES as u32);
    // SAFETY: the kernel reads and writes one command and, at the address in it, that many bytes of the buffer, during the call only.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), NVME_IOCTL_ADMIN_CMD, &raw mut command) };
    match result {
        0 => Ok(data),
        -1 => Err(file::failed(path, &std::io::Error::last_os_error())),
        status => Err(IoError::other(OpKind::Open, path, 0, 0, super::Status(status as u16).to_string())),
    }
}

fn parse_namespace(data: &[u8]) -> Result<NamespaceData, String> {
    let u16_at = |at: usize| u16::from_le_bytes([data[at], data[at + 1]]);
    let u64_at = |at: usize| data[at..at + 8].iter().rev().fold(0u64, |value, byte| value << 8 | u64::from(*byte));
    let features = data[24];
    // Four bits, and two more where there are more than 16 formats.
    let format = usize::from(data[26] & 0xf | (data[26] >> 1 & 0x30));
    let (metadata_bytes, block_shift) = (u16_at(128 + 4 * format), u32::from(data[128 + 4 * format + 2]));
    if !BLOCK_SHIFTS.contains(&block_shift) {
        let bytes = 1u64.checked_shl(block_shift).map_or_else(|| format!("2^{block_shift}"), |bytes| bytes.to_string());
        return Err(format!("its logical blocks have {bytes} bytes: 512 to 4096 are supported"));
    }
    Ok(NamespaceData {
        blocks: u64_at(0),
        block_shift,
        metadata_bytes,
        // Only valid with this feature; counted from 0. Across a boundary (NABSPF) nothing is atomic.
        atomic_write_blocks: (features & 1 << 1 != 0).then(|| match u16_at(44) {
            0 => u32::from(u16_at(36)) + 1,
            boundary => (u32::from(u16_at(36)) + 1).min(u32::from(boundary) + 1),
        }),
        preferred_write_blocks: if features & 1 << 4 != 0 { u32::from(u16_at(64)) + 1 } else { 1 },
        optimal_io_blocks: u32::from(u16_at(46)),
        is_write_protected: data[99] & 1 != 0,
    })
}

fn parse_controller(data: &[u8]) -> ControllerData {
    let u16_at = |at: usize| u16::from_le_bytes([data[at], data[at + 1]]);
    let transfer_bytes_max = match data[77] {
        0 => u32::MAX,
        shift => {
            CONTROLLER_PAGE_BYTES.checked_shl(shift.into()).map_or(u32::MAX, |bytes| bytes.min(u32::MAX.into()) as u32)
        }
    };
    ControllerData {
        transfer_bytes_max,
        volatile_cache: data[525] & 1 != 0,
        dataset_management: u16_at(520) & 1 << 2 != 0,
        // Bit 19 of the controller's attributes.
        placement: data[96 + 2] & 1 << 3 != 0,
        atomic_write_blocks: u32::from(u16_at(528)) + 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Random;

    #[test]
    fn fields_are_where_the_specification_has_them() {
        let mut data = [0u8; IDENTIFY_BYTES];
        data[0..8].copy_from_slice(&1_000_000u64.to_le_bytes());
        data[24] = 1 << 1 | 1 << 4;
        data[26] = 1;
        data[36] = 7;
        data[46] = 32;
        data[64] = 7;
        data[128 + 4..128 + 8].copy_from_slice(&[8, 0, 12, 0]);
        let expected = NamespaceData {
            blocks: 1_000_000,
            block_shift: 12,
            metadata_bytes: 8,
            atomic_write_blocks: Some(8),
            preferred_write_blocks: 8,
            optimal_io_blocks: 32,
            is_write_protected: false,
        };
        assert_eq!(parse_namespace(&data), Ok(expected));
        data[44] = 3;
        assert_eq!(parse_namespace(&data).map(|data| data.atomic_write_blocks), Ok(Some(4)));

        let mut data = [0u8; IDENTIFY_BYTES];
        (data[77], data[520], data[525], data[528]) = (5, 1 << 2, 1, 15);
        let expected = ControllerData {
            transfer_bytes_max: 128 << 10,
            volatile_cache: true,
            dataset_management: true,
            placement: false,
            atomic_write_blocks: 16,
        };
        assert_eq!(parse_controller(&data), expected);
        data[96..100].copy_from_slice(&(1u32 << 19).to_le_bytes());
        assert!(parse_controller(&data).placement);
        data[96..100].copy_from_slice(&(!(1u32 << 19)).to_le_bytes());
        assert!(!parse_controller(&data).placement);
        data[77] = 0;
        assert_eq!(parse_controller(&data).transfer_bytes_max, u32::MAX);
    }

    #[test]
    fn blocks_that_are_too_large_are_refused() {
        let mut data = [0u8; IDENTIFY_BYTES];
        for (shift, bytes) in
            [(0, "1"), (8, "256"), (13, "8192"), (16, "65536"), (63, "9223372036854775808"), (255, "2^255")]
        {
            data[128 + 2] = shift;
            let refused = parse_namespace(&data).map(drop).unwrap_err();
            assert_eq!(refused, format!("its logical blocks have {bytes} bytes: 512 to 4096 are supported"));
        }
    }

    #[test]
    fn no_answer_panics() {
        let mut random = Random::new(1);
        let mut data = [0u8; IDENTIFY_BYTES];
        for _ in 0..if cfg!(miri) { 5 } else { 1000 } {
            random.fill(&mut data);
            let _ = parse_namespace(&data);
            let _ = parse_controller(&data);
        }
    }
}
