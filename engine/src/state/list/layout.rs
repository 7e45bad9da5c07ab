//! The two records of a list: the head, which holds the tail chunk, and the spilled chunks before it.
//!
//! ```text
//!  head   key: key_bytes u16 BE | key
//!  0      version (1)
//!  1      base     varint   index of the first element of the front chunk (of the tail where nothing is spilled)
//!         skip     varint   how many elements of the front chunk have been removed
//!         front    varint   elements in the front chunk, 0 where nothing is spilled
//!         spilled  varint   indices from base to the tail's first element
//!         count    varint   elements in the tail
//!         count times: length varint | element
//!
//!  chunk  key: key_bytes u16 BE | key | index of its first element u64 BE
//!  0      version (1)
//!  1      count    varint, not 0
//!         count times: length varint | element
//! ```
//!
//! Invariants: 1. indices only grow, and no two elements of a list share one; 2. `skip < front <= spilled`, or all three are 0; 3. a head
//! stands for at least one element, an empty list has no records.

use super::super::buf::{EncodeBuf, take_varint};
use crate::{Error, Result};

const VERSION: u8 = 1;

/// The counters of a list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) base: u64,
    pub(super) skip: u64,
    pub(super) front: u64,
    pub(super) spilled: u64,
    pub(super) count: u64,
}

impl Head {
    /// How many elements the list has, those of expired chunks included.
    pub(super) fn len(&self) -> u64 {
        self.spilled - self.skip + self.count
    }

    /// The index of the tail's first element.
    pub(super) fn tail_start(&self) -> u64 {
        self.base + self.spilled
    }

    /// Appends the head's record without its elements.
    pub(super) fn encode(&self, out: &mut EncodeBuf) {
        out.push(VERSION);
        for field in [self.base, self.skip, self.front, self.spilled, self.count] {
            out.push_varint(field);
        }
    }

    /// Takes a head's record apart: the counters and the tail's elements.
    pub(super) fn decode(mut bytes: &[u8]) -> Result<(Head, Elements<'_>)> {
        const WHAT: &str = "head of a list";
        take_version(WHAT, &mut bytes)?;
        let mut field = || take_varint(&mut bytes).ok_or_else(|| Error::corruption(WHAT, "cut short"));
        let head = Head { base: field()?, skip: field()?, front: field()?, spilled: field()?, count: field()? };
        let nothing_spilled = head.skip == 0 && head.front == 0 && head.spilled == 0;
        let in_order = head.skip < head.front && head.front <= head.spilled;
        // An element takes at least the byte of its length: a count over that is damage, and may not size anything.
        let bounded = head.count <= bytes.len() as u64
            && head.spilled < 1 << 60
            && head.base.checked_add(head.spilled).and_then(|sum| sum.checked_add(head.count)).is_some();
        if !(nothing_spilled || in_order) || !bounded {
            return Err(Error::corruption(WHAT, format!("impossible counters {head:?}")));
        }
        Ok((head, Elements { bytes, left: head.count }))
    }
}

/// Appends a chunk's record up to its elements.
pub(super) fn encode_chunk(count: u64, out: &mut EncodeBuf) {
    out.push(VERSION);
    out.push_varint(count);
}

/// The elements of a chunk's record.
pub(super) fn decode_chunk(mut bytes: &[u8]) -> Result<Elements<'_>> {
    const WHAT: &str = "chunk of a list";
    take_version(WHAT, &mut bytes)?;
    match take_varint(&mut bytes) {
        Some(left) if left > 0 && left <= bytes.len() as u64 => Ok(Elements { bytes, left }),
        found => Err(Error::corruption(WHAT, format!("a count of {found:?} for {} bytes", bytes.len()))),
    }
}

fn take_version(what: &'static str, bytes: &mut &[u8]) -> Result<()> {
    match bytes.split_first() {
        Some((&VERSION, rest)) => {
            *bytes = rest;
            Ok(())
        }
        found => {
            Err(Error::corruption(what, format!("version {:?}, expected {VERSION}", found.map(|(version, _)| version))))
        }
    }
}

