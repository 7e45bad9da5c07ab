//! The memtable against a `BTreeMap`, with cursors in between.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::types::Kind;

type Model = BTreeMap<(KeyspaceId, Vec<u8>, Reverse<Trailer>), Vec<u8>>;

const KEEP_ALL: SeqNo = SeqNo::MAX;

fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Keys of several shapes: shared prefixes longer than a head and longer than a node's prefix, zero bytes at the end,
/// one key a prefix of another.
fn key(state: &mut u64, range: u64) -> Vec<u8> {
    let n = random(state) % range;
    let group = (n % 7) as u16;
    let mut key = group.to_be_bytes().to_vec();
    match n % 5 {
        0 => key.extend(n.to_be_bytes()),
        1 => key.extend(vec![0; (n % 40) as usize]),
        2 => key.extend([&[b'u'; 70][..(n % 70) as usize], &n.to_be_bytes()].concat()),
        3 => key.extend(format!("user-{:04}/item-{:04}", n % 13, n).bytes()),
        _ => key.extend(random(&mut { n }).to_be_bytes()),
    }
    key
}

fn kind(n: u64) -> Kind {
    Kind::from_u8((n % 3) as u8).unwrap()
}

fn collect(cursor: &mut MemCursor, mut step: impl FnMut(&mut MemCursor)) -> Vec<(Vec<u8>, Trailer, Vec<u8>)> {
    let mut found = Vec::new();
    while cursor.valid() {
        found.push((cursor.key().to_vec(), cursor.trailer(), cursor.value().to_vec()));
        assert_eq!(cursor.value(), &*cursor.value_slice());
        step(cursor);
    }
    found
}

fn of_keyspace(model: &Model, keyspace: KeyspaceId) -> Vec<(Vec<u8>, Trailer, Vec<u8>)> {
    let entries = model.iter().filter(|((id, ..), _)| *id == keyspace);
    entries.map(|((_, key, Reverse(trailer)), value)| (key.clone(), *trailer, value.clone())).collect()
}

fn check_order_and_seeks(table: &Rc<Memtable>, model: &Model, keyspace: KeyspaceId, state: &mut u64, range: u64) {
    let mut all = of_keyspace(model, keyspace);
    let mut cursor = table.cursor(keyspace);
    cursor.seek_first();
    assert_eq!(collect(&mut cursor, MemCursor::next), all);
    for _ in 0..if cfg!(miri) { 8 } else { 50 } {
        let (key, trailer) = (key(state, range), Trailer::new(SeqNo(random(state) % 4000), Kind::Put));
        let at = all.partition_point(|(k, t, _)| (k, Reverse(t)) < (&key, Reverse(&trailer)));
        cursor.seek(&key, trailer);
        let found = cursor.valid().then(|| (cursor.key().to_vec(), cursor.trailer(), cursor.value().to_vec()));
        assert_eq!(found.as_ref(), all.get(at));
        cursor.seek_key(&key);
        let first = all.iter().find(|(k, ..)| *k >= key).map(|(k, t, _)| (&k[..], *t));
        assert_eq!(cursor.valid().then(|| (cursor.key(), cursor.trailer())), first);
        let last = all.iter().rfind(|(k, t, _)| (k, Reverse(t)) <= (&key, Reverse(&trailer)));
        cursor.seek_for_prev(&key, trailer);
        let found = cursor.valid().then(|| (cursor.key().to_vec(), cursor.trailer(), cursor.value().to_vec()));
        assert_eq!(found.as_ref(), last);
    }
    cursor.seek_last();
    all.reverse();
    assert_eq!(collect(&mut cursor, MemCursor::prev), all);
}

fn expected<'a>(model: &'a Model, keyspace: KeyspaceId, key: &[u8], view: &ReadView) -> Option<(Trailer, &'a [u8])> {
    let newest = (keyspace, key.to_vec(), Reverse(Trailer::new(SeqNo::MAX, Kind::PutExpiring)));
    let mut versions = model.range(newest..).take_while(|((id, k, _), _)| (*id, &k[..]) == (keyspace, key));
    versions.find_map(|((.., Reverse(trailer)), value)| view.sees(trailer.seq()).then_some((*trailer, &value[..])))
}

fn check_get(table: &Memtable, model: &Model, keyspace: KeyspaceId, key: &[u8], view: &ReadView) {
    let found = table.get(keyspace, key, view);
    let found = found.as_ref().map(|entry| (entry.trailer, &*entry.value));
    assert_eq!(found, expected(model, keyspace, key, view), "{key:?} {view:?}");
}

