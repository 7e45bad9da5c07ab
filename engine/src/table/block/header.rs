//! What every block starts with, and the checks that a block from the device must pass.
//!
//! ```text
//!  0         1         2         3         4            8               12          16                20
//!  +---------+---------+---------+---------+------------+---------------+-----------+-----------------+----
//!  | version | type    | compr.  | flags   | crc32c     | payload bytes | entries   | restarts/probes | payload ...
//!  +---------+---------+---------+---------+------------+---------------+-----------+-----------------+----
//!      u8        u8        u8 = 0    u8 = 0    u32             u32            u32             u32
//! ```
//!
//! The checksum covers, in this order: the volume's UUID, the SST's id, the number of the block's first page within the
//! SST, and all bytes of the block's pages, its own four taken as zero. So a block that is whole but at the wrong place
//! fails, and so does any flip in the padding. The parent keeps the same checksum: an old block at the right place
//! fails too.

use crate::error::{Error, Result};
use crate::table::coding::{u16_at, u32_at};
use crate::table::filter::{FILTER_LINE_BYTES, FILTER_PROBES_MAX};
use crate::types::SstId;

/// Version 1: the first.
const FORMAT_VERSION: u8 = 1;

const VERSION_AT: usize = 0;
const TYPE_AT: usize = 1;
const COMPRESSION_AT: usize = 2;
const FLAGS_AT: usize = 3;
const CRC_AT: usize = 4;
const PAYLOAD_AT: usize = 8;
const ENTRIES_AT: usize = 12;
pub(in crate::table) const COUNT_AT: usize = 16;

/// Where the payload starts.
pub(in crate::table) const HEADER_BYTES: usize = 20;

const _: () = assert!(COUNT_AT + 4 == HEADER_BYTES);

/// Pages are powers of two in this range: a restart offset fits a `u16`, and a footer fits a page.
pub(crate) const PAGE_BYTES_MIN: usize = 512;
/// The largest page.
pub(crate) const PAGE_BYTES_MAX: usize = 64 << 10;

/// Which SST a block belongs to: with the page number, the address that its checksum covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TableId {
    /// The UUID of the volume that wrote the SST.
    pub(crate) volume: [u8; 16],
    /// The SST's identity in that volume.
    pub(crate) sst: SstId,
}

/// What a block is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum BlockType {
    /// Entries: key, trailer, value.
    Data = 1,
    /// A partition of the Bloom filter.
    Filter = 2,
    /// A partition of the index: separators and handles of data blocks.
    Index = 3,
    /// The top of the index and of the filter, and the properties.
    Directory = 4,
    /// The last page: where the directory is.
    Footer = 5,
}

impl BlockType {
    /// The name for error messages.
    pub(crate) fn name(self) -> &'static str {
        match self {
            BlockType::Data => "data block",
            BlockType::Filter => "filter partition",
            BlockType::Index => "index partition",
            BlockType::Directory => "SST directory",
            BlockType::Footer => "SST footer",
        }
    }
}

/// What a parent knows of a block: where it is, how long, and its checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct BlockHandle {
    /// Its first page, counted from the start of the SST.
    pub(crate) page: u32,
    /// How many pages it takes.
    pub(crate) pages: u32,
    /// Its CRC32C.
    pub(crate) crc: u32,
}

impl BlockHandle {
    /// The page behind the block; `None` where that overflows, which only a corrupt handle does.
    #[inline]
    pub(crate) fn end(&self) -> Option<u32> {
        self.page.checked_add(self.pages)
    }
}

/// The fields of a header that vary.
pub(in crate::table) struct BlockHeader {
    pub(in crate::table) ty: BlockType,
    pub(in crate::table) payload_bytes: u32,
    pub(in crate::table) entries: u32,
    /// Restart points of a data or index block; probes of a filter; else 0.
    pub(in crate::table) count: u32,
}

impl BlockHeader {
    /// Writes the header, its checksum still zero.
    pub(in crate::table) fn write(&self, block: &mut [u8]) {
        block[VERSION_AT] = FORMAT_VERSION;
        block[TYPE_AT] = self.ty as u8;
        block[COMPRESSION_AT] = 0;
        block[FLAGS_AT] = 0;
        block[CRC_AT..CRC_AT + 4].fill(0);
        block[PAYLOAD_AT..PAYLOAD_AT + 4].copy_from_slice(&self.payload_bytes.to_le_bytes());
        block[ENTRIES_AT..ENTRIES_AT + 4].copy_from_slice(&self.entries.to_le_bytes());
        block[COUNT_AT..COUNT_AT + 4].copy_from_slice(&self.count.to_le_bytes());
    }
}

