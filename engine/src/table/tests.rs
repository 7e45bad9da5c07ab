//! Whole SSTs against a sorted vector, and damage.
//!
//! One file, though long: all tests share the tables that they build.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::error::Result;
use crate::types::{Kind, ReadView, SeqNo, SstId, Trailer};

const ID: TableId = TableId { volume: *b"a volume's uuid.", sst: SstId(42) };

type Entry = (Vec<u8>, Trailer, Vec<u8>);

/// Key, and then trailer inverted: sorts as entries do.
fn order(entry: &Entry) -> (&[u8], u64) {
    (&entry.0, !entry.1.as_u64())
}

fn options(page_bytes: usize) -> TableOptions {
    TableOptions { page_bytes, created_ms: 77, ..TableOptions::default() }
}

fn build(options: TableOptions, entries: &[Entry]) -> (Vec<u8>, TableSummary) {
    let mut bytes = Vec::new();
    let mut builder = TableBuilder::new(ID, options.clone());
    for (key, trailer, value) in entries {
        builder.add(key, *trailer, value, &mut bytes);
    }
    let estimated = builder.estimated_bytes();
    let summary = builder.finish(&mut bytes);
    assert_eq!(bytes.len(), summary.pages as usize * options.page_bytes);
    let slack = 4 * options.page_bytes as u64 + bytes.len() as u64 / 8 + 2000;
    assert!((bytes.len() as u64).abs_diff(estimated) <= slack, "{} bytes, estimated {estimated}", bytes.len());
    (bytes, summary)
}

/// What the shard does, on a table in memory: fetches each block by its handle and verifies it.
struct Reader<'a> {
    bytes: &'a [u8],
    page_bytes: usize,
    directory: Directory,
}

impl<'a> Reader<'a> {
    fn open(bytes: &'a [u8], page_bytes: usize, footer_crc: u32) -> Result<Self> {
        let last = bytes.len() / page_bytes - 1;
        let footer = decode_footer(&ID, page_bytes, last as u32, Some(footer_crc), &bytes[last * page_bytes..])?;
        let handle = footer.directory;
        let start = handle.page as usize * page_bytes;
        let block = &bytes[start..start + handle.pages as usize * page_bytes];
        Ok(Reader { bytes, page_bytes, directory: Directory::decode(&ID, &handle, page_bytes, block)? })
    }

    fn fetch(&self, ty: BlockType, handle: BlockHandle) -> Result<&'a [u8]> {
        let start = handle.page as usize * self.page_bytes;
        let block = &self.bytes[start..start + handle.pages as usize * self.page_bytes];
        verify_block(&ID, ty, &handle, self.page_bytes, block)?;
        Ok(block)
    }

    fn index(&self, partition: usize) -> Result<&'a [u8]> {
        self.fetch(BlockType::Index, self.directory.index_handle(partition))
    }

    fn get(&self, key: &[u8], view: &ReadView) -> Result<Option<(Trailer, &'a [u8])>> {
        if let Some(handle) = self.directory.find_filter(key)
            && !filter_may_contain(self.fetch(BlockType::Filter, handle)?, key_hash(key))
        {
            return Ok(None);
        }
        let bound = VersionBound::of(view);
        let Some(partition) = self.directory.find_index(key, bound) else { return Ok(None) };
        let handle = index_find(self.index(partition)?, key, bound)?.expect("the directory led here");
        let block = self.fetch(BlockType::Data, handle)?;
        match data_get(block, key, view)? {
            Lookup::Found(trailer, range) => Ok(Some((trailer, &block[range]))),
            Lookup::Absent => Ok(None),
            Lookup::NextBlock => {
                assert!(view.hole.is_some(), "only a hole hides versions that the index did not pass by");
                let mut cursor = TableCursor::new(self);
                cursor.seek_block(key, bound)?;
                loop {
                    cursor.next_block()?;
                    let Some(data) = &cursor.data else { return Ok(None) };
                    match data_get(data.block(), key, view)? {
                        Lookup::Found(trailer, range) => return Ok(Some((trailer, &data.block()[range]))),
                        Lookup::Absent => return Ok(None),
                        Lookup::NextBlock => {}
                    }
                }
            }
        }
    }

    /// Every block, its checksum and its entries; what `verify` does.
    fn check(&self) -> Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for partition in 0..self.directory.filter_partitions() {
            self.fetch(BlockType::Filter, self.directory.filter_handle(partition))?;
        }
        for partition in 0..self.directory.index_partitions() {
            let index = self.index(partition)?;
            check_entries(index, |_, _, _| Ok(()))?;
            let mut cursor = IndexCursor::new(index)?;
            cursor.seek_first()?;
            while cursor.valid() {
                check_entries(self.fetch(BlockType::Data, cursor.handle()?)?, |key, trailer, value| {
                    assert!(key <= cursor.separator());
                    entries.push((key.to_vec(), trailer, value.to_vec()));
                    Ok(())
                })?;
                cursor.next()?;
            }
        }
        Ok(entries)
    }
}

