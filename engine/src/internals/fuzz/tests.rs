//! All targets take their seeds and what is near them.

use super::*;

/// Targets that run a whole engine for each input.
const SLOW: [&str; 4] = ["open_volume", "operations", "options", "superblock"];

#[test]
fn every_target_has_seeds() {
    let seeds = seeds();
    assert!(seeds.iter().all(|(_, seeds)| !seeds.is_empty()));
    assert!(seeds.iter().map(|(name, _)| name).eq(TARGETS.iter().map(|(name, _)| name)));
}

/// Each target takes its seeds and prefixes of them; with a byte changed in turn it still ends.
#[test]
fn targets_take_their_seeds_and_what_is_near_them() {
    for ((name, seeds), (_, target)) in seeds().into_iter().zip(TARGETS) {
        let places = match (cfg!(miri), SLOW.contains(&name)) {
            (true, true) => continue,
            (true, false) => 3,
            (false, true) => 4,
            (false, false) => 200,
        };
        for seed in seeds {
            target(&seed);
            for at in (0..seed.len()).step_by(1 + seed.len() / places) {
                target(&seed[..at]);
                let mut changed = seed.clone();
                changed[at] ^= 0x11;
                target(&changed);
            }
        }
    }
}

#[test]
fn the_sample_table_is_walked_to_its_end() {
    let (_, mut tables) = seeds().into_iter().find(|(name, _)| *name == "sst").expect("there is a sample");
    assert!(blocks::walk_sst(&mut tables[0]).is_some());
}
