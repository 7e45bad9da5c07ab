//! Entry points of the fuzz targets: functions that take arbitrary bytes and panic where the engine does something that it must not.
//!
//! There are three kinds:
//!
//! 1. *Raw* targets give the bytes to a parser, as if a device had. It must end, without a panic, and with little memory. Where there is a way
//!    back, what was accepted is written again and must come out as it went in. Checksums are made right first: a fuzzer cannot guess them, and
//!    bytes that fail them are rejected before anything is parsed.
//! 2. *Structured* targets read the bytes as the description of a value (`arbitrary`): it is encoded, decoded and compared; then the encoding
//!    is damaged as the bytes say and decoded once more, which is of the first kind.
//! 3. `operations` reads them as a plan: operations on a small engine over a simulated disk that loses power, checked against sorted maps.
//!
//! | target | kind | of |
//! |---|---|---|
//! | `data_block`, `index_block`, `filter_block`, `sst_footer`, `sst` | raw | [`crate::table`] |
//! | `sst_build` | structured | the same, from the builder on |
//! | `wal_record`, `log_block` | raw | [`crate::wal`], [`crate::log`] |
//! | `wal_batches` | structured | [`crate::wal`] |
//! | `log_walk` | structured | [`crate::log`]: following a log over extents full of hostile blocks |
//! | `manifest_edits`, `root_page` | raw | [`crate::manifest`] |
//! | `checkpoint_manifest` | structured | the same: histories of checkpoints |
//! | `open_volume` | structured | a whole volume with hostile manifests, logs and root pages |
//! | `superblock` | raw | [`crate::volume`] |
//! | `key_codec`, `state_codec`, `keyspace_options` | raw | [`crate::state`], the options of a keyspace |
//! | `typed_values` | structured | [`crate::state`] |
//! | `options` | structured | [`Options`](crate::Options): refused, or an engine that works |
//! | `operations` | plan | the whole engine |
//!
//! Inputs to begin with are in `fuzz/corpus`, written by [`seeds`]; those that once failed in `fuzz/regressions`. The tests of the whole
//! engine run both through [`TARGETS`].

mod blocks;
mod codecs;
mod damage;
mod log_walk;
mod logs;
mod manifest;
mod open_volume;
mod operations;
mod options;
mod samples;
mod tables;
#[cfg(test)]
mod tests;

pub use blocks::{data_block, filter_block, index_block, sst, sst_footer};
pub use codecs::{key_codec, keyspace_options, state_codec, typed_values};
pub use log_walk::log_walk;
pub use logs::{log_block, superblock, wal_batches, wal_record};
pub use manifest::{checkpoint_manifest, manifest_edits, root_page};
pub use open_volume::open_volume;
pub use operations::operations;
pub use options::options;
pub use samples::seeds;
pub use tables::sst_build;

use crate::table::TableId;
use crate::types::SstId;

/// A fuzz target: ends for any bytes, or panics because of a bug.
pub type Target = fn(&[u8]);

/// All targets by name.
pub const TARGETS: &[(&str, Target)] = &[
    ("checkpoint_manifest", checkpoint_manifest),
    ("data_block", data_block),
    ("filter_block", filter_block),
    ("index_block", index_block),
    ("key_codec", key_codec),
    ("keyspace_options", keyspace_options),
    ("log_block", log_block),
    ("log_walk", log_walk),
    ("manifest_edits", manifest_edits),
    ("open_volume", open_volume),
    ("operations", operations),
    ("options", options),
    ("root_page", root_page),
    ("sst", sst),
    ("sst_build", sst_build),
    ("sst_footer", sst_footer),
    ("state_codec", state_codec),
    ("superblock", superblock),
    ("typed_values", typed_values),
    ("wal_batches", wal_batches),
    ("wal_record", wal_record),
];

/// The page size of the SSTs here: the smallest, so that small inputs have many blocks.
const PAGE_BYTES: usize = 512;
const ID: TableId = TableId { volume: *b"a volume to fuzz", sst: SstId(1) };

/// Splits off a key to search for: its length is the first byte.
fn split_key(bytes: &[u8]) -> (&[u8], &[u8]) {
    match bytes.split_first() {
        Some((&length, rest)) => rest.split_at(usize::from(length).min(rest.len())),
        None => (&[], &[]),
    }
}
