//! The kernel's description of a block device: the files of `/sys/dev/block/MAJOR:MINOR/queue`.
//!
//! Where there is no block device below a file (tmpfs, network filesystems, several devices) every question is answered with nothing, and
//! the caller takes the careful value.

use std::path::PathBuf;

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

impl Queue {
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

    /// Whether writes may be lost that were not flushed; yes, where nobody tells.
    pub(crate) fn has_volatile_cache(&self) -> bool {
        self.text("write_cache").is_none_or(|mode| mode != "write through")
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
    fn where_it_says_nothing_the_careful_answer_is_given() {
        let (_folder, queue) = queue(&[("write_cache", "something new")]);
        assert!(queue.has_volatile_cache());
        assert_eq!(queue.zones(), Zones::None);
        assert_eq!(queue.number("logical_block_size"), None);
        assert_eq!(queue.write_streams(), 0);
    }
}