/// Random sequence numbers (so also stragglers), all versions kept; cursors step while writing goes on.
fn against_the_model(seed: u64, writes: u64, range: u64) {
    let mut state = seed;
    let (table, mut model) = (Rc::new(Memtable::new()), Model::new());
    for i in 0..writes {
        let keyspace = KeyspaceId((random(&mut state) % 2) as u32 * 5);
        let key = key(&mut state, range);
        let trailer = Trailer::new(SeqNo(random(&mut state) % 4000), kind(i));
        let value = vec![i as u8; (random(&mut state) % 40) as usize];
        let (head, tail) = value.split_at(value.len() / 3);
        table.insert(keyspace, &key, trailer, [head, tail], KEEP_ALL);
        model.insert((keyspace, key.clone(), Reverse(trailer)), value);
        let upper = SeqNo(random(&mut state) % 4000);
        let hole = (i % 2 == 0).then_some((SeqNo(upper.0 / 3), SeqNo(upper.0 / 2)));
        check_get(&table, &model, keyspace, &key, &ReadView { upper, hole });
        check_get(&table, &model, keyspace, &key, &ReadView::LATEST);
        check_get(&table, &model, KeyspaceId(0), &self::key(&mut state, range), &ReadView { upper, hole });
    }
    for id in [0, 5, 3] {
        check_order_and_seeks(&table, &model, KeyspaceId(id), &mut state, range);
    }
    assert_eq!(table.entries(), model.len());
    assert_eq!(table.keyspaces(), [KeyspaceId(0), KeyspaceId(5)]);
    let seqs = || model.keys().map(|(.., Reverse(trailer))| trailer.seq());
    assert_eq!((table.seq_min(), table.seq_max()), (seqs().min(), seqs().max()));
}

#[test]
fn holds_what_a_sorted_map_holds() {
    let (writes, rounds) = if cfg!(miri) { (40, 1) } else { (3000, 12) };
    for seed in 0..rounds {
        against_the_model(seed, writes, [40, 400, 4000, 1 << 40][seed as usize % 4]);
    }
}

#[test]
fn a_cursor_meets_every_entry_once_while_others_are_inserted() {
    for seed in 0..if cfg!(miri) { 1 } else { 40 } {
        let mut state = seed;
        let (keyspace, range) = (KeyspaceId(1), [300, 3000][seed as usize % 2]);
        let table = Rc::new(Memtable::new());
        let mut before = Model::new();
        let insert = |state: &mut u64, model: &mut Model, seq: u64| {
            let (key, trailer) = (key(state, range), Trailer::new(SeqNo(seq), Kind::Put));
            table.insert(keyspace, &key, trailer, [&key, &seq.to_le_bytes()], KEEP_ALL);
            let value = [&key[..], &seq.to_le_bytes()].concat();
            model.insert((keyspace, key, Reverse(trailer)), value);
        };
        for seq in 0..if cfg!(miri) { 16 } else { 500 } {
            insert(&mut state, &mut before, seq);
        }
        let mut after = before.clone();
        let mut cursors = [table.cursor(keyspace), table.cursor(keyspace)];
        cursors[0].seek_first();
        cursors[1].seek_last();
        let mut seq = 10_000;
        for (i, cursor) in cursors.iter_mut().enumerate() {
            let found = collect(cursor, |cursor| {
                for _ in 0..random(&mut state) % 3 {
                    seq += 1;
                    insert(&mut state, &mut after, seq);
                }
                if i == 0 { cursor.next() } else { cursor.prev() }
            });
            let rank = |(key, trailer, _): &(Vec<u8>, Trailer, Vec<u8>)| (key.clone(), Reverse(*trailer));
            assert!(found.windows(2).all(|two| (rank(&two[0]) < rank(&two[1])) == (i == 0) && two[0] != two[1]));
            let all = of_keyspace(&after, keyspace);
            assert!(found.iter().all(|entry| all.binary_search_by_key(&rank(entry), rank).is_ok()));
            let met = found.iter().filter(|entry| entry.1.seq() < SeqNo(10_000)).count();
            assert_eq!(met, before.len());
        }
    }
}

#[test]
fn a_version_that_no_view_sees_gives_up_its_slot() {
    let table = Rc::new(Memtable::new());
    let insert = |seq, keep_above| {
        table.insert(KeyspaceId(1), b"key", Trailer::new(SeqNo(seq), Kind::Put), [b"", &[seq as u8]], SeqNo(keep_above))
    };
    let seqs = || {
        let mut cursor = table.cursor(KeyspaceId(1));
        cursor.seek_first();
        collect(&mut cursor, MemCursor::next).iter().map(|(_, trailer, _)| trailer.seq().0).collect::<Vec<_>>()
    };
    insert(5, 0);
    insert(6, 0);
    assert_eq!(seqs(), [6]);
    insert(9, 6);
    assert_eq!(seqs(), [9, 6], "a snapshot at 6 keeps that version");
    insert(8, 0);
    assert_eq!(seqs(), [9, 8, 6], "a straggler takes no place");
    insert(10, 8);
    assert_eq!(seqs(), [10, 8, 6]);
    insert(10, 10);
    assert_eq!(seqs(), [10, 8, 6], "the same entry again");
    assert_eq!(table.entries(), 3);
}

