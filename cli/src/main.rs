//! The `siltstone` command: runs the example job and looks into volumes.

mod backend;
mod clock;
mod format;
mod inspect;
mod job;
mod probe;
mod size;

use std::error::Error;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::format::FormatArgs;
use crate::inspect::{InfoArgs, ScanArgs, VerifyArgs};
use crate::job::FlightsArgs;
use crate::probe::ProbeArgs;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Siltstone, a storage engine for the state of stream operators.
#[derive(Parser)]
#[command(name = "siltstone", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a job whose state is in Siltstone.
    #[command(subcommand)]
    Job(Job),
    /// Make an empty volume on a device or in a file.
    Format(FormatArgs),
    /// Measure a device in seconds; a volume keeps the profile, from which the engine's I/O budget follows.
    Probe(ProbeArgs),
    /// Tell what is in a volume.
    Info(InfoArgs),
    /// Read every block of a volume and check every checksum and invariant; exit with 1 and a list where something is wrong.
    Verify(VerifyArgs),
    /// Print the keys and values of a keyspace in hexadecimal.
    Scan(ScanArgs),
}

#[derive(Subcommand)]
enum Job {
    /// A year of flights: windows, alerts, gaps and routes for each aircraft, exactly once.
    Flights(FlightsArgs),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "warn".into()))
        .with_writer(std::io::stderr)
        .init();
    let result: Result<ExitCode, Box<dyn Error>> = match cli.command {
        Command::Job(Job::Flights(args)) => job::run(&args).map(|()| ExitCode::SUCCESS).map_err(Into::into),
        Command::Format(args) => format::format(&args).map(|()| ExitCode::SUCCESS),
        Command::Probe(args) => probe::probe(&args).map(|()| ExitCode::SUCCESS),
        Command::Info(args) => inspect::info(&args).map(|()| ExitCode::SUCCESS),
        Command::Verify(args) => {
            inspect::verify(&args).map(|clean| if clean { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Command::Scan(args) => inspect::scan(&args).map(|()| ExitCode::SUCCESS),
    };
    result.unwrap_or_else(|error| {
        report(&*error);
        ExitCode::FAILURE
    })
}

/// One line: the error and its causes.
fn report(error: &(dyn Error + 'static)) {
    let mut line = format!("siltstone: {error}");
    let mut cause = error.source();
    while let Some(error) = cause {
        line.push_str(&format!(": {error}"));
        cause = error.source();
    }
    eprintln!("{line}");
}
