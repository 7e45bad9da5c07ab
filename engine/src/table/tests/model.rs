//! Random tables against a sorted vector.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

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
