//! A flipped bit in each kind of block: masked by a copy, or corruption that names the structure, the shard and the place.

use std::collections::BTreeSet;

use siltstone::{Corruption, Durability, Engine, Error};

use crate::image::{Block, Image, PAGE_BYTES, SUPERBLOCKS};
use crate::support::{COMPACTED, FLUSHED, Found, Volume, WRITTEN, corruption, options, put_all, read, read_all};

/// Flips one bit and reads everything; the file is as before afterwards.
fn with_flip(volume: &Volume, bytes: &mut [u8], at: usize) -> Result<Found, Corruption> {
    bytes[at] ^= 1 << (at % 8);
    volume.write(bytes);
    bytes[at] ^= 1 << (at % 8);
    read(volume.options().read_only(true)).map_err(corruption)
}

#[track_caller]
fn assert_names(damage: &Corruption, structure: &str, block: Block) {
    assert_eq!(damage.structure, structure, "{damage}");
    assert!(damage.shard.is_some_and(|shard| shard < 2), "{damage}");
    assert_eq!(damage.offset, Some(block.offset as u64), "{damage}");
}

#[test]
fn the_volume_has_what_the_other_tests_damage() {
    let volume = Volume::new();
    assert!(read(volume.options().read_only(true)).unwrap().is_everything());
    let image = Image::of(&volume.bytes());
    assert_eq!((image.roots.len(), image.manifests.len()), (2, 2));
    assert_eq!(image.tables.len(), 5, "{:?}", image.tables);
    assert_eq!(image.wals().filter(|blocks| blocks.len() > 10).count(), 2);
    assert!(image.manifests.iter().all(|log| image.logs[log].len() >= 4));
}

#[test]
fn a_damaged_superblock_copy_is_masked_by_the_others() {
    let volume = Volume::new();
    let mut bytes = volume.bytes();
    for offset in SUPERBLOCKS {
        for at in (Block { offset, bytes: PAGE_BYTES }).samples() {
            assert!(with_flip(&volume, &mut bytes, at).unwrap().is_everything());
        }
    }
}

#[test]
fn a_superblock_of_which_no_copy_is_whole_is_corruption() {
    let volume = Volume::new();
    let mut bytes = volume.bytes();
    for (copy, offset) in SUPERBLOCKS.into_iter().enumerate() {
        bytes[offset + 40 + copy] ^= 1;
    }
    volume.write(&bytes);
    for options in [volume.options(), volume.options().read_only(true)] {
        let damage = corruption(Engine::open(options).err().unwrap());
        assert_eq!(damage.structure, "superblock");
        assert!(damage.reason.contains("copy 3: checksum"), "{damage}");
    }
    assert!(volume.bytes() == bytes, "it has been changed");
}

#[test]
fn a_damaged_root_page_is_masked_by_its_twin() {
    let volume = Volume::new();
    let mut bytes = volume.bytes();
    for block in Image::of(&bytes).roots.into_iter().flatten() {
        for at in block.samples() {
            assert!(with_flip(&volume, &mut bytes, at).unwrap().is_everything());
        }
    }
}

#[test]
fn two_damaged_root_pages_are_corruption() {
    let volume = Volume::new();
    let mut bytes = volume.bytes();
    let roots = Image::of(&bytes).roots;
    roots[1].iter().for_each(|block| bytes[block.offset + 16] ^= 1);
    volume.write(&bytes);
    let damage = corruption(Engine::open(volume.options()).err().unwrap());
    assert_eq!((damage.structure, damage.shard), ("root page", Some(1)));
    assert!(roots[1].iter().any(|block| damage.offset == Some(block.offset as u64)), "{damage}");
}

/// Nothing that a manifest says may be lost, the newest edit included: SSTs and the space of logs hang on it.
#[test]
fn a_damaged_block_of_a_manifest_is_corruption() {
    let volume = Volume::new();
    let mut bytes = volume.bytes();
    let image = Image::of(&bytes);
    for (shard, log) in (0..).zip(&image.manifests) {
        let blocks = &image.logs[log];
        for (index, block) in blocks.iter().enumerate() {
            for at in block.samples() {
                match with_flip(&volume, &mut bytes, at) {
                    Ok(found) => {
                        assert!(index + 1 == blocks.len(), "block {index} of {} at {at}: {found:?}", blocks.len());
                        assert!(found.is_everything(), "{found:?}");
                    }
                    Err(damage) => {
                        assert!(matches!(damage.structure, "log block" | "manifest"), "{damage}");
                        assert_eq!(damage.shard, Some(shard), "{damage}");
                        assert!(damage.offset.is_some(), "{damage}");
                    }
                }
            }
        }
    }
}

