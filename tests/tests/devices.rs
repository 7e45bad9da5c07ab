//! Volumes on raw devices: what is on a device is not overwritten unless that is said, and what fits is what is used. Loop devices, for which
//! root is needed; without, these tests say that they are skipped.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use siltstone::{DeviceKind, Durability, Engine, Error, KeyspaceOptions, Options, ProbeOptions, format, inspect};
use siltstone_io::testing::places::{LoopDevice, or_skipped, run};

const MIB: u64 = 1 << 20;

struct Disk {
    device: LoopDevice,
    folder: tempfile::TempDir,
}

impl Disk {
    fn new(bytes: u64, block_bytes: u32) -> Option<Disk> {
        let folder = tempfile::tempdir().unwrap();
        let device = LoopDevice::new(&folder.path().join("image"), bytes, Some(block_bytes));
        or_skipped(device).map(|device| Disk { device, folder })
    }

    fn path(&self) -> &Path {
        self.device.path()
    }

    fn options(&self) -> Options {
        Options::at(self.path()).extent_bytes(64 << 10).memory(8 << 20).keyspace("k", KeyspaceOptions::default())
    }

    /// The same bytes on a device of this size with these blocks.
    fn copied(&self, bytes: u64, block_bytes: u32) -> Disk {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("image");
        std::fs::copy(self.folder.path().join("image"), &image).unwrap();
        std::fs::File::options().write(true).open(&image).unwrap().set_len(bytes).unwrap();
        let device = LoopDevice::on(&image, Some(block_bytes)).unwrap();
        Disk { device, folder }
    }
}

fn write(options: Options, count: u32) -> Result<(), Error> {
    let engine = Engine::open(options)?;
    let keyspace = engine.keyspace("k")?;
    for number in 0..count {
        engine.block_on(engine.put(&keyspace, &number.to_be_bytes(), &[number as u8; 1000]))?;
    }
    engine.close_blocking()
}

#[track_caller]
fn check(options: Options, count: u32) {
    let engine = Engine::open(options).unwrap();
    let keyspace = engine.keyspace("k").unwrap();
    for number in 0..count {
        let value = engine.block_on(engine.get(&keyspace, &number.to_be_bytes())).unwrap();
        assert_eq!(value.as_deref(), Some(&[number as u8; 1000][..]), "key {number}");
    }
    engine.close_blocking().unwrap();
}

#[test]
fn what_a_device_holds_is_named_and_kept_unless_it_is_to_be_destroyed() {
    let Some(disk) = Disk::new(512 * MIB, 512) else { return };
    for (program, arguments, what) in [
        ("mkfs.ext4", &["-q", "-F"][..], "an ext2, ext3 or ext4 filesystem"),
        ("mkfs.xfs", &["-q", "-f"], "an XFS filesystem"),
        ("mkfs.btrfs", &["-q", "-f"], "a btrfs filesystem"),
        ("mkswap", &["-q"], "a swap area"),
    ] {
        if let Err(why) = run(Command::new(program).args(arguments).arg(disk.path())) {
            eprintln!("{what} is skipped: {why}");
            continue;
        }
        let before = std::fs::read(disk.path()).unwrap();
        for refused in [Engine::open(disk.options()).map(drop), format(&disk.options(), 0, false)] {
            let Err(Error::NotAVolume { reason, .. }) = refused else { panic!("{refused:?}") };
            assert!(reason.contains(what) && reason.contains("--force"), "{reason}");
        }
        assert!(std::fs::read(disk.path()).unwrap() == before, "it has been changed");
        format(&disk.options(), 0, true).unwrap();
        write(disk.options(), 100).unwrap();
        check(disk.options().shards(2), 100);
    }
    // A volume is one of the things that are kept.
    format(&disk.options(), 0, true).unwrap();
    write(disk.options(), 100).unwrap();
    let refused = format(&disk.options(), 0, false).unwrap_err();
    assert!(refused.to_string().contains("it holds a Siltstone volume"), "{refused}");
    check(disk.options(), 100);
    format(&disk.options(), 0, true).unwrap();
    assert!(inspect::info(disk.path()).unwrap().keyspaces.is_empty());
    assert!(inspect::verify(disk.path(), |_, _| ()).unwrap().is_clean());
}

