//! The volume on a simulated disk: creation, opening, space, and the SST writer.

use std::sync::Arc;

use siltstone_io::{Buffer, Class, Device, OpKind, Placement, Random, WriteDurability};

use super::testing::{EXTENT_BYTES, Life, Machine, superblock};
use super::*;
use crate::table::PageSink;

const EXTENT: u64 = EXTENT_BYTES as u64;

async fn create(device: &Device, superblock: &Superblock) -> Result<()> {
    device.allocate(0, EXTENT).await?;
    write_superblock(device, superblock).await
}

fn started(machine: &mut Machine) -> Life {
    let mut life = machine.start();
    life.run(async |volume| create(volume.device(), &superblock(1)).await).unwrap().unwrap();
    life
}

fn found(machine: &mut Machine) -> Result<Contents> {
    machine.start().run(async |volume| contents(volume.device()).await).unwrap()
}

#[test]
fn an_empty_device_is_blank_and_a_written_one_is_a_volume() {
    let mut machine = Machine::new(1);
    assert_eq!(found(&mut machine).unwrap(), Contents::Blank);
    drop(started(&mut machine));
    assert_eq!(found(&mut machine).unwrap(), Contents::Volume(superblock(1)));
}

#[test]
fn three_damaged_copies_are_survived_and_four_are_corruption() {
    let mut machine = Machine::new(1);
    drop(started(&mut machine));
    for copy in 0..3 {
        machine.disk.flip_bit(copy * (16 << 10) + 33, 3);
    }
    assert_eq!(found(&mut machine).unwrap(), Contents::Volume(superblock(1)));
    machine.disk.flip_bit(3 * (16 << 10) + 700, 3);
    let error = found(&mut machine).unwrap_err();
    assert!(error.is_corruption() && error.to_string().contains("copy 3: checksum"), "{error}");
}

#[test]
fn what_is_not_a_volume_and_what_is_of_another_version_is_said() {
    let mut machine = Machine::new(1);
    machine.disk.write_raw(0, &[b'x'; 4096]);
    let error = found(&mut machine).unwrap_err();
    assert!(matches!(error, Error::NotAVolume { .. }) && error.to_string().contains("4096 bytes"), "{error}");
    machine.disk.write_raw(EXTENT, &[b'x'; 4096]);
    assert!(matches!(found(&mut machine).unwrap_err(), Error::NotAVolume { .. }));

    let mut machine = Machine::new(1);
    machine.disk.write_raw(0, &[0; 4096]);
    assert!(matches!(found(&mut machine).unwrap_err(), Error::NotAVolume { .. }), "short but not empty");

    let mut machine = Machine::new(1);
    drop(started(&mut machine));
    for copy in 0..4 {
        machine.disk.write_raw(copy * (16 << 10) + 8, &[2]);
    }
    assert!(matches!(found(&mut machine).unwrap_err(), Error::Version { found: 2, supported: 1, .. }));
}

#[test]
fn a_crash_in_a_superblock_write_leaves_the_old_or_the_new() {
    let new = superblock(1).next(vec![ExtentId(1), ExtentId(9)]);
    let mut outcomes = [0; 2];
    for seed in 0..if cfg!(miri) { 2 } else { 100 } {
        let mut machine = Machine::new(seed);
        let mut life = started(&mut machine);
        machine.disk.crash_at(Some(machine.disk.write_ops() + 1 + seed % 7));
        let written = life.run(async |volume| write_superblock(volume.device(), &new).await);
        drop(life);
        match found(&mut machine).unwrap() {
            Contents::Volume(found) if found == new => outcomes[1] += 1,
            Contents::Volume(found) if found == superblock(1) => {
                assert!(!matches!(written, Some(Ok(()))), "seed {seed}: acknowledged and lost");
                outcomes[0] += 1;
            }
            other => panic!("seed {seed}: {other:?}"),
        }
    }
    assert!(cfg!(miri) || outcomes.iter().all(|&count| count > 10), "{outcomes:?}");
}

#[test]
fn a_crash_in_creation_leaves_something_that_can_be_created_over() {
    let first = Superblock { roots: Vec::new(), ..superblock(1) };
    let (mut blank, mut refused) = (0, 0);
    for seed in 0..if cfg!(miri) { 2 } else { 100 } {
        let mut machine = Machine::new(seed);
        machine.disk.crash_at(Some(1 + seed % 6));
        let mut life = machine.start_without_restart();
        life.run(async |volume| create(volume.device(), &first).await);
        drop(life);
        match found(&mut machine) {
            Ok(Contents::Blank) => blank += 1,
            Ok(Contents::Volume(found)) => assert_eq!(found, first),
            // Garbage cannot be told from somebody else's data.
            Err(_) if machine.disk.fault_counts().contains_key("crash: block garbled") => refused += 1,
            Err(error) => panic!("seed {seed}: {error}"),
        }
    }
    assert!(cfg!(miri) || blank > 5 && refused < 50, "{blank} blank, {refused} refused");
}

