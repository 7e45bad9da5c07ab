//! Whole SSTs in memory: built, read as the shard does, and damaged.

mod damage;
mod model;
mod reader;
mod shapes;

use self::reader::{Reader, TableCursor};
use super::*;
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
