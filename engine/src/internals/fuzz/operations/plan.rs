//! What an input says: a disk, an engine's options, and steps.

use arbitrary::{Arbitrary, Result, Unstructured};

/// Steps of one plan, at most: an input must end in seconds.
const STEPS_MAX: usize = 96;
/// Writes of one batch, and keys of one `get_many`, at most.
const BATCH_MAX: u8 = 8;

/// A whole input.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) setup: Setup,
    pub(super) steps: Vec<Step>,
}

/// The disk, and the first opening.
#[derive(Clone, Debug, Arbitrary)]
pub(super) struct Setup {
    pub(super) seed: u16,
    pub(super) small_blocks: bool,
    pub(super) write_through: bool,
    pub(super) short_transfers: bool,
    pub(super) refusals: bool,
    pub(super) key_groups: u8,
    pub(super) way: Way,
}

/// How the volume is opened.
#[derive(Clone, Debug, Arbitrary)]
pub(super) struct Way {
    pub(super) shards: u8,
    pub(super) mode: u8,
    pub(super) restore: u8,
    /// After how many writes the power fails in the first attempts to recover; 0: it does not.
    pub(super) crashes: [u8; 2],
}

/// A key: its keyspace, and two numbers.
#[derive(Clone, Copy, Debug, Arbitrary)]
pub(super) struct PlannedKey {
    pub(super) space: u8,
    pub(super) part: u8,
    pub(super) suffix: u8,
}

/// What becomes of a key.
#[derive(Clone, Copy, Debug, Arbitrary)]
pub(super) enum Change {
    Put(u8),
    PutExpiring { size: u8, in_ms: u16 },
    Delete,
}

/// A range to scan.
#[derive(Clone, Debug, Arbitrary)]
pub(super) struct PlannedRange {
    pub(super) kind: u8,
    pub(super) lower: PlannedKey,
    pub(super) upper: PlannedKey,
    pub(super) cut: u8,
    pub(super) group: u8,
    pub(super) reverse: bool,
}

/// One step. `wait`: until it has ended; otherwise it goes on beside the next ones.
#[derive(Clone, Debug)]
pub(super) enum Step {
    Write {
        key: PlannedKey,
        change: Change,
        wait: bool,
    },
    Batch {
        part: u8,
        changes: Vec<(PlannedKey, Change)>,
        wait: bool,
    },
    Get {
        key: PlannedKey,
    },
    GetMany {
        keys: Vec<PlannedKey>,
    },
    Scan {
        range: PlannedRange,
    },
    TakeSnapshot {
        shard: u8,
    },
    ReadSnapshot {
        index: u8,
        range: PlannedRange,
    },
    DropSnapshot {
        index: u8,
    },
    Flush {
        wait: bool,
    },
    Compact {
        wait: bool,
    },
    Sync,
    Checkpoint {
        wait: bool,
    },
    DropCheckpoint {
        index: u8,
    },
    AdvanceTime {
        by_ms: u16,
    },
    Idle {
        us: u16,
    },
    Reopen {
        way: Way,
    },
    PowerFailure {
        way: Way,
    },
    /// The power will fail at a write to come.
    PlanFailure {
        after: u8,
        way: Way,
    },
}

impl<'a> Arbitrary<'a> for Plan {
    fn arbitrary(input: &mut Unstructured<'a>) -> Result<Self> {
        let setup = input.arbitrary()?;
        let mut steps = Vec::new();
        while !input.is_empty() && steps.len() < STEPS_MAX {
            steps.push(draw_step(input)?);
        }
        Ok(Plan { setup, steps })
    }
}

/// The kind in one byte, so that a changed byte is a changed step.
fn draw_step(input: &mut Unstructured<'_>) -> Result<Step> {
    let kind = u8::arbitrary(input)?;
    let wait = kind & 1 == 0;
    Ok(match kind % 64 {
        0..20 => Step::Write { key: input.arbitrary()?, change: input.arbitrary()?, wait },
        20..28 => Step::Batch { part: input.arbitrary()?, changes: draw_some(input)?, wait },
        28..32 => Step::Get { key: input.arbitrary()? },
        32..34 => Step::GetMany { keys: draw_some(input)? },
        34..38 => Step::Scan { range: input.arbitrary()? },
        38..40 => Step::TakeSnapshot { shard: input.arbitrary()? },
        40..42 => Step::ReadSnapshot { index: input.arbitrary()?, range: input.arbitrary()? },
        42 => Step::DropSnapshot { index: input.arbitrary()? },
        43 => Step::Sync,
        44..48 => Step::Flush { wait },
        48..50 => Step::Compact { wait },
        50..54 => Step::Checkpoint { wait },
        54 => Step::DropCheckpoint { index: input.arbitrary()? },
        55..57 => Step::AdvanceTime { by_ms: input.arbitrary()? },
        57 => Step::Idle { us: input.arbitrary()? },
        58 => Step::Reopen { way: input.arbitrary()? },
        59 => Step::PowerFailure { way: input.arbitrary()? },
        _ => Step::PlanFailure { after: input.arbitrary()?, way: input.arbitrary()? },
    })
}

fn draw_some<'a, T: Arbitrary<'a>>(input: &mut Unstructured<'a>) -> Result<Vec<T>> {
    (0..1 + u8::arbitrary(input)? % BATCH_MAX).map(|_| input.arbitrary()).collect()
}