/// Without a write-ahead log a checkpoint is all there is, and its last record is the newest block of shard 0's manifest.
#[test]
fn a_durable_checkpoint_is_not_lost_with_the_newest_block_of_the_manifest() {
    let directory = tempfile::tempdir().unwrap();
    let options = || options(directory.path()).shards(1).durability(Durability::Checkpoint);
    let engine = Engine::open(options()).unwrap();
    let keyspace = engine.keyspace("k").unwrap();
    put_all(&engine, &keyspace, 0..COMPACTED);
    engine.checkpoint_blocking("first", Vec::new()).unwrap();
    put_all(&engine, &keyspace, COMPACTED..WRITTEN);
    engine.checkpoint_blocking("second", Vec::new()).unwrap();
    engine.close_blocking().unwrap();
    let path = directory.path().join(siltstone::VOLUME_FILE_NAME);
    let mut bytes = std::fs::read(&path).unwrap();
    let image = Image::of(&bytes);
    let mut detected = 0;
    for block in &image.logs[&image.manifests[0]] {
        bytes[block.offset + 80] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        bytes[block.offset + 80] ^= 1;
        match Engine::open(options().read_only(true)) {
            Ok(engine) => {
                assert_eq!(engine.restored().map(|info| info.name.as_str()), Some("second"));
                assert!(read_all(&engine).is_everything());
                engine.close_blocking().unwrap();
            }
            Err(error) => {
                corruption(error);
                detected += 1;
            }
        }
    }
    assert!(detected >= 4, "{detected}");
}

/// A block of the log that others follow was durable: its damage is no torn tail. The last block alone cannot be told from one.
#[test]
fn damage_in_the_middle_of_a_log_is_told_from_a_torn_tail() {
    let volume = Volume::new();
    let mut bytes = volume.bytes();
    let image = Image::of(&bytes);
    let mut lost = BTreeSet::new();
    for blocks in image.wals() {
        let (last, others) = blocks.split_last().unwrap();
        // Those of the newest memtable; what is before them has been written out.
        for block in &others[others.len() - 10..] {
            for at in block.samples() {
                let damage = with_flip(&volume, &mut bytes, at).expect_err("a durable block is damaged");
                assert_names(&damage, "log block", *block);
            }
        }
        let found = with_flip(&volume, &mut bytes, last.offset + 5).unwrap();
        assert!(found.damage.is_empty() && found.absent.len() <= 1, "{found:?}");
        lost.extend(found.absent);
    }
    assert!(lost.iter().all(|index| (FLUSHED..WRITTEN).contains(index)), "{lost:?}");
}

#[test]
fn a_damaged_block_of_an_sst_fails_the_reads_that_need_it_and_no_others() {
    let volume = Volume::new();
    let mut bytes = volume.bytes();
    for (structure, blocks) in Image::of(&bytes).tables {
        for (index, block) in blocks.iter().enumerate() {
            // All bytes are covered alike; the one that is flipped wanders.
            let at = block.samples().nth(index % 6).unwrap();
            let found = with_flip(&volume, &mut bytes, at).unwrap();
            assert!(!found.damage.is_empty(), "{structure} at {} is not read at all", block.offset);
            found.damage.iter().for_each(|damage| assert_names(damage, structure, *block));
            assert!(found.absent.is_empty(), "{structure}: {found:?}");
            if structure == "data block" {
                assert!(found.damage.len() < 100, "{} reads failed", found.damage.len());
            }
        }
    }
}

#[test]
fn a_block_in_the_place_of_another_is_corruption() {
    let volume = Volume::new();
    let mut bytes = volume.bytes();
    let data = Image::of(&bytes).tables["data block"].clone();
    bytes.copy_within(data[0].offset..data[0].offset + PAGE_BYTES, data[1].offset);
    volume.write(&bytes);
    let found = read(volume.options().read_only(true)).unwrap();
    assert!(!found.damage.is_empty() && found.absent.is_empty());
    found.damage.iter().for_each(|damage| assert_names(damage, "data block", data[1]));
}

/// Compaction meets the damage before any reader does: it must not write it on, and what is whole stays readable.
#[test]
fn damage_that_compaction_meets_makes_the_shard_read_only() {
    let volume = Volume::new();
    let mut bytes = volume.bytes();
    let data = Image::of(&bytes).tables["data block"].clone();
    data.iter().for_each(|block| bytes[block.offset + 100] ^= 1);
    volume.write(&bytes);
    let engine = Engine::open(volume.options()).unwrap();
    let keyspace = engine.keyspace("k").unwrap();
    let mut error = None;
    for _ in 0..20 {
        put_some(&engine, &keyspace).and_then(|()| engine.block_on(engine.flush())).err().map(|e| error.insert(e));
        if error.is_some() {
            break;
        }
    }
    let error = error.or_else(|| engine.block_on(engine.compact()).err()).expect("compaction reads the damage");
    assert!(matches!(&error, Error::Poisoned { cause, .. } if cause.contains("corruption in data block")), "{error}");
    let found = read_all(&engine);
    assert!(!found.damage.is_empty() && found.absent.is_empty(), "{found:?}");
    engine.close_blocking().unwrap();
}

fn put_some(engine: &Engine, keyspace: &siltstone::Keyspace) -> siltstone::Result<()> {
    (FLUSHED..WRITTEN)
        .try_for_each(|index| engine.put_blocking(keyspace, &crate::support::key(index), &crate::support::value(index)))
}

/// A repaired file (here: the bytes as they were) is as good as before: nothing about damage is remembered.
#[test]
fn damage_leaves_no_trace_once_it_is_repaired() {
    let volume = Volume::new();
    let mut bytes = volume.bytes();
    let block = Image::of(&bytes).tables["index partition"][0];
    assert!(!with_flip(&volume, &mut bytes, block.offset + 200).unwrap().damage.is_empty());
    volume.write(&bytes);
    let engine = Engine::open(volume.options()).unwrap();
    assert!(read_all(&engine).is_everything());
    put_all(&engine, &engine.keyspace("k").unwrap(), 0..10);
    engine.close_blocking().unwrap();
}
