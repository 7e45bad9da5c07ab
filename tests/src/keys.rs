//! Random keys and values: keys from a small space, so that they meet again; values of all sizes, now and then greater than a page or an extent.

use siltstone::Partition;
use siltstone_io::Random;

/// The bytes of which keys consist: those at the ends of the order, and some between.
const ALPHABET: [u8; 5] = [0, b'a', b'b', b'c', 0xff];

/// A key for a keyspace with this partition.
pub fn key(random: &mut Random, partition: Partition) -> Vec<u8> {
    let mut key = Vec::new();
    if partition == Partition::LengthPrefixed && !random.chance(0.05) {
        let bytes = random.below(3) as u16;
        key.extend_from_slice(&bytes.to_be_bytes());
    }
    let letters = 1 + random.below(5);
    key.extend((0..letters).map(|_| letter(random)));
    if random.chance(0.002) {
        key.resize(5000, b'x');
    }
    key
}

/// A prefix or bound: short, maybe empty.
pub fn prefix(random: &mut Random, partition: Partition) -> Vec<u8> {
    let mut prefix = key(random, partition);
    prefix.truncate(random.below(5) as usize);
    prefix
}

/// A value. `number` makes it differ from all others.
pub fn value(random: &mut Random, number: u64) -> Vec<u8> {
    let bytes = match random.below(1000) {
        0..2 => 60_000 + random.below(90_000),
        2..20 => 3000 + random.below(12_000),
        20..120 => random.below(2000),
        120..160 => 0,
        _ => random.below(60),
    };
    let mut value = vec![0; bytes as usize];
    random.fill(&mut value);
    let number = number.to_le_bytes();
    let head = value.len().min(8);
    value[..head].copy_from_slice(&number[..head]);
    value
}

fn letter(random: &mut Random) -> u8 {
    ALPHABET[random.below(ALPHABET.len() as u64) as usize]
}
