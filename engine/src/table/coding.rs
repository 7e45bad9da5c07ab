//! The small codecs under every block: varints, trailers, checked fixed-width reads.
//!
//! A *varint* is LEB128: seven bits a byte, lowest first, the top bit set on all bytes but the last.
//!
//! A *stored trailer* is the varint of `seq << 3 | kind`. Sequence number 0, which compaction gives to entries that
//! every reader sees, costs one byte; the in-memory word (`seq << 8 | kind`) would cost two.
//!
//! A *length pair* says how a key is stored: the bytes it shares with the key before (upper nibble) and those that
//! follow (lower). A nibble of 15 means that the rest, the length less 15, follows as a varint; first the upper's.
//! Short keys, the common case, cost one byte.
//!
//! Readers return `None` on anything malformed; callers turn that into a corruption error that names their structure.

use std::cmp::Ordering;

use crate::types::{SeqNo, Trailer};

const KIND_BITS: u32 = 3;

/// Appends the varint of `value`.
#[inline]
pub(super) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// How many bytes the varint of `value` takes.
#[inline]
pub(super) const fn varint_bytes(value: u64) -> usize {
    let bits = 64 - (value | 1).leading_zeros() as usize;
    bits.div_ceil(7)
}

/// Reads a varint at `*at` and moves `*at` behind it.
#[inline]
pub(super) fn varint(bytes: &[u8], at: &mut usize) -> Option<u64> {
    let first = *bytes.get(*at)?;
    *at += 1;
    if first < 0x80 {
        return Some(u64::from(first));
    }
    varint_rest(bytes, at, u64::from(first & 0x7f))
}

/// Of varints of two to eight bytes the length is data, not a chain of branches to guess; then the groups of seven bits
/// are closed up.
#[inline]
fn varint_rest(bytes: &[u8], at: &mut usize, first: u64) -> Option<u64> {
    if let Some(chunk) = bytes.get(*at - 1..).and_then(|rest| rest.first_chunk::<8>()) {
        let word = u64::from_le_bytes(*chunk);
        let stop = !word & 0x8080_8080_8080_8080;
        if stop != 0 {
            *at += (stop.trailing_zeros() / 8) as usize;
            let w = word & (stop ^ (stop - 1)) & 0x7f7f_7f7f_7f7f_7f7f;
            let w = (w & 0x007f_007f_007f_007f) | (w & 0x7f00_7f00_7f00_7f00) >> 1;
            let w = (w & 0x0000_3fff_0000_3fff) | (w & 0x3fff_0000_3fff_0000) >> 2;
            return Some((w & 0x0000_0000_0fff_ffff) | (w & 0x0fff_ffff_0000_0000) >> 4);
        }
    }
    varint_by_byte(bytes, at, first)
}

#[cold]
fn varint_by_byte(bytes: &[u8], at: &mut usize, mut value: u64) -> Option<u64> {
    let mut shift = 7;
    loop {
        let byte = *bytes.get(*at)?;
        *at += 1;
        // The tenth byte has room for one bit.
        if shift == 63 && byte > 1 {
            return None;
        }
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
        shift += 7;
    }
}

/// Reads a varint that must fit a `u32`: a length.
#[inline]
pub(super) fn length(bytes: &[u8], at: &mut usize) -> Option<usize> {
    let value = varint(bytes, at)?;
    u32::try_from(value).ok().map(|value| value as usize)
}

/// A nibble of a length pair with this value goes on in a varint.
const NIBBLE_MAX: usize = 15;

/// Appends a length pair.
#[inline]
pub(super) fn put_length_pair(out: &mut Vec<u8>, shared: usize, suffix: usize) {
    out.push((shared.min(NIBBLE_MAX) << 4 | suffix.min(NIBBLE_MAX)) as u8);
    for length in [shared, suffix] {
        if let Some(rest) = length.checked_sub(NIBBLE_MAX) {
            put_varint(out, rest as u64);
        }
    }
}

