//! Tables of special shapes: one key with many versions, the largest entries, many prefixes, much data.

use super::*;

/// Blocks of one shape: what a cursor remembers of the first must not turn up in the second.
#[test]
fn a_cursor_takes_nothing_over_to_another_block() {
    let (first, _) = build(options(512), &numbered(8, 20, |_| 1));
    let (second, _) = build(options(512), &numbered(8, 20, |_| 2));
    let mut cursor = BlockCursor::new(&first[..512]).unwrap();
    cursor.seek_last().unwrap();
    for _ in 0..3 {
        cursor.prev().unwrap();
    }
    let (key, trailer) = (cursor.key().to_vec(), cursor.trailer());
    cursor.replace(&second[..512]).unwrap();
    assert!(!cursor.valid());
    cursor.seek(&key, VersionBound::NEWEST).unwrap();
    assert_eq!((cursor.key(), cursor.trailer().seq()), (&key[..], SeqNo(trailer.seq().0 + 1)));
    cursor.prev().unwrap();
    assert_eq!(cursor.trailer().seq(), SeqNo(2));
}

#[test]
#[cfg_attr(miri, ignore = "too many steps for Miri")]
fn versions_of_one_key_may_fill_partitions() {
    let entries: Vec<Entry> = (0..30_000_u64)
        .rev()
        .map(|seq| (b"hot".to_vec(), Trailer::new(SeqNo(seq), Kind::Put), seq.to_le_bytes().to_vec()))
        .collect();
    let (bytes, summary) = build(options(512), &entries);
    let reader = Reader::open(&bytes, 512, summary.footer_crc).unwrap();
    assert!(reader.directory.index_partitions() > 3);
    for upper in (0..30_000).step_by(7) {
        let view = ReadView { upper: SeqNo(upper), hole: None };
        let (trailer, value) = reader.get(b"hot", &view).unwrap().unwrap();
        assert_eq!((trailer.seq(), value), (SeqNo(upper), &upper.to_le_bytes()[..]));
    }
    // A hole that hides many blocks: the search passes them by.
    let view = ReadView { upper: SeqNo(29_000), hole: Some((SeqNo(5), SeqNo(29_500))) };
    assert_eq!(reader.get(b"hot", &view).unwrap().unwrap().0.seq(), SeqNo(5));
    let view = ReadView { upper: SeqNo(29_900), hole: Some((SeqNo(5), SeqNo(29_901))) };
    assert_eq!(reader.get(b"hot", &view).unwrap().unwrap().0.seq(), SeqNo(5));
    // The first versions seen are behind the hole, which begins within a block.
    let entries: Vec<Entry> = entries.into_iter().filter(|entry| (200..29_000).contains(&entry.1.seq().0)).collect();
    let (bytes, summary) = build(options(512), &entries);
    let reader = Reader::open(&bytes, 512, summary.footer_crc).unwrap();
    let view = ReadView { upper: SeqNo(29_900), hole: Some((SeqNo(250), SeqNo(29_800))) };
    assert_eq!(reader.get(b"hot", &view).unwrap().unwrap().0.seq(), SeqNo(250));
    let view = ReadView { upper: SeqNo(29_900), hole: Some((SeqNo(100), SeqNo(29_800))) };
    assert_eq!(reader.get(b"hot", &view).unwrap(), None);
}

#[test]
#[cfg_attr(miri, ignore = "too many steps for Miri")]
fn the_largest_keys_and_values_are_stored() {
    let key = |last: u8| [vec![1; KEY_BYTES_MAX - 1], vec![last]].concat();
    let put = |seq| Trailer::new(SeqNo(seq), Kind::Put);
    let entries = vec![
        (vec![0, 0], put(1), vec![5; VALUE_BYTES_MAX]),
        (key(1), put(9), Vec::new()),
        (key(1), put(8), vec![6; 70_000]),
        (key(2), put(7), vec![7; 3]),
        (key(3), put(7), vec![]),
    ];
    for page_bytes in [512, 4096, 65536] {
        let (bytes, summary) = build(options(page_bytes), &entries);
        let reader = Reader::open(&bytes, page_bytes, summary.footer_crc).unwrap();
        for (key, trailer, value) in &entries {
            let view = ReadView { upper: trailer.seq(), hole: None };
            assert_eq!(reader.get(key, &view).unwrap(), Some((*trailer, value.as_slice())));
        }
        assert!(reader.check().unwrap() == entries);
    }
}

