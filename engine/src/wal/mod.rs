//! The records of the write-ahead log.
//!
//! The log itself (blocks, checksums, extents, atomic commits) is [`crate::log`]; this module says what is in a commit: any number
//! of batches, one after the other.
//!
//! ```text
//! batch:  base sequence u64 | operations u32 | operation ...
//! operation i (sequence = base + i):
//!         kind u8 | keyspace u32 | key bytes u32 | value bytes u32 | stored key | value
//! ```
//!
//! A batch lies in one commit, and a commit is replayed wholly or not at all: batches are atomic.

use crate::error::{Error, Result};
use crate::types::{KeyspaceId, Kind, SeqNo, Trailer};

const BATCH_HEADER_BYTES: usize = 12;
const OPERATION_HEADER_BYTES: usize = 13;

/// Appends one batch to a commit's payload.
pub(crate) struct BatchEncoder<'p> {
    payload: &'p mut Vec<u8>,
    count_at: usize,
    count: u32,
}

impl<'p> BatchEncoder<'p> {
    pub(crate) fn begin(payload: &'p mut Vec<u8>, base: SeqNo) -> Self {
        payload.extend_from_slice(&base.0.to_le_bytes());
        let count_at = payload.len();
        payload.extend_from_slice(&0u32.to_le_bytes());
        BatchEncoder { payload, count_at, count: 0 }
    }

    /// One operation; the value is given in two parts, stored one after the other.
    pub(crate) fn push(&mut self, kind: Kind, keyspace: KeyspaceId, key: &[u8], value: [&[u8]; 2]) {
        let payload = &mut *self.payload;
        payload.push(kind as u8);
        payload.extend_from_slice(&keyspace.0.to_le_bytes());
        payload.extend_from_slice(&(key.len() as u32).to_le_bytes());
        payload.extend_from_slice(&((value[0].len() + value[1].len()) as u32).to_le_bytes());
        payload.extend_from_slice(key);
        payload.extend_from_slice(value[0]);
        payload.extend_from_slice(value[1]);
        self.count += 1;
    }

    pub(crate) fn end(self) {
        self.payload[self.count_at..self.count_at + 4].copy_from_slice(&self.count.to_le_bytes());
    }
}

/// One operation as found in the log.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct WalOperation<'p> {
    pub(crate) keyspace: KeyspaceId,
    pub(crate) key: &'p [u8],
    pub(crate) trailer: Trailer,
    pub(crate) value: &'p [u8],
}

/// Reads the operations of a commit in order.
pub(crate) fn decode_commit<'p>(mut payload: &'p [u8], mut each: impl FnMut(WalOperation<'p>)) -> Result<()> {
    while !payload.is_empty() {
        let header = take(&mut payload, BATCH_HEADER_BYTES)?;
        let base = u64_at(header, 0);
        let count = u32_at(header, 8);
        if base.checked_add(u64::from(count)).is_none_or(|end| end > SeqNo::MAX.0) {
            return Err(Error::corruption("WAL record", format!("sequence numbers {base} + {count} are out of range")));
        }
        for index in 0..u64::from(count) {
            let header = take(&mut payload, OPERATION_HEADER_BYTES)?;
            let kind = Kind::from_u8(header[0])
                .ok_or_else(|| Error::corruption("WAL record", format!("unknown kind of entry {}", header[0])))?;
            let keyspace = KeyspaceId(u32_at(header, 1));
            let key = take(&mut payload, u32_at(header, 5) as usize)?;
            let value = take(&mut payload, u32_at(header, 9) as usize)?;
            if key.len() < 2 {
                return Err(Error::corruption("WAL record", format!("a stored key of {} bytes", key.len())));
            }
            if kind == Kind::PutExpiring && value.len() < size_of::<u64>() {
                return Err(Error::corruption("WAL record", "an expiring value without its expiry time"));
            }
            each(WalOperation { keyspace, key, trailer: Trailer::new(SeqNo(base + index), kind), value });
        }
    }
    Ok(())
}

fn take<'p>(payload: &mut &'p [u8], bytes: usize) -> Result<&'p [u8]> {
    match payload.split_at_checked(bytes) {
        Some((taken, rest)) => {
            *payload = rest;
            Ok(taken)
        }
        None => Err(Error::corruption("WAL record", format!("{bytes} bytes announced, {} left", payload.len()))),
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Operation = (u8, u32, Vec<u8>, Vec<u8>);

    fn operation() -> impl Strategy<Value = Operation> {
        (0u8..3, any::<u32>(), prop::collection::vec(any::<u8>(), 2..40), prop::collection::vec(any::<u8>(), 8..100))
    }

    proptest! {
        #[test]
        fn what_was_encoded_is_decoded(batches in prop::collection::vec((0u64..1 << 50, prop::collection::vec(operation(), 0..10)), 0..5)) {
            let mut payload = Vec::new();
            let mut expected = Vec::new();
            for (base, operations) in &batches {
                let mut encoder = BatchEncoder::begin(&mut payload, SeqNo(*base));
                for (index, (kind, keyspace, key, value)) in operations.iter().enumerate() {
                    let kind = Kind::from_u8(*kind).unwrap();
                    encoder.push(kind, KeyspaceId(*keyspace), key, <[&[u8]; 2]>::from(value.split_at(value.len() / 2)));
                    let trailer = Trailer::new(SeqNo(base + index as u64), kind);
                    expected.push(WalOperation { keyspace: KeyspaceId(*keyspace), key, trailer, value });
                }
                encoder.end();
            }
            let mut found = Vec::new();
            decode_commit(&payload, |operation| found.push(operation)).unwrap();
            prop_assert_eq!(found, expected);
        }

        /// The records have no checksum of their own (the log's blocks do): a flip may go unnoticed here, but what is decoded lies in the payload.
        #[test]
        fn a_damaged_commit_decodes_within_its_bytes_or_is_corruption(
            operations in prop::collection::vec(operation(), 1..6), at: prop::sample::Index, bit in 0u8..8,
        ) {
            let mut payload = Vec::new();
            let mut encoder = BatchEncoder::begin(&mut payload, SeqNo(1 << 40));
            for (kind, keyspace, key, value) in &operations {
                encoder.push(Kind::from_u8(*kind).unwrap(), KeyspaceId(*keyspace), key, [value, &[]]);
            }
            encoder.end();
            let at = at.index(payload.len());
            payload[at] ^= 1 << bit;
            let mut bytes = 0;
            let decoded = decode_commit(&payload, |operation| {
                bytes += OPERATION_HEADER_BYTES + operation.key.len() + operation.value.len();
            });
            prop_assert!(bytes <= payload.len());
            prop_assert!(decoded.is_ok() || decoded.unwrap_err().is_corruption());
        }

        #[test]
        fn arbitrary_bytes_never_panic(payload in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode_commit(&payload, |_| ());
        }
    }

    #[test]
    fn a_cut_commit_is_corruption() {
        let mut payload = Vec::new();
        let mut encoder = BatchEncoder::begin(&mut payload, SeqNo(7));
        encoder.push(Kind::Put, KeyspaceId(1), b"\0\0key", [b"val", b"ue"]);
        encoder.end();
        for cut in 1..payload.len() {
            assert!(decode_commit(&payload[..cut], |_| ()).unwrap_err().is_corruption(), "cut at {cut}");
        }
    }
}
