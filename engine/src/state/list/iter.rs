//! Iteration over a list: the spilled chunks by a scan, which reads ahead, and then the tail.

use std::fmt;
use std::marker::PhantomData;

use super::super::Types;
use super::super::codec::{Codec, Postcard};
use super::chunk_index;
use super::layout::{Elements, Head, decode_chunk};
use crate::{Result, Scan, ValueRef};

/// The elements of one key's list, as of the call that made it.
pub struct ListIter<T, C = Postcard> {
    /// The chunks that are still to come.
    chunks: Option<Scan>,
    /// The head's record, whose tail comes last.
    head: Option<(ValueRef, Head)>,
    /// The elements of the current chunk, newest first.
    current: Vec<T>,
    codec: Types<C>,
}

impl<T, C: Codec<T>> ListIter<T, C> {
    pub(super) fn empty() -> Self {
        ListIter { chunks: None, head: None, current: Vec::new(), codec: PhantomData }
    }

    pub(super) fn new(chunks: Option<Scan>, record: ValueRef, head: Head) -> Self {
        ListIter { chunks, head: Some((record, head)), ..ListIter::empty() }
    }

    /// The next element; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<T>> {
        while self.current.is_empty() && self.load().await? {}
        Ok(self.current.pop())
    }

    /// Decodes the next chunk or the tail; false where both are done.
    async fn load(&mut self) -> Result<bool> {
        let Some((record, head)) = &self.head else { return Ok(false) };
        if let Some(scan) = &mut self.chunks {
            match scan.next().await? {
                Some(entry) => {
                    let mut elements = decode_chunk(entry.value)?;
                    if chunk_index(entry.key)? == head.base {
                        elements.skip(head.skip)?;
                    }
                    self.current = decode_reversed::<T, C>(elements)?;
                }
                None => self.chunks = None,
            }
        } else {
            self.current = decode_reversed::<T, C>(Head::decode(record)?.1)?;
            self.head = None;
        }
        Ok(true)
    }
}

fn decode_reversed<T, C: Codec<T>>(mut elements: Elements<'_>) -> Result<Vec<T>> {
    let mut decoded = Vec::new();
    while let Some(element) = elements.next()? {
        decoded.push(C::decode(element)?);
    }
    decoded.reverse();
    Ok(decoded)
}

impl<T, C> fmt::Debug for ListIter<T, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ListIter").finish_non_exhaustive()
    }
}
