//! The model of the disk into which a trace is played.
//!
//! Rules
//! 1. A write in flight, or completed and not flushed, is one of the contents that its blocks may have; blocks are independent of each other.
//! 2. A durable write that completes makes its blocks' contents durable, in place of those that had completed before it.
//! 3. A flush that completes makes durable what had completed when it was submitted: of each block the newest such content.
//! 4. A discard is a write of zeros. Allocations grow the device when they complete; a flush makes that durable, and so does a durable write
//!    behind the old end.
//! 5. Refused operations (EAGAIN, EINTR, ECANCELED) and the rest of short ones have not happened: what is tried again is another submission.
//!    What other failures leave is not defined: a trace with one is refused.

use std::collections::BTreeMap;
use std::rc::Rc;

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::trace::{Event, Operation, Trace};

const EINTR: i64 = 4;
const EAGAIN: i64 = 11;
const ECANCELED: i64 = 125;

/// What a block holds; nothing for zeros.
#[derive(Clone, Debug)]
pub(super) struct Content(Option<Rc<Bytes>>);

#[derive(Debug)]
struct Bytes {
    hash: u64,
    bytes: Box<[u8]>,
}

impl Content {
    pub(super) const ZEROS: Content = Content(None);

    fn new(bytes: &[u8]) -> Content {
        if bytes.iter().all(|byte| *byte == 0) {
            return Content::ZEROS;
        }
        Content(Some(Rc::new(Bytes { hash: xxh3_64(bytes), bytes: Box::from(bytes) })))
    }

    pub(super) fn bytes(&self) -> Option<&[u8]> {
        self.0.as_ref().map(|content| &content.bytes[..])
    }

    pub(super) fn is_same(&self, other: &Content) -> bool {
        self.hash_at(0) == other.hash_at(0)
    }

    /// What this content of this block adds to an image's hash; 0 for zeros.
    pub(super) fn hash_at(&self, block: u64) -> u64 {
        self.0.as_ref().map_or(0, |content| xxh3_64_with_seed(&block.to_le_bytes(), content.hash))
    }
}

/// A content that a block may have.
pub(super) struct Version {
    /// The submission that wrote it.
    pub(super) write: u64,
    completed: Option<u64>,
    pub(super) content: Content,
}

struct InFlight {
    operation: Operation,
    offset: u64,
    len: u64,
    durable: bool,
}

/// See the module.
pub(super) struct Disk {
    pub(super) block_bytes: u64,
    volatile_cache: bool,
    pub(super) durable: BTreeMap<u64, Content>,
    /// The exclusive or of the durable blocks' hashes.
    pub(super) durable_hash: u64,
    pub(super) pending: BTreeMap<u64, Vec<Version>>,
    in_flight: BTreeMap<u64, InFlight>,
    pub(super) durable_len: u64,
    /// Sizes reached since, and when.
    growth: Vec<(u64, u64)>,
    opened: bool,
}

impl Disk {
    pub(super) fn new() -> Disk {
        Disk {
            block_bytes: 4096,
            volatile_cache: true,
            durable: BTreeMap::new(),
            durable_hash: 0,
            pending: BTreeMap::new(),
            in_flight: BTreeMap::new(),
            durable_len: 0,
            growth: Vec::new(),
            opened: false,
        }
    }

    /// Whether this event makes some state impossible that is possible now.
    pub(super) fn shrinks(&self, event: &Event) -> bool {
        let Event::Completed { of, result } = event else { return false };
        self.in_flight
            .get(of)
            .is_some_and(|op| *result >= 0 && (op.operation == Operation::Flush || self.is_durable(op)))
    }

    /// Plays an event; whether it may have changed what states are possible.
    pub(super) fn play(&mut self, trace: &Trace, number: u64, event: &Event) -> Result<bool, String> {
        match event {
            Event::Opened { block_bytes, volatile_cache, len_bytes } => {
                if !self.opened && *len_bytes > 0 {
                    return Err("the trace begins with a device that holds something already".into());
                }
                if self.opened && *block_bytes != self.block_bytes {
                    return Err("the trace is of two devices".into());
                }
                (self.block_bytes, self.volatile_cache, self.opened) = (*block_bytes, *volatile_cache, true);
                Ok(false)
            }
            Event::Submitted { operation, offset, len, durable, data } => {
                self.submit(number, *operation, *offset, trace.payload(data), *len);
                let op = InFlight { operation: *operation, offset: *offset, len: *len, durable: *durable };
                self.in_flight.insert(number, op);
                Ok(matches!(operation, Operation::Write | Operation::Discard))
            }
            Event::Completed { of, result } => self.complete(number, *of, *result),
            Event::Mark { .. } => Ok(false),
        }
    }

