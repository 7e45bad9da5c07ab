//! The states against plain collections, through an open engine.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::Future;
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use tempfile::TempDir;

use super::*;
use crate::{Durability, Engine, Error, LocalShard, Options, Result, TimeDomain, Ttl};

/// An engine whose shards hold little, so that memtables fill and tables are read.
fn options(dir: &TempDir) -> Options {
    Options::at(dir.path()).shards(2).memory(16 << 20).durability(Durability::Checkpoint)
}

fn by_event_time(duration_ms: u64) -> Ttl {
    Ttl { duration_ms, time: TimeDomain::Event }
}

/// Runs an operator on the shard of a key.
fn run<K, T, F, Fut>(engine: &Engine, key: &K, operator: F) -> T
where
    K: KeyCodec,
    T: Send + 'static,
    F: FnOnce(LocalShard) -> Fut + Send + 'static,
    Fut: Future<Output = Result<T>> + 'static,
{
    engine.block_on(engine.on_shard(&partition_of(key), operator)).unwrap().unwrap()
}

#[test]
#[cfg_attr(miri, ignore = "Miri has no io_uring")]
fn value_is_what_was_set_last() {
    let dir = TempDir::new().unwrap();
    let descriptor = Descriptor::<ValueState<u32, String>>::new("values");
    let engine = Engine::open(options(&dir).state(&descriptor)).unwrap();
    let state = descriptor.bind(&engine).unwrap();
    for key in 0..100u32 {
        let state = state.clone();
        run(&engine, &key, move |shard| async move {
            assert_eq!(state.get(&shard, &key).await?, None);
            state.set(&shard, &key, &"first".to_string()).await?;
            state.update(&shard, &key, |value| value.map(|value| format!("{value}, then {key}"))).await?;
            assert_eq!(state.get(&shard, &key).await?, Some(format!("first, then {key}")));
            if key % 3 == 0 {
                state.clear(&shard, &key).await?;
                assert_eq!(state.get(&shard, &key).await?, None);
            }
            Ok(())
        });
    }
    let entries = engine
        .block_on(engine.on_each_shard(move |shard| {
            let state = state.clone();
            async move {
                let (mut scan, mut all) = (state.entries(&shard)?, Vec::new());
                while let Some(entry) = scan.next().await? {
                    all.push(entry);
                }
                Ok(all)
            }
        }))
        .unwrap()
        .into_iter()
        .collect::<Result<Vec<_>>>()
        .unwrap();
    assert!(entries.iter().all(|entries| !entries.is_empty()));
    let found: BTreeMap<u32, String> = entries.into_iter().flatten().collect();
    let expected = (0..100).filter(|key| key % 3 != 0).map(|key| (key, format!("first, then {key}"))).collect();
    assert_eq!(found, expected);
    engine.close_blocking().unwrap();
}

#[test]
#[cfg_attr(miri, ignore = "Miri has no io_uring")]
fn a_value_of_another_type_is_a_codec_error() {
    let dir = TempDir::new().unwrap();
    let (texts, numbers) =
        (Descriptor::<ValueState<u8, String>>::new("v"), Descriptor::<ValueState<u8, u64>>::new("v"));
    let engine = Engine::open(options(&dir).state(&texts)).unwrap();
    let (texts, numbers) = (texts.bind(&engine).unwrap(), numbers.bind(&engine).unwrap());
    let error = run(&engine, &1u8, move |shard| async move {
        texts.set(&shard, &1, &"text".to_string()).await?;
        Ok(numbers.get(&shard, &1).await.unwrap_err())
    });
    assert!(matches!(error, Error::Codec { .. }), "{error}");
    engine.close_blocking().unwrap();
}

#[test]
#[cfg_attr(miri, ignore = "Miri has no io_uring")]
fn binding_a_keyspace_of_another_kind_or_none_is_refused() {
    let dir = TempDir::new().unwrap();
    let engine = Engine::open(options(&dir).state(&Descriptor::<ValueState<u8, u8>>::new("v"))).unwrap();
    let error = Descriptor::<MapState<u8, u8, u8>>::new("v").bind(&engine).unwrap_err();
    assert!(matches!(error, Error::InvalidArgument(_)), "{error}");
    let error = Descriptor::<Timers<u8>>::new("absent").bind(&engine).unwrap_err();
    assert!(matches!(error, Error::NotFound(_)), "{error}");
    engine.close_blocking().unwrap();
}

