//! The walk along a log's extents, and the judge of its end, over a device full of blocks that an input places.
//!
//! 1. The input lays out a few extents: runs of blocks that follow each other as a log's do, and single blocks that say anything. All
//!    headers have right checksums, and most payloads have: whatever a block says is believed. Then single bytes are damaged.
//! 2. The log is followed and read from several heads, with and without a last block.
//! 3. It ends without a panic, in commits and an end or in corruption. Each step of a walk takes a block that it has not taken before, so the
//!    reads of the device, the extents and the bytes of commits are bounded by the blocks that there are.

use arbitrary::{Arbitrary, Result, Unstructured};
use siltstone_io::{Backend, Executor, ExecutorConfig, SharedDevice, SimClock, SimDisk, SimOptions};

use super::ID;
use crate::Error;
use crate::log::block::{self, BlockHeader, HEADER_BYTES, LOG_PAGE_BYTES};
use crate::log::{LogPosition, LogReader, read_chain};
use crate::types::ExtentId;
use crate::volume::bytes::{placed_crc, put_u32};
use crate::volume::{Superblock, Volume, VolumeParts};

/// The smallest that there are.
const EXTENT_BYTES: usize = 64 << 10;
const EXTENT_PAGES: usize = EXTENT_BYTES / LOG_PAGE_BYTES;
/// Extents on the device: those of the log are 1 to 5. The volume ends later.
const EXTENTS: usize = 6;
const CAPACITY_BYTES: u64 = 16 * EXTENT_BYTES as u64;
/// Pieces of the layout, damaged bytes, and heads, at most.
const PIECES_MAX: usize = 24;
const CHANGES_MAX: usize = 4;
const HEADS_MAX: usize = 4;
/// Blocks of a run, at most: more than the extents hold.
const RUN_MAX: usize = 100;

/// See the module.
pub fn log_walk(bytes: &[u8]) {
    let mut input = Unstructured::new(bytes);
    let mut device = vec![0; EXTENTS * EXTENT_BYTES];
    let Ok(heads) = lay_out(&mut input, &mut device) else { return };
    let headers = (0..device.len()).step_by(LOG_PAGE_BYTES);
    let blocks = headers.filter(|at| BlockHeader::decode(&ID.volume, *at as u64, &device[*at..]).is_ok()).count();
    let disk = SimDisk::new(1, SimOptions::default());
    disk.write_raw(0, &device);
    let backend = Backend::Simulated(SimClock::new());
    let mut executor = Executor::new(ExecutorConfig::default(), backend).expect("a simulation has all it needs");
    let shared = SharedDevice::simulated(disk.clone());
    let attached = executor.handle().attach(&shared).expect("a simulated disk attaches");
    let parts = VolumeParts::new(shared, &superblock(), CAPACITY_BYTES).expect("the superblock is valid");
    let volume = Volume::new(parts, attached, executor.handle(), None);
    for (head, closed_at) in heads {
        let reads = || disk.stats().reads;
        let before = reads();
        let chain = executor.block_on(read_chain(&volume, head, closed_at)).expect("it fails only with the device");
        assert!(chain.len() <= blocks + 1 && chain[0] == head.extent, "{chain:?} of {blocks} blocks");
        // A step reads the first page of an extent, and where that is not the block, the extent; and, once, the one before.
        let chain_reads = reads() - before;
        assert!(chain_reads <= 3 * (blocks as u64 + 2), "{chain_reads} reads for a log of at most {blocks} blocks");
        let read = executor.block_on(read_all(&volume, head, closed_at, blocks));
        assert!(read.as_ref().map_or_else(Error::is_corruption, |()| true), "a healthy device, and still {read:?}");
        let log_reads = reads() - before - chain_reads;
        assert!(log_reads <= 2 * (blocks as u64 + 2), "{log_reads} reads for a log of at most {blocks} blocks");
    }
}

