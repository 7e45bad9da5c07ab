//! The job is killed at random moments, and goes on each time with another number of shards; its outputs must not show it.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

use crate::reference::{Expected, reference};
use crate::{Place, assert_success, first_flights};

const KILLS: usize = 20;
/// Rows of the input, and a checkpoint interval at which every stretch between two kills is likely to hold a few.
const ROWS: usize = 60_000;
const CHECKPOINT_EVERY: &str = "500";
/// The plan of the kills follows the measured duration; where the job is done before the last of them, it starts over.
const ATTEMPTS: usize = 5;

#[test]
fn killed_at_random_moments_the_outputs_are_the_same() {
    let seed = std::env::var("SILTSTONE_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| RandomState::new().hash_one("seed"));
    println!("SILTSTONE_SEED={seed}");
    let mut random = Random(seed);

    let text = first_flights(ROWS);
    let expected = reference(&text);
    let place = Place::new();
    fs::write(place.path("flights.csv"), &text).unwrap();
    let started = now();
    assert_success(&job(&place, 2).output().unwrap());
    let duration = started.elapsed();
    place.assert_outputs(&expected);

    for attempt in 1..=ATTEMPTS {
        let place = Place::new();
        fs::write(place.path("flights.csv"), &text).unwrap();
        if let Some(resumed) = run_with_kills(&place, &expected, duration, &mut random) {
            place.assert_outputs(&expected);
            assert!(resumed.len() >= 3, "the kills left no progress: only went on from {resumed:?}");
            return;
        }
        println!("attempt {attempt}: the job was done before the last kill");
    }
    panic!("the job was always done before it had been killed {KILLS} times");
}

/// Returns the checkpoints from which runs went on; `None` where the job finished too early.
fn run_with_kills(
    place: &Place,
    expected: &Expected,
    duration: Duration,
    random: &mut Random,
) -> Option<BTreeSet<String>> {
    let mut resumed = BTreeSet::new();
    for kill in 0..KILLS {
        let log = place.path("log");
        let mut child = job(place, [1, 2, 4, 3][random.below(4)]).stderr(File::create(&log).unwrap()).spawn().unwrap();
        let left = 1.0 - progress(place, expected);
        let share = duration.mul_f64(left / (KILLS - kill) as f64);
        let startup = Duration::from_millis(40);
        sleep((share + startup).mul_f64(random.unit() * 1.6));
        child.kill().unwrap();
        let status = child.wait().unwrap();
        let log = fs::read_to_string(&log).unwrap();
        match status.code() {
            None => {}
            Some(0) => return None,
            Some(code) => panic!("kill {kill}: the job failed by itself with {code}: {log}"),
        }
        resumed.extend(log.lines().find(|line| line.contains("going on from checkpoint")).map(str::to_string));
    }
    let last = job(place, 2).output().unwrap();
    assert_success(&last);
    Some(resumed)
}

fn job(place: &Place, shards: usize) -> std::process::Command {
    let input = place.path("flights.csv");
    let shards = shards.to_string();
    place.job([
        "--input",
        input.to_str().unwrap(),
        "--shards",
        &shards,
        "--checkpoint-every",
        CHECKPOINT_EVERY,
        "--memory",
        "32M",
    ])
}

/// How much of the outputs has been written.
fn progress(place: &Place, expected: &Expected) -> f64 {
    let (name, windows) = &expected.files[0];
    let found = fs::metadata(place.path("out").join(name)).map_or(0, |metadata| metadata.len());
    (found as f64 / windows.len() as f64).min(1.0)
}

#[expect(clippy::disallowed_methods, reason = "the test times real processes")]
fn now() -> Instant {
    Instant::now()
}

#[expect(clippy::disallowed_methods, reason = "the test times real processes")]
fn sleep(duration: Duration) {
    std::thread::sleep(duration);
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: u64) -> usize {
        (self.next() % bound) as usize
    }

    /// From 0 to 1.
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}