#[test]
fn identities_are_never_given_out_twice() {
    let mut machine = Machine::new(1);
    let mut ids: Vec<u64> = (0..3)
        .flat_map(|_| {
            let life = machine.start();
            (0..10).map(|_| life.volume.parts().new_id()).collect::<Vec<_>>()
        })
        .collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 30);
}

#[test]
fn a_full_device_is_an_error_that_changes_nothing() {
    let mut machine = Machine::new(1);
    let mut life = started(&mut machine);
    machine.disk.set_capacity(3 * EXTENT);
    life.run(async |volume| {
        let first = volume.allocate_extent(Placement::Wal).await.unwrap();
        let second = volume.allocate_extent(Placement::Deep).await.unwrap();
        assert_eq!((first, second), (ExtentId(1), ExtentId(2)));
        for _ in 0..2 {
            assert!(matches!(volume.allocate_extent(Placement::Wal).await.unwrap_err(), Error::NoSpace(_)));
            assert_eq!(volume.parts().usage().0, 3);
        }
        // What was given up is found before an allocation fails.
        volume.parts().abandon(vec![first]);
        assert_eq!(volume.allocate_extent(Placement::Deep).await.unwrap(), first);
        // And so is what was kept for the next WAL.
        volume.recycle_extents(vec![second]).await;
        assert_eq!(volume.parts().usage().0, 3);
        assert_eq!(volume.allocate_extent(Placement::Deep).await.unwrap(), second);
    })
    .unwrap();
}

#[test]
fn the_capacity_is_a_limit() {
    let mut machine = Machine::new(1);
    machine.capacity_bytes = 4 * EXTENT;
    let mut life = started(&mut machine);
    life.run(async |volume| {
        for _ in 1..4 {
            volume.allocate_extent(Placement::Deep).await.unwrap();
        }
        assert!(matches!(volume.allocate_extent(Placement::Deep).await.unwrap_err(), Error::NoSpace(_)));
    })
    .unwrap();
}

#[test]
fn freed_extents_are_discarded_and_a_failed_discard_frees_too() {
    let mut machine = Machine::new(1);
    let mut life = started(&mut machine);
    life.run(async |volume| {
        let extent = volume.allocate_extent(Placement::Deep).await.unwrap();
        let offset = volume.parts().offset(extent);
        let mut buffer = Buffer::heap(4096);
        buffer.fill(7);
        let (deep, cached) = (Placement::Deep, WriteDurability::Cached);
        volume.device().write(offset, buffer, 0..4096, cached, deep).await.0.unwrap();
        volume.free_extents(vec![extent]).await;
        assert_eq!(volume.parts().usage().0, 1);
        assert_eq!(machine.disk.read_raw(offset, 4096), [0; 4096]);

        let extent = volume.allocate_extent(Placement::Deep).await.unwrap();
        machine.disk.fail_next(OpKind::Discard, 0..u64::MAX, 5, 1);
        volume.free_extents(vec![extent]).await;
        assert_eq!(volume.parts().usage().0, 1);
    })
    .unwrap();
}

#[test]
fn a_device_with_large_blocks_is_refused_for_small_pages() {
    let mut machine = Machine::new(1);
    let life = machine.start();
    let small = Superblock { page_bytes: 512, ..superblock(1) };
    let error = VolumeParts::new(life.volume.parts().device().clone(), &small, 1 << 30).err().unwrap();
    assert!(matches!(error, Error::InvalidArgument(_)) && error.to_string().contains("4096"), "{error}");
}

#[test]
fn an_extent_past_the_end_of_the_device_is_a_truncated_volume() {
    let mut machine = Machine::new(1);
    let mut life = started(&mut machine);
    life.run(async |volume| volume.allocate_extent(Placement::Deep).await.unwrap()).unwrap();
    drop(life);
    machine.start().volume.parts().mark_used(ExtentId(1)).unwrap();
    machine.disk.truncate(EXTENT);
    let error = machine.start().volume.parts().mark_used(ExtentId(1)).unwrap_err();
    assert!(error.is_corruption() && error.to_string().contains("truncated"), "{error}");
}

fn pages(seed: u64, pages: usize) -> Vec<u8> {
    let mut bytes = vec![0; pages * 4096];
    Random::new(seed).fill(&mut bytes);
    bytes
}

async fn write_sst(volume: &Volume, bytes: &[u8]) -> Result<Arc<SstFile>> {
    let mut writer = SstWriter::new(volume.clone(), Placement::Level0, Class::Flush);
    for chunk in bytes.chunks(3 * 4096) {
        writer.push(chunk);
        writer.drain_if_needed().await?;
    }
    writer.finish().await
}

