//! The manifest on a simulated disk: commits, rotation, crashes, damage.

use std::cell::RefCell;
use std::rc::Rc;

use futures_util::future::join_all;
use siltstone_io::{OpKind, Random};

use super::edit::tests::sst;
use super::*;
use crate::types::{Epoch, KeyspaceId, SeqNo};
use crate::volume::testing::{EXTENT_BYTES, Machine};

const SHARD: ShardId = ShardId(2);

fn add(id: u64) -> ManifestEdit {
    ManifestEdit::SstAdd { keyspace: KeyspaceId(1), level: 0, groups: 0..8, meta: sst(id) }
}

fn remove(id: u64) -> ManifestEdit {
    ManifestEdit::SstRemove { keyspace: KeyspaceId(1), level: 0, first_group: 0, sst: SstId(id) }
}

fn keyspace() -> ManifestEdit {
    ManifestEdit::KeyspaceCreate { id: KeyspaceId(1), name: "k".into(), options: vec![1, 2, 3] }
}

async fn create(volume: &Volume) -> Manifest {
    let root = volume.allocate_extent(Placement::Metadata).await.unwrap();
    assert_eq!(root, ExtentId(1));
    Manifest::create(volume.clone(), root, ManifestState::new(SHARD)).await.unwrap()
}

async fn found(volume: &Volume) -> Result<FoundManifest> {
    FoundManifest::read(volume, SHARD, ExtentId(1)).await
}

/// A change that fits the state.
fn random_edits(random: &mut Random, state: &ManifestState) -> Vec<ManifestEdit> {
    let Some(keyspace_state) = state.keyspaces.get(&KeyspaceId(1)) else { return vec![keyspace()] };
    let next_id = state.last_seq.0 + 1;
    let seq = ManifestEdit::LastSeq { seq: SeqNo(next_id) };
    let some_sst = keyspace_state.ssts.keys().nth(random.below(8) as usize);
    let some_part = state.parts.keys().nth(random.below(3) as usize);
    match (random.below(10), some_sst, some_part) {
        (0..2, Some((id, _)), _) => vec![remove(id.0), seq],
        (2, _, _) => vec![ManifestEdit::CheckpointPart { id: next_id, epoch: Epoch(next_id) }, add(next_id), seq],
        (3, _, Some(&id)) if !state.committed.contains_key(&id) => {
            let info = CheckpointInfo { name: format!("c{id}"), bytes: vec![9; 100], wall_ms: 1, shards: 1 };
            vec![ManifestEdit::CheckpointCommit { id, info }, seq]
        }
        (4..6, _, Some(&id)) => vec![ManifestEdit::CheckpointDrop { id }, seq],
        (6, _, _) => vec![ManifestEdit::KeyspaceDrop { id: KeyspaceId(1) }, keyspace(), seq],
        _ => vec![add(next_id), seq],
    }
}

#[test]
fn what_was_committed_is_found_through_many_rotations() {
    let mut machine = Machine::new(1);
    let mut life = machine.start();
    life.run(async |volume| {
        let mut random = Random::new(1);
        let manifest = create(&volume).await;
        manifest.set_rotate_bytes_min(40_000);
        let mut heads = Vec::new();
        for _ in 0..if cfg!(miri) { 20 } else { 300 } {
            let edits = random_edits(&mut random, &manifest.state());
            manifest.commit(edits).await.unwrap();
            heads.push(manifest.inner.log.borrow().head());
        }
        heads.dedup();
        assert!(cfg!(miri) || heads.len() > 3, "it rotates: {}", heads.len());
        let found = found(&volume).await.unwrap();
        assert_eq!(found.state, *manifest.state());
        // The root extent, the log and what it reserved, the superblock: earlier logs are gone.
        let used = volume.parts().usage().0 as usize;
        assert!(used <= found.extents().count() + 3, "{used} extents used");
        assert!(found.extents().all(|extent| volume.parts().usage().1 > extent.0));
    })
    .unwrap();
}

#[test]
fn concurrent_commits_take_turns() {
    let mut machine = Machine::new(1);
    let mut life = machine.start();
    life.run(async |volume| {
        let manifest = create(&volume).await;
        manifest.commit(vec![keyspace()]).await.unwrap();
        let count = if cfg!(miri) { 6 } else { 20 };
        let commits = (0..count).map(|id| manifest.commit(vec![add(id)]));
        assert!(join_all(commits).await.into_iter().all(|commit| commit.is_ok()));
        assert_eq!(found(&volume).await.unwrap().state.ssts().len() as u64, count);
    })
    .unwrap();
}

