//! Each fault happens, is counted, is in the atlas where it damages, and is gone after `heal`.

#![expect(clippy::unwrap_used, reason = "tests fail by panics")]

use std::collections::BTreeSet;
use std::future::Future;

use crate::*;

const BLOCK: usize = 4096;
const SECTOR: usize = 512;

/// Of so many seeds, how many are run: all, but few under Miri, where how often something happens is not looked at.
fn seeds(all: u64) -> u64 {
    if cfg!(miri) { 2 + all / 100 } else { all }
}

/// A disk with eight blocks of ones on stable storage, and then these faults.
fn disk_with(seed: u64, faults: SimFaults) -> SimDisk {
    let disk = SimDisk::new(seed, SimOptions::default());
    run(&disk, async |device| {
        device.allocate(0, 1 << 20).await.unwrap();
        write(&device, 0..8, 1, WriteDurability::Cached).await.unwrap();
        device.flush().await.unwrap();
    });
    disk.set_faults(faults);
    disk
}

fn run<F: Future<Output = T>, T>(disk: &SimDisk, body: impl FnOnce(Device) -> F) -> T {
    let mut executor = Executor::new(ExecutorConfig::default(), Backend::Simulated(SimClock::new())).unwrap();
    let device = executor.handle().attach(&SharedDevice::simulated(disk.clone())).unwrap();
    executor.block_on(body(device))
}

async fn write(
    device: &Device,
    blocks: std::ops::Range<u64>,
    byte: u8,
    durability: WriteDurability,
) -> Result<(), IoError> {
    let len = (blocks.end - blocks.start) as usize * BLOCK;
    let mut buffer = Buffer::heap(len);
    buffer.fill(byte);
    device.write(blocks.start * BLOCK as u64, buffer, 0..len, durability, Placement::Wal).await.0
}

async fn read(device: &Device, block: u64) -> Result<Vec<u8>, IoError> {
    let (result, buffer) = device.read(block * BLOCK as u64, Buffer::heap(BLOCK), BLOCK).await;
    result.map(|()| buffer.to_vec())
}

fn block(disk: &SimDisk, index: u64) -> Vec<u8> {
    disk.read_raw(index * BLOCK as u64, BLOCK as u64)
}

fn count(disk: &SimDisk, kind: &str) -> u64 {
    assert!(SIM_FAULT_KINDS.contains(&kind), "{kind} is not listed");
    disk.fault_counts().get(kind).copied().unwrap_or(0)
}

fn damaged(disk: &SimDisk) -> Vec<(u64, &'static str)> {
    disk.atlas().into_iter().map(|damage| (damage.offset / BLOCK as u64, damage.fault)).collect()
}

/// What an operation of each kind comes to.
fn errnos(disk: &SimDisk) -> [i32; 5] {
    let errno = |result: Result<(), IoError>| result.map_or_else(|error| error.errno, |()| 0);
    run(disk, async |device| {
        [
            errno(read(&device, 0).await.map(|_| ())),
            errno(write(&device, 0..4, 2, WriteDurability::Cached).await),
            errno(device.flush().await),
            errno(device.discard(4 * BLOCK as u64, BLOCK as u64).await),
            errno(device.allocate(1 << 20, 4096).await),
        ]
    })
}

#[test]
fn errors_hit_their_kind_of_operation_and_end_with_heal() {
    let none = SimFaults::default;
    let (eio, enospc) = (libc::EIO, libc::ENOSPC);
    for (faults, kind, expected) in [
        (SimFaults { read_error_chance: 1.0, ..none() }, "transient read error", [eio, 0, 0, 0, 0]),
        (SimFaults { write_error_chance: 1.0, ..none() }, "transient write error", [0, eio, 0, 0, 0]),
        (SimFaults { flush_error_chance: 1.0, ..none() }, "failed flush", [0, 0, eio, 0, 0]),
        (SimFaults { discard_error_chance: 1.0, ..none() }, "failed discard", [0, 0, 0, eio, 0]),
        (SimFaults { allocate_error_chance: 1.0, ..none() }, "failed allocation", [0, 0, 0, 0, eio]),
        (SimFaults { bad_read_chance: 1.0, ..none() }, "unreadable block", [eio, 0, 0, 0, 0]),
        (SimFaults { bad_write_chance: 1.0, ..none() }, "unwritable block", [0, eio, 0, 0, 0]),
        (SimFaults { no_space_chance: 1.0, ..none() }, "no space", [0, enospc, 0, 0, enospc]),
        (SimFaults { again_chance: 1.0, ..none() }, "EAGAIN", [libc::EAGAIN; 5]),
        (SimFaults { interrupted_chance: 1.0, ..none() }, "EINTR", [libc::EINTR; 5]),
        (SimFaults { cancelled_chance: 1.0, ..none() }, "ECANCELED", [libc::ECANCELED; 5]),
    ] {
        let disk = disk_with(1, faults.clone());
        assert_eq!(disk.faults(), faults);
        assert_eq!(errnos(&disk), expected, "{kind}");
        assert!(count(&disk, kind) > 0, "{kind} is not counted: {:?}", disk.fault_counts());
        assert_eq!(disk.fault_counts().len(), 1, "{kind}: {:?}", disk.fault_counts());
        disk.heal();
        assert_eq!((errnos(&disk), disk.faults()), ([0; 5], none()), "{kind} survives healing");
    }
}

