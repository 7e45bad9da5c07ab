//! The states that a crash at one moment may leave: all of them, or a sample.

use siltstone_io::{Random, SimDisk, SimOptions};
use xxhash_rust::xxh3::xxh3_64;

use super::disk::{Content, Disk};

/// How likely a write survives, in a sample; each state draws one of these.
const SURVIVAL: [f64; 6] = [0.03, 0.2, 0.5, 0.8, 0.97, 0.97];

/// Blocks of a state that are described.
const DESCRIBED_MAX: usize = 12;

/// What may be on the device at one moment.
pub(super) struct States<'d> {
    disk: &'d Disk,
    /// Blocks that may hold different contents.
    slots: Vec<Slot>,
    /// Sizes that the device may have, oldest first.
    lens: Vec<u64>,
}

struct Slot {
    block: u64,
    /// What it may hold, and which write gave it that; first what is durable, then in the order of submission. No two are the same.
    contents: Vec<(u64, Content)>,
}

/// Which content each slot has, and, last, which size the device.
pub(super) type Choice = Vec<usize>;

/// One state.
pub(super) struct Image<'d> {
    disk: &'d Disk,
    len: u64,
    /// Blocks that differ from the durable ones.
    changed: Vec<(u64, Content)>,
    /// Names it: the same bytes and size, the same hash.
    pub(super) hash: u64,
}

impl<'d> States<'d> {
    pub(super) fn new(disk: &'d Disk) -> States<'d> {
        let mut slots = Vec::new();
        for (block, versions) in &disk.pending {
            let durable = disk.durable.get(block).cloned().unwrap_or(Content::ZEROS);
            let mut contents = vec![(0, durable)];
            for version in versions {
                // The newest writer counts: a content that came twice is as new as its second coming.
                contents.retain(|(write, content)| *write == 0 || !content.is_same(&version.content));
                if !contents[0].1.is_same(&version.content) {
                    contents.push((version.write, version.content.clone()));
                }
            }
            if contents.len() > 1 {
                slots.push(Slot { block: *block, contents });
            }
        }
        States { disk, slots, lens: disk.sizes() }
    }

    /// How many there are.
    pub(super) fn count(&self) -> u64 {
        let contents = self.slots.iter().map(|slot| slot.contents.len() as u64);
        contents.fold(self.lens.len() as u64, u64::saturating_mul)
    }

    /// The n-th of all.
    pub(super) fn nth(&self, mut n: u64) -> Choice {
        let radices = self.slots.iter().map(|slot| slot.contents.len()).chain([self.lens.len()]);
        radices
            .map(|radix| {
                let digit = n % radix as u64;
                n /= radix as u64;
                digit as usize
            })
            .collect()
    }

    /// One of them. Either blocks survive each by itself, or whole writes do.
    pub(super) fn sample(&self, random: &mut Random) -> Choice {
        let survival = SURVIVAL[random.below(SURVIVAL.len() as u64) as usize];
        let whole_writes = random.chance(0.5);
        let fates = random.next_u64();
        let mut choice: Choice = Vec::with_capacity(self.slots.len() + 1);
        for slot in &self.slots {
            let newest = slot.contents.len() - 1;
            choice.push(match whole_writes {
                true => {
                    let survives = |write: u64| Random::new(fates ^ write).chance(survival);
                    (1..=newest).rev().find(|index| survives(slot.contents[*index].0)).unwrap_or(0)
                }
                false if random.chance(survival) => newest,
                false => random.below(newest as u64) as usize,
            });
        }
        let newest_len = self.lens.len() - 1;
        choice.push(if random.chance(survival) { newest_len } else { random.below(newest_len as u64 + 1) as usize });
        choice
    }

    pub(super) fn image(&self, choice: &Choice) -> Image<'d> {
        let disk = self.disk;
        let len = self.lens[choice[self.slots.len()]];
        let end = len / disk.block_bytes;
        let mut hash = disk.durable_hash ^ xxh3_64(&len.to_le_bytes());
        let mut changed = Vec::new();
        for (slot, index) in self.slots.iter().zip(choice) {
            let content = &slot.contents[*index].1;
            if slot.block < end && *index > 0 {
                hash ^= slot.contents[0].1.hash_at(slot.block) ^ content.hash_at(slot.block);
                changed.push((slot.block, content.clone()));
            }
        }
        for (block, content) in disk.durable.range(end..) {
            hash ^= content.hash_at(*block);
        }
        Image { disk, len, changed, hash }
    }

    /// Says of a state what of the pending writes is there.
    pub(super) fn describe(&self, choice: &Choice) -> String {
        let mut text = format!("{} bytes", self.lens[choice[self.slots.len()]]);
        for (slot, index) in self.slots.iter().zip(choice).take(DESCRIBED_MAX) {
            let there = match index {
                0 => "old".to_owned(),
                index => format!("of write {}", slot.contents[*index].0),
            };
            let other: Vec<u64> = slot.contents[1..].iter().map(|(write, _)| *write).collect();
            text += &format!("; at {}: {there} (pending: {other:?})", slot.block * self.disk.block_bytes);
        }
        match self.slots.len() {
            0..=DESCRIBED_MAX => text,
            more => format!("{text}; and {} more blocks", more - DESCRIBED_MAX),
        }
    }
}

impl Image<'_> {
    /// A simulated disk that holds it.
    pub(super) fn to_disk(&self, seed: u64) -> SimDisk {
        let block_bytes = self.disk.block_bytes;
        let options = SimOptions { logical_block_bytes: block_bytes as u32, latency_us: 5..6, ..SimOptions::default() };
        let end = self.len / block_bytes;
        let is_changed = |block: &u64| self.changed.binary_search_by_key(block, |changed| changed.0).is_ok();
        let unchanged = self.disk.durable.range(..end).filter(|(block, _)| !is_changed(block));
        let blocks = unchanged.chain(self.changed.iter().map(|(block, content)| (block, content)));
        let blocks = blocks.filter_map(|(block, content)| Some((block * block_bytes, content.bytes()?)));
        SimDisk::holding(seed, options, self.len, blocks)
    }
}
