//! What a get that is served from memory costs: no allocation, whether the memtable or the block cache has the key.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use siltstone::{Durability, Engine, KeyspaceOptions, Options};

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

/// Counts the calling thread's allocations.
struct Counting;

// SAFETY: every call is passed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // A thread that ends has no counter any more, and nothing to measure.
        let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promises are those that the system's allocator asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the pointer came from `alloc` above with this layout.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn a_get_served_from_memory_allocates_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let options =
        Options::at(directory.path()).durability(Durability::Checkpoint).keyspace("k", KeyspaceOptions::default());
    let (engine, mut seeds) = Engine::open_driven(options).unwrap();
    let mut driver = seeds.remove(0).start().unwrap();
    let (keyspace, shard) = (engine.keyspace("k").unwrap(), driver.local());
    let keys: Vec<[u8; 8]> = (0..1000u64).map(u64::to_be_bytes).collect();
    driver.block_on(async {
        for key in &keys {
            shard.put(&keyspace, key, b"value").await.unwrap();
        }
        for place in ["memtable", "cache"] {
            if place == "cache" {
                shard.flush().await.unwrap();
            }
            // The first round brings the blocks into the cache.
            for measured in [false, true] {
                let before = ALLOCATIONS.get();
                for key in &keys {
                    let value = shard.get(&keyspace, key).await.unwrap();
                    assert_eq!(value.as_deref(), Some(&b"value"[..]));
                    assert!(shard.get(&keyspace, b"absent").await.unwrap().is_none());
                }
                let allocations = ALLOCATIONS.get() - before;
                assert!(
                    !measured || allocations == 0,
                    "{allocations} allocations for {} gets from the {place}",
                    keys.len()
                );
            }
        }
    });
}
