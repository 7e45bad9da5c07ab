//! The footer: the last page of an SST, which leads to the directory.
//!
//! ```text
//!  offset  bytes
//!       0     20  block header (type 5, payload 52 bytes, 0 entries)
//!      20      8  magic "SILTSST" and a zero
//!      28      4  page bytes, u32
//!      32      4  pages of the SST, this one included, u32
//!      36     12  directory: page, pages, crc, u32 each
//!      48      8  SST id, u64
//!      56     16  UUID of the volume that wrote it
//!      72      .  zeros to the end of the page
//! ```

use super::block::{BlockHandle, BlockHeader, BlockType, HEADER_BYTES, TableId, seal, verify_block};
use super::coding::{u32_at, u64_at};
use crate::error::{Error, Result};

const MAGIC: [u8; 8] = *b"SILTSST\0";

const MAGIC_AT: usize = HEADER_BYTES;
const PAGE_BYTES_AT: usize = 28;
const PAGES_AT: usize = 32;
const DIRECTORY_AT: usize = 36;
const SST_AT: usize = 48;
const VOLUME_AT: usize = 56;
const END_AT: usize = 72;

/// Where the checksum of every block is, which a reader without a parent takes from the block itself.
const CRC_AT: usize = 4;

const _: () = assert!(MAGIC_AT + MAGIC.len() == PAGE_BYTES_AT && END_AT <= super::block::PAGE_BYTES_MIN);

/// What the footer says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Footer {
    /// Where the directory is.
    pub(crate) directory: BlockHandle,
    /// Pages of the SST, the footer included.
    pub(crate) pages: u32,
}

/// Builds the footer page at page `page`; returns it and its checksum.
pub(crate) fn encode_footer(id: &TableId, page_bytes: usize, page: u32, directory: &BlockHandle) -> (Box<[u8]>, u32) {
    let mut block = vec![0; page_bytes].into_boxed_slice();
    let header =
        BlockHeader { ty: BlockType::Footer, payload_bytes: (END_AT - HEADER_BYTES) as u32, entries: 0, count: 0 };
    header.write(&mut block);
    let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    put(MAGIC_AT, &MAGIC);
    put(PAGE_BYTES_AT, &(page_bytes as u32).to_le_bytes());
    put(PAGES_AT, &(page + 1).to_le_bytes());
    put(DIRECTORY_AT, &directory.page.to_le_bytes());
    put(DIRECTORY_AT + 4, &directory.pages.to_le_bytes());
    put(DIRECTORY_AT + 8, &directory.crc.to_le_bytes());
    put(SST_AT, &id.sst.0.to_le_bytes());
    put(VOLUME_AT, &id.volume);
    let crc = seal(id, page, &mut block);
    (block, crc)
}

