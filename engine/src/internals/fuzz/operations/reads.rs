//! Reads: gets, scans, snapshots, and their comparison with the model.

use std::cell::RefCell;
use std::ops::{Bound, Range};

use super::model::{Contents, Place, State, assert_same, live};
use super::plan::{PlannedKey, PlannedRange};
use super::world::{Done, SPACES, World, key_bytes};
use crate::testing::Crashed;
use crate::{Engine, KeyGroup, Keyspace, ScanRange, Snapshot};

const SNAPSHOTS_MAX: usize = 4;

/// A snapshot of one shard, kept there, and what it should show.
pub(super) struct Held {
    id: u64,
    part: Vec<u8>,
    groups: Range<u16>,
    state: State,
}

/// Where a shard keeps its snapshots.
#[derive(Default)]
struct Snapshots(RefCell<Vec<(u64, Snapshot)>>);

impl World {
    pub(super) fn get_many(&mut self, keys: &[PlannedKey], together: bool) -> Done {
        let engine = self.engine();
        let space = usize::from(keys[0].space) % SPACES.len();
        let places: Vec<_> = keys.iter().map(|key| self.place(PlannedKey { space: space as u8, ..*key })).collect();
        self.settle_those(|write| places.iter().any(|(place, _)| write.changes.contains_key(place)))?;
        let expected = live(&self.model.current, self.now_ms);
        let keyspace = places[0].1.clone();
        let keys: Vec<&[u8]> = places.iter().map(|(place, _)| &place.2[..]).collect();
        let found = match together {
            true => self.must(engine.get_many(&keyspace, &keys))?,
            false => vec![self.must(engine.get(&keyspace, keys[0]))?],
        };
        for ((place, _), found) in places.iter().zip(found) {
            assert!(found.as_ref() == expected.get(place), "a get of {place:?}");
        }
        Ok(())
    }

    pub(super) fn scan(&mut self, range: &PlannedRange) -> Done {
        self.settle()?;
        let wanted = self.wanted(range, 0..self.key_groups as u16);
        let mut scan = self.engine().scan(&wanted.keyspace, wanted.range.clone());
        let found = self.must(async {
            let mut entries = Vec::new();
            while let Some(entry) = scan.next().await? {
                entries.push(entry);
            }
            Ok(entries)
        })?;
        wanted.check(&live(&self.model.current, self.now_ms), &found);
        Ok(())
    }

    pub(super) fn take_snapshot(&mut self, shard: u8) -> Done {
        if self.snapshots.len() == SNAPSHOTS_MAX {
            return Ok(());
        }
        self.settle()?;
        let (engine, home) = (self.engine(), self.keyspace(0));
        let shard = usize::from(shard) % engine.shards();
        let part = part_in(&engine, shard);
        self.counter += 1;
        let id = self.counter;
        self.must(engine.on_shard(&part, move |shard| async move {
            let snapshot = shard.snapshot();
            shard.extension::<Snapshots>(&home).0.borrow_mut().push((id, snapshot));
        }))?;
        let groups = self.groups_of(shard);
        let state = self.model.current.iter().filter(|(place, _)| groups.contains(&place.1));
        let state = state.map(|(place, cell)| (place.clone(), cell.clone())).collect();
        self.snapshots.push(Held { id, part, groups, state });
        Ok(())
    }

    pub(super) fn read_snapshot(&mut self, index: u8, range: &PlannedRange) -> Done {
        if self.snapshots.is_empty() {
            return Ok(());
        }
        let (engine, home) = (self.engine(), self.keyspace(0));
        let index = usize::from(index) % self.snapshots.len();
        let (id, part) = (self.snapshots[index].id, self.snapshots[index].part.clone());
        // A range that lies in one key group may lie in another shard's.
        let range = PlannedRange { kind: range.kind % 2 * 5, ..range.clone() };
        let wanted = self.wanted(&range, self.snapshots[index].groups.clone());
        let (keyspace, scanned) = (wanted.keyspace.clone(), wanted.range.clone());
        let found = self.must(engine.on_shard(&part, move |shard| async move {
            let snapshots = shard.extension::<Snapshots>(&home);
            let found = snapshots.0.borrow().iter().find(|(held, _)| *held == id).map(|(_, snapshot)| snapshot.clone());
            let mut scan = found.expect("the shard holds the snapshot").scan(&keyspace, scanned)?;
            let mut entries = Vec::new();
            while let Some(entry) = scan.next().await? {
                entries.push((entry.key.to_vec(), entry.value.to_vec()));
            }
            Ok::<_, crate::Error>(entries)
        }))?;
        let found = match found {
            Err(_) if self.machine.disk.crashed() => return Err(Crashed),
            found => found.expect("a snapshot can be read while the power is on"),
        };
        wanted.check(&live(&self.snapshots[index].state, self.now_ms), &found);
        Ok(())
    }

