//! The thorough check of a data or index block, for `verify` and for tests: all entries decode, are in order and are as
//! many as the header says, and every restart point leads to one of them whose key is whole.

use super::cursor::BlockCursor;
use super::entry::{Layout, damaged_restart};
use super::header::payload;
use crate::error::{Error, Result};
use crate::types::Trailer;

/// Decodes every entry of a verified block. Calls `visit` with key, trailer and value of each; what it reports fails
/// the check.
pub(crate) fn check_entries(bytes: &[u8], mut visit: impl FnMut(&[u8], Trailer, &[u8]) -> Result<()>) -> Result<()> {
    let mut cursor = BlockCursor::new(bytes)?;
    let mut last: Option<(Vec<u8>, Trailer)> = None;
    let layout = Layout::parse(bytes)?;
    let (mut entries, mut restarts) = (0, 0);
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
        if restarts < layout.restarts
            && layout.restart_key(bytes, restarts).is_some_and(|(offset, _)| offset == cursor.offset())
        {
            restarts += 1;
        }
        entries += 1;
        cursor.next()?;
    }
    if restarts < layout.restarts {
        return Err(damaged_restart(restarts));
    }
    match payload(bytes) {
        Some((_, expected)) if expected == entries => Ok(()),
        _ => {
            Err(Error::corruption("data or index block", format!("{entries} entries, not as many as the header says")))
        }
    }
}
