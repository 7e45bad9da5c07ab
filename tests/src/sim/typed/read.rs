//! Reading typed state back: all of it, or one key's, as what the model knows of it.

use std::collections::BTreeSet;
use std::sync::Arc;

use siltstone::{Engine, LocalShard, Result, ScanRange};

use super::super::journal::WriteId;
use super::super::workload::collect;
use super::model::{Dated, Keyed, State};
use super::{Part, States, TIMERS};

/// All typed state of an engine, at this time.
pub(crate) async fn read_states(engine: &Engine, states: &States, now_ms: u64) -> Result<State> {
    let owners: Vec<(usize, Part)> =
        super::all_parts().map(|part| (usize::from(engine.shard_of(&part).0), part)).collect();
    let states = states.clone();
    let read = engine.on_each_shard(move |shard| async move {
        let shard = shard.at(now_ms);
        let own = |(owner, _): &&(usize, Part)| *owner == usize::from(shard.shard_id().0);
        let owned = owners.iter().filter(own).map(|(_, part)| *part).collect();
        read_shard(&shard, &states, owned).await
    });
    let mut all = State::default();
    for of_shard in read.await? {
        all.keys.extend(of_shard?.keys);
    }
    // Timers have no iteration of their own: each is a key of its keyspace.
    for (key, _) in collect(engine, &engine.keyspace(TIMERS)?, ScanRange::all()).await? {
        let (time, part) = key.split_first_chunk().expect("a timer's key begins with its time");
        let part = part.try_into().expect("a timer's key ends with the key of its states");
        all.timers.insert((i64::from_be_bytes(*time) ^ i64::MIN, part));
    }
    Ok(all)
}

/// Values, maps and sums of a shard by their iterations, the rest key by key.
async fn read_shard(shard: &LocalShard, states: &States, owned: BTreeSet<Part>) -> Result<State> {
    let mut state = State::default();
    for part in owned {
        let mut keyed = Keyed { fold: states.folds.get(shard, &part).await?, ..Keyed::default() };
        let mut elements = states.lists.iter(shard, &part).await?;
        while let Some(element) = elements.next().await? {
            keyed.list.push(dated(&element));
        }
        state.keys.insert(part, keyed);
    }
    let strange = "a shard iterates over a key that is not its own";
    let mut values = states.values.entries(shard)?;
    while let Some((part, value)) = values.next().await? {
        state.keys.get_mut(&part).expect(strange).value = Some(dated(&value));
    }
    let mut maps = states.maps.entries(shard)?;
    while let Some((part, slot, value)) = maps.next().await? {
        state.keys.get_mut(&part).expect(strange).map.insert(slot, dated(&value));
    }
    let mut sums = states.sums.entries(shard)?;
    while let Some((part, sum)) = sums.next().await? {
        state.keys.get_mut(&part).expect(strange).sum = Some(sum);
    }
    Ok(state)
}

/// All states of a key but its timers, by the reads that operators make.
pub(super) async fn read_key(shard: &LocalShard, states: &States, part: Part) -> Result<Keyed> {
    let mut keyed = Keyed {
        value: states.values.get(shard, &part).await?.map(|value| dated(&value)),
        list: states.lists.get(shard, &part).await?.iter().map(|element| dated(element)).collect(),
        sum: states.sums.get(shard, &part).await?,
        fold: states.folds.get(shard, &part).await?,
        ..Keyed::default()
    };
    let mut entries = states.maps.iter(shard, &part)?;
    let mut slots = Vec::new();
    while let Some((slot, value)) = entries.next().await? {
        slots.push(slot);
        keyed.map.insert(slot, dated(&value));
    }
    assert!(slots.is_sorted(), "the map of {part:?} is out of order: {slots:?}");
    assert_eq!(states.lists.len(shard, &part).await?, keyed.list.len() as u64, "length of the list of {part:?}");
    assert_eq!(states.lists.is_empty(shard, &part).await?, keyed.list.is_empty(), "the list of {part:?}");
    assert_eq!(states.maps.is_empty(shard, &part).await?, keyed.map.is_empty(), "the map of {part:?}");
    let slot = slots.len() as u16 % 24;
    assert_eq!(
        states.maps.contains(shard, &part, &slot).await?,
        keyed.map.contains_key(&slot),
        "slot {slot} of {part:?}"
    );
    let found = states.maps.get(shard, &part, &slot).await?.map(|value| dated(&value));
    assert_eq!(found, keyed.map.get(&slot).copied(), "slot {slot} of {part:?}");
    Ok(keyed)
}

/// The bytes of the value that an operation makes. Some are large.
pub(super) fn value_of(id: WriteId) -> Vec<u8> {
    let bytes = if id.is_multiple_of(97) { 5000 } else { id * 31 % 180 };
    let mut value = id.to_be_bytes().to_vec();
    value.resize(value.len() + bytes as usize, id as u8);
    value
}

/// The operation that made a value.
///
/// # Panics
/// When none can have.
fn dated(value: &[u8]) -> Dated {
    let id = value.first_chunk().map_or(0, |id| WriteId::from_be_bytes(*id));
    assert!(value == value_of(id), "a value of typed state that nobody made: {} bytes", value.len());
    Dated { id, expires_ms: None }
}

/// The keys whose states are on the shard of this one.
pub(super) fn parts_beside(engine: &Engine, part: Part) -> Arc<BTreeSet<Part>> {
    let shard = engine.shard_of(&part);
    Arc::new(super::all_parts().filter(|other| engine.shard_of(other) == shard).collect())
}
