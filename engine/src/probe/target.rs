//! What a probe works on: what the path holds, and which of its bytes may be written.
//!
//! # Algorithm
//!
//! 1. The path is opened for reading, and looked at. Only where it is to be written (a volume, or anything with [`ProbeOptions::write`]) is it opened anew,
//!    for writing and exclusively, and looked at again: the second look counts.
//! 2. Of a volume, all manifests are read and what they refer to is marked, as the engine's opening does. Extents are then allocated as for an SST, and
//!    never referred to; in the end they are freed, with a discard.
//! 3. Of a blank device, the middle is used: what makes it count as blank, the first 16 MiB and the end, is not touched.
//! 4. In a directory, a new file is made and its name removed at once: when the probe ends, however it ends, the file is gone.

use std::ops::Range;
use std::path::{Path, PathBuf};

use siltstone_io::{Device, Handle, IoError, OpKind, OpenMode, Placement, SharedDevice};

use super::load::Area;
use super::{ProbeOptions, ProbeSubject};
use crate::engine::{Options, Place, mark_used, read_manifests};
use crate::error::{Error, Result};
use crate::types::ExtentId;
use crate::volume::{
    BLANK_BYTES, Contents, IoProfile, SUPERBLOCK_BYTES, Superblock, Volume, VolumeParts, contents, holds, wipe,
    write_superblock,
};

/// How much is written to, at most: more than disks have of their own memory for reads, and soon filled.
const SCRATCH_BYTES_MAX: u64 = 256 << 20;
/// With less there is no measuring of writes.
const SCRATCH_BYTES_MIN: u64 = 8 << 20;
/// What is left alone of a blank device's end.
const END_BYTES: u64 = 1 << 20;
/// Places on a blank device begin at multiples of this.
const ALIGNED_BYTES: u64 = 1 << 20;
/// Names that are tried for a temporary file: each is in use for a moment only.
const NAMES_MAX: u32 = 16;

/// An open device.
pub(super) struct Target {
    shared: SharedDevice,
    /// Where it can be opened again; `None` for a simulated disk and a temporary file.
    path: Option<PathBuf>,
    temporary: bool,
}

/// A device that is ready to be measured.
pub(super) struct Ready {
    pub(super) handle: Handle,
    pub(super) device: Device,
    pub(super) path: PathBuf,
    pub(super) subject: ProbeSubject,
    pub(super) area: Area,
    /// Why nothing of the area may be written; `None` where it may.
    pub(super) only_read: Option<String>,
    scratch: Scratch,
}

/// What is to be given back.
enum Scratch {
    Nothing,
    Extents { volume: Volume, superblock: Superblock, extents: Vec<ExtentId> },
    Blank(Range<u64>),
}

/// What a device holds.
enum Found {
    Volume(Superblock),
    Blank,
    Other(String),
    /// A volume that cannot be opened: of another version, or damaged.
    Closed(Error),
}

impl Target {
    /// Opens what the options name, for reading only, or makes a temporary file.
    pub(super) fn choose(options: &Options, measuring: &ProbeOptions) -> Result<Target> {
        let given = match &options.place {
            Place::Path(given) => given,
            Place::Simulated(disk, _) => {
                let shared = SharedDevice::simulated(disk.clone());
                return Ok(Target { shared, path: None, temporary: false });
            }
        };
        let path = options.place.path();
        if given.is_dir() && !path.exists() {
            return Ok(Target { shared: temporary_file(given)?, path: None, temporary: true });
        }
        let metadata =
            std::fs::metadata(&path).map_err(|_| Error::NotFound(format!("there is nothing at {}", path.display())))?;
        if metadata.is_file() && metadata.len() == 0 {
            let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
            let shared = temporary_file(parent.unwrap_or(Path::new(".")))?;
            return Ok(Target { shared, path: None, temporary: true });
        }
        let mode = if measuring.write { OpenMode::ReadWrite } else { OpenMode::ReadOnly };
        Ok(Target { shared: options.open_path(mode)?, path: Some(path), temporary: false })
    }

    pub(super) fn device(&self) -> &SharedDevice {
        &self.shared
    }

