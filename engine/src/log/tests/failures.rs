//! Writes that fail or are given up, and space that is lacking.

use std::pin::pin;

use futures_util::FutureExt;
use siltstone_io::OpKind;

use super::*;

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