/// A cursor over a whole table, as the shard builds it from the parts.
struct TableCursor<'a, 'b> {
    reader: &'b Reader<'a>,
    partition: usize,
    index: Option<IndexCursor<&'a [u8]>>,
    data: Option<BlockCursor<&'a [u8]>>,
}

impl<'a, 'b> TableCursor<'a, 'b> {
    fn new(reader: &'b Reader<'a>) -> Self {
        TableCursor { reader, partition: 0, index: None, data: None }
    }

    fn entry(&self) -> Option<Entry> {
        let data = self.data.as_ref().filter(|data| data.valid())?;
        assert_eq!(&data.block()[data.value_range()], data.value());
        Some((data.key().to_vec(), data.trailer(), data.value().to_vec()))
    }

    fn open_block(&mut self) -> Result<()> {
        let handle = self.index.as_ref().unwrap().handle()?;
        let block = self.reader.fetch(BlockType::Data, handle)?;
        match &mut self.data {
            Some(data) => data.replace(block),
            None => BlockCursor::new(block).map(|data| self.data = Some(data)),
        }
    }

    fn seek_block(&mut self, key: &[u8], bound: VersionBound) -> Result<()> {
        self.data = None;
        let Some(partition) = self.reader.directory.find_index(key, bound) else { return Ok(()) };
        self.partition = partition;
        let mut index = IndexCursor::new(self.reader.index(partition)?)?;
        index.seek(key, bound)?;
        assert!(index.valid());
        self.index = Some(index);
        self.open_block()
    }

    fn next_block(&mut self) -> Result<()> {
        let index = self.index.as_mut().unwrap();
        index.next()?;
        if !index.valid() {
            self.partition += 1;
            if self.partition == self.reader.directory.index_partitions() {
                self.data = None;
                return Ok(());
            }
            *index = IndexCursor::new(self.reader.index(self.partition)?)?;
            index.seek_first()?;
        }
        self.open_block()
    }

    fn prev_block(&mut self) -> Result<()> {
        let index = self.index.as_mut().unwrap();
        index.prev()?;
        if !index.valid() {
            if self.partition == 0 {
                self.data = None;
                return Ok(());
            }
            self.partition -= 1;
            *index = IndexCursor::new(self.reader.index(self.partition)?)?;
            index.seek_last()?;
        }
        self.open_block()
    }

    fn seek(&mut self, key: &[u8], bound: VersionBound) -> Result<()> {
        self.seek_block(key, bound)?;
        let Some(data) = &mut self.data else { return Ok(()) };
        data.seek(key, bound)?;
        if !data.valid() { self.first_of_next_block() } else { Ok(()) }
    }

    fn first_of_next_block(&mut self) -> Result<()> {
        self.next_block()?;
        self.data.as_mut().map_or(Ok(()), |data| data.seek_first())
    }

    fn seek_for_prev(&mut self, key: &[u8], bound: VersionBound) -> Result<()> {
        self.seek_block(key, bound)?;
        match &mut self.data {
            Some(data) => data.seek_for_prev(key, bound)?,
            None => return self.seek_last(),
        }
        if self.entry().is_none() { self.last_of_prev_block() } else { Ok(()) }
    }

    fn seek_last(&mut self) -> Result<()> {
        self.partition = self.reader.directory.index_partitions() - 1;
        let mut index = IndexCursor::new(self.reader.index(self.partition)?)?;
        index.seek_last()?;
        self.index = Some(index);
        self.open_block()?;
        self.data.as_mut().unwrap().seek_last()
    }

    fn last_of_prev_block(&mut self) -> Result<()> {
        self.prev_block()?;
        self.data.as_mut().map_or(Ok(()), |data| data.seek_last())
    }

    fn next(&mut self) -> Result<()> {
        self.data.as_mut().unwrap().next()?;
        if self.entry().is_none() { self.first_of_next_block() } else { Ok(()) }
    }

    fn prev(&mut self) -> Result<()> {
        self.data.as_mut().unwrap().prev()?;
        if self.entry().is_none() { self.last_of_prev_block() } else { Ok(()) }
    }
}

fn kind() -> impl Strategy<Value = Kind> + Clone {
    prop_oneof![3 => Just(Kind::Put), 1 => Just(Kind::Delete), 1 => Just(Kind::PutExpiring)]
}

