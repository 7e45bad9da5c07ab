//! Enumerating the crash states of a trace.

use std::collections::BTreeMap;
use std::rc::Rc;

use siltstone_io::Random;

use super::disk::Disk;
use super::history::{Bounds, Broken, History};
use super::recover::{Recovered, recover};
use super::states::{Image, States};
use super::trace::Trace;

/// A state is opened with the trace's number of shards, or, where that may differ, with up to so many.
const SHARDS_MAX: u64 = 3;
/// How many openings are remembered.
const CACHE_MAX: usize = 1 << 20;

/// How much to try.
#[derive(Clone, Debug)]
pub struct Limits {
    /// At a crash point with at most this many states all are tried.
    pub states_max: u64,
    /// At one with more, this many of them, with repetition.
    pub samples: u64,
    /// Chance that a crash point is visited at all.
    pub point_chance: f64,
    /// Only the crash point before this event.
    pub only: Option<usize>,
    /// States are opened with other numbers of shards too.
    pub rescale: bool,
    /// Decides what is sampled.
    pub seed: u64,
    /// Ends at this many failures.
    pub failures_max: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            states_max: 1 << 10,
            samples: 64,
            point_chance: 1.0,
            only: None,
            rescale: false,
            seed: 0,
            failures_max: 1,
        }
    }
}

/// A state that breaks a promise.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Which.
    pub broken: Broken,
    /// How.
    pub text: String,
    /// The crash comes before this event.
    pub point: usize,
    /// What was tried: the seed of the sample.
    pub seed: u64,
    /// What of the pending writes is there.
    pub state: String,
}

/// What was tried.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Crash points.
    pub points: u64,
    /// Those with more states than were tried.
    pub sampled_points: u64,
    /// States, each compared with the bounds of its crash point.
    pub states: u64,
    /// Openings: a state that was opened before is not opened again.
    pub opened: u64,
    /// What was wrong.
    pub failures: Vec<Failure>,
}

impl Report {
    /// Adds another.
    pub fn add(&mut self, other: Report) {
        self.points += other.points;
        self.sampled_points += other.sampled_points;
        self.states += other.states;
        self.opened += other.opened;
        self.failures.extend(other.failures);
    }
}

/// Enumerates traces, and remembers what was found in each state: runs that begin in the same way share states.
#[derive(Default)]
pub struct Enumerator {
    cache: Cache,
}

/// What was found in a state, by its hash, and the number of shards and whether a log that it was opened with.
type Cache = BTreeMap<(u64, usize, bool), Rc<Result<Recovered, String>>>;

impl Enumerator {
    /// Tries the states of all crash points.
    ///
    /// # Errors
    /// When the trace is not one that can be played.
    pub fn enumerate(
        &mut self,
        trace: &Trace,
        limits: &Limits,
        mut go_on: impl FnMut() -> bool,
    ) -> Result<Report, String> {
        let history = History::of(trace)?;
        let mut report = Report::default();
        let mut disk = Disk::new();
        let mut bounds = history.bounds();
        let mut changed = false;
        for number in 0..=trace.events.len() {
            let event = trace.events.get(number);
            let is_mark = matches!(event, Some(super::Event::Mark { .. }));
            if changed && event.is_none_or(|event| is_mark || disk.shrinks(event)) {
                changed = false;
                let visit = Visit { history: &history, bounds: &bounds, point: number, limits };
                visit.point(&disk, &mut self.cache, &mut report);
                if report.failures.len() >= limits.failures_max || !go_on() {
                    break;
                }
            }
            let Some(event) = event else { break };
            changed |= is_mark | disk.play(trace, number as u64, event)?;
            history.pass(&mut bounds, event)?;
        }
        Ok(report)
    }
}

/// A crash point.
struct Visit<'v> {
    history: &'v History,
    bounds: &'v Bounds,
    point: usize,
    limits: &'v Limits,
}

impl Visit<'_> {
    fn point(&self, disk: &Disk, cache: &mut Cache, report: &mut Report) {
        let mut random = Random::new(self.limits.seed ^ (self.point as u64).rotate_right(20));
        let skipped = self.limits.point_chance < 1.0 && !random.chance(self.limits.point_chance);
        if self.limits.only.map_or(skipped, |only| only != self.point) {
            return;
        }
        report.points += 1;
        let states = States::new(disk);
        let all = states.count() <= self.limits.states_max;
        report.sampled_points += u64::from(!all);
        for number in 0..if all { states.count() } else { self.limits.samples } {
            let choice = if all { states.nth(number) } else { states.sample(&mut random) };
            let image = states.image(&choice);
            let shards = self.shards(&image);
            report.states += 1;
            let recovered = self.recovered(&image, shards, cache, report);
            let checked = match &*recovered {
                Ok(recovered) => self.history.check(self.bounds, recovered),
                Err(text) => Err((Broken::Recovery, text.clone())),
            };
            if let Err((broken, text)) = checked {
                let state = format!("opened with {shards} shards; {}", states.describe(&choice));
                let (point, seed) = (self.point, self.limits.seed);
                report.failures.push(Failure { broken, text, point, seed, state });
                if report.failures.len() >= self.limits.failures_max {
                    return;
                }
            }
        }
    }

    fn shards(&self, image: &Image<'_>) -> usize {
        match self.limits.rescale {
            true => 1 + Random::new(image.hash ^ self.limits.seed).below(SHARDS_MAX) as usize,
            false => self.history.shards,
        }
    }

    fn recovered(
        &self,
        image: &Image<'_>,
        shards: usize,
        cache: &mut Cache,
        report: &mut Report,
    ) -> Rc<Result<Recovered, String>> {
        let logs = self.history.logs;
        let key = (image.hash, shards, logs);
        if let Some(known) = cache.get(&key) {
            return Rc::clone(known);
        }
        report.opened += 1;
        let recovered = Rc::new(recover(|| image.to_disk(image.hash), shards, logs, image.hash));
        if cache.len() >= CACHE_MAX {
            cache.clear();
        }
        cache.insert(key, Rc::clone(&recovered));
        recovered
    }
}
