//! What was written, by the marks of a trace, and what of it must and may be found.
//!
//! 1. Of each shard, what is found is what the first so many of its batches make, in the order in which they were applied: at least up to the last one that was durable,
//!    at most all that were applied.
//! 2. The checkpoints that are found are the first so many: at least those that were complete, at most those that were asked for. The last
//!    one holds exactly what was applied before it was asked for, and the shards hold at least that.
//! 3. Without a log the shards hold exactly what the last checkpoint does, and nothing where there is none.

use std::collections::BTreeMap;

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::marks;
use super::recover::Recovered;
use super::trace::{Event, Trace};

/// Which promise a state breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// What was durable is not there.
    LowerBound,
    /// Something is there that was not yet submitted.
    UpperBound,
    /// What is there was never the state of the shard.
    Prefix,
    /// A checkpoint is missing, or holds something else.
    Checkpoint,
    /// It cannot be opened or read, or the second opening finds something else, or its verification finds damage.
    Recovery,
}

/// Everything that a workload did.
pub(super) struct History {
    /// The first mark's text and words: how to repeat it, shards, seed.
    pub(super) name: String,
    pub(super) shards: usize,
    pub(super) seed: u64,
    /// Opening finds all that is durable; otherwise the last checkpoint.
    pub(super) logs: bool,
    /// Of each shard the hashes of its states: the n-th is that behind its first n batches.
    states: Vec<Vec<u64>>,
    /// Each key's shard.
    owners: BTreeMap<Vec<u8>, usize>,
    /// Each batch's shard, and how many of the shard's batches there are up to it.
    places: BTreeMap<u64, (usize, usize)>,
    checkpoints: Vec<Checkpoint>,
}

struct Checkpoint {
    name: String,
    /// How many batches of each shard it holds.
    cut: Vec<usize>,
}

/// What must and may be found at one moment.
#[derive(Clone, Debug)]
pub(super) struct Bounds {
    lower: Vec<usize>,
    upper: Vec<usize>,
    checkpoints_complete: usize,
    checkpoints_begun: usize,
}

impl History {
    pub(super) fn of(trace: &Trace) -> Result<History, String> {
        let mut history = History {
            name: String::new(),
            shards: 0,
            seed: 0,
            logs: true,
            states: Vec::new(),
            owners: BTreeMap::new(),
            places: BTreeMap::new(),
            checkpoints: Vec::new(),
        };
        let mut data: BTreeMap<Vec<u8>, u64> = BTreeMap::new();
        for event in &trace.events {
            let Event::Mark { kind, words, payload } = event else { continue };
            let payload = trace.payload(payload);
            match *kind {
                marks::BEGIN => {
                    history.name = String::from_utf8_lossy(payload).into_owned();
                    (history.shards, history.seed) = (words[0] as usize, words[1]);
                    history.states = vec![vec![0]; history.shards];
                }
                marks::WITHOUT_LOG => history.logs = false,
                marks::APPLIED => history.apply(words, payload, &mut data)?,
                marks::CHECKPOINT_BEGUN => {
                    let cut = history.states.iter().map(|states| states.len() - 1).collect();
                    let name = String::from_utf8_lossy(payload).into_owned();
                    history.checkpoints.push(Checkpoint { name, cut });
                }
                _ => (),
            }
        }
        if history.shards == 0 { Err("the trace has no mark of a beginning".into()) } else { Ok(history) }
    }

    fn apply(&mut self, words: &[u64; 2], payload: &[u8], data: &mut BTreeMap<Vec<u8>, u64>) -> Result<(), String> {
        let shard = words[1] as usize;
        let changes = marks::parse_changes(payload).ok_or("a mark is cut short")?;
        let states = self.states.get_mut(shard).ok_or_else(|| format!("there is no shard {shard}"))?;
        let mut state = states.last().copied().unwrap_or_default();
        for (key, value) in changes {
            let new = value.map(|value| entry_hash(&key, &value));
            let old = match new {
                Some(hash) => data.insert(key.clone(), hash),
                None => data.remove(&key),
            };
            state ^= old.unwrap_or_default() ^ new.unwrap_or_default();
            self.owners.insert(key, shard);
        }
        states.push(state);
        self.places.insert(words[0], (shard, states.len() - 1));
        Ok(())
    }

