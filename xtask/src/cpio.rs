//! Archives that the kernel unpacks as its first filesystem: cpio, format "newc".
//!
//! ```text
//! | "070701" | 13 numbers of 8 hexadecimal digits | name, 0 | to 4 | content | to 4 | ... | entry "TRAILER!!!" |
//! ```
//!
//! The kernel unpacks archives that follow each other one after the other: what a single boot adds goes behind what all boots share.

use std::collections::BTreeSet;
use std::path::{Component, Path};

const TRAILER: &str = "TRAILER!!!";
/// Archives may follow each other at multiples of this.
const PADDING_BYTES: usize = 512;

const FOLDER: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const LINK: u32 = 0o120_777;
const CHARACTER_DEVICE: u32 = 0o020_600;

/// An archive in the making.
#[derive(Default)]
pub(crate) struct Archive {
    bytes: Vec<u8>,
    folders: BTreeSet<String>,
    entries: u32,
}

impl Archive {
    /// Adds a file that can be executed, and the folders above it.
    pub(crate) fn file(&mut self, path: &str, content: &[u8]) {
        self.parents(path);
        self.entry(path, PROGRAM, (0, 0), content);
    }

    /// Adds a symbolic link.
    pub(crate) fn link(&mut self, path: &str, target: &str) {
        self.parents(path);
        self.entry(path, LINK, (0, 0), target.as_bytes());
    }

    /// Adds an empty folder.
    pub(crate) fn folder(&mut self, path: &str) {
        self.parents(&format!("{path}/_"));
    }

    /// Adds a character device.
    pub(crate) fn character_device(&mut self, path: &str, major: u32, minor: u32) {
        self.parents(path);
        self.entry(path, CHARACTER_DEVICE, (major, minor), &[]);
    }

    /// The archive.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.entry(TRAILER, 0, (0, 0), &[]);
        self.pad(PADDING_BYTES);
        self.bytes
    }

    fn parents(&mut self, path: &str) {
        let parents: Vec<&Path> = Path::new(path).ancestors().skip(1).collect();
        for parent in parents.into_iter().rev() {
            let named = parent.components().any(|part| matches!(part, Component::Normal(_)));
            let name = parent.to_string_lossy().into_owned();
            if named && self.folders.insert(name.clone()) {
                self.entry(&name, FOLDER, (0, 0), &[]);
            }
        }
    }

    fn entry(&mut self, path: &str, mode: u32, (major, minor): (u32, u32), content: &[u8]) {
        self.entries += 1;
        let name = path.trim_start_matches('/');
        let (content_bytes, name_bytes) = (content.len() as u32, name.len() as u32 + 1);
        // inode, mode, owner, group, links, time, size, device of the file (2), device that it is (2), size of the name, checksum
        let numbers = [self.entries, mode, 0, 0, 1, 0, content_bytes, 0, 0, major, minor, name_bytes, 0];
        self.bytes.extend_from_slice(b"070701");
        for number in numbers {
            self.bytes.extend_from_slice(format!("{number:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad(4);
        self.bytes.extend_from_slice(content);
        self.pad(4);
    }

    fn pad(&mut self, to: usize) {
        self.bytes.resize(self.bytes.len().next_multiple_of(to), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_has_the_folders_of_its_files_once_and_ends_with_a_trailer() {
        let mut archive = Archive::default();
        archive.file("/lib/x/one", b"abcde");
        archive.file("/lib/x/two", b"");
        let bytes = archive.finish();
        assert_eq!(bytes.len() % PADDING_BYTES, 0);
        let mut at = 0;
        let mut names = Vec::new();
        while bytes.len() > at + 110 {
            assert_eq!(&bytes[at..at + 6], b"070701");
            let number = |field: usize| {
                let digits = &bytes[at + 6 + 8 * field..at + 14 + 8 * field];
                usize::from_str_radix(std::str::from_utf8(digits).unwrap(), 16).unwrap()
            };
            let (content_bytes, name_bytes) = (number(6), number(11));
            let name = String::from_utf8(bytes[at + 110..at + 110 + name_bytes - 1].to_vec()).unwrap();
            at = (at + 110 + name_bytes).next_multiple_of(4);
            if name == "lib/x/one" {
                assert_eq!(&bytes[at..at + content_bytes], b"abcde");
            }
            at = (at + content_bytes).next_multiple_of(4);
            names.push(name.clone());
            if name == TRAILER {
                break;
            }
        }
        assert_eq!(names, ["lib", "lib/x", "lib/x/one", "lib/x/two", TRAILER]);
    }
}
