//! Reading a trace. `docs/trace-format.md` describes the format; this is its one reader here.

use std::ops::Range;

use siltstone_io::testing::{TRACE_HEADER_BYTES, TRACE_MAGIC, TRACE_RECORD_BYTES, TRACE_VERSION};

/// What was submitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// A read.
    Read,
    /// A write.
    Write,
    /// A flush of the volatile cache.
    Flush,
    /// Space is reserved.
    Allocate,
    /// Space is given back, and reads as zeros.
    Discard,
}

/// One record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The device was opened.
    Opened {
        /// The unit that is written whole or not at all.
        block_bytes: u64,
        /// Writes are durable only when flushed.
        volatile_cache: bool,
        /// Its size.
        len_bytes: u64,
    },
    /// An operation was given to the driver.
    Submitted {
        /// Which.
        operation: Operation,
        /// Where.
        offset: u64,
        /// How much.
        len: u64,
        /// It is durable when it has completed.
        durable: bool,
        /// Where in the trace what it writes is.
        data: Range<usize>,
    },
    /// One has completed.
    Completed {
        /// The number of its submission.
        of: u64,
        /// As io_uring gives it: bytes, or a negative error number.
        result: i64,
    },
    /// The workload says something.
    Mark {
        /// See [`marks`](super::marks).
        kind: u8,
        /// Two numbers.
        words: [u64; 2],
        /// Where in the trace the rest is.
        payload: Range<usize>,
    },
}

/// A trace. The number of an event is its place.
pub struct Trace {
    bytes: Vec<u8>,
    /// All records.
    pub events: Vec<Event>,
}

impl Trace {
    /// Parses a trace. One whose last record is cut short ends before that.
    pub fn parse(bytes: Vec<u8>) -> Result<Trace, String> {
        if bytes.get(..8) != Some(&TRACE_MAGIC[..]) {
            return Err("this is no trace".into());
        }
        let version = bytes.get(8..12).map_or(0, |bytes| u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]));
        if version != TRACE_VERSION {
            return Err(format!("a trace of version {version}; this build reads version {TRACE_VERSION}"));
        }
        let mut events = Vec::new();
        let mut at = TRACE_HEADER_BYTES;
        while let Some(head) = bytes.get(at..at + TRACE_RECORD_BYTES) {
            let payload_bytes = u32::from_le_bytes([head[4], head[5], head[6], head[7]]) as usize;
            let payload = at + TRACE_RECORD_BYTES..at + TRACE_RECORD_BYTES + payload_bytes;
            if payload.end > bytes.len() {
                break;
            }
            at = payload.end;
            let number = word(head, 8);
            if number != events.len() as u64 {
                return Err(format!("record {} says that it is record {number}", events.len()));
            }
            let event = event(head, payload).ok_or_else(|| format!("record {number} is of an unknown kind"))?;
            events.push(event);
        }
        Ok(Trace { bytes, events })
    }

    /// What a record carries.
    pub fn payload(&self, range: &Range<usize>) -> &[u8] {
        &self.bytes[range.clone()]
    }

    /// The trace as it is in a file.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Moves an event to another place: an untrue trace, for tests of whoever checks traces. The event must be a mark.
    pub fn move_mark(&mut self, from: usize, to: usize) {
        assert!(matches!(self.events[from], Event::Mark { .. }), "only marks can be moved: others have numbers");
        let renumbered = |number: u64| match number as usize {
            number if number > from && number <= to => number as u64 - 1,
            number if number < from && number >= to => number as u64 + 1,
            number => number as u64,
        };
        let event = self.events.remove(from);
        self.events.insert(to, event);
        for event in &mut self.events {
            if let Event::Completed { of, .. } = event {
                *of = renumbered(*of);
            }
        }
    }
}

fn event(head: &[u8], payload: Range<usize>) -> Option<Event> {
    let words = [word(head, 16), word(head, 24)];
    Some(match head[0] {
        1 => Event::Opened { block_bytes: words[0], volatile_cache: head[2] & 1 != 0, len_bytes: words[1] },
        2 => {
            let operation = match head[1] {
                1 => Operation::Read,
                2 => Operation::Write,
                3 => Operation::Flush,
                4 => Operation::Allocate,
                5 => Operation::Discard,
                _ => return None,
            };
            Event::Submitted { operation, offset: words[0], len: words[1], durable: head[2] & 1 != 0, data: payload }
        }
        3 => Event::Completed { of: words[0], result: words[1] as i64 },
        4 => Event::Mark { kind: head[1], words, payload },
        _ => return None,
    })
}

fn word(head: &[u8], at: usize) -> u64 {
    head[at..].first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}
