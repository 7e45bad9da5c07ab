//! Places for tests: block devices (loop devices on a file, compressed memory) and filesystems of their own. All need root; all go with the value,
//! whatever happens.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Runs a program to its end and gives what it printed.
///
/// # Errors
/// What it said, where it could not be started or failed.
pub fn run(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim())),
    }
}

/// Whether a place that cannot be had is a failure: `SILTSTONE_TEST_PLACES=all` says that this machine must have them.
///
/// # Panics
/// When it says anything else.
#[expect(clippy::disallowed_methods, reason = "what the machine must have is not part of any run")]
pub fn all_must_be_had() -> bool {
    let Ok(places) = std::env::var("SILTSTONE_TEST_PLACES") else { return false };
    assert_eq!(places, "all", "SILTSTONE_TEST_PLACES is \"all\" or not set");
    true
}

/// The place; or nothing, which is said, where it cannot be had.
///
/// # Panics
/// Then, where the machine must have it.
pub fn or_skipped<T>(place: Result<T, String>) -> Option<T> {
    match place {
        Ok(place) => Some(place),
        Err(why) if all_must_be_had() => panic!("SILTSTONE_TEST_PLACES=all, and still: {why}"),
        Err(why) => {
            eprintln!("skipped: {why}");
            None
        }
    }
}

/// The devices that `SILTSTONE_TEST_DEVICES` names, with commas between them. What is on them is destroyed.
#[expect(clippy::disallowed_methods, reason = "tests are told by their environment where they may write")]
pub fn named_devices() -> Vec<PathBuf> {
    let named = std::env::var("SILTSTONE_TEST_DEVICES").unwrap_or_default();
    let devices: Vec<PathBuf> = named.split(',').filter(|path| !path.is_empty()).map(PathBuf::from).collect();
    if devices.is_empty() {
        eprintln!("skipped: SILTSTONE_TEST_DEVICES names no device");
    }
    devices
}

/// A loop device on a file.
#[derive(Debug)]
pub struct LoopDevice {
    device: PathBuf,
    image: PathBuf,
    /// The kernel detaches a device that was told to when the last who has it open is gone: even after a SIGKILL of this process.
    _open: File,
}

impl LoopDevice {
    /// On a new file of this size. With `block_bytes` as its logical block, and past the page cache, where that is given.
    ///
    /// # Errors
    /// Why there is none.
    pub fn new(image: &Path, bytes: u64, block_bytes: Option<u32>) -> Result<LoopDevice, String> {
        File::create(image).and_then(|file| file.set_len(bytes)).map_err(|error| error.to_string())?;
        LoopDevice::on(image, block_bytes)
    }

    /// On an existing file.
    ///
    /// # Errors
    /// Why there is none.
    pub fn on(image: &Path, block_bytes: Option<u32>) -> Result<LoopDevice, String> {
        let mut attach = Command::new("losetup");
        attach.args(["--find", "--show"]);
        if let Some(block_bytes) = block_bytes {
            attach.args(["--direct-io=on", "--sector-size", &block_bytes.to_string()]);
        }
        let found = run(attach.arg(image))?;
        let device = PathBuf::from(found.trim());
        let open = OpenOptions::new().read(true).open(&device).map_err(|error| error.to_string());
        let detached = run(Command::new("losetup").arg("-d").arg(&device));
        let device = LoopDevice { device, image: image.to_owned(), _open: open? };
        detached.map(|_| device)
    }

    /// Its node.
    pub fn path(&self) -> &Path {
        &self.device
    }

    /// The file below.
    pub fn image(&self) -> &Path {
        &self.image
    }
}

/// A block device in compressed memory.
#[derive(Debug)]
pub struct ZramDevice {
    device: PathBuf,
    number: u32,
}

impl ZramDevice {
    /// Of this size.
    ///
    /// # Errors
    /// Why there is none.
    pub fn new(bytes: u64) -> Result<ZramDevice, String> {
        let added = std::fs::read_to_string("/sys/class/zram-control/hot_add")
            .map_err(|error| format!("no zram device can be had (/sys/class/zram-control/hot_add: {error})"))?;
        let number = added.trim().parse().map_err(|_| format!("hot_add gives {added:?}"))?;
        let device = ZramDevice { device: PathBuf::from(format!("/dev/zram{number}")), number };
        device.set("disksize", &bytes.to_string())?;
        Ok(device)
    }

    /// Its node.
    pub fn path(&self) -> &Path {
        &self.device
    }

