//! The cache of pages: lookup, insertion, eviction.
//!
//! Whose is a frame: the pool's; then, from [`PageCache::frame`] to [`PageCache::insert`], the reader's, who lends it
//! to the device; then the cache's, together with everyone who holds a [`PageRef`] to it. Nobody can write to it
//! then. It goes back to the pool when the last of them lets it go, or from eviction straight to the next reader.
//!
//! Invariants:
//! 1. A page in the cache is in the table, on exactly one queue of its space, and on its SST's list; `cost` of the
//!    queues sums theirs.
//! 2. The cost of a space's pages is at most its capacity.
//! 3. Only a page that nobody else holds is evicted.

#[cfg(feature = "testing")]
use std::cell::OnceCell;
use std::cell::{Cell, RefCell};
use std::ops::{Deref, DerefMut};
use std::rc::Rc;

use crate::types::SstId;

use super::ghost::Ghost;
use super::slots::{List, Queue, Slots};
use super::table::Table;

/// The share of the capacity that new pages have to prove themselves in: a tenth, as S3-FIFO's authors found best.
const SMALL_SHARE: usize = 10;
/// Saturation of use counts.
const USES_MAX: u8 = 3;
/// Uses with which a page leaves the small queue for the main one.
const USES_TO_STAY: u8 = 2;
/// An eviction passes over at most so many pages in use, ...
const PINNED_STEPS_MAX: usize = 1024;
/// ... and over so many that were used since it last came by; then the next unpinned one goes, used or not.
const WARM_STEPS_MAX: usize = 64;
/// An eviction looks at most at so many pages of removed SSTs.
const DOOMED_STEPS_MAX: usize = 64;

/// The place of a block: its SST and its first page there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct BlockKey {
    /// The SST.
    pub(crate) sst: SstId,
    /// The block's first page.
    pub(crate) page: u32,
}

impl BlockKey {
    /// One wide multiplication mixes both numbers into all bits.
    #[inline]
    fn hash(self) -> u64 {
        let a = self.sst.0 ^ 0x9e37_79b9_7f4a_7c15;
        let b = u64::from(self.page) ^ 0xe703_7ed1_a0b4_28db;
        let mixed = u128::from(a.rotate_left(29) ^ b.wrapping_mul(0xa076_1d64_78bd_642f)) * 0xd6e8_feb8_6659_fd93;
        (mixed >> 64) as u64 ^ mixed as u64
    }
}

/// How much a page is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Priority {
    /// A data block.
    Data = 0,
    /// A partition of an index or filter: favoured, since many lookups share it.
    Metadata = 1,
}

/// The sizes of a cache.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CacheConfig {
    /// The most pages in frames to hold: normally all that the pool has, less what reads in flight need.
    pub(crate) frames_max: usize,
    /// The size of a frame.
    pub(crate) frame_bytes: usize,
    /// The most bytes to hold in blocks larger than a frame, which have heap memory of their own.
    pub(crate) large_bytes_max: usize,
}

/// What a cache has done and holds. Arrays are by priority: data, metadata.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct CacheStats {
    /// Lookups that found their page.
    pub(crate) hits: [u64; 2],
    /// Lookups that did not.
    pub(crate) misses: [u64; 2],
    /// Pages that were put out for others.
    pub(crate) evictions: u64,
    /// Pages held in frames.
    pub(crate) frames: usize,
    /// Bytes held in large blocks.
    pub(crate) large_bytes: usize,
    /// Pages held that someone refers to now.
    pub(crate) pinned: usize,
}

/// A cached block and its use count.
pub(super) struct Page<F> {
    pub(super) key: BlockKey,
    uses: Cell<u8>,
    space: Space,
    cost: usize,
    frame: F,
    /// The page that has taken this one's frame while it was lent.
    #[cfg(feature = "testing")]
    reused: OnceCell<Rc<Page<F>>>,
}

impl<F> Page<F> {
    fn new(key: BlockKey, space: Space, cost: usize, frame: F) -> Self {
        Page {
            key,
            uses: Cell::new(0),
            space,
            cost,
            frame,
            #[cfg(feature = "testing")]
            reused: OnceCell::new(),
        }
    }

    #[cfg(not(feature = "testing"))]
    #[inline]
    fn frame(&self) -> &F {
        &self.frame
    }

