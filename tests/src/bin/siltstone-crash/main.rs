//! `siltstone-crash`: every state in which a power failure may leave the device, by the recorded I/O of real runs.

mod large;
mod report;
mod small;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use siltstone_tests::enumerate::{Limits, Trace, small::Small};

#[derive(Parser)]
#[command(
    name = "siltstone-crash",
    about = "Works out from recorded I/O in which states a power failure may leave a volume, and recovers each"
)]
struct Cli {
    /// Switches this deliberate bug on.
    #[arg(long, global = true)]
    mutant: Option<String>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// All workloads of up to three operations and two flushes on two keys, on the simulated disk. The last line says how many crash states,
    /// workloads and failures there were; the exit status is 1 after a failure.
    Small {
        /// Shards: 1, 2, or both without this.
        #[arg(long)]
        shards: Option<usize>,
        /// Only every so manieth workload. Without the factors 2 and 3, which would leave out ends of workloads.
        #[arg(long, default_value_t = 1)]
        every: usize,
        /// Only this workload, such as sync/2:P1,F,D1.
        #[arg(long)]
        only: Option<Small>,
        #[command(flatten)]
        effort: Effort,
    },
    /// Runs with flushes, compactions and checkpoints on a real file, through the real ring; of each some crash states.
    Run {
        /// For how long.
        #[arg(long, default_value_t = 60.0)]
        seconds: f64,
        /// The first run's seed.
        #[arg(long, default_value_t = 0)]
        seed: u64,
        /// Shards of the runs.
        #[arg(long, default_value_t = 2)]
        shards: usize,
        /// Batches written in each run.
        #[arg(long, default_value_t = 400)]
        batches: u64,
        /// Crash states of each run.
        #[arg(long, default_value_t = 300)]
        states: u64,
        /// A directory for the volumes and traces; those of failures stay. A temporary one without this.
        #[arg(long)]
        directory: Option<PathBuf>,
        /// Ends at this many failures.
        #[arg(long, default_value_t = 3)]
        failures_max: usize,
    },
    /// The crash states of a recorded trace.
    Check {
        /// The trace.
        trace: PathBuf,
        /// Only the crash point before this record.
        #[arg(long)]
        point: Option<usize>,
        /// Other numbers of shards are tried too.
        #[arg(long)]
        rescale: bool,
        #[command(flatten)]
        effort: Effort,
    },
    /// Records a run on a real file, without crashes.
    Record {
        /// The trace to write.
        trace: PathBuf,
        /// Decides what the run does.
        #[arg(long, default_value_t = 0)]
        seed: u64,
        /// Shards.
        #[arg(long, default_value_t = 2)]
        shards: usize,
        /// Batches written.
        #[arg(long, default_value_t = 400)]
        batches: u64,
    },
    /// Prints a trace, a line for each record.
    Show {
        /// The trace.
        trace: PathBuf,
    },
}

#[derive(Args)]
struct Effort {
    /// At a crash point with at most this many states all are tried.
    #[arg(long, default_value_t = 1 << 10)]
    states_max: u64,
    /// At one with more, so many of them.
    #[arg(long, default_value_t = 64)]
    samples: u64,
    /// Decides which.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Threads.
    #[arg(long)]
    threads: Option<usize>,
    /// Ends at this many failures.
    #[arg(long, default_value_t = 3)]
    failures_max: usize,
}

impl Effort {
    fn limits(&self) -> Limits {
        let Effort { states_max, samples, seed, .. } = *self;
        Limits { states_max, samples, seed, ..Limits::default() }
    }

    #[expect(clippy::disallowed_methods, reason = "each workload is a run of its own, whoever runs it")]
    fn threads(&self) -> usize {
        self.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from))
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    siltstone::testing::mutants::activate(cli.mutant.as_deref());
    let ended = match cli.command {
        Command::Small { shards, every, only, effort } => Ok(small::run(shards, every, only, &effort)),
        Command::Run { seconds, seed, shards, batches, states, directory, failures_max } => {
            large::run(&large::Runs { seconds, seed, shards, batches, states, directory, failures_max })
        }
        Command::Check { trace, point, rescale, effort } => {
            let limits = Limits { only: point, rescale, failures_max: effort.failures_max, ..effort.limits() };
            large::check(&trace, &limits)
        }
        Command::Record { trace, seed, shards, batches } => large::record(&trace, seed, shards, batches),
        Command::Show { trace } => read(&trace).map(|trace| show(&trace)),
    };
    ended.unwrap_or_else(|error| {
        eprintln!("{error}");
        ExitCode::from(2)
    })
}

fn read(path: &std::path::Path) -> Result<Trace, String> {
    let bytes = std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
    Trace::parse(bytes)
}

fn show(trace: &Trace) -> ExitCode {
    for (number, event) in trace.events.iter().enumerate() {
        println!("{number:>8} {event:?}");
    }
    ExitCode::SUCCESS
}
