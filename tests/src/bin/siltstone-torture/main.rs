//! `siltstone-torture`: real processes killed, places filled, devices that fail.
//!
//! The parent is the oracle: it starts this program again as a worker, which opens a real engine and writes at full speed, hears through a
//! pipe what the worker is about to do and what was acknowledged, kills it with SIGKILL at a random moment, starts the next one, has it read
//! everything back, and holds that against what it knows.

mod child;
mod clock;
mod cut;
mod errors;
mod fill;
mod history;
mod kill;
mod load;
mod oracle;
mod place;
mod points;
mod session;
mod suite;
mod wire;
mod worker;
mod write_log;

use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::cut::CutOptions;
use crate::place::{Place, PlaceKind};
use crate::points::{JudgeOptions, RecordOptions};
use crate::suite::Suite;
use crate::worker::WorkerOptions;

#[derive(Parser)]
#[command(name = "siltstone-torture", about = "Kills real engines, fills their disks and lets their devices fail")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Kills the process again and again under load and while it opens.
    Kill(Run),
    /// Fills the place, and makes space again.
    Fill(Run),
    /// Has the kernel return errors.
    Errors(Run),
    /// Cuts the power of virtual machines again and again, under load and while the engine opens.
    Cut(CutOptions),
    /// Runs a load on a device of dm-log-writes, and writes down what it does.
    Record(RecordOptions),
    /// Opens the volume of such a run at the flush points of its log.
    Judge(JudgeOptions),
    /// The process that is killed.
    #[command(hide = true)]
    Worker(WorkerOptions),
}

/// The last line says how many kills, acknowledged writes and failures there were; the exit status is 1 after a failure. Where a place cannot be
/// had, a line that begins with "skipped:" says why.
#[derive(Args)]
struct Run {
    /// Where the volume is.
    #[arg(long, default_value = "file")]
    place: PlaceKind,
    /// For how long.
    #[arg(long, default_value_t = 60.0)]
    seconds: f64,
    /// The first volume's seed; the next one's is one more. It decides what is done, not when the kernel does it.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// With this deliberate bug in the engine: a harness that does not fail then is worth nothing.
    #[arg(long)]
    mutant: Option<String>,
    /// Ends at this many volumes with failures.
    #[arg(long, default_value_t = 3)]
    failures_max: u64,
}

fn main() -> ExitCode {
    let (name, run, suite): (_, _, fn(_, _, _, &mut Suite) -> _) = match Cli::parse().command {
        Command::Kill(run) => ("kill", run, kill::run),
        Command::Fill(run) => ("fill", run, fill::run),
        Command::Errors(run) => ("errors", run, errors::run),
        Command::Record(options) => return points::record(&options),
        Command::Judge(options) => return points::judge(&options),
        Command::Cut(options) => return cut::run(&options),
        Command::Worker(options) => return worker::run(&options),
    };
    // Whether there is such a place is known before anything is done in it.
    if let Err(reason) = Place::new(run.place, 32 << 20, None) {
        println!("skipped: {reason}");
        return ExitCode::SUCCESS;
    }
    let place = format!("{:?}", run.place).to_lowercase();
    let mut figures = Suite::new(format!("siltstone-torture {name} --place {place} --seconds {}", run.seconds));
    figures.mutant = run.mutant;
    figures.failures_max = run.failures_max;
    let result = suite(run.place, run.seed, clock::now() + Duration::from_secs_f64(run.seconds), &mut figures);
    if let Err(reason) = &result {
        println!("FAILURE: {reason}");
    }
    match figures.summary() && result.is_ok() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}
