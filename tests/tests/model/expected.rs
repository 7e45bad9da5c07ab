//! What the engine should hold: sorted maps.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use siltstone::{KeyGroup, Keyspace, Partition, ScanRange};

/// A key in the order of scans.
pub(crate) type Place = (u16, Vec<u8>);

#[derive(Clone)]
pub(crate) struct Cell {
    pub(crate) value: Arc<[u8]>,
    pub(crate) expires_ms: Option<u64>,
}

impl Cell {
    pub(crate) fn live_at(&self, time_ms: u64) -> bool {
        self.expires_ms.is_none_or(|expires_ms| time_ms < expires_ms)
    }
}

/// One keyspace.
#[derive(Clone)]
pub(crate) struct Space {
    pub(crate) partition: Partition,
    pub(crate) ttl_ms: Option<u64>,
    pub(crate) cells: BTreeMap<Place, Cell>,
}

/// All keyspaces by name.
pub(crate) type State = BTreeMap<String, Space>;

pub(crate) type Entries = Vec<(Vec<u8>, Vec<u8>)>;

impl Space {
    pub(crate) fn get(&self, keyspace: &Keyspace, key: &[u8], time_ms: u64) -> Option<Vec<u8>> {
        let cell = self.cells.get(&(keyspace.group_of(key).0, key.to_vec()))?;
        cell.live_at(time_ms).then(|| cell.value.to_vec())
    }

    /// Applies a write: a value and when it expires, or a deletion.
    pub(crate) fn apply(&mut self, keyspace: &Keyspace, key: &[u8], value: Option<&[u8]>, expires_ms: Option<u64>) {
        let place = (keyspace.group_of(key).0, key.to_vec());
        match value {
            Some(value) => drop(self.cells.insert(place, Cell { value: value.into(), expires_ms })),
            None => drop(self.cells.remove(&place)),
        }
    }

    /// What a scan should give. `groups` are those in reach.
    pub(crate) fn scan(&self, wanted: &Wanted, groups: std::ops::Range<u16>, time_ms: u64) -> Entries {
        let in_range = |(group, key): &Place| {
            groups.contains(group)
                && wanted.group.is_none_or(|wanted| wanted == *group)
                && match &wanted.keys {
                    Keys::All => true,
                    Keys::Prefix(prefix) => key.starts_with(prefix),
                    Keys::Range(lower, upper) => above(key, lower) && below(key, upper),
                }
        };
        let live = self.cells.iter().filter(|(place, cell)| in_range(place) && cell.live_at(time_ms));
        let mut entries: Entries = live.map(|((_, key), cell)| (key.clone(), cell.value.to_vec())).collect();
        if wanted.reverse {
            entries.reverse();
        }
        entries
    }
}

fn above(key: &[u8], lower: &Bound<Vec<u8>>) -> bool {
    match lower {
        Bound::Included(lower) => key >= &lower[..],
        Bound::Excluded(lower) => key > &lower[..],
        Bound::Unbounded => true,
    }
}

fn below(key: &[u8], upper: &Bound<Vec<u8>>) -> bool {
    match upper {
        Bound::Included(upper) => key <= &upper[..],
        Bound::Excluded(upper) => key < &upper[..],
        Bound::Unbounded => true,
    }
}

/// A range to scan.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) keys: Keys,
    pub(crate) group: Option<u16>,
    pub(crate) reverse: bool,
}

#[derive(Clone, Debug)]
pub(crate) enum Keys {
    All,
    Prefix(Vec<u8>),
    Range(Bound<Vec<u8>>, Bound<Vec<u8>>),
}

impl Wanted {
    pub(crate) fn range(&self) -> ScanRange {
        let mut range = match &self.keys {
            Keys::All => ScanRange::all(),
            Keys::Prefix(prefix) => ScanRange::prefix(prefix.clone()),
            Keys::Range(lower, upper) => ScanRange::range(lower.clone(), upper.clone()),
        };
        if let Some(group) = self.group {
            range = range.group(KeyGroup(group));
        }
        if self.reverse { range.reverse() } else { range }
    }

    /// Everything.
    pub(crate) fn all(reverse: bool) -> Wanted {
        Wanted { keys: Keys::All, group: None, reverse }
    }
}

impl Wanted {
    pub(crate) fn is_all(&self) -> bool {
        matches!(self.keys, Keys::All)
    }
}