#[derive(Clone, Default)]
struct CountAndSum;

impl Aggregate for CountAndSum {
    type In = i64;
    type Acc = (u64, i64);
    type Out = (u64, i64);

    fn empty(&self) -> (u64, i64) {
        (0, 0)
    }

    fn add(&self, (count, sum): &mut (u64, i64), input: i64) {
        *count += 1;
        *sum += input;
    }

    fn result(&self, acc: (u64, i64)) -> (u64, i64) {
        acc
    }
}

#[test]
#[cfg_attr(miri, ignore = "Miri has no io_uring")]
fn reducing_and_aggregating_fold_what_is_added() {
    let dir = TempDir::new().unwrap();
    let highest = Descriptor::<ReducingState<u8, i64, fn(i64, i64) -> i64>>::with_function("highest", i64::max);
    let totals = Descriptor::<AggregatingState<u8, CountAndSum>>::new("totals");
    let engine = Engine::open(options(&dir).state(&highest).state(&totals)).unwrap();
    let (highest, totals) = (highest.bind(&engine).unwrap(), totals.bind(&engine).unwrap());
    run(&engine, &1u8, move |shard| async move {
        assert_eq!(highest.get(&shard, &1).await?, None);
        assert_eq!(totals.take(&shard, &1).await?, None);
        for value in [3, 9, -4] {
            highest.add(&shard, &1, value).await?;
            totals.add(&shard, &1, value).await?;
        }
        assert_eq!(highest.get(&shard, &1).await?, Some(9));
        assert_eq!(totals.get(&shard, &1).await?, Some((3, 8)));
        assert_eq!(totals.take(&shard, &1).await?, Some((3, 8)));
        assert_eq!(totals.get(&shard, &1).await?, None);
        highest.clear(&shard, &1).await?;
        assert_eq!(highest.get(&shard, &1).await?, None);
        Ok(())
    });
    engine.close_blocking().unwrap();
}

#[derive(Clone, Debug)]
enum MapStep {
    Put(u8, i16, u32),
    Remove(u8, i16),
    Clear(u8),
    Check(u8),
}