#[test]
fn a_commit_names_the_ssts_that_nothing_holds_any_more() {
    let mut machine = Machine::new(1);
    let mut life = machine.start();
    life.run(async |volume| {
        let manifest = create(&volume).await;
        let part = ManifestEdit::CheckpointPart { id: 1, epoch: Epoch(1) };
        let unheld = async |edits| manifest.commit(edits).await.unwrap();
        assert_eq!(unheld(vec![keyspace(), add(1), add(2), part]).await, []);
        assert_eq!(unheld(vec![add(3)]).await, []);
        assert_eq!(unheld(vec![remove(1), remove(3)]).await, [SstId(3)], "the checkpoint holds 1");
        let moved = ManifestEdit::SstAdd { keyspace: KeyspaceId(1), level: 1, groups: 0..8, meta: sst(2) };
        assert_eq!(unheld(vec![remove(2), moved]).await, [], "it moved to another level");
        assert_eq!(unheld(vec![ManifestEdit::CheckpointDrop { id: 1 }]).await, [SstId(1)]);
        assert_eq!(unheld(vec![ManifestEdit::KeyspaceDrop { id: KeyspaceId(1) }]).await, [SstId(2)]);
    })
    .unwrap();
}

/// What was committed, kept outside the machine.
#[derive(Default)]
struct Journal {
    created: bool,
    acknowledged: ManifestState,
    /// What a commit under way leads to.
    under_way: Option<ManifestState>,
}

async fn crash_workload(volume: Volume, seed: u64, journal: Rc<RefCell<Journal>>) -> Result<()> {
    let mut random = Random::new(seed);
    let created = journal.borrow().created;
    let manifest = if created {
        let found = found(&volume).await.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        {
            let mut journal = journal.borrow_mut();
            let under_way = journal.under_way.take();
            let is_known = found.state == journal.acknowledged || Some(&found.state) == under_way.as_ref();
            assert!(is_known, "seed {seed}: {:?}", found.state);
            journal.acknowledged = found.state.clone();
        }
        for extent in found.extents() {
            volume.parts().mark_used(extent)?;
        }
        Manifest::resume(volume.clone(), found).await?
    } else {
        let root = volume.allocate_extent(Placement::Metadata).await?;
        assert_eq!(root, ExtentId(1));
        let manifest = Manifest::create(volume.clone(), root, ManifestState::new(SHARD)).await?;
        *journal.borrow_mut() = Journal { created: true, acknowledged: ManifestState::new(SHARD), under_way: None };
        manifest
    };
    manifest.set_rotate_bytes_min(30_000);
    for _ in 0..if cfg!(miri) { 8 } else { 60 } {
        let edits = random_edits(&mut random, &manifest.state());
        let mut next = manifest.state().clone();
        next.apply_all(&edits)?;
        journal.borrow_mut().under_way = Some(next.clone());
        manifest.commit(edits).await?;
        *journal.borrow_mut() = Journal { created: true, acknowledged: next, under_way: None };
    }
    Ok(())
}

#[test]
fn a_crash_anywhere_leaves_the_acknowledged_state_or_the_next() {
    for seed in 0..if cfg!(miri) { 1 } else { 60 } {
        let mut machine = Machine::new(seed);
        let journal = Rc::new(RefCell::new(Journal::default()));
        let mut random = Random::new(seed);
        for life_number in 0..if cfg!(miri) { 3 } else { 8 } {
            machine.disk.restart();
            machine.generation += 1;
            machine.disk.crash_at(Some(machine.disk.write_ops() + 1 + random.below(if cfg!(miri) { 12 } else { 90 })));
            let mut life = machine.start_without_restart();
            let seed = seed * 100 + life_number;
            life.run(async |volume| crash_workload(volume, seed, Rc::clone(&journal)).await);
            drop(life);
            machine.disk.crash();
        }
    }
}

#[test]
fn a_damaged_root_page_has_a_twin_and_two_are_corruption() {
    let mut machine = Machine::new(1);
    let mut life = machine.start();
    life.run(async |volume| {
        let manifest = create(&volume).await;
        manifest.set_rotate_bytes_min(0);
        for id in 0..if cfg!(miri) { 4 } else { 20 } {
            let edits = if id == 0 { vec![keyspace()] } else { vec![add(id)] };
            manifest.commit(edits).await.unwrap();
        }
        let root = volume.parts().offset(ExtentId(1));
        machine.disk.flip_bit(root + 20, 1);
        assert_eq!(found(&volume).await.unwrap().state, *manifest.state());
        machine.disk.flip_bit(root + 20, 1);
        machine.disk.flip_bit(root + (16 << 10) + 20, 1);
        assert_eq!(found(&volume).await.unwrap().state, *manifest.state());
        machine.disk.flip_bit(root + 20, 1);
        let Error::Corruption(corruption) = found(&volume).await.unwrap_err() else { panic!("not corruption") };
        assert_eq!((corruption.structure, corruption.shard), ("root page", Some(2)));
    })
    .unwrap();
}

