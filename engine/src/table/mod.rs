//! The SST: an immutable, sorted table of entries; one self-contained string of pages, the same on the device, in a
//! checkpoint and in an object store.
//!
//! ```text
//!  page 0                                                                              last page
//!  +--------+--------+-----+----------+-----+----------+-----+------------+--------+
//!  | data 0 | data 1 | ... | filter 0 | ... | index 0  | ... | directory  | footer |
//!  +--------+--------+-----+----------+-----+----------+-----+------------+--------+
//!
//!  footer: page and checksum of the directory
//!    └─ directory, in memory while the SST is open
//!         ├─ filter partitions: separator, page, checksum
//!         └─ index partitions: separator, page, checksum
//!              └─ data blocks: separator, page, checksum
//! ```
//!
//! An entry is (stored key, [`Trailer`](crate::types::Trailer), value). Entries are in order: key ascending by bytes,
//! trailer descending, so that the newest version of a key comes first.
//!
//! A lookup, given the directory of the open SST:
//! 1. [`Directory::find_filter`] says which filter partition to fetch, [`filter_may_contain`] whether to go on.
//! 2. [`Directory::find_index`] says which index partition to fetch, [`index_find`] leads to the data block.
//! 3. [`data_get`] finds the newest version that the view sees.
//!
//! All code here is synchronous and works on byte slices: it says which pages are needed, the shard fetches them. What
//! is fetched passes [`verify_block`] once, before anything else.
//!
//! Invariants:
//! 1. A parent holds the checksum of each child: manifest > footer > directory > filter and index partitions > data
//!    blocks.
//! 2. Every checksum covers the block's own address, so a block at another place is not taken for the one that belongs
//!    there.
//! 3. No input makes this code panic or loop; damage is [`Error::Corruption`](crate::error::Error::Corruption).
//!
//! An SST has no state that a crash could tear: until a manifest edit names it, nobody reads it.

mod block;
mod builder;
mod coding;
mod directory;
mod filter;
mod footer;
mod index;
mod properties;
#[cfg(test)]
mod tests;

#[cfg(feature = "fuzz")]
pub(crate) use block::seal;
pub(crate) use block::{
    BlockCursor, BlockHandle, BlockType, Lookup, TableId, VersionBound, check_entries, data_get, verify_block,
};
#[cfg(test)]
pub(crate) use builder::{KEY_BYTES_MAX, TableSummary, VALUE_BYTES_MAX};
pub(crate) use builder::{PageSink, TableBuilder, TableOptions};
pub(crate) use directory::Directory;
pub(crate) use filter::{filter_may_contain, key_hash};
pub(crate) use footer::decode_footer;
#[cfg(feature = "fuzz")]
pub(crate) use footer::encode_footer;
pub(crate) use index::{IndexCursor, index_find};
