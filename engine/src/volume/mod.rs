//! The volume.
pub(crate) mod bytes;
mod extents;
mod superblock;
mod sync;
