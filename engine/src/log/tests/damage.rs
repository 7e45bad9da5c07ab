//! What is missing or says something else: damage where it must have been durable, else a torn tail.

use super::*;

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