#[test]
fn a_failed_write_leaves_any_of_its_blocks_and_one_without_space_none() {
    let mut outcomes = BTreeSet::new();
    for seed in 0..seeds(200) {
        let disk = disk_with(seed, SimFaults { write_error_chance: 1.0, ..SimFaults::default() });
        run(&disk, async |device| write(&device, 0..3, 2, WriteDurability::Durable).await.unwrap_err());
        outcomes.insert([0, 1, 2].map(|index| block(&disk, index)[0]));
        assert!(damaged(&disk).is_empty());
        let disk = disk_with(seed, SimFaults { no_space_chance: 1.0, ..SimFaults::default() });
        run(&disk, async |device| write(&device, 0..3, 2, WriteDurability::Cached).await.unwrap_err());
        assert_eq!(block(&disk, 0)[0], 1);
    }
    assert!(cfg!(miri) || outcomes.len() == 8, "{outcomes:?}");
}

#[test]
fn what_a_failed_flush_strands_is_seen_until_a_crash_whatever_later_flushes_say() {
    let mut taken_back = 0;
    for seed in 0..seeds(50) {
        let disk = disk_with(seed, SimFaults::default());
        run(&disk, async |device| {
            write(&device, 0..4, 2, WriteDurability::Cached).await.unwrap();
            disk.set_faults(SimFaults { flush_error_chance: 1.0, ..SimFaults::default() });
            device.flush().await.unwrap_err();
            disk.set_faults(SimFaults::default());
            device.flush().await.unwrap();
            assert_eq!(read(&device, 0).await.unwrap(), [2; BLOCK]);
        });
        disk.crash();
        for index in 0..4 {
            assert!([[1; BLOCK], [2; BLOCK]].contains(&block(&disk, index).try_into().unwrap()));
            taken_back += u64::from(block(&disk, index)[0] == 1);
        }
        assert!(disk.atlas().is_empty(), "it was told");
    }
    assert!(cfg!(miri) || (50..150).contains(&taken_back), "{taken_back} of 200");
    // Rewritten and flushed, it is durable.
    let disk = disk_with(3, SimFaults { flush_error_chance: 1.0, ..SimFaults::default() });
    run(&disk, async |device| {
        write(&device, 0..8, 2, WriteDurability::Cached).await.unwrap();
        device.flush().await.unwrap_err();
        disk.set_faults(SimFaults::default());
        write(&device, 0..8, 3, WriteDurability::Cached).await.unwrap();
        device.flush().await.unwrap();
    });
    disk.crash();
    assert_eq!(disk.read_raw(0, 8 * BLOCK as u64), [3; 8 * BLOCK]);
    assert_eq!(count(&disk, "crash: block of a failed flush is old"), 0);
}

#[test]
fn healing_brings_stranded_blocks_back_under_later_flushes() {
    let disk = disk_with(3, SimFaults { flush_error_chance: 1.0, ..SimFaults::default() });
    run(&disk, async |device| {
        write(&device, 0..8, 2, WriteDurability::Cached).await.unwrap();
        device.flush().await.unwrap_err();
        disk.heal();
        device.flush().await.unwrap();
    });
    disk.crash();
    assert_eq!(disk.read_raw(0, 8 * BLOCK as u64), [2; 8 * BLOCK]);
}

