//! Probes of simulated disks: what is measured, what is written and what is not, and what a crash leaves.

use std::ops::Range;

use siltstone_io::{Budget, SimClock, SimDisk, SimOptions, Turn};

use super::*;
use crate::engine::{Durability, Engine, KeyspaceOptions, ShardDriver, format, open_volume};
use crate::inspect::{info_simulated, verify_simulated};

const MIB: u64 = 1 << 20;
const KEYS: u32 = 400;
/// How long the disk takes for everything.
const LATENCY_US: Range<u64> = 200..1200;

struct World {
    disk: SimDisk,
    clock: SimClock,
}

impl World {
    /// A slow disk: so a probe is few operations.
    fn new(seed: u64) -> World {
        let options = SimOptions { latency_us: LATENCY_US, ..SimOptions::default() };
        World { disk: SimDisk::new(seed, options), clock: SimClock::new() }
    }

    /// A volume of this size.
    fn with_volume(seed: u64, bytes: u64) -> World {
        let world = World::new(seed);
        format(&world.options(), bytes, false).unwrap();
        world
    }

    fn options(&self) -> Options {
        Options::simulated(self.disk.clone(), self.clock.clone())
            .extent_bytes(64 << 10)
            .memory(4 << 20)
            .memtable_bytes(64 << 10)
            .keyspace("k", KeyspaceOptions::default())
    }

    /// Writes all keys in this version, and closes the volume or not.
    fn write(&self, version: u8, close: bool) {
        let (engine, mut seeds) = Engine::open_driven(self.options().durability(Durability::Sync)).unwrap();
        let mut driver = seeds.remove(0).start().unwrap();
        let (shard, keyspace) = (driver.local(), engine.keyspace("k").unwrap());
        driver.block_on(async {
            for key in 0..KEYS {
                shard.put(&keyspace, &key.to_be_bytes(), &[version; 500]).await.unwrap();
            }
        });
        drop(shard);
        if close {
            end(engine, driver);
        } else {
            self.disk.kill();
        }
    }

    fn check(&self, version: u8) {
        let (engine, mut seeds) = Engine::open_driven(self.options()).unwrap();
        let mut driver = seeds.remove(0).start().unwrap();
        let (shard, keyspace) = (driver.local(), engine.keyspace("k").unwrap());
        driver.block_on(async {
            for key in 0..KEYS {
                let value = shard.get(&keyspace, &key.to_be_bytes()).await.unwrap();
                assert_eq!(value.as_deref(), Some(&[version; 500][..]), "key {key}");
            }
        });
        drop(shard);
        end(engine, driver);
        assert!(verify_simulated(&self.disk, &self.clock).unwrap().is_clean());
    }

    fn probe(&self, measuring: &ProbeOptions) -> Result<ProbeReport> {
        probe(&self.options(), measuring, |_| ())
    }

    fn stored(&self) -> Option<IoProfile> {
        info_simulated(&self.disk, &self.clock).unwrap().profile
    }
}

/// Turns the shard to its end, which comes when nobody has the engine any more.
fn end(engine: Engine, mut driver: ShardDriver) {
    drop(engine);
    while !driver.is_closed() {
        if driver.turn(&Budget::default()) != Turn::Progress {
            driver.park(None);
        }
    }
}

fn short() -> ProbeOptions {
    ProbeOptions::default().duration(DURATION_MIN)
}

#[test]
fn a_volume_is_measured_in_its_free_space_and_keeps_the_profile() {
    let world = World::with_volume(1, 24 * MIB);
    world.write(1, true);
    assert_eq!(world.stored(), None);
    assert_eq!(open_volume(&world.options()).unwrap().io_budget, IoBudget::default());
    let mut seen = 0;
    let report = probe(&world.options(), &short(), |_| seen += 1).unwrap();
    assert_eq!((report.subject.clone(), report.only_read.clone(), report.stored), (ProbeSubject::Volume, None, true));
    assert_eq!(seen, report.measurements.len());
    assert!(report.area_bytes > 16 * MIB && report.area_bytes < 24 * MIB, "{}", report.area_bytes);
    let profile = report.profile.unwrap();
    for time_us in [profile.read_p50_us, profile.read_p99_us, profile.durable_write_us] {
        assert!(LATENCY_US.contains(&time_us.into()), "{time_us}");
    }
    assert!(profile.read_p50_us < profile.read_p99_us);
    // 64 at a time, of 700 microseconds each.
    assert!((50_000..100_000).contains(&profile.read_iops), "{}", profile.read_iops);
    for measured in &report.measurements {
        assert!(measured.operations >= u64::from(measured.depth), "{measured:?}");
        assert!(measured.p50_us <= measured.p90_us && measured.p90_us <= measured.p99_us, "{measured:?}");
        assert_eq!(measured.background_bytes > 0, measured.beside_bytes.is_some_and(|bytes| bytes > 0), "{measured:?}");
    }
    // Reads do not suffer here, and twice as many writes move twice as much: all that was tried may be in flight.
    assert_eq!(Some(profile.background_bytes), report.measurements.iter().filter_map(|step| step.beside_bytes).max());
    assert_eq!(world.stored(), Some(profile));
    world.check(1);
    assert_eq!(world.stored(), Some(profile), "openings keep it");

    let opened = |options: Options| open_volume(&options).unwrap().io_budget;
    let whole = opened(world.options());
    assert_eq!(Some(whole), report.budget(1));
    assert_eq!(whole.background_bytes_max, profile.background_bytes);
    assert_eq!(opened(world.options().memory(8 << 20).shards(2)), profile.budget(2));
    let given = IoBudget { background_bytes_max: 7, background_ops_max: 3 };
    assert_eq!(opened(world.options().io_budget(given)), given);

    let again = world.probe(&short()).unwrap().profile.unwrap();
    assert!(again.measured_ms >= profile.measured_ms && again.probed_bytes > profile.probed_bytes + 16 * MIB);
    world.check(1);
}