    /// What the kernel says of it.
    pub fn get(&self, name: &str) -> Result<String, String> {
        std::fs::read_to_string(self.attribute(name)).map_err(|error| error.to_string())
    }

    /// Tells the kernel something of it.
    pub fn set(&self, name: &str, value: &str) -> Result<(), String> {
        std::fs::write(self.attribute(name), value).map_err(|error| format!("{name} of zram{}: {error}", self.number))
    }

    fn attribute(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/sys/block/zram{}/{name}", self.number))
    }
}

impl Drop for ZramDevice {
    fn drop(&mut self) {
        // A killed process's ring may hold the device for a moment longer.
        let remove = || std::fs::write("/sys/class/zram-control/hot_remove", self.number.to_string());
        if !patiently(|| self.set("reset", "1").is_ok() && remove().is_ok()) {
            eprintln!("zram{} could not be removed", self.number);
        }
    }
}

/// Filesystems that a volume's file may lie on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filesystem {
    /// ext4.
    Ext4,
    /// XFS.
    Xfs,
    /// btrfs.
    Btrfs,
}

impl Filesystem {
    /// All of them.
    pub const ALL: [Filesystem; 3] = [Filesystem::Ext4, Filesystem::Xfs, Filesystem::Btrfs];

    /// Its name, as `mount` knows it.
    pub fn name(self) -> &'static str {
        match self {
            Filesystem::Ext4 => "ext4",
            Filesystem::Xfs => "xfs",
            Filesystem::Btrfs => "btrfs",
        }
    }

    /// Makes an empty one on a device.
    fn make(self, device: &Path) -> Result<(), String> {
        let flags: &[&str] = if self == Filesystem::Ext4 { &["-q", "-F"] } else { &["-q", "-f"] };
        run(Command::new(format!("mkfs.{}", self.name())).args(flags).arg(device)).map(drop)
    }
}

/// A mounted filesystem, unmounted in the end.
#[derive(Debug)]
pub struct Mounted {
    at: PathBuf,
    /// What it is on.
    _device: Option<LoopDevice>,
}

impl Mounted {
    /// What XFS wants at least is 300 MiB.
    const BYTES: u64 = 512 << 20;

    /// An empty filesystem on a loop device with direct I/O, whose image lies in this folder; mounted below it.
    ///
    /// # Errors
    /// Why there is none.
    pub fn new(filesystem: Filesystem, folder: &Path) -> Result<Mounted, String> {
        let device = LoopDevice::new(&folder.join(filesystem.name()), Mounted::BYTES, Some(512))?;
        filesystem.make(device.path())?;
        let arguments = ["-t".as_ref(), filesystem.name().as_ref(), device.path().as_os_str()];
        let at = mount(&folder.join("mounted"), arguments)?;
        Ok(Mounted { at, _device: Some(device) })
    }

    /// A tmpfs of so many bytes at a new folder.
    ///
    /// # Errors
    /// Why there is none.
    pub fn tmpfs(at: &Path, bytes: u64) -> Result<Mounted, String> {
        let size = format!("size={bytes}");
        let at = mount(at, ["-t", "tmpfs", "-o", &size, "tmpfs"].map(AsRef::as_ref))?;
        Ok(Mounted { at, _device: None })
    }

    /// Changes its options, as `mount -o` has them.
    ///
    /// # Errors
    /// Why not.
    pub fn remount(&self, options: &str) -> Result<(), String> {
        let options = format!("remount,{options}");
        run(Command::new("mount").args(["-o", &options]).arg(&self.at)).map(drop)
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.at
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // A killed process's ring may hold a file for a moment longer.
        if !patiently(|| run(Command::new("umount").arg(&self.at)).is_ok()) {
            eprintln!("{} could not be unmounted", self.at.display());
        }
    }
}

fn mount<'a>(at: &Path, arguments: impl IntoIterator<Item = &'a OsStr>) -> Result<PathBuf, String> {
    std::fs::create_dir(at).map_err(|error| format!("{}: {error}", at.display()))?;
    run(Command::new("mount").args(arguments).arg(at))?;
    Ok(at.to_owned())
}

/// Whether it is done within two seconds.
#[expect(clippy::disallowed_methods, reason = "a real device is waited for in real time")]
fn patiently(mut done: impl FnMut() -> bool) -> bool {
    (0..200).any(|_| {
        let is_done = done();
        if !is_done {
            std::thread::sleep(Duration::from_millis(10));
        }
        is_done
    })
}
