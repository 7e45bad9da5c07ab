//! Recording what a device is asked and what it answers, so that somebody else can work out what a crash might have left.
//!
//! # How
//!
//! 1. A recorder is given to a device before it is attached. From then on every piece of an operation is recorded when it has been put into
//!    the queue of its driver, with a copy of what it writes, and every completion when the executor takes it.
//! 2. Whoever drives the engine adds *marks*: what it did, and what it was promised. The trace alone then tells what must be found
//!    after a crash at any of its events.
//! 3. All executors write into one trace, under one lock: its order is one in which things may have happened. A submission is recorded before the
//!    kernel can know of it, and a completion after it has come, so that the trace never claims that a write had completed
//!    before a flush was issued when that was not certain.
//!
//! # Layout
//!
//! `docs/trace-format.md` describes it for other readers. All integers little-endian.
//!
//! ```text
//! header           16 bytes   0  8  magic "SILTRACE"
//!                             8  4  version: 1
//!                            12  4  zero
//! record           32 bytes   0  1  kind: 1 opened, 2 submitted, 3 completed, 4 mark
//!                             1  1  submitted: operation (1 read, 2 write, 3 flush, 4 allocate, 5 discard); mark: its kind
//!                             2  1  flags: submitted: bit 0 durable; opened: bit 0 volatile cache
//!                             3  1  submitted: placement (0 none, 1 metadata, 2 log, 3 level 0, 4 deeper)
//!                             4  4  bytes of payload behind this record
//!                             8  8  number of the record: 0, 1, 2, ...
//!                            16  8  submitted: offset; completed: number of the submission; opened: logical block bytes; mark: first word
//!                            24  8  submitted: length; completed: result (signed); opened: size of the device; mark: second word
//! payload                           what a write writes; what belongs to a mark
//! ```
//!
//! | version | what changed |
//! |---|---|
//! | 1 | the first |
//!
//! A process that is killed leaves a trace whose last record may be cut short: it ends before that.

use std::fmt;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Geometry, Placement};
use crate::OpKind;

/// The first bytes of a trace.
pub const TRACE_MAGIC: [u8; 8] = *b"SILTRACE";
/// The version that is written.
pub const TRACE_VERSION: u32 = 2;
/// Bytes before the first record.
pub const TRACE_HEADER_BYTES: usize = 16;
/// Bytes of a record without its payload.
pub const TRACE_RECORD_BYTES: usize = 32;

/// What a record tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum RecordKind {
    /// A device was opened.
    Opened = 1,
    /// An operation was submitted.
    Submitted = 2,
    /// One has completed.
    Completed = 3,
    /// Somebody above the device had something to say.
    Mark = 4,
}

/// Writes a trace. Clones write the same one.
#[derive(Clone)]
pub struct Recorder(Arc<Mutex<Sink>>);

struct Sink {
    target: Target,
    records: u64,
    /// The first failure; nothing is written behind it.
    failed: Option<io::Error>,
}

enum Target {
    Memory(Vec<u8>),
    File(BufWriter<File>),
}

/// A piece of an operation, as it was given to the driver.
pub(crate) struct Recorded<'a> {
    pub(crate) kind: OpKind,
    pub(crate) offset: u64,
    pub(crate) len: u64,
    pub(crate) durable: bool,
    pub(crate) placement: Option<Placement>,
    /// What a write writes.
    pub(crate) data: &'a [u8],
}

impl Recorder {
    /// Keeps the trace in memory.
    pub fn in_memory() -> Recorder {
        Recorder::new(Target::Memory(Vec::new()))
    }

    /// Writes the trace to a new file.
    pub fn to_file(path: &Path) -> io::Result<Recorder> {
        Ok(Recorder::new(Target::File(BufWriter::with_capacity(1 << 20, File::create(path)?))))
    }

    fn new(target: Target) -> Recorder {
        let mut sink = Sink { target, records: 0, failed: None };
        let mut header = [0; TRACE_HEADER_BYTES];
        header[..8].copy_from_slice(&TRACE_MAGIC);
        header[8..12].copy_from_slice(&TRACE_VERSION.to_le_bytes());
        sink.write(&header);
        Recorder(Arc::new(Mutex::new(sink)))
    }

    /// Adds a mark: its kind, two words and a payload mean what whoever writes and reads them agrees on.
    pub fn mark(&self, kind: u8, words: [u64; 2], payload: &[u8]) {
        self.sink().record([RecordKind::Mark as u8, kind, 0, 0], words, payload);
    }

    /// Records so far.
    pub fn records(&self) -> u64 {
        self.sink().records
    }

    /// The trace so far where it is kept in memory; else it is now in its file, and this is empty.
    ///
    /// # Errors
    /// The first failure to write to the file.
    pub fn finish(&self) -> io::Result<Vec<u8>> {
        let mut sink = self.sink();
        if let Some(error) = sink.failed.take() {
            return Err(error);
        }
        match &mut sink.target {
            Target::Memory(bytes) => Ok(bytes.clone()),
            Target::File(file) => file.flush().map(|()| Vec::new()),
        }
    }

