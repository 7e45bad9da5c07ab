//! Commands as the kernel takes them, in the ring and in an `ioctl`.

/// `_IOWR('N', 0x80, struct nvme_uring_cmd)`: an I/O command.
pub(crate) const NVME_URING_CMD_IO: u32 = 0xc048_4e80;

const OPCODE_FLUSH: u8 = 0x00;
const OPCODE_WRITE: u8 = 0x01;
const OPCODE_READ: u8 = 0x02;
const OPCODE_IDENTIFY: u8 = 0x06;
const OPCODE_DATASET_MANAGEMENT: u8 = 0x09;
const OPCODE_IO_MANAGEMENT_RECEIVE: u8 = 0x12;
/// Force unit access: the write is on stable storage when it completes.
const FUA: u32 = 1 << 30;
/// The directive's specific (DSPEC, in the upper half of the next word) is a placement identifier.
const DIRECTIVE_PLACEMENT: u32 = 2 << 20;
const DIRECTIVE_SPECIFIC_SHIFT: u32 = 16;
/// What I/O management receive is to give.
const RECLAIM_UNIT_HANDLE_STATUS: u32 = 1;
/// The range may be deallocated.
const DEALLOCATE: u32 = 1 << 2;

/// `struct nvme_uring_cmd`, and `struct nvme_passthru_cmd`, in whose last word the kernel puts a result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct Command {
    opcode: u8,
    flags: u8,
    reserved: u16,
    namespace: u32,
    cdw2: u32,
    cdw3: u32,
    metadata: u64,
    address: u64,
    metadata_bytes: u32,
    data_bytes: u32,
    cdw10: u32,
    cdw11: u32,
    cdw12: u32,
    cdw13: u32,
    cdw14: u32,
    cdw15: u32,
    timeout_ms: u32,
    reserved_2: u32,
}

const _: () = assert!(size_of::<Command>() == 72);

/// A range for dataset management.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(16))]
pub(crate) struct Range {
    attributes: u32,
    blocks: u32,
    start: u64,
}

const _: () = assert!(size_of::<Range>() == 16);

impl Range {
    /// So many blocks from the first on.
    pub(crate) fn new(start: u64, blocks: u32) -> Range {
        Range { attributes: 0, blocks: blocks.to_le(), start: start.to_le() }
    }
}

impl Command {
    /// Reads so many blocks from the first on, at most 65536, to the address.
    pub(crate) fn read(namespace: u32, start: u64, blocks: u32, address: u64, bytes: u32) -> Command {
        Command::transfer(OPCODE_READ, namespace, start, blocks, address, bytes)
    }

    /// Writes them; with `fua` to stable storage.
    pub(crate) fn write(namespace: u32, start: u64, blocks: u32, address: u64, bytes: u32, fua: bool) -> Command {
        let mut command = Command::transfer(OPCODE_WRITE, namespace, start, blocks, address, bytes);
        command.cdw12 |= if fua { FUA } else { 0 };
        command
    }

    /// The same write to the reclaim unit that this identifier names.
    pub(crate) fn placed(mut self, identifier: u16) -> Command {
        self.cdw12 |= DIRECTIVE_PLACEMENT;
        self.cdw13 |= u32::from(identifier) << DIRECTIVE_SPECIFIC_SHIFT;
        self
    }

    fn transfer(opcode: u8, namespace: u32, start: u64, blocks: u32, address: u64, bytes: u32) -> Command {
        assert!((1..=1 << 16).contains(&blocks), "a transfer of {blocks} blocks");
        Command {
            opcode,
            namespace,
            address,
            data_bytes: bytes,
            cdw10: start as u32,
            cdw11: (start >> 32) as u32,
            // Counted from 0.
            cdw12: blocks - 1,
            ..Command::default()
        }
    }

    /// Makes durable what is in the volatile cache.
    pub(crate) fn flush(namespace: u32) -> Command {
        Command { opcode: OPCODE_FLUSH, namespace, ..Command::default() }
    }

