//! The log block: the unit that the log writes, reads and checks.
//!
//! # Layout
//!
//! A block is a whole number of 4096-byte pages and lies in one extent. All integers little-endian.
//!
//! ```text
//! offset  bytes
//!      0      1  format version: 1
//!      1      1  flags: 1 = first block of its commit, 2 = last block of its commit
//!      2      2  zero
//!      4      4  CRC32C over the volume id, the block's device offset, and this header with this field zero
//!      8      8  log id, never reused in a volume
//!     16      8  sequence of the block in its log, from 1
//!     24      8  sequence of the last block that was durable when this one was built; 0 where none was
//!     32      4  payload bytes
//!     36      4  CRC32C of everything behind the header: payload and padding
//!     40      4  the extent with which the log goes on after this one
//!     44     20  zero
//!     64         payload, then zeros to the end of the page
//! ```
//!
//! | version | what changed |
//! |---|---|
//! | 1 | the first |
//!
//! The header has a checksum of its own, so that a chain of extents can be followed, and damage told from a torn tail, without trusting
//! a length that nothing vouches for.

use crate::types::ExtentId;
use crate::volume::bytes::{is_zero, placed_crc, put_u32, put_u64, u32_at, u64_at};
use crate::{Error, Result};

/// The unit of a block. Devices with larger logical blocks are refused when a volume is created.
pub(crate) const LOG_PAGE_BYTES: usize = 4096;
/// Bytes before the payload.
pub(crate) const HEADER_BYTES: usize = 64;

const VERSION: u8 = 1;
pub(crate) const FLAGS_AT: usize = 1;
pub(crate) const CRC_AT: usize = 4;
pub(crate) const LOG_AT: usize = 8;
pub(crate) const SEQ_AT: usize = 16;
pub(crate) const DURABLE_AT: usize = 24;
pub(crate) const PAYLOAD_BYTES_AT: usize = 32;
pub(crate) const PAYLOAD_CRC_AT: usize = 36;
pub(crate) const NEXT_AT: usize = 40;
const RESERVED_AT: usize = 44;

const FIRST: u8 = 1;
const LAST: u8 = 2;

const STRUCTURE: &str = "log block";

/// What a block says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BlockHeader {
    /// Whether a commit begins with this block.
    pub(crate) first: bool,
    /// Whether a commit ends with this block.
    pub(crate) last: bool,
    /// The log it belongs to.
    pub(crate) log_id: u64,
    /// Its place in the log, counted from 1.
    pub(crate) seq: u64,
    /// The last block known durable when this one was built.
    pub(crate) durable_through: u64,
    /// Payload bytes in it.
    pub(crate) payload_bytes: u32,
    /// The extent after this one.
    pub(crate) next: ExtentId,
}

impl BlockHeader {
    /// Bytes of the whole block.
    #[inline]
    pub(crate) fn block_bytes(&self) -> usize {
        block_bytes(self.payload_bytes as usize)
    }

    /// Seals a block whose payload already stands behind the header: clears the padding and writes the header.
    /// `block` is exactly the block's bytes.
    pub(crate) fn seal(&self, volume: &[u8; 16], offset: u64, block: &mut [u8]) {
        assert_eq!(block.len(), self.block_bytes());
        block[HEADER_BYTES + self.payload_bytes as usize..].fill(0);
        let payload_crc = crc32c::crc32c(&block[HEADER_BYTES..]);
        let header = &mut block[..HEADER_BYTES];
        header.fill(0);
        header[0] = VERSION;
        header[FLAGS_AT] = (u8::from(self.first) * FIRST) | (u8::from(self.last) * LAST);
        put_u64(header, LOG_AT, self.log_id);
        put_u64(header, SEQ_AT, self.seq);
        put_u64(header, DURABLE_AT, self.durable_through);
        put_u32(header, PAYLOAD_BYTES_AT, self.payload_bytes);
        put_u32(header, PAYLOAD_CRC_AT, payload_crc);
        put_u32(header, NEXT_AT, self.next.0);
        let crc = placed_crc(volume, offset, header, CRC_AT);
        put_u32(header, CRC_AT, crc);
    }

    /// Reads the header at the start of `bytes`, which stand at `offset` of the device; the payload is not looked at.
    pub(crate) fn decode(volume: &[u8; 16], offset: u64, bytes: &[u8]) -> Result<BlockHeader> {
        let Some(header) = bytes.get(..HEADER_BYTES) else {
            return Err(Error::corruption(STRUCTURE, format!("{} bytes are shorter than a header", bytes.len())));
        };
        if header[0] != VERSION {
            return Err(Error::corruption(STRUCTURE, format!("version {}, this build knows {VERSION}", header[0])));
        }
        let crc = placed_crc(volume, offset, header, CRC_AT);
        if crc != u32_at(header, CRC_AT) {
            let stored = u32_at(header, CRC_AT);
            return Err(Error::corruption(STRUCTURE, format!("header checksum {stored:08x}, computed {crc:08x}")));
        }
        let flags = header[FLAGS_AT];
        if flags & !(FIRST | LAST) != 0 || !is_zero(&header[2..CRC_AT]) || !is_zero(&header[RESERVED_AT..]) {
            return Err(Error::corruption(STRUCTURE, "reserved bytes are not zero"));
        }
        Ok(BlockHeader {
            first: flags & FIRST != 0,
            last: flags & LAST != 0,
            log_id: u64_at(header, LOG_AT),
            seq: u64_at(header, SEQ_AT),
            durable_through: u64_at(header, DURABLE_AT),
            payload_bytes: u32_at(header, PAYLOAD_BYTES_AT),
            next: ExtentId(u32_at(header, NEXT_AT)),
        })
    }

