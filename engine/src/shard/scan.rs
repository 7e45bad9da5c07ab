//! Ordered iteration.

use std::ops::Bound;
use std::rc::Rc;

use crate::engine::Keyspace;
use crate::engine::route::{GROUP_BYTES, group_of, prefix_successor, user_key};
use crate::error::{Error, Result};
use crate::read::{Access, MergeCursor, RunCursor, Source, ValueRef};
use crate::shard::get::EXPIRY_BYTES;
use crate::shard::{Shard, ViewGuard};
use crate::types::{KeyGroup, Kind, ReadView, Trailer};
use crate::version::LEVELS;

/// Which keys to iterate over, and in which direction. The order is that of (key group, key): all keys with one partition part are
/// together and in byte order.
#[derive(Clone, Debug)]
pub struct ScanRange {
    lower: Bound<Vec<u8>>,
    upper: Bound<Vec<u8>>,
    prefix: Option<Vec<u8>>,
    group: Option<KeyGroup>,
    reverse: bool,
}

impl ScanRange {
    /// All keys.
    pub fn all() -> Self {
        ScanRange { lower: Bound::Unbounded, upper: Bound::Unbounded, prefix: None, group: None, reverse: false }
    }

    /// The keys that start with these bytes. Where the prefix holds the whole partition part, the scan touches one key group.
    pub fn prefix(prefix: impl Into<Vec<u8>>) -> Self {
        let prefix = prefix.into();
        let upper = prefix_successor(&prefix).map_or(Bound::Unbounded, Bound::Excluded);
        ScanRange { lower: Bound::Included(prefix.clone()), upper, prefix: Some(prefix), ..ScanRange::all() }
    }

    /// The keys between two bounds. Where both start with the same whole partition part, the scan touches one key group;
    /// otherwise the bounds hold in each key group.
    pub fn range(lower: Bound<Vec<u8>>, upper: Bound<Vec<u8>>) -> Self {
        let common = match (&lower, &upper) {
            (Bound::Included(lower) | Bound::Excluded(lower), Bound::Included(upper) | Bound::Excluded(upper)) => {
                let shared = lower.iter().zip(upper).take_while(|(left, right)| left == right).count();
                Some(lower[..shared].to_vec())
            }
            _ => None,
        };
        ScanRange { lower, upper, prefix: common, ..ScanRange::all() }
    }

    /// Only the keys of one key group.
    #[must_use]
    pub fn group(mut self, group: KeyGroup) -> Self {
        self.group = Some(group);
        self
    }

    /// From the greatest key down.
    #[must_use]
    pub fn reverse(mut self) -> Self {
        self.reverse = true;
        self
    }

    /// Whether it goes from the greatest key down.
    pub fn is_reverse(&self) -> bool {
        self.reverse
    }

    /// The one key group that the range touches, where it touches only one.
    pub(crate) fn single_group(&self, keyspace: &Keyspace, key_groups: u32) -> Option<KeyGroup> {
        if self.group.is_some() {
            return self.group;
        }
        let prefix = self.prefix.as_ref()?;
        let partition = &keyspace.options().partition;
        partition.complete_in_prefix(prefix).then(|| group_of(partition.part(prefix), key_groups))
    }

    fn is_unbounded(&self) -> bool {
        matches!((&self.lower, &self.upper), (Bound::Unbounded, Bound::Unbounded))
    }

    fn is_empty(&self) -> bool {
        match (&self.lower, &self.upper) {
            (Bound::Included(lower), Bound::Included(upper)) => lower > upper,
            (Bound::Included(lower) | Bound::Excluded(lower), Bound::Included(upper) | Bound::Excluded(upper)) => {
                lower >= upper
            }
            _ => false,
        }
    }
}

/// One entry of a scan.
#[derive(Debug)]
pub struct Entry<'s> {
    /// The key.
    pub key: &'s [u8],
    /// The value; clone it to keep it beyond the next step.
    pub value: &'s ValueRef,
}

/// An iteration over one shard, in a view of its own: it sees nothing that is written after it began.
pub struct Scan {
    shard: Rc<Shard>,
    keyspace: Keyspace,
    range: ScanRange,
    time_ms: Option<u64>,
    view: ViewGuard,
    merge: MergeCursor,
    /// Where to go on, in stored keys: the rest of the groups that the scan covers.
    segments: std::vec::IntoIter<Segment>,
    segment: Option<Segment>,
    key: Vec<u8>,
    value: Option<ValueRef>,
}