#[test]
#[cfg_attr(miri, ignore = "Miri has no io_uring")]
fn maps_equal_the_model() {
    let dir = TempDir::new().unwrap();
    let descriptor = Descriptor::<MapState<u8, i16, u32>>::new("maps");
    let engine = Engine::open(options(&dir).state(&descriptor)).unwrap();
    let state = descriptor.bind(&engine).unwrap();
    let model: RefCell<BTreeMap<u8, BTreeMap<i16, u32>>> = RefCell::default();
    let step = prop_oneof![
        8 => (0..4u8, -30..30i16, any::<u32>()).prop_map(|(key, map_key, value)| MapStep::Put(key, map_key, value)),
        3 => (0..4u8, -30..30i16).prop_map(|(key, map_key)| MapStep::Remove(key, map_key)),
        1 => (0..4u8).prop_map(MapStep::Clear),
        3 => (0..4u8).prop_map(MapStep::Check),
    ];
    let steps = prop::collection::vec(step, 1..60);
    let check = |key: u8| {
        let state = state.clone();
        let expected: Vec<(i16, u32)> = model.borrow().get(&key).into_iter().flatten().map(|(k, v)| (*k, *v)).collect();
        run(&engine, &key, move |shard| async move {
            assert_eq!(state.is_empty(&shard, &key).await?, expected.is_empty());
            for (map_key, value) in &expected {
                assert_eq!(state.get(&shard, &key, map_key).await?, Some(*value));
                assert!(state.contains(&shard, &key, map_key).await?);
            }
            assert_eq!(state.get(&shard, &key, &100).await?, None);
            let (mut iter, mut found) = (state.iter(&shard, &key)?, Vec::new());
            while let Some(entry) = iter.next().await? {
                found.push(entry);
            }
            assert_eq!(found, expected);
            Ok(())
        });
    };
    TestRunner::new(Config { failure_persistence: None, ..Config::with_cases(40) })
        .run(&steps, |steps| {
            for step in steps {
                let (state, mut model) = (state.clone(), model.borrow_mut());
                match step {
                    MapStep::Put(key, map_key, value) => {
                        model.entry(key).or_default().insert(map_key, value);
                        run(&engine, &key, move |shard| async move { state.put(&shard, &key, &map_key, &value).await });
                    }
                    MapStep::Remove(key, map_key) => {
                        model.entry(key).or_default().remove(&map_key);
                        run(&engine, &key, move |shard| async move { state.remove(&shard, &key, &map_key).await });
                    }
                    MapStep::Clear(key) => {
                        model.remove(&key);
                        run(&engine, &key, move |shard| async move { state.clear(&shard, &key).await });
                    }
                    MapStep::Check(key) => {
                        drop(model);
                        check(key);
                    }
                }
            }
            Ok(())
        })
        .unwrap();
    (0..4).for_each(check);
    let found: BTreeSet<(u8, i16, u32)> = engine
        .block_on(engine.on_each_shard(move |shard| {
            let state = state.clone();
            async move {
                let (mut scan, mut all) = (state.entries(&shard)?, Vec::new());
                while let Some(entry) = scan.next().await? {
                    all.push(entry);
                }
                Ok::<_, Error>(all)
            }
        }))
        .unwrap()
        .into_iter()
        .flat_map(|entries| entries.unwrap())
        .collect();
    let model = model.into_inner();
    let expected =
        model.iter().flat_map(|(key, map)| map.iter().map(|(map_key, value)| (*key, *map_key, *value))).collect();
    assert_eq!(found, expected);
    engine.close_blocking().unwrap();
}

#[test]
#[cfg_attr(miri, ignore = "Miri has no io_uring")]
fn a_map_larger_than_a_batch_is_cleared() {
    let dir = TempDir::new().unwrap();
    let descriptor = Descriptor::<MapState<String, u32, ()>>::new("maps");
    let engine = Engine::open(options(&dir).state(&descriptor)).unwrap();
    let state = descriptor.bind(&engine).unwrap();
    let key = "large".to_string();
    run(&engine, &key.clone(), move |shard| async move {
        for map_key in 0..1000 {
            state.put(&shard, &key, &map_key, &()).await?;
        }
        state.clear(&shard, &key).await?;
        assert!(state.is_empty(&shard, &key).await?);
        Ok(())
    });
    engine.close_blocking().unwrap();
}

#[test]
#[cfg_attr(miri, ignore = "Miri has no io_uring")]
fn map_entries_expire_one_by_one() {
    let dir = TempDir::new().unwrap();
    let descriptor = Descriptor::<MapState<u8, u8, u8>>::new("maps").ttl(by_event_time(100));
    let engine = Engine::open(options(&dir).state(&descriptor)).unwrap();
    let state = descriptor.bind(&engine).unwrap();
    run(&engine, &1u8, move |shard| async move {
        state.put(&shard.at(1000), &1, &1, &1).await?;
        state.put(&shard.at(1050), &1, &2, &2).await?;
        assert_eq!(state.get(&shard.at(1099), &1, &1).await?, Some(1));
        assert_eq!(state.get(&shard.at(1100), &1, &1).await?, None);
        let (mut iter, mut found) = (state.iter(&shard.at(1149), &1)?, Vec::new());
        while let Some(entry) = iter.next().await? {
            found.push(entry);
        }
        assert_eq!(found, [(2, 2)]);
        assert!(state.is_empty(&shard.at(1150), &1).await?);
        Ok(())
    });
    engine.close_blocking().unwrap();
}

#[derive(Clone, Debug)]
enum ListStep {
    Push(u8, usize),
    PushBounded(u8, usize, u64),
    Truncate(u8, u64),
    Pop(u8, u8),
    Clear(u8),
    Check(u8),
}