    /// Tells that the blocks of the range at the address are not needed.
    pub(crate) fn deallocate(namespace: u32, range_address: u64) -> Command {
        Command {
            opcode: OPCODE_DATASET_MANAGEMENT,
            namespace,
            address: range_address,
            data_bytes: size_of::<Range>() as u32,
            // The number of ranges, counted from 0.
            cdw10: 0,
            cdw11: DEALLOCATE,
            ..Command::default()
        }
    }

    /// Asks for what a structure of this number says, to the address. A command of the admin queue.
    pub(crate) fn identify(namespace: u32, structure: u32, address: u64, bytes: u32) -> Command {
        Command {
            opcode: OPCODE_IDENTIFY,
            namespace,
            address,
            data_bytes: bytes,
            cdw10: structure,
            ..Command::default()
        }
    }

    /// Asks for the status of the reclaim unit handles, to the address. A command of an I/O queue.
    pub(super) fn reclaim_unit_status(namespace: u32, address: u64, bytes: u32) -> Command {
        Command {
            opcode: OPCODE_IO_MANAGEMENT_RECEIVE,
            namespace,
            address,
            data_bytes: bytes,
            cdw10: RECLAIM_UNIT_HANDLE_STATUS,
            // Words, counted from 0.
            cdw11: bytes / 4 - 1,
            ..Command::default()
        }
    }

    /// As the ring's entry takes it.
    pub(crate) fn bytes(&self) -> [u8; 80] {
        let mut bytes = [0; 80];
        let mut at = 0;
        let mut put = |part: &[u8]| {
            bytes[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        };
        put(&[self.opcode, self.flags]);
        put(&self.reserved.to_ne_bytes());
        [self.namespace, self.cdw2, self.cdw3].iter().for_each(|word| put(&word.to_ne_bytes()));
        [self.metadata, self.address].iter().for_each(|word| put(&word.to_ne_bytes()));
        let words = [
            self.metadata_bytes,
            self.data_bytes,
            self.cdw10,
            self.cdw11,
            self.cdw12,
            self.cdw13,
            self.cdw14,
            self.cdw15,
            self.timeout_ms,
            self.reserved_2,
        ];
        words.iter().for_each(|word| put(&word.to_ne_bytes()));
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_have_the_words_of_the_specification() {
        let command = Command::write(7, 0x1_2345_6789, 16, 0xabcd, 8192, true);
        let bytes = command.bytes();
        assert_eq!(bytes[0], 0x01);
        assert_eq!(bytes[4..8], 7u32.to_ne_bytes());
        assert_eq!(bytes[24..32], 0xabcd_u64.to_ne_bytes());
        assert_eq!(bytes[36..40], 8192u32.to_ne_bytes());
        assert_eq!(bytes[40..44], 0x2345_6789_u32.to_ne_bytes());
        assert_eq!(bytes[44..48], 1u32.to_ne_bytes());
        assert_eq!(bytes[48..52], (15u32 | 1 << 30).to_ne_bytes());
        assert!(bytes[52..].iter().all(|byte| *byte == 0));
        assert_eq!(Command::read(7, 0, 1, 0, 512).bytes()[48..52], [0; 4], "one block is none after the first");
        let placed = Command::write(7, 0, 16, 0xabcd, 8192, true).placed(0x8003).bytes();
        assert_eq!(placed[48..52], (15u32 | 2 << 20 | 1 << 30).to_ne_bytes(), "the directive's type beside FUA");
        assert_eq!(placed[52..56], 0x8003_0000_u32.to_ne_bytes());
        assert_eq!(placed[..48], Command::write(7, 0, 16, 0xabcd, 8192, false).bytes()[..48]);
        let status = Command::reclaim_unit_status(7, 0x1000, 4096).bytes();
        assert_eq!((status[0], status[4], status[36..40] == 4096u32.to_ne_bytes()), (0x12, 7, true));
        assert_eq!((&status[40..44], &status[44..48]), (&1u32.to_ne_bytes()[..], &1023u32.to_ne_bytes()[..]));
        let range = Command::deallocate(7, 0x1000).bytes();
        assert_eq!(
            (range[0], &range[36..40], &range[44..48]),
            (0x09, &16u32.to_ne_bytes()[..], &4u32.to_ne_bytes()[..])
        );
    }
}