/// A contiguous range of stored keys.
#[derive(Clone)]
struct Segment {
    lower: Bound<Vec<u8>>,
    upper: Bound<Vec<u8>>,
}

impl Shard {
    pub(crate) fn scan(
        self: &Rc<Self>,
        keyspace: &Keyspace,
        range: ScanRange,
        view: Option<ReadView>,
        time_ms: Option<u64>,
    ) -> Result<Scan> {
        self.open_current_epoch();
        let view = self.views.register(view.unwrap_or_else(|| self.memtables.view()));
        let segments = self.segments(keyspace, &range)?;
        let merge = MergeCursor::new(self.sources(keyspace, Access::Cached)?);
        Ok(Scan {
            shard: Rc::clone(self),
            keyspace: keyspace.clone(),
            range,
            time_ms,
            view,
            merge,
            segments: segments.into_iter(),
            segment: None,
            key: Vec::new(),
            value: None,
        })
    }

    /// Everything that a keyspace's entries may be in.
    fn sources(&self, keyspace: &Keyspace, access: Access) -> Result<Vec<Source>> {
        let version = self.keyspace(keyspace.id())?.version();
        let mut sources: Vec<Source> = Vec::new();
        for slot in self.memtables.all().iter().rev() {
            if !slot.memtable.is_empty() {
                sources.push(Source::Memtable(slot.memtable.cursor(keyspace.id())));
            }
        }
        for table in version.level(0) {
            sources.push(Source::Run(RunCursor::new(Rc::clone(&self.blocks), vec![Rc::clone(table)], access)));
        }
        for level in 1..LEVELS {
            if !version.level(level).is_empty() {
                let tables = version.level(level).to_vec();
                sources.push(Source::Run(RunCursor::new(Rc::clone(&self.blocks), tables, access)));
            }
        }
        Ok(sources)
    }

    /// The ranges of stored keys that a scan covers, in its direction: one for all groups of the shard where it is unbounded, else one a group.
    fn segments(&self, keyspace: &Keyspace, range: &ScanRange) -> Result<Vec<Segment>> {
        if range.is_empty() {
            return Ok(Vec::new());
        }
        let groups = match range.single_group(keyspace, self.config.key_groups) {
            Some(group) => {
                let group = u32::from(group.0);
                if !self.groups.contains(&group) {
                    return Err(Error::InvalidArgument(format!(
                        "the range lies in key group {group}, which is not one of shard {}'s ({}..{})",
                        self.id, self.groups.start, self.groups.end
                    )));
                }
                group..group + 1
            }
            None => self.groups.clone(),
        };
        let start = |group: u32| (group as u16).to_be_bytes().to_vec();
        if range.is_unbounded() {
            let (lower, upper) = (start(groups.start), start(groups.end));
            return Ok(vec![Segment { lower: Bound::Included(lower), upper: Bound::Excluded(upper) }]);
        }
        let stored = |group: u32, bound: &Bound<Vec<u8>>, open: Bound<Vec<u8>>| match bound {
            Bound::Included(key) => Bound::Included([&start(group)[..], key].concat()),
            Bound::Excluded(key) => Bound::Excluded([&start(group)[..], key].concat()),
            Bound::Unbounded => open,
        };
        let mut segments: Vec<Segment> = groups
            .map(|group| Segment {
                lower: stored(group, &range.lower, Bound::Included(start(group))),
                upper: stored(group, &range.upper, Bound::Excluded(start(group + 1))),
            })
            .collect();
        if range.reverse {
            segments.reverse();
        }
        Ok(segments)
    }
}