fn key() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        6 => prop::collection::vec(prop_oneof![0..4u8, 254..=255u8], 2..7),
        3 => (0..2000u32).prop_map(|number| [b"k:".as_slice(), format!("{number:06}").as_bytes()].concat()),
        // Long ones, with a long common part: separators that do not fit a page of 512 bytes.
        1 => (0..3u8, 1..900usize).prop_map(|(last, length)| [vec![9; length], vec![last]].concat()),
    ]
}

fn value_bytes() -> impl Strategy<Value = usize> + Clone {
    prop_oneof![2 => Just(0usize), 12 => 1..120usize, 2 => 120..600usize, 1 => 600..if cfg!(miri) { 700 } else { 9000usize }]
}

/// Keys with few or many versions.
fn entries() -> impl Strategy<Value = Vec<Entry>> {
    let version = (
        prop_oneof![8 => 0..300u64, 1 => Just(SeqNo::MAX.0), 4 => 1 << 40..(1 << 40) + 99u64],
        (kind(), value_bytes()),
    );
    let versions =
        prop_oneof![8 => prop::collection::vec(version.clone(), 1..3), 1 => prop::collection::vec(version, 3..60)];
    prop::collection::vec((key(), versions), 1..if cfg!(miri) { 12 } else { 60 }).prop_map(|keys| {
        let keys: BTreeMap<_, Vec<_>> = keys.into_iter().collect();
        let mut entries = Vec::new();
        for (key, versions) in keys {
            let versions: BTreeMap<u64, (Kind, usize)> = versions.into_iter().collect();
            for (seq, (kind, length)) in versions.into_iter().rev() {
                let length = if kind == Kind::PutExpiring { length + 8 } else { length };
                let value = (0..length).map(|at| (at as u64 * 7 + seq) as u8).collect();
                entries.push((key.clone(), Trailer::new(SeqNo(seq), kind), value));
            }
        }
        entries
    })
}

fn view() -> impl Strategy<Value = ReadView> {
    let seq = prop_oneof![4 => 0..300u64, 1 => Just(SeqNo::MAX.0), 1 => (1 << 40)..(1 << 40) + 99u64];
    (seq.clone(), prop::option::of((seq.clone(), seq))).prop_map(|(upper, hole)| ReadView {
        upper: SeqNo(upper),
        hole: hole.map(|(a, b)| (SeqNo(a.min(b)), SeqNo(a.max(b)))),
    })
}

