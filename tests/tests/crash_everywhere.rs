//! Crash enumeration: that it finds nothing, and that it would find something.
//!
//! `siltstone-crash` does the same for all small workloads, and for runs as long as one likes.

#![expect(clippy::unwrap_used, reason = "tests fail by panics")]

use std::sync::{Mutex, MutexGuard, PoisonError};

use siltstone::testing::mutants;
use siltstone_io::testing::Recorder;
use siltstone_tests::enumerate::small::{Small, all};
use siltstone_tests::enumerate::workload::Large;
use siltstone_tests::enumerate::{Broken, Enumerator, Event, Failure, Limits, Report, Trace, marks};

/// A deliberate bug is on in the whole process: tests take turns.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn small(text: &str) -> Trace {
    let small: Small = text.parse().unwrap();
    small.record().unwrap()
}

fn enumerated(trace: &Trace) -> Report {
    Enumerator::default().enumerate(trace, &Limits::default(), || true).unwrap()
}

#[test]
fn small_workloads_survive_every_crash() {
    let _turn = turn();
    let mut enumerator = Enumerator::default();
    let mut total = Report::default();
    for shards in [1, 2] {
        for small in all(shards).into_iter().step_by(251) {
            let trace = small.record().unwrap();
            let report = enumerator.enumerate(&trace, &Limits::default(), || true).unwrap();
            assert!(report.failures.is_empty(), "{small}: {:?}", report.failures);
            total.add(report);
        }
    }
    assert!(total.points > 500 && total.states > 2000 && total.opened > 500, "{total:?}");
}

/// A shard forgot the deletion although `flush` had returned: the memtable came to nothing, so nothing was written, neither tables nor the log.
#[test]
fn a_deletion_that_a_flush_covers_is_durable_though_nothing_is_left_to_write() {
    let _turn = turn();
    for text in ["interval/1:P1,S,D1,F", "interval/2:C,P2,S,D2,F"] {
        let report = enumerated(&small(text));
        assert!(report.failures.is_empty(), "{:?}", report.failures);
    }
}

#[test]
fn a_recorded_run_on_a_file_survives_crashes() {
    let _turn = turn();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("trace");
    let recorder = Recorder::to_file(&path).unwrap();
    let large = Large { seed: 5, shards: 2, batches: 250 };
    large.record(directory.path(), &recorder, "a test").unwrap();
    recorder.finish().unwrap();
    let trace = Trace::parse(std::fs::read(&path).unwrap()).unwrap();
    let limits = Limits { states_max: 1, samples: 2, point_chance: 0.05, rescale: true, seed: 5, ..Limits::default() };
    let report = Enumerator::default().enumerate(&trace, &limits, || true).unwrap();
    assert!(report.failures.is_empty(), "{:?}", report.failures);
    assert!(report.states > 20, "{report:?}");
}

/// What enumeration finds with a deliberate bug in the engine.
fn with_mutant(name: &str, text: &str) -> Option<Failure> {
    mutants::activate(Some(name));
    let report = enumerated(&small(text));
    mutants::activate(None);
    report.failures.into_iter().next()
}

#[test]
fn deliberate_bugs_are_found() {
    let _turn = turn();
    for (mutant, text, broken) in [
        ("WalAckedBeforeDurable", "sync/1:P1", Broken::LowerBound),
        ("FlushOutputNotFlushed", "sync/1:P1,F", Broken::Recovery),
        ("ManifestEditNotDurable", "sync/2:P1,P2,F", Broken::LowerBound),
        ("BatchHalfLogged", "sync/1:P1,B", Broken::Prefix),
        ("SuperblockFlushSkipped", "sync/1:P1", Broken::Recovery),
    ] {
        let failure = with_mutant(mutant, text);
        assert_eq!(failure.as_ref().map(|failure| failure.broken), Some(broken), "{mutant}: {failure:?}");
    }
}

fn place_of_last(trace: &Trace, wanted: u8) -> usize {
    let found = trace.events.iter().rposition(|event| matches!(event, Event::Mark { kind, .. } if *kind == wanted));
    found.expect("there is such a mark")
}

/// A promise that was given too early, and a write that came before anybody asked for it: neither may pass.
#[test]
fn both_bounds_are_checked() {
    let _turn = turn();
    let mut early = small("sync/1:P1,P1");
    let (applied, durable) = (place_of_last(&early, marks::APPLIED), place_of_last(&early, marks::DURABLE));
    early.move_mark(durable, applied + 1);
    let failure = enumerated(&early).failures.pop().expect("the promise comes too early");
    assert_eq!(failure.broken, Broken::LowerBound, "{failure:?}");

    let mut late = small("sync/1:P1,P1");
    let last = late.events.len() - 1;
    late.move_mark(place_of_last(&late, marks::DURABLE), last);
    late.move_mark(place_of_last(&late, marks::APPLIED), last - 1);
    let failure = enumerated(&late).failures.pop().expect("the write comes before it is asked for");
    assert_eq!(failure.broken, Broken::UpperBound, "{failure:?}");

    let mut checkpoint = small("sync/1:P1,C");
    let (begun, done) =
        (place_of_last(&checkpoint, marks::CHECKPOINT_BEGUN), place_of_last(&checkpoint, marks::CHECKPOINT_DONE));
    checkpoint.move_mark(done, begun + 1);
    let failure = enumerated(&checkpoint).failures.pop().expect("the checkpoint is not there yet");
    assert_eq!(failure.broken, Broken::Checkpoint, "{failure:?}");
}

#[test]
fn a_trace_that_is_cut_short_ends_before_its_last_record() {
    let _turn = turn();
    let trace = small("sync/1:P1");
    let whole = trace.bytes().to_vec();
    let cut = Trace::parse(whole[..whole.len() - 1].to_vec()).unwrap();
    assert_eq!(cut.events, trace.events[..trace.events.len() - 1]);
    assert!(Trace::parse(b"something else".to_vec()).is_err());
    assert!(enumerated(&cut).failures.is_empty());
}
