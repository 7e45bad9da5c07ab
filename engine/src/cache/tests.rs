//! The cache against a model, and its hit rates beside those of CLOCK and LRU.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use super::*;
use crate::types::SstId;

const FRAME_BYTES: usize = 32;

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

/// A pool of frames that counts what it has lent, and fills frames that come back with rubbish.
#[derive(Clone, Default)]
struct Pool(Rc<Cell<usize>>);

struct Frame {
    bytes: Vec<u8>,
    pool: Option<Pool>,
}

impl Pool {
    fn new(frames: usize) -> Pool {
        Pool(Rc::new(Cell::new(frames)))
    }

    fn take(&self) -> Option<Frame> {
        self.0.set(self.0.get().checked_sub(1)?);
        Some(Frame { bytes: vec![0xee; FRAME_BYTES], pool: Some(self.clone()) })
    }
}

impl Drop for Frame {
    fn drop(&mut self) {
        if let Some(Pool(free)) = &self.pool {
            free.set(free.get() + 1);
        }
    }
}

impl std::ops::Deref for Frame {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl std::ops::DerefMut for Frame {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

fn cache(frames: usize, large_bytes_max: usize) -> (PageCache<Frame>, Pool) {
    let pool = Pool::new(frames);
    let source = pool.clone();
    let config = CacheConfig { frames_max: frames, frame_bytes: FRAME_BYTES, large_bytes_max };
    (PageCache::new(config, move || source.take()), pool)
}

fn key(sst: u64, page: u32) -> BlockKey {
    BlockKey { sst: SstId(sst), page }
}

/// The bytes of a block: its key, over and over.
fn fill(key: BlockKey, bytes: &mut [u8]) {
    let stamp = (key.sst.0 << 32 | u64::from(key.page)).to_le_bytes();
    bytes.iter_mut().zip(stamp.iter().cycle()).for_each(|(byte, stamp)| *byte = *stamp);
}

fn holds(key: BlockKey, bytes: &[u8]) -> bool {
    let mut expected = vec![0; bytes.len()];
    fill(key, &mut expected);
    bytes == expected
}

fn read(cache: &PageCache<Frame>, key: BlockKey, priority: Priority) -> Option<PageRef<Frame>> {
    cache.get(key, priority).or_else(|| {
        let mut frame = cache.frame()?;
        fill(key, &mut frame);
        Some(cache.insert(key, frame, priority))
    })
}

#[test]
fn contents_are_never_mixed_up_and_pinned_pages_stay() {
    for seed in 0..if cfg!(miri) { 4 } else { 20 } {
        let mut random = Random(seed);
        let (frames, large_bytes_max) = [(4, 0), (16, 400), (64, 2000), (200, 10_000)][seed as usize % 4];
        let (cache, pool) = cache(frames, large_bytes_max);
        let mut pins: Vec<(BlockKey, PageRef<Frame>)> = Vec::new();
        let mut removed = BTreeSet::new();
        let (mut hits, mut misses) = (0, 0);
        let mut sst_first = 0;
        for _ in 0..if cfg!(miri) { 60 } else { 8000 } {
            let sst = sst_first + random.below(6);
            let large = random.below(10) == 0;
            let key = key(sst, random.below(40) as u32 * 2 + u32::from(large));
            let priority = if key.page.is_multiple_of(8) { Priority::Metadata } else { Priority::Data };
            let found = cache.get(key, priority);
            assert_eq!(found.is_some(), cache.contains(key));
            *if found.is_some() { &mut hits } else { &mut misses } += 1;
            let page = found.or_else(|| {
                if large {
                    let mut frame = Frame { bytes: vec![0; FRAME_BYTES + random.below(300) as usize], pool: None };
                    fill(key, &mut frame);
                    return Some(cache.insert_large(key, frame, priority));
                }
                let mut frame = cache.frame()?;
                assert!(pins.iter().all(|(_, pin)| pin.as_ptr() != frame.as_ptr()), "a pinned frame was reused");
                fill(key, &mut frame);
                Some(cache.insert(key, frame, priority))
            });
            if let Some(page) = page {
                assert!(holds(key, &page));
                if random.below(3) == 0 {
                    pins.push((key, page.clone()));
                }
            } else {
                assert!(pins.len() >= frames, "with unpinned pages there is always a frame");
            }
            while pins.len() > frames / 2 && (random.below(4) != 0 || pins.len() > 2 * frames) {
                pins.swap_remove(random.below(pins.len() as u64) as usize);
            }
            if random.below(200) == 0 {
                cache.remove_sst(SstId(sst_first));
                removed.insert(sst_first);
                sst_first += 1;
            }
            assert!(pins.iter().all(|(key, page)| holds(*key, page)));
            let stats = cache.stats();
            assert!(stats.frames <= frames && stats.large_bytes <= large_bytes_max, "{stats:?}");
            assert!(stats.frames + pool.0.get() <= frames, "every frame is in one place");
            let CacheStats { hits: [h0, h1], misses: [m0, m1], .. } = stats;
            assert_eq!((h0 + h1, m0 + m1), (hits, misses));
        }
        assert!(misses > 0 && (cfg!(miri) || hits > 0));
        drop(pins);
        for _ in 0..2 * frames {
            assert!(read(&cache, self::key(999, random.next() as u32), Priority::Data).is_some());
        }
        assert_eq!(cache.stats().pinned, 0);
        assert!(removed.iter().all(|&sst| (0..80).all(|page| !cache.contains(self::key(sst, page)))));
        drop(cache);
        assert_eq!(pool.0.get(), frames, "all frames are back");
    }
}

#[test]
fn with_all_frames_pinned_there_is_none_until_one_is_let_go() {
    let (cache, _) = cache(8, 0);
    let mut pins: Vec<_> = (0..8).map(|page| read(&cache, key(1, page), Priority::Data).unwrap()).collect();
    assert!(cache.frame().is_none());
    assert_eq!(cache.stats().pinned, 8);
    pins.remove(3);
    assert!(cache.frame().is_some());
    assert!(!cache.contains(key(1, 3)) && (0..8).filter(|&page| cache.contains(key(1, page))).count() == 7);
}

#[test]
fn without_capacity_blocks_are_handed_out_and_not_kept() {
    let (cache, _) = cache(0, 0);
    assert!(cache.frame().is_none());
    let page = cache.insert(key(1, 1), Frame { bytes: vec![7; FRAME_BYTES], pool: None }, Priority::Data);
    let large = cache.insert_large(key(1, 2), Frame { bytes: vec![8; 100], pool: None }, Priority::Metadata);
    assert_eq!((page[0], large[99]), (7, 8));
    assert!(cache.get(key(1, 1), Priority::Data).is_none() && cache.get(key(1, 2), Priority::Data).is_none());
    cache.remove_sst(SstId(1));
    assert_eq!(cache.stats(), CacheStats { misses: [2, 0], ..CacheStats::default() });
}

#[test]
fn a_block_that_is_here_already_is_returned_and_the_frame_goes_back() {
    let (cache, pool) = cache(8, 0);
    let first = read(&cache, key(1, 1), Priority::Data).unwrap();
    let frame = cache.frame().unwrap();
    let second = cache.insert(key(1, 1), frame, Priority::Data);
    assert_eq!(first.as_ptr(), second.as_ptr());
    assert_eq!(pool.0.get(), 7);
}

#[test]
fn large_blocks_have_their_own_room() {
    let (cache, _) = cache(4, 1000);
    (0..4).for_each(|page| drop(read(&cache, key(1, page), Priority::Data)));
    for page in 10..30 {
        let _ = cache.insert_large(key(1, page), Frame { bytes: vec![1; 300], pool: None }, Priority::Data);
    }
    assert_eq!((cache.stats().large_bytes, cache.stats().frames), (900, 4));
    let whole = cache.insert_large(key(1, 99), Frame { bytes: vec![2; 1001], pool: None }, Priority::Data);
    assert!(whole.len() == 1001 && !cache.contains(key(1, 99)));
    assert!((0..4).all(|page| cache.contains(key(1, page))));
}

#[test]
fn the_frames_of_a_removed_sst_are_used_first() {
    let (cache, _) = cache(10, 0);
    (0..10).for_each(|page| drop(read(&cache, key(u64::from(page % 2), page), Priority::Data)));
    let pin = cache.get(key(1, 1), Priority::Data).unwrap();
    cache.remove_sst(SstId(1));
    (20..24).for_each(|page| drop(read(&cache, key(2, page), Priority::Data)));
    assert!((0..10).all(|page| cache.contains(key(u64::from(page % 2), page)) == (page == 1 || page % 2 == 0)));
    drop(pin);
    assert!(cache.frame().is_some());
    assert_eq!((cache.contains(key(1, 1)), cache.stats().evictions), (false, 0));
}

/// Counts hits of a trace with plain CLOCK or LRU.
fn plain_hits(trace: &[u64], capacity: usize, lru: bool) -> usize {
    let (mut times, mut by_time, mut hits) = (BTreeMap::new(), BTreeMap::new(), 0);
    let mut used = BTreeSet::new();
    for (now, &key) in trace.iter().enumerate() {
        if let Some(time) = times.get_mut(&key) {
            hits += 1;
            if lru {
                by_time.remove(&*time);
                by_time.insert((now, 0), key);
                *time = (now, 0);
            } else {
                used.insert(key);
            }
            continue;
        }
        let mut round = 0;
        while times.len() >= capacity {
            let (_, oldest) = by_time.pop_first().unwrap();
            round += 1;
            if used.remove(&oldest) {
                by_time.insert((now, round), oldest);
                times.insert(oldest, (now, round));
            } else {
                times.remove(&oldest);
            }
        }
        by_time.insert((now, usize::MAX), key);
        times.insert(key, (now, usize::MAX));
    }
    hits
}

fn cache_hits(trace: &[u64], capacity: usize) -> usize {
    let (cache, _) = cache(capacity, 0);
    for &page in trace {
        drop(read(&cache, key(page >> 10, (page & 1023) as u32), Priority::Data));
    }
    cache.stats().hits[0] as usize
}

/// Zipfian page numbers of skew 0.99, scattered; after every `scan_every`-th a run of pages in sequence, if that is
/// not 0.
fn trace(pages: u64, requests: usize, scan_every: usize, scan_pages: u64) -> Vec<u64> {
    let mut random = Random(7);
    let mut sums = Vec::new();
    let mut sum = 0.0;
    for rank in 1..=pages {
        sum += (rank as f64).powf(-0.99);
        sums.push(sum);
    }
    let mut trace = Vec::new();
    for request in 1..=requests {
        let at = random.next() as f64 / u64::MAX as f64 * sum;
        let rank = sums.partition_point(|&sum| sum < at) as u64;
        trace.push(rank.wrapping_mul(0x9e37_79b9_7f4a_7c15) % (1 << 40));
        if scan_every != 0 && request % scan_every == 0 {
            let first = random.below(1 << 30) + (1 << 41);
            trace.extend(first..first + scan_pages);
        }
    }
    trace
}

#[test]
fn hits_more_often_than_clock_and_lru_and_resists_scans() {
    let (pages, requests) = if cfg!(miri) { (100, 200) } else { (20_000, 150_000) };
    let capacity = pages as usize / 10;
    for (name, scan_every, scan_pages) in [("zipf", 0, 0), ("zipf and scans", requests / 30, pages / 5)] {
        let trace = trace(pages, requests, scan_every, scan_pages);
        let percent = |hits: usize| hits as f64 * 100.0 / requests as f64;
        let [ours, clock, lru] =
            [cache_hits(&trace, capacity), plain_hits(&trace, capacity, false), plain_hits(&trace, capacity, true)]
                .map(percent);
        println!("{name}: S3-FIFO {ours:.1} %, CLOCK {clock:.1} %, LRU {lru:.1} %");
        assert!(cfg!(miri) || ours > clock + 1.0 && ours > lru + 1.0, "{name}: {ours} {clock} {lru}");
    }
}
