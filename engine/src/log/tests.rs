//! The log on a simulated disk: what is appended is read, and what a crash or damage leaves is judged rightly.

use std::cell::RefCell;
use std::pin::pin;
use std::rc::Rc;

use futures_util::FutureExt;
use futures_util::future::join_all;
use siltstone_io::{OpKind, Placement, Random, SimOptions};

use super::block::{BlockHeader, HEADER_BYTES, LOG_PAGE_BYTES};
use super::*;
use crate::volume::Volume;
use crate::volume::testing::{EXTENT_BYTES, Machine};
use crate::{Error, Result};

const PAGE: usize = LOG_PAGE_BYTES;

async fn read_all(
    volume: &Volume,
    head: LogPosition,
    closed_at: Option<u64>,
) -> Result<(Vec<(LogPosition, Vec<u8>)>, LogPosition)> {
    let mut reader = LogReader::open(volume.clone(), head, closed_at);
    let mut commits = Vec::new();
    while let Some(commit) = reader.next().await? {
        commits.push(commit);
    }
    assert!(reader.next().await?.is_none(), "the end stays the end");
    Ok((commits, reader.end()))
}

fn payload(random: &mut Random, bytes: usize) -> Vec<u8> {
    let mut payload = vec![0; bytes];
    random.fill(&mut payload);
    payload
}

/// Mostly small, sometimes over several extents.
fn random_payload(random: &mut Random) -> Vec<u8> {
    let max = if cfg!(miri) { [100, 200, 5_000, 70_000] } else { [100, 5_000, 70_000, 200_000] };
    let max = max[random.below(4) as usize];
    let bytes = random.below(max) as usize;
    payload(random, bytes)
}

async fn new_log(volume: &Volume) -> LogWriter {
    LogWriter::create(volume.clone(), Placement::Wal).await.unwrap()
}

/// A log of one-page durable commits with these payloads.
async fn log_of(volume: &Volume, payloads: &[&[u8]]) -> LogWriter {
    let log = new_log(volume).await;
    for payload in payloads {
        log.append(&[payload], Durability::Durable).await.unwrap();
    }
    log
}

#[test]
fn commits_are_read_as_they_were_appended() {
    for seed in 0..if cfg!(miri) { 1 } else { 20 } {
        let mut machine = Machine::new(seed);
        let mut life = machine.start();
        life.run(async |volume| {
            let mut random = Random::new(seed);
            let log = new_log(&volume).await;
            let mut expected = Vec::new();
            for _ in 0..if cfg!(miri) { 3 } else { 10 } {
                let batch: Vec<(Vec<u8>, Vec<u8>)> = (0..1 + random.below(4))
                    .map(|_| (random_payload(&mut random), random_payload(&mut random)))
                    .collect();
                let durability = if random.chance(0.5) { Durability::Durable } else { Durability::Cached };
                let appends = batch.iter().map(|(a, b)| {
                    let log = log.clone();
                    async move { log.append(&[a, b], durability).await }
                });
                for (range, (a, b)) in join_all(appends).await.into_iter().zip(&batch) {
                    expected.push((range.unwrap(), [a.as_slice(), b].concat()));
                }
            }
            let (commits, end) = read_all(&volume, log.head(), None).await.unwrap();
            assert_eq!(commits, expected.iter().map(|(range, bytes)| (range.start, bytes.clone())).collect::<Vec<_>>());
            assert_eq!(end, log.position());
            assert!(expected.windows(2).all(|pair| pair[0].0.end == pair[1].0.start));

            // From any commit on, and up to any commit.
            let middle = random.below(expected.len() as u64) as usize;
            let (commits, _) = read_all(&volume, expected[middle].0.start, None).await.unwrap();
            assert_eq!(commits.len(), expected.len() - middle);
            let closed_at = Some(expected[middle].0.end.seq - 1);
            let (commits, end) = read_all(&volume, log.head(), closed_at).await.unwrap();
            assert_eq!((commits.len(), end), (middle + 1, expected[middle].0.end));

            // Nothing is lost or left behind when its extents are given back.
            let trimmed = log.trim(expected[middle].0.start);
            let chain = read_chain(&volume, expected[middle].0.start, None).await.unwrap();
            assert!(trimmed.iter().all(|extent| !chain.contains(extent)));
            volume.free_extents(trimmed).await;
            let (commits, _) = read_all(&volume, expected[middle].0.start, None).await.unwrap();
            assert_eq!(commits.len(), expected.len() - middle);
            volume.free_extents(log.retire().await).await;
            assert_eq!(volume.parts().usage().0, 1);
        })
        .unwrap();
    }
}

