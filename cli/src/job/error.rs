//! What can stop the job, and what to do about it.

use std::io;
use std::path::PathBuf;

/// Why the job stopped.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JobError {
    /// The default input is not where it should be.
    #[error("no input: there is no {}; pass the file with --input FILE", tried.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(" and no "))]
    NoInput { tried: Vec<PathBuf> },

    /// The input cannot be opened or read.
    #[error("cannot read the input {} (--input)", path.display())]
    Input {
        path: PathBuf,
        #[source]
        cause: io::Error,
    },

    /// A row of the input is not as it should be.
    #[error("{} line {line}: {reason}", path.display())]
    Row { path: PathBuf, line: u64, reason: String },

    /// The store's last checkpoint was made with another input.
    #[error(
        "the store has the state of a run over another input ({expected} bytes, {} has {found}): give that input, another --store, or --fresh to start anew",
        path.display()
    )]
    OtherInput { path: PathBuf, expected: u64, found: u64 },

    /// The store's last checkpoint is not one of this job.
    #[error("the store {} has checkpoint {name}, which is none of this job's: give another --store", path.display())]
    OtherJob { path: PathBuf, name: String },

    /// An output file cannot be written.
    #[error("cannot write {} (--output)", path.display())]
    Output {
        path: PathBuf,
        #[source]
        cause: io::Error,
    },

    /// An output file is shorter than it was at the checkpoint.
    #[error(
        "{} has {found} bytes, but had {expected} at the checkpoint from which the job would go on: put it back, or start anew with --fresh",
        path.display()
    )]
    OutputLost { path: PathBuf, expected: u64, found: u64 },

    /// What `--fresh` would delete is not ours.
    #[error("--fresh does not delete {}: give another --store", path.display())]
    NotOurs {
        path: PathBuf,
        #[source]
        cause: siltstone::Error,
    },

    /// The store of an earlier run cannot be deleted.
    #[error("cannot delete {}", path.display())]
    Delete {
        path: PathBuf,
        #[source]
        cause: io::Error,
    },

    /// The store cannot be opened.
    #[error("cannot open the store {} (--store)", path.display())]
    Open {
        path: PathBuf,
        #[source]
        cause: siltstone::Error,
    },

    /// The engine failed on the way.
    #[error("the store failed; run the same command again to go on from the last checkpoint")]
    Store(#[from] siltstone::Error),

    /// The reading thread cannot be started.
    #[error("cannot start a thread")]
    Thread(#[source] io::Error),
}