    /// Finds out what may be written, and reserves it.
    pub(super) async fn prepare(self, handle: &Handle, options: &Options, measuring: &ProbeOptions) -> Result<Ready> {
        let mut shared = self.shared;
        let mut device = handle.attach(&shared)?;
        let ready = |device: Device, subject, area, only_read, scratch| Ready {
            handle: handle.clone(),
            path: device.path().to_path_buf(),
            device,
            subject,
            area,
            only_read,
            scratch,
        };
        if self.temporary {
            let area = allocated(&device).await?;
            return Ok(ready(device, ProbeSubject::TemporaryFile, area, None, Scratch::Nothing));
        }
        let mut found = look(&device).await?;
        if let (Found::Volume(_), Some(path), false) = (&found, &self.path, measuring.write) {
            drop(device);
            drop(shared);
            shared = options.open_path(OpenMode::ReadWrite)?;
            device = handle.attach(&shared)?;
            found = match look(&device).await? {
                Found::Volume(superblock) => Found::Volume(superblock),
                _ => return Err(Error::Busy(format!("{} was changed while it was looked at", path.display()))),
            };
        }
        let (subject, only_read) = match found {
            Found::Volume(superblock) => {
                let parts = VolumeParts::new(shared, &superblock, options.capacity_bytes)?;
                let volume = Volume::new(parts, device.clone(), handle.clone(), None);
                let extents = reserved(&volume, &superblock).await?;
                let area = area_of(&volume, &extents);
                if area.bytes() >= SCRATCH_BYTES_MIN {
                    let scratch = Scratch::Extents { volume, superblock, extents };
                    return Ok(ready(device, ProbeSubject::Volume, area, None, scratch));
                }
                volume.free_extents(extents).await;
                (ProbeSubject::Volume, format!("the volume has only {} bytes of free space", area.bytes()))
            }
            Found::Blank | Found::Other(_) | Found::Closed(_) if !measuring.write => {
                (ProbeSubject::Other, "it is no volume, and `--write` was not given".into())
            }
            // To destroy a volume is what `format` is for.
            Found::Closed(error) => return Err(error),
            Found::Other(what) if !measuring.force => {
                let reason = format!("it holds {what}, which `--write --force` would destroy");
                return Err(Error::NotAVolume { path: device.path().to_path_buf(), reason });
            }
            found => {
                if let Found::Other(_) = found {
                    wipe(&device).await?;
                }
                let range = middle_of_blank(&device);
                let area = Area::new([range.clone()]);
                if area.bytes() >= SCRATCH_BYTES_MIN {
                    return Ok(ready(device, ProbeSubject::Other, area, None, Scratch::Blank(range)));
                }
                (ProbeSubject::Other, format!("it has only {} bytes", device.len_bytes()))
            }
        };
        let end = device.len_bytes() / SUPERBLOCK_BYTES as u64 * SUPERBLOCK_BYTES as u64;
        if end == 0 {
            let reason = format!("{} has nothing to read: {only_read}", device.path().display());
            return Err(Error::InvalidArgument(reason));
        }
        let whole = Area::new(std::iter::once(0..end));
        Ok(ready(device, subject, whole, Some(only_read), Scratch::Nothing))
    }
}

impl Ready {
    /// Bytes that earlier probes of the volume have written.
    pub(super) fn probed_before(&self) -> u64 {
        match &self.scratch {
            Scratch::Extents { superblock, .. } => superblock.profile.map_or(0, |profile| profile.probed_bytes),
            Scratch::Nothing | Scratch::Blank(_) => 0,
        }
    }

    /// Gives back what was written to. Whether it can be given back to the device makes no difference to what is there.
    pub(super) async fn give_back(&mut self) {
        match &mut self.scratch {
            Scratch::Nothing => {}
            Scratch::Extents { volume, extents, .. } => volume.free_extents(std::mem::take(extents)).await,
            Scratch::Blank(range) => {
                if let Err(error) = self.device.discard(range.start, range.end - range.start).await {
                    tracing::warn!(%error, "space is not given back to the device");
                }
            }
        }
    }

