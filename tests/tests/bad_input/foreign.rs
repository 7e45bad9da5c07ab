//! Files that are no volume, or not one that this build reads, or only the beginning of one.

use std::path::Path;

use siltstone::{Engine, Error, Options};

use crate::image::{SUPERBLOCKS, placed_crc, u32_at};
use crate::support::{Volume, corruption, options, read};

/// Opens a file that is no volume in all ways, and checks that it stays as it was.
#[track_caller]
fn refused(path: &Path) -> Vec<String> {
    let before = std::fs::read(path).unwrap();
    let reasons =
        [options(path), options(path).create(false), options(path).read_only(true)].map(|options: Options| {
            match Engine::open(options).err().expect("it is no volume") {
                Error::NotAVolume { path: named, reason } => {
                    assert_eq!(named, path);
                    reason
                }
                other => panic!("{other:?}"),
            }
        });
    assert!(std::fs::read(path).unwrap() == before, "it has been changed");
    reasons.into()
}

fn refused_bytes(bytes: &[u8]) -> Vec<String> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    std::fs::write(&path, bytes).unwrap();
    refused(&path)
}

fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 7u64;
    let step = |_| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 56) as u8
    };
    (0..bytes).map(step).collect()
}

#[test]
fn a_random_file_is_not_a_volume() {
    for bytes in [1, 100, 4096, 50_000, 65_536, 300_000, 2 << 20] {
        refused_bytes(&noise(bytes));
    }
}

#[test]
fn a_text_file_is_not_a_volume() {
    let reasons = refused_bytes(b"year,month,day\n2013,1,1\n");
    assert!(reasons[0].contains("24 bytes"), "{reasons:?}");
    refused_bytes(&b"year,month,day\n".repeat(100_000));
}

/// What stands at the beginning of other formats that leave the first bytes of a disk zero.
#[test]
fn images_of_other_formats_are_not_taken_for_blank_devices() {
    let image = |bytes: usize, marks: &[(usize, &[u8])]| {
        let mut image = vec![0; bytes];
        for (at, mark) in marks {
            image[*at..at + mark.len()].copy_from_slice(mark);
        }
        refused_bytes(&image);
    };
    // ext4: superblock at 1024 and no more in sight.
    image(8 << 20, &[(1024 + 56, &[0x53, 0xef])]);
    // A partition table: boot signature, GPT header, one entry.
    image(8 << 20, &[(446, &[0, 0, 2, 0, 0xee]), (510, &[0x55, 0xaa]), (512, b"EFI PART"), (1024, &[0x28, 0x73])]);
    // btrfs: superblock at 64 KiB. LVM: label in sector 1.
    image(8 << 20, &[((64 << 10) + 64, b"_BHRfS_M")]);
    image(8 << 20, &[(512, b"LABELONE")]);
    // Data somewhere behind zeros.
    image(3 << 20, &[(2 << 20, b"something")]);
    image(17 << 10, &[]);
}

#[test]
fn a_real_ext4_image_is_not_a_volume() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("image");
    std::fs::File::create(&path).unwrap().set_len(8 << 20).unwrap();
    match std::process::Command::new("mkfs.ext4").arg("-q").arg(&path).status() {
        Ok(status) if status.success() => drop(refused(&path)),
        _ => eprintln!("skipped: there is no mkfs.ext4 here"),
    }
}

#[test]
fn an_empty_file_becomes_a_volume_only_where_creation_is_allowed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    for bytes in [0, 64 << 10, 1 << 20] {
        std::fs::File::create(&path).unwrap().set_len(bytes).unwrap();
        for options in [options(&path).create(false), options(&path).read_only(true)] {
            assert!(matches!(Engine::open(options).err(), Some(Error::NotAVolume { .. })));
        }
        Engine::open(options(&path)).unwrap().close_blocking().unwrap();
        Engine::open(options(&path).create(false)).unwrap().close_blocking().unwrap();
    }
}

fn patch_version(bytes: &mut [u8], copy: usize, version: u32) {
    let at = SUPERBLOCKS[copy];
    bytes[at + 8..at + 12].copy_from_slice(&version.to_le_bytes());
    let page = &bytes[at..at + 4096];
    let crc = placed_crc(&page[16..32], at as u64, page, 12);
    bytes[at + 12..at + 16].copy_from_slice(&crc.to_le_bytes());
}

#[test]
fn another_version_is_named() {
    let volume = Volume::flushed();
    let mut bytes = volume.bytes();
    assert_eq!(u32_at(&bytes, 8), 1);
    (0..4).for_each(|copy| patch_version(&mut bytes, copy, 7));
    volume.write(&bytes);
    for options in [volume.options(), volume.options().read_only(true)] {
        let error = Engine::open(options).err().unwrap();
        assert!(
            matches!(&error, Error::Version { found: 7, supported: 1, path } if *path == volume.path()),
            "{error:?}"
        );
        assert!(error.to_string().contains("use a build that knows it"));
    }
    assert!(volume.bytes() == bytes, "a volume of another version must not be touched");
}

#[test]
fn a_version_that_one_copy_alone_has_is_damage_that_the_others_mask() {
    let volume = Volume::flushed();
    let mut bytes = volume.bytes();
    patch_version(&mut bytes, 0, 7);
    volume.write(&bytes);
    assert!(read(volume.options()).unwrap().is_everything());
}

/// A volume whose data are all in SSTs: wherever it is cut, an opening or a read says so, unless nothing in use was cut off.
#[test]
fn a_truncated_volume_is_never_taken_for_whole() {
    let volume = Volume::flushed();
    let bytes = volume.bytes();
    let lengths = (0..bytes.len()).step_by(37 * 512).chain((0..bytes.len()).step_by(64 << 10));
    let mut refused = 0;
    for length in lengths.chain([1, 4095, 4097, 20_000, bytes.len() - 1]) {
        volume.write(&bytes[..length]);
        match read(volume.options().read_only(true)) {
            Ok(found) => assert!(found.is_everything() || !found.damage.is_empty(), "cut to {length}: {found:?}"),
            Err(Error::NotAVolume { .. }) => assert!(length < 4096, "cut to {length}"),
            Err(error) => {
                corruption(error);
                refused += 1;
            }
        }
    }
    assert!(refused > 20, "{refused}");
}

/// Where the log is cut off at its end, what is left is what an earlier crash would have left: a prefix of the writes.
#[test]
fn a_truncated_log_leaves_a_prefix_or_an_error() {
    let volume = Volume::new();
    let bytes = volume.bytes();
    for length in (64 << 10..bytes.len()).step_by(3 * 4096) {
        volume.write(&bytes[..length]);
        match read(volume.options().read_only(true)) {
            Ok(found) if found.damage.is_empty() => {
                let first = found.absent.first().copied().unwrap_or(u32::MAX);
                assert!(first >= crate::support::FLUSHED, "cut to {length}: {found:?}");
            }
            Ok(_) => {}
            Err(error) => drop(corruption(error)),
        }
    }
}
