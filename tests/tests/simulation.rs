//! A few seeds of the simulator, so that `cargo test` has them: `siltstone-sim` runs as many as one likes.

use siltstone_tests::seeds;
use siltstone_tests::sim::{Canary, Limits, run};

#[test]
fn simulations_find_nothing() {
    seeds::run("simulations_find_nothing", 60, |seed| {
        let outcome = run::simulate(seed, &Limits::default());
        assert!(outcome.failure.is_none(), "{}", outcome.failure.unwrap_or_default());
        assert!(outcome.operations > 0);
    });
}

#[test]
fn two_runs_of_a_seed_are_the_same() {
    for seed in 0..6 {
        let (first, second) = (run::simulate(seed, &Limits::default()), run::simulate(seed, &Limits::default()));
        assert_eq!((first.trace, first.operations), (second.trace, second.operations), "seed {seed}");
    }
    assert_ne!(run::simulate(0, &Limits::default()).trace, run::simulate(1, &Limits::default()).trace);
}

#[test]
fn canaries_are_caught() {
    for plan in Canary::ALL {
        let limits = Limits { canary: Some(plan.canary), ..Limits::default() };
        let failure = (0..8).find_map(|seed| run::simulate(seed, &limits).failure);
        let failure = failure.unwrap_or_else(|| panic!("{} passes", plan.name));
        assert!(failure.contains(plan.expects), "{} is noticed by another check: {failure}", plan.name);
    }
}