/// Appends an element's length; its bytes follow.
pub(super) fn encode_element(element: &[u8], out: &mut EncodeBuf) {
    out.push_varint(element.len() as u64);
    out.extend_from_slice(element);
}

/// Encoded elements, one after the other.
#[derive(Clone, Copy, Debug)]
pub(super) struct Elements<'a> {
    bytes: &'a [u8],
    left: u64,
}

impl<'a> Elements<'a> {
    pub(super) const EMPTY: Elements<'static> = Elements { bytes: &[], left: 0 };

    /// How many there are.
    pub(super) fn len(&self) -> u64 {
        self.left
    }

    /// Their encoding.
    pub(super) fn as_bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The next element; `None` after the last.
    #[inline]
    pub(super) fn next(&mut self) -> Result<Option<&'a [u8]>> {
        let cut_short = || Error::corruption("elements of a list", "cut short");
        if self.left == 0 {
            return match self.bytes {
                [] => Ok(None),
                rest => Err(Error::corruption("elements of a list", format!("{} bytes too many", rest.len()))),
            };
        }
        let length =
            take_varint(&mut self.bytes).and_then(|length| usize::try_from(length).ok()).ok_or_else(cut_short)?;
        let (element, rest) = self.bytes.split_at_checked(length).ok_or_else(cut_short)?;
        self.bytes = rest;
        self.left -= 1;
        Ok(Some(element))
    }

    /// Passes over elements; fewer where there are fewer.
    pub(super) fn skip(&mut self, count: u64) -> Result<()> {
        for _ in 0..count.min(self.left) {
            self.next()?;
        }
        Ok(())
    }
}

/// The elements of a head's record and of a chunk's, whatever the bytes are.
#[cfg(feature = "fuzz")]
pub(crate) fn decode_elements(bytes: &[u8]) -> [Result<Vec<&[u8]>>; 2] {
    [Head::decode(bytes).map(|(_, elements)| elements), decode_chunk(bytes)].map(|elements| {
        let mut elements = elements?;
        let mut all = Vec::new();
        while let Some(element) = elements.next()? {
            all.push(element);
        }
        Ok(all)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn collect(mut elements: Elements<'_>) -> Result<Vec<Vec<u8>>> {
        let mut all = Vec::new();
        while let Some(element) = elements.next()? {
            all.push(element.to_vec());
        }
        Ok(all)
    }

    proptest! {
        #[test]
        fn heads_round_trip(base in 0u64..1 << 60, front in 0u64..1000, more in 0u64..1 << 50, items in prop::collection::vec(any::<Vec<u8>>(), 0..5)) {
            let spilled = if front == 0 { 0 } else { front + more };
            let head = Head { base, skip: front / 2, front, spilled, count: items.len() as u64 };
            let mut buf = EncodeBuf::new();
            head.encode(&mut buf);
            items.iter().for_each(|item| encode_element(item, &mut buf));
            let (decoded, elements) = Head::decode(&buf).unwrap();
            prop_assert_eq!(decoded, head);
            prop_assert_eq!(collect(elements).unwrap(), items);
        }

        #[test]
        fn any_bytes_decode_or_are_corruption(mut bytes: Vec<u8>, version in 0u8..3) {
            bytes.insert(0, version);
            for result in [Head::decode(&bytes).map(|(_, elements)| elements), decode_chunk(&bytes)] {
                match result.and_then(collect) {
                    Ok(items) => prop_assert!(items.len() < bytes.len()),
                    Err(error) => prop_assert!(error.is_corruption()),
                }
            }
        }
    }

    #[test]
    fn impossible_counters_are_corruption() {
        let head = Head { base: 0, skip: 3, front: 2, spilled: 5, count: 0 };
        let mut buf = EncodeBuf::new();
        head.encode(&mut buf);
        assert!(Head::decode(&buf).unwrap_err().is_corruption());
    }
}
