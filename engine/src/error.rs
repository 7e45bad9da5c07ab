//! What can go wrong, kept apart by what the caller can do about it.

use std::path::PathBuf;

/// The result of everything that can fail in the engine.
pub type Result<T> = std::result::Result<T, Error>;

/// What went wrong.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The device or the operating system refused or failed.
    #[error("{0}")]
    Io(#[from] siltstone_io::IoError),

    /// Stored bytes are not what was written: bit rot, a lost or misdirected write, a truncated file. They are never returned as data.
    #[error("{0}")]
    Corruption(Box<Corruption>),

    /// No space for the write. Reads still work; free space or enlarge the device, then try again. A write that waited for the log when space
    /// ran out may take effect all the same once there is space.
    #[error("no space left on the volume: {0}")]
    NoSpace(String),

    /// An earlier write or flush failed, so what is on the device is unknown; the shard serves reads only. Reopen the volume to recover.
    #[error("shard {shard} is read-only since a write failed: {cause}; reopen the volume to recover")]
    Poisoned {
        /// The shard.
        shard: u16,
        /// The failure that caused it.
        cause: String,
    },

    /// The file is not a Siltstone volume.
    #[error("{} is not a Siltstone volume: {reason}", path.display())]
    NotAVolume {
        /// What was opened.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },

    /// The volume was written in a format that this build does not know.
    #[error("{} has format version {found}; this build reads version {supported}: use a build that knows it", path.display())]
    Version {
        /// What was opened.
        path: PathBuf,
        /// The version found.
        found: u32,
        /// The version that this build reads and writes.
        supported: u32,
    },

    /// An option, key or value is out of range; says which and what is allowed.
    #[error("{0}")]
    InvalidArgument(String),

    /// There is no keyspace, checkpoint or volume of this name.
    #[error("{0}")]
    NotFound(String),

    /// The volume was opened read-only.
    #[error("the volume is open read-only")]
    ReadOnly,

    /// A stored value does not decode as the type that was asked for.
    #[error("cannot decode {what}: {reason}")]
    Codec {
        /// What was decoded.
        what: &'static str,
        /// Why it failed.
        reason: String,
    },

    /// Something else must end first; says what.
    #[error("busy: {0}")]
    Busy(String),

    /// The engine has been closed.
    #[error("the engine is closed")]
    Closed,
}

/// Where damage was found and what it looks like.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("corruption in {structure}{}{}: {reason}", at(.shard, "shard"), at(.offset, "at byte"))]
pub struct Corruption {
    /// What kind of block it is ("data block", "superblock", "log block", ...).
    pub structure: &'static str,
    /// The shard that found it, where known.
    pub shard: Option<u64>,
    /// The byte offset on the device, where known (within the SST where not).
    pub offset: Option<u64>,
    /// What was expected and what was found.
    pub reason: String,
}

fn at(value: &Option<u64>, what: &str) -> String {
    value.map(|value| format!(" ({what} {value})")).unwrap_or_default()
}

impl Error {
    /// Damage in a structure, its place not yet known: callers that know it add it with [`Error::located`].
    pub fn corruption(structure: &'static str, reason: impl Into<String>) -> Error {
        Error::Corruption(Box::new(Corruption { structure, shard: None, offset: None, reason: reason.into() }))
    }

    /// Adds shard and device offset to a corruption that lacks them; other errors pass unchanged.
    #[must_use]
    pub fn located(mut self, shard: u16, offset: u64) -> Error {
        if let Error::Corruption(corruption) = &mut self {
            corruption.shard.get_or_insert(u64::from(shard));
            corruption.offset.get_or_insert(offset);
        }
        self
    }

    /// Whether this is damage on the device.
    pub fn is_corruption(&self) -> bool {
        matches!(self, Error::Corruption(_))
    }
}
