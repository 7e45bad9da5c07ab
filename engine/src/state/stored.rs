//! The keys under which states are stored, made so that everything of one key lives in one key group, in order.
//!
//! ```text
//!  value, reducing, aggregating   key                                  partition part: all of it
//!  map, list                      key_bytes u16 BE | key | suffix      partition part: key
//!  timer                          time u64 BE, sign flipped | key      partition part: key
//! ```
//!
//! In all three the partition part is the whole encoding of the state's key, so that states of different kinds and
//! [`Engine::on_shard`](crate::Engine::on_shard) agree on the shard of a key.

use super::buf::EncodeBuf;
use super::key::KeyCodec;
use crate::{Error, Result};

/// Bytes of the length in front of a prefixed key.
const LENGTH_BYTES: usize = 2;

/// The bytes by which [`Engine::on_shard`](crate::Engine::on_shard) finds the shard where the states of `key` live.
///
/// ```
/// use siltstone::state::partition_of;
///
/// assert_eq!(&*partition_of(&"N14228".to_string()), b"N14228");
/// assert_eq!(&*partition_of(&258u16), &[1, 2]);
/// ```
#[inline]
pub fn partition_of<K: KeyCodec>(key: &K) -> EncodeBuf {
    let mut buf = EncodeBuf::new();
    key.encode_key(&mut buf);
    buf
}

/// The length and the key: what all entries of one map or list start with.
#[inline]
pub(super) fn prefixed<K: KeyCodec>(key: &K) -> Result<EncodeBuf> {
    let mut buf = EncodeBuf::new();
    buf.extend_from_slice(&[0; LENGTH_BYTES]);
    key.encode_key(&mut buf);
    let key_bytes = buf.len() - LENGTH_BYTES;
    let Ok(length) = u16::try_from(key_bytes) else {
        return Err(Error::InvalidArgument(format!("a key of {key_bytes} bytes: at most {} are allowed", u16::MAX)));
    };
    buf.overwrite(0, &length.to_be_bytes());
    Ok(buf)
}

/// Takes a stored key of a map or list apart: the key and the suffix.
pub(crate) fn split_prefixed(stored: &[u8]) -> Result<(&[u8], &[u8])> {
    stored
        .split_first_chunk::<LENGTH_BYTES>()
        .and_then(|(length, rest)| rest.split_at_checked(usize::from(u16::from_be_bytes(*length))))
        .ok_or_else(|| {
            Error::corruption("key of a map or list", format!("{} bytes, shorter than it says", stored.len()))
        })
}

/// The stored key of a timer.
#[inline]
pub(super) fn timer<K: KeyCodec>(time_ms: i64, key: &K) -> EncodeBuf {
    let mut buf = EncodeBuf::new();
    time_ms.encode_part(&mut buf);
    key.encode_key(&mut buf);
    buf
}

/// Takes a stored timer apart: its time and its key.
pub(crate) fn split_timer(mut stored: &[u8]) -> Result<(i64, &[u8])> {
    match i64::decode_part(&mut stored) {
        Ok(time_ms) => Ok((time_ms, stored)),
        Err(_) => Err(Error::corruption("timer", format!("{} bytes, too short for its time", stored.len()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn prefixed_keys_come_apart(key: Vec<u8>, suffix: Vec<u8>) {
            let mut stored = prefixed(&key).unwrap();
            stored.extend_from_slice(&suffix);
            prop_assert_eq!(split_prefixed(&stored).unwrap(), (&key[..], &suffix[..]));
        }

        #[test]
        fn timers_sort_by_time_and_then_key(a: (i64, Vec<u8>), b: (i64, Vec<u8>)) {
            let (x, y) = (timer(a.0, &a.1), timer(b.0, &b.1));
            prop_assert_eq!(x.cmp(&*y), a.cmp(&b));
            prop_assert_eq!(split_timer(&x).unwrap(), (a.0, &a.1[..]));
        }

        #[test]
        fn any_bytes_come_apart_or_are_refused(bytes: Vec<u8>) {
            let _ = split_prefixed(&bytes);
            prop_assert_eq!(split_timer(&bytes).is_ok(), bytes.len() >= 8);
        }
    }

    #[test]
    fn a_key_over_64_kib_is_refused() {
        assert!(matches!(prefixed(&vec![0u8; 65_536]), Err(Error::InvalidArgument(_))));
        assert!(prefixed(&vec![0u8; 65_535]).is_ok());
    }
}