#[test]
fn appends_seldom_wait_for_space() {
    let mut machine = Machine::new(1);
    let mut life = machine.start();
    life.run(async |volume| {
        let log = new_log(&volume).await;
        for _ in 0..if cfg!(miri) { 20 } else { 200 } {
            let before = volume.handle().now_us();
            log.append(&[&[1; 3000]], Durability::Durable).await.unwrap();
            // One write takes at most 120 us; an allocation before it takes as long again.
            assert!(
                volume.handle().now_us() - before <= 125,
                "{} at {:?}",
                volume.handle().now_us() - before,
                log.position()
            );
        }
    })
    .unwrap();
}

/// What a workload did, kept outside the machine.
#[derive(Default)]
struct Journal {
    /// Where the log begins and which of the commits stands there.
    floor: Option<(LogPosition, usize)>,
    issued: Vec<Vec<u8>>,
    starts: Vec<LogPosition>,
    /// So many commits are durable.
    durable: usize,
}

async fn crash_workload(volume: Volume, seed: u64, journal: Rc<RefCell<Journal>>) -> Result<()> {
    let mut random = Random::new(seed);
    let log = LogWriter::create(volume.clone(), Placement::Wal).await?;
    journal.borrow_mut().floor = Some((log.head(), 0));
    for _ in 0..if cfg!(miri) { 4 } else { 30 } {
        let appends: Vec<_> = (0..1 + random.below(4))
            .map(|_| {
                let payload = random_payload(&mut random);
                let durability = if random.chance(0.6) { Durability::Durable } else { Durability::Cached };
                let index = journal.borrow().issued.len();
                journal.borrow_mut().issued.push(payload.clone());
                let (log, journal) = (log.clone(), Rc::clone(&journal));
                async move {
                    let range = log.append(&[&payload], durability).await?;
                    let mut journal = journal.borrow_mut();
                    assert_eq!(journal.starts.len(), index, "acknowledged in order");
                    journal.starts.push(range.start);
                    if durability == Durability::Durable {
                        journal.durable = index + 1;
                    }
                    Ok::<(), Error>(())
                }
            })
            .collect();
        join_all(appends).await.into_iter().collect::<Result<Vec<()>>>()?;
        if random.chance(0.2) {
            let issued = journal.borrow().issued.len();
            log.sync().await?;
            journal.borrow_mut().durable = issued;
        }
        if random.chance(0.2) {
            // The floor is known to be durable when the extents before it are freed, and may be used by the log again.
            let extents = {
                let mut journal = journal.borrow_mut();
                let index = random.below(journal.durable as u64 + 1) as usize;
                let floor = journal.floor.unwrap();
                let (position, index) = journal.starts.get(index).map_or(floor, |&start| (start, index));
                if index < floor.1 {
                    continue;
                }
                journal.floor = Some((position, index));
                log.trim(position)
            };
            if random.chance(0.5) {
                volume.recycle_extents(extents).await;
            } else {
                volume.free_extents(extents).await;
            }
        }
    }
    Ok(())
}

#[test]
fn a_crash_leaves_a_prefix_that_holds_all_that_was_durable() {
    let (mut cut, mut crashed) = (0, 0);
    for seed in 0..if cfg!(miri) { 2 } else { 400 } {
        let options =
            SimOptions { logical_block_bytes: if seed % 2 == 0 { 512 } else { 4096 }, ..SimOptions::default() };
        let mut machine = Machine::with(seed, options);
        machine.disk.crash_at(Some(1 + Random::new(seed).below(if cfg!(miri) { 15 } else { 150 })));
        let journal = Rc::new(RefCell::new(Journal::default()));
        let mut life = machine.start_without_restart();
        let outcome = life.run(async |volume| crash_workload(volume, seed, Rc::clone(&journal)).await);
        drop(life);
        crashed += usize::from(!matches!(outcome, Some(Ok(()))));
        machine.disk.crash();

        let journal = journal.borrow();
        let Some((head, index)) = journal.floor else { continue };
        let mut life = machine.start();
        let (commits, end) = life
            .run(async |volume| {
                let read = read_all(&volume, head, None).await.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
                let chain = read_chain(&volume, head, None).await.unwrap();
                assert!(read.0.iter().all(|(position, _)| chain.contains(&position.extent)), "seed {seed}");
                // What was recovered is closed, and stays the same.
                let again = read_all(&volume, head, Some(read.1.seq - 1)).await.unwrap();
                assert_eq!(again, read, "seed {seed}");
                read
            })
            .unwrap();
        assert!(index + commits.len() >= journal.durable, "seed {seed}: {} of {}", commits.len(), journal.durable);
        assert!(commits.iter().zip(&journal.issued[index..]).all(|((_, read), issued)| read == issued), "seed {seed}");
        assert!(end.seq >= head.seq);
        cut += usize::from(index + commits.len() < journal.issued.len());
    }
    assert!(cfg!(miri) || crashed > 200 && cut > 100, "{crashed} crashed, {cut} lost a tail");
}