fn page_bytes() -> impl Strategy<Value = usize> {
    prop_oneof![4 => Just(512usize), 2 => Just(1024), 2 => Just(4096), 1 => Just(if cfg!(miri) { 512 } else { 65536 })]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 1 } else { 192 }))]

    #[test]
    fn a_table_answers_as_a_sorted_vector_does(
        entries in entries(),
        page_bytes in page_bytes(),
        restart_interval in 1..20usize,
        bits in prop_oneof![Just(0u32), Just(10), Just(32)],
        probes in prop::collection::vec((key(), view()), 1..if cfg!(miri) { 4 } else { 30 }),
        picks in prop::collection::vec((any::<prop::sample::Index>(), view()), 1..if cfg!(miri) { 6 } else { 60 }),
    ) {
        let options = TableOptions { restart_interval, filter_bits_per_key: bits, ..options(page_bytes) };
        let (bytes, summary) = build(options, &entries);
        let reader = Reader::open(&bytes, page_bytes, summary.footer_crc).unwrap();
        prop_assert_eq!(reader.directory.properties(), &summary.properties);
        prop_assert_eq!(&reader.check().unwrap(), &entries);

        let picked = picks.iter().map(|(pick, view)| (pick.get(&entries).0.clone(), *view));
        let mut cursor = TableCursor::new(&reader);
        for (key, view) in probes.into_iter().chain(picked) {
            let expected = entries.iter().find(|entry| entry.0 == key && view.sees(entry.1.seq()));
            let found = reader.get(&key, &view).unwrap();
            prop_assert_eq!(found, expected.map(|entry| (entry.1, entry.2.as_slice())), "{:?} {:?}", key, view);

            let trailer = Trailer::new(view.upper, Kind::Put);
            let target = (key.clone(), trailer, Vec::new());
            let at = entries.partition_point(|entry| order(entry) < order(&target));
            cursor.seek(&key, trailer.into()).unwrap();
            prop_assert_eq!(cursor.entry(), entries.get(at).cloned());
            if at > 0 && at < entries.len() {
                cursor.prev().unwrap();
                prop_assert_eq!(cursor.entry(), Some(&entries[at - 1]).cloned());
            }
            let behind = entries.partition_point(|entry| order(entry) <= order(&target));
            cursor.seek_for_prev(&key, trailer.into()).unwrap();
            prop_assert_eq!(cursor.entry(), behind.checked_sub(1).map(|at| &entries[at]).cloned());
            if behind > 0 && behind < entries.len() {
                cursor.next().unwrap();
                prop_assert_eq!(cursor.entry(), Some(&entries[behind]).cloned());
            }
            cursor.seek(&key, VersionBound::OLDEST).unwrap();
            let older = entries.partition_point(|entry| entry.0 <= key && (entry.0 != key || entry.1.as_u64() > 0));
            prop_assert_eq!(cursor.entry(), entries.get(older).cloned());
        }
        // Walks over the whole, both ways.
        cursor.seek(&[], VersionBound::NEWEST).unwrap();
        for entry in &entries {
            prop_assert_eq!(cursor.entry(), Some(entry).cloned());
            cursor.next().unwrap();
        }
        prop_assert!(cursor.entry().is_none());
        cursor.seek_last().unwrap();
        for entry in entries.iter().rev() {
            prop_assert_eq!(cursor.entry(), Some(entry).cloned());
            cursor.prev().unwrap();
        }
        prop_assert!(cursor.entry().is_none());
    }

    #[test]
    fn properties_are_those_of_the_entries(entries in entries()) {
        let (_, summary) = build(options(512), &entries);
        let properties = summary.properties;
        let expiries: Vec<Option<u64>> = entries
            .iter()
            .map(|(_, trailer, value)| {
                (trailer.kind() == Kind::PutExpiring).then(|| u64::from_le_bytes(value[..8].try_into().unwrap()))
            })
            .collect();
        prop_assert_eq!(properties.entries, entries.len() as u64);
        let tombstones = entries.iter().filter(|entry| entry.1.kind() == Kind::Delete).count();
        prop_assert_eq!(properties.tombstones, tombstones as u64);
        prop_assert_eq!(properties.min_seq, entries.iter().map(|entry| entry.1.seq()).min().unwrap());
        prop_assert_eq!(properties.max_seq, entries.iter().map(|entry| entry.1.seq()).max().unwrap());
        prop_assert_eq!(&*properties.smallest, &*entries[0].0);
        prop_assert_eq!(&*properties.largest, &*entries.last().unwrap().0);
        let raw_bytes: usize = entries.iter().map(|entry| entry.0.len() + entry.2.len()).sum();
        prop_assert_eq!(properties.raw_bytes, raw_bytes as u64);
        prop_assert_eq!(properties.min_expiry_ms, expiries.iter().flatten().min().copied().unwrap_or(u64::MAX));
        let max_expiry = expiries.iter().map(|expiry| expiry.unwrap_or(u64::MAX)).max();
        prop_assert_eq!(Some(properties.max_expiry_ms), max_expiry);
        prop_assert_eq!(properties.created_ms, 77);
        prop_assert!(!properties.prefix_filter);
    }
}

/// `count` keys: group, then a number; values of `value_bytes`.
fn numbered(count: u64, value_bytes: usize, seq: impl Fn(u64) -> u64) -> Vec<Entry> {
    (0..count)
        .map(|number| {
            let key = [&[0, (number * 16 / count) as u8], &number.wrapping_mul(3).to_be_bytes()[..]].concat();
            let value = (0..value_bytes).map(|at| (number >> (at % 8)) as u8).collect();
            (key, Trailer::new(SeqNo(seq(number)), Kind::Put), value)
        })
        .collect()
}

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
        let crc = super::block::seal(&ID, footer.directory.page, &mut block);
        if let Ok(directory) = Directory::decode(&ID, &BlockHandle { crc, ..footer.directory }, 512, &block) {
            for (key, ..) in numbered(30, 0, |number| number) {
                let _ = directory.find_index(&key, VersionBound::NEWEST);
                let _ = directory.find_filter(&key);
                let _ = directory.find_prefix_filters(&key[..2]);
            }
        }
    }
}

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

#[test]
#[should_panic(expected = "out of order")]
fn a_smaller_key_is_refused() {
    build(options(512), &[numbered(2, 1, |_| 5)[1].clone(), numbered(2, 1, |_| 5)[0].clone()]);
}

#[test]
#[should_panic(expected = "out of order")]
fn a_newer_version_behind_an_older_is_refused() {
    build(options(512), &[numbered(1, 1, |_| 5)[0].clone(), numbered(1, 1, |_| 6)[0].clone()]);
}

/// Version 1 of the format. If this fails, files in the field cannot be read any more: the format needs another
/// version.
#[test]
fn the_bytes_of_version_1_stay_as_they_are() {
    let (bytes, summary) = build(options(512), &numbered(500, 40, |number| number % 7 * 1000));
    assert_eq!((summary.pages, summary.footer_crc, crc32c::crc32c(&bytes)), (56, 2920796262, 310683981));
}