/// Reads and checks a footer, which is page `page_index` of the SST. `expected_crc` is what the manifest says; without
/// it the page vouches for itself.
pub(crate) fn decode_footer(
    id: &TableId,
    page_bytes: usize,
    page_index: u32,
    expected_crc: Option<u32>,
    bytes: &[u8],
) -> Result<Footer> {
    let corrupt = |reason: String| Error::corruption(BlockType::Footer.name(), format!("SST {}: {reason}", id.sst));
    // Without a parent the place to begin is the magic: what is not an SST should not be called a damaged one.
    if expected_crc.is_none() && bytes.get(MAGIC_AT..PAGE_BYTES_AT) != Some(&MAGIC) {
        return Err(corrupt("this is not the last page of an SST".to_owned()));
    }
    let field = |at| u32_at(bytes, at).ok_or_else(|| corrupt(format!("{} bytes are no page", bytes.len())));
    let crc = expected_crc.map_or_else(|| field(CRC_AT), Ok)?;
    verify_block(id, BlockType::Footer, &BlockHandle { page: page_index, pages: 1, crc }, page_bytes, bytes)?;
    if bytes.get(MAGIC_AT..PAGE_BYTES_AT) != Some(&MAGIC) {
        return Err(corrupt("the magic number is missing".to_owned()));
    }
    if field(PAGE_BYTES_AT)? as usize != page_bytes {
        return Err(corrupt(format!("pages of {} bytes where {page_bytes} were expected", field(PAGE_BYTES_AT)?)));
    }
    if u64_at(bytes, SST_AT) != Some(id.sst.0) || bytes.get(VOLUME_AT..END_AT) != Some(&id.volume) {
        return Err(corrupt("it names another SST or volume".to_owned()));
    }
    if bytes.iter().skip(END_AT).any(|&byte| byte != 0) {
        return Err(corrupt("reserved bytes are not zero".to_owned()));
    }
    let pages = field(PAGES_AT)?;
    let directory =
        BlockHandle { page: field(DIRECTORY_AT)?, pages: field(DIRECTORY_AT + 4)?, crc: field(DIRECTORY_AT + 8)? };
    if page_index.checked_add(1) != Some(pages) || directory.end() != Some(page_index) || directory.pages == 0 {
        return Err(corrupt(format!("it is page {page_index} of {pages}, with {directory:?}")));
    }
    Ok(Footer { directory, pages })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::SstId;
    use proptest::prelude::*;

    const ID: TableId = TableId { volume: [7; 16], sst: SstId(99) };

    proptest! {
        #[test]
        fn footers_round_trip_and_notice_every_flip_and_cut(
            volume: [u8; 16], sst: u64, start in 0u32..1 << 31, pages in 1u32..1 << 20, crc: u32, flip in 0usize..512, bit in 0u8..8,
        ) {
            let id = TableId { volume, sst: SstId(sst) };
            let (directory, last) = (BlockHandle { page: start, pages, crc }, start + pages);
            let (mut page, crc) = encode_footer(&id, 512, last, &directory);
            let footer = Footer { directory, pages: last + 1 };
            prop_assert_eq!(decode_footer(&id, 512, last, Some(crc), &page).unwrap(), footer);
            prop_assert!(decode_footer(&id, 512, last, Some(crc), &page[..flip]).unwrap_err().is_corruption());
            page[flip] ^= 1 << bit;
            for expected in [None, Some(crc)] {
                prop_assert!(decode_footer(&id, 512, last, expected, &page).unwrap_err().is_corruption());
            }
        }

        /// With a fitting checksum, whatever else it says: refused, or a directory that ends at the footer.
        #[test]
        fn sealed_bytes_are_a_footer_or_corruption(at in HEADER_BYTES..END_AT + 8, byte: u8, last in 1u32..1000) {
            let (mut page, _) = encode_footer(&ID, 512, last, &BlockHandle { page: last - 1, pages: 1, crc: 5 });
            page[at] = byte;
            let crc = seal(&ID, last, &mut page);
            match decode_footer(&ID, 512, last, Some(crc), &page) {
                Ok(footer) => prop_assert_eq!((footer.pages, footer.directory.end()), (last + 1, Some(last))),
                Err(error) => prop_assert!(error.is_corruption()),
            }
        }
    }

    #[test]
    fn a_footer_reads_back() {
        let directory = BlockHandle { page: 10, pages: 2, crc: 5 };
        let (page, crc) = encode_footer(&ID, 512, 12, &directory);
        let footer = Footer { directory, pages: 13 };
        assert_eq!(decode_footer(&ID, 512, 12, Some(crc), &page).unwrap(), footer);
        assert_eq!(decode_footer(&ID, 512, 12, None, &page).unwrap(), footer);
    }

    #[test]
    fn a_footer_of_another_place_sst_or_volume_is_refused() {
        let (page, crc) = encode_footer(&ID, 512, 12, &BlockHandle { page: 10, pages: 2, crc: 5 });
        let other_sst = TableId { sst: SstId(98), ..ID };
        let other_volume = TableId { volume: [8; 16], ..ID };
        for expected in [None, Some(crc)] {
            assert!(decode_footer(&ID, 512, 11, expected, &page).unwrap_err().is_corruption());
            assert!(decode_footer(&other_sst, 512, 12, expected, &page).unwrap_err().is_corruption());
            assert!(decode_footer(&other_volume, 512, 12, expected, &page).unwrap_err().is_corruption());
            assert!(decode_footer(&ID, 1024, 12, expected, &page).unwrap_err().is_corruption());
            assert!(decode_footer(&ID, 512, 12, expected, &page[..100]).unwrap_err().is_corruption());
            assert!(decode_footer(&ID, 512, 12, expected, &[]).unwrap_err().is_corruption());
        }
        assert!(decode_footer(&ID, 512, 12, Some(crc ^ 1), &page).unwrap_err().is_corruption());
    }
}
