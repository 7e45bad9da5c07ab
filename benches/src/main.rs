//! Side-by-side benchmarks: the same work, from the same generators, on Siltstone and on its peers.
//!
//! `compare` runs the engines interleaved, round by round, and prints medians and ratios. Each run of an engine is a
//! process of its own (this binary again), so that CPU time, device traffic and peak memory are that engine's alone and no
//! allocator or cache state is left over from its neighbour. `io` measures the limit under them: random reads by a bare ring, and what the I/O layer costs.
//! `interference` measures what reads suffer from a background that is busy.
//!
//! | module | what it holds |
//! |---|---|
//! | `cli` | the command line |
//! | `workload` | keys, values, their check, and who is asked for next: all that must be equal for all engines |
//! | `engines` | the trait that an engine implements, and an adapter for each |
//! | `measure` | clock, latency recorder, CPU, device bytes, memory, space |
//! | `compare` | the rounds: parent, child process, medians, table |
//! | `ring` | the bare ring and `pread` |
//! | `interference` | reads beside a busy background |

mod cli;
mod compare;
mod engines;
mod interference;
mod measure;
mod ring;
mod workload;

use std::process::ExitCode;

use clap::Parser;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Any failure: a benchmark stops at the first one and says what it was.
type Error = Box<dyn std::error::Error + Send + Sync>;
type Result<T> = std::result::Result<T, Error>;

fn main() -> ExitCode {
    let outcome = match cli::Cli::parse().command {
        cli::Command::Compare(args) => compare::run(&args),
        cli::Command::Io(args) => ring::run(&args),
        cli::Command::Interference(args) => interference::run(&args),
        cli::Command::Child { job } => compare::run_child(&job),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("siltstone-bench: {error}");
            ExitCode::FAILURE
        }
    }
}
