//! `format`: makes an empty volume, on a device or in a file.

use std::error::Error;
use std::path::PathBuf;

use clap::Args;
use siltstone::{Options, inspect};

use crate::size;

#[derive(Args, Debug)]
pub(crate) struct FormatArgs {
    /// The device, an existing file, or the directory of the file
    path: PathBuf,
    /// How much space the volume may use: at most the device's size, which is the default; a file is given all of it now
    #[arg(long, value_name = "BYTES", value_parser = size::parse)]
    size: Option<usize>,
    /// The size of an extent, the unit of space: a power of two from 64K to 16M
    #[arg(long, value_name = "BYTES", default_value = "1M", value_parser = size::parse)]
    extent: usize,
    /// The number of key groups: the most shards that the volume can ever have
    #[arg(long, value_name = "N", default_value_t = 1024)]
    key_groups: u32,
    /// Destroy what the device holds: a filesystem, a partition table, another volume
    #[arg(long)]
    force: bool,
}

/// Makes the volume and says what came of it.
pub(crate) fn format(args: &FormatArgs) -> Result<(), Box<dyn Error>> {
    let options = Options::at(&args.path).extent_bytes(args.extent).key_groups(args.key_groups);
    siltstone::format(&options, args.size.unwrap_or(0) as u64, args.force)?;
    let info = inspect::info(&args.path)?;
    println!(
        "{} is a volume of {} with extents of {} and {} key groups",
        info.path.display(),
        size::show(if info.capacity_bytes > 0 { info.capacity_bytes } else { info.device_bytes }),
        size::show(info.extent_bytes.into()),
        info.key_groups
    );
    Ok(())
}
