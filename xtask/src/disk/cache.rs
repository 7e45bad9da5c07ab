//! What a disk holds that is not durable yet: for each block its versions since the durable one, oldest first.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;

/// See the module. Invariant: no block has an empty list of versions, and their completions rise.
pub(super) struct Cache {
    block_bytes: usize,
    blocks: BTreeMap<u64, Vec<Version>>,
    versions: u64,
}

struct Version {
    completion: u64,
    data: Vec<u8>,
}

impl Cache {
    pub(super) fn new(block_bytes: usize) -> Cache {
        Cache { block_bytes, blocks: BTreeMap::new(), versions: 0 }
    }

    /// How much there is of all versions.
    pub(super) fn bytes(&self) -> u64 {
        self.versions * self.block_bytes as u64
    }

    /// Adds a version of each block of the range; without data, of zeroes. Offset and length are whole blocks.
    pub(super) fn put(&mut self, offset: u64, len: u64, data: Option<&[u8]>, completion: u64) {
        let block_bytes = self.block_bytes as u64;
        for index in 0..len / block_bytes {
            let at = (index * block_bytes) as usize;
            let content =
                data.map_or_else(|| vec![0; self.block_bytes], |data| data[at..at + self.block_bytes].to_vec());
            let versions = self.blocks.entry(offset + index * block_bytes).or_default();
            versions.push(Version { completion, data: content });
            self.versions += 1;
        }
    }

    /// Puts the newest versions over what was read at this offset.
    pub(super) fn overlay(&self, offset: u64, data: &mut [u8]) {
        for (&at, versions) in self.blocks.range(offset..offset + data.len() as u64) {
            let start = (at - offset) as usize;
            if let Some(newest) = versions.last() {
                data[start..start + self.block_bytes].copy_from_slice(&newest.data);
            }
        }
    }

    /// Hands over the newest version up to this completion of each block of the range, with neighbours in one piece, and forgets it and
    /// what is older.
    pub(super) fn drain(
        &mut self,
        range: Range<u64>,
        up_to: u64,
        mut write: impl FnMut(u64, &[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let (mut start, mut piece) = (0, Vec::new());
        for (&at, versions) in self.blocks.range_mut(range.clone()) {
            let covered = versions.partition_point(|version| version.completion <= up_to);
            let Some(newest) = versions.drain(..covered).next_back() else { continue };
            self.versions -= covered as u64;
            if start + piece.len() as u64 != at {
                if !piece.is_empty() {
                    write(start, &piece)?;
                }
                piece.clear();
                start = at;
            }
            piece.extend_from_slice(&newest.data);
        }
        if !piece.is_empty() {
            write(start, &piece)?;
        }
        self.blocks.retain(|_, versions| !versions.is_empty());
        Ok(())
    }

    /// All there is: offset and versions of each block.
    pub(super) fn take(&mut self) -> impl Iterator<Item = (u64, Vec<Vec<u8>>)> + use<> {
        self.versions = 0;
        let blocks = std::mem::take(&mut self.blocks).into_iter();
        blocks.map(|(at, versions)| (at, versions.into_iter().map(|version| version.data).collect()))
    }
}