#[test]
fn an_unreadable_block_is_damage_until_it_is_rewritten_or_the_rewriting_is_undone() {
    let disk = disk_with(1, SimFaults { bad_read_chance: 1.0, ..SimFaults::default() });
    run(&disk, async |device| {
        read(&device, 2).await.unwrap_err();
        disk.set_faults(SimFaults::default());
        assert_eq!(read(&device, 2).await.unwrap_err().errno, libc::EIO);
        read(&device, 1).await.unwrap();
        assert_eq!(damaged(&disk), [(2, "unreadable block")]);
        let damage = &disk.atlas()[0];
        assert_eq!((damage.len, damage.placement), (BLOCK as u64, Some(Placement::Wal)));
        write(&device, 2..3, 5, WriteDurability::Durable).await.unwrap();
        assert_eq!(read(&device, 2).await.unwrap(), [5; BLOCK]);
        assert!(damaged(&disk).is_empty());
    });
    let mut undone = 0;
    for seed in 0..seeds(40) {
        let disk = disk_with(seed, SimFaults::default());
        disk.make_unreadable(2 * BLOCK as u64);
        run(&disk, async |device| {
            write(&device, 2..3, 5, WriteDurability::Cached).await.unwrap();
            assert!(damaged(&disk).is_empty());
        });
        disk.crash();
        assert_eq!(!damaged(&disk).is_empty(), block(&disk, 2) == [1; BLOCK]);
        undone += damaged(&disk).len();
    }
    assert!(cfg!(miri) || undone > 5);
}

#[test]
fn an_unwritable_block_refuses_for_ever() {
    let disk = disk_with(1, SimFaults { bad_write_chance: 1.0, ..SimFaults::default() });
    run(&disk, async |device| {
        write(&device, 3..4, 2, WriteDurability::Cached).await.unwrap_err();
        disk.set_faults(SimFaults::default());
        for _ in 0..3 {
            assert_eq!(write(&device, 2..5, 2, WriteDurability::Durable).await.unwrap_err().errno, libc::EIO);
            assert_eq!(read(&device, 3).await.unwrap(), [1; BLOCK]);
        }
        write(&device, 4..5, 2, WriteDurability::Cached).await.unwrap();
        disk.heal();
        write(&device, 2..5, 3, WriteDurability::Cached).await.unwrap();
    });
}

#[test]
fn a_lost_write_keeps_old_content_and_healing_shows_the_new() {
    let mut outcomes = BTreeSet::new();
    for seed in 0..seeds(50) {
        let disk = disk_with(seed, SimFaults { lost_write_chance: 1.0, ..SimFaults::default() });
        run(&disk, async |device| write(&device, 0..2, 2, WriteDurability::Durable).await.unwrap());
        let seen = [0, 1].map(|index| block(&disk, index)[0]);
        outcomes.insert(seen);
        let lost = |index: &u64| block(&disk, *index)[0] == 1;
        let expected: Vec<_> = [0, 1].into_iter().filter(lost).map(|index| (index, "lost write")).collect();
        assert_eq!(damaged(&disk), expected);
        assert_eq!(count(&disk, "lost write"), 1);
        disk.heal();
        assert_eq!(disk.read_raw(0, 2 * BLOCK as u64), [2; 2 * BLOCK]);
        assert!(damaged(&disk).is_empty());
    }
    let all = BTreeSet::from([[1, 1], [1, 2], [2, 1]]);
    assert!(outcomes == all || cfg!(miri) && outcomes.is_subset(&all), "{outcomes:?}");
}

#[test]
fn a_misdirected_write_damages_two_places() {
    let mut distances = BTreeSet::new();
    for seed in 0..seeds(100) {
        let disk = disk_with(seed, SimFaults { misdirected_write_chance: 1.0, ..SimFaults::default() });
        run(&disk, async |device| write(&device, 3..4, 2, WriteDurability::Cached).await.unwrap());
        assert_eq!(block(&disk, 3), [1; BLOCK]);
        let atlas = damaged(&disk);
        assert_eq!(atlas.len(), 2, "{atlas:?}");
        assert!(atlas.contains(&(3, "misdirected write")));
        let stray = atlas.iter().find(|damage| damage.0 != 3).unwrap();
        assert_eq!((block(&disk, stray.0), stray.1), (vec![2; BLOCK], "misdirected write"));
        distances.insert(stray.0.abs_diff(3));
        disk.heal();
        let pristine = if stray.0 < 8 { 1 } else { 0 };
        assert_eq!((block(&disk, 3), block(&disk, stray.0)), (vec![2; BLOCK], vec![pristine; BLOCK]));
    }
    let near_and_far = distances.first() == Some(&1) && distances.last() > Some(&100);
    assert!(cfg!(miri) || near_and_far, "{distances:?}");
}

