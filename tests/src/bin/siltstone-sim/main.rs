//! `siltstone-sim`: simulations of the whole engine under faults, from seeds.

#![expect(
    clippy::disallowed_methods,
    reason = "the command looks at the machine and its clock; the simulations do not"
)]

mod hashes;
mod mutants;
mod report;

use std::collections::BTreeSet;
use std::ops::Range;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use siltstone_tests::sim::{Canary, Limits, Plan, fault_names, run};

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
        #[arg(long, value_parser = parse_range)]
        seeds: Option<Range<u64>>,
        /// Ends after this long. Without a range of seeds they go on from 0 until then.
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
    /// Prints each seed and the hash of its trace: two processes must print the same.
    Hashes {
        /// The seeds, as A..B.
        #[arg(long, value_parser = parse_range)]
        seeds: Range<u64>,
        /// Threads; each runs one simulation at a time.
        #[arg(long, default_value_t = 1)]
        threads: usize,
    },
    /// Runs one seed, and says what it did.
    Repeat {
        /// The seed.
        seed: u64,
        #[command(flatten)]
        limits: LimitArgs,
    },
    /// Switches deliberate bugs of the engine on, one after the other, and runs seeds until each is found; then the checks that must always
    /// fail. The last line says how many were caught; the exit status is 1 where one was not.
    Mutants {
        /// The most seeds for each.
        #[arg(long, default_value_t = 1000)]
        seeds: u64,
        /// The most seconds for each.
        #[arg(long, default_value_t = 120)]
        seconds: u64,
        /// Only those whose name contains this.
        #[arg(long)]
        only: Option<String>,
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
    /// Switches a deliberate bug of the engine on.
    #[arg(long)]
    mutant: Option<String>,
    /// A check that must always fail, by its name.
    #[arg(long, value_parser = parse_canary)]
    canary: Option<Canary>,
}

impl LimitArgs {
    fn limits(self) -> Limits {
        let mut without: BTreeSet<String> = self.without.into_iter().collect();
        if without.remove("all") {
            without.extend(fault_names().map(str::to_owned));
        }
        if let Some(mutant) = &self.mutant {
            siltstone::testing::mutants::activate(Some(mutant));
        }
        Limits {
            lives: self.lives,
            rounds: self.rounds,
            clients: self.clients,
            steps: self.steps,
            without,
            verbose: self.verbose,
            canary: self.canary,
        }
    }
}

fn parse_range(text: &str) -> Result<Range<u64>, String> {
    let (from, to) = text.split_once("..").ok_or("seeds are given as A..B")?;
    let number = |text: &str| text.parse::<u64>().map_err(|error| format!("{text:?}: {error}"));
    let range = number(from)?..number(to)?;
    if range.is_empty() { Err("there are no seeds in that range".into()) } else { Ok(range) }
}

fn parse_canary(text: &str) -> Result<Canary, String> {
    let found = Canary::ALL.iter().find(|plan| plan.name == text);
    found.map(|plan| plan.canary).ok_or_else(|| {
        let names: Vec<&str> = Canary::ALL.iter().map(|plan| plan.name).collect();
        format!("one of {names:?}")
    })
}

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Run { seeds, minutes, threads, twice, coverage, failures_max, limits } => {
            let threads = threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
            report::run(report::Run {
                endless: seeds.is_none(),
                seeds: seeds.unwrap_or(0..1000),
                minutes,
                threads,
                twice,
                coverage,
                failures_max,
                limits: limits.limits(),
            })
        }
        Command::Hashes { seeds, threads } => hashes::run(seeds, threads),
        Command::Repeat { seed, limits } => repeat(seed, &limits.limits()),
        Command::Mutants { seeds, seconds, only } => mutants::run(seeds, seconds, only.as_deref()),
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
