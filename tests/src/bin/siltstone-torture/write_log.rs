//! The log of the kernel's dm-log-writes: every write to a device, in the order in which it became durable.
//!
//! ```text
//! block 0:    magic(8) version(8) entries(8) block size(4), little-endian like all that follows
//! then each:  first block(8) blocks(8) flags(8) bytes of a mark(8), the mark; the data from the next block on (a discard has none)
//! ```
//!
//! The kernel logs a write when a flush that came after its completion is done, or at once when it has FUA; so what stands before an entry with either
//! flag is what a power failure right behind it leaves at least. These are the *points* of the log.

use std::fs::File;
use std::os::unix::fs::FileExt;

const MAGIC: u64 = 0x006a_7366_7773_6872;
const VERSION: u64 = 1;
const FLAG_FLUSH: u64 = 1 << 0;
const FLAG_FUA: u64 = 1 << 1;
const FLAG_DISCARD: u64 = 1 << 2;
const FLAG_MARK: u64 = 1 << 3;
const ENTRY_BYTES: usize = 32;
const MARK_BYTES_MAX: u64 = 4096 - ENTRY_BYTES as u64;

/// An entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// On the device, in bytes.
    pub(crate) offset: u64,
    pub(crate) len: u64,
    /// Where its data is in the log; a discard has none.
    data: Option<u64>,
    /// Everything before it, and it, is durable.
    pub(crate) is_point: bool,
    pub(crate) mark: Option<String>,
}

/// A log that has been read.
pub(crate) struct WriteLog {
    file: File,
    pub(crate) entries: Vec<Entry>,
}

impl WriteLog {
    pub(crate) fn read(file: File) -> Result<WriteLog, String> {
        let mut head = [0; ENTRY_BYTES];
        let read = |bytes: &mut [u8], at: u64| {
            file.read_exact_at(bytes, at).map_err(|error| format!("the log at {at}: {error}"))
        };
        read(&mut head, 0)?;
        let (magic, version, count, block) = (number(&head, 0), number(&head, 8), number(&head, 16), number(&head, 24));
        let block = block & u64::from(u32::MAX);
        if (magic, version) != (MAGIC, VERSION) || !block.is_power_of_two() || block < 512 {
            return Err(format!("this is no log: magic {magic:#x}, version {version}, blocks of {block} bytes"));
        }
        let (mut entries, mut at) = (Vec::new(), block);
        for _ in 0..count {
            read(&mut head, at)?;
            let (first, blocks, flags, mark_bytes) =
                (number(&head, 0), number(&head, 8), number(&head, 16), number(&head, 24));
            let mut mark = None;
            if flags & FLAG_MARK != 0 {
                let mut text = vec![0; mark_bytes.min(MARK_BYTES_MAX) as usize];
                read(&mut text, at + ENTRY_BYTES as u64)?;
                mark = Some(String::from_utf8_lossy(&text).trim_end_matches('\0').to_owned());
            }
            let is_discard = flags & FLAG_DISCARD != 0;
            let data = (!is_discard).then_some(at + block);
            let is_point = flags & (FLAG_FLUSH | FLAG_FUA) != 0;
            entries.push(Entry { offset: first * block, len: blocks * block, data, is_point, mark });
            at += block + if is_discard { 0 } else { blocks * block };
        }
        Ok(WriteLog { file, entries })
    }

    /// Does to an image what an entry did to the device.
    pub(crate) fn apply(&self, entry: &Entry, image: &File) -> Result<(), String> {
        let mut data = vec![0; entry.len as usize];
        let read = entry.data.map_or(Ok(()), |at| self.file.read_exact_at(&mut data, at));
        read.and_then(|()| image.write_all_at(&data, entry.offset)).map_err(|error| format!("{entry:?}: {error}"))
    }
}

fn number(bytes: &[u8], at: usize) -> u64 {
    bytes[at..at + 8].iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A log with these entries: first block, blocks, flags, mark, and the byte of its data.
    fn log(entries: &[(u64, u64, u64, &str, u8)]) -> File {
        const BLOCK: usize = 512;
        let block_of = |numbers: [u64; 4], mark: &str| {
            let mut block: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
            block.extend_from_slice(mark.as_bytes());
            block.resize(BLOCK, 0);
            block
        };
        let mut bytes = block_of([MAGIC, VERSION, entries.len() as u64, BLOCK as u64], "");
        for &(first, blocks, flags, mark, byte) in entries {
            bytes.extend(block_of([first, blocks, flags, mark.len() as u64], mark));
            if flags & FLAG_DISCARD == 0 {
                bytes.resize(bytes.len() + blocks as usize * BLOCK, byte);
            }
        }
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&bytes, 0).unwrap();
        file
    }

    #[test]
    fn a_log_is_replayed_in_its_order() {
        let entries = [
            (2, 2, 0, "", 7),
            (0, 0, FLAG_MARK, "12", 0),
            (3, 1, FLAG_FUA, "", 8),
            (2, 1, FLAG_DISCARD, "", 0),
            (0, 0, FLAG_FLUSH, "", 0),
        ];
        let log = WriteLog::read(log(&entries)).unwrap();
        let points: Vec<bool> = log.entries.iter().map(|entry| entry.is_point).collect();
        assert_eq!(points, [false, false, true, false, true]);
        assert_eq!(log.entries[1].mark.as_deref(), Some("12"));
        let image = tempfile::tempfile().unwrap();
        image.set_len(4096).unwrap();
        let mut seen = Vec::new();
        for entry in &log.entries {
            log.apply(entry, &image).unwrap();
            let mut bytes = [0; 2048];
            image.read_exact_at(&mut bytes, 512).unwrap();
            seen.push((bytes[512], bytes[1024]));
        }
        assert_eq!(seen, [(7, 7), (7, 7), (7, 8), (0, 8), (0, 8)]);
    }

    #[test]
    fn what_is_no_log_is_refused() {
        let file = tempfile::tempfile().unwrap();
        assert!(WriteLog::read(file.try_clone().unwrap()).is_err());
        file.set_len(4096).unwrap();
        assert!(WriteLog::read(file).is_err());
    }
}