#[test]
fn damage_before_the_durable_end_is_corruption_and_at_the_end_is_a_torn_tail() {
    for (damaged, whole) in [(0, None), (3, None), (8, None), (9, Some(9))] {
        let mut machine = Machine::new(5);
        let mut life = machine.start();
        let head = life.run(async |volume| log_of(&volume, &[b"commit".as_slice(); 10]).await.head()).unwrap();
        machine.disk.flip_bit(u64::from(head.extent.0 * EXTENT_BYTES) + damaged * PAGE as u64 + HEADER_BYTES as u64, 1);
        let read = life.run(async |volume| read_all(&volume, head, None).await).unwrap();
        match whole {
            Some(count) => assert_eq!(read.unwrap().0.len(), count),
            None => {
                let error = read.unwrap_err();
                let Error::Corruption(corruption) = &error else { panic!("{error}") };
                assert_eq!(corruption.offset, Some(u64::from(head.extent.0 * EXTENT_BYTES) + damaged * PAGE as u64));
            }
        }
    }
}

/// What is not known to be in use may be given to others before the damage is noticed.
#[test]
fn extents_behind_a_damaged_block_are_known() {
    let pages = u64::from(EXTENT_BYTES) / PAGE as u64;
    let mut machine = Machine::new(6);
    let mut life = machine.start();
    let payloads: Vec<&[u8]> = vec![b"commit"; (pages * 5 / 2) as usize];
    let (head, whole) = life
        .run(async |volume| {
            let head = log_of(&volume, &payloads).await.head();
            (head, read_chain(&volume, head, None).await.unwrap())
        })
        .unwrap();
    assert_eq!(whole.len(), 3);
    drop(life);
    for extent in whole.clone() {
        let first_block = u64::from(extent.0 * EXTENT_BYTES)
            + if extent == head.extent { u64::from(head.page) } else { 0 } * PAGE as u64;
        let before = machine.disk.read_raw(first_block, PAGE as u64);
        machine.disk.write_raw(first_block, &[0; PAGE]);
        let mut life = machine.start();
        let (chain, read) = life
            .run(async |volume| (read_chain(&volume, head, None).await.unwrap(), read_all(&volume, head, None).await))
            .unwrap();
        assert_eq!(chain, whole, "the first block of extent {extent} is damaged");
        assert!(matches!(read, Err(Error::Corruption(_))));
        drop(life);
        machine.disk.write_raw(first_block, &before);
    }
    // Behind the end of a closed log others may have followed.
    let mut life = machine.start();
    let closed = life.run(async |volume| read_chain(&volume, head, Some(head.seq + pages / 2)).await.unwrap()).unwrap();
    assert_eq!(closed, whole[..1]);
}

/// Where the blocks of a log stand: offset, bytes, sequence and the last block durable before it.
async fn blocks_of(
    volume: &Volume,
    machine_read: impl Fn(u64, u64) -> Vec<u8>,
    head: LogPosition,
) -> Vec<(u64, u64, u64, u64)> {
    let mut blocks = Vec::new();
    for extent in read_chain(volume, head, None).await.unwrap() {
        let mut at = 0;
        while at < u64::from(EXTENT_BYTES) {
            let offset = volume.parts().offset(extent) + at;
            let Ok(header) = BlockHeader::decode(volume.parts().id(), offset, &machine_read(offset, PAGE as u64))
            else {
                break;
            };
            blocks.push((offset, header.block_bytes() as u64, header.seq, header.durable_through));
            at += header.block_bytes() as u64;
        }
    }
    blocks
}

