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
    pub(super) growth: Vec<(u64, u64)>,
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
        self.in_flight.get(of).is_some_and(|op| {
            *result >= 0
                && match op.operation {
                    Operation::Flush => true,
                    Operation::Write => op.durable || !self.volatile_cache,
                    Operation::Discard => !self.volatile_cache,
                    Operation::Read | Operation::Allocate => false,
                }
        })
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
                let durable = !self.volatile_cache || op.durable && op.operation == Operation::Write;
                let blocks = op.offset / self.block_bytes..(op.offset + op.len) / self.block_bytes;
                for block in blocks {
                    let happened = (block + 1) * self.block_bytes <= op.offset + done;
                    self.settle(block, of, happened.then_some(number), durable);
                }
                if op.operation == Operation::Write && op.durable && done > 0 {
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

    fn len(&self) -> u64 {
        self.growth.last().map_or(self.durable_len, |growth| growth.1.max(self.durable_len))
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