/// How many bytes a length pair takes.
#[inline]
pub(super) fn length_pair_bytes(shared: usize, suffix: usize) -> usize {
    let rest = |length: usize| length.checked_sub(NIBBLE_MAX).map_or(0, |rest| varint_bytes(rest as u64));
    1 + rest(shared) + rest(suffix)
}

/// Reads a length pair: shared bytes, bytes that follow.
#[inline]
pub(super) fn length_pair(bytes: &[u8], at: &mut usize) -> Option<(usize, usize)> {
    let pair = usize::from(*bytes.get(*at)?);
    *at += 1;
    let (mut shared, mut suffix) = (pair >> 4, pair & NIBBLE_MAX);
    if shared == NIBBLE_MAX {
        shared = shared.checked_add(length(bytes, at)?)?;
    }
    if suffix == NIBBLE_MAX {
        suffix = suffix.checked_add(length(bytes, at)?)?;
    }
    Some((shared, suffix))
}

/// The number that stands for a trailer in a block.
#[inline]
pub(super) fn trailer_code(trailer: Trailer) -> u64 {
    trailer.seq().0 << KIND_BITS | trailer.kind() as u64
}

/// The trailer for which a number stands; `None` where the kind is unknown or the sequence number too large.
#[inline]
pub(super) fn trailer_from_code(code: u64) -> Option<Trailer> {
    let seq = code >> KIND_BITS;
    if seq > SeqNo::MAX.0 {
        return None;
    }
    Trailer::from_u64(seq << 8 | code & ((1 << KIND_BITS) - 1))
}

/// Compares two keys; where the first eight bytes decide, without a call.
#[inline]
pub(super) fn compare(a: &[u8], b: &[u8]) -> Ordering {
    if let (Some(head_a), Some(head_b)) = (a.first_chunk::<8>(), b.first_chunk::<8>()) {
        let (head_a, head_b) = (u64::from_be_bytes(*head_a), u64::from_be_bytes(*head_b));
        if head_a != head_b {
            return head_a.cmp(&head_b);
        }
    }
    a.cmp(b)
}

/// The first eight bytes of a key as a number that sorts as they do, zeros where there are fewer. Different heads order
/// their keys; equal ones say nothing.
#[inline]
pub(super) fn head(key: &[u8]) -> u64 {
    if let Some(chunk) = key.first_chunk::<8>() {
        return u64::from_be_bytes(*chunk);
    }
    let mut chunk = [0; 8];
    chunk[..key.len()].copy_from_slice(key);
    u64::from_be_bytes(chunk)
}

/// The head of the key that takes `key_bytes` at offset `at` of a block. Reads behind a short key instead of copying
/// it.
#[inline]
pub(super) fn head_at(block: &[u8], at: usize, key_bytes: usize) -> Option<u64> {
    let Some(chunk) = block.get(at..)?.first_chunk::<8>() else {
        return block.get(at..at.checked_add(key_bytes)?).map(head);
    };
    let word = u64::from_be_bytes(*chunk);
    Some(match key_bytes {
        0 => 0,
        1..8 => word & u64::MAX << (64 - 8 * key_bytes),
        _ => word,
    })
}

/// The number of leading bytes that two keys have in common.
#[inline]
pub(super) fn common_prefix(a: &[u8], b: &[u8]) -> usize {
    let limit = a.len().min(b.len());
    let mut at = 0;
    let (words_a, words_b) = (a.chunks_exact(8), b.chunks_exact(8));
    for (word_a, word_b) in words_a.zip(words_b) {
        let difference = word(word_a) ^ word(word_b);
        if difference != 0 {
            return at + (difference.trailing_zeros() / 8) as usize;
        }
        at += 8;
    }
    while at < limit && a[at] == b[at] {
        at += 1;
    }
    at
}

#[inline]
fn word(bytes: &[u8]) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(bytes);
    u64::from_le_bytes(word)
}

/// Reads a little-endian `u16` at a byte offset.
#[inline]
pub(super) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|chunk| u16::from_le_bytes(*chunk))
}

