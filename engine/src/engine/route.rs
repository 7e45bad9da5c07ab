//! From a key to its key group and shard.

use std::ops::Range;

use smallvec::SmallVec;
use xxhash_rust::xxh3::xxh3_64;

use crate::types::KeyGroup;

/// Bytes of the key group in front of each stored key.
pub(crate) const GROUP_BYTES: usize = 2;

/// A stored key: the key group (u16, big-endian) and the user's key. Short ones need no allocation.
pub(crate) type StoredKey = SmallVec<[u8; 64]>;

/// The key group of a partition part.
#[inline]
pub(crate) fn group_of(partition: &[u8], key_groups: u32) -> KeyGroup {
    // Multiply-shift maps the hash to 0..key_groups without a division.
    let hash = xxh3_64(partition);
    KeyGroup(((u128::from(hash) * u128::from(key_groups)) >> 64) as u16)
}

/// The groups that a shard owns: contiguous, and as equal as can be.
pub(crate) fn groups_of_shard(shard: usize, shards: usize, key_groups: u32) -> Range<u32> {
    let border = |index: usize| (u64::from(key_groups) * index as u64 / shards as u64) as u32;
    border(shard)..border(shard + 1)
}

/// The shard that owns a group: the inverse of [`groups_of_shard`].
#[inline]
pub(crate) fn shard_of_group(group: KeyGroup, shards: usize, key_groups: u32) -> usize {
    // The last shard whose first group is at most this one.
    let guess = ((u64::from(group.0) + 1) * shards as u64).div_ceil(u64::from(key_groups)) as usize;
    guess - 1
}

/// Puts the group before the key.
#[inline]
pub(crate) fn stored_key(group: KeyGroup, key: &[u8]) -> StoredKey {
    let mut stored = StoredKey::new();
    stored.extend_from_slice(&group.0.to_be_bytes());
    stored.extend_from_slice(key);
    stored
}

/// The user's part of a stored key.
#[inline]
pub(crate) fn user_key(stored: &[u8]) -> &[u8] {
    stored.get(GROUP_BYTES..).unwrap_or_default()
}

/// The group of a stored key.
#[inline]
pub(crate) fn stored_group(stored: &[u8]) -> Option<KeyGroup> {
    stored.first_chunk::<GROUP_BYTES>().map(|bytes| KeyGroup(u16::from_be_bytes(*bytes)))
}

/// The smallest byte string greater than every one with this prefix; `None` where there is none.
pub(crate) fn prefix_successor(prefix: &[u8]) -> Option<Vec<u8>> {
    let keep = prefix.iter().rposition(|&byte| byte != 0xff)?;
    let mut successor = prefix[..=keep].to_vec();
    successor[keep] += 1;
    Some(successor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_group_has_one_shard_and_both_directions_agree() {
        let all = [1u32, 2, 7, 64, 1000, 1024, 32_768];
        for &key_groups in if cfg!(miri) { &all[..3] } else { &all } {
            for shards in (1..=17usize).chain([64, 255, 256]).filter(|&shards| shards as u32 <= key_groups) {
                let mut next = 0;
                for shard in 0..shards {
                    let groups = groups_of_shard(shard, shards, key_groups);
                    assert_eq!(groups.start, next);
                    assert!(!groups.is_empty());
                    for group in groups.clone() {
                        assert_eq!(shard_of_group(KeyGroup(group as u16), shards, key_groups), shard);
                    }
                    next = groups.end;
                }
                assert_eq!(next, key_groups);
            }
        }
    }

    #[test]
    fn prefix_successor_is_the_least_upper_bound() {
        assert_eq!(prefix_successor(b"ab"), Some(b"ac".to_vec()));
        assert_eq!(prefix_successor(&[1, 0xff, 0xff]), Some(vec![2]));
        assert_eq!(prefix_successor(&[0xff]), None);
        assert_eq!(prefix_successor(b""), None);
    }
}
