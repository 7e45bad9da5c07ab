//! What the job stores with each checkpoint: from where the source goes on, and how far the outputs were written.
//!
//! The bytes begin with a magic and a version, so that a store of something else is told apart; postcard follows.

use serde::{Deserialize, Serialize};

use super::output::Progress;
use super::source::Position;

const MAGIC_AND_VERSION: &[u8; 8] = b"flights\x01";

/// The job's position.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct JobPosition {
    /// The size of the input file: another one is another input.
    pub(crate) input_bytes: u64,
    /// Where the source goes on.
    pub(crate) source: Position,
    /// Events processed.
    pub(crate) events: u64,
    /// The greatest event time so far.
    pub(crate) watermark_ms: Option<i64>,
    /// The outputs.
    pub(crate) outputs: Progress,
    /// Whether the job is done.
    pub(crate) finished: bool,
}

impl JobPosition {
    /// The checkpoint's bytes.
    pub(crate) fn encode(&self) -> Vec<u8> {
        postcard::to_extend(self, MAGIC_AND_VERSION.to_vec()).expect("integers always have an encoding")
    }

    /// Reads a checkpoint's bytes; `None` where they are not this job's.
    pub(crate) fn decode(bytes: &[u8]) -> Option<JobPosition> {
        postcard::from_bytes(bytes.strip_prefix(MAGIC_AND_VERSION)?).ok()
    }

    /// The checkpoint's name.
    pub(crate) fn name(&self) -> String {
        if self.finished { "flights-finished".into() } else { format!("flights-{:012}", self.events) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_round_trip_and_other_bytes_are_refused() {
        let position = JobPosition { events: 7, watermark_ms: Some(-1), ..JobPosition::default() };
        assert_eq!(JobPosition::decode(&position.encode()), Some(position));
        assert_eq!(JobPosition::decode(b""), None);
        assert_eq!(JobPosition::decode(b"flights\x02"), None);
        assert_eq!(JobPosition::decode(b"flights\x01"), None);
    }
}