    #[cfg(feature = "testing")]
    fn frame(&self) -> &F {
        let mut page = self;
        while let Some(next) = page.reused.get() {
            page = next;
        }
        &page.frame
    }
}

/// A counted reference to a block in the cache (or to one that it had no room for): the block stays where it is while
/// this lives.
pub(crate) struct PageRef<F>(Rc<Page<F>>);

impl<F> Clone for PageRef<F> {
    #[inline]
    fn clone(&self) -> Self {
        PageRef(Rc::clone(&self.0))
    }
}

impl<F: Deref<Target = [u8]>> Deref for PageRef<F> {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        self.0.frame()
    }
}

impl<F: Deref<Target = [u8]>> AsRef<[u8]> for PageRef<F> {
    #[inline]
    fn as_ref(&self) -> &[u8] {
        self
    }
}

/// Which memory a block is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Space {
    /// Frames of the pool; each costs 1.
    Frames = 0,
    /// Heap memory; the cost is in bytes.
    Large = 1,
}

/// The queues of one space.
struct Queues {
    small: List,
    main: List,
    small_cost: usize,
    main_cost: usize,
    cost_max: usize,
    ghost: Ghost,
}

struct Inner<F> {
    table: Table,
    slots: Slots<F>,
    spaces: [Queues; 2],
    /// Removed SSTs, of which pages may still be here.
    doomed: Vec<SstId>,
    evictions: u64,
    /// Pages whose frames were taken while they were lent.
    #[cfg(feature = "testing")]
    stolen: Vec<Rc<Page<F>>>,
}

/// The block cache of a shard; see the module `cache`.
pub(crate) struct PageCache<F> {
    inner: RefCell<Inner<F>>,
    source: Box<dyn Fn() -> Option<F>>,
    frame_bytes: usize,
    hits: [Cell<u64>; 2],
    misses: [Cell<u64>; 2],
}

impl<F: DerefMut<Target = [u8]>> PageCache<F> {
    /// An empty cache that takes free frames from `source`.
    pub(crate) fn new(config: CacheConfig, source: impl Fn() -> Option<F> + 'static) -> Self {
        let CacheConfig { frames_max, frame_bytes, large_bytes_max } = config;
        assert!(frame_bytes > 0, "a frame holds something");
        let large_max = large_bytes_max / frame_bytes;
        let pages_max = frames_max + large_max;
        assert!(pages_max < u32::MAX as usize / 2, "slots are numbered in 32 bits");
        let inner = Inner {
            table: Table::new(pages_max),
            slots: Slots::new(pages_max),
            spaces: [Queues::new(frames_max, frames_max), Queues::new(large_bytes_max, large_max)],
            doomed: Vec::new(),
            evictions: 0,
            #[cfg(feature = "testing")]
            stolen: Vec::new(),
        };
        PageCache {
            inner: RefCell::new(inner),
            source: Box::new(source),
            frame_bytes,
            hits: Default::default(),
            misses: Default::default(),
        }
    }

    /// Finds a block. The priority only says which count the lookup belongs to.
    #[inline]
    pub(crate) fn get(&self, key: BlockKey, priority: Priority) -> Option<PageRef<F>> {
        let found = self.inner.borrow().find(key);
        let count = if found.is_some() { &self.hits } else { &self.misses };
        let count = &count[priority as usize];
        count.set(count.get() + 1);
        found
    }

    /// Whether a block is here; counts neither as a lookup nor as a use.
    pub(crate) fn contains(&self, key: BlockKey) -> bool {
        self.inner.borrow().slot_of(key).is_some()
    }

    /// A frame to read a block into: a free one of the pool, or one made free by eviction. `None` where all are in
    /// use, in the cache or out of it: the reader then waits, or reads into memory of its own.
    pub(crate) fn frame(&self) -> Option<F> {
        if let Some(frame) = (self.source)() {
            return Some(frame);
        }
        let inner = &mut *self.inner.borrow_mut();
        inner.reap_doomed().or_else(|| inner.evict(Space::Frames)).map(|page| page.frame)
    }

    /// Adds a block in its frame. Where the block is here already, that one is returned and the frame goes back;
    /// where there is no room, the reference returned is all that holds the block.
    pub(crate) fn insert(&self, key: BlockKey, frame: F, priority: Priority) -> PageRef<F> {
        self.add(Page::new(key, Space::Frames, 1, frame), priority)
    }