    pub(super) fn drop_snapshot(&mut self, index: u8) -> Done {
        if self.snapshots.is_empty() {
            return Ok(());
        }
        let (engine, home) = (self.engine(), self.keyspace(0));
        let held = self.snapshots.remove(usize::from(index) % self.snapshots.len());
        self.must(engine.on_shard(&held.part, move |shard| async move {
            shard.extension::<Snapshots>(&home).0.borrow_mut().retain(|(id, _)| *id != held.id);
        }))
    }

    /// Everything that the engine has.
    pub(super) fn read_all(&mut self) -> std::result::Result<Contents, Crashed> {
        let mut found = Contents::new();
        for space in 0..SPACES.len() {
            let keyspace = self.keyspace(space);
            let mut scan = self.engine().scan(&keyspace, ScanRange::all());
            let entries = self.must(async {
                let mut entries = Vec::new();
                while let Some(entry) = scan.next().await? {
                    entries.push(entry);
                }
                Ok(entries)
            })?;
            let places = entries.into_iter().map(|(key, value)| ((space, keyspace.group_of(&key).0, key), value));
            let places: Vec<_> = places.collect();
            assert!(places.is_sorted_by(|left, right| left.0 < right.0), "a scan is in order");
            found.extend(places);
        }
        Ok(found)
    }

    fn wanted(&self, range: &PlannedRange, groups: Range<u16>) -> Wanted {
        let space = usize::from(range.lower.space) % SPACES.len();
        let (lower, upper) =
            (key_bytes(range.lower), key_bytes(PlannedKey { space: range.lower.space, ..range.upper }));
        let prefix = lower[..usize::from(range.cut) % (lower.len() + 1)].to_vec();
        let (mut group, mut bounds) = (None, (Bound::Unbounded, Bound::Unbounded));
        let mut scanned = match range.kind % 8 {
            0..2 => ScanRange::all(),
            2..4 => {
                bounds.0 = Bound::Included(prefix.clone());
                ScanRange::prefix(prefix.clone())
            }
            kind @ (4..7) => {
                bounds = (Bound::Included(lower.clone()), Bound::Excluded(upper.clone()));
                if kind == 5 {
                    bounds.1 = Bound::Unbounded;
                }
                ScanRange::range(bounds.0.clone(), bounds.1.clone())
            }
            _ => {
                group = Some(u16::from(range.group) % self.key_groups as u16);
                ScanRange::all().group(KeyGroup(u16::from(range.group) % self.key_groups as u16))
            }
        };
        if range.reverse {
            scanned = scanned.reverse();
        }
        let prefix = matches!(range.kind % 8, 2..4).then_some(prefix);
        Wanted { keyspace: self.keyspace(space), space, groups, only_group: group, prefix, bounds, range: scanned }
    }
}

/// A range to scan, and how to say what is in it.
struct Wanted {
    keyspace: Keyspace,
    space: usize,
    groups: Range<u16>,
    /// The only key group, where there is one.
    only_group: Option<u16>,
    prefix: Option<Vec<u8>>,
    bounds: (Bound<Vec<u8>>, Bound<Vec<u8>>),
    range: ScanRange,
}

impl Wanted {
    fn holds(&self, place: &Place) -> bool {
        place.0 == self.space
            && self.groups.contains(&place.1)
            && self.only_group.is_none_or(|group| group == place.1)
            && match &self.prefix {
                Some(prefix) => place.2.starts_with(prefix),
                None => std::ops::RangeBounds::contains(&self.bounds, &place.2),
            }
    }

    fn check(&self, contents: &Contents, found: &[(Vec<u8>, Vec<u8>)]) {
        let mut expected: Vec<_> = contents.iter().filter(|(place, _)| self.holds(place)).collect();
        if self.range.is_reverse() {
            expected.reverse();
        }
        let same = expected.len() == found.len()
            && expected.iter().zip(found).all(|(expected, found)| expected.0.2 == found.0 && *expected.1 == found.1);
        if !same {
            let placed = |(key, value): &(Vec<u8>, Vec<u8>)| {
                ((self.space, self.keyspace.group_of(key).0, key.clone()), value.clone())
            };
            let expected = expected.into_iter().map(|(place, value)| (place.clone(), value.clone())).collect();
            assert_same(&expected, &found.iter().map(placed).collect(), &format!("a scan of {:?}", self.range));
            panic!("a scan of {:?} is out of order or has an entry twice", self.range);
        }
    }
}

/// A partition part that lies in a shard.
fn part_in(engine: &Engine, shard: usize) -> Vec<u8> {
    let parts = (0u64..).map(|number| number.to_le_bytes().to_vec());
    let mut found = parts.filter(|part| usize::from(engine.shard_of(part).0) == shard);
    found.next().expect("every shard has key groups")
}
