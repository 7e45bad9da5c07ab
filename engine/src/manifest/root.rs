//! Root pages: which log is a shard's current manifest.
//!
//! # Layout
//!
//! Two pages of 4096 bytes, A at the start of the shard's root extent and B 16 KiB behind it. All integers little-endian.
//!
//! ```text
//! offset  bytes
//!      0      1  format version: 1
//!      1      3  zero
//!      4      4  CRC32C over the volume id, the page's device offset, and the page with this field zero
//!      8      8  log id   \
//!     16      8  sequence  | the head of the log; of two valid pages the higher log id counts
//!     24      4  extent    |
//!     28      4  page     /
//!     32      4  shard
//!     36   4060  zero
//! ```
//!
//! | version | what changed |
//! |---|---|
//! | 1 | the first |
//!
//! # Writing
//!
//! 1. The page that is not the newest, durably: now the new log counts.
//! 2. The other page, durably. Only then is the old log given up.
//!
//! So a crash finds the old page or the new one whole, and a page that is damaged later has a twin that says the same: nothing
//! ever falls back to a log that is gone. Log ids only grow in a volume's life, over all shards and openings. So a page that an
//! earlier user of the extent left behind, whole, is older than the twin of the write that should have replaced it and was lost.

use siltstone_io::{Buffer, Placement, WriteDurability};

use crate::log::LogPosition;
use crate::types::{ExtentId, ShardId};
use crate::volume::Volume;
use crate::volume::bytes::{is_zero, placed_crc, put_u32, put_u64, u32_at, u64_at};
use crate::{Error, Result};

pub(crate) const ROOT_BYTES: usize = 4096;
pub(crate) const PAGE_SPACING_BYTES: u64 = 16 << 10;

const VERSION: u8 = 1;
pub(crate) const CRC_AT: usize = 4;
pub(crate) const LOG_AT: usize = 8;
pub(crate) const SEQ_AT: usize = 16;
pub(crate) const EXTENT_AT: usize = 24;
pub(crate) const PAGE_AT: usize = 28;
pub(crate) const SHARD_AT: usize = 32;
const RESERVED_AT: usize = 36;

const STRUCTURE: &str = "root page";

/// What a root page says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Root {
    pub(super) shard: ShardId,
    pub(super) head: LogPosition,
}

/// The newest root of a shard and which of the pages holds it.
#[derive(Clone, Copy, Debug)]
pub(super) struct FoundRoot {
    pub(super) root: Root,
    pub(super) page: usize,
}

impl Root {
    fn encode(&self, volume: &[u8; 16], offset: u64, page: &mut [u8]) {
        assert_eq!(page.len(), ROOT_BYTES);
        page.fill(0);
        page[0] = VERSION;
        put_u64(page, LOG_AT, self.head.log_id);
        put_u64(page, SEQ_AT, self.head.seq);
        put_u32(page, EXTENT_AT, self.head.extent.0);
        put_u32(page, PAGE_AT, self.head.page);
        put_u32(page, SHARD_AT, u32::from(self.shard.0));
        let crc = placed_crc(volume, offset, page, CRC_AT);
        put_u32(page, CRC_AT, crc);
    }

    fn decode(volume: &[u8; 16], offset: u64, page: &[u8]) -> Result<Root> {
        assert_eq!(page.len(), ROOT_BYTES);
        if page[0] != VERSION {
            return Err(Error::corruption(STRUCTURE, format!("version {}, this build knows {VERSION}", page[0])));
        }
        let (stored, crc) = (u32_at(page, CRC_AT), placed_crc(volume, offset, page, CRC_AT));
        if stored != crc {
            return Err(Error::corruption(STRUCTURE, format!("checksum {stored:08x}, computed {crc:08x}")));
        }
        let shard = u16::try_from(u32_at(page, SHARD_AT));
        let (Ok(shard), true) = (shard, is_zero(&page[1..CRC_AT]) && is_zero(&page[RESERVED_AT..])) else {
            return Err(Error::corruption(STRUCTURE, "reserved bytes are not zero"));
        };
        let head = LogPosition {
            log_id: u64_at(page, LOG_AT),
            extent: ExtentId(u32_at(page, EXTENT_AT)),
            page: u32_at(page, PAGE_AT),
            seq: u64_at(page, SEQ_AT),
        };
        Ok(Root { shard: ShardId(shard), head })
    }
}

/// A root page as it would be written again, of bytes that stand at offset 0.
#[cfg(feature = "fuzz")]
pub(crate) fn rewritten_root(volume: &[u8; 16], page: &[u8]) -> Result<Vec<u8>> {
    let root = Root::decode(volume, 0, page)?;
    let mut again = vec![0; ROOT_BYTES];
    root.encode(volume, 0, &mut again);
    Ok(again)
}

