//! The buffer into which keys and values are encoded: short encodings stay on the stack.
//!
//! The buffer owns its bytes; a future that waits for a write keeps its buffers alive by holding them.

use std::fmt;
use std::ops::Deref;

use smallvec::SmallVec;

/// Encodings of up to this many bytes need no allocation. A flight's tail number takes 6 to 8 bytes, a window's accumulator about 20.
const INLINE_BYTES: usize = 64;

/// Bytes being encoded: a small vector that lives on the stack while it is short.
///
/// ```
/// use siltstone::state::EncodeBuf;
///
/// let mut buf = EncodeBuf::new();
/// buf.push(1);
/// buf.extend_from_slice(b"abc");
/// assert_eq!(&*buf, b"\x01abc");
/// ```
#[derive(Clone, Default)]
pub struct EncodeBuf(SmallVec<[u8; INLINE_BYTES]>);

impl EncodeBuf {
    /// An empty buffer.
    #[inline]
    pub fn new() -> Self {
        EncodeBuf(SmallVec::new())
    }

    /// Appends one byte.
    #[inline]
    pub fn push(&mut self, byte: u8) {
        self.0.push(byte);
    }

    /// Appends bytes.
    #[inline]
    pub fn extend_from_slice(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// Replaces the bytes from `at` on by as many others.
    #[inline]
    pub(crate) fn overwrite(&mut self, at: usize, bytes: &[u8]) {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// Appends an unsigned integer in LEB128: seven bits a byte, least significant first, the high bit set on all but the last.
    #[inline]
    pub(crate) fn push_varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.push(value as u8);
    }
}

impl Deref for EncodeBuf {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl AsRef<[u8]> for EncodeBuf {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for EncodeBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

/// Takes a LEB128 integer off the front of `bytes`; `None` where it is cut short or larger than 64 bits.
#[inline]
pub(crate) fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        let part = u64::from(byte & 0x7f);
        if shift == 63 && part > 1 {
            return None;
        }
        value |= part << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn holds_what_was_appended(parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..8)) {
            let mut buf = EncodeBuf::new();
            for part in &parts {
                buf.extend_from_slice(part);
            }
            prop_assert_eq!(&*buf, &parts.concat()[..]);
        }

        #[test]
        fn varints_round_trip(value: u64, rest: Vec<u8>) {
            let mut buf = EncodeBuf::new();
            buf.push_varint(value);
            buf.extend_from_slice(&rest);
            let mut bytes = &*buf;
            prop_assert_eq!(take_varint(&mut bytes), Some(value));
            prop_assert_eq!(bytes, &rest[..]);
        }

        #[test]
        fn any_bytes_are_a_varint_or_refused(bytes: Vec<u8>) {
            let mut rest = &bytes[..];
            if take_varint(&mut rest).is_some() {
                prop_assert!(rest.len() < bytes.len());
            }
        }
    }

    #[test]
    fn varint_over_64_bits_is_refused() {
        assert_eq!(take_varint(&mut &[0xff; 9][..]), None);
        assert_eq!(take_varint(&mut &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02][..]), None);
        assert_eq!(take_varint(&mut &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01][..]), Some(u64::MAX));
    }
}
