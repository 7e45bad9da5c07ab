//! Paths that cannot be opened, and volumes that somebody has open.

use std::path::{Path, PathBuf};

use siltstone::{Engine, Error, KeyspaceOptions, Options};
use siltstone_io::testing::places::{Mounted, or_skipped};
use siltstone_io::{IoError, OpKind};

use crate::support::{Volume, key, options, put_all, read_all, value};

#[track_caller]
fn io_error(options: Options) -> IoError {
    match Engine::open(options).err() {
        Some(Error::Io(error)) => error,
        other => panic!("{other:?} where an I/O error was expected"),
    }
}

#[test]
fn a_path_below_a_file_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    std::fs::write(&file, b"text").unwrap();
    let path = file.join("state");
    let error = io_error(options(&path));
    assert_eq!((error.op, error.errno), (OpKind::Open, libc::ENOTDIR));
    assert_eq!(error.path, path);
}

#[test]
fn a_path_where_nothing_can_be_created_is_refused() {
    let error = io_error(options(Path::new("/proc/siltstone/state")));
    assert_eq!(error.op, OpKind::Open);
    assert!(error.to_string().contains("/proc/siltstone"), "{error}");
    // A directory in which files cannot be made.
    let error = io_error(options(Path::new("/proc/self")));
    assert_eq!(error.path, PathBuf::from("/proc/self").join(siltstone::VOLUME_FILE_NAME));
}

#[test]
fn what_is_neither_file_nor_directory_is_refused() {
    for path in ["/dev/null", "/dev/zero"] {
        let error = Engine::open(options(Path::new(path))).err().unwrap();
        assert!(matches!(error, Error::Io(_) | Error::NotAVolume { .. }), "{error:?}");
        assert!(error.to_string().contains(path), "{error}");
    }
}

#[test]
fn a_missing_volume_is_not_made_by_a_reader() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("absent");
    for options in [options(&path).read_only(true), options(&path).create(false)] {
        let error = Engine::open(options).err().unwrap();
        assert!(matches!(&error, Error::NotFound(text) if text.contains("absent")), "{error:?}");
        assert!(!path.exists());
    }
}

#[test]
fn a_volume_without_permission_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let volume = Volume::flushed();
    std::fs::set_permissions(volume.path(), std::fs::Permissions::from_mode(0o000)).unwrap();
    if std::fs::File::open(volume.path()).is_ok() {
        eprintln!("skipped: this user may open everything");
        return;
    }
    let error = io_error(volume.options());
    assert_eq!(error.errno, libc::EACCES);
    assert!(error.to_string().contains("check the owner and mode"), "{error}");
}

#[test]
fn a_read_only_filesystem_serves_readers_and_refuses_writers() {
    let folder = tempfile::tempdir().unwrap();
    let Some(mounted) = or_skipped(Mounted::tmpfs(&folder.path().join("mounted"), 16 << 20)) else { return };
    let engine = Engine::open(options(mounted.path())).unwrap();
    put_all(&engine, &engine.keyspace("k").unwrap(), 0..crate::support::WRITTEN);
    engine.close_blocking().unwrap();
    mounted.remount("ro").unwrap();
    let error = io_error(options(mounted.path()));
    assert_eq!((error.op, error.errno), (OpKind::Open, libc::EROFS));
    assert!(error.to_string().contains("the filesystem is mounted read-only"), "{error}");
    let error = io_error(options(&mounted.path().join("new")));
    assert_eq!(error.errno, libc::EROFS);
    let engine = Engine::open(options(mounted.path()).read_only(true)).unwrap();
    assert!(read_all(&engine).is_everything());
    engine.close_blocking().unwrap();
}

#[test]
fn a_running_engines_volume_is_refused_to_all_others() {
    let volume = Volume::new();
    let engine = Engine::open(volume.options()).unwrap();
    for options in [volume.options(), volume.options().read_only(true)] {
        let error = io_error(options);
        assert_eq!((error.op, error.errno), (OpKind::Open, libc::EAGAIN));
        assert!(error.to_string().contains("another process may hold it"), "{error}");
    }
    put_all(&engine, &engine.keyspace("k").unwrap(), 0..10);
    assert!(read_all(&engine).is_everything());
    engine.close_blocking().unwrap();
    Engine::open(volume.options()).unwrap().close_blocking().unwrap();
}

#[test]
fn readers_share_a_volume_and_keep_writers_out() {
    let volume = Volume::new();
    let before = volume.bytes();
    let one = Engine::open(volume.options().read_only(true)).unwrap();
    let two = Engine::open(volume.options().read_only(true)).unwrap();
    assert!(read_all(&one).is_everything() && read_all(&two).is_everything());
    assert_eq!(io_error(volume.options()).errno, libc::EAGAIN);
    one.close_blocking().unwrap();
    two.close_blocking().unwrap();
    assert!(volume.bytes() == before, "a reader has written");
}

#[test]
fn a_read_only_engine_refuses_every_write() {
    let volume = Volume::new();
    let engine = Engine::open(volume.options().read_only(true)).unwrap();
    let keyspace = engine.keyspace("k").unwrap();
    let refused = |what: &str, result: siltstone::Result<()>| {
        assert!(matches!(result, Err(Error::ReadOnly)), "{what}: {result:?}");
    };
    refused("put", engine.put_blocking(&keyspace, &key(1), &value(2)));
    refused("delete", engine.delete_blocking(&keyspace, &key(1)));
    refused("flush", engine.block_on(engine.flush()));
    refused("checkpoint", engine.checkpoint_blocking("late", Vec::new()).map(drop));
    let created = engine.block_on(engine.create_keyspace("new", KeyspaceOptions::default()));
    refused("create_keyspace", created.map(drop));
    assert_eq!(engine.block_on(engine.checkpoints()).unwrap().len(), 1, "a reader sees the checkpoints");
    refused("drop_checkpoint", engine.block_on(engine.drop_checkpoint("first")));
    engine.block_on(engine.sync()).unwrap();
    engine.block_on(engine.compact()).unwrap();
    assert!(read_all(&engine).is_everything());
    engine.close_blocking().unwrap();
}