#[test]
fn rot_stays_until_it_is_rewritten_and_a_crash_that_undoes_the_rewriting_brings_it_back() {
    let mut came_back = 0;
    for seed in 0..seeds(60) {
        let disk = disk_with(seed, SimFaults { bit_rot_chance: 1.0, ..SimFaults::default() });
        run(&disk, async |device| {
            write(&device, 0..1, 2, WriteDurability::Durable).await.unwrap();
            assert_eq!((damaged(&disk), count(&disk, "bit rot")), (vec![(0, "bit rot")], 1));
            let rotten = read(&device, 0).await.unwrap();
            let differing = rotten.iter().filter(|byte| **byte != 2).count();
            assert!((1..=4).contains(&differing), "{differing}");
            disk.set_faults(SimFaults::default());
            write(&device, 0..1, 2, WriteDurability::Cached).await.unwrap();
            assert_eq!(read(&device, 0).await.unwrap(), [2; BLOCK], "the same content, but anew");
            assert!(damaged(&disk).is_empty());
        });
        disk.crash();
        came_back += damaged(&disk).len();
        let healed = SimDisk::clone(&disk);
        let old = disk.fault_counts().contains_key("crash: block is old");
        assert_eq!(!damaged(&disk).is_empty(), old);
        healed.heal();
        assert!(damaged(&disk).is_empty());
    }
    assert!(cfg!(miri) || came_back > 10, "{came_back}");
    let disk = disk_with(1, SimFaults::default());
    disk.rot(5 * BLOCK as u64 + 7);
    assert_eq!(damaged(&disk), [(5, "bit rot")]);
}

#[test]
fn a_lost_flush_is_noticed_at_the_next_crash_unless_a_true_one_follows() {
    let mut taken_back = 0;
    for (seed, follows) in (0..seeds(60)).flat_map(|seed| [(seed, false), (seed, true)]) {
        let disk = disk_with(seed, SimFaults { lost_flush_chance: 1.0, ..SimFaults::default() });
        run(&disk, async |device| {
            write(&device, 0..2, 2, WriteDurability::Cached).await.unwrap();
            device.flush().await.unwrap();
            assert_eq!(count(&disk, "lost flush"), 1);
            disk.set_faults(SimFaults::default());
            if follows {
                device.flush().await.unwrap();
            }
        });
        assert!(damaged(&disk).is_empty(), "nothing shows yet");
        disk.crash();
        let old: Vec<_> = [0, 1].into_iter().filter(|index| block(&disk, *index) == [1; BLOCK]).collect();
        assert_eq!(damaged(&disk), old.iter().map(|index| (*index, "lost flush")).collect::<Vec<_>>());
        assert_eq!(count(&disk, "crash: block of a lost flush is old"), old.len() as u64);
        assert!(!follows || old.is_empty());
        taken_back += old.len();
        disk.heal();
        assert_eq!(disk.read_raw(0, 2 * BLOCK as u64), [2; 2 * BLOCK]);
    }
    assert!(cfg!(miri) || (30..90).contains(&taken_back), "{taken_back} of 120");
}

#[test]
fn crashes_leave_whole_old_torn_or_garbled_blocks_and_never_tear_a_sector() {
    for (logical_block_bytes, torn_blocks) in [(4096, true), (4096, false), (512, true)] {
        let options = || SimOptions { logical_block_bytes, torn_blocks, ..SimOptions::default() };
        let mut totals = std::collections::BTreeMap::new();
        for seed in 0..seeds(300) {
            let disk = SimDisk::new(seed, options());
            run(&disk, async |device| {
                device.allocate(0, 1 << 20).await.unwrap();
                device.flush().await.unwrap();
                write(&device, 0..1, 2, WriteDurability::Cached).await.unwrap();
                device.allocate(1 << 20, 4096).await.unwrap();
            });
            disk.crash();
            assert!(damaged(&disk).is_empty(), "crashes are no damage");
            let mixed = block(&disk, 0).chunks(SECTOR).any(|sector| sector.iter().any(|byte| *byte != sector[0]));
            assert_eq!(mixed, count(&disk, "crash: block garbled") > 0, "only garbage is inside a sector");
            disk.fault_counts().into_iter().for_each(|(kind, count)| *totals.entry(kind).or_insert(0) += count);
        }
        let has_torn = totals.contains_key("crash: block torn");
        let may_tear = logical_block_bytes == 4096 && torn_blocks;
        assert!(has_torn == may_tear || cfg!(miri) && !has_torn);
        for kind in ["crash: block survives", "crash: block is old", "crash: block garbled", "crash: size is old"] {
            assert!(cfg!(miri) || totals[kind] > 3, "{kind}: {totals:?}");
        }
    }
}

