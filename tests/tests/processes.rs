//! Short runs of `siltstone-torture`: real processes killed, places filled, devices that fail. Where a device cannot be had the run says so,
//! and passes, unless `SILTSTONE_TEST_PLACES=all` says that this machine must have them.

#![expect(clippy::unwrap_used, reason = "a test stops where something is not as it should be")]

use std::process::Command;

use siltstone_io::testing::places::all_must_be_had;

/// Runs a suite; its output.
fn torture(arguments: &[&str]) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_siltstone-torture")).args(arguments).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    println!("{arguments:?}:\n{text}{}", String::from_utf8_lossy(&output.stderr));
    (output.status.success(), text)
}

/// A run without failures that did something.
fn passes(suite: &str, place: &str, seconds: &str, seed: &str) {
    let (success, text) = torture(&[suite, "--place", place, "--seconds", seconds, "--seed", seed]);
    assert!(success, "a failure, see above");
    let skipped = text.contains("skipped:");
    assert!(!(skipped && all_must_be_had()), "{place} cannot be had, but SILTSTONE_TEST_PLACES=all says that it must");
    if !skipped {
        let last = text.lines().last().unwrap();
        assert!(!last.starts_with("0 kills") && !last.contains(" 0 acknowledged"), "nothing was done: {last}");
    }
}

#[test]
fn killed_on_a_file_nothing_acknowledged_is_lost() {
    passes("kill", "file", "5", "1");
}

#[test]
fn killed_on_a_file_of_ext4_nothing_acknowledged_is_lost() {
    passes("kill", "ext4", "3", "8");
}

#[test]
fn killed_on_a_file_of_xfs_nothing_acknowledged_is_lost() {
    passes("kill", "xfs", "3", "9");
}

#[test]
fn killed_on_a_file_of_btrfs_nothing_acknowledged_is_lost() {
    passes("kill", "btrfs", "3", "10");
}

#[test]
fn killed_on_a_loop_device_nothing_acknowledged_is_lost() {
    passes("kill", "loop", "4", "2");
}

#[test]
fn killed_on_a_zram_device_nothing_acknowledged_is_lost() {
    passes("kill", "zram", "4", "3");
}

#[test]
fn a_full_file_is_an_error_until_there_is_space() {
    passes("fill", "file", "2", "4");
}

#[test]
fn a_full_loop_device_is_an_error_until_there_is_space() {
    passes("fill", "loop", "2", "5");
}

#[test]
fn a_file_that_may_not_grow_costs_nothing_that_was_acknowledged() {
    passes("errors", "file", "2", "6");
}

#[test]
fn a_loop_device_that_fails_costs_nothing_that_was_acknowledged() {
    passes("errors", "loop", "5", "0");
}

#[test]
fn a_zram_device_that_fails_costs_nothing_that_was_acknowledged() {
    passes("errors", "zram", "3", "0");
}

#[test]
fn deliberate_bugs_are_noticed() {
    for mutant in ["CutIncludesNextEpoch", "BatchHalfLogged"] {
        let arguments = ["kill", "--mutant", mutant, "--seconds", "20", "--seed", "7", "--failures-max", "1"];
        let (success, text) = torture(&arguments);
        for line in text.lines().filter(|line| line.contains("the volume is kept in ")) {
            let kept = line.rsplit("kept in ").next().unwrap();
            std::fs::remove_dir_all(kept).unwrap();
        }
        assert!(!success, "{mutant} was not noticed");
    }
}