#[test]
fn a_probe_repeats() {
    let run = || {
        let world = World::with_volume(7, 20 * MIB);
        world.write(1, true);
        (world.probe(&short()).unwrap().measurements, world.disk.trace_hash())
    };
    assert_eq!(run(), run());
}

#[test]
fn a_full_volume_is_only_read() {
    let world = World::with_volume(2, 4 * MIB);
    world.write(1, true);
    let written = world.disk.stats().writes;
    let report = world.probe(&short().write(true).force(true)).unwrap();
    assert!(report.only_read.unwrap().contains("free space") && report.profile.is_none() && !report.stored);
    assert!(report.measurements.iter().all(|measured| measured.access == Access::Read));
    assert_eq!(world.disk.stats().writes, written);
    world.check(1);
}

#[test]
fn what_is_no_volume_is_only_read_unless_writing_is_asked_for() {
    let world = World::new(3);
    assert!(matches!(world.probe(&short()), Err(Error::InvalidArgument(_))), "it has no bytes");
    world.disk.write_raw(48 * MIB - 4096, &[0; 4096]);
    let report = world.probe(&short()).unwrap();
    assert_eq!(report.subject, ProbeSubject::Other);
    assert!(report.only_read.is_some() && report.profile.is_none());
    assert_eq!((world.disk.stats().writes, world.disk.stats().discards), (0, 0));

    let report = world.probe(&short().write(true)).unwrap();
    assert!(report.only_read.is_none() && report.profile.is_some() && !report.stored);
    assert!(world.disk.stats().writes > 0);
    // It is as blank as before.
    format(&world.options(), 24 * MIB, false).unwrap();
}

#[test]
fn what_a_device_holds_is_destroyed_only_by_force() {
    let world = World::new(4);
    world.disk.write_raw(48 * MIB - 4096, &[0; 4096]);
    world.disk.write_raw(510, &[0x55, 0xaa]);
    let before = world.disk.snapshot();
    assert!(world.probe(&short()).unwrap().only_read.is_some());
    let Err(Error::NotAVolume { reason, .. }) = world.probe(&short().write(true)) else { panic!("it was written to") };
    assert!(reason.contains("an MBR partition table") && reason.contains("--force"), "{reason}");
    assert!(world.disk.snapshot() == before && world.disk.stats().writes == 0);
    assert!(matches!(world.probe(&short().force(true)), Err(Error::InvalidArgument(_))));

    assert!(world.probe(&short().write(true).force(true)).unwrap().profile.is_some());
    format(&world.options(), 24 * MIB, false).unwrap();
}

#[test]
fn a_volume_that_cannot_be_opened_is_not_destroyed_by_force_either() {
    let world = World::with_volume(6, 12 * MIB);
    world.write(1, true);
    let whole = world.disk.snapshot();
    // Whatever copies there are, behind their marks.
    for block in 0..16 {
        world.disk.write_raw(block * 4096 + 64, &[0xff; 8]);
    }
    let before = world.disk.snapshot();
    assert!(before != whole);
    assert!(world.probe(&short()).unwrap().only_read.is_some());
    let refused = world.probe(&short().write(true).force(true));
    assert!(matches!(refused, Err(Error::Corruption(_) | Error::Version { .. })), "{refused:?}");
    assert!(world.disk.snapshot() == before);
}

/// What a process has written that did not live to flush it may be in the device's cache alone: the extents that it has given up are free only once
/// the cache is.
#[test]
fn a_power_failure_during_a_probe_costs_nothing() {
    for seed in 0..30 {
        let world = World::with_volume(seed, 12 * MIB);
        world.write(1, true);
        world.write(2, false);
        let measuring = short();
        world.disk.crash_at(Some(world.disk.write_ops() + 1 + seed * seed));
        assert!(world.probe(&measuring).is_err() && world.disk.crashed(), "seed {seed}: the probe was over before");
        world.disk.crash();
        world.disk.restart();
        world.check(2);
    }
}

/// The last writes are those of the superblock.
#[test]
fn a_power_failure_while_the_profile_is_stored_leaves_the_old_one_or_the_new() {
    let run = |crash_at: Option<u64>| {
        let world = World::with_volume(5, 12 * MIB);
        world.write(1, true);
        world.probe(&short()).unwrap();
        let old = world.stored().unwrap();
        world.disk.crash_at(crash_at);
        let new = world.probe(&short());
        (world, old, new)
    };
    let (world, old, new) = run(None);
    let (last, new) = (world.disk.write_ops(), new.unwrap().profile.unwrap());
    let mut found = [0, 0];
    for back in 0..8 {
        let (world, ..) = run(Some(last - back));
        world.disk.crash();
        world.disk.restart();
        let stored = world.stored().unwrap();
        assert!(stored == old || stored == new, "{stored:?}");
        found[usize::from(stored == new)] += 1;
        world.check(1);
    }
    assert!(found[0] > 0 && found[1] > 0, "{found:?}");
}

#[test]
fn a_failed_write_is_an_error_and_gives_the_space_back() {
    let world = World::with_volume(6, 20 * MIB);
    world.write(1, true);
    world.disk.fail_after(siltstone_io::OpKind::Write, 50, 5);
    let discarded = world.disk.stats().discarded_bytes;
    assert!(matches!(world.probe(&short()), Err(Error::Io(_))));
    assert!(world.disk.stats().discarded_bytes > discarded + 16 * MIB);
    assert_eq!(world.stored(), None);
    world.check(1);
}
