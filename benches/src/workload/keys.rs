//! From the index of a key to its bytes.
//!
//! ```text
//! point, 10 bytes:  mix(index), 8, big-endian | index, low 16 bits, 2
//! map,   16 bytes:  user: mix(index / 100), 8, big-endian | item: index % 100, 8, big-endian
//! ```
//!
//! `mix` is a bijection, so keys differ, and neighbours by index are far apart by key.

use std::ops::Deref;

use serde::{Deserialize, Serialize};

use crate::workload::random::{Permutation, mix};

/// How many entries each user of the map shape has.
pub(crate) const ENTRIES_PER_USER: u32 = 100;

/// What keys look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum KeyShape {
    /// One value for each key.
    Point,
    /// [`ENTRIES_PER_USER`] entries for each user.
    Map,
}

/// A key, without allocation.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Key {
    bytes: [u8; Key::MAX_BYTES],
    len: u8,
}

impl Key {
    const MAX_BYTES: usize = 16;

    fn new(parts: [&[u8]; 2]) -> Key {
        let mut bytes = [0; Key::MAX_BYTES];
        let (first, second) = (parts[0].len(), parts[0].len() + parts[1].len());
        bytes[..first].copy_from_slice(parts[0]);
        bytes[first..second].copy_from_slice(parts[1]);
        Key { bytes, len: second as u8 }
    }
}

impl Deref for Key {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

impl AsRef<[u8]> for Key {
    #[inline]
    fn as_ref(&self) -> &[u8] {
        self
    }
}

/// The keys of a data set.
#[derive(Clone)]
pub(crate) struct KeySpace {
    shape: KeyShape,
    keys: u32,
    seed: u64,
    load_order: Permutation,
}

impl KeySpace {
    pub(crate) fn new(shape: KeyShape, keys: u32, seed: u64) -> Self {
        KeySpace { shape, keys, seed: mix(seed), load_order: Permutation::new(u64::from(keys), seed) }
    }

    pub(crate) fn keys(&self) -> u32 {
        self.keys
    }

    /// Bytes of each key.
    pub(crate) fn key_bytes(&self) -> usize {
        match self.shape {
            KeyShape::Point => 10,
            KeyShape::Map => 16,
        }
    }

    /// The key with this index.
    #[inline]
    pub(crate) fn key(&self, index: u32) -> Key {
        match self.shape {
            KeyShape::Point => {
                Key::new([&mix(self.seed ^ u64::from(index)).to_be_bytes(), &(index as u16).to_be_bytes()])
            }
            KeyShape::Map => {
                let item = u64::from(index % ENTRIES_PER_USER);
                Key::new([&self.user(index / ENTRIES_PER_USER), &item.to_be_bytes()])
            }
        }
    }

    /// How many users of the map shape have all their entries.
    pub(crate) fn users(&self) -> u32 {
        self.keys / ENTRIES_PER_USER
    }

    /// The key prefix of a user.
    #[inline]
    pub(crate) fn user(&self, user: u32) -> [u8; 8] {
        mix(self.seed ^ u64::from(user)).to_be_bytes()
    }

    /// The index of the key that is loaded at this position.
    #[inline]
    pub(crate) fn load_index(&self, position: u32) -> u32 {
        self.load_order.apply(u64::from(position)) as u32
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn keys_differ_and_have_their_length() {
        for shape in [KeyShape::Point, KeyShape::Map] {
            let space = KeySpace::new(shape, 10_000, 5);
            let keys: BTreeSet<Vec<u8>> = (0..10_000).map(|index| space.key(index).to_vec()).collect();
            assert_eq!(keys.len(), 10_000);
            assert!(keys.iter().all(|key| key.len() == space.key_bytes()));
        }
    }

    #[test]
    fn entries_of_a_user_are_its_prefix_in_item_order() {
        let space = KeySpace::new(KeyShape::Map, 1_000, 5);
        let keys: Vec<Key> = (300..400).map(|index| space.key(index)).collect();
        assert!(keys.iter().all(|key| key.starts_with(&space.user(3))));
        assert!(keys.windows(2).all(|pair| *pair[0] < *pair[1]));
    }
}
