//! `siltstone-sim`: simulations of the whole engine under faults, from seeds.

mod report;

use std::collections::BTreeSet;
use std::ops::Range;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use siltstone_tests::sim::{Limits, Plan, fault_names, run};

#[derive(Parser)]
#[command(name = "siltstone-sim", about = "Simulates whole engines on faulty disks, in virtual time, from seeds")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs many seeds. The last line says how many seeds, operations and failures there were; the exit status is 1 after a failure.
    Run {
        /// The seeds, as A..B.
        #[arg(long, value_parser = parse_range, default_value = "0..1000")]
        seeds: Range<u64>,
        /// Goes on with further seeds for this long instead of to the end of the range.
        #[arg(long)]
        minutes: Option<f64>,
        /// Threads; each runs one simulation at a time.
        #[arg(long)]
        threads: Option<usize>,
        /// Runs each seed twice, and fails where the two differ.
        #[arg(long)]
        twice: bool,
        /// Fails where a kind of fault or a recovery path was never hit.
        #[arg(long)]
        coverage: bool,
        /// Ends at this many failures.
        #[arg(long, default_value_t = 10)]
        failures_max: u64,
        #[command(flatten)]
        limits: LimitArgs,
    },
    /// Runs one seed, and says what it did.
    Repeat {
        /// The seed.
        seed: u64,
        #[command(flatten)]
        limits: LimitArgs,
    },
    /// Shortens the history of a seed that fails, and prints the command that repeats what is left.
    Shrink {
        /// The seed.
        seed: u64,
    },
}

#[derive(Args)]
struct LimitArgs {
    /// At most so many lives before the last.
    #[arg(long)]
    lives: Option<u32>,
    /// At most so many rounds in a life.
    #[arg(long)]
    rounds: Option<u32>,
    /// At most so many clients.
    #[arg(long)]
    clients: Option<u32>,
    /// At most so many steps of a client in a round.
    #[arg(long)]
    steps: Option<u32>,
    /// Without these faults (names as in the plan that `repeat` prints, or "all").
    #[arg(long, value_delimiter = ',')]
    without: Vec<String>,
    /// Tells of each life and opening.
    #[arg(long, short)]
    verbose: bool,
}

impl LimitArgs {
    fn limits(self) -> Limits {
        let mut without: BTreeSet<String> = self.without.into_iter().collect();
        if without.remove("all") {
            without.extend(fault_names().map(str::to_owned));
        }
        Limits { lives: self.lives, rounds: self.rounds, clients: self.clients, steps: self.steps, without, verbose: self.verbose }
    }
}

fn parse_range(text: &str) -> Result<Range<u64>, String> {
    let (from, to) = text.split_once("..").ok_or("seeds are given as A..B")?;
    let number = |text: &str| text.parse::<u64>().map_err(|error| format!("{text:?}: {error}"));
    let range = number(from)?..number(to)?;
    if range.is_empty() { Err("there are no seeds in that range".into()) } else { Ok(range) }
}

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Run { seeds, minutes, threads, twice, coverage, failures_max, limits } => {
            let threads = threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
            report::run(report::Run {
                seeds,
                minutes,
                threads,
                twice,
                coverage,
                failures_max,
                limits: limits.limits(),
            })
        }
        Command::Repeat { seed, limits } => repeat(seed, &limits.limits()),
        Command::Shrink { seed } => shrink(seed),
    }
}

fn repeat(seed: u64, limits: &Limits) -> ExitCode {
    println!("{:#?}", Plan::new(seed, limits));
    println!("faults: {:?}", Plan::new(seed, limits).fault_names());
    let outcome = run::simulate(seed, limits);
    for (what, count) in outcome.faults.iter().chain(&outcome.done) {
        println!("{count:>9} {what}");
    }
    println!("trace {:016x}, {} operations", outcome.trace, outcome.operations);
    match outcome.failure {
        None => {
            println!("no failure");
            ExitCode::SUCCESS
        }
        Some(failure) => {
            report::print_failure(seed, limits, &failure);
            ExitCode::FAILURE
        }
    }
}

fn shrink(seed: u64) -> ExitCode {
    let shrunk = run::shrink(seed, |limits, failure| {
        let first = failure.lines().next().unwrap_or_default();
        println!("{}: {first}", report::flags(limits));
    });
    match shrunk {
        None => {
            println!("seed {seed} does not fail");
            ExitCode::SUCCESS
        }
        Some((limits, failure)) => {
            report::print_failure(seed, &limits, &failure);
            ExitCode::FAILURE
        }
    }
}