/// Computes a finished block's checksum for its place, writes it into the header and returns it.
pub(crate) fn seal(id: &TableId, page: u32, block: &mut [u8]) -> u32 {
    let crc = checksum(id, page, block);
    block[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
    crc
}

fn checksum(id: &TableId, page: u32, block: &[u8]) -> u32 {
    let mut address = [0; 28];
    address[..16].copy_from_slice(&id.volume);
    address[16..24].copy_from_slice(&id.sst.0.to_le_bytes());
    address[24..].copy_from_slice(&page.to_le_bytes());
    let crc = crc32c::crc32c(&address);
    let crc = crc32c::crc32c_append(crc, &block[..CRC_AT]);
    let crc = crc32c::crc32c_append(crc, &[0; 4]);
    crc32c::crc32c_append(crc, &block[CRC_AT + 4..])
}

/// Checks a block that comes from the device: length, checksum (its own and the one that the parent holds), header and,
/// for data and index blocks, the restart points. Called once for each read; the lookups take it from there, with
/// bounds checked.
pub(crate) fn verify_block(
    id: &TableId,
    ty: BlockType,
    handle: &BlockHandle,
    page_bytes: usize,
    bytes: &[u8],
) -> Result<()> {
    let expected_bytes = (handle.pages as usize).checked_mul(page_bytes);
    if expected_bytes != Some(bytes.len()) || bytes.len() < HEADER_BYTES {
        return Err(Error::corruption(
            ty.name(),
            format!("{} bytes where {} pages of {page_bytes} were expected", bytes.len(), handle.pages),
        ));
    }
    let stored = u32_at(bytes, CRC_AT).unwrap_or(0);
    let found = checksum(id, handle.page, bytes);
    let is_damaged = found != handle.crc || stored != handle.crc;
    let unchecked = (is_damaged && ty == BlockType::Data && mutant!(DataChecksumNotChecked))
        || (is_damaged && ty == BlockType::Filter && mutant!(FilterChecksumNotChecked));
    if is_damaged && !unchecked {
        match ty {
            BlockType::Data => mark!(DataBlockDamaged),
            BlockType::Index => mark!(IndexPartitionDamaged),
            BlockType::Filter => mark!(FilterPartitionDamaged),
            BlockType::Directory => mark!(DirectoryDamaged),
            BlockType::Footer => mark!(FooterDamaged),
        }
        return Err(checksum_error(id, ty, handle, found, stored));
    }
    verify_header(ty, bytes).map_err(|reason| Error::corruption(ty.name(), reason))
}

#[cold]
fn checksum_error(id: &TableId, ty: BlockType, handle: &BlockHandle, found: u32, stored: u32) -> Error {
    let likely = if found == stored {
        "the block is whole, but not the one that its parent names"
    } else {
        "the block is damaged or belongs to another place"
    };
    Error::corruption(
        ty.name(),
        format!(
            "SST {} page {}: checksum {found:#010x}, in the block {stored:#010x}, in its parent {:#010x}: {likely}",
            id.sst, handle.page, handle.crc
        ),
    )
}

fn verify_header(ty: BlockType, bytes: &[u8]) -> std::result::Result<(), String> {
    // The caller has checked that the header is there.
    let field = |at| u32_at(bytes, at).unwrap_or(0) as usize;
    if bytes[VERSION_AT] != FORMAT_VERSION {
        return Err(format!("format version {}; this build reads version {FORMAT_VERSION}", bytes[VERSION_AT]));
    }
    if bytes[TYPE_AT] != ty as u8 {
        return Err(format!("block type {} where {} was expected", bytes[TYPE_AT], ty as u8));
    }
    if bytes[COMPRESSION_AT] != 0 || bytes[FLAGS_AT] != 0 {
        return Err(format!("compression {} and flags {}, both must be 0", bytes[COMPRESSION_AT], bytes[FLAGS_AT]));
    }
    let (payload, entries, count) = (field(PAYLOAD_AT), field(ENTRIES_AT), field(COUNT_AT));
    if payload > bytes.len() - HEADER_BYTES {
        return Err(format!("payload of {payload} bytes in a block of {}", bytes.len()));
    }
    match ty {
        BlockType::Data | BlockType::Index => verify_restarts(bytes, payload, entries, count),
        BlockType::Filter => {
            if count == 0 || count > FILTER_PROBES_MAX as usize || bytes.len() < 2 * FILTER_LINE_BYTES {
                return Err(format!("{count} probes in a filter of {} bytes", bytes.len()));
            }
            if bytes[HEADER_BYTES..FILTER_LINE_BYTES].iter().any(|&byte| byte != 0) {
                return Err("reserved bytes are not zero".to_owned());
            }
            Ok(())
        }
        BlockType::Directory | BlockType::Footer if count != 0 => Err("reserved field is not zero".to_owned()),
        BlockType::Directory | BlockType::Footer => Ok(()),
    }
}

fn verify_restarts(bytes: &[u8], payload: usize, entries: usize, restarts: usize) -> std::result::Result<(), String> {
    if restarts == 0 || restarts > entries || restarts * 2 >= payload {
        return Err(format!("{restarts} restart points for {entries} entries in {payload} bytes"));
    }
    let entry_bytes = payload - restarts * 2;
    let mut previous = None;
    for index in 0..restarts {
        let offset = usize::from(u16_at(bytes, HEADER_BYTES + entry_bytes + 2 * index).unwrap_or(0));
        let ordered = previous.map_or(offset == 0, |previous| previous < offset);
        if !ordered || offset >= entry_bytes {
            return Err(format!("restart point {index} at {offset} in {entry_bytes} bytes of entries"));
        }
        previous = Some(offset);
    }
    Ok(())
}

/// Payload and entry count of a block that passed [`verify_block`].
pub(in crate::table) fn payload(bytes: &[u8]) -> Option<(&[u8], u32)> {
    let payload = u32_at(bytes, PAYLOAD_AT)? as usize;
    Some((bytes.get(HEADER_BYTES..HEADER_BYTES.checked_add(payload)?)?, u32_at(bytes, ENTRIES_AT)?))
}
