//! The thorough check of a data or index block, for `verify` and for tests: all entries decode, are in order and are as
//! many as the header says.

use super::cursor::BlockCursor;
use super::header::payload;
use crate::error::{Error, Result};
use crate::types::Trailer;

/// Decodes every entry of a verified block. Calls `visit` with key, trailer and value of each; what it reports fails
/// the check.
pub(crate) fn check_entries(bytes: &[u8], mut visit: impl FnMut(&[u8], Trailer, &[u8]) -> Result<()>) -> Result<()> {
    let mut cursor = BlockCursor::new(bytes)?;
    let mut last: Option<(Vec<u8>, Trailer)> = None;
    let mut entries = 0;
    cursor.seek_first()?;
    while cursor.valid() {
        let (key, trailer) = (cursor.key(), cursor.trailer());
        if let Some((last_key, last_trailer)) = &mut last {
            if (last_key.as_slice(), trailer) >= (key, *last_trailer) {
                return Err(Error::corruption("data or index block", format!("entry {entries} is out of order")));
            }
            last_key.clear();
            last_key.extend_from_slice(key);
            *last_trailer = trailer;
        } else {
            last = Some((key.to_vec(), trailer));
        }
        visit(key, trailer, cursor.value())?;
        entries += 1;
        cursor.next()?;
    }
    match payload(bytes) {
        Some((_, expected)) if expected == entries => Ok(()),
        _ => {
            Err(Error::corruption("data or index block", format!("{entries} entries, not as many as the header says")))
        }
    }
}