    fn submit(&mut self, number: u64, operation: Operation, offset: u64, data: &[u8], len: u64) {
        let first = offset / self.block_bytes;
        for index in 0..len / self.block_bytes {
            let content = match operation {
                Operation::Write => {
                    let start = (index * self.block_bytes) as usize;
                    Content::new(&data[start..start + self.block_bytes as usize])
                }
                Operation::Discard => Content::ZEROS,
                Operation::Read | Operation::Flush | Operation::Allocate => return,
            };
            self.pending.entry(first + index).or_default().push(Version { write: number, completed: None, content });
        }
    }

    fn complete(&mut self, number: u64, of: u64, result: i64) -> Result<bool, String> {
        let Some(op) = self.in_flight.remove(&of) else {
            return Err(format!("record {number} completes {of}, which is not in flight"));
        };
        if result < 0 && !matches!(-result, EINTR | EAGAIN | ECANCELED) {
            return match op.operation {
                Operation::Read => Ok(false),
                _ => Err(format!("record {of} failed with error {}: what that leaves is not defined", -result)),
            };
        }
        let done = match op.operation {
            _ if result < 0 => 0,
            Operation::Write => result as u64,
            _ => op.len,
        };
        match op.operation {
            Operation::Read => return Ok(false),
            Operation::Write | Operation::Discard => {
                let durable = self.is_durable(&op);
                let blocks = op.offset / self.block_bytes..(op.offset + op.len) / self.block_bytes;
                for block in blocks {
                    let happened = (block + 1) * self.block_bytes <= op.offset + done;
                    self.settle(block, of, happened.then_some(number), durable);
                }
                if op.operation == Operation::Write && durable && done > 0 {
                    self.durable_len = self.durable_len.max(op.offset + done);
                }
            }
            Operation::Flush if result >= 0 => self.flush(of),
            Operation::Allocate if result >= 0 => {
                let end = op.offset + op.len;
                if end > self.len() {
                    self.growth.push((number, end));
                }
            }
            Operation::Flush | Operation::Allocate => (),
        }
        Ok(true)
    }

    /// Whether what it changes is durable when it has completed.
    fn is_durable(&self, op: &InFlight) -> bool {
        let changes = matches!(op.operation, Operation::Write | Operation::Discard);
        changes && (!self.volatile_cache || op.durable)
    }

    fn len(&self) -> u64 {
        self.growth.last().map_or(self.durable_len, |growth| growth.1.max(self.durable_len))
    }

    /// The sizes that a crash may leave, least first: the durable one, those reached since, and those that a durable write in flight makes durable.
    pub(super) fn sizes(&self) -> Vec<u64> {
        let writes = self.in_flight.values().filter(|op| op.operation == Operation::Write && self.is_durable(op));
        let ends = writes.map(|op| op.offset + op.len).filter(|end| *end < self.len());
        let mut sizes: Vec<u64> = self.growth.iter().map(|growth| growth.1).chain(ends).collect();
        sizes.retain(|size| *size > self.durable_len);
        sizes.push(self.durable_len);
        sizes.sort_unstable();
        sizes.dedup();
        sizes
    }

    /// A block's part of an operation has completed, or has not happened.
    fn settle(&mut self, block: u64, of: u64, completed: Option<u64>, durable: bool) {
        let Some(versions) = self.pending.get_mut(&block) else { return };
        let Some(at) = versions.iter().position(|version| version.write == of) else { return };
        match completed {
            None => drop(versions.remove(at)),
            Some(_) if durable => {
                let content = versions.remove(at).content;
                versions.retain(|version| version.completed.is_none());
                make_durable(&mut self.durable, &mut self.durable_hash, block, content);
            }
            Some(number) => versions[at].completed = Some(number),
        }
        if self.pending.get(&block).is_some_and(Vec::is_empty) {
            self.pending.remove(&block);
        }
    }

    /// A flush that was submitted then has completed.
    fn flush(&mut self, submitted: u64) {
        let (durable, hash) = (&mut self.durable, &mut self.durable_hash);
        self.pending.retain(|block, versions| {
            let covered = |version: &Version| version.completed.is_some_and(|completed| completed < submitted);
            let newest = versions.iter().filter(|version| covered(version)).max_by_key(|version| version.completed);
            if let Some(newest) = newest {
                make_durable(durable, hash, *block, newest.content.clone());
                versions.retain(|version| !covered(version));
            }
            !versions.is_empty()
        });
        let covered = self.growth.partition_point(|growth| growth.0 < submitted);
        if let Some((_, len)) = self.growth.drain(..covered).next_back() {
            self.durable_len = self.durable_len.max(len);
        }
    }
}

