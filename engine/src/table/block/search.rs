//! Lookups in one block without a cursor: no allocation, no key is assembled.
//!
//! 1. Binary search over the restart points, whose keys are whole: the last one that lies before the target.
//! 2. Forward from there. Let `matched` be how many bytes the last key, which is less than the target, has in common
//!    with it. The next entry shares `shared` bytes with that key:
//!    - `shared > matched`: it differs from the target where the last key did, and so is less too; nothing to compare.
//!    - else its first `shared` bytes are the target's: compare its suffix with the rest of the target.

use std::cmp::Ordering;
use std::hint::select_unpredictable;
use std::ops::Range;

use super::bound::VersionBound;
use super::entry::{Entry, Layout, damaged_entry, damaged_restart};
use crate::error::Result;
use crate::table::coding::{common_prefix, head, head_at};
use crate::types::{ReadView, Trailer};

/// What a data block knows of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Lookup {
    /// The newest entry of the key that the view sees; the value is at this range of the block.
    Found(Trailer, Range<usize>),
    /// The SST has no entry of the key that the view sees, given that the index led to this block.
    Absent,
    /// The block ends within the versions of the key, and the view sees none of those in it: look in the block that
    /// follows it. Only a view with a hole meets this.
    NextBlock,
}

/// Looks up a key in the data block to which [`crate::table::index_find`] led with the same key and
/// `VersionBound::of(view)`.
pub(crate) fn data_get(bytes: &[u8], key: &[u8], view: &ReadView) -> Result<Lookup> {
    let layout = Layout::parse(bytes)?;
    let bound = VersionBound::of(view);
    let Some((mut entry, mut is_key)) = first_at_or_after(&layout, bytes, key, bound)? else {
        return Ok(Lookup::Absent);
    };
    while is_key {
        if view.sees(entry.trailer.seq()) {
            return Ok(Lookup::Found(entry.trailer, entry.value_range()));
        }
        if entry.end == layout.entries_end {
            return Ok(Lookup::NextBlock);
        }
        let offset = entry.end;
        entry = layout.entry(bytes, offset).ok_or_else(|| damaged_entry(offset))?;
        is_key = if entry.shared == 0 {
            entry.suffix(bytes) == key
        } else {
            entry.shared == key.len() && entry.suffix_at == entry.suffix_end
        };
    }
    Ok(Lookup::Absent)
}

/// The first entry at or after `(key, bound)`, and whether it is one of the key.
#[inline]
pub(in crate::table) fn first_value_at_or_after(
    bytes: &[u8],
    key: &[u8],
    bound: VersionBound,
) -> Result<Option<Range<usize>>> {
    let layout = Layout::parse(bytes)?;
    Ok(first_at_or_after(&layout, bytes, key, bound)?.map(|(entry, _)| entry.value_range()))
}

#[inline]
fn first_at_or_after(layout: &Layout, bytes: &[u8], key: &[u8], bound: VersionBound) -> Result<Option<(Entry, bool)>> {
    let restart = last_restart_before(layout, bytes, key, bound)?;
    let mut offset = layout.restart(bytes, restart).ok_or_else(|| damaged_restart(restart))?;
    // Of the last key: its length, and how much of the target it matches.
    let (mut last_bytes, mut matched) = (0, 0);
    while offset < layout.entries_end {
        let entry = layout.entry(bytes, offset).ok_or_else(|| damaged_entry(offset))?;
        if entry.shared > last_bytes {
            return Err(damaged_entry(offset));
        }
        if entry.shared <= matched {
            let (suffix, rest) = (entry.suffix(bytes), &key[entry.shared..]);
            let common = common_prefix(suffix, rest);
            match suffix.get(common).cmp(&rest.get(common)) {
                Ordering::Greater => return Ok(Some((entry, false))),
                Ordering::Equal if !bound.is_after_version(entry.trailer) => return Ok(Some((entry, true))),
                Ordering::Equal | Ordering::Less => matched = entry.shared + common,
            }
        }
        last_bytes = entry.key_bytes();
        offset = entry.end;
    }
    Ok(None)
}

/// The last restart point whose entry lies before `(key, bound)`; the first where there is none.
#[inline]
pub(super) fn last_restart_before(layout: &Layout, bytes: &[u8], key: &[u8], bound: VersionBound) -> Result<usize> {
    // Invariant: the entry at `low` lies before the target, or `low` is 0; that at `low + count` does not, or is none.
    // Which half it is nobody can guess, so the choice is a select; the number of rounds depends on the block only.
    let (mut low, mut count) = (0, layout.restarts);
    let key_head = head(key);
    while count > 1 {
        let half = count / 2;
        let middle = low + half;
        let (offset, range) = layout.restart_key(bytes, middle).ok_or_else(|| damaged_restart(middle))?;
        let restart_head = head_at(bytes, range.start, range.len()).ok_or_else(|| damaged_restart(middle))?;
        let mut before = restart_head < key_head;
        if restart_head == key_head {
            before = match bytes[range].cmp(key) {
                Ordering::Less => true,
                Ordering::Greater => false,
                Ordering::Equal => {
                    let entry = layout.entry(bytes, offset).ok_or_else(|| damaged_entry(offset))?;
                    bound.is_after_version(entry.trailer)
                }
            };
        }
        low = select_unpredictable(before, middle, low);
        count -= half;
    }
    if low + 1 < layout.restarts && mutant!(BlockSearchSkipsRestart) {
        low += 1;
    }
    Ok(low)
}