    /// Stores the profile in the volume, where there is one.
    pub(super) async fn store(&self, profile: IoProfile) -> Result<bool> {
        let Scratch::Extents { superblock, .. } = &self.scratch else { return Ok(false) };
        let mut superblock = superblock.next(superblock.roots.clone());
        superblock.profile = Some(profile);
        superblock.check().map_err(Error::InvalidArgument)?;
        write_superblock(&self.device, &superblock).await?;
        Ok(true)
    }
}

async fn look(device: &Device) -> Result<Found> {
    match contents(device).await {
        Ok(Contents::Volume(superblock)) if !superblock.roots.is_empty() => return Ok(Found::Volume(superblock)),
        Err(error @ Error::Io(_)) => return Err(error),
        Err(error @ (Error::Version { .. } | Error::Corruption(_))) => return Ok(Found::Closed(error)),
        _ => {}
    }
    Ok(holds(device).await?.map_or(Found::Blank, Found::Other))
}

/// Free extents of a volume, their space reserved.
async fn reserved(volume: &Volume, superblock: &Superblock) -> Result<Vec<ExtentId>> {
    let manifests = read_manifests(volume, superblock).await?;
    mark_used(volume, manifests).await?;
    // What was read may be in the device's cache alone, where an earlier process has not lived to flush it. A power failure would take it back, and
    // with it that these extents are free: so it is made durable before anything is written to them.
    volume.flush().await?;
    let wanted = SCRATCH_BYTES_MAX / u64::from(superblock.extent_bytes);
    let mut extents = Vec::new();
    while (extents.len() as u64) < wanted {
        match volume.allocate_extent(Placement::Deep).await {
            Ok(extent) => extents.push(extent),
            Err(Error::NoSpace(_)) => {
                let (used, all) = volume.parts().usage();
                if used < all {
                    // The device has less than the volume may use: a filesystem, where others may need space meanwhile.
                    let more = extents.split_off(extents.len() / 2);
                    volume.free_extents(more).await;
                }
                break;
            }
            Err(error) => {
                volume.free_extents(extents).await;
                return Err(error);
            }
        }
    }
    extents.sort_unstable();
    Ok(extents)
}

/// Where extents lie.
fn area_of(volume: &Volume, extents: &[ExtentId]) -> Area {
    let parts = volume.parts();
    Area::new(extents.iter().map(|&extent| {
        let offset = parts.offset(extent);
        offset..offset + u64::from(parts.extent_bytes())
    }))
}

/// What of a blank device may be written: nothing that makes it count as blank.
fn middle_of_blank(device: &Device) -> Range<u64> {
    let end = device.len_bytes().saturating_sub(END_BYTES) / ALIGNED_BYTES * ALIGNED_BYTES;
    BLANK_BYTES..end.clamp(BLANK_BYTES, BLANK_BYTES + SCRATCH_BYTES_MAX)
}

/// The space of a new file: as much as there is, within bounds.
async fn allocated(device: &Device) -> Result<Area> {
    let mut bytes = SCRATCH_BYTES_MAX;
    loop {
        match device.allocate(0, bytes).await {
            Ok(()) => return Ok(Area::new(std::iter::once(0..bytes))),
            Err(error) if error.is_no_space() && bytes > SCRATCH_BYTES_MIN => bytes /= 2,
            Err(error) if error.is_no_space() => return Err(Error::NoSpace(error.to_string())),
            Err(error) => return Err(error.into()),
        }
    }
}

/// A new file that has no name any more.
fn temporary_file(directory: &Path) -> Result<SharedDevice> {
    let mut names = (0..NAMES_MAX).map(|number| directory.join(format!(".siltstone-probe-{number}"))).peekable();
    while let Some(path) = names.next() {
        let shared = match SharedDevice::open(&path, OpenMode::Create) {
            Err(error) if error.is_exists() && names.peek().is_some() => continue,
            opened => opened?,
        };
        std::fs::remove_file(&path).map_err(|error| IoError::from_std(OpKind::Open, &path, &error))?;
        return Ok(shared);
    }
    unreachable!("the last name is opened or an error")
}