#[test]
fn short_transfers_are_continued_and_stalls_take_their_time() {
    let disk = disk_with(1, SimFaults { short_transfer_chance: 1.0, ..SimFaults::default() });
    run(&disk, async |device| {
        write(&device, 0..8, 2, WriteDurability::Cached).await.unwrap();
        let (result, buffer) = device.read(0, Buffer::heap(8 * BLOCK), 8 * BLOCK).await;
        result.unwrap();
        assert!(buffer.iter().all(|byte| *byte == 2));
    });
    assert!(count(&disk, "short transfer") >= 2);
    let faults = SimFaults { stall_chance: 1.0, stall_us: 2_000_000..3_000_000, ..SimFaults::default() };
    let disk = disk_with(1, faults);
    let clock = SimClock::new();
    let mut executor = Executor::new(ExecutorConfig::default(), Backend::Simulated(clock.clone())).unwrap();
    let device = executor.handle().attach(&SharedDevice::simulated(disk.clone())).unwrap();
    executor.block_on(device.flush()).unwrap();
    assert!((2_000_000..3_000_000).contains(&clock.now_us()));
    assert_eq!(count(&disk, "stall"), 1);
}

#[test]
fn exponential_latency_has_the_mean_of_its_range_and_a_long_tail() {
    let options = SimOptions { latency_us: 0..200, exponential_latency: true, ..SimOptions::default() };
    let disk = SimDisk::new(1, options);
    let clock = SimClock::new();
    let mut executor = Executor::new(ExecutorConfig::default(), Backend::Simulated(clock.clone())).unwrap();
    let device = executor.handle().attach(&SharedDevice::simulated(disk)).unwrap();
    let (mut total, mut longest) = (0, 0);
    let draws = if cfg!(miri) { 40 } else { 4000 };
    for _ in 0..draws {
        let before = clock.now_us();
        executor.block_on(device.flush()).unwrap();
        total += clock.now_us() - before;
        longest = longest.max(clock.now_us() - before);
    }
    assert!(cfg!(miri) || (90..110).contains(&(total / draws)), "mean {}", total / draws);
    assert!(longest > if cfg!(miri) { 100 } else { 500 }, "{longest}");
}

#[test]
fn one_seed_gives_one_trace_and_one_atlas_with_all_faults_at_once() {
    let storm = |seed| {
        let chance = 0.1;
        let disk = disk_with(
            seed,
            SimFaults {
                read_error_chance: chance,
                write_error_chance: chance,
                flush_error_chance: chance,
                discard_error_chance: chance,
                bad_read_chance: chance,
                short_transfer_chance: chance,
                again_chance: chance,
                lost_flush_chance: chance,
                lost_write_chance: chance,
                misdirected_write_chance: chance,
                bit_rot_chance: chance,
                stall_chance: chance,
                stall_us: 1000..2000,
                ..SimFaults::default()
            },
        );
        run(&disk, async |device| {
            for index in 0..if cfg!(miri) { 15 } else { 100 } {
                let _ = write(&device, index % 20..index % 20 + 3, index as u8, WriteDurability::Cached).await;
                let _ = read(&device, index % 7).await;
                let _ = device.flush().await;
                let _ = device.discard((index % 5) << 14, 1 << 14).await;
            }
        });
        disk.crash();
        let damaged = damaged(&disk);
        assert!(damaged.is_sorted() && (!damaged.is_empty() || cfg!(miri)));
        assert!(disk.fault_counts().keys().all(|kind| SIM_FAULT_KINDS.contains(kind)));
        (disk.trace_hash(), disk.snapshot(), damaged, disk.fault_counts())
    };
    for seed in 0..if cfg!(miri) { 1 } else { 5 } {
        assert_eq!(storm(seed), storm(seed));
        assert_ne!(storm(seed).0, storm(seed + 1).0);
    }
}
