//! Damage to encoded bytes, as an input describes it.

use arbitrary::{Arbitrary, Result, Unstructured};

/// Changes at most.
const CHANGES_MAX: usize = 8;

/// What is to become of some bytes.
#[derive(Debug)]
pub(super) struct Damage {
    changes: Vec<(u16, u8)>,
    cut: Option<u16>,
}

impl<'a> Arbitrary<'a> for Damage {
    fn arbitrary(input: &mut Unstructured<'a>) -> Result<Self> {
        let count = usize::from(u8::arbitrary(input)?) % (CHANGES_MAX + 1);
        let changes = (0..count).map(|_| input.arbitrary()).collect::<Result<_>>()?;
        Ok(Damage { changes, cut: input.arbitrary()? })
    }
}

impl Damage {
    /// Overwrites bytes, and cuts the end off; places count from the front and wrap around.
    pub(super) fn apply(&self, bytes: &mut Vec<u8>) {
        for &(at, byte) in &self.changes {
            if !bytes.is_empty() {
                let at = usize::from(at) % bytes.len();
                bytes[at] = byte;
            }
        }
        if let Some(cut) = self.cut {
            bytes.truncate(usize::from(cut) % (bytes.len() + 1));
        }
    }
}
