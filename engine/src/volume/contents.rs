//! Reading and writing the superblock's copies on a device, and what else it may hold.

use std::ops::Range;

use siltstone_io::{Buffer, Device, Placement, WriteDurability};

use super::bytes::is_zero;
use super::signature::{LOOKED_AT_BYTES, recognised, recognised_between_copies};
use super::superblock::{
    AREA_BYTES, Defect, EXTENT_BYTES_MAX, EXTENT_BYTES_MIN, Found, SUPERBLOCK_BYTES, Superblock, VERSION, copy_offset,
    defects_of_copies, first_copy_is_whole, judge, was_never_finished,
};
use crate::{Error, Result};

/// How much is read at a time where a blank device is looked for; the area ends within the first piece.
const PIECE_BYTES: usize = 64 << 10;

/// Where a device is zero for so long from its beginning, and has no known mark at its end, it is blank.
pub(crate) const BLANK_BYTES: u64 = EXTENT_BYTES_MAX as u64;

const _: () = assert!(AREA_BYTES <= PIECE_BYTES && PIECE_BYTES <= EXTENT_BYTES_MIN as usize);

/// What is found at the beginning of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Contents {
    /// Nothing yet, or the remains of a creation that a crash cut short: a volume may be created here.
    Blank,
    /// A volume. It has no shards where its creation was cut short.
    Volume(Superblock),
}

/// Writes all copies; durable when it returns. After an error the device holds the old or the new generation.
pub(crate) async fn write_superblock(device: &Device, superblock: &Superblock) -> Result<()> {
    for pair in [[0, 1], [2, 3]] {
        for copy in pair {
            let offset = copy_offset(copy);
            let mut buffer = Buffer::heap(SUPERBLOCK_BYTES);
            superblock.encode(offset, &mut buffer[..SUPERBLOCK_BYTES]);
            let range = 0..SUPERBLOCK_BYTES;
            device.write(offset, buffer, range, WriteDurability::Cached, Placement::Metadata).await.0?;
        }
        if !mutant!(SuperblockFlushSkipped) {
            device.flush().await?;
        }
    }
    Ok(())
}

/// The copies of the superblock that are not whole, with their device offsets. For a volume that [`contents`] finds.
pub(crate) async fn damaged_copies(device: &Device) -> Result<Vec<(u64, String)>> {
    let area = read_area(device).await?;
    Ok(defects_of_copies(&area).into_iter().map(|(copy, reason)| (copy_offset(copy), reason)).collect())
}

async fn read_area(device: &Device) -> Result<Vec<u8>> {
    let length = device.len_bytes().min(AREA_BYTES as u64) as usize / SUPERBLOCK_BYTES * SUPERBLOCK_BYTES;
    let mut area = vec![0; AREA_BYTES];
    if length > 0 {
        let (result, buffer) = device.read(0, Buffer::heap(length), length).await;
        result?;
        area[..length].copy_from_slice(&buffer[..length]);
    }
    Ok(area)
}

