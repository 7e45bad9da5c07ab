//! An SST's place on the device, and when its space is free again.
//!
//! An [`SstFile`] is shared by versions, snapshots, checkpoints and shards as an `Arc`. Its extents are freed when both hold:
//!
//! 1. nobody has the `Arc` any more: no version, iterator or read in flight reads from it;
//! 2. no manifest refers to it: the count of [`SstFile::retain`] less [`SstFile::release`] is zero.
//!
//! A shard retains an SST before it commits the edit that adds it, and releases it after the edit is durable by which its manifest holds it
//! no longer (neither in a level nor in a checkpoint). A commit that failed may be on the device or not: then nothing is released.
//! So closing an engine frees nothing, and an SST that a crash or an error left uncommitted is free.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use siltstone_io::sync::{AtomicU32, Ordering};

use super::VolumeParts;
use crate::types::{ExtentId, SstId};
use crate::{Error, Result};

/// More manifests than there are.
const NEVER_FREED: u32 = 1 << 20;

/// An SST on the device.
pub(crate) struct SstFile {
    parts: VolumeParts,
    id: SstId,
    pages: u32,
    extents: Box<[ExtentId]>,
    page_shift: u32,
    extent_shift: u32,
    manifests: AtomicU32,
}

impl SstFile {
    /// An SST whose extents the caller owns and hands over. No manifest refers to it yet.
    pub(super) fn new(parts: VolumeParts, id: SstId, pages: u32, extents: Vec<ExtentId>) -> Result<Arc<SstFile>> {
        let file = Arc::new(SstFile::placed(parts, id, pages, extents)?);
        #[cfg(feature = "testing")]
        file.parts.audit_sst(&file);
        Ok(file)
    }

    pub(super) fn placed(parts: VolumeParts, id: SstId, pages: u32, extents: Vec<ExtentId>) -> Result<SstFile> {
        let (page_shift, extent_shift) = (parts.page_bytes().trailing_zeros(), parts.extent_bytes().trailing_zeros());
        let extents_needed = u64::from(pages).div_ceil(1 << (extent_shift - page_shift));
        if extents.len() as u64 != extents_needed {
            let reason = format!("SST {id} has {pages} pages in {} extents", extents.len());
            return Err(Error::corruption("manifest record", reason));
        }
        let manifests = AtomicU32::new(0);
        Ok(SstFile { parts, id, pages, extents: extents.into(), page_shift, extent_shift, manifests })
    }

    /// Its identity.
    #[inline]
    pub(crate) fn id(&self) -> SstId {
        self.id
    }

    /// Its length.
    pub(crate) fn pages(&self) -> u32 {
        self.pages
    }

    /// Its extents, in the order of its bytes.
    pub(crate) fn extents(&self) -> &[ExtentId] {
        &self.extents
    }

    /// A manifest is about to refer to it.
    pub(crate) fn retain(&self) {
        self.manifests.fetch_add(1, Ordering::Relaxed);
    }

    /// A manifest refers to it no longer, durably.
    pub(crate) fn release(&self) {
        let before = self.manifests.fetch_sub(1, Ordering::Release);
        assert!(before > 0, "SST {} was released more often than retained", self.id);
        let freed_early = (before == 1 && mutant!(SstFreedUnderReaders))
            || (before > 1 && before < NEVER_FREED && mutant!(SharedSstFreedByFirst));
        if freed_early {
            self.parts.abandon(self.extents.to_vec());
            self.manifests.store(2 * NEVER_FREED, Ordering::Release);
        }
    }

    /// Where a page is on the device. The page must be in the SST.
    #[inline]
    pub(crate) fn page_offset(&self, page: u32) -> u64 {
        debug_assert!(page < self.pages);
        let at = u64::from(page) << self.page_shift;
        let extent = self.extents[(at >> self.extent_shift) as usize];
        (u64::from(extent.0) << self.extent_shift) + (at & ((1 << self.extent_shift) - 1))
    }

    /// The device ranges (offset, bytes) that hold these pages, in order; neighbouring extents are one range.
    pub(crate) fn runs(&self, pages: Range<u32>) -> impl Iterator<Item = (u64, usize)> + '_ {
        assert!(pages.start <= pages.end && pages.end <= self.pages, "pages {pages:?} of {}", self.pages);
        let extent_bytes = 1u64 << self.extent_shift;
        let mut at = u64::from(pages.start) << self.page_shift;
        let end = u64::from(pages.end) << self.page_shift;
        std::iter::from_fn(move || {
            if at == end {
                return None;
            }
            let offset = self.page_offset((at >> self.page_shift) as u32);
            let start = at;
            loop {
                at = end.min((at & !(extent_bytes - 1)) + extent_bytes);
                if at == end || self.page_offset((at >> self.page_shift) as u32) != offset + (at - start) {
                    return Some((offset, (at - start) as usize));
                }
            }
        })
    }
}

impl Drop for SstFile {
    fn drop(&mut self) {
        // Acquire: what the releasing shard did with the SST comes before its space is given to another.
        if self.manifests.load(Ordering::Acquire) == 0 && !mutant!(SstExtentsLeaked) {
            self.parts.abandon(std::mem::take(&mut self.extents).into());
        }
    }
}

impl fmt::Debug for SstFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SstFile")
            .field("id", &self.id)
            .field("pages", &self.pages)
            .field("extents", &self.extents)
            .finish()
    }
}

/// The SSTs that are found when a volume is opened: one object for each id, however many manifests refer to it.
pub(crate) struct SstRegistry {
    parts: VolumeParts,
    files: BTreeMap<SstId, Arc<SstFile>>,
}

impl SstRegistry {
    /// Nothing found yet.
    pub(crate) fn new(parts: VolumeParts) -> SstRegistry {
        SstRegistry { parts, files: BTreeMap::new() }
    }

    /// The SST that a manifest refers to; retained once for this manifest. Its extents have been marked used ([`VolumeParts::mark_used`]), for each
    /// SST once.
    ///
    /// # Errors
    ///
    /// Corruption where another manifest says something else of it, it has not the extents for its pages, or the device ends before it.
    pub(crate) fn open(&mut self, id: SstId, pages: u32, extents: &[ExtentId]) -> Result<Arc<SstFile>> {
        if let Some(file) = self.files.get(&id) {
            if file.pages != pages || *file.extents != *extents {
                let reason = format!("two manifests disagree on where SST {id} is");
                return Err(Error::corruption("manifest", reason));
            }
            file.retain();
            mark!(SstShared);
            return Ok(Arc::clone(file));
        }
        let file = SstFile::new(self.parts.clone(), id, pages, extents.to_vec())?;
        file.retain();
        let page_bytes = u64::from(self.parts.page_bytes());
        if let (Some(last_page), Some(&last)) = (pages.checked_sub(1), extents.last()) {
            let within = file.page_offset(last_page) - self.parts.offset(last);
            self.parts.check_present(last, within + page_bytes)?;
        }
        self.files.insert(id, Arc::clone(&file));
        Ok(file)
    }
}