/// Reads to the end.
async fn read_all(volume: &Volume, head: LogPosition, closed_at: Option<u64>, blocks: usize) -> crate::Result<()> {
    let mut reader = LogReader::open(volume.clone(), head, closed_at);
    let (mut commits, mut bytes) = (0, 0);
    let mut before = None;
    while let Some((position, commit)) = reader.next().await? {
        assert!(before.is_none_or(|before| before < position.seq), "commits come in order");
        assert!(position.log_id == head.log_id && position.seq >= head.seq);
        assert!(closed_at.is_none_or(|last| position.seq <= last), "nothing behind the last block is read");
        before = Some(position.seq);
        commits += 1;
        bytes += commit.len();
    }
    assert!(reader.next().await?.is_none(), "the end stays the end");
    assert!(commits <= blocks && bytes <= blocks * EXTENT_BYTES, "{bytes} bytes from {blocks} blocks");
    assert!(reader.end().seq >= head.seq && reader.end().log_id == head.log_id);
    Ok(())
}

fn superblock() -> Superblock {
    Superblock {
        volume: ID.volume,
        generation: 1,
        page_bytes: LOG_PAGE_BYTES as u32,
        extent_bytes: EXTENT_BYTES as u32,
        key_groups: 16,
        capacity_bytes: 0,
        roots: vec![ExtentId(1)],
        profile: None,
    }
}

/// A head, and the last block where the log is known to be closed.
type Head = (LogPosition, Option<u64>);

/// Fills the device as the input says; gives the heads to read from.
fn lay_out(input: &mut Unstructured<'_>, device: &mut [u8]) -> Result<Vec<Head>> {
    let heads = 0..1 + usize::from(u8::arbitrary(input)?) % HEADS_MAX;
    let heads = heads.map(|_| draw_head(input)).collect::<Result<_>>()?;
    let successors: [u8; EXTENTS] = input.arbitrary()?;
    let changes: Vec<(u32, u8)> = (0..usize::from(u8::arbitrary(input)?) % (CHANGES_MAX + 1))
        .map(|_| input.arbitrary())
        .collect::<Result<_>>()?;
    for _ in 0..PIECES_MAX {
        if input.is_empty() {
            break;
        }
        let header = draw_header(input)?;
        let (extent, page) = (1 + draw_below(input, EXTENTS - 1)?, draw_below(input, EXTENT_PAGES)?);
        let flags = u8::arbitrary(input)?;
        if flags & 1 == 0 {
            place_run(input, device, &successors, header, (extent, page))?;
        } else {
            place(device, extent * EXTENT_BYTES + page * LOG_PAGE_BYTES, &header, flags & 2 == 0, flags & 12 != 12);
        }
    }
    for (at, byte) in changes {
        let at = at as usize % device.len();
        device[at] ^= byte;
    }
    Ok(heads)
}

/// Blocks with ascending sequences, one behind the other, and on into each extent's successor. Most of what the first says of itself holds for all.
fn place_run(
    input: &mut Unstructured<'_>,
    device: &mut [u8],
    successors: &[u8; EXTENTS],
    first: BlockHeader,
    (mut extent, mut page): (usize, usize),
) -> Result<()> {
    let count = draw_below(input, RUN_MAX)?;
    let shape: u32 = input.arbitrary()?;
    for number in 0..count {
        let pages = [1, 1, 2, 3][(shape >> (number % 13 * 2)) as usize & 3].min(EXTENT_PAGES - page);
        let seq = first.seq.saturating_add(number as u64);
        let header = BlockHeader {
            // Every commit is of one block, or of two.
            first: shape >> 31 == 0 || number % 2 == 0,
            last: shape >> 31 == 0 || number % 2 == 1,
            seq,
            durable_through: if shape >> 30 & 1 == 0 { seq - 1 } else { first.durable_through },
            payload_bytes: (pages * LOG_PAGE_BYTES - HEADER_BYTES - number % 3) as u32,
            next: ExtentId(u32::from(successors[extent]) % EXTENTS as u32),
            ..first
        };
        place(device, extent * EXTENT_BYTES + page * LOG_PAGE_BYTES, &header, false, true);
        page += pages;
        if page == EXTENT_PAGES {
            (extent, page) = (header.next.0 as usize, 0);
            if extent == 0 {
                break;
            }
        }
    }
    Ok(())
}