#[test]
fn the_filter_answers_for_prefixes_and_excludes_most_absent_keys() {
    let mut bytes = Vec::new();
    let mut builder = TableBuilder::new(ID, options(512));
    let key = |user: u32, item: u32| [&[0, 3], &user.to_be_bytes()[..], &item.to_be_bytes()[..]].concat();
    for user in (0..300).step_by(3) {
        for item in 0..if user == 150 { 2000 } else { 5 } {
            builder.add_with_prefix(&key(user, item), 6, Trailer::new(SeqNo(1), Kind::Put), b"v", &mut bytes);
        }
    }
    let summary = builder.finish(&mut bytes);
    let reader = Reader::open(&bytes, 512, summary.footer_crc).unwrap();
    assert!(reader.directory.properties().prefix_filter && reader.directory.filter_partitions() > 5);
    let may_have = |prefix: &[u8]| {
        let mut partitions = reader.directory.find_prefix_filters(prefix).unwrap();
        partitions.any(|partition| {
            let filter = reader.fetch(BlockType::Filter, reader.directory.filter_handle(partition)).unwrap();
            filter_may_contain(filter, key_hash(prefix))
        })
    };
    assert!((0..300).step_by(3).all(|user| may_have(&key(user, 0)[..6])));
    assert!((0..300).filter(|user| user % 3 > 0 && may_have(&key(*user, 0)[..6])).count() < 10);
    // Every partition within a long prefix answers for it, so that a scan may ask those of its bounds only.
    let partitions = reader.directory.find_prefix_filters(&key(150, 0)[..6]).unwrap();
    assert!(partitions.len() > 3);
    for partition in partitions.start + 1..partitions.end - 1 {
        let filter = reader.fetch(BlockType::Filter, reader.directory.filter_handle(partition)).unwrap();
        assert!(filter_may_contain(filter, key_hash(&key(150, 0)[..6])));
    }
    let partition = reader.directory.find_prefix_filters(&key(30, 0)[..6]).unwrap();
    assert!(partition.len() <= 2);

    let asked = if cfg!(miri) { 200 } else { 2000 };
    let absent = (0..asked).filter(|item| {
        let key = key(150, 3000 + item);
        let handle = reader.directory.find_filter(&key).unwrap();
        filter_may_contain(reader.fetch(BlockType::Filter, handle).unwrap(), key_hash(&key))
    });
    assert!(absent.count() < asked as usize * 3 / 100);
    assert_eq!(reader.directory.find_filter(&[255]), None);
    assert_eq!(reader.directory.find_index(&[255], VersionBound::NEWEST), None);

    let (bytes, summary) = build(TableOptions { filter_bits_per_key: 0, ..options(512) }, &numbered(9, 1, |_| 0));
    let reader = Reader::open(&bytes, 512, summary.footer_crc).unwrap();
    assert_eq!((reader.directory.filter_partitions(), reader.directory.find_prefix_filters(&[0])), (0, None));
}

#[test]
#[cfg_attr(miri, ignore = "too many steps for Miri")]
fn space_is_little_more_than_what_was_put_in() {
    // 10-byte keys, scattered, and 100-byte values, as flushed and as compacted to the bottom.
    let flushed = |number: u64| 1 << 30 | number.wrapping_mul(0x9e37_79b9) & 0xfffff;
    let compacted = |_| 0;
    for (seq, limit) in [(flushed as fn(u64) -> u64, 1.082), (compacted, 1.055)] {
        let mut entries = numbered(100_000, 100, seq);
        for (number, entry) in entries.iter_mut().enumerate() {
            entry.0[2..].copy_from_slice(&(number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
        }
        entries.sort_by(|a, b| order(a).cmp(&order(b)));
        let (bytes, summary) = build(options(4096), &entries);
        let ratio = bytes.len() as f64 / summary.properties.raw_bytes as f64;
        let reader = Reader::open(&bytes, 4096, summary.footer_crc).unwrap();
        println!(
            "{ratio:.4} bytes a byte; {} data, {} filter, {} index partitions; directory {} bytes in memory",
            summary.properties.data_blocks,
            reader.directory.filter_partitions(),
            reader.directory.index_partitions(),
            reader.directory.heap_bytes()
        );
        assert!(ratio < limit, "{ratio}");
    }
}
