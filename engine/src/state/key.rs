//! How a key becomes bytes: order-preserving, so that ordered iteration over the bytes is ordered iteration over the keys.
//!
//! A key has two encodings. The *whole* encoding is used where nothing follows it and need not delimit itself: a string is its bytes.
//! The *part* encoding is used where something follows (all members of a tuple but the last) and delimits itself.
//!
//! ```text
//!  type              whole and part
//!  u8 .. u128        big-endian
//!  i8 .. i128        big-endian, sign bit flipped, so that negative numbers sort first
//!  bool              0 or 1
//!  [u8; N]           the bytes
//!
//!  type              whole              part
//!  String, Vec<u8>   the bytes          the bytes with 00 written as 00 FF, then 00 00
//!  (A, B, C)         part(A) part(B) whole(C)      part(A) part(B) part(C)
//! ```
//!
//! Invariants: 1. `a < b` exactly if `encode(a) < encode(b)` as bytes, in both encodings; 2. no part encoding is a prefix of another of
//! its type; 3. decoding accepts exactly what encoding produces.

use super::buf::EncodeBuf;
use crate::{Error, Result};

/// A type that can be the key of a state, or of an entry of a [`MapState`](super::MapState).
///
/// Implemented for integers, `bool`, `String`, `Vec<u8>`, `[u8; N]`, `()` and tuples of two and three. A type of your own implements the
/// two `part` methods; the encoding must sort as the type does and must not be a prefix of another key's.
///
/// ```
/// use siltstone::state::{EncodeBuf, KeyCodec};
/// use siltstone::Result;
///
/// #[derive(Debug, PartialEq)]
/// struct UserId(u64);
///
/// impl KeyCodec for UserId {
///     fn encode_part(&self, out: &mut EncodeBuf) {
///         self.0.encode_part(out);
///     }
///     fn decode_part(bytes: &mut &[u8]) -> Result<Self> {
///         u64::decode_part(bytes).map(UserId)
///     }
/// }
///
/// let mut bytes = EncodeBuf::new();
/// UserId(7).encode_key(&mut bytes);
/// assert_eq!(UserId::decode_key(&bytes)?, UserId(7));
/// # Ok::<(), siltstone::Error>(())
/// ```
pub trait KeyCodec: Sized {
    /// Appends the encoding that delimits itself.
    fn encode_part(&self, out: &mut EncodeBuf);

    /// Takes an encoding of [`encode_part`](Self::encode_part) off the front of `bytes`; [`Error::Codec`] where it is none.
    fn decode_part(bytes: &mut &[u8]) -> Result<Self>;

    /// Appends the encoding for where nothing follows.
    #[inline]
    fn encode_key(&self, out: &mut EncodeBuf) {
        self.encode_part(out);
    }

    /// Decodes an encoding of [`encode_key`](Self::encode_key); [`Error::Codec`] where it is none.
    #[inline]
    fn decode_key(mut bytes: &[u8]) -> Result<Self> {
        let key = Self::decode_part(&mut bytes)?;
        expect_end(bytes)?;
        Ok(key)
    }
}

fn malformed(reason: impl Into<String>) -> Error {
    Error::Codec { what: "a key", reason: reason.into() }
}

