//! Finds the blocks of a volume's file, by the published format alone.

use std::collections::BTreeMap;

pub(crate) const PAGE_BYTES: usize = 4096;
/// Where the copies of the superblock are.
pub(crate) const SUPERBLOCKS: [usize; 4] = [0, 16 << 10, 32 << 10, 48 << 10];

/// One block.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Block {
    pub(crate) offset: usize,
    pub(crate) bytes: usize,
}

/// Where the blocks of a volume are.
#[derive(Debug, Default)]
pub(crate) struct Image {
    /// The two root pages of each shard.
    pub(crate) roots: Vec<[Block; 2]>,
    /// Blocks of SSTs by the name that errors give them.
    pub(crate) tables: BTreeMap<&'static str, Vec<Block>>,
    /// Blocks of each log in order, without gaps, up to its end.
    pub(crate) logs: BTreeMap<u64, Vec<Block>>,
    /// The log of each shard's manifest.
    pub(crate) manifests: Vec<u64>,
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

/// The checksum of a page or header that is bound to its place.
pub(crate) fn placed_crc(volume: &[u8], offset: u64, bytes: &[u8], crc_at: usize) -> u32 {
    let crc = crc32c::crc32c_append(crc32c::crc32c(volume), &offset.to_le_bytes());
    let crc = crc32c::crc32c_append(crc, &bytes[..crc_at]);
    let crc = crc32c::crc32c_append(crc, &[0; 4]);
    crc32c::crc32c_append(crc, &bytes[crc_at + 4..])
}

impl Image {
    pub(crate) fn of(bytes: &[u8]) -> Image {
        let volume = &bytes[16..32];
        let extent_bytes = u32_at(bytes, 44) as usize;
        let mut image = Image::default();
        for shard in 0..u32_at(bytes, 52) as usize {
            let root = u32_at(bytes, 64 + 4 * shard) as usize * extent_bytes;
            image.roots.push([root, root + (16 << 10)].map(|offset| Block { offset, bytes: PAGE_BYTES }));
            image.manifests.push(u64_at(bytes, root + 8));
        }
        let in_table = image.find_tables(bytes);
        let mut logs: BTreeMap<u64, BTreeMap<u64, Block>> = BTreeMap::new();
        for offset in (extent_bytes..bytes.len()).step_by(PAGE_BYTES) {
            let header = &bytes[offset..offset + 64];
            let whole = header[0] == 1 && placed_crc(volume, offset as u64, header, 4) == u32_at(header, 4);
            if whole && !in_table.contains(&offset) {
                let block_bytes = (64 + u32_at(header, 32) as usize).next_multiple_of(PAGE_BYTES);
                let block = Block { offset, bytes: block_bytes };
                logs.entry(u64_at(header, 8)).or_default().insert(u64_at(header, 16), block);
            }
        }
        image.logs = logs.into_iter().map(|(log, blocks)| (log, blocks.into_values().collect())).collect();
        image
    }

    /// Finds the SSTs, each of which lies in neighbouring extents here; returns the offsets of their pages.
    fn find_tables(&mut self, bytes: &[u8]) -> std::collections::BTreeSet<usize> {
        let mut pages = std::collections::BTreeSet::new();
        for footer in (0..bytes.len()).step_by(PAGE_BYTES) {
            if bytes[footer + 20..footer + 28] != *b"SILTSST\0" {
                continue;
            }
            let start = footer + PAGE_BYTES - u32_at(bytes, footer + 32) as usize * PAGE_BYTES;
            for offset in (start..=footer).step_by(PAGE_BYTES) {
                let name = match bytes[offset + 1] {
                    1 => "data block",
                    2 => "filter partition",
                    3 => "index partition",
                    4 => "SST directory",
                    5 => "SST footer",
                    // Its extents are no neighbours: of no use here.
                    _ => continue,
                };
                self.tables.entry(name).or_default().push(Block { offset, bytes: PAGE_BYTES });
                pages.insert(offset);
            }
        }
        pages
    }

    /// The write-ahead logs, each of one shard.
    pub(crate) fn wals(&self) -> impl Iterator<Item = &Vec<Block>> {
        self.logs.iter().filter(|(log, _)| !self.manifests.contains(log)).map(|(_, blocks)| blocks)
    }
}

impl Block {
    /// Some bytes of the block, among them the first and the last.
    pub(crate) fn samples(&self) -> impl Iterator<Item = usize> + use<> {
        let (offset, bytes) = (self.offset, self.bytes);
        [0, 4, 13, 70, bytes / 2, bytes - 1].into_iter().map(move |at| offset + at)
    }
}