fn list_steps() -> impl Strategy<Value = Vec<ListStep>> {
    let step = prop_oneof![
        // Elements from nothing to more than a chunk.
        10 => (0..3u8, prop_oneof![0..300usize, 1000..1100usize]).prop_map(|(key, bytes)| ListStep::Push(key, bytes)),
        2 => (0..3u8, 0..300usize, 0..40u64).prop_map(|(key, bytes, keep)| ListStep::PushBounded(key, bytes, keep)),
        1 => (0..3u8, 0..40u64).prop_map(|(key, keep)| ListStep::Truncate(key, keep)),
        2 => (0..3u8, 1..9u8).prop_map(|(key, times)| ListStep::Pop(key, times)),
        1 => (0..3u8).prop_map(ListStep::Clear),
        3 => (0..3u8).prop_map(ListStep::Check),
    ];
    prop::collection::vec(step, 1..120)
}

#[test]
#[cfg_attr(miri, ignore = "Miri has no io_uring")]
fn lists_equal_the_model() {
    let dir = TempDir::new().unwrap();
    let descriptor = Descriptor::<ListState<u8, Vec<u8>>>::new("lists");
    let engine = Engine::open(options(&dir).state(&descriptor)).unwrap();
    let state = descriptor.bind(&engine).unwrap();
    let model: RefCell<[VecDeque<Vec<u8>>; 3]> = RefCell::default();
    let serial = Cell::new(0u8);
    let element = |bytes: usize| {
        serial.set(serial.get().wrapping_add(1));
        vec![serial.get(); bytes]
    };
    let apply = |step: ListStep| {
        let (state, mut model) = (state.clone(), model.borrow_mut());
        match step {
            ListStep::Push(key, bytes) => {
                let element = element(bytes);
                model[usize::from(key)].push_back(element.clone());
                run(&engine, &key, move |shard| async move { state.push(&shard, &key, &element).await });
            }
            ListStep::PushBounded(key, bytes, keep) => {
                let (element, list) = (element(bytes), &mut model[usize::from(key)]);
                list.push_back(element.clone());
                list.drain(..list.len().saturating_sub(keep.max(1) as usize));
                run(&engine, &key, move |shard| async move { state.push_bounded(&shard, &key, &element, keep).await });
            }
            ListStep::Truncate(key, keep) => {
                let list = &mut model[usize::from(key)];
                list.drain(..list.len().saturating_sub(keep as usize));
                run(&engine, &key, move |shard| async move { state.truncate_front(&shard, &key, keep).await });
            }
            ListStep::Pop(key, times) => {
                let list = &mut model[usize::from(key)];
                let expected: Vec<_> = (0..times).map(|_| list.pop_front()).collect();
                run(&engine, &key, move |shard| async move {
                    for expected in expected {
                        assert_eq!(state.pop_front(&shard, &key).await?, expected);
                    }
                    Ok(())
                });
            }
            ListStep::Clear(key) => {
                model[usize::from(key)].clear();
                run(&engine, &key, move |shard| async move { state.clear(&shard, &key).await });
            }
            ListStep::Check(key) => {
                let expected = Vec::from(model[usize::from(key)].clone());
                run(&engine, &key, move |shard| async move {
                    assert_eq!(state.len(&shard, &key).await?, expected.len() as u64);
                    assert_eq!(state.is_empty(&shard, &key).await?, expected.is_empty());
                    let (mut iter, mut found) = (state.iter(&shard, &key).await?, Vec::new());
                    while let Some(element) = iter.next().await? {
                        found.push(element);
                    }
                    assert_eq!(found, expected);
                    assert_eq!(state.get(&shard, &key).await?, expected);
                    Ok(())
                });
            }
        }
    };
    TestRunner::new(Config { failure_persistence: None, ..Config::with_cases(40) })
        .run(&list_steps(), |steps| {
            steps.into_iter().chain((0..3).map(ListStep::Check)).for_each(apply);
            Ok(())
        })
        .unwrap();
    engine.close_blocking().unwrap();
}

