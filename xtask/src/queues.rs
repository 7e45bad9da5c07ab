//! The submission queues of an NVMe controller, read where the guest's driver has put them.
//!
//! QEMU's controller (in 7.2 at least) does not pass FUA on: a write that the guest wants on stable storage comes to the disk like any other. io_uring's
//! `RWF_DSYNC` on a block device is nothing but such a write; a disk that does not know would lose what was rightly acknowledged. So the guest's memory
//! is a file that we can read as well, QEMU tells where it creates queues (`-trace pci_nvme_create_sq`), and for each write that comes the entries of all queues
//! are looked through for its command:
//!
//! ```text
//! 0          1    4            8         40           48                          52       64
//! | opcode   | .. | namespace  | ...     | first LBA  | LBAs - 1 (2), flags (2)   | ...    |
//! ```
//!
//! The command is there before QEMU can know of it. Entries stay until the queue comes round, so an old command for the same blocks may answer in the place of
//! a new one: a write may then count as FUA that was not. The queues are short, to make that rare; the other way round it cannot be.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, PoisonError};

const ENTRY_BYTES: usize = 64;
const OPCODE_WRITE: u8 = 1;
const OPCODE_WRITE_ZEROES: u8 = 8;
const NAMESPACE_OFFSET: usize = 4;
const LBA_OFFSET: usize = 40;
const COUNT_OFFSET: usize = 48;
const FLAGS_OFFSET: usize = 50;
const FLAG_FUA: u16 = 1 << 14;

/// See the module.
pub(crate) struct Queues {
    memory: File,
    /// Where each queue is in the guest's memory, and its entries.
    known: Mutex<BTreeMap<u32, (u64, usize)>>,
}

impl Queues {
    /// The queues of a guest with this memory: its physical addresses are the file's offsets (true below 3 GiB).
    pub(crate) fn new(memory: File) -> Queues {
        Queues { memory, known: Mutex::new(BTreeMap::new()) }
    }

    /// Takes a line that QEMU has printed. Whether it was about a queue.
    pub(crate) fn hear(&self, line: &str) -> bool {
        // "... create submission queue, addr=0x1000, sqid=1, cqid=1, qsize=63, qflags=3"
        let Some((_, rest)) = line.split_once("create submission queue, ") else { return false };
        let field = |name: &str| {
            let value = rest.split(", ").find_map(|field| field.strip_prefix(name))?;
            match value.trim().strip_prefix("0x") {
                Some(digits) => u64::from_str_radix(digits, 16).ok(),
                None => value.trim().parse().ok(),
            }
        };
        if let (Some(address), Some(id), Some(last)) = (field("addr="), field("sqid="), field("qsize=")) {
            let queue = (address, last as usize + 1);
            self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(id as u32, queue);
        }
        true
    }

    /// Whether there is a write of these blocks with FUA.
    pub(crate) fn wants_durable(&self, namespace: u32, first: u64, count: u64) -> bool {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.values().any(|&(address, entries)| {
            let mut queue = vec![0; entries * ENTRY_BYTES];
            let read = self.memory.read_exact_at(&mut queue, address);
            read.is_ok()
                && queue.chunks_exact(ENTRY_BYTES).any(|entry| is_durable_write(entry, namespace, first, count))
        })
    }

    #[cfg(test)]
    fn count(&self) -> usize {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

fn is_durable_write(entry: &[u8], namespace: u32, first: u64, count: u64) -> bool {
    let number = |at: usize, bytes: usize| {
        entry[at..at + bytes].iter().rev().fold(0_u64, |number, byte| number << 8 | u64::from(*byte))
    };
    matches!(entry[0], OPCODE_WRITE | OPCODE_WRITE_ZEROES)
        && number(NAMESPACE_OFFSET, 4) == u64::from(namespace)
        && number(LBA_OFFSET, 8) == first
        && number(COUNT_OFFSET, 2) + 1 == count
        && number(FLAGS_OFFSET, 2) & u64::from(FLAG_FUA) != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(opcode: u8, namespace: u32, first: u64, count: u16, flags: u16) -> [u8; ENTRY_BYTES] {
        let mut entry = [0; ENTRY_BYTES];
        entry[0] = opcode;
        entry[4..8].copy_from_slice(&namespace.to_le_bytes());
        entry[40..48].copy_from_slice(&first.to_le_bytes());
        entry[48..50].copy_from_slice(&(count - 1).to_le_bytes());
        entry[50..52].copy_from_slice(&flags.to_le_bytes());
        entry
    }

    #[test]
    fn a_write_with_fua_is_found_in_the_queue_it_is_in_and_nothing_else_is() {
        let memory = tempfile::tempfile().unwrap();
        memory.set_len(1 << 20).unwrap();
        let queues = Queues::new(memory.try_clone().unwrap());
        assert!(!queues.hear("pci_nvme_create_cq create completion queue, addr=0x1"));
        assert!(queues.hear(
            "123@4.5:pci_nvme_create_sq create submission queue, addr=0x3000, sqid=1, cqid=1, qsize=63, qflags=3"
        ));
        assert!(
            queues.hear("pci_nvme_create_sq create submission queue, addr=0x5000, sqid=2, cqid=1, qsize=63, qflags=3")
        );
        assert_eq!(queues.count(), 2);
        memory.write_all_at(&entry(OPCODE_WRITE, 1, 500, 8, FLAG_FUA), 0x5000 + 63 * 64).unwrap();
        memory.write_all_at(&entry(OPCODE_WRITE, 1, 600, 8, 0), 0x3000).unwrap();
        memory.write_all_at(&entry(2, 1, 700, 8, FLAG_FUA), 0x3040).unwrap();
        memory.write_all_at(&entry(OPCODE_WRITE, 1, 800, 8, FLAG_FUA), 0x6000).unwrap();
        assert!(queues.wants_durable(1, 500, 8));
        for (namespace, first, count) in [(2, 500, 8), (1, 501, 8), (1, 500, 7), (1, 600, 8), (1, 700, 8), (1, 800, 8)]
        {
            assert!(!queues.wants_durable(namespace, first, count), "{namespace} {first} {count}");
        }
    }
}
