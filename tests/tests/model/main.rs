//! The engine against sorted maps: random operations on all handle methods, snapshots held over them, checkpoints, reopening with other
//! numbers of shards, on simulated disks and on real files. Memtables, tables and extents are so small that all levels fill.

mod expected;
mod operator;
mod reopen;
mod steps;
mod world;

use siltstone_io::testing::places::{Filesystem, named_devices, or_skipped};
use siltstone_tests::seeds;

use world::{Place, World};

#[test]
fn model_on_a_simulated_disk() {
    seeds::run("model_on_a_simulated_disk", 200, |seed| play(seed, Place::simulated(seed), 500));
}

#[test]
fn model_on_a_file() {
    seeds::run("model_on_a_file", 10, |seed| play(seed, Place::file(), 250));
}

#[test]
fn model_under_a_baton() {
    seeds::run("model_under_a_baton", 2, |seed| play(seed, Place::baton(), 250));
}

#[test]
fn model_on_a_file_of_each_filesystem() {
    for filesystem in Filesystem::ALL {
        for seed in 0..2 {
            play_on(seed, Place::mounted(filesystem));
        }
    }
}

#[test]
fn model_on_a_loop_device_with_small_blocks() {
    seeds::run("model_on_a_loop_device_with_small_blocks", 2, |seed| play_on(seed, Place::loop_device(512)));
}

#[test]
fn model_on_a_loop_device_with_large_blocks() {
    seeds::run("model_on_a_loop_device_with_large_blocks", 2, |seed| play_on(seed, Place::loop_device(4096)));
}

#[test]
fn model_on_compressed_memory() {
    seeds::run("model_on_compressed_memory", 2, |seed| play_on(seed, Place::zram()));
}

#[test]
fn model_on_the_devices_that_the_environment_names() {
    for path in named_devices() {
        for seed in 0..2 {
            play(seed, Place::named(path.clone()), 250);
        }
    }
}

/// Devices and mounts need root; where there are none, that is said.
fn play_on(seed: u64, place: Result<Place, String>) {
    if let Some(place) = or_skipped(place) {
        play(seed, place, 250);
    }
}

fn play(seed: u64, place: Place, steps: u32) {
    let mut world = World::create(seed, place);
    for _ in 0..steps {
        world.step();
    }
    world.finish();
}