/// Commits that fill whole extents too, whose own blocks do not say that the first of them was durable.
#[test]
#[cfg_attr(miri, ignore = "too many steps for Miri")]
fn no_durable_block_is_lost_in_silence_whatever_the_sizes() {
    let extent = EXTENT_BYTES as usize;
    for seed in 0..12 {
        let mut machine = Machine::new(seed);
        let mut random = Random::new(seed);
        let mut sizes: Vec<usize> = (0..6)
            .map(|_| match random.below(3) {
                0 => random.below(3000) as usize,
                1 => random.below(extent as u64) as usize,
                _ => extent + random.below(3 * extent as u64) as usize,
            })
            .collect();
        sizes.extend([3 * extent, 10, 10]);
        let mut life = machine.start();
        let disk = machine.disk.clone();
        let (heads, blocks) = life
            .run(async |volume| {
                let log = new_log(&volume).await;
                let mut starts = Vec::new();
                for size in sizes {
                    let range = log.append(&[&payload(&mut random, size)], Durability::Durable).await.unwrap();
                    starts.push(range.start);
                }
                let blocks = blocks_of(&volume, |offset, bytes| disk.read_raw(offset, bytes), log.head()).await;
                let mut heads = Vec::new();
                for start in starts {
                    heads.push((start, read_chain(&volume, start, None).await.unwrap()));
                }
                (heads, blocks)
            })
            .unwrap();
        drop(life);
        assert!(blocks.windows(2).all(|pair| pair[0].2 + 1 == pair[1].2), "seed {seed}: not all blocks were found");
        let durable = blocks.last().unwrap().3;
        for (offset, bytes, seq, _) in blocks.into_iter().filter(|block| block.2 <= durable) {
            let before = machine.disk.read_raw(offset, bytes);
            machine.disk.write_raw(offset, &vec![0; bytes as usize]);
            // From any commit on, which may stand anywhere in its extent.
            for (head, whole) in heads.iter().filter(|(head, _)| head.seq <= seq) {
                let mut life = machine.start();
                let (chain, read) = life
                    .run(async |volume| {
                        (read_chain(&volume, *head, None).await.unwrap(), read_all(&volume, *head, None).await)
                    })
                    .unwrap();
                drop(life);
                assert!(matches!(read, Err(Error::Corruption(_))), "seed {seed}: block {seq} of {durable} was lost");
                assert_eq!(chain, *whole, "seed {seed}: block {seq} is damaged, read from {head:?}");
            }
            machine.disk.write_raw(offset, &before);
        }
    }
}

#[test]
fn damage_at_the_end_of_an_extent_is_found_by_the_next_extent() {
    let mut machine = Machine::new(5);
    let mut life = machine.start();
    let pages = EXTENT_BYTES as usize / PAGE;
    let head = life.run(async |volume| log_of(&volume, &vec![b"x".as_slice(); pages + 2]).await.head()).unwrap();
    let last_page = (head.extent.0 as usize * pages + pages - 1) * PAGE;
    machine.disk.write_raw(last_page as u64, &[0; PAGE]);
    let error = life.run(async |volume| read_all(&volume, head, None).await).unwrap().unwrap_err();
    assert!(error.is_corruption(), "{error}");
}

#[test]
fn a_closed_log_must_be_whole() {
    let mut machine = Machine::new(5);
    let mut life = machine.start();
    life.run(async |volume| {
        let head = log_of(&volume, &[b"a", b"b"]).await.head();
        assert_eq!(read_all(&volume, head, Some(2)).await.unwrap().0.len(), 2);
        assert_eq!(read_all(&volume, head, Some(0)).await.unwrap().0.len(), 0);
        assert!(read_all(&volume, head, Some(3)).await.unwrap_err().is_corruption());
    })
    .unwrap();
}

#[test]
fn a_gap_left_by_commits_in_flight_is_the_end() {
    // Block 2 is lost and block 3 is there, but was built before 2 was acknowledged: nobody was told that 2 is durable.
    let mut machine = Machine::new(5);
    let mut life = machine.start();
    life.run(async |volume| {
        let log = log_of(&volume, &[b"a"]).await;
        join_all([log.append(&[b"b"], Durability::Durable), log.append(&[b"c"], Durability::Durable)]).await;
        let head = log.head();
        assert_eq!(read_all(&volume, head, None).await.unwrap().0.len(), 3);
        machine.disk.write_raw(volume.parts().offset(head.extent) + PAGE as u64, &[0; PAGE]);
        let (commits, end) = read_all(&volume, head, None).await.unwrap();
        assert_eq!((commits.len(), end.seq), (1, 2));
    })
    .unwrap();
}

