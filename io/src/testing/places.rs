//! Block devices for tests: loop devices on a file, and compressed memory (zram). Both need root; both go with the value, whatever happens.

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
    #[expect(clippy::disallowed_methods, reason = "a real device is waited for in real time")]
    fn drop(&mut self) {
        // A killed process's ring may hold the device for a moment longer.
        for _ in 0..200 {
            if self.set("reset", "1").is_ok()
                && std::fs::write("/sys/class/zram-control/hot_remove", self.number.to_string()).is_ok()
            {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        eprintln!("zram{} could not be removed", self.number);
    }
}
