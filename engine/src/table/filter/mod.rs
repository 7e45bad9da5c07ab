//! The filter: a partitioned, cache-line-blocked Bloom filter.
//!
//! ```text
//!  partition, one page:
//!  +-----------------------+--------------+--------------+-----+--------------+
//!  | header, zeros to 64 B | line 0, 64 B | line 1, 64 B | ... | line n, 64 B |      n + 1 = page bytes / 64 - 1
//!  +-----------------------+--------------+--------------+-----+--------------+
//!
//!  hash = XXH3-64 of the stored key        line = (hash >> 32) * lines >> 32
//!  h = low 32 bits; for each probe: bit = h >> 23 (of 512), h = h * 0x9e3779b9 mod 2^32
//!  bit b of a line: bit b % 8 of its byte b / 8
//! ```
//!
//! A probe reads one line, so a lookup costs at most one cache miss, for some 10 to 20 % more false positives than a
//! filter without lines (Putze, Sanders, Singler: Cache-, Hash- and Space-Efficient Bloom Filters, 2007). A partition
//! is cut when its keys have used the bits that they are entitled to, at 10 bits a key after 3225 keys of a 4 KiB page.
//! The directory holds for each partition a separator, so that a lookup needs one partition: one page.
//!
//! Beside whole keys a partition may hold the partition prefixes of its keys. They are hashed alike: a key that equals
//! a prefix can only turn a "no" into a "maybe".

mod bloom;
mod builder;

pub(in crate::table) use bloom::{FILTER_LINE_BYTES, FILTER_PROBES_MAX};
pub(crate) use bloom::{filter_may_contain, key_hash};
pub(in crate::table) use builder::FilterBuilder;
