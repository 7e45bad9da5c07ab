//! Power failures at any write, flush or discard of a simulated disk: what was not flushed is lost, torn and reordered.
//!
//! Each write is a batch of changes in `data` and one entry of its own in `journal`, so that what was recovered says which writes
//! it consists of. See `history` for what must hold.

mod history;
mod run;
mod workload;

use siltstone_io::Random;
use siltstone_tests::seeds;

use run::Run;
use workload::Size;

/// Several crashes in a row, each at a random place, also in recovery.
#[test]
fn crash_anywhere() {
    seeds::run("crash_anywhere", 300, |seed| {
        let mut run = Run::new(seed);
        let cycles = 2 + Random::new(seed).below(5);
        for _ in 0..cycles {
            run.cycle(Size::Large, None);
        }
        run.finish();
    });
}

/// A small workload, crashed at each of its writes, flushes and discards.
#[test]
fn crash_everywhere() {
    seeds::run("crash_everywhere", 10, |seed| {
        let mut whole = Run::new(seed);
        whole.cycle(Size::Small, Some(u64::MAX));
        let operations = whole.operations();
        for at in 1..=operations {
            let mut run = Run::new(seed);
            run.cycle(Size::Small, Some(at));
            run.finish();
        }
    });
}
