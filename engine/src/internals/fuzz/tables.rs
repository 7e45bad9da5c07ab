//! SSTs from the builder on: what was put in is found, in every view, and a damaged one is survived.

use arbitrary::{Arbitrary, Unstructured};

use super::blocks::walk_sst;
use super::damage::Damage;
use super::{ID, PAGE_BYTES};
use crate::table::{
    BlockCursor, BlockHandle, BlockType, Directory, IndexCursor, Lookup, TableBuilder, TableOptions, VersionBound,
    check_entries, data_get, decode_footer, filter_may_contain, index_find, key_hash, verify_block,
};
use crate::types::{Kind, ReadView, SeqNo, Trailer};

/// Entries of one SST, at most.
const ENTRIES_MAX: usize = 400;

type Entry = (Vec<u8>, Trailer, Vec<u8>);

/// An SST of described entries: each version of each key is found by its own view, views with holes see what the entries say, absent keys are
/// absent, and cursors meet all entries in both directions. Then the SST is damaged and walked.
pub fn sst_build(bytes: &[u8]) {
    let mut input = Unstructured::new(bytes);
    let Ok(damage) = Damage::arbitrary(&mut input) else { return };
    let Ok(options) = draw_options(&mut input) else { return };
    let Ok(views) = draw_views(&mut input) else { return };
    let entries = draw_entries(&mut input);
    if entries.is_empty() {
        return;
    }
    let mut pages = Vec::new();
    let mut builder = TableBuilder::new(ID, options);
    for (key, trailer, value) in &entries {
        builder.add(key, *trailer, value, &mut pages);
    }
    let summary = builder.finish(&mut pages);
    assert_eq!(pages.len(), summary.pages as usize * PAGE_BYTES);
    Table::open(&pages, summary.footer_crc).check(&entries, &views);
    damage.apply(&mut pages);
    pages.truncate(pages.len() / PAGE_BYTES * PAGE_BYTES);
    let _ = walk_sst(&mut pages);
}

fn draw_options(input: &mut Unstructured<'_>) -> arbitrary::Result<TableOptions> {
    Ok(TableOptions {
        page_bytes: PAGE_BYTES,
        filter_bits_per_key: u32::from(u8::arbitrary(input)? % 33),
        restart_interval: 1 + usize::from(u8::arbitrary(input)? % 20),
        created_ms: 0,
    })
}

fn draw_views(input: &mut Unstructured<'_>) -> arbitrary::Result<Vec<ReadView>> {
    (0..3)
        .map(|_| {
            let (upper, low, high): (u16, u16, u16) = input.arbitrary()?;
            let hole = (low < high).then_some((SeqNo(low.into()), SeqNo(high.into())));
            Ok(ReadView { upper: SeqNo(upper.into()), hole })
        })
        .collect()
}

/// Entries in order, without duplicates. A key begins as the one before it in the input does, and goes on with new bytes.
fn draw_entries(input: &mut Unstructured<'_>) -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::new();
    while !input.is_empty() && entries.len() < ENTRIES_MAX {
        let Ok(entry) = draw_entry(entries.last().map(|entry| &entry.0[..]), input) else { break };
        entries.push(entry);
    }
    entries.sort_by(|left, right| (&left.0, right.1.as_u64()).cmp(&(&right.0, left.1.as_u64())));
    entries.dedup_by_key(|(key, trailer, _)| (key.clone(), trailer.seq()));
    entries
}

fn draw_entry(last: Option<&[u8]>, input: &mut Unstructured<'_>) -> arbitrary::Result<Entry> {
    let (shared, fresh, seq, kind, value): (u8, u8, u16, u8, u8) = input.arbitrary()?;
    let last = last.unwrap_or(&[0, 1]);
    let mut key = last[..usize::from(shared).clamp(2, last.len())].to_vec();
    // Long keys now and then: a run of one byte.
    match fresh {
        0..248 => key.extend_from_slice(input.bytes(usize::from(fresh % 12).min(input.len()))?),
        _ => key.resize(key.len() + usize::from(fresh - 240) * 40, fresh),
    }
    let kind = [Kind::Put, Kind::Delete, Kind::PutExpiring][usize::from(kind % 3)];
    let value = match (kind, value) {
        (Kind::Delete, _) => Vec::new(),
        (_, 250..) => vec![value; usize::from(value - 249) * 300],
        _ => vec![value; 8 + usize::from(value)],
    };
    // Few sequence numbers, so that views and holes divide them.
    let seq = if seq & 1 == 0 { u64::from(seq % 64) } else { u64::from(seq) << (seq % 40) };
    Ok((key, Trailer::new(SeqNo(seq), kind), value))
}

/// An SST in memory, read as a shard does.
struct Table<'a> {
    pages: &'a [u8],
    directory: Directory,
}