/// Writes a header, and makes it right; and the payload, unless that is to be what is there already.
fn place(device: &mut [u8], at: usize, header: &BlockHeader, keep: bool, whole: bool) {
    let extent_end = (at / EXTENT_BYTES + 1) * EXTENT_BYTES;
    let end = extent_end.min(at.saturating_add(header.block_bytes()));
    let target = &mut device[at..end];
    if !keep {
        target[HEADER_BYTES..].fill(header.seq as u8);
    }
    let payload_crc = crc32c::crc32c(&target[HEADER_BYTES..]);
    // What a block says of its length need not be so: sealed as an empty one, then changed.
    let mut sealed = vec![0; LOG_PAGE_BYTES];
    BlockHeader { payload_bytes: 0, ..*header }.seal(&ID.volume, at as u64, &mut sealed);
    put_u32(&mut sealed, block::PAYLOAD_BYTES_AT, header.payload_bytes);
    put_u32(&mut sealed, block::PAYLOAD_CRC_AT, if whole { payload_crc } else { !payload_crc });
    let crc = placed_crc(&ID.volume, at as u64, &sealed[..HEADER_BYTES], block::CRC_AT);
    put_u32(&mut sealed, block::CRC_AT, crc);
    target[..HEADER_BYTES].copy_from_slice(&sealed[..HEADER_BYTES]);
}

fn draw_below(input: &mut Unstructured<'_>, bound: usize) -> Result<usize> {
    Ok(usize::from(u8::arbitrary(input)?) % bound)
}

fn draw_head(input: &mut Unstructured<'_>) -> Result<Head> {
    let page = match u8::arbitrary(input)? {
        255 => input.arbitrary()?,
        page => u32::from(page) % (EXTENT_PAGES as u32 + 1),
    };
    let position = LogPosition { log_id: draw_log(input)?, extent: draw_extent(input)?, page, seq: draw_seq(input)? };
    let closed_at = if bool::arbitrary(input)? { Some(draw_seq(input)?) } else { None };
    Ok((position, closed_at))
}

fn draw_header(input: &mut Unstructured<'_>) -> Result<BlockHeader> {
    let flags = u8::arbitrary(input)?;
    Ok(BlockHeader {
        first: flags & 1 == 0,
        last: flags & 2 == 0,
        log_id: draw_log(input)?,
        seq: draw_seq(input)?.max(1),
        durable_through: draw_seq(input)?,
        payload_bytes: match flags >> 2 & 7 {
            0 => input.arbitrary()?,
            pages => u32::from(pages) * LOG_PAGE_BYTES as u32 - HEADER_BYTES as u32,
        },
        next: draw_extent(input)?,
    })
}

/// Mostly one and the same.
fn draw_log(input: &mut Unstructured<'_>) -> Result<u64> {
    Ok(if u8::arbitrary(input)? < 240 { 7 } else { 8 })
}

/// Small, at the upper end of its range, or anything.
pub(super) fn draw_seq(input: &mut Unstructured<'_>) -> Result<u64> {
    Ok(match u8::arbitrary(input)? {
        255 => input.arbitrary()?,
        small @ 0..240 => 1 + u64::from(small % 64),
        large => u64::MAX - u64::from(large - 240),
    })
}

/// One of the log's, one that does not exist, or anything.
pub(super) fn draw_extent(input: &mut Unstructured<'_>) -> Result<ExtentId> {
    Ok(ExtentId(match u8::arbitrary(input)? {
        255 => input.arbitrary()?,
        small @ 0..240 => u32::from(small) % EXTENTS as u32,
        large => u32::from(large - 240),
    }))
}
