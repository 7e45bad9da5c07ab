//! The block cache of a shard: pages of SSTs in frames that belong to a pool.
//!
//! A hit hands out a [`PageRef`], a counted reference to the page in its frame: no copy, no allocation. Replacement is S3-FIFO
//! (Yang et al., "FIFO queues are all you need for cache eviction", SOSP 2023), which resists scans and needs no list operation on a hit:
//!
//! 1. A new data page enters the *small* queue, a tenth of the capacity. One whose key the *ghost* remembers, and every metadata page
//!    (index and filter partitions: many lookups share each), enters the *main* queue.
//! 2. A hit adds one to the page's use count, up to 3.
//! 3. When room is needed and the small queue is over its share, its oldest page goes to the main queue if it was used more than
//!    once, and otherwise out, leaving its key in the ghost.
//! 4. Else the oldest page of the main queue goes out if its use count is 0, and otherwise round once more with one less.
//! 5. A page that someone holds a reference to is passed over.
//!
//! | module | what it does |
//! |---|---|
//! | [`table`] | finds a page by its key: one flat open-addressing table |
//! | [`slots`] | the pages with their links: the queues and the list of each SST's pages |
//! | [`ghost`] | remembers keys that went out |
//! | [`pages`] | the cache itself |

mod ghost;
mod pages;
mod slots;
mod table;
#[cfg(test)]
mod tests;

#[expect(unused_imports, reason = "used by the parts that come next")]
pub(crate) use pages::{BlockKey, CacheConfig, CacheStats, PageCache, PageRef, Priority};