impl<'a> Table<'a> {
    fn open(pages: &'a [u8], footer_crc: u32) -> Self {
        let last = pages.len() / PAGE_BYTES - 1;
        let footer = decode_footer(&ID, PAGE_BYTES, last as u32, Some(footer_crc), &pages[last * PAGE_BYTES..]);
        let handle = footer.expect("a footer that was just built").directory;
        let block = block(pages, handle);
        let directory = Directory::decode(&ID, &handle, PAGE_BYTES, block).expect("a directory that was just built");
        Table { pages, directory }
    }

    fn fetch(&self, ty: BlockType, handle: BlockHandle) -> &'a [u8] {
        let block = block(self.pages, handle);
        verify_block(&ID, ty, &handle, PAGE_BYTES, block).expect("a block that was just built");
        block
    }

    fn check(&self, entries: &[Entry], views: &[ReadView]) {
        let blocks = self.data_blocks();
        let mut found = Vec::new();
        for block in &blocks {
            let each = |key: &[u8], trailer, value: &[u8]| {
                found.push((key.to_vec(), trailer, value.to_vec()));
                Ok(())
            };
            check_entries(block, each).expect("a block that was just built");
        }
        assert!(found == entries, "the SST holds its entries");
        check_backwards(&blocks, entries);
        for (key, trailer, value) in entries {
            let own = ReadView { upper: trailer.seq(), hole: None };
            let found = self.get(key, &own, &blocks);
            assert!(found == Some((*trailer, &value[..])), "version {trailer:?} of {key:?}");
            for view in views {
                let first = entries.partition_point(|entry| entry.0 < *key);
                let versions = entries[first..].iter().take_while(|entry| entry.0 == *key);
                let expected =
                    versions.map(|entry| (entry.1, &entry.2[..])).find(|(trailer, _)| view.sees(trailer.seq()));
                assert!(self.get(key, view, &blocks) == expected, "{key:?} in {view:?}");
            }
            let absent = [key, &[0xff, 0][..]].concat();
            if entries.binary_search_by(|entry| entry.0.cmp(&absent)).is_err() {
                assert!(self.get(&absent, &ReadView::LATEST, &blocks).is_none(), "{absent:?} is not there");
            }
        }
    }

    fn data_blocks(&self) -> Vec<&'a [u8]> {
        let mut blocks = Vec::new();
        for partition in 0..self.directory.index_partitions() {
            let index = self.fetch(BlockType::Index, self.directory.index_handle(partition));
            let mut cursor = IndexCursor::new(index).expect("an index that was just built");
            cursor.seek_first().expect("an index that was just built");
            while cursor.valid() {
                blocks.push(self.fetch(BlockType::Data, cursor.handle().expect("a handle")));
                cursor.next().expect("an index that was just built");
            }
        }
        blocks
    }

    fn get(&self, key: &[u8], view: &ReadView, blocks: &[&'a [u8]]) -> Option<(Trailer, &'a [u8])> {
        if let Some(handle) = self.directory.find_filter(key)
            && !filter_may_contain(self.fetch(BlockType::Filter, handle), key_hash(key))
        {
            return None;
        }
        let bound = VersionBound::of(view);
        let index = self.fetch(BlockType::Index, self.directory.index_handle(self.directory.find_index(key, bound)?));
        let handle = index_find(index, key, bound).expect("an index that was just built");
        let first = self.fetch(BlockType::Data, handle.expect("the directory led here"));
        let from = blocks.iter().position(|block| std::ptr::eq(*block, first)).expect("the index leads to data blocks");
        for block in &blocks[from..] {
            match data_get(block, key, view).expect("a block that was just built") {
                Lookup::Found(trailer, range) => return Some((trailer, &block[range])),
                Lookup::Absent => return None,
                Lookup::NextBlock => assert!(view.hole.is_some(), "only a hole leads to the next block"),
            }
        }
        None
    }
}

fn check_backwards(blocks: &[&[u8]], entries: &[Entry]) {
    let mut expected = entries.iter().rev();
    for block in blocks.iter().rev() {
        let mut cursor = BlockCursor::new(*block).expect("a block that was just built");
        cursor.seek_last().expect("a block that was just built");
        while cursor.valid() {
            let (key, trailer, value) = expected.next().expect("no more entries than were put in");
            assert!((cursor.key(), cursor.trailer(), cursor.value()) == (&key[..], *trailer, &value[..]));
            cursor.prev().expect("a block that was just built");
        }
    }
    assert!(expected.next().is_none(), "all entries are met backwards");
}

fn block(pages: &[u8], handle: BlockHandle) -> &[u8] {
    &pages[handle.page as usize * PAGE_BYTES..][..handle.pages as usize * PAGE_BYTES]
}