#[test]
fn a_durable_commit_covers_the_cached_ones_before_it() {
    for seed in 0..if cfg!(miri) { 1 } else { 50 } {
        let mut machine = Machine::new(seed);
        let mut life = machine.start();
        let head = life
            .run(async |volume| {
                let log = new_log(&volume).await;
                log.append(&[b"cached"], Durability::Cached).await.unwrap();
                log.append(&[b"durable"], Durability::Durable).await.unwrap();
                log.head()
            })
            .unwrap();
        drop(life);
        machine.disk.crash();
        let read = machine.start().run(async |volume| read_all(&volume, head, None).await.unwrap()).unwrap();
        assert_eq!(read.0.len(), 2, "seed {seed}");
    }
}

#[test]
fn only_the_first_of_many_durable_commits_pays_for_a_flush() {
    let mut machine = Machine::new(1);
    let mut life = machine.start();
    life.run(async |volume| {
        let log = new_log(&volume).await;
        log.append(&[b"cached"], Durability::Cached).await.unwrap();
        for _ in 0..10 {
            log.append(&[b"durable"], Durability::Durable).await.unwrap();
        }
        assert_eq!(machine.disk.stats().flushes, 1);
        log.sync().await.unwrap();
        assert_eq!(machine.disk.stats().flushes, 1, "there is nothing to sync");
    })
    .unwrap();
}

#[test]
fn a_failed_write_or_flush_ends_the_log() {
    for op in [OpKind::Write, OpKind::Flush] {
        let mut machine = Machine::new(1);
        let mut life = machine.start();
        life.run(async |volume| {
            let log = log_of(&volume, &[b"a"]).await;
            machine.disk.fail_next(op, 0..u64::MAX, 5, 1);
            let cached = log.append(&[b"b"], Durability::Cached).await;
            assert_eq!(cached.is_err(), op == OpKind::Write);
            let failed = log.append(&[b"c"], Durability::Durable).await.unwrap_err();
            assert!(matches!(failed, Error::Io(_)));
            assert_eq!(log.append(&[b"d"], Durability::Durable).await.unwrap_err().to_string(), failed.to_string());
            assert_eq!(log.sync().await.unwrap_err().to_string(), failed.to_string());
            assert!(log.failed().is_some());
        })
        .unwrap();
    }
}

#[test]
fn a_later_commit_is_not_acknowledged_when_an_earlier_one_failed() {
    let mut machine = Machine::new(1);
    let mut life = machine.start();
    life.run(async |volume| {
        let log = new_log(&volume).await;
        let second = volume.parts().offset(log.head().extent) + PAGE as u64;
        machine.disk.fail_next(OpKind::Write, second..second + 1, 5, 1);
        let appends = [b"a", b"b", b"c"].map(|payload| {
            let log = log.clone();
            async move { log.append(&[payload], Durability::Durable).await.is_ok() }
        });
        let acknowledged = join_all(appends).await;
        assert!(!acknowledged[1] && !acknowledged[2], "{acknowledged:?}");
    })
    .unwrap();
}

#[test]
fn an_abandoned_append_ends_the_log() {
    let mut machine = Machine::new(1);
    let mut life = machine.start();
    life.run(async |volume| {
        let log = new_log(&volume).await;
        {
            let mut append = pin!(log.append(&[b"a"], Durability::Durable));
            assert!((&mut append).now_or_never().is_none());
        }
        assert!(log.append(&[b"b"], Durability::Durable).await.unwrap_err().to_string().contains("abandoned"));
    })
    .unwrap();
}

#[test]
fn a_full_device_is_an_error_and_the_log_goes_on() {
    let mut machine = Machine::new(1);
    let mut life = machine.start();
    life.run(async |volume| {
        let log = new_log(&volume).await;
        machine.disk.set_capacity(4 * u64::from(EXTENT_BYTES));
        let too_much = vec![7; 5 * EXTENT_BYTES as usize];
        let before = log.position();
        assert!(matches!(log.append(&[&too_much], Durability::Durable).await.unwrap_err(), Error::NoSpace(_)));
        assert_eq!(log.position(), before);
        log.append(&[b"small"], Durability::Durable).await.unwrap();
        machine.disk.set_capacity(1 << 30);
        log.append(&[&too_much], Durability::Durable).await.unwrap();
        let (commits, _) = read_all(&volume, log.head(), None).await.unwrap();
        assert_eq!(commits.iter().map(|(_, bytes)| bytes.len()).collect::<Vec<_>>(), [5, too_much.len()]);
        volume.free_extents(log.retire().await).await;
        assert_eq!(volume.parts().usage().0, 1);
    })
    .unwrap();
}

