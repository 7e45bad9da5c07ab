//! The slots of the cache's pages, and the lists that run through them.
//!
//! A slot holds one page. It is on one queue (small, main or doomed), and on the list of its SST's pages. Both are
//! doubly linked by slot number, so that any page leaves them in constant time. Links lie apart from the pages: a hit
//! reads only the page's pointer.

use std::rc::Rc;

use rustc_hash::FxHashMap;

use crate::types::SstId;

use super::pages::Page;
use super::table::NO_SLOT;

/// The queues that a page can be on. Frames and large blocks have their own, since room in one is no room in the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Queue {
    Small,
    Main,
}

/// A list of slots: new ones enter at the head, the oldest is at the tail.
#[derive(Clone, Copy, Debug)]
pub(super) struct List {
    head: u32,
    tail: u32,
}

impl List {
    pub(super) const EMPTY: List = List { head: NO_SLOT, tail: NO_SLOT };

    /// The oldest slot.
    pub(super) fn oldest(&self) -> Option<u32> {
        (self.tail != NO_SLOT).then_some(self.tail)
    }
}

/// What else is known of a page: read on insertion and eviction only.
#[derive(Clone, Copy)]
pub(super) struct Meta {
    pub(super) queue: Queue,
    newer: u32,
    older: u32,
    sst_next: u32,
    sst_prev: u32,
}

pub(super) struct Slots<F> {
    pages: Vec<Option<Rc<Page<F>>>>,
    metas: Vec<Meta>,
    free: Vec<u32>,
    /// The first page of each SST's list.
    ssts: FxHashMap<SstId, u32>,
}

impl<F> Slots<F> {
    pub(super) fn new(pages_max: usize) -> Self {
        Slots {
            pages: Vec::with_capacity(pages_max),
            metas: Vec::with_capacity(pages_max),
            free: Vec::new(),
            ssts: FxHashMap::default(),
        }
    }

    /// The page in an occupied slot.
    #[inline]
    pub(super) fn page(&self, slot: u32) -> &Rc<Page<F>> {
        self.pages[slot as usize].as_ref().expect("lists and table name occupied slots only")
    }

    pub(super) fn queue(&self, slot: u32) -> Queue {
        self.metas[slot as usize].queue
    }

    pub(super) fn set_queue(&mut self, slot: u32, queue: Queue) {
        self.metas[slot as usize].queue = queue;
    }

    /// Puts a page into a free slot and onto its SST's list, not yet on a queue.
    pub(super) fn add(&mut self, page: Rc<Page<F>>, queue: Queue) -> u32 {
        let first = self.ssts.get(&page.key.sst).copied().unwrap_or(NO_SLOT);
        let meta = Meta { queue, newer: NO_SLOT, older: NO_SLOT, sst_next: first, sst_prev: NO_SLOT };
        let sst = page.key.sst;
        let slot = match self.free.pop() {
            Some(slot) => {
                self.pages[slot as usize] = Some(page);
                self.metas[slot as usize] = meta;
                slot
            }
            None => {
                self.pages.push(Some(page));
                self.metas.push(meta);
                (self.pages.len() - 1) as u32
            }
        };
        if first != NO_SLOT {
            self.metas[first as usize].sst_prev = slot;
        }
        self.ssts.insert(sst, slot);
        slot
    }

    /// Empties a slot that is on no queue any more, and takes its page off its SST's list.
    pub(super) fn remove(&mut self, slot: u32) -> Rc<Page<F>> {
        let page = self.pages[slot as usize].take().expect("lists and table name occupied slots only");
        let Meta { sst_next, sst_prev, .. } = self.metas[slot as usize];
        if sst_next != NO_SLOT {
            self.metas[sst_next as usize].sst_prev = sst_prev;
        }
        if sst_prev != NO_SLOT {
            self.metas[sst_prev as usize].sst_next = sst_next;
        } else if sst_next != NO_SLOT {
            self.ssts.insert(page.key.sst, sst_next);
        } else {
            self.ssts.remove(&page.key.sst);
        }
        self.free.push(slot);
        page
    }

    /// A page of the SST, if there is one.
    pub(super) fn any_of_sst(&self, sst: SstId) -> Option<u32> {
        self.ssts.get(&sst).copied()
    }

    /// Puts a slot at the head of a list.
    pub(super) fn push(&mut self, list: &mut List, slot: u32) {
        let meta = &mut self.metas[slot as usize];
        (meta.newer, meta.older) = (NO_SLOT, list.head);
        match list.head {
            NO_SLOT => list.tail = slot,
            head => self.metas[head as usize].newer = slot,
        }
        list.head = slot;
    }

    /// Takes a slot off the list that it is on.
    pub(super) fn unlink(&mut self, list: &mut List, slot: u32) {
        let Meta { newer, older, .. } = self.metas[slot as usize];
        match newer {
            NO_SLOT => list.head = older,
            newer => self.metas[newer as usize].older = older,
        }
        match older {
            NO_SLOT => list.tail = newer,
            older => self.metas[older as usize].newer = newer,
        }
    }

    /// All pages, for statistics.
    pub(super) fn pages(&self) -> impl Iterator<Item = &Rc<Page<F>>> {
        self.pages.iter().flatten()
    }

    pub(super) fn memory_bytes(&self) -> usize {
        let page = size_of::<Option<Rc<Page<F>>>>() + size_of::<Page<F>>() + 2 * size_of::<usize>();
        self.pages.capacity() * (page + size_of::<Meta>()) + self.free.capacity() * size_of::<u32>()
    }
}
