//! What the writers write: a function of the seed, so that both processes know it without telling each other.
//!
//! Each client has its own keys and numbers its steps from 0 on, over all lives of the process. The step of a number writes one partition,
//! and the partitions of `PARTITIONS` steps in a row differ: no two steps that are under way at a time touch the same key, so the versions
//! of a key have an order. A value begins with its key and the number of its step and is random to its end.

use siltstone_io::Random;

/// Threads that write.
pub(crate) const CLIENTS: usize = 4;
/// Partitions of each client: prime, so that a walk by a constant stride meets all.
pub(crate) const PARTITIONS: u64 = 503;
/// Keys of a partition.
pub(crate) const MEMBERS: u64 = 4;
/// All keys there are.
pub(crate) const KEYS: usize = CLIENTS * (PARTITIONS * MEMBERS) as usize;
/// Bytes of a key that decide where it belongs.
pub(crate) const PREFIX_BYTES: u16 = 8;

const STRIDE: u64 = 211;
const HEAD_BYTES: usize = 16;

/// How a step is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    /// By the engine's put or delete.
    Single,
    /// As a batch.
    Batch,
    /// By an operator that reads each key before it writes it.
    Operator,
}

/// The writes of one step.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    pub(crate) how: How,
    /// Each key, and whether it is put (else deleted).
    pub(crate) writes: Vec<(u32, bool)>,
}

/// The step of a client with this number.
pub(crate) fn step(seed: u64, client: usize, number: u64) -> Step {
    let mut random = Random::new(seed ^ (client as u64) << 56 ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let first = first_key(client, number);
    let how = match random.below(4) {
        0 | 1 => How::Single,
        2 => How::Batch,
        _ => How::Operator,
    };
    let count = if how == How::Single { 1 } else { 2 + random.below(MEMBERS - 1) };
    let start = random.below(MEMBERS);
    let writes = (0..count).map(|index| (first + ((start + index) % MEMBERS) as u32, random.below(5) > 0)).collect();
    Step { how, writes }
}

fn first_key(client: usize, number: u64) -> u32 {
    ((client as u64 * PARTITIONS + number.wrapping_mul(STRIDE) % PARTITIONS) * MEMBERS) as u32
}

/// The client that writes a key.
pub(crate) fn client_of(key: u32) -> usize {
    key as usize / (PARTITIONS * MEMBERS) as usize
}

/// The bytes of a key: the partition, then the member.
pub(crate) fn key_bytes(key: u32) -> [u8; 9] {
    let mut bytes = *b"p0000000.";
    let mut partition = u64::from(key) / MEMBERS;
    for digit in bytes[1..8].iter_mut().rev() {
        *digit = b'0' + (partition % 10) as u8;
        partition /= 10;
    }
    bytes[8] = b'a' + (u64::from(key) % MEMBERS) as u8;
    bytes
}

/// The key of these bytes, where there is one.
pub(crate) fn key_of(bytes: &[u8]) -> Option<u32> {
    let partition: u64 = std::str::from_utf8(bytes.get(1..8)?).ok()?.parse().ok()?;
    let member = u64::from(bytes.get(8)?.checked_sub(b'a')?);
    let key = u32::try_from(partition * MEMBERS + member).ok()?;
    ((key as usize) < KEYS && key_bytes(key) == *bytes).then_some(key)
}

/// The value that a step gives a key.
pub(crate) fn value(seed: u64, key: u32, number: u64, bytes_max: usize) -> Vec<u8> {
    let mut random = Random::new(seed ^ u64::from(key) << 32 ^ number.wrapping_mul(0xd134_2543_de82_ef95));
    let longest = if random.below(4) == 0 { bytes_max } else { bytes_max / 4 };
    let mut value = vec![0; HEAD_BYTES + random.below(longest as u64 + 1) as usize];
    value[..8].copy_from_slice(&u64::from(key).to_le_bytes());
    value[8..HEAD_BYTES].copy_from_slice(&number.to_le_bytes());
    random.fill(&mut value[HEAD_BYTES..]);
    value
}

/// The number in a value, whatever else it holds.
pub(crate) fn number_of(value: &[u8]) -> u64 {
    value.get(8..HEAD_BYTES).and_then(|bytes| bytes.try_into().ok()).map_or(u64::MAX, u64::from_le_bytes)
}
