//! The kernel's description of a block device: the files of `/sys/dev/block/MAJOR:MINOR/queue`.
//!
//! Where there is no block device below a file (tmpfs, network filesystems, several devices) every question is answered with nothing, and
//! the caller takes the careful value.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

/// Of memory.
const PAGE_BYTES: u64 = 4096;

/// Of one block device; a partition's is its disk's.
#[derive(Clone)]
pub(crate) struct Queue {
    folder: PathBuf,
    is_partition: bool,
}

/// How a device lets itself be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Zones {
    /// Anywhere.
    None,
    /// Anywhere, though it has zones.
    HostAware,
    /// Only at the write pointer of each zone.
    HostManaged,
}

/// The kernel's word on a device's cache, kept open.
pub(crate) struct WriteCache(File);

impl WriteCache {
    pub(crate) fn is_volatile(&self) -> bool {
        let mut text = [0; 32];
        let read = self.0.read_at(&mut text, 0).unwrap_or(0);
        text[..read].trim_ascii() != b"write through"
    }
}

impl Queue {
    /// Larger transfers are handed to worker threads by the kernel.
    pub(crate) const TRANSFER_BYTES_MAX: u32 = 512 << 10;

    pub(crate) fn of(device: u64) -> Queue {
        let folder = PathBuf::from(format!("/sys/dev/block/{}:{}", libc::major(device), libc::minor(device)));
        let own = folder.join("queue");
        let is_partition = folder.join("partition").exists();
        Queue { folder: if own.is_dir() { own } else { folder.join("../queue") }, is_partition }
    }

    /// A number that is not zero.
    pub(crate) fn number(&self, name: &str) -> Option<u64> {
        self.text(name)?.parse().ok().filter(|number| *number > 0)
    }

    /// The largest transfer that the kernel hands to the device in one piece, wherever the pages of its memory lie. A larger one it splits where
    /// it may wait; where it may not, as for completions that are polled for, it says EAGAIN again and again (Linux 6.1).
    pub(crate) fn transfer_bytes_max(&self) -> u32 {
        let sectors = self.number("max_sectors_kb").map(|kib| kib << 10);
        // Each page may be a segment, and memory may begin in the middle of one. By powers of two, so that pieces end where pages do.
        let segments = self.number("max_segments").map(|segments| {
            let pages = segments.saturating_sub(1).clamp(1, 1 << 20);
            PAGE_BYTES << pages.ilog2()
        });
        let max = [sectors, segments].into_iter().flatten().min().unwrap_or(u64::MAX);
        max.min(u64::from(Queue::TRANSFER_BYTES_MAX)) as u32
    }

    /// Whether writes may be lost that were not flushed; yes, where nobody tells.
    pub(crate) fn has_volatile_cache(&self) -> bool {
        self.write_cache().is_none_or(|cache| cache.is_volatile())
    }

    /// For asking that again and again: a cache may be switched on, and below a logical volume be another disk.
    pub(crate) fn write_cache(&self) -> Option<WriteCache> {
        File::open(self.folder.join("write_cache")).ok().map(WriteCache)
    }

    /// How many streams of writes it tells apart (Linux 6.16); a partition has none of its disk's.
    pub(crate) fn write_streams(&self) -> u16 {
        let streams = self.number("max_write_streams").filter(|_| !self.is_partition);
        // A stream is numbered by a byte.
        streams.map_or(0, |streams| streams.min(u64::from(u8::MAX)) as u16)
    }

    pub(crate) fn zones(&self) -> Zones {
        match self.text("zoned").as_deref() {
            Some("host-managed") => Zones::HostManaged,
            Some("host-aware") => Zones::HostAware,
            _ => Zones::None,
        }
    }

    fn text(&self, name: &str) -> Option<String> {
        let text = std::fs::read_to_string(self.folder.join(name)).ok()?;
        Some(text.trim().to_owned())
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    #[expect(clippy::unwrap_used, reason = "a test stops where something is not as it should be")]
    fn queue(files: &[(&str, &str)]) -> (tempfile::TempDir, Queue) {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        let queue = Queue { folder: folder.path().to_owned(), is_partition: false };
        (folder, queue)
    }

    #[test]
    fn what_the_kernel_says_is_read() {
        let (_folder, queue) = queue(&[
            ("write_cache", "write through\n"),
            ("zoned", "host-managed\n"),
            ("max_sectors_kb", "128\n"),
            ("discard_max_bytes", "0\n"),
            ("max_write_streams", "8\n"),
        ]);
        assert_eq!(queue.write_streams(), 8);
        assert_eq!(Queue { is_partition: true, ..queue.clone() }.write_streams(), 0);
        assert!(!queue.has_volatile_cache());
        assert_eq!(queue.zones(), Zones::HostManaged);
        assert_eq!((queue.number("max_sectors_kb"), queue.number("discard_max_bytes")), (Some(128), None));
    }

    #[test]
    fn a_cache_that_is_switched_on_is_noticed() {
        let (folder, queue) = queue(&[("write_cache", "write through\n")]);
        let cache = queue.write_cache().unwrap();
        assert!(!cache.is_volatile());
        std::fs::write(folder.path().join("write_cache"), "write back\n").unwrap();
        assert!(cache.is_volatile());
        std::fs::write(folder.path().join("write_cache"), "").unwrap();
        assert!(cache.is_volatile());
    }

    #[test]
    fn a_transfer_is_one_piece_wherever_its_pages_lie() {
        for (sectors, segments, bytes) in [
            ("128", "254", 128),
            ("1280", "254", 512),
            ("512", "127", 256),
            ("512", "128", 256),
            ("124", "2", 4),
            ("64", "1", 4),
        ] {
            let (_folder, queue) = queue(&[("max_sectors_kb", sectors), ("max_segments", segments)]);
            assert_eq!(queue.transfer_bytes_max(), bytes << 10, "{sectors} KiB, {segments} segments");
        }
    }

    #[test]
    fn where_it_says_nothing_the_careful_answer_is_given() {
        let (_folder, queue) = queue(&[("write_cache", "something new")]);
        assert!(queue.has_volatile_cache());
        assert_eq!(queue.zones(), Zones::None);
        assert_eq!(queue.number("logical_block_size"), None);
        assert_eq!(queue.write_streams(), 0);
        assert_eq!(queue.transfer_bytes_max(), Queue::TRANSFER_BYTES_MAX);
    }
}
