//! Block devices, as loop devices and compressed memory. Skipped, with a word, where there are none to be had (without root).

#![cfg(all(feature = "testing", not(loom)))]
#![expect(clippy::unwrap_used, reason = "tests fail by panics")]

use std::path::Path;
use std::process::Command;

use siltstone_io::testing::places::{LoopDevice, ZramDevice, named_devices, or_skipped, run};
use siltstone_io::*;

const MIB: u64 = 1 << 20;

fn filled(len: usize, seed: u64) -> Buffer {
    let mut buffer = Buffer::heap(len);
    Random::new(seed).fill(&mut buffer);
    buffer
}

fn executor() -> Executor {
    Executor::new(ExecutorConfig::default(), Backend::Ring).unwrap()
}

/// What every device must do; of this, each ring.
fn works(path: &Path) -> Geometry {
    let shared = SharedDevice::open(path, OpenMode::ReadWrite).unwrap();
    for (wide_entries, ring_entries) in [(false, 256), (true, 256), (true, 8)] {
        if wide_entries || !shared.needs_wide_entries() {
            let config = ExecutorConfig { wide_entries, ring_entries, ..ExecutorConfig::default() };
            works_with(&mut Executor::new(config, Backend::Ring).unwrap(), &shared);
        }
    }
    shared.geometry().clone()
}

fn works_with(executor: &mut Executor, shared: &SharedDevice) {
    let device = executor.handle().attach(shared).unwrap();
    let pool = executor.handle().buffer_pool(4096, 64);
    let end = device.geometry().size_bytes;
    executor.block_on(async {
        // It has its space and no more.
        device.allocate(0, MIB).await.unwrap();
        device.allocate(end - MIB, MIB).await.unwrap();
        assert!(device.allocate(end - MIB, 2 * MIB).await.unwrap_err().is_no_space());
        assert!(device.allocate(16 * end, MIB).await.unwrap_err().is_no_space());
        assert_eq!(device.len_bytes(), end);
        for (offset, durability) in [(0, WriteDurability::Cached), (end - MIB, WriteDurability::Durable)] {
            let (result, _) = device.write(offset, filled(65536, offset), 0..65536, durability, Placement::Wal).await;
            result.unwrap();
        }
        device.flush().await.unwrap();
        device.discard(2 * MIB, MIB).await.unwrap();
        for offset in [0, end - MIB] {
            let (result, read) = device.read(offset, Buffer::heap(65536), 65536).await;
            result.unwrap();
            assert!(read[..] == filled(65536, offset)[..]);
        }
        let (result, _) = device.read(end - 4096, Buffer::heap(8192), 8192).await;
        assert_eq!(result.unwrap_err().op, OpKind::Read);

        // One that is cut into many.
        let data = filled(2 * MIB as usize + 4096, 5);
        let range = 0..data.len();
        let (result, data) = device.write(MIB - 8192, data, range, WriteDurability::Cached, Placement::Deep).await;
        result.unwrap();
        let (result, read) = device.read(MIB - 8192, Buffer::heap(data.len()), data.len()).await;
        result.unwrap();
        assert!(data[..] == read[..]);

        // More at once than the ring and the device take, of both kinds of memory, and some that nobody waits for.
        let block = |index: u64| (index * 7919 % 256) * 4096;
        let writes: Vec<_> = (0..256)
            .map(|index| {
                let (data, durability) = (filled(4096, index * 7919 % 256), WriteDurability::Cached);
                device.write(block(index), data, 0..4096, durability, Placement::Level0)
            })
            .collect();
        for write in writes {
            write.await.0.unwrap();
        }
        for round in 0..4 {
            let reads: Vec<_> = (0..256)
                .map(|index| {
                    let buffer = pool.take().unwrap_or_else(|| Buffer::heap(4096));
                    (index, device.read(block(index), buffer, 4096))
                })
                .collect();
            for (index, read) in reads {
                if (index + round) % 5 == 0 {
                    continue;
                }
                let (result, read) = read.await;
                result.unwrap();
                assert!(read[..4096] == filled(4096, index * 7919 % 256)[..], "block {index}");
            }
        }
    });
}

#[test]
fn the_devices_that_the_environment_names() {
    for path in named_devices() {
        let geometry = works(&path);
        assert!(geometry.fixed_size && geometry.direct && !geometry.polled);
        let request = DeviceRequest { kind: Some(geometry.kind), polled: true };
        match SharedDevice::open_with(&path, OpenMode::ReadWrite, request) {
            Ok(shared) => {
                eprintln!("{} is polled as {:?}", path.display(), geometry.kind);
                let config = ExecutorConfig::default().driving_device(&shared);
                works_with(&mut Executor::new(config, Backend::Ring).unwrap(), &shared);
            }
            Err(error) => {
                let reason = error.to_string();
                assert!(reason.contains("nvme.poll_queues") || reason.contains("Linux 6.5"), "{reason}");
            }
        }
    }
}

#[test]
fn loop_devices_of_both_block_sizes() {
    let folder = tempfile::tempdir().unwrap();
    for block_bytes in [512, 4096] {
        let image = folder.path().join("image");
        let Some(place) = or_skipped(LoopDevice::new(&image, 4 * MIB, Some(block_bytes))) else { return };
        let geometry = works(place.path());
        assert_eq!((geometry.kind, geometry.fixed_size, geometry.direct), (DeviceKind::Block, true, true));
        assert_eq!((geometry.logical_block_bytes, geometry.size_bytes), (block_bytes, 4 * MIB));
    }
}

