//! Looking at a volume that no engine has open: [`info`] tells what is in it, [`verify`] reads and checks all of it.
//!
//! Both open the volume for reading only and change nothing. A volume that an engine has open is refused: its owner changes it.

mod info;
mod verify;

use std::path::Path;

use siltstone_io::{ExecutorConfig, Handle, OpenMode, SharedDevice, SimClock, SimDisk};

use crate::engine::{Place, on_executor, read_manifests};
use crate::error::{Error, Result};
use crate::manifest::FoundManifest;
use crate::volume::{Contents, Superblock, Volume, VolumeParts, contents};

pub use info::{KeyspaceInfo, LevelInfo, VolumeInfo};
pub use verify::{Problem, VerifyReport};

/// What is in a volume, from its superblock and manifests: a few reads.
pub fn info(path: impl AsRef<Path>) -> Result<VolumeInfo> {
    info_of(&Place::Path(path.as_ref().to_path_buf()))
}

/// Reads every block of a volume and checks every checksum and invariant: superblock copies, root pages, manifests, logs, and of every
/// SST the footer, directory, index, filters and data (order, bounds, counts, that each key is in its filter). `progress` is called
/// with the bytes read so far and the bytes there are.
///
/// # Errors
/// Only what keeps it from looking at all. Damage is listed in the report.
pub fn verify(path: impl AsRef<Path>, progress: impl FnMut(u64, u64)) -> Result<VerifyReport> {
    verify_of(&Place::Path(path.as_ref().to_path_buf()), progress)
}

/// [`info`] of a volume on a simulated disk.
pub fn info_simulated(disk: &SimDisk, clock: &SimClock) -> Result<VolumeInfo> {
    info_of(&Place::Simulated(disk.clone(), clock.clone()))
}

/// [`verify`] of a volume on a simulated disk.
pub fn verify_simulated(disk: &SimDisk, clock: &SimClock) -> Result<VerifyReport> {
    verify_of(&Place::Simulated(disk.clone(), clock.clone()), |_, _| ())
}

fn info_of(place: &Place) -> Result<VolumeInfo> {
    look(place, async |view| {
        let manifests = view.manifests().await?;
        Ok(info::collect(&view, &manifests))
    })
}

fn verify_of(place: &Place, mut progress: impl FnMut(u64, u64)) -> Result<VerifyReport> {
    look(place, async |view| verify::run(&view, &mut progress).await)
}

/// Opens the volume for looking and does some work on it.
fn look<T>(place: &Place, work: impl AsyncFnOnce(View) -> Result<T>) -> Result<T> {
    let device = match place {
        Place::Path(_) => {
            let path = place.path();
            if !path.exists() {
                return Err(Error::NotFound(format!("there is no volume at {}", path.display())));
            }
            SharedDevice::open(&path, OpenMode::ReadOnly)?
        }
        Place::Simulated(disk, _) => SharedDevice::simulated(disk.clone()),
    };
    let config = ExecutorConfig { name: "inspect".into(), ..ExecutorConfig::default() }.driving_device(&device);
    on_executor(config, place, async |handle| {
        let view = View::open(device, handle).await?;
        work(view).await
    })
}

/// A volume open for looking.
struct View {
    superblock: Superblock,
    volume: Volume,
}

impl View {
    async fn open(shared: SharedDevice, handle: Handle) -> Result<Self> {
        let device = handle.attach(&shared)?;
        let superblock = match contents(&device).await? {
            Contents::Volume(superblock) if !superblock.roots.is_empty() => superblock,
            Contents::Volume(_) | Contents::Blank => {
                return Err(Error::NotAVolume {
                    path: device.path().to_path_buf(),
                    reason: "it is empty, or its creation was cut short".into(),
                });
            }
        };
        let parts = VolumeParts::new(shared, &superblock, 0)?;
        let volume = Volume::new(parts, device, handle, None);
        Ok(View { superblock, volume })
    }

    async fn manifests(&self) -> Result<Vec<FoundManifest>> {
        read_manifests(&self.volume, &self.superblock).await
    }
}