#[test]
fn an_sst_reads_back_as_it_was_pushed() {
    let mut machine = Machine::new(3);
    let mut life = started(&mut machine);
    life.run(async |volume| {
        // A hole in the free space, so that its extents are not all neighbours.
        let taken = [
            volume.allocate_extent(Placement::Wal).await.unwrap(),
            volume.allocate_extent(Placement::Wal).await.unwrap(),
        ];
        volume.free_extents(vec![taken[0]]).await;
        for &count in if cfg!(miri) { &[1, 17][..] } else { &[1, 15, 16, 17, 100] } {
            let bytes = pages(count as u64, count);
            let file = write_sst(&volume, &bytes).await.unwrap();
            file.retain();
            assert_eq!(file.pages() as usize, count);
            for page in 0..count {
                let read = machine.disk.read_raw(file.page_offset(page as u32), 4096);
                assert_eq!(read, bytes[page * 4096..][..4096], "page {page} of {count}");
            }
            for range in [0..count, count / 3..count, 0..1, count..count] {
                let runs: Vec<(u64, usize)> = file.runs(range.start as u32..range.end as u32).collect();
                let read: Vec<u8> =
                    runs.iter().flat_map(|&(offset, len)| machine.disk.read_raw(offset, len as u64)).collect();
                assert_eq!(read, bytes[range.start * 4096..range.end * 4096]);
                assert!(
                    runs.windows(2).all(|pair| pair[0].0 + pair[0].1 as u64 != pair[1].0),
                    "neighbours are one run"
                );
            }
        }
    })
    .unwrap();
}

#[test]
fn an_sst_is_freed_when_neither_a_holder_nor_a_manifest_needs_it() {
    let mut machine = Machine::new(3);
    let mut life = started(&mut machine);
    life.run(async |volume| {
        let used = || volume.parts().usage().0;
        let bytes = pages(1, 20);
        let uncommitted = write_sst(&volume, &bytes).await.unwrap();
        assert_eq!(used(), 3);
        drop(uncommitted);
        assert_eq!((volume.reclaim().await, used()), (2, 1));

        let committed = write_sst(&volume, &bytes).await.unwrap();
        committed.retain();
        let clone = Arc::clone(&committed);
        clone.release();
        drop(clone);
        assert_eq!(volume.reclaim().await, 0, "it is still held");
        committed.retain();
        drop(committed);
        assert_eq!((volume.reclaim().await, used()), (0, 3), "a manifest refers to it");
    })
    .unwrap();
}

#[test]
fn a_dropped_writer_gives_its_extents_up_after_its_last_write() {
    let mut machine = Machine::new(3);
    let mut life = started(&mut machine);
    life.run(async |volume| {
        let mut writer = SstWriter::new(volume.clone(), Placement::Level0, Class::Flush);
        writer.push(&pages(1, 64));
        writer.drain_if_needed().await.unwrap();
        drop(writer);
        assert_eq!(volume.reclaim().await, 0, "writes are in flight");
        volume.handle().sleep_us(10_000).await;
        assert_eq!(volume.reclaim().await, 4);
        assert_eq!(volume.parts().usage().0, 1);
    })
    .unwrap();
}

#[test]
fn a_failed_or_refused_sst_write_is_reported_and_frees_its_space() {
    let mut machine = Machine::new(3);
    let mut life = started(&mut machine);
    life.run(async |volume| {
        machine.disk.fail_next(OpKind::Write, 0..u64::MAX, 5, 1);
        assert!(matches!(write_sst(&volume, &pages(1, 40)).await.unwrap_err(), Error::Io(_)));
        volume.handle().sleep_us(10_000).await;
        volume.reclaim().await;
        assert_eq!(volume.parts().usage().0, 1);

        machine.disk.set_capacity(3 * EXTENT);
        assert!(matches!(write_sst(&volume, &pages(1, 40)).await.unwrap_err(), Error::NoSpace(_)));
        volume.handle().sleep_us(10_000).await;
        volume.reclaim().await;
        assert_eq!(volume.parts().usage().0, 1);
    })
    .unwrap();
}

#[test]
fn the_registry_gives_one_file_for_an_id_and_notices_contradictions() {
    let mut machine = Machine::new(3);
    let mut life = started(&mut machine);
    let file = life.run(async |volume| write_sst(&volume, &pages(1, 20)).await.unwrap()).unwrap();
    let (id, extents) = (file.id(), file.extents().to_vec());
    drop(life);
    let life = machine.start();
    let mut registry = SstRegistry::new(life.volume.parts().clone());
    extents.iter().for_each(|&extent| life.volume.parts().mark_used(extent).unwrap());
    assert!(registry.open(SstId(99), 16 + 7, &[extents[1], ExtentId(30)]).unwrap_err().is_corruption());
    let one = registry.open(id, 20, &extents).unwrap();
    let two = registry.open(id, 20, &extents).unwrap();
    assert!(Arc::ptr_eq(&one, &two));
    assert!(registry.open(id, 21, &extents).unwrap_err().is_corruption());
    let pages_beyond_extents = registry.open(SstId(10), 99, &[]);
    assert!(pages_beyond_extents.unwrap_err().is_corruption());
    one.release();
    one.release();

    // The last extent is there, but not the last page.
    machine.disk.truncate(u64::from(extents[1].0) * EXTENT + 4096);
    let mut registry = SstRegistry::new(machine.start().volume.parts().clone());
    assert!(registry.open(id, 20, &extents).unwrap_err().to_string().contains("truncated"));
}