    pub(super) fn opened(&self, geometry: &Geometry, len_bytes: u64) {
        let flags = u8::from(geometry.volatile_cache);
        let words = [u64::from(geometry.logical_block_bytes), len_bytes];
        self.sink().record([RecordKind::Opened as u8, 0, flags, 0], words, &[]);
    }

    /// Its number.
    pub(crate) fn submitted(&self, piece: &Recorded<'_>) -> u64 {
        let placement = match piece.placement {
            None => 0,
            Some(Placement::Metadata) => 1,
            Some(Placement::Wal) => 2,
            Some(Placement::Level0) => 3,
            Some(Placement::Deep) => 4,
        };
        let operation = match piece.kind {
            OpKind::Read => 1,
            OpKind::Write => 2,
            OpKind::Flush => 3,
            OpKind::Allocate => 4,
            OpKind::Discard => 5,
            OpKind::Open | OpKind::Setup => unreachable!("no operation on a device"),
        };
        let head = [RecordKind::Submitted as u8, operation, u8::from(piece.durable), placement];
        self.sink().record(head, [piece.offset, piece.len], piece.data)
    }

    pub(crate) fn completed(&self, submission: u64, result: i32) {
        let words = [submission, i64::from(result) as u64];
        self.sink().record([RecordKind::Completed as u8, 0, 0, 0], words, &[]);
    }

    fn sink(&self) -> MutexGuard<'_, Sink> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sink {
    fn record(&mut self, head: [u8; 4], words: [u64; 2], payload: &[u8]) -> u64 {
        let number = self.records;
        let mut record = [0; TRACE_RECORD_BYTES];
        record[..4].copy_from_slice(&head);
        record[4..8].copy_from_slice(&(payload.len() as u32).to_le_bytes());
        record[8..16].copy_from_slice(&number.to_le_bytes());
        record[16..24].copy_from_slice(&words[0].to_le_bytes());
        record[24..].copy_from_slice(&words[1].to_le_bytes());
        self.write(&record);
        self.write(payload);
        self.records += 1;
        number
    }

    fn write(&mut self, bytes: &[u8]) {
        if self.failed.is_some() {
            return;
        }
        match &mut self.target {
            Target::Memory(trace) => trace.extend_from_slice(bytes),
            Target::File(file) => self.failed = file.write_all(bytes).err(),
        }
    }
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Recorder({} records)", self.records())
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests fail by panics")]

    use super::*;
    use crate::*;

    fn word(record: &[u8], at: usize) -> u64 {
        u64::from_le_bytes(*record[at..].first_chunk().unwrap())
    }

    #[test]
    fn a_trace_holds_submissions_with_their_data_completions_and_marks_in_order() {
        let recorder = Recorder::in_memory();
        let options = SimOptions { max_io_bytes: 4096, ..SimOptions::default() };
        let disk = SharedDevice::simulated(SimDisk::new(1, options)).recorded(&recorder);
        let mut executor = Executor::new(ExecutorConfig::default(), Backend::Simulated(SimClock::new())).unwrap();
        let device = executor.handle().attach(&disk).unwrap();
        executor.block_on(async {
            device.allocate(0, 1 << 16).await.unwrap();
            let mut buffer = Buffer::heap(8192);
            buffer[..4096].fill(1);
            buffer[4096..].fill(2);
            let (written, _) = device.write(4096, buffer, 0..8192, WriteDurability::Durable, Placement::Wal).await;
            written.unwrap();
            recorder.mark(9, [5, 6], b"written");
            device.flush().await.unwrap();
        });
        let trace = recorder.finish().unwrap();
        assert_eq!((&trace[..8], &trace[8..16]), (&TRACE_MAGIC[..], &[2, 0, 0, 0, 0, 0, 0, 0][..]));
        let mut rest = &trace[TRACE_HEADER_BYTES..];
        let mut records = Vec::new();
        while !rest.is_empty() {
            let (head, behind) = rest.split_at(TRACE_RECORD_BYTES);
            let payload_bytes = u32::from_le_bytes(*head[4..].first_chunk().unwrap()) as usize;
            assert_eq!(word(head, 8), records.len() as u64);
            records.push((
                [head[0], head[1], head[2], head[3]],
                word(head, 16),
                word(head, 24),
                &behind[..payload_bytes],
            ));
            rest = &behind[payload_bytes..];
        }
        let heads: Vec<_> = records.iter().map(|record| record.0).collect();
        let completed = [3, 0, 0, 0];
        assert_eq!(heads[..3], [[1, 0, 1, 0], [2, 4, 0, 0], completed]);
        // Two pieces, both in flight at once, complete in any order.
        assert_eq!(heads[3..7], [[2, 2, 1, 2], [2, 2, 1, 2], completed, completed]);
        assert_eq!((records[3].1, records[3].2, records[3].3), (4096, 4096, &[1; 4096][..]));
        assert_eq!((records[4].1, records[4].2, records[4].3), (8192, 4096, &[2; 4096][..]));
        let mut of = [records[5].1, records[6].1];
        of.sort_unstable();
        assert_eq!((of, records[5].2), ([3, 4], 4096));
        assert_eq!(records[7], ([4, 9, 0, 0], 5, 6, &b"written"[..]));
        assert_eq!(heads[8..], [[2, 3, 0, 0], completed]);
    }
}
