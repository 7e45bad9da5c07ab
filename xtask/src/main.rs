//! Tasks of the project that need more than cargo: `cargo xtask nvme`.

mod bench;
mod cpio;
mod disk;
mod initramfs;
mod machine;
mod packages;
mod programs;
mod queues;
mod random;
mod run;
mod scratch;
mod steps;
mod worker;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "xtask", about = "Tasks of the project")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Runs the engine on a real NVMe driver, in virtual machines.
    Nvme(bench::BenchArgs),
    /// A worker of siltstone-torture in a virtual machine.
    #[command(hide = true)]
    Machine(worker::WorkerArgs),
}

fn main() -> ExitCode {
    let result = match Cli::parse().task {
        Task::Nvme(args) => bench::run(&args),
        Task::Machine(args) => worker::run(&args).map(|()| true),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("xtask: {error}");
            ExitCode::FAILURE
        }
    }
}