    /// Checks the payload of the block that `bytes` begin with and gives it. `bytes` may go on behind the block.
    pub(crate) fn payload<'a>(&self, bytes: &'a [u8]) -> Result<&'a [u8]> {
        let Some(block) = bytes.get(..self.block_bytes()) else {
            return Err(Error::corruption(
                STRUCTURE,
                format!("{} payload bytes do not fit into what is left of the extent", self.payload_bytes),
            ));
        };
        let stored = u32_at(block, PAYLOAD_CRC_AT);
        let crc = crc32c::crc32c(&block[HEADER_BYTES..]);
        if crc != stored && !mutant!(TornBlockAccepted) {
            return Err(Error::corruption(STRUCTURE, format!("payload checksum {stored:08x}, computed {crc:08x}")));
        }
        Ok(&block[HEADER_BYTES..HEADER_BYTES + self.payload_bytes as usize])
    }
}

/// Bytes of a block with this much payload.
#[inline]
pub(crate) fn block_bytes(payload_bytes: usize) -> usize {
    (HEADER_BYTES + payload_bytes).next_multiple_of(LOG_PAGE_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const VOLUME: [u8; 16] = [3; 16];

    fn header(payload_bytes: usize) -> BlockHeader {
        BlockHeader {
            first: true,
            last: false,
            log_id: 77,
            seq: 12,
            durable_through: 10,
            payload_bytes: payload_bytes as u32,
            next: ExtentId(9),
        }
    }

    fn sealed(header: &BlockHeader, offset: u64, payload: &[u8]) -> Vec<u8> {
        let mut block = vec![0xee; header.block_bytes()];
        block[HEADER_BYTES..HEADER_BYTES + payload.len()].copy_from_slice(payload);
        header.seal(&VOLUME, offset, &mut block);
        block
    }

    fn open(offset: u64, bytes: &[u8]) -> Result<(BlockHeader, &[u8])> {
        let header = BlockHeader::decode(&VOLUME, offset, bytes)?;
        Ok((header, header.payload(bytes)?))
    }

    #[test]
    #[cfg_attr(miri, ignore = "too many steps for Miri")]
    fn every_flipped_byte_is_noticed() {
        let mut block = sealed(&header(5000), 8192, &[1; 5000]);
        for at in 0..block.len() {
            block[at] ^= 4;
            assert!(open(8192, &block).unwrap_err().is_corruption(), "byte {at}");
            block[at] ^= 4;
        }
        open(8192, &block).unwrap();
    }

    #[test]
    fn a_block_elsewhere_or_of_another_volume_does_not_pass() {
        let block = sealed(&header(3), 8192, b"abc");
        assert!(open(12288, &block).is_err());
        assert!(BlockHeader::decode(&[4; 16], 8192, &block).is_err());
    }

    #[test]
    fn a_payload_fills_a_page_to_the_last_byte() {
        assert_eq!(block_bytes(0), LOG_PAGE_BYTES);
        assert_eq!(block_bytes(LOG_PAGE_BYTES - HEADER_BYTES), LOG_PAGE_BYTES);
        assert_eq!(block_bytes(LOG_PAGE_BYTES - HEADER_BYTES + 1), 2 * LOG_PAGE_BYTES);
    }

    proptest! {
        #[test]
        fn encodes_and_decodes(
            first: bool, last: bool, log_id: u64, seq: u64, durable_through: u64, next: u32, offset: u64,
            payload in prop::collection::vec(any::<u8>(), 0..if cfg!(miri) { 300 } else { 10_000 }),
        ) {
            let header = BlockHeader {
                first, last, log_id, seq, durable_through, payload_bytes: payload.len() as u32, next: ExtentId(next),
            };
            let mut block = sealed(&header, offset, &payload);
            block.extend([9; 100]);
            prop_assert_eq!(open(offset, &block).unwrap(), (header, payload.as_slice()));
        }

        #[test]
        fn arbitrary_bytes_never_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..if cfg!(miri) { 300 } else { 9000 }), fix: bool) {
            if fix && bytes.len() >= HEADER_BYTES {
                bytes[0] = VERSION;
                let crc = placed_crc(&VOLUME, 0, &bytes[..HEADER_BYTES], CRC_AT);
                put_u32(&mut bytes, CRC_AT, crc);
            }
            prop_assert!(open(0, &bytes).is_err());
        }
    }
}