/// Makes `root` the current one: durable in `first`, then in the other page. An error leaves either the old or the new root.
pub(super) async fn write_root(volume: &Volume, extent: ExtentId, root: &Root, first: usize) -> Result<()> {
    for page in [first, 1 - first] {
        let offset = page_offset(volume, extent, page);
        let mut buffer = Buffer::heap(ROOT_BYTES);
        root.encode(volume.parts().id(), offset, &mut buffer[..ROOT_BYTES]);
        let durable = if mutant!(RootPagesNotDurable) { WriteDurability::Cached } else { WriteDurability::Durable };
        let placement = Placement::Metadata;
        volume.write(offset, buffer, ROOT_BYTES, durable, placement).await?;
    }
    Ok(())
}

/// The root pages that are not whole, with their device offsets. For a shard whose root [`read_root`] finds.
pub(crate) async fn damaged_roots(volume: &Volume, extent: ExtentId) -> Result<Vec<(u64, Error)>> {
    let mut damaged = Vec::new();
    for page in [0, 1] {
        let offset = page_offset(volume, extent, page);
        let (result, buffer) = volume.device().read(offset, Buffer::heap(ROOT_BYTES), ROOT_BYTES).await;
        result?;
        if let Err(error) = Root::decode(volume.parts().id(), offset, &buffer[..ROOT_BYTES]) {
            damaged.push((offset, error));
        }
    }
    Ok(damaged)
}

/// The newest root in this root extent, which must be the shard's.
pub(super) async fn read_root(volume: &Volume, extent: ExtentId, shard: ShardId) -> Result<FoundRoot> {
    let mut newest: Option<FoundRoot> = None;
    let mut defect = None;
    for page in [0, 1] {
        let offset = page_offset(volume, extent, page);
        if offset + ROOT_BYTES as u64 > volume.device().len_bytes() {
            let reason = "it lies past the end of the device, which was truncated";
            return Err(Error::corruption(STRUCTURE, reason).located(shard.0, offset));
        }
        let (result, buffer) = volume.device().read(offset, Buffer::heap(ROOT_BYTES), ROOT_BYTES).await;
        result?;
        match Root::decode(volume.parts().id(), offset, &buffer[..ROOT_BYTES]) {
            Ok(root) if newest.is_none_or(|newest| newest.root.head.log_id < root.head.log_id) => {
                if newest.is_some() {
                    mark!(RootPagesDiffer);
                }
                newest = Some(FoundRoot { root, page });
            }
            Ok(root) => {
                if newest.is_some_and(|newest| newest.root.head.log_id != root.head.log_id) {
                    mark!(RootPagesDiffer);
                }
            }
            Err(error) => defect = Some(error.located(shard.0, offset)),
        }
    }
    match (newest, defect) {
        (Some(found), _) if found.root.shard != shard => {
            let reason = format!("the root page of shard {shard} is of shard {}", found.root.shard);
            Err(Error::corruption(STRUCTURE, reason).located(shard.0, page_offset(volume, extent, found.page)))
        }
        (Some(found), _) if !volume.parts().may_have_given(found.root.head.log_id) => {
            let reason = format!("log {} is of a later opening than the superblock's", found.root.head.log_id);
            Err(Error::corruption(STRUCTURE, reason).located(shard.0, page_offset(volume, extent, found.page)))
        }
        (Some(found), defect) => {
            if defect.is_some() {
                mark!(RootPageDamaged);
            }
            Ok(found)
        }
        (None, defect) => Err(defect.expect("a page that is not valid has a defect")),
    }
}

fn page_offset(volume: &Volume, extent: ExtentId, page: usize) -> u64 {
    volume.parts().offset(extent) + page as u64 * PAGE_SPACING_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn encodes_and_decodes_and_notices_every_flip(
            volume: [u8; 16], offset: u64, shard: u16, log_id: u64, extent: u32, page: u32, seq: u64, flip in 0usize..4096,
        ) {
            let head = LogPosition { log_id, extent: ExtentId(extent), page, seq };
            let root = Root { shard: ShardId(shard), head };
            let mut bytes = vec![0; ROOT_BYTES];
            root.encode(&volume, offset, &mut bytes);
            prop_assert_eq!(Root::decode(&volume, offset, &bytes).unwrap(), root);
            prop_assert!(Root::decode(&volume, offset ^ 4096, &bytes).is_err());
            bytes[flip] ^= 1;
            prop_assert!(Root::decode(&volume, offset, &bytes).is_err());
        }
    }
}