/// What has its mark at the end alone: a table whose beginning was wiped. Devices do not end at round numbers.
#[test]
fn the_very_end_of_a_device_is_looked_at_and_wiped() {
    let bytes = 64 * MIB + (24 << 10);
    let Some(disk) = Disk::new(bytes, 512) else { return };
    let device = std::fs::File::options().write(true).open(disk.path()).unwrap();
    device.write_all_at(b"EFI PART", bytes - 512).unwrap();
    device.sync_all().unwrap();
    drop(device);
    for refused in [Engine::open(disk.options()).map(drop), format(&disk.options(), 0, false)] {
        let Err(Error::NotAVolume { reason, .. }) = refused else { panic!("{refused:?}") };
        assert!(reason.contains("the copy of a GPT partition table"), "{reason}");
    }
    format(&disk.options(), 1, true).unwrap_err();
    assert!(
        std::fs::read(disk.path()).unwrap().ends_with(&[b"EFI PART".as_slice(), &[0; 504]].concat()),
        "it was destroyed for nothing"
    );
    format(&disk.options(), 0, true).unwrap();
    assert!(std::fs::read(disk.path()).unwrap().ends_with(&[0; 4096]));
    write(disk.options(), 100).unwrap();
    check(disk.options(), 100);
}

/// The copies of the superblock stay whole under a RAID's label, which stands between them.
#[test]
fn what_was_put_between_the_copies_of_a_superblock_counts() {
    let Some(disk) = Disk::new(16 * MIB, 4096) else { return };
    write(disk.options(), 10).unwrap();
    let device = std::fs::File::options().write(true).open(disk.path()).unwrap();
    device.write_all_at(&[0xfc, 0x4e, 0x2b, 0xa9], 4096).unwrap();
    device.sync_all().unwrap();
    drop(device);
    let Err(Error::NotAVolume { reason, .. }) = Engine::open(disk.options()).map(drop) else { panic!("it is opened") };
    assert!(reason.contains("a member of a Linux RAID"), "{reason}");
}

#[test]
fn a_device_that_is_not_there_does_not_become_a_file() {
    let error = format(&Options::at("/dev/siltstone-is-not-here"), 0, false).unwrap_err();
    assert!(matches!(error, Error::NotFound(_)), "{error}");
    assert!(!Path::new("/dev/siltstone-is-not-here").exists());
}

#[test]
fn a_device_in_use_is_refused() {
    let Some(disk) = Disk::new(16 * MIB, 4096) else { return };
    let engine = Engine::open(disk.options()).unwrap();
    for refused in [Engine::open(disk.options()).map(drop), format(&disk.options(), 0, true)] {
        let Err(Error::Io(error)) = refused else { panic!("{refused:?}") };
        assert!(error.to_string().contains("opened exclusively by another process"), "{error}");
    }
    engine.close_blocking().unwrap();
}

#[test]
fn a_volume_uses_the_space_that_it_was_formatted_with() {
    let Some(disk) = Disk::new(64 * MIB, 4096) else { return };
    let refused = format(&disk.options(), 65 * MIB, false).unwrap_err();
    assert!(refused.to_string().contains("does not fit"), "{refused}");
    format(&disk.options(), 8 * MIB, false).unwrap();
    let info = inspect::info(disk.path()).unwrap();
    assert_eq!((info.capacity_bytes, info.geometry.kind), (8 * MIB, DeviceKind::Block));
    assert_eq!((info.extent_bytes, info.device_bytes), (64 << 10, 64 * MIB));
    let full = write(disk.options().durability(Durability::Sync), 20_000).unwrap_err();
    assert!(matches!(full, Error::NoSpace(_)), "{full}");
    let image = std::fs::read(disk.path()).unwrap();
    assert!(image[8 * MIB as usize..].iter().all(|byte| *byte == 0), "it wrote behind its end");

    // A file gets its space now, and no more later.
    let folder = tempfile::tempdir().unwrap();
    let options = Options::at(folder.path().join("volume")).extent_bytes(64 << 10).memory(8 << 20);
    format(&options, 8 * MIB, false).unwrap();
    let file = folder.path().join("volume").join(siltstone::VOLUME_FILE_NAME);
    assert_eq!(std::fs::metadata(&file).unwrap().len(), 8 * MIB);
    let full = write(options.keyspace("k", KeyspaceOptions::default()), 20_000).unwrap_err();
    assert!(matches!(full, Error::NoSpace(_)), "{full}");
    assert_eq!(std::fs::metadata(&file).unwrap().len(), 8 * MIB);
}

