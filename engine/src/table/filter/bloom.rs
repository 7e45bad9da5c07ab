//! Hash, probes and bits of one filter partition.

use crate::table::block::{BlockHeader, BlockType, COUNT_AT, HEADER_BYTES};

/// A cache line, the unit within which all probes of a key fall.
pub(in crate::table) const FILTER_LINE_BYTES: usize = 64;
const LINE_BITS_LOG2: u32 = 9;
const _: () = assert!(1 << LINE_BITS_LOG2 == FILTER_LINE_BYTES * 8);

/// More probes than any sensible number of bits a key asks for.
pub(in crate::table) const FILTER_PROBES_MAX: u32 = 24;

/// 2^32 divided by the golden ratio: multiplying by it brings fresh bits to the top.
const GOLDEN: u32 = 0x9e37_79b9;

/// The hash under which a stored key, or a partition prefix, is in the filter.
#[inline]
pub(crate) fn key_hash(key: &[u8]) -> u64 {
    xxhash_rust::xxh3::xxh3_64(key)
}

/// Whether a filter partition may hold the key with this hash; `false` is certain.
#[inline]
pub(crate) fn filter_may_contain(bytes: &[u8], hash: u64) -> bool {
    let lines = (bytes.len() / FILTER_LINE_BYTES).saturating_sub(1);
    let start = FILTER_LINE_BYTES * (1 + line_of(hash, lines));
    let line = bytes.get(start..).and_then(|rest| rest.first_chunk::<FILTER_LINE_BYTES>());
    // A verified block has both; without them nothing can be excluded.
    let (Some(line), Some(&probes)) = (line, bytes.get(COUNT_AT)) else { return true };
    let mut h = hash as u32;
    for _ in 0..u32::from(probes).min(FILTER_PROBES_MAX) {
        let (byte, mask) = bit(h);
        if line[byte] & mask == 0 {
            return false;
        }
        h = h.wrapping_mul(GOLDEN);
    }
    true
}

/// How many hashes a partition of this size takes.
pub(in crate::table) fn capacity(page_bytes: usize, bits_per_key: u32) -> usize {
    (((page_bytes - FILTER_LINE_BYTES) * 8) / bits_per_key as usize).max(1)
}

/// Builds the partition with these hashes: one page, all but its checksum.
pub(super) fn build(hashes: &[u64], page_bytes: usize, bits_per_key: u32) -> Box<[u8]> {
    let mut page = vec![0; page_bytes].into_boxed_slice();
    let lines = page_bytes / FILTER_LINE_BYTES - 1;
    let probes = probes(bits_per_key);
    for &hash in hashes {
        let start = FILTER_LINE_BYTES * (1 + line_of(hash, lines));
        let line = &mut page[start..start + FILTER_LINE_BYTES];
        let mut h = hash as u32;
        for _ in 0..probes {
            let (byte, mask) = bit(h);
            line[byte] |= mask;
            h = h.wrapping_mul(GOLDEN);
        }
    }
    let header = BlockHeader {
        ty: BlockType::Filter,
        payload_bytes: (page_bytes - HEADER_BYTES) as u32,
        entries: hashes.len() as u32,
        count: probes,
    };
    header.write(&mut page);
    page
}

/// ln 2 times the bits a key is best for a filter without lines; with lines, some of which are fuller than others, a
/// little less is.
fn probes(bits_per_key: u32) -> u32 {
    (bits_per_key * 62 / 100).clamp(1, FILTER_PROBES_MAX)
}

#[inline]
fn line_of(hash: u64, lines: usize) -> usize {
    (((hash >> 32) * lines as u64) >> 32) as usize
}

#[inline]
fn bit(h: u32) -> (usize, u8) {
    let bit = h >> (32 - LINE_BITS_LOG2);
    ((bit / 8) as usize, 1 << (bit % 8))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_key_is_excluded_whatever_the_bits(hashes in prop::collection::vec(any::<u64>(), 0..100), bits in 1u32..=32, large: bool) {
            let page = build(&hashes, if large { 4096 } else { 512 }, bits);
            prop_assert!(hashes.iter().all(|&hash| filter_may_contain(&page, hash)));
        }

        #[test]
        fn any_bytes_answer(bytes in prop::collection::vec(any::<u8>(), 0..if cfg!(miri) { 80 } else { 600 }), hash: u64) {
            std::hint::black_box(filter_may_contain(&bytes, hash));
        }
    }

    fn hashes(from: u64, count: u64) -> Vec<u64> {
        (from..from + count).map(|key| key_hash(&key.to_be_bytes())).collect()
    }

    /// False positives over full partitions of their capacity.
    fn false_positive_rate(bits_per_key: u32, page_bytes: usize) -> f64 {
        let keys = capacity(page_bytes, bits_per_key) as u64;
        let (mut positives, mut probes) = (0_u64, 0_u64);
        for round in 0..20 {
            let page = build(&hashes(round << 40, keys), page_bytes, bits_per_key);
            positives +=
                hashes(round << 40 | 1 << 32, 10_000).iter().filter(|&&hash| filter_may_contain(&page, hash)).count()
                    as u64;
            probes += 10_000;
        }
        positives as f64 / probes as f64
    }

    #[test]
    fn every_key_put_in_is_found() {
        for page_bytes in [512, 4096, 65536] {
            let hashes = hashes(7, if cfg!(miri) { 100 } else { 3000 });
            let page = build(&hashes, page_bytes, 10);
            assert!(hashes.iter().all(|&hash| filter_may_contain(&page, hash)));
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "statistics over many hashes")]
    fn false_positives_are_as_few_as_the_bits_allow() {
        let rates = [4, 8, 10, 16, 20].map(|bits| false_positive_rate(bits, 4096));
        println!("false positive rates at 4, 8, 10, 16, 20 bits: {rates:?}");
        let limits = [0.17, 0.03, 0.012, 0.0018, 0.0007];
        for (rate, limit) in rates.iter().zip(limits) {
            assert!(*rate <= limit, "{rate} > {limit}");
        }
        assert!(false_positive_rate(10, 512) <= 0.0125);
    }

    #[test]
    fn bytes_that_are_no_filter_exclude_nothing() {
        for length in [0, 1, 63, 64, 127] {
            assert!(filter_may_contain(&vec![0; length], u64::MAX));
        }
    }
}