#[test]
fn compressed_memory_has_nothing_to_flush() {
    let Some(place) = or_skipped(ZramDevice::new(4 * MIB)) else { return };
    let geometry = works(place.path());
    assert_eq!((geometry.kind, geometry.logical_block_bytes), (DeviceKind::Block, 4096));
    assert_eq!(geometry.writes_are_durable(), place.get("queue/write_cache").unwrap().trim() == "write through");
}

/// The file below a loop device shows what came of a discard.
#[test]
fn a_discard_gives_the_space_back() {
    use std::os::unix::fs::MetadataExt;
    let folder = tempfile::tempdir().unwrap();
    let Some(place) = or_skipped(LoopDevice::new(&folder.path().join("image"), 4 * MIB, Some(4096))) else { return };
    let shared = SharedDevice::open(place.path(), OpenMode::ReadWrite).unwrap();
    assert_ne!(shared.geometry().discard, Discard::None);
    let mut executor = executor();
    let device = executor.handle().attach(&shared).unwrap();
    let blocks = || std::fs::metadata(place.image()).unwrap().blocks() * 512;
    executor.block_on(async {
        let (result, _) =
            device.write(0, filled(2 << 20, 1), 0..2 << 20, WriteDurability::Durable, Placement::Deep).await;
        result.unwrap();
        device.flush().await.unwrap();
        assert!(blocks() >= 2 * MIB);
        device.discard(MIB, MIB).await.unwrap();
        device.flush().await.unwrap();
        assert!(blocks() <= MIB + 65536, "{} bytes are in use", blocks());
    });
}

#[test]
fn a_writer_excludes_all_others_and_is_excluded_by_a_mount() {
    let folder = tempfile::tempdir().unwrap();
    let Some(place) = or_skipped(LoopDevice::new(&folder.path().join("image"), 16 * MIB, None)) else { return };
    let open = |mode| SharedDevice::open(place.path(), mode).map(drop);
    let writer = SharedDevice::open(place.path(), OpenMode::ReadWrite).unwrap();
    let refused = open(OpenMode::ReadWrite).unwrap_err();
    assert_eq!(refused.errno, libc::EBUSY);
    assert!(refused.to_string().contains("it is mounted"), "{refused}");
    assert_eq!(open(OpenMode::ReadOnly).unwrap_err().errno, libc::EAGAIN);
    drop(writer);
    open(OpenMode::ReadWrite).unwrap();

    let below = folder.path().join("below");
    std::fs::create_dir(&below).unwrap();
    let mounted = run(Command::new("mkfs.ext4").arg("-q").arg(place.path()))
        .and_then(|_| run(Command::new("mount").arg(place.path()).arg(&below)));
    if let Err(why) = mounted {
        eprintln!("skipped: {why}");
        return;
    }
    let refused = open(OpenMode::ReadWrite).unwrap_err();
    run(Command::new("umount").arg(&below)).unwrap();
    assert_eq!(refused.errno, libc::EBUSY);
}

/// Of a device that was pulled nothing is left, and the kernel says "no bytes" to reads and "no space" to writes: nobody can make any.
#[test]
fn a_device_that_is_taken_away_is_gone_and_not_full() {
    let folder = tempfile::tempdir().unwrap();
    let Some(place) = or_skipped(LoopDevice::new(&folder.path().join("image"), 4 * MIB, Some(4096))) else { return };
    let shared = SharedDevice::open(place.path(), OpenMode::ReadWrite).unwrap();
    let mut executor = executor();
    let device = executor.handle().attach(&shared).unwrap();
    let errors = |device: Device| async move {
        let (read, buffer) = device.read(MIB, Buffer::heap(8192), 8192).await;
        let (written, _) = device.write(MIB, buffer, 0..8192, WriteDurability::Durable, Placement::Wal).await;
        [read, written].map(|result| result.map_err(|error| (error.errno, error.to_string())))
    };
    let resize = |bytes: u64| {
        std::fs::File::options().write(true).open(place.image()).unwrap().set_len(bytes).unwrap();
        run(Command::new("losetup").arg("-c").arg(place.path())).unwrap();
    };
    resize(0);
    for result in executor.block_on(errors(device.clone())) {
        let (errno, text) = result.unwrap_err();
        assert_eq!(errno, libc::ENODEV, "{text}");
        assert!(text.contains("the device is gone"), "{text}");
    }
    // One that has become smaller is still there.
    resize(MIB / 2);
    let [read, written] = executor.block_on(errors(device.clone()));
    assert!(read.unwrap_err().1.contains("only 0 of 8192 bytes"));
    assert_eq!(written.unwrap_err().0, libc::ENOSPC);
    resize(4 * MIB);
    assert!(executor.block_on(errors(device)).iter().all(Result::is_ok));
}

#[test]
fn what_is_neither_file_nor_block_device_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    for path in [folder.path(), Path::new("/dev/zero")] {
        let refused = SharedDevice::open(path, OpenMode::ReadWrite).map(drop).unwrap_err();
        assert!(refused.to_string().contains("neither a file nor a block device"), "{refused}");
    }
}