#[test]
#[cfg_attr(miri, ignore = "Miri has no io_uring")]
fn an_emptied_list_leaves_no_entries() {
    let dir = TempDir::new().unwrap();
    let descriptor = Descriptor::<ListState<u8, Vec<u8>>>::new("lists");
    let raw = Descriptor::<MapState<u8, Vec<u8>, Vec<u8>, Raw>>::new("lists");
    let engine = Engine::open(options(&dir).state(&descriptor)).unwrap();
    let (lists, raw) = (descriptor.bind(&engine).unwrap(), raw.bind(&engine).unwrap());
    run(&engine, &1u8, move |shard| async move {
        for _ in 0..100 {
            lists.push(&shard, &1, &vec![7; 100]).await?;
        }
        let (mut entries, mut count) = (raw.iter(&shard, &1)?, 0);
        while entries.next().await?.is_some() {
            count += 1;
        }
        assert!((10..=14).contains(&count), "{count} entries for 10 KB");
        lists.truncate_front(&shard, &1, 1).await?;
        while lists.pop_front(&shard, &1).await?.is_some() {}
        assert!(raw.is_empty(&shard, &1).await?);
        Ok(())
    });
    engine.close_blocking().unwrap();
}

#[test]
#[cfg_attr(miri, ignore = "Miri has no io_uring")]
fn a_list_loses_its_oldest_chunks_to_the_ttl() {
    let dir = TempDir::new().unwrap();
    let descriptor = Descriptor::<ListState<u8, (u64, Vec<u8>)>>::new("lists").ttl(by_event_time(1000));
    let engine = Engine::open(options(&dir).state(&descriptor)).unwrap();
    let lists = descriptor.bind(&engine).unwrap();
    run(&engine, &1u8, move |shard| async move {
        // Ten elements of 300 bytes, so a chunk holds three; one each 100 ms.
        for time in (0..1000).step_by(100) {
            lists.push(&shard.at(time), &1, &(time, vec![0; 300])).await?;
        }
        for now in (1000..1900).step_by(50) {
            let shard = shard.at(now);
            let (live, _): (Vec<u64>, Vec<_>) = lists.get(&shard, &1).await?.into_iter().unzip();
            assert!(live.is_sorted());
            assert_eq!(lists.len(&shard, &1).await?, live.len() as u64);
            // All that is younger than the TTL is there, and at most a chunk more.
            let must_live = (0..1000).step_by(100).filter(|time| time + 1000 > now).count();
            assert!((must_live..=must_live + 3).contains(&live.len()), "at {now}: {live:?}");
        }
        // What has expired is passed over by removals at the front.
        let late = shard.at(1650);
        let first = lists.get(&late, &1).await?.first().map(|(time, _)| *time);
        assert_eq!(lists.pop_front(&late, &1).await?.map(|(time, _)| time), first);
        lists.push_bounded(&late, &1, &(1650, vec![]), 2).await?;
        assert_eq!(lists.get(&late, &1).await?.iter().map(|(time, _)| *time).collect::<Vec<_>>(), [900, 1650]);
        assert_eq!(lists.get(&shard.at(2650), &1).await?, []);
        assert_eq!(lists.pop_front(&shard.at(2650), &1).await?, None);
        Ok(())
    });
    engine.close_blocking().unwrap();
}

#[derive(Clone, Debug)]
enum TimerStep {
    Register(i64, u16),
    Delete(i64, u16),
    Fire(i64),
    Reopen,
}

