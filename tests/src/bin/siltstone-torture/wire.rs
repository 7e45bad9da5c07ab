//! What a worker tells the oracle, through a pipe.
//!
//! A message is 16 bytes, and what follows them; never more than `PIPE_BUF`, so that the kernel takes each whole: messages of several
//! threads do not mix, and a process that is killed leaves no half of one. So the order in the pipe is an order of events: what was told
//! before another thing had happened before it was begun.
//!
//! ```text
//! 0      1        2        4          8        16
//! | kind | client | length | reserved | number | length bytes ...
//! ```

use std::fs::File;
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::Duration;

use crate::clock::sleep;

/// What a pipe takes as one piece.
const MESSAGE_BYTES_MAX: usize = 4096;
const HEAD_BYTES: usize = 16;
/// Before a full port is tried again.
const FULL_PAUSE: Duration = Duration::from_millis(1);
/// Largest payload.
pub(crate) const PAYLOAD_BYTES_MAX: usize = MESSAGE_BYTES_MAX - HEAD_BYTES;

/// Kinds of messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// The engine is open. Payload: the checkpoint it landed on (8 bytes; none where there is none), then those that exist.
    Opened = 1,
    /// Opening failed. Payload: the error.
    NotOpened,
    /// Shards of keys. `number`: the first key; payload: a byte a key.
    Shards,
    /// Keys found. Payload: for each the key, the number in its value and the value's hash.
    Found,
    /// All keys have been told.
    FoundAll,
    /// Reading failed. Payload: the error.
    ReadFailed,
    /// A client is about to begin its steps up to `number`, exclusive.
    Submitted,
    /// Step `number` has been acknowledged.
    Acknowledged,
    /// Step `number` has failed. Payload: the class of the error in a byte, and the error.
    Failed,
    /// A client ends, by an error or since it was told to.
    ClientEnded,
    /// A sync is about to begin.
    SyncBegins,
    /// It is done.
    SyncDone,
    /// A checkpoint is about to begin; `number` is its name.
    CheckpointBegins,
    /// Its barrier is open.
    CheckpointBarrier,
    /// It exists.
    CheckpointDone,
    /// It failed. Payload: the class of the error, and the error.
    CheckpointFailed,
    /// A read gave what it must not. Payload: what.
    Wrong,
    /// A command is done. Payload: an error, where there was one.
    CommandDone,
}

const KINDS: [Kind; 18] = [
    Kind::Opened,
    Kind::NotOpened,
    Kind::Shards,
    Kind::Found,
    Kind::FoundAll,
    Kind::ReadFailed,
    Kind::Submitted,
    Kind::Acknowledged,
    Kind::Failed,
    Kind::ClientEnded,
    Kind::SyncBegins,
    Kind::SyncDone,
    Kind::CheckpointBegins,
    Kind::CheckpointBarrier,
    Kind::CheckpointDone,
    Kind::CheckpointFailed,
    Kind::Wrong,
    Kind::CommandDone,
];

/// A message.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub(crate) kind: Kind,
    pub(crate) client: usize,
    pub(crate) number: u64,
    pub(crate) payload: Vec<u8>,
}

impl Message {
    /// The payload as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.payload).into_owned()
    }

    /// The class and the text of an error.
    pub(crate) fn error(&self) -> (ErrorClass, String) {
        let class = self.payload.first().map_or(ErrorClass::Other, |byte| ErrorClass::of_byte(*byte));
        (class, String::from_utf8_lossy(self.payload.get(1..).unwrap_or_default()).into_owned())
    }

    /// The payload as numbers.
    pub(crate) fn numbers(&self) -> Vec<u64> {
        self.payload.chunks_exact(8).map(|bytes| u64::from_le_bytes(std::array::from_fn(|at| bytes[at]))).collect()
    }

    /// As [`Self::read`] takes it.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; HEAD_BYTES];
        bytes[0] = self.kind as u8;
        bytes[1] = self.client as u8;
        bytes[2..4].copy_from_slice(&(self.payload.len() as u16).to_le_bytes());
        bytes[8..HEAD_BYTES].copy_from_slice(&self.number.to_le_bytes());
        bytes.extend_from_slice(&self.payload);
        bytes
    }

    /// The next message, or nothing when the other end is gone.
    pub(crate) fn read(from: &mut impl Read) -> Option<Message> {
        let mut head = [0; HEAD_BYTES];
        from.read_exact(&mut head).ok()?;
        let kind = KINDS.into_iter().find(|kind| *kind as u8 == head[0])?;
        let mut payload = vec![0; usize::from(u16::from_le_bytes([head[2], head[3]]))];
        from.read_exact(&mut payload).ok()?;
        let number = u64::from_le_bytes(std::array::from_fn(|at| head[8 + at]));
        Some(Message { kind, client: usize::from(head[1]), number, payload })
    }
}