/// Whether nothing stands behind the area, up to where the largest first extent ends: other formats may keep their first 64 KiB free.
async fn is_zero_behind_area(device: &Device) -> Result<bool> {
    let end = device.len_bytes().min(BLANK_BYTES) / PIECE_BYTES as u64 * PIECE_BYTES as u64;
    let mut buffer = Buffer::heap(PIECE_BYTES);
    for offset in (PIECE_BYTES as u64..end).step_by(PIECE_BYTES) {
        let (result, back) = device.read(offset, buffer, PIECE_BYTES).await;
        result?;
        buffer = back;
        if !is_zero(&buffer[..PIECE_BYTES]) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Reads the newest superblock.
///
/// # Errors
///
/// `NotAVolume`, `Version`, or `Corruption` where the area holds copies of which none is whole.
pub(crate) async fn contents(device: &Device) -> Result<Contents> {
    let area = read_area(device).await?;
    let bytes = device.len_bytes();
    let (copies, found) = judge(&area);
    match found {
        Some(Found::Volume(superblock)) => {
            // Who puts something else on a device may write over the first copy alone, or between the copies, and leave the others whole.
            let between = recognised_between_copies(&area);
            let over_first = if first_copy_is_whole(&area) { None } else { foreign(device).await? };
            if let Some(what) = between.or(over_first) {
                let reason = format!(
                    "it holds {what}, which was put over a volume; `siltstone format --force` would destroy it"
                );
                return Err(Error::NotAVolume { path: device.path().to_path_buf(), reason });
            }
            if !copies.is_empty() {
                mark!(SuperblockCopyDamaged);
            }
            return Ok(Contents::Volume(superblock));
        }
        Some(Found::Version(found)) => {
            return Err(Error::Version { path: device.path().to_path_buf(), found, supported: VERSION });
        }
        None => {}
    }
    // Creation begins by reserving extent 0: a shorter file that is not empty is something else, and so is one with anything behind the area.
    let may_be_blank = (bytes == 0 || bytes >= u64::from(EXTENT_BYTES_MIN)) && was_never_finished(&area);
    if may_be_blank && is_zero_behind_area(device).await? && foreign(device).await?.is_none() {
        return Ok(Contents::Blank);
    }
    let not_a_volume = |reason: String| Error::NotAVolume { path: device.path().to_path_buf(), reason };
    if copies.iter().all(|defect| matches!(defect, Defect::NoMagic)) {
        let least = EXTENT_BYTES_MIN;
        return Err(not_a_volume(if bytes < u64::from(least) {
            format!("it has {bytes} bytes, a volume at least {least}, and it does not begin with a superblock")
        } else {
            match foreign(device).await? {
                Some(what) => format!("it holds {what}, which `siltstone format --force` would destroy"),
                None => "there is no superblock in it, and it is not blank; `siltstone format --force` would destroy what is there".into(),
            }
        }));
    }
    let reasons: Vec<String> =
        copies.iter().enumerate().map(|(copy, defect)| format!("copy {copy}: {}", defect.reason())).collect();
    Err(Error::corruption("superblock", format!("no copy is whole ({})", reasons.join("; "))))
}

/// What a device holds that formatting it would destroy; `None` where it is blank.
pub(crate) async fn holds(device: &Device) -> Result<Option<String>> {
    match contents(device).await {
        Ok(Contents::Blank) => Ok(None),
        Ok(Contents::Volume(superblock)) if superblock.roots.is_empty() => Ok(None),
        Ok(Contents::Volume(_)) => Ok(Some("a Siltstone volume".into())),
        Err(Error::Version { found, .. }) => Ok(Some(format!("a Siltstone volume of format version {found}"))),
        Err(Error::Corruption(_)) => Ok(Some("a damaged Siltstone volume".into())),
        Err(Error::NotAVolume { .. }) => {
            Ok(Some(foreign(device).await?.map_or_else(|| "something, though nothing known".into(), str::to_owned)))
        }
        Err(other) => Err(other),
    }
}

/// What is known of the marks on a device.
async fn foreign(device: &Device) -> Result<Option<&'static str>> {
    let (head, tail) = (0..end_of_head(device), tail_of(device));
    let mut parts = Vec::new();
    for part in [head, tail] {
        let bytes = (part.end - part.start) as usize;
        if bytes == 0 {
            parts.push(Vec::new());
            continue;
        }
        let (result, buffer) = device.read(part.start, Buffer::heap(bytes), bytes).await;
        result?;
        parts.push(buffer[..bytes].to_vec());
    }
    Ok(recognised(&parts[0], &parts[1]))
}

/// The last bytes of a device, to its last block: sizes are rarely round.
fn tail_of(device: &Device) -> Range<u64> {
    let block = u64::from(device.geometry().logical_block_bytes);
    let end = device.len_bytes() / block * block;
    end.saturating_sub(LOOKED_AT_BYTES as u64) / block * block..end
}

fn end_of_head(device: &Device) -> u64 {
    tail_of(device).end.min(LOOKED_AT_BYTES as u64)
}

/// Destroys what a device holds, as far as anybody would look for it: the beginning, where a volume is made, and the end are zeroed. What lies between
/// is given back to the device where it takes that.
pub(crate) async fn wipe(device: &Device) -> Result<()> {
    let tail = tail_of(device);
    let step = u64::from(EXTENT_BYTES_MAX);
    for offset in (0..tail.end).step_by(step as usize) {
        if let Err(error) = device.discard(offset, step.min(tail.end - offset)).await {
            tracing::warn!(%error, "space is not given back to the device");
            break;
        }
    }
    let mut zeros = Buffer::heap(PIECE_BYTES);
    zeros.fill(0);
    for part in [0..tail.end.min(step), tail] {
        for offset in part.clone().step_by(PIECE_BYTES) {
            let bytes = (PIECE_BYTES as u64).min(part.end - offset) as usize;
            let (result, back) =
                device.write(offset, zeros, 0..bytes, WriteDurability::Cached, Placement::Metadata).await;
            result?;
            zeros = back;
        }
    }
    device.flush().await?;
    Ok(())
}
