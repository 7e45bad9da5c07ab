//! Typed state: operators that keep values, maps, lists, sums and folds for their key, and timers that fire as event time goes on.
//!
//! The API of typed state has no batches: each operation is one atomic write of its own, or none where there is nothing to change. So an
//! operation cannot name itself in the journal. Instead its operator writes an empty entry into the journal before it. Operators of one key run
//! one at a time and in the order of their epochs, so that whatever is recovered of a key's writes is a prefix of them, in both orders of a
//! shard's history:
//!
//! 1. an operation before a recovered entry of the same key is recovered;
//! 2. one behind an entry that is missing is not;
//! 3. of those between the last entry that was recovered and the next, the state that is found tells how many took effect: it must be what
//!    some prefix of them makes. Where two prefixes make the same it does not matter which, and both are allowed (`recovery`).
//!
//! With that, each operation is a write of the journal like any other: durable or not, in a checkpoint or not, behind others in its shard.
//!
//! # Timers
//!
//! The time of each timer is unique, so that its presence tells of itself. A firing takes the earliest of a whole shard, of any key, and which
//! one that is only its answer says. What must hold: a firing never passes over a timer whose registration had been answered when the
//! firing was asked for (time order; none is lost, however it came to be in memory); no timer fires that is not there (none twice).
//! Two rules keep the model exact, as any job keeps them. The clock that firings follow goes up, and timers are registered ahead of it (behind
//! it only while no firing is in flight): otherwise a firing of an old epoch could take a timer of a newer one. No timer is deleted while it
//! is due.
//!
//! # Time to live
//!
//! In some volumes values, maps and lists expire. What is read must be what has not expired by the watermark; of a list, which expires by chunks,
//! a few more of the newest that have.

mod model;
mod operators;
mod read;
mod recovery;

use siltstone::state::{
    Aggregate, AggregatingState, Descriptor, ListState, MapState, Raw, ReducingState, Timers, ValueState,
};
use siltstone::{Engine, Options, Result, TimeDomain, Ttl};

pub(crate) use model::{State, Typed};
pub(crate) use read::read_states;
pub(crate) use recovery::Recovered;

/// A key of all states.
pub(crate) type Part = [u8; 2];
/// A timer: its time, and its key.
pub(crate) type Timer = (i64, Part);

/// Keys that the operators of all clients share: few, so that each has much.
const PARTS: u8 = 8;
/// The name of the keyspace of timers, which has no iteration of its own.
const TIMERS: &str = "timers";

/// How a seed uses typed state.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TypedPlan {
    /// How many of the operators use it; none at 0.
    pub(crate) share: f64,
    /// The time to live of values, maps and lists.
    pub(crate) ttl_ms: Option<u64>,
}

/// All states of an open engine.
#[derive(Clone)]
pub(crate) struct States {
    values: ValueState<Part, Vec<u8>>,
    maps: MapState<Part, u16, Vec<u8>, Raw>,
    lists: ListState<Part, Vec<u8>>,
    sums: Sums,
    folds: AggregatingState<Part, CountAndSum>,
    timers: Timers<Part>,
}

/// How many numbers were added, and their sum.
#[derive(Clone, Default)]
struct CountAndSum;

impl Aggregate for CountAndSum {
    type In = u64;
    type Acc = (u64, u64);
    type Out = (u64, u64);

    fn empty(&self) -> (u64, u64) {
        (0, 0)
    }

    fn add(&self, (count, sum): &mut (u64, u64), input: u64) {
        *count += 1;
        *sum = sum.wrapping_add(input);
    }

    fn result(&self, acc: (u64, u64)) -> (u64, u64) {
        acc
    }
}

type Sums = ReducingState<Part, u64, fn(u64, u64) -> u64>;

struct Descriptors {
    values: Descriptor<ValueState<Part, Vec<u8>>>,
    maps: Descriptor<MapState<Part, u16, Vec<u8>, Raw>>,
    lists: Descriptor<ListState<Part, Vec<u8>>>,
    sums: Descriptor<Sums>,
    folds: Descriptor<AggregatingState<Part, CountAndSum>>,
    timers: Descriptor<Timers<Part>>,
}

impl TypedPlan {
    fn descriptors(&self) -> Descriptors {
        let mut descriptors = Descriptors {
            values: Descriptor::new("values"),
            maps: Descriptor::new("maps"),
            lists: Descriptor::new("lists"),
            sums: Descriptor::with_function("sums", u64::wrapping_add as fn(u64, u64) -> u64),
            folds: Descriptor::new("folds"),
            timers: Descriptor::new(TIMERS),
        };
        if let Some(duration_ms) = self.ttl_ms {
            let ttl = Ttl { duration_ms, time: TimeDomain::Event };
            descriptors.values = descriptors.values.ttl(ttl);
            descriptors.maps = descriptors.maps.ttl(ttl);
            descriptors.lists = descriptors.lists.ttl(ttl);
        }
        descriptors
    }

    /// Adds the keyspaces of the states.
    pub(crate) fn options(&self, options: Options) -> Options {
        if self.share == 0.0 {
            return options;
        }
        let Descriptors { values, maps, lists, sums, folds, timers } = self.descriptors();
        options.state(&values).state(&maps).state(&lists).state(&sums).state(&folds).state(&timers)
    }

    /// The states of an engine that was opened with these options.
    pub(crate) fn bind(&self, engine: &Engine) -> Result<Option<States>> {
        if self.share == 0.0 {
            return Ok(None);
        }
        let Descriptors { values, maps, lists, sums, folds, timers } = self.descriptors();
        Ok(Some(States {
            values: values.bind(engine)?,
            maps: maps.bind(engine)?,
            lists: lists.bind(engine)?,
            sums: sums.bind(engine)?,
            folds: folds.bind(engine)?,
            timers: timers.bind(engine)?,
        }))
    }
}

fn all_parts() -> impl Iterator<Item = Part> {
    (0..PARTS).map(|letter| [b't', letter])
}