/// What refuses to work on a device, of all that opens it and leaves what it holds.
fn refusals(disk: &Disk) -> Vec<(&'static str, Error)> {
    let measuring = ProbeOptions::default().duration(Duration::from_millis(100));
    let refused = [
        ("open", Engine::open(disk.options()).map(drop)),
        ("open for reading", Engine::open(disk.options().create(false).read_only(true)).map(drop)),
        ("info", inspect::info(disk.path()).map(drop)),
        ("verify", inspect::verify(disk.path(), |_, _| ()).map(drop)),
        ("probe", siltstone::probe(&disk.options(), &measuring, |_| ()).map(drop)),
        ("format", format(&disk.options(), 0, false)),
    ];
    refused.into_iter().filter_map(|(what, result)| result.err().map(|error| (what, error))).collect()
}

#[test]
fn a_device_that_is_too_small_is_refused() {
    for (bytes, opening, formatting) in [
        (4096, "has 4096 bytes, a volume at least 65536", "has room for 0 extents"),
        ((64 << 10) - 512, "has 65024 bytes, a volume at least 65536", "has room for 0 extents"),
        (64 << 10, "has room for 1 extents", "has room for 1 extents"),
    ] {
        let Some(disk) = Disk::new(bytes, 512) else { return };
        for (refused, reason) in [
            (Engine::open(disk.options()).map(drop), opening),
            (format(&disk.options(), 0, false), formatting),
            (format(&disk.options(), 0, true), formatting),
        ] {
            let error = refused.unwrap_err();
            assert!(matches!(error, Error::InvalidArgument(_) | Error::NotAVolume { .. }), "{bytes} bytes: {error}");
            assert!(error.to_string().contains(reason), "{bytes} bytes: {error}");
        }
        assert!(std::fs::read(disk.path()).unwrap().iter().all(|byte| *byte == 0), "it has been written to");
    }
}

#[test]
fn a_volume_may_move_between_devices_of_other_blocks_and_not_to_one_that_is_too_small() {
    let Some(disk) = Disk::new(32 * MIB, 512) else { return };
    write(disk.options(), 5000).unwrap();
    let other = disk.copied(32 * MIB, 4096);
    check(other.options(), 5000);
    write(other.options(), 6000).unwrap();
    let back = other.copied(32 * MIB, 512);
    check(back.options(), 6000);
    assert!(inspect::verify(back.path(), |_, _| ()).unwrap().is_clean());
    // What is in use is what counts: a device that ends behind it will do.
    let used = inspect::info(back.path()).unwrap();
    assert!(used.sst_extent_bytes + used.metadata_bytes < 16 * MIB);
    for block_bytes in [512, 4096] {
        check(disk.copied(31 * MIB + 4096, block_bytes).options(), 5000);
        let small = disk.copied(MIB, block_bytes);
        let before = std::fs::read(small.path()).unwrap();
        // What looks at all there is tells what is missing; what is told of the volume is in its beginning.
        let refused = refusals(&small);
        let names: Vec<&str> = refused.iter().map(|(what, _)| *what).collect();
        assert_eq!(names, ["open", "open for reading", "probe", "format"]);
        for (what, error) in refused {
            let reason = if what == "format" { "it holds a Siltstone volume" } else { "the device has 1048576" };
            assert!(error.is_corruption() != (what == "format"), "{what}: {error}");
            assert!(error.to_string().contains(reason), "{what}: {error}");
        }
        let problems = inspect::verify(small.path(), |_, _| ()).unwrap().problems;
        assert!(problems.iter().any(|problem| problem.text.contains("the device has 1048576")), "{problems:?}");
        assert!(std::fs::read(small.path()).unwrap() == before, "it has been written to");
        format(&small.options(), 0, true).unwrap();
        assert!(inspect::info(small.path()).unwrap().keyspaces.is_empty());
    }
}

