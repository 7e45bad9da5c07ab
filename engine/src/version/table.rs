//! One SST as a shard sees it.

use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use crate::manifest::SstMeta;
use crate::table::Directory;
use crate::volume::SstFile;

/// An SST in a version: what the manifest says of it, where it lies, and, once it has been used, its directory.
pub(crate) struct Table {
    meta: Arc<SstMeta>,
    file: Arc<SstFile>,
    groups: Range<u32>,
    /// What is visible lies between these, both included. A border of key groups is given as the two bytes of the group:
    /// user keys are never empty, so no stored key equals it.
    lower: Box<[u8]>,
    upper: Box<[u8]>,
    directory: RefCell<Option<Rc<Directory>>>,
    page_bytes: usize,
    /// A compaction works on it.
    busy: Cell<bool>,
}

impl Table {
    /// The part of an SST that lies in these key groups.
    pub(crate) fn new(meta: Arc<SstMeta>, file: Arc<SstFile>, groups: Range<u32>, page_bytes: usize) -> Rc<Self> {
        let (lower, upper) = visible_bounds(&meta, &groups);
        Rc::new(Table {
            meta,
            file,
            groups,
            lower,
            upper,
            directory: RefCell::new(None),
            page_bytes,
            busy: Cell::new(false),
        })
    }

    pub(crate) fn meta(&self) -> &Arc<SstMeta> {
        &self.meta
    }

    pub(crate) fn file(&self) -> &Arc<SstFile> {
        &self.file
    }

    /// The lower end of what is visible.
    #[inline]
    pub(crate) fn lower(&self) -> &[u8] {
        &self.lower
    }

    /// The upper end of what is visible, included.
    #[inline]
    pub(crate) fn upper(&self) -> &[u8] {
        &self.upper
    }

    /// Whether the key lies in the visible bounds.
    #[inline]
    pub(crate) fn may_hold(&self, key: &[u8]) -> bool {
        key >= &*self.lower && key <= &*self.upper
    }

    /// The key groups in which its entries are visible.
    pub(crate) fn groups(&self) -> &Range<u32> {
        &self.groups
    }

    pub(crate) fn bytes(&self) -> u64 {
        u64::from(self.meta.pages) * self.page_bytes as u64
    }

    pub(crate) fn directory(&self) -> Option<Rc<Directory>> {
        self.directory.borrow().clone()
    }

    pub(crate) fn set_directory(&self, directory: Rc<Directory>) {
        *self.directory.borrow_mut() = Some(directory);
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        self.directory.borrow().as_ref().map_or(0, |directory| directory.heap_bytes())
    }

    pub(crate) fn is_busy(&self) -> bool {
        self.busy.get()
    }

    pub(crate) fn set_busy(&self, busy: bool) {
        self.busy.set(busy);
    }
}

/// The bounds of what is visible of an SST in these key groups, both included.
pub(super) fn visible_bounds(meta: &SstMeta, groups: &Range<u32>) -> (Box<[u8]>, Box<[u8]>) {
    let first = (groups.start as u16).to_be_bytes();
    let end = (groups.end as u16).to_be_bytes();
    let lower = if *meta.smallest < first[..] { first[..].into() } else { meta.smallest.clone() };
    let upper = if *meta.largest > end[..] { end[..].into() } else { meta.largest.clone() };
    (lower, upper)
}
