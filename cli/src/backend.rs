//! How the store's path is driven, by name.

use clap::ValueEnum;
use siltstone::{DeviceKind, Options};

/// How a path may be driven.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Backend {
    /// The best that works
    Auto,
    /// A file of a filesystem
    File,
    /// A block device, through the block layer
    Block,
    /// An NVMe namespace, past the block layer
    Nvme,
}

impl Backend {
    pub(crate) fn apply(self, options: Options) -> Options {
        match self {
            Backend::Auto => options,
            Backend::File => options.device_kind(DeviceKind::File),
            Backend::Block => options.device_kind(DeviceKind::Block),
            Backend::Nvme => options.device_kind(DeviceKind::NvmePassthrough),
        }
    }
}