    /// Adds a block that is larger than a frame, in heap memory of its own; else like [`PageCache::insert`].
    pub(crate) fn insert_large(&self, key: BlockKey, frame: F, priority: Priority) -> PageRef<F> {
        let cost = frame.len().max(self.frame_bytes);
        self.add(Page::new(key, Space::Large, cost, frame), priority)
    }

    fn add(&self, page: Page<F>, priority: Priority) -> PageRef<F> {
        let inner = &mut *self.inner.borrow_mut();
        if let Some(present) = inner.find(page.key) {
            return present;
        }
        let page = Rc::new(page);
        #[cfg(feature = "testing")]
        if page.space == Space::Frames
            && let Some(stolen) = inner.stolen.pop()
        {
            // A page is stolen once, so nothing is set yet.
            let _ = stolen.reused.set(Rc::clone(&page));
        }
        if inner.make_room(page.space, page.cost) {
            inner.link(Rc::clone(&page), priority);
        }
        PageRef(page)
    }

    /// Drops all blocks of an SST that nobody will ask for again, in constant time: their frames are the next that
    /// [`PageCache::frame`] reuses.
    pub(crate) fn remove_sst(&self, sst: SstId) {
        let inner = &mut *self.inner.borrow_mut();
        if inner.slots.any_of_sst(sst).is_some() {
            inner.doomed.push(sst);
        }
    }

    /// What the cache has done and holds. Walks all pages to count the pinned ones.
    pub(crate) fn stats(&self) -> CacheStats {
        let inner = self.inner.borrow();
        CacheStats {
            hits: [self.hits[0].get(), self.hits[1].get()],
            misses: [self.misses[0].get(), self.misses[1].get()],
            evictions: inner.evictions,
            frames: inner.spaces[Space::Frames as usize].cost(),
            large_bytes: inner.spaces[Space::Large as usize].cost(),
            pinned: inner.slots.pages().filter(|page| Rc::strong_count(page) > 1).count(),
        }
    }

    /// The memory that the cache takes beside frames and large blocks.
    pub(crate) fn overhead_bytes(&self) -> usize {
        let inner = self.inner.borrow();
        let ghosts = inner.spaces.iter().map(|queues| queues.ghost.memory_bytes()).sum::<usize>();
        inner.table.memory_bytes() + inner.slots.memory_bytes() + ghosts
    }
}

impl<F> Inner<F> {
    #[inline]
    fn slot_of(&self, key: BlockKey) -> Option<u32> {
        self.table.find(key.hash(), |slot| self.slots.page(slot).key == key)
    }

    #[inline]
    fn find(&self, key: BlockKey) -> Option<PageRef<F>> {
        let page = self.slots.page(self.slot_of(key)?);
        let uses = page.uses.get();
        if uses < USES_MAX {
            page.uses.set(uses + 1);
        }
        Some(PageRef(Rc::clone(page)))
    }

    /// Evicts until the space has room; false where it cannot.
    fn make_room(&mut self, space: Space, cost: usize) -> bool {
        let fits = |inner: &Self| {
            let queues = &inner.spaces[space as usize];
            queues.cost() + cost <= queues.cost_max
        };
        if cost > self.spaces[space as usize].cost_max {
            return false;
        }
        while !fits(self) {
            if self.evict(space).is_none() {
                return false;
            }
        }
        true
    }

    fn link(&mut self, page: Rc<Page<F>>, priority: Priority) {
        let hash = page.key.hash();
        let queues = &mut self.spaces[page.space as usize];
        let remembered = queues.ghost.take(hash);
        let queue = if remembered || priority == Priority::Metadata { Queue::Main } else { Queue::Small };
        if priority == Priority::Metadata {
            page.uses.set(USES_MAX);
        }
        let cost = page.cost;
        let slot = self.slots.add(page, queue);
        queues.push(&mut self.slots, slot, queue, cost);
        self.table.insert(hash, slot);
    }

