//! Where the volume is: a file, a loop device or a zram device, or a device inside virtual machines. Devices are given back with the value,
//! whatever happens.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::ValueEnum;
use siltstone_io::testing::places::{Filesystem, LoopDevice, Mounted, ZramDevice, run};
use tempfile::TempDir;

/// Kinds of places.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum PlaceKind {
    /// A file of the filesystem for temporary files.
    File,
    /// A file of an ext4 filesystem of its own, on a loop device. Needs root.
    Ext4,
    /// The same with XFS.
    Xfs,
    /// The same with btrfs.
    Btrfs,
    /// A loop device on such a file. Needs root.
    Loop,
    /// A compressed memory device. Needs root.
    Zram,
}

impl PlaceKind {
    /// The filesystem that is made for it.
    fn filesystem(self) -> Option<Filesystem> {
        match self {
            PlaceKind::Ext4 => Some(Filesystem::Ext4),
            PlaceKind::Xfs => Some(Filesystem::Xfs),
            PlaceKind::Btrfs => Some(Filesystem::Btrfs),
            PlaceKind::File | PlaceKind::Loop | PlaceKind::Zram => None,
        }
    }

    /// Whether the volume is a file.
    pub(crate) fn is_file(self) -> bool {
        !matches!(self, PlaceKind::Loop | PlaceKind::Zram)
    }
}

/// A place for one volume, blank at first.
pub(crate) struct Place {
    // Dropped in this order: the device, the filesystem below it, the directory.
    device: Option<Device>,
    mounted: Option<Mounted>,
    directory: TempDir,
}

enum Device {
    Loop(LoopDevice),
    Zram(ZramDevice),
    /// In the machines that the workers run in, which keep it.
    InMachine(PathBuf),
}

impl Place {
    /// A place of this size, or why there is none. With `small` the file behind a loop device is on a tmpfs of that many bytes.
    pub(crate) fn new(kind: PlaceKind, bytes: u64, small: Option<u64>) -> Result<Place, String> {
        let directory = tempfile::tempdir().map_err(|error| format!("no temporary directory: {error}"))?;
        let mounted = match (kind.filesystem(), small) {
            (Some(filesystem), _) => Some(Mounted::new(filesystem, directory.path())?),
            (None, Some(bytes)) => Some(Mounted::tmpfs(&directory.path().join("small"), bytes)?),
            (None, None) => None,
        };
        let device = match kind {
            PlaceKind::Loop => {
                let below = mounted.as_ref().map_or(directory.path(), Mounted::path);
                Some(Device::Loop(LoopDevice::new(&below.join("image"), bytes, None)?))
            }
            PlaceKind::Zram => Some(Device::Zram(ZramDevice::new(bytes)?)),
            _ => None,
        };
        Ok(Place { device, mounted, directory })
    }

    /// A device that only the machines of the workers have.
    pub(crate) fn in_machine(device: &Path) -> Result<Place, String> {
        let directory = tempfile::tempdir().map_err(|error| format!("no temporary directory: {error}"))?;
        Ok(Place { device: Some(Device::InMachine(device.to_owned())), mounted: None, directory })
    }

    /// What the engine opens.
    pub(crate) fn path(&self) -> PathBuf {
        match &self.device {
            None => self.mounted.as_ref().map_or(self.directory.path(), Mounted::path).join("volume"),
            Some(Device::Loop(device)) => device.path().to_owned(),
            Some(Device::Zram(device)) => device.path().to_owned(),
            Some(Device::InMachine(device)) => device.clone(),
        }
    }

    /// A directory beside it.
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Whether the volume can be given more space.
    pub(crate) fn grows(&self) -> bool {
        !matches!(self.device, Some(Device::Zram(_)))
    }

    /// Makes a loop device larger.
    pub(crate) fn grow(&self, bytes: u64) -> Result<(), String> {
        let Some(Device::Loop(device)) = &self.device else { return Ok(()) };
        File::options().write(true).open(device.image()).and_then(|file| file.set_len(bytes)).map_err(text)?;
        run(Command::new("losetup").arg("-c").arg(device.path())).map(drop)
    }

    /// Uses up the tmpfs behind a loop device, or gives it back.
    pub(crate) fn fill_below(&self, full: bool) -> Result<(), String> {
        let Some(mounted) = &self.mounted else { return Err("there is no tmpfs below".into()) };
        let filler = mounted.path().join("filler");
        if !full {
            return std::fs::remove_file(filler).map_err(text);
        }
        let file = File::create(filler).map_err(text)?;
        let zeros = vec![0; 64 << 10];
        let mut at = 0;
        while let Ok(written @ 1..) = file.write_at(&zeros, at) {
            at += written as u64;
        }
        Ok(())
    }

    /// Cuts off the end of the file behind a loop device, and keeps it.
    pub(crate) fn cut_below(&self, at: u64) -> Result<Tail, String> {
        let Some(Device::Loop(device)) = &self.device else { return Err("there is no file below".into()) };
        let file = File::options().read(true).write(true).open(device.image()).map_err(text)?;
        let end = file.metadata().map_err(text)?.len();
        let mut bytes = vec![0; end.saturating_sub(at) as usize];
        file.read_exact_at(&mut bytes, at).map_err(text)?;
        file.set_len(at).map_err(text)?;
        Ok(Tail { file, at, bytes })
    }

    /// Makes a device refuse writes, or take them again.
    pub(crate) fn set_read_only(&self, read_only: bool) -> Result<(), String> {
        let flag = if read_only { "--setro" } else { "--setrw" };
        run(Command::new("blockdev").arg(flag).arg(self.path())).map(drop)
    }

    /// How much memory a zram device may use from now on; 0 for any.
    pub(crate) fn limit_memory(&self, bytes: u64) -> Result<(), String> {
        let Some(Device::Zram(device)) = &self.device else { return Err("this is no zram device".into()) };
        device.set("mem_limit", &bytes.to_string())
    }

    /// How much memory a zram device uses.
    pub(crate) fn memory_used(&self) -> Result<u64, String> {
        let Some(Device::Zram(device)) = &self.device else { return Err("this is no zram device".into()) };
        let state = device.get("mm_stat")?;
        state.split_whitespace().nth(2).and_then(|used| used.parse().ok()).ok_or_else(|| format!("mm_stat: {state:?}"))
    }

    /// Keeps the directory, for somebody to look at.
    pub(crate) fn keep(self) -> PathBuf {
        if matches!(self.device, Some(Device::Loop(_) | Device::Zram(_))) {
            let copy = self.directory.path().join("copy");
            if let Err(error) = run(Command::new("cp").arg("--sparse=always").arg(self.path()).arg(&copy)) {
                eprintln!("the device could not be copied: {error}");
            }
        }
        let Place { device, mounted, directory } = self;
        drop(device);
        drop(mounted);
        directory.keep()
    }
}

/// What was cut off a file.
pub(crate) struct Tail {
    file: File,
    at: u64,
    bytes: Vec<u8>,
}

impl Tail {
    /// Puts it back.
    pub(crate) fn restore(self) -> Result<(), String> {
        self.file.write_all_at(&self.bytes, self.at).map_err(text)
    }
}

fn text(error: std::io::Error) -> String {
    error.to_string()
}
