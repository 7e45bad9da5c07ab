//! Values that tell whether they are the right ones.
//!
//! ```text
//! 0       4         5          value_bytes
//! | index | version | filler ... |
//! ```
//!
//! The filler is drawn from (seed, index, version), so that a value of another key, of another version, or with any changed
//! byte does not pass. It does not compress.

use crate::workload::random::mix;
use crate::{Error, Result};

/// Makes and checks values.
#[derive(Clone)]
pub(crate) struct Values {
    value_bytes: usize,
    seed: u64,
}

impl Values {
    /// Index and version.
    const HEADER_BYTES: usize = 5;

    pub(crate) fn new(value_bytes: usize, seed: u64) -> Result<Self> {
        if value_bytes < Self::HEADER_BYTES {
            return Err(format!("values have at least {} bytes", Self::HEADER_BYTES).into());
        }
        Ok(Values { value_bytes, seed: mix(!seed) })
    }

    /// Puts the value of a key into `out`, in place of what is there.
    #[inline]
    pub(crate) fn fill(&self, index: u32, version: u8, out: &mut Vec<u8>) {
        out.resize(self.value_bytes, 0);
        out[..4].copy_from_slice(&index.to_le_bytes());
        out[4] = version;
        let mut words = self.words(index, version);
        let mut chunks = out[Self::HEADER_BYTES..].chunks_exact_mut(8);
        for chunk in &mut chunks {
            chunk.copy_from_slice(&words.next_bytes());
        }
        let rest = chunks.into_remainder();
        rest.copy_from_slice(&words.next_bytes()[..rest.len()]);
    }

    /// Checks that a value is this version of this key.
    #[inline]
    pub(crate) fn check(&self, index: u32, version: u8, value: Option<&[u8]>) -> Result<()> {
        match value {
            Some(value) if self.matches(index, version, value) => Ok(()),
            value => Err(wrong(index, version, value)),
        }
    }

    #[inline]
    fn matches(&self, index: u32, version: u8, value: &[u8]) -> bool {
        if value.len() != self.value_bytes || value[..4] != index.to_le_bytes() || value[4] != version {
            return false;
        }
        let mut words = self.words(index, version);
        let mut chunks = value[Self::HEADER_BYTES..].chunks_exact(8);
        let whole = chunks.by_ref().all(|chunk| *chunk == words.next_bytes());
        let rest = chunks.remainder();
        whole && *rest == words.next_bytes()[..rest.len()]
    }

    #[inline]
    fn words(&self, index: u32, version: u8) -> Words {
        Words { state: self.seed ^ (u64::from(index) << 8 | u64::from(version)).wrapping_mul(0x9e37_79b9_7f4a_7c15) }
    }
}

struct Words {
    state: u64,
}

impl Words {
    #[inline]
    fn next_bytes(&mut self) -> [u8; 8] {
        self.state = self.state.wrapping_add(0xd1b5_4a32_d192_ed03);
        mix(self.state).to_le_bytes()
    }
}

#[cold]
fn wrong(index: u32, version: u8, value: Option<&[u8]>) -> Error {
    let found = match value {
        None => "nothing".to_owned(),
        Some(value) if value.len() < Values::HEADER_BYTES => format!("{} bytes", value.len()),
        Some(value) => {
            let found = u32::from_le_bytes([value[0], value[1], value[2], value[3]]);
            format!("{} bytes with index {found} and version {}", value.len(), value[4])
        }
    };
    format!("wrong value of key {index}: expected version {version}, found {found}").into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_value_passes_its_own_check_and_no_other(
            bytes in 5_usize..200, seed: u64, index: u32, version: u8, at: usize, flip in 1_u8..,
        ) {
            let values = Values::new(bytes, seed).unwrap();
            let mut value = vec![9; 3];
            values.fill(index, version, &mut value);
            prop_assert!(values.check(index, version, Some(&value)).is_ok());
            prop_assert!(values.check(index, version.wrapping_add(1), Some(&value)).is_err());
            prop_assert!(values.check(index ^ 1, version, Some(&value)).is_err());
            prop_assert!(values.check(index, version, Some(&value[1..])).is_err());
            prop_assert!(values.check(index, version, None).is_err());
            value[at % bytes] ^= flip;
            prop_assert!(values.check(index, version, Some(&value)).is_err());
        }
    }
}
