//! What a power failure leaves of a log.

use std::cell::RefCell;
use std::rc::Rc;

use siltstone_io::SimOptions;

use super::*;

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