/// Reads a little-endian `u32` at a byte offset.
#[inline]
pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|chunk| u32::from_le_bytes(*chunk))
}

/// Reads a little-endian `u64` at a byte offset.
#[inline]
pub(super) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|chunk| u64::from_le_bytes(*chunk))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::types::Kind;

    proptest! {
        #[test]
        fn varints_read_back_and_take_the_bytes_foretold(
            value in prop_oneof![any::<u64>(), 0..70_000u64, (0..64u32).prop_map(|bit| 1 << bit)],
        ) {
            let mut bytes = vec![0xaa];
            put_varint(&mut bytes, value);
            prop_assert_eq!(bytes.len() - 1, varint_bytes(value));
            let mut at = 1;
            prop_assert_eq!(varint(&bytes, &mut at), Some(value));
            prop_assert_eq!(at, bytes.len());
            let followed = [bytes.as_slice(), &[0xff; 9]].concat();
            let mut at = 1;
            prop_assert_eq!(varint(&followed, &mut at), Some(value));
            prop_assert_eq!(at, bytes.len());
            let mut at = 1;
            prop_assert_eq!(length(&bytes, &mut at).map(|length| length as u64), u32::try_from(value).ok().map(u64::from));
            // Cut short it is refused.
            prop_assert_eq!(varint(&bytes[..bytes.len() - 1], &mut 1), None);
        }

        #[test]
        fn length_pairs_read_back_and_take_the_bytes_foretold(
            shared in prop_oneof![0..20usize, 0..40_000usize],
            suffix in prop_oneof![0..20usize, 0..40_000usize],
        ) {
            let mut bytes = Vec::new();
            put_length_pair(&mut bytes, shared, suffix);
            prop_assert_eq!(bytes.len(), length_pair_bytes(shared, suffix));
            let mut at = 0;
            prop_assert_eq!(length_pair(&bytes, &mut at), Some((shared, suffix)));
            prop_assert_eq!(at, bytes.len());
            prop_assert_eq!(length_pair(&bytes[..bytes.len() - 1], &mut 0), None);
        }

        #[test]
        fn trailers_read_back(seq in 0..=SeqNo::MAX.0, kind in 0..3u8) {
            let trailer = Trailer::new(SeqNo(seq), Kind::from_u8(kind).unwrap());
            prop_assert_eq!(trailer_from_code(trailer_code(trailer)), Some(trailer));
        }

        #[test]
        fn common_prefix_is_that_of_a_byte_loop(
            a in prop::collection::vec(0..2u8, 0..40),
            b in prop::collection::vec(0..2u8, 0..40),
            shared in prop::collection::vec(any::<u8>(), 0..40),
        ) {
            let (a, b) = ([shared.clone(), a].concat(), [shared, b].concat());
            let expected = a.iter().zip(&b).take_while(|(a, b)| a == b).count();
            prop_assert_eq!(common_prefix(&a, &b), expected);
            prop_assert_eq!(compare(&a, &b), a.cmp(&b));
            prop_assert!(head(&a) == head(&b) || head(&a).cmp(&head(&b)) == a.cmp(&b));
            let block = [a.as_slice(), &b].concat();
            prop_assert_eq!(head_at(&block, 0, a.len()), Some(head(&a)));
            prop_assert_eq!(head_at(&block, a.len(), b.len()), Some(head(&b)));
        }
    }

    #[test]
    fn malformed_numbers_are_refused() {
        assert_eq!(varint(&[0xff; 11], &mut 0), None);
        assert_eq!(varint(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2], &mut 0), None);
        assert_eq!(varint(&[], &mut 0), None);
        assert_eq!(trailer_from_code(3), None);
        assert_eq!(trailer_from_code(7), None);
        assert_eq!(trailer_from_code(!7), None);
    }

    #[test]
    fn sequence_number_zero_costs_one_byte() {
        assert_eq!(varint_bytes(trailer_code(Trailer::new(SeqNo(0), Kind::PutExpiring))), 1);
    }
}
