//! Flipped bits, blocks at wrong places, and bytes that a fitting checksum vouches for.

use proptest::prelude::*;

use super::*;

#[test]
#[cfg_attr(miri, ignore = "too many steps for Miri")]
fn every_flipped_bit_is_detected() {
    let (bytes, summary) = build(options(512), &numbered(40, 20, |number| number));
    assert!(summary.properties.data_blocks > 2);
    assert!(Reader::open(&bytes, 512, summary.footer_crc).and_then(|reader| reader.check()).is_ok());
    for at in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1 << (at % 8);
        let result = Reader::open(&damaged, 512, summary.footer_crc).and_then(|reader| reader.check());
        assert!(result.is_err_and(|error| error.is_corruption()), "byte {at}");
    }
}

#[test]
fn misdirected_stale_and_foreign_blocks_are_detected() {
    let (bytes, summary) = build(options(512), &numbered(40, 20, |number| number));
    let check = |bytes: &[u8]| Reader::open(bytes, 512, summary.footer_crc).and_then(|reader| reader.check());

    let mut swapped = bytes.clone();
    swapped[..512].copy_from_slice(&bytes[512..1024]);
    let error = check(&swapped).unwrap_err().to_string();
    assert!(error.contains("data block") && error.contains("page 0"), "{error}");

    // Whole and at its place, but of another writing.
    let (other, _) = build(options(512), &numbered(40, 20, |number| number + 1));
    let mut stale = bytes.clone();
    stale[..512].copy_from_slice(&other[..512]);
    let error = check(&stale).unwrap_err().to_string();
    assert!(error.contains("not the one that its parent names"), "{error}");

    // A block of the right place, asked for as another kind.
    let reader = Reader::open(&bytes, 512, summary.footer_crc).unwrap();
    assert!(reader.fetch(BlockType::Data, reader.directory.index_handle(0)).unwrap_err().is_corruption());

    for length in [0, 1, 19, 20, 511] {
        let handle = reader.directory.index_handle(0);
        assert!(verify_block(&ID, BlockType::Index, &handle, 512, &bytes[..length]).unwrap_err().is_corruption());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 2 } else { 400 }))]

    /// The lookups see verified blocks only; still, no bytes make them panic or loop.
    #[test]
    fn lookups_in_damaged_blocks_end(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        head_damage in prop::option::of((0..32usize, any::<u8>())),
        cut in prop::option::of(0..512usize),
    ) {
        let (bytes, _) = build(options(512), &numbered(12, 20, |number| number));
        let mut block = bytes[..512].to_vec();
        for (at, byte) in &damage {
            block[at.index(512)] = *byte;
        }
        if let Some((at, byte)) = head_damage {
            block[at] = byte;
        }
        block.truncate(cut.unwrap_or(512));
        for (key, ..) in numbered(12, 0, |number| number) {
            for hole in [None, Some((SeqNo(0), SeqNo(100)))] {
                let _ = data_get(&block, &key, &ReadView { upper: SeqNo::MAX, hole });
            }
            let _ = index_find(&block, &key, VersionBound::NEWEST);
            if let Ok(mut cursor) = BlockCursor::new(&block) {
                let _ = cursor.seek(&key, VersionBound::NEWEST);
                let _ = cursor.prev();
                let _ = cursor.seek_for_prev(&key, VersionBound::OLDEST);
                let _ = cursor.next();
                if cursor.valid() {
                    let _ = cursor.value();
                }
            }
        }
        if let Ok(mut cursor) = BlockCursor::new(&block) {
            let _ = cursor.seek_first();
            let mut steps = 0;
            while cursor.valid() {
                let _ = cursor.next();
                steps += 1;
                prop_assert!(steps <= 512 / 3);
            }
            let _ = cursor.seek_last();
            for _ in 0..200 {
                let _ = cursor.prev();
            }
        }
        let _ = check_entries(&block, |_, _, _| Ok(()));
    }

    /// A directory with a fitting checksum and wrong contents is refused or decodes; it does not panic.
    #[test]
    fn damaged_directories_are_refused(at in 20..512usize, byte in any::<u8>()) {
        let (bytes, summary) = build(options(512), &numbered(300, 20, |number| number));
        let last = (summary.pages - 1) as usize;
        let footer = decode_footer(&ID, 512, last as u32, None, &bytes[last * 512..]).unwrap();
        let start = footer.directory.page as usize * 512;
        let mut block = bytes[start..last * 512].to_vec();
        block[at] = byte;
        let crc = crate::table::block::seal(&ID, footer.directory.page, &mut block);
        if let Ok(directory) = Directory::decode(&ID, &BlockHandle { crc, ..footer.directory }, 512, &block) {
            for (key, ..) in numbered(30, 0, |number| number) {
                let _ = directory.find_index(&key, VersionBound::NEWEST);
                let _ = directory.find_filter(&key);
                let _ = directory.find_prefix_filters(&key[..2]);
            }
        }
    }
}