fn expect_end(bytes: &[u8]) -> Result<()> {
    if bytes.is_empty() { Ok(()) } else { Err(malformed(format!("{} bytes too many", bytes.len()))) }
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Result<[u8; N]> {
    let Some((head, rest)) = bytes.split_first_chunk::<N>() else {
        return Err(malformed(format!("{} bytes where {N} are needed", bytes.len())));
    };
    *bytes = rest;
    Ok(*head)
}

macro_rules! unsigned {
    ($($type:ty),*) => {$(
        impl KeyCodec for $type {
            #[inline]
            fn encode_part(&self, out: &mut EncodeBuf) {
                out.extend_from_slice(&self.to_be_bytes());
            }

            #[inline]
            fn decode_part(bytes: &mut &[u8]) -> Result<Self> {
                take(bytes).map(<$type>::from_be_bytes)
            }
        }
    )*};
}

macro_rules! signed {
    ($($type:ty),*) => {$(
        impl KeyCodec for $type {
            #[inline]
            fn encode_part(&self, out: &mut EncodeBuf) {
                out.extend_from_slice(&(*self ^ <$type>::MIN).to_be_bytes());
            }

            #[inline]
            fn decode_part(bytes: &mut &[u8]) -> Result<Self> {
                take(bytes).map(|raw| <$type>::from_be_bytes(raw) ^ <$type>::MIN)
            }
        }
    )*};
}

unsigned!(u8, u16, u32, u64, u128);
signed!(i8, i16, i32, i64, i128);

impl KeyCodec for bool {
    fn encode_part(&self, out: &mut EncodeBuf) {
        out.push(u8::from(*self));
    }

    fn decode_part(bytes: &mut &[u8]) -> Result<Self> {
        match take::<1>(bytes)? {
            [0] => Ok(false),
            [1] => Ok(true),
            [other] => Err(malformed(format!("{other} is no bool"))),
        }
    }
}

impl KeyCodec for () {
    fn encode_part(&self, _: &mut EncodeBuf) {}

    fn decode_part(_: &mut &[u8]) -> Result<Self> {
        Ok(())
    }
}

impl<const N: usize> KeyCodec for [u8; N] {
    fn encode_part(&self, out: &mut EncodeBuf) {
        out.extend_from_slice(self);
    }

    fn decode_part(bytes: &mut &[u8]) -> Result<Self> {
        take(bytes)
    }
}

impl KeyCodec for Vec<u8> {
    fn encode_part(&self, out: &mut EncodeBuf) {
        escape(self, out);
    }

    fn decode_part(bytes: &mut &[u8]) -> Result<Self> {
        unescape(bytes)
    }

    #[inline]
    fn encode_key(&self, out: &mut EncodeBuf) {
        out.extend_from_slice(self);
    }

    fn decode_key(bytes: &[u8]) -> Result<Self> {
        Ok(bytes.to_vec())
    }
}

impl KeyCodec for String {
    fn encode_part(&self, out: &mut EncodeBuf) {
        escape(self.as_bytes(), out);
    }

    fn decode_part(bytes: &mut &[u8]) -> Result<Self> {
        text(unescape(bytes)?)
    }

    #[inline]
    fn encode_key(&self, out: &mut EncodeBuf) {
        out.extend_from_slice(self.as_bytes());
    }

    fn decode_key(bytes: &[u8]) -> Result<Self> {
        text(bytes.to_vec())
    }
}

fn text(bytes: Vec<u8>) -> Result<String> {
    String::from_utf8(bytes).map_err(|error| malformed(error.to_string()))
}

/// 00 becomes 00 FF, and 00 00 ends the part: it sorts below every escaped or ordinary byte that could stand in its place.
fn escape(bytes: &[u8], out: &mut EncodeBuf) {
    for (index, run) in bytes.split(|&byte| byte == 0).enumerate() {
        if index > 0 {
            out.extend_from_slice(&[0x00, 0xff]);
        }
        out.extend_from_slice(run);
    }
    out.extend_from_slice(&[0x00, 0x00]);
}

fn unescape(bytes: &mut &[u8]) -> Result<Vec<u8>> {
    let mut plain = Vec::new();
    loop {
        let Some(zero) = bytes.iter().position(|&byte| byte == 0) else {
            return Err(malformed("a string within a tuple has no end"));
        };
        let (run, rest) = bytes.split_at(zero);
        plain.extend_from_slice(run);
        match rest {
            [0x00, 0x00, rest @ ..] => {
                *bytes = rest;
                return Ok(plain);
            }
            [0x00, 0xff, rest @ ..] => {
                *bytes = rest;
                plain.push(0);
            }
            _ => return Err(malformed("a string within a tuple has a zero byte that is not escaped")),
        }
    }
}

impl<A: KeyCodec, B: KeyCodec> KeyCodec for (A, B) {
    fn encode_part(&self, out: &mut EncodeBuf) {
        self.0.encode_part(out);
        self.1.encode_part(out);
    }

    fn decode_part(bytes: &mut &[u8]) -> Result<Self> {
        Ok((A::decode_part(bytes)?, B::decode_part(bytes)?))
    }

    fn encode_key(&self, out: &mut EncodeBuf) {
        self.0.encode_part(out);
        self.1.encode_key(out);
    }

    fn decode_key(mut bytes: &[u8]) -> Result<Self> {
        Ok((A::decode_part(&mut bytes)?, B::decode_key(bytes)?))
    }
}

impl<A: KeyCodec, B: KeyCodec, C: KeyCodec> KeyCodec for (A, B, C) {
    fn encode_part(&self, out: &mut EncodeBuf) {
        self.0.encode_part(out);
        self.1.encode_part(out);
        self.2.encode_part(out);
    }

    fn decode_part(bytes: &mut &[u8]) -> Result<Self> {
        Ok((A::decode_part(bytes)?, B::decode_part(bytes)?, C::decode_part(bytes)?))
    }

    fn encode_key(&self, out: &mut EncodeBuf) {
        self.0.encode_part(out);
        self.1.encode_part(out);
        self.2.encode_key(out);
    }

    fn decode_key(mut bytes: &[u8]) -> Result<Self> {
        Ok((A::decode_part(&mut bytes)?, B::decode_part(&mut bytes)?, C::decode_key(bytes)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::fmt::Debug;

    fn whole(key: &impl KeyCodec) -> Vec<u8> {
        let mut buf = EncodeBuf::new();
        key.encode_key(&mut buf);
        buf.to_vec()
    }

    fn part(key: &impl KeyCodec) -> Vec<u8> {
        let mut buf = EncodeBuf::new();
        key.encode_part(&mut buf);
        buf.to_vec()
    }

    fn check<K: KeyCodec + Ord + Debug>(a: &K, b: &K) {
        assert_eq!(&K::decode_key(&whole(a)).unwrap(), a);
        assert_eq!(whole(a).cmp(&whole(b)), a.cmp(b), "{a:?} {b:?}");
        assert_eq!(part(a).cmp(&part(b)), a.cmp(b), "{a:?} {b:?}");
        let both = [part(a), part(b)].concat();
        let mut rest = &both[..];
        assert_eq!(&K::decode_part(&mut rest).unwrap(), a);
        assert_eq!(&K::decode_part(&mut rest).unwrap(), b);
        assert!(rest.is_empty());
    }

    /// Bytes in which zero and 0xff, the ones that matter, are frequent.
    fn tricky_bytes() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(prop_oneof![Just(0u8), Just(1), Just(0xfe), Just(0xff), any::<u8>()], 0..6)
    }

    fn tricky_text() -> impl Strategy<Value = String> {
        prop::collection::vec(prop_oneof![Just('\0'), Just('\u{1}'), Just('a'), any::<char>()], 0..6)
            .prop_map(|chars| chars.into_iter().collect())
    }

    proptest! {
        #[test]
        fn integers_keep_their_order(a: i64, b: i64, c: u32, d: u32, e: i128, f: i128, g: i8, h: i8) {
            check(&a, &b);
            check(&c, &d);
            check(&e, &f);
            check(&g, &h);
        }

        #[test]
        fn bytes_and_strings_keep_their_order(a in tricky_bytes(), b in tricky_bytes(), c in tricky_text(), d in tricky_text()) {
            check(&a, &b);
            check(&c, &d);
        }

        #[test]
        fn tuples_keep_their_order(
            a in (tricky_bytes(), any::<i16>(), tricky_text()),
            b in (tricky_bytes(), any::<i16>(), tricky_text()),
        ) {
            check(&a, &b);
            check(&((a.0.clone(), a.1), a.2.clone()), &((b.0.clone(), b.1), b.2.clone()));
            check(&(a.0.clone(), a.2), &(a.0, b.2));
        }

        #[test]
        fn any_bytes_decode_to_a_key_that_encodes_to_them_or_are_refused(bytes in tricky_bytes()) {
            if let Ok(key) = <(Vec<u8>, bool, String)>::decode_key(&bytes) {
                prop_assert_eq!(whole(&key), bytes.clone());
            }
            if let Ok(key) = <(u16, [u8; 2], ())>::decode_key(&bytes) {
                prop_assert_eq!(whole(&key), bytes);
            }
        }
    }

    #[test]
    fn wrong_lengths_are_refused() {
        assert!(matches!(u64::decode_key(&[0; 7]), Err(Error::Codec { .. })));
        assert!(matches!(u64::decode_key(&[0; 9]), Err(Error::Codec { .. })));
        assert!(matches!(bool::decode_key(&[2]), Err(Error::Codec { .. })));
        assert!(matches!(String::decode_key(&[0xff]), Err(Error::Codec { .. })));
    }
}
