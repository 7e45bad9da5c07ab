//! Blocks: the header and checksum that all kinds share, and the entries of data and index blocks.
//!
//! ```text
//!  +--------+---------+---------+-----+---------+-----------+-----+-----------+---------+
//!  | header | entry 0 | entry 1 | ... | entry n | restart 0 | ... | restart r | zeros   |
//!  +--------+---------+---------+-----+---------+-----------+-----+-----------+---------+
//!    20 B   |<------------------ payload bytes -------------------------------->|  to the end of the page
//!
//!  entry:   | shared and suffix bytes | suffix | value bytes | trailer | value |
//!             length pair                        varint        varint
//! ```
//!
//! A key is the first `shared` bytes of the key before it and then `suffix`. At a restart point (a `u16` offset from
//! the end of the header) `shared` is 0, so that a lookup can start there; restart 0 is entry 0.
//!
//! Invariants:
//! 1. Entries ascend by key; those of one key descend by trailer.
//! 2. A block takes whole pages. One of several pages has one entry, which did not fit a page; so every restart offset
//!    fits a `u16`.
//! 3. A block comes from the device through [`verify_block`] before anything else here sees it. Even so the lookups
//!    trust nothing: whatever the bytes, they end, and they return or report damage.

mod bound;
mod builder;
mod check;
mod cursor;
mod entry;
mod header;
mod search;

pub(crate) use bound::VersionBound;
pub(in crate::table) use builder::BlockBuilder;
pub(crate) use check::check_entries;
pub(crate) use cursor::BlockCursor;
pub(crate) use header::{BlockHandle, BlockType, PAGE_BYTES_MAX, PAGE_BYTES_MIN, TableId, seal, verify_block};
pub(in crate::table) use header::{BlockHeader, COUNT_AT, HEADER_BYTES, payload};
pub(in crate::table) use search::first_value_at_or_after;
pub(crate) use search::{Lookup, data_get};
