//! Sparse bytes: chunks that exist where something was written; all else reads as zero.

use std::collections::BTreeMap;

const CHUNK_BYTES: usize = 64 << 10;

#[derive(Default)]
pub(crate) struct SparseBytes {
    chunks: BTreeMap<u64, Box<[u8]>>,
}

impl SparseBytes {
    pub(crate) fn read(&self, offset: u64, bytes: &mut [u8]) {
        for (chunk, within, range) in pieces(offset, bytes.len()) {
            match self.chunks.get(&chunk) {
                Some(stored) => {
                    let len = range.len();
                    bytes[range].copy_from_slice(&stored[within..within + len]);
                }
                None => bytes[range].fill(0),
            }
        }
    }

    pub(crate) fn write(&mut self, offset: u64, bytes: &[u8]) {
        for (chunk, within, range) in pieces(offset, bytes.len()) {
            let stored = self.chunks.entry(chunk).or_insert_with(|| vec![0; CHUNK_BYTES].into_boxed_slice());
            stored[within..within + range.len()].copy_from_slice(&bytes[range]);
        }
    }

    /// Forgets everything from here on.
    pub(crate) fn truncate(&mut self, len: u64) {
        let whole = len.div_ceil(CHUNK_BYTES as u64);
        self.chunks.split_off(&whole);
        if let Some(last) = self.chunks.get_mut(&(len / CHUNK_BYTES as u64)) {
            last[(len % CHUNK_BYTES as u64) as usize..].fill(0);
        }
    }
}

/// The parts of a range by chunk: chunk, offset within it, and which of the range's bytes.
fn pieces(offset: u64, len: usize) -> impl Iterator<Item = (u64, usize, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        if done == len {
            return None;
        }
        let at = offset + done as u64;
        let within = (at % CHUNK_BYTES as u64) as usize;
        let part = (CHUNK_BYTES - within).min(len - done);
        let range = done..done + part;
        done += part;
        Some((at / CHUNK_BYTES as u64, within, range))
    })
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    #[test]
    fn reads_what_was_written_across_chunks_and_zeros_elsewhere() {
        let mut store = SparseBytes::default();
        let offset = CHUNK_BYTES as u64 - 3;
        store.write(offset, &[1, 2, 3, 4, 5, 6]);
        let mut bytes = [9; 10];
        store.read(offset - 2, &mut bytes);
        assert_eq!(bytes, [0, 0, 1, 2, 3, 4, 5, 6, 0, 0]);
        store.truncate(offset + 1);
        store.read(offset - 2, &mut bytes);
        assert_eq!(bytes, [0, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    }
}