#[test]
fn a_root_page_that_an_earlier_manifest_left_behind_does_not_count() {
    for lost in [0, 16 << 10] {
        let mut machine = Machine::new(1);
        let mut life = machine.start();
        life.run(async |volume| {
            let earlier = create(&volume).await;
            earlier.set_rotate_bytes_min(0);
            for id in 0..10 {
                let edits = if id == 0 { vec![keyspace()] } else { vec![add(id)] };
                earlier.commit(edits).await.unwrap();
            }
            let at = volume.parts().offset(ExtentId(1)) + lost;
            let left_behind = machine.disk.read_raw(at, 4096);
            let state = ManifestState::new(SHARD);
            Manifest::create(volume.clone(), ExtentId(1), state.clone()).await.unwrap();
            // As if that write of it had been lost.
            machine.disk.write_raw(at, &left_behind);
            assert_eq!(found(&volume).await.unwrap().state, state);
        })
        .unwrap();
    }
}

#[test]
fn a_log_of_a_later_opening_is_corruption() {
    let mut machine = Machine::new(1);
    machine.generation = 6;
    machine.start().run(async |volume| drop(create(&volume).await)).unwrap();
    machine.generation = 5;
    machine
        .start()
        .run(async |volume| {
            let error = found(&volume).await.unwrap_err();
            assert!(error.is_corruption() && error.to_string().contains("of a later opening"), "{error}");
        })
        .unwrap();
}

#[test]
fn a_manifest_without_its_snapshot_or_of_another_shard_is_corruption() {
    let mut machine = Machine::new(1);
    let mut life = machine.start();
    life.run(async |volume| {
        let manifest = create(&volume).await;
        let other = FoundManifest::read(&volume, ShardId(3), ExtentId(1)).await.unwrap_err();
        assert!(other.to_string().contains("is of shard 2"), "{other}");
        let head = manifest.inner.log.borrow().head();
        machine.disk.flip_bit(volume.parts().offset(head.extent) + 70, 1);
        let error = found(&volume).await.unwrap_err();
        assert!(error.is_corruption() && error.to_string().contains("is not there"), "{error}");
    })
    .unwrap();
}

#[test]
fn every_flipped_bit_in_a_commit_that_is_not_the_last_is_corruption() {
    let mut machine = Machine::new(1);
    let mut life = machine.start();
    life.run(async |volume| {
        let manifest = create(&volume).await;
        for edit in [keyspace(), add(1), add(2), add(3)] {
            manifest.commit(vec![edit]).await.unwrap();
        }
        let start = volume.parts().offset(manifest.inner.log.borrow().head().extent);
        for page in 0..if cfg!(miri) { 2 } else { 4 } {
            for at in (0..4096).step_by(if cfg!(miri) { 1500 } else { 61 }) {
                machine.disk.flip_bit(start + page * 4096 + at, 5);
                assert!(found(&volume).await.unwrap_err().is_corruption(), "page {page}, byte {at}");
                machine.disk.flip_bit(start + page * 4096 + at, 5);
            }
        }
        found(&volume).await.unwrap();
    })
    .unwrap();
}

#[test]
fn a_full_device_changes_nothing_and_commits_go_on() {
    let mut machine = Machine::new(1);
    let mut life = machine.start();
    life.run(async |volume| {
        let manifest = create(&volume).await;
        manifest.commit(vec![keyspace()]).await.unwrap();
        manifest.set_rotate_bytes_min(10_000);
        machine.disk.set_capacity(4 * u64::from(EXTENT_BYTES));
        let bytes = vec![1; 5 * EXTENT_BYTES as usize];
        let part = ManifestEdit::CheckpointPart { id: 1, epoch: Epoch(1) };
        let info = CheckpointInfo { name: "c".into(), bytes, wall_ms: 1, shards: 1 };
        let before = manifest.state().clone();
        let large = vec![part, ManifestEdit::CheckpointCommit { id: 1, info }];
        assert!(matches!(manifest.commit(large.clone()).await.unwrap_err(), Error::NoSpace(_)));
        assert_eq!(*manifest.state(), before);
        // There is no space for another log, so it is not rotated, and small commits still fit.
        for id in 1..6 {
            manifest.commit(vec![add(id)]).await.unwrap();
        }
        machine.disk.set_capacity(1 << 30);
        manifest.commit(large).await.unwrap();
        assert_eq!(found(&volume).await.unwrap().state, *manifest.state());
    })
    .unwrap();
}

#[test]
fn a_failed_write_is_final() {
    let mut machine = Machine::new(1);
    let mut life = machine.start();
    life.run(async |volume| {
        let manifest = create(&volume).await;
        machine.disk.fail_next(OpKind::Write, 0..u64::MAX, 5, 1);
        let error = manifest.commit(vec![keyspace()]).await.unwrap_err();
        assert!(matches!(error, Error::Io(_)));
        assert_eq!(manifest.commit(vec![add(1)]).await.unwrap_err().to_string(), error.to_string());
    })
    .unwrap();
}

#[test]
fn records_that_do_not_fit_are_not_written() {
    let mut machine = Machine::new(1);
    let mut life = machine.start();
    life.run(async |volume| {
        let manifest = create(&volume).await;
        assert!(manifest.commit(vec![remove(7)]).await.unwrap_err().is_corruption());
        assert_eq!(found(&volume).await.unwrap().state, ManifestState::new(SHARD));
    })
    .unwrap();
}
