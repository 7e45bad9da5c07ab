//! What is known of an SST as a whole.

use crate::types::{Kind, SeqNo, Trailer};

/// Facts about an SST, kept in its directory and, from its writing, in the manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Properties {
    /// Number of entries.
    pub(crate) entries: u64,
    /// How many of them are deletions.
    pub(crate) tombstones: u64,
    /// The smallest sequence number of an entry.
    pub(crate) min_seq: SeqNo,
    /// The largest sequence number of an entry.
    pub(crate) max_seq: SeqNo,
    /// The smallest stored key.
    pub(crate) smallest: Box<[u8]>,
    /// The largest stored key.
    pub(crate) largest: Box<[u8]>,
    /// Bytes of keys and values as given, before prefix compression.
    pub(crate) raw_bytes: u64,
    /// The earliest expiry of an entry, milliseconds; `u64::MAX` where none expires.
    pub(crate) min_expiry_ms: u64,
    /// The time from which every entry is expired, milliseconds; `u64::MAX` where one never is. Deletions never expire.
    pub(crate) max_expiry_ms: u64,
    /// When it was written, as the caller of the builder said, milliseconds.
    pub(crate) created_ms: u64,
    /// How many data blocks there are.
    pub(crate) data_blocks: u32,
    /// How many pages they take: pages 0 up to this one.
    pub(crate) data_pages: u32,
    /// Whether every key was added with its partition prefix, so that the filter can answer for prefixes.
    pub(crate) prefix_filter: bool,
}

impl Properties {
    /// Those of an SST without entries.
    pub(super) fn empty(created_ms: u64) -> Self {
        Properties {
            entries: 0,
            tombstones: 0,
            min_seq: SeqNo::MAX,
            max_seq: SeqNo(0),
            smallest: Box::default(),
            largest: Box::default(),
            raw_bytes: 0,
            min_expiry_ms: u64::MAX,
            max_expiry_ms: 0,
            created_ms,
            data_blocks: 0,
            data_pages: 0,
            prefix_filter: true,
        }
    }

    /// Counts an entry in; the keys are the builder's to set.
    #[inline]
    pub(super) fn count(&mut self, key: &[u8], trailer: Trailer, value: &[u8]) {
        self.entries += 1;
        self.raw_bytes += (key.len() + value.len()) as u64;
        self.min_seq = self.min_seq.min(trailer.seq());
        self.max_seq = self.max_seq.max(trailer.seq());
        match trailer.kind() {
            Kind::PutExpiring => {
                let expiry = value.first_chunk().expect("the value of an expiring put starts with its expiry time");
                let expiry_ms = u64::from_le_bytes(*expiry);
                self.min_expiry_ms = self.min_expiry_ms.min(expiry_ms);
                self.max_expiry_ms = self.max_expiry_ms.max(expiry_ms);
            }
            Kind::Delete => {
                self.tombstones += 1;
                self.max_expiry_ms = u64::MAX;
            }
            Kind::Put => self.max_expiry_ms = u64::MAX,
        }
    }
}
