//! A running hash of what a disk was asked and what it answered.

use xxhash_rust::xxh3::xxh3_64;

const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

/// Two runs that differ in any event differ in the hash.
#[derive(Default)]
pub(super) struct Trace(u64);

impl Trace {
    pub(super) fn add<const WORDS: usize>(&mut self, event: [u64; WORDS]) {
        for word in event {
            self.0 = (self.0.rotate_left(23) ^ word).wrapping_mul(MULTIPLIER);
        }
    }

    pub(super) fn hash(&self) -> u64 {
        self.0 ^ (self.0 >> 32)
    }
}

/// The hash of a write's data; 0 where there is none.
pub(super) fn data_hash(data: Option<&[u8]>) -> u64 {
    data.map_or(0, xxh3_64)
}
