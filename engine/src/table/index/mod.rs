//! The index: partitions, each a block of separators and handles, under the directory that stays in memory.
//!
//! ```text
//!  entry of an index block:   key, trailer = separator        value = | crc u32 | page varint | pages varint |
//! ```
//!
//! A separator is a place in the order of entries (key ascending, trailer descending): at or behind every entry of its
//! block, before every entry of the next. So the block in which a search for `(key, bound)` goes on is the first whose
//! separator is not before it.
//!
//! - Where a block ends and the next begins with different keys, the separator is the shortest key between them, with
//!   the lowest trailer: `(s, 0)` lies behind all versions of `s`, and behind what the block holds.
//! - Where the versions of one key go over the border, it is the block's last key and trailer. A lookup for an older
//!   version passes by the block, and newer ones are never read for it.

mod builder;
mod cursor;
mod separators;

pub(in crate::table) use builder::{IndexBuilder, shortest_separator};
pub(crate) use cursor::{IndexCursor, index_find};
pub(in crate::table) use separators::Separators;
