//! Remembers the keys of pages that left the cache unused, for as long as it takes to evict as many pages as the main
//! queue holds.
//!
//! A set-associative table of fingerprints with the time (count of additions) each came in, as S3-FIFO's authors
//! advise: nothing is ever taken out, entries just grow too old, and the oldest of its set is overwritten. A
//! fingerprint may be another key's (one in 2^32 for each of the set's entries); the price is one page in the wrong
//! queue.

const WAYS: usize = 4;

#[derive(Clone, Copy, Default)]
struct Entry {
    fingerprint: u32,
    /// The time of the addition; 0 never.
    time: u32,
}

pub(super) struct Ghost {
    sets: Box<[[Entry; WAYS]]>,
    entries_max: u32,
    now: u32,
}

impl Ghost {
    pub(super) fn new(entries_max: usize) -> Self {
        let sets = (entries_max / (WAYS / 2)).next_power_of_two();
        let entries_max = u32::try_from(entries_max).expect("a cache has fewer than 2^32 frames");
        Ghost { sets: vec![[Entry::default(); WAYS]; sets].into_boxed_slice(), entries_max, now: 0 }
    }

    pub(super) fn add(&mut self, hash: u64) {
        // After 2^32 additions the time starts again: old entries may then count as new, once.
        self.now = self.now.checked_add(1).unwrap_or(1);
        let now = self.now;
        let (set, fingerprint) = self.place(hash);
        let oldest = set
            .iter_mut()
            .max_by_key(|entry| (entry.fingerprint == fingerprint, entry.time == 0, now.wrapping_sub(entry.time)));
        *oldest.expect("a set has ways") = Entry { fingerprint, time: now };
    }

    /// Whether the key is remembered; it is forgotten by being asked for.
    pub(super) fn take(&mut self, hash: u64) -> bool {
        let (now, entries_max) = (self.now, self.entries_max);
        let (set, fingerprint) = self.place(hash);
        let found = set.iter_mut().find(|entry| entry.fingerprint == fingerprint && entry.time != 0);
        found.is_some_and(|entry| {
            let age = now.wrapping_sub(entry.time);
            *entry = Entry::default();
            age < entries_max
        })
    }

    fn place(&mut self, hash: u64) -> (&mut [Entry; WAYS], u32) {
        let set = hash as usize & (self.sets.len() - 1);
        (&mut self.sets[set], (hash >> 32) as u32)
    }

    pub(super) fn memory_bytes(&self) -> usize {
        size_of_val(&*self.sets)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(n: u64) -> u64 {
        n.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32).wrapping_mul(0xbf58_476d_1ce4_e5b9)
    }

    #[test]
    fn remembers_the_last_keys_and_forgets_the_older() {
        let capacity = if cfg!(miri) { 100 } else { 1000 };
        let mut ghost = Ghost::new(capacity as usize);
        (0..3 * capacity).for_each(|n| ghost.add(hash(n)));
        let (old, recent) = (0..2 * capacity, 2 * capacity..3 * capacity);
        assert!(old.clone().all(|n| !ghost.take(hash(n))));
        let remembered = recent.clone().filter(|&n| ghost.take(hash(n))).count();
        assert!(remembered as u64 > capacity * 85 / 100, "{remembered} of {capacity}");
        assert!(recent.clone().all(|n| !ghost.take(hash(n))));
    }

    #[test]
    fn without_capacity_it_remembers_nothing() {
        let mut ghost = Ghost::new(0);
        ghost.add(hash(1));
        assert!(!ghost.take(hash(1)));
    }
}
