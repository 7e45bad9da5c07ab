use std::io::Write;
use std::sync::Arc;

use super::*;

const BLOCK: u64 = 512;

fn disk() -> (tempfile::NamedTempFile, Disk) {
    let mut image = tempfile::NamedTempFile::new().unwrap();
    image.write_all(&[0; 64 * BLOCK as usize]).unwrap();
    let disk = Disk::open(image.path(), BLOCK, 1, Faults::default()).unwrap();
    (image, disk)
}

fn command(kind: CommandKind, offset: u64, len: u64, byte: u8) -> Command {
    let data = if kind == CommandKind::Write { vec![byte; len as usize] } else { Vec::new() };
    Command { kind, cookie: 0, offset, len, durable: false, data, told: 0 }
}

/// Runs a command to its end, of which the guest is told.
fn run(disk: &Disk, command: Command) -> Vec<u8> {
    disk.receive(command);
    let (completion, number) = disk.complete().unwrap();
    disk.tell(number, || Ok(())).unwrap();
    completion.result.unwrap()
}

fn write(disk: &Disk, offset: u64, byte: u8) {
    run(disk, command(CommandKind::Write, offset, BLOCK, byte));
}

fn image_byte(image: &tempfile::NamedTempFile, offset: u64) -> u8 {
    let mut byte = [0];
    image.as_file().read_exact_at(&mut byte, offset).unwrap();
    byte[0]
}

#[test]
fn a_flushed_write_survives_and_an_unflushed_one_may_not() {
    let (image, disk) = disk();
    write(&disk, 0, 1);
    run(&disk, command(CommandKind::Flush, 0, 0, 0));
    for block in 1..64 {
        write(&disk, block * BLOCK, 2);
    }
    let read = run(&disk, command(CommandKind::Read, 0, 2 * BLOCK, 0));
    assert_eq!((read[0], read[BLOCK as usize]), (1, 2));
    let loss = disk.cut().unwrap();
    assert_eq!(image_byte(&image, 0), 1);
    let survived = (1..64).filter(|block| image_byte(&image, block * BLOCK) == 2).count() as u64;
    assert_eq!((loss.blocks, loss.lost), (63, 63 - survived));
    assert!(loss.lost > 10 && survived > 10, "{loss:?}");
}

#[test]
fn a_flush_covers_only_what_the_guest_was_told_of_before() {
    let (image, disk) = disk();
    write(&disk, 0, 1);
    disk.receive(command(CommandKind::Write, BLOCK, BLOCK, 2));
    disk.receive(command(CommandKind::Flush, 0, 0, 0));
    for _ in 0..2 {
        disk.complete().unwrap();
    }
    assert_eq!((image_byte(&image, 0), image_byte(&image, BLOCK)), (1, 0));
    run(&disk, command(CommandKind::Flush, 0, 0, 0));
    assert_eq!(image_byte(&image, BLOCK), 0, "the guest was never told of that write");
}

#[test]
fn a_block_comes_back_in_any_of_its_versions_since_the_durable_one_and_none_before() {
    let mut seen = [0; 4];
    for seed in 0..64 {
        let (image, mut disk) = disk();
        disk.state.get_mut().unwrap().random = Random::new(seed);
        write(&disk, 0, 1);
        run(&disk, command(CommandKind::Flush, 0, 0, 0));
        write(&disk, 0, 2);
        write(&disk, 0, 3);
        disk.cut().unwrap();
        seen[usize::from(image_byte(&image, 0))] += 1;
    }
    assert_eq!(seen[0], 0);
    assert!(seen[1..].iter().all(|count| *count > 5), "{seen:?}");
}

#[test]
fn a_durable_write_and_what_it_replaces_need_no_flush() {
    let (image, disk) = disk();
    write(&disk, 0, 1);
    let mut durable = command(CommandKind::Write, 0, BLOCK, 2);
    durable.durable = true;
    run(&disk, durable);
    assert_eq!(disk.cut().unwrap().blocks, 0);
    assert_eq!(image_byte(&image, 0), 2);
}