    /// Before anything was done.
    pub(super) fn bounds(&self) -> Bounds {
        let none = vec![0; self.shards];
        Bounds { lower: none.clone(), upper: none, checkpoints_complete: 0, checkpoints_begun: 0 }
    }

    /// A mark is passed.
    pub(super) fn pass(&self, bounds: &mut Bounds, event: &Event) -> Result<(), String> {
        let Event::Mark { kind, words, .. } = event else { return Ok(()) };
        let place = || self.places.get(&words[0]).copied().ok_or_else(|| format!("batch {} is not known", words[0]));
        match *kind {
            marks::APPLIED => {
                let (shard, place) = place()?;
                bounds.upper[shard] = place;
            }
            marks::DURABLE => {
                let (shard, place) = place()?;
                bounds.lower[shard] = bounds.lower[shard].max(place);
            }
            marks::CHECKPOINT_BEGUN => bounds.checkpoints_begun += 1,
            marks::CHECKPOINT_DONE => bounds.checkpoints_complete = words[0] as usize + 1,
            _ => (),
        }
        Ok(())
    }

    /// Whether what was recovered may and must be there.
    pub(super) fn check(&self, bounds: &Bounds, recovered: &Recovered) -> Result<(), (Broken, String)> {
        let found = &recovered.checkpoints;
        let (least, most) = (bounds.checkpoints_complete, bounds.checkpoints_begun);
        let known = self.checkpoints.iter().map(|checkpoint| &checkpoint.name);
        if found.len() < least || found.len() > most || !known.take(found.len()).eq(found) {
            let text = format!("checkpoints {found:?} are there; it should be the first {least} to {most}");
            return Err((Broken::Checkpoint, text));
        }
        let last = found.len().checked_sub(1).map(|last| &self.checkpoints[last]);
        let states = self.states_of(&recovered.entries)?;
        for (shard, state) in states.iter().enumerate() {
            let cut = last.map_or(0, |checkpoint| checkpoint.cut[shard]);
            let (lower, upper) = match self.logs {
                true => (bounds.lower[shard].max(cut), bounds.upper[shard]),
                false => (cut, cut),
            };
            self.check_shard(shard, *state, lower, upper)?;
        }
        let Some(last) = last else { return Ok(()) };
        let Some(entries) = &recovered.at_checkpoint else { unreachable!("the last checkpoint is always opened") };
        for (shard, state) in self.states_of(entries)?.into_iter().enumerate() {
            if state != self.states[shard][last.cut[shard]] {
                let text = format!("checkpoint {} does not hold what shard {shard} held at its cut", last.name);
                return Err((Broken::Checkpoint, text));
            }
        }
        Ok(())
    }

    fn check_shard(&self, shard: usize, state: u64, lower: usize, upper: usize) -> Result<(), (Broken, String)> {
        let states = &self.states[shard];
        // One state may come several times.
        if states[lower..=upper.max(lower)].contains(&state) {
            return Ok(());
        }
        Err(match states.iter().position(|known| *known == state) {
            Some(found) if found < lower => {
                let text = format!("shard {shard} is as it was behind {found} batches, but {lower} were durable");
                (Broken::LowerBound, text)
            }
            Some(found) => {
                let text = format!("shard {shard} is as it is behind {found} batches, but only {upper} were applied");
                (Broken::UpperBound, text)
            }
            None => {
                let text = format!(
                    "shard {shard} holds what no prefix of its batches makes ({lower} to {upper} were allowed)"
                );
                (Broken::Prefix, text)
            }
        })
    }

    fn states_of(&self, entries: &[(Vec<u8>, u64)]) -> Result<Vec<u64>, (Broken, String)> {
        let mut states = vec![0; self.shards];
        for (key, hash) in entries {
            let owner = self.owners.get(key).ok_or_else(|| {
                (Broken::Prefix, format!("key {:?} is there, which nobody wrote", String::from_utf8_lossy(key)))
            })?;
            states[*owner] ^= hash;
        }
        Ok(states)
    }
}

/// What a key with its value adds to a state's hash.
pub(super) fn entry_hash(key: &[u8], value: &[u8]) -> u64 {
    xxh3_64_with_seed(value, xxh3_64(key))
}