fn make_durable(durable: &mut BTreeMap<u64, Content>, hash: &mut u64, block: u64, content: Content) {
    *hash ^= content.hash_at(block);
    let old = match content.0 {
        Some(_) => durable.insert(block, content),
        None => durable.remove(&block),
    };
    *hash ^= old.map_or(0, |old| old.hash_at(block));
}

#[cfg(test)]
mod tests {
    use siltstone_io::testing::Recorder;
    use siltstone_io::{
        Backend, Buffer, Executor, ExecutorConfig, Placement, Random, SharedDevice, SimClock, SimDisk, SimFaults,
        SimOptions, WriteDurability,
    };

    use super::super::states::States;
    use super::*;

    const BLOCK: u64 = 4096;
    const BLOCKS: u64 = 12;

    fn played(trace: &Trace) -> Disk {
        let mut disk = Disk::new();
        for (number, event) in (0..).zip(&trace.events) {
            disk.play(trace, number, event).unwrap();
        }
        disk
    }

    /// Random operations on a simulated disk, up to a crash; the trace, and what the crash has left.
    fn crashed(seed: u64) -> (Trace, SimDisk) {
        let mut random = Random::new(seed);
        let options = SimOptions { torn_blocks: false, volatile_cache: random.chance(0.8), ..SimOptions::default() };
        let simulated = SimDisk::new(seed, options);
        simulated.set_faults(SimFaults { short_transfer_chance: 0.1, again_chance: 0.1, ..SimFaults::default() });
        let recorder = Recorder::in_memory();
        let shared = SharedDevice::simulated(simulated.clone()).recorded(&recorder);
        let mut executor = Executor::new(ExecutorConfig::default(), Backend::Simulated(SimClock::new())).unwrap();
        let device = executor.handle().attach(&shared).unwrap();
        simulated.crash_at(Some(1 + random.below(60)));
        let handle = executor.handle();
        executor.try_block_on(async {
            device.allocate(0, BLOCK * BLOCKS / 2).await.unwrap();
            device.flush().await.unwrap();
            device.allocate(0, BLOCK * BLOCKS).await.unwrap();
            loop {
                // Dropped operations go on: several are in flight at once.
                let offset = random.below(BLOCKS - 2) * BLOCK;
                match random.below(10) {
                    0 => drop(device.flush()),
                    1 => drop(device.discard(offset, BLOCK)),
                    number => {
                        let len = BLOCK * (1 + random.below(3));
                        let mut buffer = Buffer::heap(len as usize);
                        random.fill(&mut buffer);
                        let durability = if number < 4 { WriteDurability::Durable } else { WriteDurability::Cached };
                        drop(device.write(offset, buffer, 0..len as usize, durability, Placement::Deep));
                    }
                }
                handle.sleep_us(random.below(60)).await;
                if simulated.crashed() {
                    break;
                }
            }
        });
        (Trace::parse(recorder.finish().unwrap()).unwrap(), simulated)
    }

    /// The model and the simulated disk are two tellings of one contract: what a crash leaves of the one the other holds possible.
    #[test]
    fn what_a_crash_of_the_simulated_disk_leaves_is_one_of_the_states() {
        let (mut pending, mut undone, mut lost) = (0, 0, 0);
        for seed in 0..400 {
            let (trace, simulated) = crashed(seed);
            if simulated.fault_counts().get("crash: block garbled").is_some_and(|count| *count > 0) {
                continue;
            }
            let model = played(&trace);
            let len = simulated.len_bytes();
            // A write that was cut short when the power went may have made a size durable that ends within it.
            let within = |op: &InFlight| op.offset < len && len < op.offset + op.len && model.is_durable(op);
            let explained = model.sizes().contains(&len) || model.in_flight.values().any(within);
            assert!(explained, "seed {seed}: {len} of {:?}", model.sizes());
            for block in 0..len / BLOCK {
                let found = Content::new(&simulated.read_raw(block * BLOCK, BLOCK));
                let durable = model.durable.get(&block).cloned().unwrap_or(Content::ZEROS);
                let versions = model.pending.get(&block).into_iter().flatten();
                let newest = versions.clone().next_back().map_or(&durable, |version| &version.content);
                pending += u64::from(model.pending.contains_key(&block));
                undone += u64::from(!found.is_same(newest));
                lost += u64::from(found.is_same(&durable) && !found.is_same(newest));
                let mut possible = versions.map(|version| &version.content).chain([&durable]);
                assert!(possible.any(|content| content.is_same(&found)), "seed {seed}, block {block}");
            }
        }
        assert!(pending > 100 && undone > 50 && lost > 20, "{pending} {undone} {lost}");
    }