#[test]
fn a_discard_reads_as_zero_and_is_lost_like_a_write() {
    let mut survived = 0;
    for seed in 0..32 {
        let (image, mut disk) = disk();
        disk.state.get_mut().unwrap().random = Random::new(seed);
        write(&disk, 0, 1);
        run(&disk, command(CommandKind::Flush, 0, 0, 0));
        assert_eq!(run(&disk, command(CommandKind::Zero, 0, BLOCK, 0)).len(), 0);
        assert_eq!(run(&disk, command(CommandKind::Read, 0, BLOCK, 0))[0], 0);
        disk.cut().unwrap();
        survived += u64::from(image_byte(&image, 0) == 0);
    }
    assert!((5..28).contains(&survived), "{survived}");
}

#[test]
fn what_was_under_way_at_the_cut_may_be_there_and_nothing_completes_after_the_freeze() {
    let mut survived = 0;
    for seed in 0..32 {
        let (image, mut disk) = disk();
        disk.state.get_mut().unwrap().random = Random::new(seed);
        disk.receive(command(CommandKind::Write, 0, BLOCK, 9));
        disk.freeze();
        assert!(disk.complete().is_none());
        disk.cut().unwrap();
        survived += u64::from(image_byte(&image, 0) == 9);
    }
    assert!((5..28).contains(&survived), "{survived}");
}

#[test]
fn commands_outside_or_not_of_whole_blocks_are_refused() {
    let (_image, disk) = disk();
    for (offset, len) in [(64 * BLOCK, BLOCK), (1, BLOCK), (0, 1), (u64::MAX - 511, BLOCK)] {
        disk.receive(command(CommandKind::Read, offset, len, 0));
        assert!(disk.complete().unwrap().0.result.is_err());
    }
}

#[test]
fn nbd_clients_negotiate_write_and_read_back() {
    let (image, disk) = disk();
    let disk = Arc::new(disk);
    let (client, service) = std::os::unix::net::UnixStream::pair().unwrap();
    let served = Arc::clone(&disk);
    let thread = std::thread::spawn(move || server::serve(service, &served));
    server::tests::talk(client, 64 * BLOCK, BLOCK as u32);
    thread.join().unwrap().unwrap();
    assert_eq!(disk.counters().durable_writes, 1);
    assert_eq!(image_byte(&image, BLOCK), 7);
}

#[test]
fn the_power_fails_at_the_write_that_was_asked_for() {
    let (_image, mut disk) = disk();
    disk.state.get_mut().unwrap().faults.freeze_at_write = Some(2);
    write(&disk, 0, 1);
    write(&disk, BLOCK, 1);
    disk.receive(command(CommandKind::Write, 0, BLOCK, 2));
    assert!(disk.complete().is_none());
    assert!(disk.frozen());
}

#[test]
fn a_deaf_disk_loses_what_was_flushed() {
    let (image, mut disk) = disk();
    disk.state.get_mut().unwrap().faults.deaf = true;
    for block in 0..64 {
        write(&disk, block * BLOCK, 2);
    }
    run(&disk, command(CommandKind::Flush, 0, 0, 0));
    disk.cut().unwrap();
    assert!((0..64).any(|block| image_byte(&image, block * BLOCK) == 0));
}

#[test]
fn a_flush_that_the_guest_sends_upon_an_answer_covers_what_was_answered() {
    let (image, disk) = disk();
    let disk = Arc::new(disk);
    disk.receive(command(CommandKind::Write, 0, BLOCK, 1));
    let (_, number) = disk.complete().unwrap();
    let guest = Arc::clone(&disk);
    let mut flushing = None;
    let answer = || {
        // The answer is out; who gave it goes on much later than the guest.
        flushing = Some(std::thread::spawn(move || guest.receive(command(CommandKind::Flush, 0, 0, 0))));
        std::thread::sleep(Duration::from_millis(50));
        Ok(())
    };
    disk.tell(number, answer).unwrap();
    flushing.unwrap().join().unwrap();
    disk.complete().unwrap().0.result.unwrap();
    assert_eq!(image_byte(&image, 0), 1);
}