impl Scan {
    /// The next entry, or nothing at the end. After an error the scan has ended.
    pub async fn next(&mut self) -> Result<Option<Entry<'_>>> {
        self.value = None;
        let found = if self.range.reverse { self.advance_back().await } else { self.advance().await };
        match found {
            Ok(true) => {}
            Ok(false) => return Ok(None),
            Err(error) => {
                self.segment = None;
                self.segments = Vec::new().into_iter();
                return Err(error);
            }
        }
        let value = self.value.as_ref().expect("an entry that was found has a value");
        Ok(Some(Entry { key: user_key(&self.key), value }))
    }

    async fn advance(&mut self) -> Result<bool> {
        loop {
            if self.segment.is_none() {
                let Some(segment) = self.segments.next() else { return Ok(false) };
                // The end of a single group is near; that of all the shard is not worth a comparison for each block.
                match &segment.upper {
                    Bound::Included(upper) | Bound::Excluded(upper) if upper.len() > GROUP_BYTES => {
                        self.merge.limit(Some(upper));
                    }
                    _ => self.merge.limit(None),
                }
                match &segment.lower {
                    Bound::Included(key) => self.merge.seek(key, Trailer::NEWEST).await?,
                    Bound::Excluded(key) => {
                        self.merge.seek(key, Trailer::OLDEST).await?;
                        while self.merge.valid() && self.merge.key() == key {
                            self.merge.next().await?;
                        }
                    }
                    Bound::Unbounded => unreachable!("segments have bounds"),
                }
                self.segment = Some(segment);
                self.key.clear();
            }
            while self.merge.valid() {
                // The entry just returned, and older versions of its key.
                if self.merge.key() == self.key {
                    self.merge.next().await?;
                    continue;
                }
                if self.is_beyond_upper() {
                    break;
                }
                let trailer = self.merge.trailer();
                if !self.view.view().sees(trailer.seq()) {
                    self.merge.next().await?;
                    continue;
                }
                self.key.clear();
                self.key.extend_from_slice(self.merge.key());
                if let Some(value) = self.visible_value(trailer)? {
                    self.value = Some(value);
                    return Ok(true);
                }
            }
            self.segment = None;
        }
    }

    async fn advance_back(&mut self) -> Result<bool> {
        loop {
            if self.segment.is_none() {
                let Some(segment) = self.segments.next() else { return Ok(false) };
                match &segment.upper {
                    Bound::Included(key) => self.merge.seek_for_prev(key, Trailer::OLDEST).await?,
                    Bound::Excluded(key) => {
                        self.merge.seek_for_prev(key, Trailer::NEWEST).await?;
                        while self.merge.valid() && self.merge.key() == key {
                            self.merge.prev().await?;
                        }
                    }
                    Bound::Unbounded => unreachable!("segments have bounds"),
                }
                self.segment = Some(segment);
            }
            // Backwards a key's oldest entry comes first: the last one that the view sees counts.
            while self.merge.valid() && !self.is_beyond_lower() {
                self.key.clear();
                self.key.extend_from_slice(self.merge.key());
                let mut newest = None;
                while self.merge.valid() && self.merge.key() == self.key {
                    let trailer = self.merge.trailer();
                    if self.view.view().sees(trailer.seq()) {
                        newest = self.visible_value(trailer)?;
                    }
                    self.merge.prev().await?;
                }
                if newest.is_some() {
                    self.value = newest;
                    return Ok(true);
                }
            }
            self.segment = None;
        }
    }

    fn visible_value(&self, trailer: Trailer) -> Result<Option<ValueRef>> {
        match trailer.kind() {
            Kind::Delete => Ok(None),
            Kind::Put => Ok(Some(self.merge.value_ref(0))),
            Kind::PutExpiring => {
                let expired = self.shard.is_expired(&self.keyspace, self.merge.value(), self.time_ms)?;
                Ok((!expired).then(|| self.merge.value_ref(EXPIRY_BYTES)))
            }
        }
    }

    fn is_beyond_upper(&self) -> bool {
        match self.segment.as_ref().map(|segment| &segment.upper) {
            Some(Bound::Included(upper)) => self.merge.key() > &upper[..],
            Some(Bound::Excluded(upper)) => self.merge.key() >= &upper[..],
            _ => unreachable!("segments have bounds"),
        }
    }

    fn is_beyond_lower(&self) -> bool {
        match self.segment.as_ref().map(|segment| &segment.lower) {
            Some(Bound::Included(lower)) => self.merge.key() < &lower[..],
            Some(Bound::Excluded(lower)) => self.merge.key() <= &lower[..],
            _ => unreachable!("segments have bounds"),
        }
    }
}

const _: () = assert!(GROUP_BYTES == 2, "bounds of groups are built from two bytes");