#[test]
fn replaced_versions_leave_one_entry_a_key_and_cursors_in_place() {
    let table = Rc::new(Memtable::new());
    let mut state = 1;
    let mut newest = BTreeMap::new();
    let mut cursor = table.cursor(KeyspaceId(1));
    for seq in 1..if cfg!(miri) { 100 } else { 20_000 } {
        let key = key(&mut state, 1000);
        table.insert(KeyspaceId(1), &key, Trailer::new(SeqNo(seq), Kind::Put), [&seq.to_le_bytes(), b""], SeqNo(0));
        newest.insert(key, seq);
        assert_eq!(table.entries(), newest.len());
        if seq % 5 == 0 && cursor.valid() {
            let before = cursor.key().to_vec();
            cursor.next();
            assert_eq!(cursor.valid().then(|| cursor.key()), newest.range(before..).nth(1).map(|(key, _)| &key[..]));
        } else if !cursor.valid() {
            cursor.seek_first();
        }
    }
    for (key, seq) in &newest {
        let entry = table.get(KeyspaceId(1), key, &ReadView::LATEST).unwrap();
        assert_eq!((entry.trailer.seq().0, &*entry.value), (*seq, &seq.to_le_bytes()[..]));
    }
}

#[test]
fn a_reader_at_a_snapshot_keeps_its_versions_while_newer_ones_come_and_go() {
    let mut state = 3;
    let (table, mut model) = (Memtable::new(), Model::new());
    let at = if cfg!(miri) { 20 } else { 2000 };
    let snapshot = ReadView { upper: SeqNo(at), hole: None };
    for seq in 1..if cfg!(miri) { 60 } else { 6000 } {
        let key = key(&mut state, 200);
        let trailer = Trailer::new(SeqNo(seq), kind(seq));
        let keep_above = if seq > at { SeqNo(at) } else { SeqNo(0) };
        table.insert(KeyspaceId(1), &key, trailer, [&seq.to_le_bytes(), b""], keep_above);
        model.insert((KeyspaceId(1), key, Reverse(trailer)), seq.to_le_bytes().to_vec());
        let key = self::key(&mut state, 200);
        check_get(&table, &model, KeyspaceId(1), &key, &ReadView::LATEST);
        if seq > at {
            check_get(&table, &model, KeyspaceId(1), &key, &snapshot);
        }
    }
}

#[test]
#[cfg_attr(miri, ignore = "too many steps for Miri")]
fn ascending_keys_leave_full_leaves() {
    let memory = |order: &dyn Fn(u64) -> u64| {
        let table = Memtable::new();
        for i in 0..20_000 {
            table.insert(
                KeyspaceId(1),
                &order(i).to_be_bytes(),
                Trailer::new(SeqNo(i), Kind::Put),
                [b"", b""],
                KEEP_ALL,
            );
        }
        table.memory_bytes()
    };
    assert!(memory(&|i| i) * 10 < memory(&|i| i.wrapping_mul(0x9e37_79b9_7f4a_7c15)) * 9);
}

#[test]
fn guards_outlive_the_memtable() {
    let table = Rc::new(Memtable::new());
    table.insert(
        KeyspaceId(1),
        b"key",
        Trailer::new(SeqNo(1), Kind::PutExpiring),
        [&7_u64.to_le_bytes(), b"value"],
        KEEP_ALL,
    );
    let entry = table.get(KeyspaceId(1), b"key", &ReadView::LATEST).unwrap();
    let mut cursor = table.cursor(KeyspaceId(1));
    drop(table);
    cursor.seek_first();
    assert_eq!(cursor.key(), b"key");
    drop(cursor);
    assert_eq!(&*entry.value.skip(8), b"value");
}

#[test]
fn an_empty_memtable_has_nothing() {
    let table = Rc::new(Memtable::new());
    assert!(table.is_empty() && table.entries() == 0 && table.keyspaces().is_empty());
    assert_eq!((table.seq_min(), table.seq_max(), table.memory_bytes()), (None, None, 0));
    assert!(table.get(KeyspaceId(1), b"", &ReadView::LATEST).is_none());
    let mut cursor = table.cursor(KeyspaceId(1));
    cursor.seek_last();
    assert!(!cursor.valid());
    table.insert(KeyspaceId(1), b"", Trailer::new(SeqNo(1), Kind::Delete), [b"", b""], KEEP_ALL);
    cursor.seek_last();
    assert_eq!(cursor.key(), b"");
    assert!(table.memory_bytes() < 8 << 10, "a first entry takes little");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 1 } else { 64 }, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_few_keys_come_out_in_order(keys in prop::collection::vec((prop::collection::vec(0_u8..2, 0..70), 0_u64..4), 0..if cfg!(miri) { 12 } else { 200 })) {
        let (table, mut model) = (Rc::new(Memtable::new()), Model::new());
        for (key, seq) in keys {
            let trailer = Trailer::new(SeqNo(seq), Kind::Put);
            table.insert(KeyspaceId(1), &key, trailer, [b"", b"x"], KEEP_ALL);
            model.insert((KeyspaceId(1), key, Reverse(trailer)), b"x".to_vec());
        }
        let mut cursor = table.cursor(KeyspaceId(1));
        cursor.seek_first();
        prop_assert_eq!(collect(&mut cursor, MemCursor::next), of_keyspace(&model, KeyspaceId(1)));
    }
}