/// Classes of errors, as their callers tell them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum ErrorClass {
    NoSpace = 1,
    Poisoned,
    Io,
    Closed,
    Corruption,
    Other,
}

impl ErrorClass {
    pub(crate) fn of(error: &siltstone::Error) -> ErrorClass {
        match error {
            siltstone::Error::NoSpace(_) => ErrorClass::NoSpace,
            siltstone::Error::Poisoned { .. } => ErrorClass::Poisoned,
            siltstone::Error::Io(_) => ErrorClass::Io,
            siltstone::Error::Closed => ErrorClass::Closed,
            siltstone::Error::Corruption(_) => ErrorClass::Corruption,
            _ => ErrorClass::Other,
        }
    }

    fn of_byte(byte: u8) -> ErrorClass {
        use ErrorClass::{Closed, Corruption, Io, NoSpace, Poisoned};
        let known = [NoSpace, Poisoned, Io, Closed, Corruption].into_iter().find(|class| *class as u8 == byte);
        known.unwrap_or(ErrorClass::Other)
    }
}

/// The worker's end of the pipe. Where the oracle is gone the process ends.
#[derive(Clone)]
pub(crate) struct Reporter(Arc<File>);

impl Reporter {
    pub(crate) fn new(pipe: File) -> Reporter {
        Reporter(Arc::new(pipe))
    }

    pub(crate) fn tell(&self, kind: Kind, client: usize, number: u64, payload: &[u8]) {
        let payload = &payload[..payload.len().min(PAYLOAD_BYTES_MAX)];
        let mut message = [0; MESSAGE_BYTES_MAX];
        message[0] = kind as u8;
        message[1] = client as u8;
        message[2..4].copy_from_slice(&(payload.len() as u16).to_le_bytes());
        message[8..HEAD_BYTES].copy_from_slice(&number.to_le_bytes());
        message[HEAD_BYTES..HEAD_BYTES + payload.len()].copy_from_slice(payload);
        if write_message(&mut &*self.0, &message[..HEAD_BYTES + payload.len()]).is_err() {
            std::process::exit(3);
        }
    }

    pub(crate) fn tell_error(&self, kind: Kind, client: usize, number: u64, error: &siltstone::Error) {
        let mut payload = vec![ErrorClass::of(error) as u8];
        payload.extend_from_slice(error.to_string().as_bytes());
        self.tell(kind, client, number, &payload);
    }
}

/// Writes a message as one piece. A virtual serial port (Linux 6.1) takes nothing, and says so without an error, when another thread has filled its queue
/// between its look and its write: then there is room a moment later.
fn write_message(to: &mut impl Write, message: &[u8]) -> io::Result<()> {
    loop {
        match to.write(message) {
            Ok(count) if count == message.len() => return Ok(()),
            Ok(0) => sleep(FULL_PAUSE),
            Ok(_) => return Err(io::ErrorKind::WriteZero.into()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes so many bytes at each write, and then anything.
    struct Port(Vec<usize>, Vec<u8>);

    impl Write for Port {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let count = self.0.pop().unwrap_or(bytes.len());
            self.1.extend_from_slice(&bytes[..count]);
            Ok(count)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_full_port_is_tried_again_and_half_a_message_is_an_error() {
        let mut full = Port(vec![0, 0], Vec::new());
        write_message(&mut full, b"message").unwrap();
        assert_eq!(full.1, b"message");
        assert!(write_message(&mut Port(vec![3], Vec::new()), b"message").is_err());
    }
}
