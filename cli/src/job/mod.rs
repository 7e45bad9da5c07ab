//! The flights job: a stateful stream operator on Siltstone, whose output is exactly-once.
//!
//! The job reads flights in order of time and keeps, for each aircraft, the state that [`state`] declares. The engine has no log here
//! ([`Durability::Checkpoint`]): after a crash the store is that of its last checkpoint, the source goes on from the position which
//! that checkpoint carries, and the outputs are cut to the lengths that it carries.
//!
//! 1. The source thread reads events ([`source`]).
//! 2. Each event is shipped to the shard of its tail number, several hundred at a time; their effects come back and are written in the
//!    order of the events ([`run`](mod@run)).
//! 3. Before an event is shipped whose time has reached the end of a window, everything in flight is awaited, and all shards fire their
//!    timers up to that time.
//! 4. Every so many events everything in flight is awaited, the outputs are made durable, and the barrier of a checkpoint is opened. The job
//!    goes on while the checkpoint becomes durable; one is under way at a time.
//! 5. At the end all timers fire, the routes are written, and a last checkpoint says that the job is finished.
//!
//! What a crash leaves: between 4 and the checkpoint's completion, outputs that are longer than the last complete checkpoint says; they are cut.

mod checkpoint;
mod error;
mod event;
mod output;
mod run;
mod source;
mod state;
mod summary;

use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;
use siltstone::{Durability, Engine, Options};

use crate::backend::Backend;
use crate::size;
use checkpoint::JobPosition;
use error::JobError;
use output::Outputs;
use run::Run;
use source::Source;
use state::Declarations;

/// Checkpoints that are kept; the job only ever needs the last.
const CHECKPOINTS_RETAINED: usize = 2;

/// The options of the job. All have defaults.
#[derive(Args, Debug)]
#[command(args_override_self = true)]
pub(crate) struct FlightsArgs {
    /// The events: CSV, plain or zstd, in order of event_time [default: data/flights.csv.zst of the repository]
    #[arg(long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// The state: a directory, or the file or device that is the volume
    #[arg(long, value_name = "PATH", default_value = "flights-store")]
    store: PathBuf,
    /// How a device is driven
    #[arg(long, value_enum, default_value_t = Backend::Auto)]
    backend: Backend,
    /// Poll for the device's completions, which it must have queues for
    #[arg(long)]
    polled: bool,
    /// The directory of the output files
    #[arg(long, value_name = "DIR", default_value = "flights-out")]
    output: PathBuf,
    /// Shards, one thread each; may differ from run to run [default: one for each CPU, at most 4]
    #[arg(long, value_name = "N")]
    shards: Option<usize>,
    /// Events between two checkpoints
    #[arg(long, value_name = "EVENTS", default_value_t = 20_000, value_parser = clap::value_parser!(u64).range(1..))]
    checkpoint_every: u64,
    /// The memory that the state may use, such as 64M
    #[arg(long, value_name = "SIZE", default_value = "256M", value_parser = size::parse)]
    memory: usize,
    /// Delete the state of earlier runs and start anew
    #[arg(long)]
    fresh: bool,
}

/// Runs the job, from the beginning or from where it was left, and prints its summary.
pub(crate) fn run(args: &FlightsArgs) -> Result<(), JobError> {
    let input = args.input.clone().map_or_else(default_input, Ok)?;
    let input_bytes = input_bytes(&input)?;
    if args.fresh {
        delete_store(&args.store)?;
    }
    let declarations = Declarations::new();
    let engine = Engine::open(declarations.register(options(args)))
        .map_err(|cause| JobError::Open { path: args.store.clone(), cause })?;

    let position = match engine.restored() {
        Some(checkpoint) => Some(
            JobPosition::decode(&checkpoint.bytes)
                .ok_or_else(|| JobError::OtherJob { path: args.store.clone(), name: checkpoint.name.clone() })?,
        ),
        None => None,
    };
    if let Some(position) = position {
        if position.input_bytes != input_bytes {
            return Err(JobError::OtherInput { path: input, expected: position.input_bytes, found: input_bytes });
        }
        if position.finished {
            Outputs::check(&args.output, &position.outputs)?;
            engine.close_blocking()?;
            println!(
                "the job is finished: {} events, outputs in {}; --fresh runs it anew",
                position.events,
                args.output.display()
            );
            return Ok(());
        }
        eprintln!("going on from checkpoint {}: {} events are done", position.name(), position.events);
    }
    let outputs = Outputs::open(&args.output, position.as_ref().map(|position| &position.outputs))?;
    let position = position.unwrap_or(JobPosition { input_bytes, ..JobPosition::default() });
    let source = Source::start(&input, position.source)?;
    let states = declarations.bind(&engine)?;
    let summary =
        Run::new(engine, states, outputs, position, args.checkpoint_every).finish_job(&source, &args.output)?;
    println!("{summary}");
    Ok(())
}

fn options(args: &FlightsArgs) -> Options {
    let shards =
        args.shards.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, |cpus| cpus.get().min(4)));
    args.backend
        .apply(Options::at(&args.store))
        .polled(args.polled)
        .shards(shards)
        .memory(args.memory)
        .durability(Durability::Checkpoint)
        .checkpoints_retained(CHECKPOINTS_RETAINED)
}

/// The input that ships with the repository: looked for in the current directory, and where this program was built.
fn default_input() -> Result<PathBuf, JobError> {
    let tried = vec![
        PathBuf::from("data/flights.csv.zst"),
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../data/flights.csv.zst"),
    ];
    tried.iter().find(|path| path.exists()).cloned().ok_or(JobError::NoInput { tried })
}

fn input_bytes(path: &Path) -> Result<u64, JobError> {
    fs::metadata(path)
        .map(|metadata| metadata.len())
        .map_err(|cause| JobError::Input { path: path.to_path_buf(), cause })
}

/// Deletes the volume of earlier runs, if there is one: only a file that opens as a volume, and that nobody else has open.
fn delete_store(path: &Path) -> Result<(), JobError> {
    let file = if path.is_dir() { path.join(siltstone::VOLUME_FILE_NAME) } else { path.to_path_buf() };
    if !file.exists() {
        return Ok(());
    }
    match Engine::open(Options::at(path).create(false).read_only(true)) {
        Ok(engine) => engine.close_blocking()?,
        // A damaged or older volume is ours all the same.
        Err(siltstone::Error::Corruption(_) | siltstone::Error::Version { .. }) => {}
        Err(cause) => return Err(JobError::NotOurs { path: file, cause }),
    }
    if file.is_file() {
        return fs::remove_file(&file).map_err(|cause| JobError::Delete { path: file, cause });
    }
    // A device stays, empty.
    siltstone::format(&Options::at(path), 0, true).map_err(|cause| JobError::NotOurs { path: file, cause })
}
