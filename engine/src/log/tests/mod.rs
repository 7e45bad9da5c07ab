//! The log on a simulated disk: what is appended is read, and what a crash or damage leaves is judged rightly.

mod crash;
mod damage;
mod failures;

use futures_util::future::join_all;
use siltstone_io::{Placement, Random};

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