#[test]
fn there_is_room_until_the_device_is_full_and_again_when_it_is_not() {
    let mut machine = Machine::new(1);
    let mut life = machine.start();
    life.run(async |volume| {
        let log = new_log(&volume).await;
        let large = 3 * EXTENT_BYTES as usize;
        assert!(log.has_room(large), "nothing says that there is none");
        volume.handle().sleep_us(1_000).await;
        machine.disk.set_capacity(machine.disk.len_bytes());
        let mut appended = 0;
        while log.has_room(3000) {
            log.append(&[&[1; 3000]], Durability::Durable).await.unwrap();
            volume.handle().sleep_us(1_000).await;
            appended += 1;
        }
        assert!((16..=48).contains(&appended), "it used what was reserved: {appended}");
        machine.disk.set_capacity(1 << 30);
        assert!(!log.has_room(large), "this begins another attempt");
        volume.handle().sleep_us(1_000).await;
        assert!(log.has_room(large));
        log.append(&[&vec![1; large]], Durability::Durable).await.unwrap();
    })
    .unwrap();
}

#[test]
fn blocks_of_another_log_in_the_same_extent_are_not_its_own() {
    let mut machine = Machine::new(1);
    let mut life = machine.start();
    life.run(async |volume| {
        let old = log_of(&volume, &[b"a", b"b", b"c"]).await;
        let head = old.head();
        volume.recycle_extents(old.retire().await).await;
        let new = log_of(&volume, &[b"x"]).await;
        let (commits, _) = read_all(&volume, new.head(), None).await.unwrap();
        assert_eq!(commits.len(), 1);
        // The old log's second block still stands in the extent and says that its first was durable.
        assert_eq!(new.head().extent, head.extent);
        assert!(read_all(&volume, head, None).await.unwrap_err().is_corruption());
    })
    .unwrap();
}

#[test]
fn a_whole_block_with_impossible_flags_is_corruption() {
    let mut machine = Machine::new(1);
    let mut life = machine.start();
    life.run(async |volume| {
        let head = log_of(&volume, &[b"a", b"b"]).await.head();
        let offset = volume.parts().offset(head.extent);
        let mut block = machine.disk.read_raw(offset, PAGE as u64);
        let header = BlockHeader::decode(volume.parts().id(), offset, &block).unwrap();
        BlockHeader { last: false, ..header }.seal(volume.parts().id(), offset, &mut block);
        machine.disk.write_raw(offset, &block);
        assert!(read_all(&volume, head, None).await.unwrap_err().is_corruption());
    })
    .unwrap();
}

/// All once went wrong, with checksums that were right: a page of 2^32 - 1 had so many pages looked at, one by one; the last sequence was added to;
/// an extent that leads back to the head was followed for ever.
#[test]
fn what_no_log_can_say_is_damage() {
    let mut machine = Machine::new(1);
    let mut life = machine.start();
    let disk = machine.disk.clone();
    life.run(async |volume| {
        let log = log_of(&volume, &[b"a"]).await;
        let head = log.head();
        for page in [EXTENT_BYTES / PAGE as u32, u32::MAX] {
            let far = LogPosition { page, ..head };
            assert_eq!(read_chain(&volume, far, None).await.unwrap(), [head.extent]);
            assert!(read_all(&volume, far, None).await.unwrap_err().is_corruption());
        }

        let offset = volume.parts().offset(head.extent);
        let mut block = disk.read_raw(offset, PAGE as u64);
        let header = BlockHeader::decode(volume.parts().id(), offset, &block).unwrap();
        let last = BlockHeader { seq: u64::MAX, next: head.extent, ..header };
        let back = LogPosition { page: 1, seq: u64::MAX, ..head };
        let before = BlockHeader { next: head.extent, ..header };
        before.seal(volume.parts().id(), offset, &mut block);
        disk.write_raw(offset, &block);
        assert_eq!(read_chain(&volume, back, None).await.unwrap(), [head.extent]);

        last.seal(volume.parts().id(), offset, &mut block);
        disk.write_raw(offset, &block);
        let head = LogPosition { seq: u64::MAX, ..head };
        assert_eq!(read_chain(&volume, head, None).await.unwrap(), [head.extent]);
        assert!(read_all(&volume, head, None).await.unwrap_err().is_corruption());
    })
    .unwrap();
}
