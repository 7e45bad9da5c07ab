//! Where among the versions of a key a search starts.

use std::cmp::Ordering;

use crate::table::coding::compare;
use crate::types::{ReadView, Trailer};

/// A place among the versions of one key, which lie newest first: a search with it starts at the first version whose
/// trailer is at most this.
///
/// With a key it is a position in the order of entries: key ascending, trailer descending.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct VersionBound(u64);

impl VersionBound {
    /// Before all versions of the key.
    #[cfg(test)]
    pub(crate) const NEWEST: VersionBound = VersionBound(u64::MAX);
    /// At the oldest trailer that there can be.
    #[cfg(test)]
    pub(crate) const OLDEST: VersionBound = VersionBound(0);

    /// Before the newest version that the view sees.
    #[inline]
    pub(crate) fn of(view: &ReadView) -> Self {
        let newest = match view.hole {
            Some((low, high)) if low < view.upper && view.upper < high => low,
            _ => view.upper,
        };
        VersionBound(newest.0 << 8 | 0xff)
    }

    /// Whether the entry `(entry_key, trailer)` lies before `(key, self)`.
    #[inline]
    pub(in crate::table) fn is_after(self, key: &[u8], entry_key: &[u8], trailer: Trailer) -> bool {
        match compare(entry_key, key) {
            Ordering::Less => true,
            Ordering::Equal => trailer.as_u64() > self.0,
            Ordering::Greater => false,
        }
    }

    /// Whether a version of the same key lies before this place.
    #[inline]
    pub(in crate::table) fn is_after_version(self, trailer: Trailer) -> bool {
        trailer.as_u64() > self.0
    }

    /// Whether this is exactly the version with the trailer.
    #[inline]
    pub(in crate::table) fn is_version(self, trailer: Trailer) -> bool {
        trailer.as_u64() == self.0
    }
}

impl From<Trailer> for VersionBound {
    #[inline]
    fn from(trailer: Trailer) -> Self {
        VersionBound(trailer.as_u64())
    }
}