/// Pages and copies of the superblock are written by themselves: a block cannot hold two of them.
#[test]
fn a_device_of_blocks_that_are_too_large_is_refused() {
    let Some(disk) = Disk::new(32 * MIB, 4096) else { return };
    write(disk.options(), 100).unwrap();
    for block_bytes in [8192, 16384] {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("image");
        std::fs::copy(disk.device.image(), &image).unwrap();
        // Linux 6.15 and later have such devices.
        let device = match LoopDevice::on(&image, Some(block_bytes)) {
            Ok(device) => device,
            Err(why) => return eprintln!("blocks of {block_bytes} bytes are skipped: {why}"),
        };
        let large = Disk { device, folder };
        let before = std::fs::read(large.path()).unwrap();
        let refused = refusals(&large);
        assert_eq!(refused.len(), 6, "{refused:?}");
        for (what, error) in refused {
            let reason = format!("logical blocks have {block_bytes} bytes: at most 4096 are supported");
            assert!(matches!(error, Error::Io(_)) && error.to_string().contains(&reason), "{what}: {error}");
        }
        format(&large.options(), 0, true).unwrap_err();
        assert!(std::fs::read(large.path()).unwrap() == before, "it has been written to");
    }
}

/// A probe writes to nothing but the free space of a volume unless it is told to, and where it is, only to what is blank or was to be destroyed.
#[test]
fn a_probe_leaves_what_a_device_holds() {
    let Some(disk) = Disk::new(128 * MIB, 512) else { return };
    let probe = |write: bool, force: bool| {
        let measuring = ProbeOptions::default().duration(Duration::from_millis(300)).write(write).force(force);
        siltstone::probe(&Options::at(disk.path()), &measuring, |_| ())
    };
    let read = || std::fs::read(disk.path()).unwrap();
    let report = probe(false, false).unwrap();
    assert!(report.only_read.is_some() && report.profile.is_none() && read().iter().all(|byte| *byte == 0));
    assert!(probe(true, false).unwrap().profile.is_some());
    format(&disk.options(), 0, false).unwrap();

    write(disk.options(), 1000).unwrap();
    let report = probe(false, false).unwrap();
    assert!(report.stored && report.geometry.kind == DeviceKind::Block);
    assert_eq!(inspect::info(disk.path()).unwrap().profile, report.profile);
    // Neither option destroys a volume.
    assert!(probe(true, true).unwrap().stored);
    check(disk.options().shards(2), 1000);
    assert!(inspect::verify(disk.path(), |_, _| ()).unwrap().is_clean());

    // A volume that an engine has open is its own.
    let engine = Engine::open(disk.options()).unwrap();
    assert!(matches!(probe(false, false), Err(Error::Io(_))));
    engine.close_blocking().unwrap();

    let device = std::fs::File::options().write(true).open(disk.path()).unwrap();
    device.write_all_at(&[0; 512 << 10], 0).unwrap();
    device.write_all_at(b"LABELONE", 512).unwrap();
    device.sync_all().unwrap();
    drop(device);
    let before = read();
    assert!(probe(false, false).unwrap().only_read.is_some());
    let Err(Error::NotAVolume { reason, .. }) = probe(true, false) else { panic!("it was written to") };
    assert!(reason.contains("an LVM physical volume"), "{reason}");
    assert!(read() == before, "it has been changed");
    // What somebody else holds exclusively, as a mount does, is not written to by force either.
    let holder = std::fs::File::options().read(true).custom_flags(libc::O_EXCL).open(disk.path()).unwrap();
    assert!(matches!(probe(true, true), Err(Error::Io(_))));
    assert!(read() == before, "it has been changed");
    drop(holder);
    assert!(probe(true, true).unwrap().profile.is_some());
    format(&disk.options(), 0, false).unwrap();
}