#[test]
#[cfg_attr(miri, ignore = "Miri has no io_uring")]
fn timers_fire_in_order_of_time_and_key() {
    let dir = TempDir::new().unwrap();
    let descriptor = Descriptor::<Timers<u16>>::new("timers");
    let open = || {
        Engine::open(
            options(&dir)
                .durability(Durability::Interval(Duration::from_millis(5)))
                .shards(1)
                .key_groups(8)
                .state(&descriptor),
        )
        .unwrap()
    };
    let engine = RefCell::new(Some(open()));
    let model: RefCell<BTreeSet<(i64, u16)>> = RefCell::default();
    let step = prop_oneof![
        200 => (-50..50i64, 0..40u16).prop_map(|(time, key)| TimerStep::Register(time, key)),
        20 => (-50..50i64, 0..40u16).prop_map(|(time, key)| TimerStep::Delete(time, key)),
        20 => (-50..50i64).prop_map(TimerStep::Fire),
        1 => Just(TimerStep::Reopen),
    ];
    let apply = |step: TimerStep| {
        let mut model = model.borrow_mut();
        if let TimerStep::Reopen = step {
            engine.take().unwrap().close_blocking().unwrap();
            *engine.borrow_mut() = Some(open());
            return;
        }
        let engine = engine.borrow();
        let engine = engine.as_ref().unwrap();
        let timers = descriptor.bind(engine).unwrap();
        match step {
            TimerStep::Register(time, key) => {
                model.insert((time, key));
                run(engine, &key, move |shard| async move { timers.register(&shard, time, &key).await });
            }
            TimerStep::Delete(time, key) => {
                model.remove(&(time, key));
                run(engine, &key, move |shard| async move { timers.delete(&shard, time, &key).await });
            }
            TimerStep::Fire(until) => {
                let (fired, next) = run(engine, &0u16, move |shard| async move {
                    let mut fired = Vec::new();
                    while let Some(timer) = timers.pop_due(&shard, until).await? {
                        fired.push(timer);
                    }
                    Ok((fired, timers.next_due(&shard).await?))
                });
                let later = model.split_off(&(until + 1, 0));
                assert_eq!(fired, std::mem::replace(&mut *model, later).into_iter().collect::<Vec<_>>());
                assert_eq!(next, model.first().map(|(time, _)| *time));
            }
            TimerStep::Reopen => {}
        }
    };
    TestRunner::new(Config { failure_persistence: None, ..Config::with_cases(12) })
        .run(&prop::collection::vec(step, 1..400), |steps| {
            steps.into_iter().for_each(apply);
            Ok(())
        })
        .unwrap();
    apply(TimerStep::Fire(i64::MAX - 1));
    engine.take().unwrap().close_blocking().unwrap();
}

/// Operators that register, delete and fire at the same time, each waiting for its writes: no timer may be lost or fire twice.
#[test]
#[cfg_attr(miri, ignore = "Miri has no io_uring")]
fn timers_that_cross_are_neither_lost_nor_doubled() {
    let dir = TempDir::new().unwrap();
    let descriptor = Descriptor::<Timers<u64>>::new("timers");
    let options = options(&dir).durability(Durability::Sync).shards(1).key_groups(4);
    let engine = Engine::open(options.state(&descriptor)).unwrap();
    let timers = descriptor.bind(&engine).unwrap();
    let mut registered = BTreeSet::new();
    let mut writes = Vec::new();
    let mut fires = Vec::new();
    for round in 0..400i64 {
        let key = (round * 7919 % 31) as u64;
        let time = round * 37 % 199;
        registered.insert((time, key));
        let register = timers.clone();
        writes
            .push(engine.on_shard(&partition_of(&key), move |shard| async move {
                register.register(&shard, time, &key).await
            }));
        if round % 5 == 0 {
            let fire = timers.clone();
            fires.push(
                engine.on_shard(&partition_of(&0u64), move |shard| async move { fire.pop_due(&shard, 120).await }),
            );
        }
    }
    let mut fired = Vec::new();
    for write in writes {
        engine.block_on(write).unwrap().unwrap();
    }
    for fire in fires {
        fired.extend(engine.block_on(fire).unwrap().unwrap());
    }
    let rest = run(&engine, &0u64, move |shard| async move {
        let mut rest = Vec::new();
        while let Some(timer) = timers.pop_due(&shard, i64::MAX).await? {
            rest.push(timer);
        }
        Ok(rest)
    });
    assert!(rest.is_sorted());
    // The pairs (time, key) of the 400 rounds are distinct, so each timer fires exactly once.
    assert_eq!(registered.len(), 400);
    fired.extend(rest);
    fired.sort_unstable();
    assert_eq!(fired, registered.into_iter().collect::<Vec<_>>());
    engine.close_blocking().unwrap();
}