    /// Takes out the page that S3-FIFO chooses among the unpinned.
    fn evict(&mut self, space: Space) -> Option<Page<F>> {
        let queues = &mut self.spaces[space as usize];
        let (mut pinned, mut warm) = (0, 0);
        while pinned < PINNED_STEPS_MAX {
            // Where one queue has shown a pinned page, the other gets its turn.
            let small_first = (queues.small_cost * SMALL_SHARE > queues.cost_max) != (pinned % 2 == 1);
            let slot = match (queues.small.oldest(), queues.main.oldest()) {
                (Some(slot), None) => slot,
                (Some(slot), _) if small_first => slot,
                (_, slot) => slot?,
            };
            let queue = self.slots.queue(slot);
            let (uses, cost, is_pinned) = {
                let page = self.slots.page(slot);
                (page.uses.get(), page.cost, Rc::strong_count(page) > 1)
            };
            queues.unlink(&mut self.slots, slot, cost);
            if is_pinned {
                #[cfg(feature = "testing")]
                if mutant!(LentFrameReused if space == Space::Frames) {
                    let hash = self.slots.page(slot).key.hash();
                    self.table.remove(hash, slot, |other| self.slots.page(other).key.hash());
                    self.stolen.push(self.slots.remove(slot));
                    pinned += 1;
                    continue;
                }
                pinned += 1;
                queues.push(&mut self.slots, slot, Queue::Main, cost);
                continue;
            }
            let stays = match queue {
                Queue::Small => uses >= USES_TO_STAY,
                Queue::Main => uses > 0,
            };
            if stays && warm < WARM_STEPS_MAX {
                warm += 1;
                self.slots.page(slot).uses.set(if queue == Queue::Small { 0 } else { uses - 1 });
                queues.push(&mut self.slots, slot, Queue::Main, cost);
                continue;
            }
            if queue == Queue::Small {
                queues.ghost.add(self.slots.page(slot).key.hash());
            }
            self.evictions += 1;
            let page = self.take_out(slot);
            return Some(Rc::into_inner(page).expect("nobody else holds a page that is not pinned"));
        }
        None
    }

    /// A frame from among the pages of removed SSTs. What is still referred to leaves the cache too, and its frame
    /// goes with its last reference.
    fn reap_doomed(&mut self) -> Option<Page<F>> {
        for _ in 0..DOOMED_STEPS_MAX {
            let sst = *self.doomed.last()?;
            let Some(slot) = self.slots.any_of_sst(sst) else {
                self.doomed.pop();
                continue;
            };
            let (space, cost) = (self.slots.page(slot).space, self.slots.page(slot).cost);
            self.spaces[space as usize].unlink(&mut self.slots, slot, cost);
            let page = Rc::into_inner(self.take_out(slot));
            if let Some(page) = page.filter(|page| page.space == Space::Frames) {
                return Some(page);
            }
        }
        None
    }

    /// Removes a page that is on no queue any more from the table and its slot.
    fn take_out(&mut self, slot: u32) -> Rc<Page<F>> {
        let hash = self.slots.page(slot).key.hash();
        self.table.remove(hash, slot, |other| self.slots.page(other).key.hash());
        self.slots.remove(slot)
    }
}

impl Queues {
    /// Empty queues that remember as many keys as the main queue has pages.
    fn new(cost_max: usize, pages_max: usize) -> Self {
        let ghost = Ghost::new(pages_max - pages_max / SMALL_SHARE);
        Queues { small: List::EMPTY, main: List::EMPTY, small_cost: 0, main_cost: 0, cost_max, ghost }
    }

    fn cost(&self) -> usize {
        self.small_cost + self.main_cost
    }

    fn push<F>(&mut self, slots: &mut Slots<F>, slot: u32, queue: Queue, cost: usize) {
        slots.set_queue(slot, queue);
        match queue {
            Queue::Small => {
                self.small_cost += cost;
                slots.push(&mut self.small, slot);
            }
            Queue::Main => {
                self.main_cost += cost;
                slots.push(&mut self.main, slot);
            }
        }
    }

    fn unlink<F>(&mut self, slots: &mut Slots<F>, slot: u32, cost: usize) {
        match slots.queue(slot) {
            Queue::Small => {
                self.small_cost -= cost;
                slots.unlink(&mut self.small, slot);
            }
            Queue::Main => {
                self.main_cost -= cost;
                slots.unlink(&mut self.main, slot);
            }
        }
    }
}
