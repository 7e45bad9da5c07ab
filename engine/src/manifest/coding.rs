//! Checked reading and writing of variable-length fields: the primitives of the manifest's records.
//!
//! Integers are little-endian and of fixed width; byte strings and lists have a u32 count before them.

use crate::{Error, Result};

const STRUCTURE: &str = "manifest record";

/// Reads fields from the front of a slice. Every read is checked; what is too short is corruption.
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Reader { rest: bytes }
    }

    /// Fails unless everything has been read.
    pub(super) fn finish(&self, what: &str) -> Result<()> {
        if self.rest.is_empty() {
            return Ok(());
        }
        Err(Error::corruption(STRUCTURE, format!("{what} has {} bytes too many", self.rest.len())))
    }

    pub(super) fn take(&mut self, len: usize) -> Result<&'a [u8]> {
        let Some((taken, rest)) = self.rest.split_at_checked(len) else {
            let reason = format!("{len} bytes are wanted where {} are left", self.rest.len());
            return Err(Error::corruption(STRUCTURE, reason));
        };
        self.rest = rest;
        Ok(taken)
    }

    pub(super) fn u8(&mut self) -> Result<u8> {
        Ok(self.take(1)?[0])
    }

    pub(super) fn u16(&mut self) -> Result<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// A byte string: its length, then the bytes.
    pub(super) fn bytes(&mut self) -> Result<&'a [u8]> {
        let len = self.u32()? as usize;
        self.take(len)
    }

    /// A byte string that is UTF-8.
    pub(super) fn string(&mut self) -> Result<String> {
        let bytes = self.bytes()?;
        let text = std::str::from_utf8(bytes)
            .map_err(|error| Error::corruption(STRUCTURE, format!("a name is not UTF-8: {error}")))?;
        Ok(text.to_owned())
    }

    /// A list: its length, then the elements. The length is checked against what is left before anything is allocated.
    pub(super) fn list<T>(
        &mut self,
        element_bytes_min: usize,
        mut read: impl FnMut(&mut Self) -> Result<T>,
    ) -> Result<Vec<T>> {
        let len = self.u32()? as usize;
        if len > self.rest.len() / element_bytes_min {
            let reason = format!("a list of {len} elements does not fit into {} bytes", self.rest.len());
            return Err(Error::corruption(STRUCTURE, reason));
        }
        (0..len).map(|_| read(self)).collect()
    }

    /// One byte that is 0 or 1.
    pub(super) fn flag(&mut self) -> Result<bool> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(Error::corruption(STRUCTURE, format!("a flag is {other}"))),
        }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }
}

/// Appends fields; the counterpart of [`Reader`].
pub(super) trait Writer {
    fn put_u8(&mut self, value: u8);
    fn put_u16(&mut self, value: u16);
    fn put_u32(&mut self, value: u32);
    fn put_u64(&mut self, value: u64);
    fn put_bytes(&mut self, bytes: &[u8]);
}

impl Writer for Vec<u8> {
    fn put_u8(&mut self, value: u8) {
        self.push(value);
    }

    fn put_u16(&mut self, value: u16) {
        self.extend_from_slice(&value.to_le_bytes());
    }

    fn put_u32(&mut self, value: u32) {
        self.extend_from_slice(&value.to_le_bytes());
    }

    fn put_u64(&mut self, value: u64) {
        self.extend_from_slice(&value.to_le_bytes());
    }

    fn put_bytes(&mut self, bytes: &[u8]) {
        let len = u32::try_from(bytes.len()).expect("a field is shorter than 4 GiB");
        self.put_u32(len);
        self.extend_from_slice(bytes);
    }
}