    /// A trace of a device that has grown, and what `work` adds to it.
    fn trace(work: impl Fn(&dyn Fn(u8, u8, bool, [u64; 2], &[u8]) -> u64)) -> Trace {
        let recorder = Recorder::in_memory();
        let bytes = std::cell::RefCell::new(recorder.finish().unwrap());
        let records = std::cell::Cell::new(0);
        let record = |kind: u8, operation: u8, durable: bool, words: [u64; 2], payload: &[u8]| {
            let mut head = vec![kind, operation, u8::from(durable), 0];
            head.extend_from_slice(&(payload.len() as u32).to_le_bytes());
            for word in [records.get(), words[0], words[1]] {
                head.extend_from_slice(&word.to_le_bytes());
            }
            bytes.borrow_mut().extend([&head[..], payload].concat());
            records.set(records.get() + 1);
            records.get() - 1
        };
        record(1, 0, true, [BLOCK, 0], &[]);
        let grow = record(2, 4, false, [0, BLOCK * BLOCKS], &[]);
        record(3, 0, false, [grow, 0], &[]);
        let flush = record(2, 3, false, [0, 0], &[]);
        record(3, 0, false, [flush, 0], &[]);
        work(&record);
        Trace::parse(bytes.into_inner()).unwrap()
    }

    #[test]
    fn a_flush_covers_only_what_had_completed_when_it_was_submitted() {
        let trace = trace(|record| {
            let early = record(2, 2, false, [0, BLOCK], &[1; BLOCK as usize]);
            record(3, 0, false, [early, BLOCK], &[]);
            let late = record(2, 2, false, [BLOCK, BLOCK], &[2; BLOCK as usize]);
            let flush = record(2, 3, false, [0, 0], &[]);
            record(3, 0, false, [late, BLOCK], &[]);
            record(3, 0, false, [flush, 0], &[]);
        });
        let disk = played(&trace);
        assert_eq!(disk.durable.keys().collect::<Vec<_>>(), [&0]);
        assert_eq!(disk.pending.keys().collect::<Vec<_>>(), [&1]);
        assert_eq!(States::new(&disk).count(), 2);
    }

    #[test]
    fn blocks_of_a_write_survive_independently_and_each_state_is_there_once() {
        let trace = trace(|record| {
            let bytes: Vec<u8> = (0..3 * BLOCK).map(|at| 1 + (at / BLOCK) as u8).collect();
            record(2, 2, false, [0, 3 * BLOCK], &bytes);
            let over = record(2, 2, false, [BLOCK, BLOCK], &[9; BLOCK as usize]);
            record(3, 0, false, [over, BLOCK], &[]);
        });
        let disk = played(&trace);
        let states = States::new(&disk);
        assert_eq!(states.count(), 2 * 3 * 2);
        let hashes: std::collections::BTreeSet<u64> =
            (0..states.count()).map(|nth| states.image(&states.nth(nth)).hash).collect();
        assert_eq!(hashes.len() as u64, states.count());
        let contents: std::collections::BTreeSet<Vec<u8>> = (0..states.count())
            .map(|nth| {
                states
                    .image(&states.nth(nth))
                    .to_disk(1)
                    .read_raw(0, 3 * BLOCK)
                    .into_iter()
                    .step_by(BLOCK as usize)
                    .collect()
            })
            .collect();
        assert_eq!(contents.len(), 12);
        assert!(contents.contains(&vec![1, 9, 0]) && contents.contains(&vec![0, 2, 3]));
    }

    #[test]
    fn a_failed_write_makes_a_trace_unplayable_and_a_refused_one_has_not_happened() {
        let failing = |errno: i64| {
            trace(move |record| {
                let write = record(2, 2, false, [0, BLOCK], &[1; BLOCK as usize]);
                record(3, 0, false, [write, (-errno) as u64], &[]);
            })
        };
        assert!(played(&failing(EAGAIN)).pending.is_empty());
        let trace = failing(5);
        let mut disk = Disk::new();
        let ended = (0..).zip(&trace.events).try_for_each(|(number, event)| disk.play(&trace, number, event).map(drop));
        assert!(ended.unwrap_err().contains("not defined"));
    }
}
