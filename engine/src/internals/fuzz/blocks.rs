//! Blocks of an SST, and whole SSTs, as a device might return them.

use super::{ID, PAGE_BYTES, split_key};
use crate::table::{
    BlockCursor, BlockHandle, BlockType, Directory, IndexCursor, Lookup, check_entries, data_get, decode_footer,
    encode_footer, filter_may_contain, index_find, key_hash, seal, verify_block,
};
use crate::types::{ReadView, SeqNo, Trailer};

fn moves<B: AsRef<[u8]>>(cursor: &mut BlockCursor<B>, key: &[u8]) -> crate::Result<()> {
    cursor.seek(key, Trailer::NEWEST)?;
    for step in 0..64 {
        if !cursor.valid() {
            break;
        }
        std::hint::black_box((cursor.key().len(), cursor.trailer(), cursor.value().len()));
        if step % 3 == 2 { cursor.prev()? } else { cursor.next()? }
    }
    cursor.seek_last()?;
    while cursor.valid() {
        cursor.prev()?;
    }
    Ok(())
}

/// A data block: lookups and a cursor over bytes that nobody has verified, and then as `verify` sees them.
pub fn data_block(bytes: &[u8]) {
    let (key, block) = split_key(bytes);
    if let Ok(Lookup::Found(_, value)) = data_get(block, key, &ReadView::LATEST) {
        assert!(block.get(value).is_some(), "the value lies in the block");
    }
    let whole = check_entries(block, |_, _, _| Ok(())).is_ok();
    let hole = ReadView { upper: SeqNo(1 << 20), hole: Some((SeqNo(3), SeqNo(1 << 10))) };
    let _ = data_get(block, key, &hole);
    if let Ok(mut cursor) = BlockCursor::new(block) {
        let moved = moves(&mut cursor, key);
        assert!(!whole || moved.is_ok(), "what passes the thorough check can be walked: {moved:?}");
    }
}

/// An index partition.
pub fn index_block(bytes: &[u8]) {
    let (key, block) = split_key(bytes);
    let _ = index_find(block, key, Trailer::NEWEST);
    let Ok(mut cursor) = IndexCursor::new(block) else { return };
    let _ = cursor.seek(key, Trailer::NEWEST);
    let _ = cursor.seek_first();
    while cursor.valid() {
        let _ = cursor.handle();
        if cursor.next().is_err() {
            break;
        }
    }
    let _ = cursor.seek_last().and_then(|()| cursor.prev());
}

/// A filter partition: what is no filter excludes nothing or something, but ends.
pub fn filter_block(bytes: &[u8]) {
    let (key, block) = split_key(bytes);
    std::hint::black_box(filter_may_contain(block, key_hash(key)));
}

/// The last page of an SST, after a manifest and without one. The first two bytes say which page of the SST it is to be.
pub fn sst_footer(bytes: &[u8]) {
    let Some((index, page)) = bytes.split_first_chunk::<2>() else { return };
    let index = u32::from(u16::from_le_bytes(*index));
    let _ = decode_footer(&ID, PAGE_BYTES, index, None, page);
    let _ = decode_footer(&ID, PAGE_BYTES, index, Some(0), page);
    let mut page = page.to_vec();
    page.resize(PAGE_BYTES, 0);
    let crc = seal(&ID, index, &mut page);
    let found = decode_footer(&ID, PAGE_BYTES, index, Some(crc), &page);
    match (found, decode_footer(&ID, PAGE_BYTES, index, None, &page)) {
        (Ok(footer), Ok(alone)) => {
            assert_eq!(footer, alone, "a footer that vouches for itself says the same");
            assert_eq!(footer.directory.end(), Some(index), "the directory is just before the footer");
            let (again, _) = encode_footer(&ID, PAGE_BYTES, index, &footer.directory);
            // Fields that no reader looks at may differ, but only in the header.
            assert_eq!(page[20..], again[20..], "a footer has one encoding");
        }
        (Err(error), Err(alone)) => assert!(error.is_corruption() && alone.is_corruption()),
        (found, alone) => panic!("with its checksum {found:?}, without {alone:?}"),
    }
}

/// A whole SST of small pages: footer, directory and all blocks, every checksum made right on the way down.
pub fn sst(bytes: &[u8]) {
    let mut pages = bytes.to_vec();
    pages.truncate(pages.len() / PAGE_BYTES * PAGE_BYTES);
    let _ = walk_sst(&mut pages);
}

/// The block of a handle, resealed, and the handle with its checksum.
fn resealed(pages: &mut [u8], handle: BlockHandle) -> Option<(BlockHandle, &[u8])> {
    let (start, end) = (handle.page as usize, handle.end()? as usize);
    let block = pages.get_mut(start.checked_mul(PAGE_BYTES)?..end.checked_mul(PAGE_BYTES)?)?;
    if block.is_empty() {
        return None;
    }
    let crc = seal(&ID, handle.page, block);
    Some((BlockHandle { crc, ..handle }, block))
}

pub(super) fn walk_sst(pages: &mut [u8]) -> Option<()> {
    let last = (pages.len() / PAGE_BYTES).checked_sub(1)? as u32;
    let (handle, block) = resealed(pages, BlockHandle { page: last, pages: 1, crc: 0 })?;
    let footer = decode_footer(&ID, PAGE_BYTES, last, Some(handle.crc), block).ok()?;
    let (handle, block) = resealed(pages, footer.directory)?;
    let directory = Directory::decode(&ID, &handle, PAGE_BYTES, block).ok()?;
    let smallest = directory.properties().smallest.clone();
    std::hint::black_box(directory.find_index(&smallest, Trailer::NEWEST));
    std::hint::black_box((directory.find_filter(&smallest), directory.heap_bytes()));
    for partition in 0..directory.filter_partitions() {
        let (handle, block) = resealed(pages, directory.filter_handle(partition))?;
        if verify_block(&ID, BlockType::Filter, &handle, PAGE_BYTES, block).is_ok() {
            std::hint::black_box(filter_may_contain(block, key_hash(&smallest)));
        }
    }
    for partition in 0..directory.index_partitions() {
        let (handle, block) = resealed(pages, directory.index_handle(partition))?;
        verify_block(&ID, BlockType::Index, &handle, PAGE_BYTES, block).ok()?;
        let mut cursor = IndexCursor::new(block.to_vec()).ok()?;
        cursor.seek_first().ok()?;
        while cursor.valid() {
            let (handle, block) = resealed(pages, cursor.handle().ok()?)?;
            if verify_block(&ID, BlockType::Data, &handle, PAGE_BYTES, block).is_ok() {
                let _ = check_entries(block, |_, _, _| Ok(()));
                let _ = data_get(block, &smallest, &ReadView::LATEST);
                let _ = BlockCursor::new(block).and_then(|mut cursor| moves(&mut cursor, &smallest));
            }
            cursor.next().ok()?;
        }
    }
    Some(())
}
