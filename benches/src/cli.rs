//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use siltstone_io::IoBudget;

use crate::engines::EngineKind;
use crate::workload::Workload;

/// Side-by-side benchmarks of Siltstone and its peers.
#[derive(Parser)]
#[command(name = "siltstone-bench", version)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Run a workload on several engines, interleaved round by round, and print medians and ratios.
    Compare(CompareArgs),
    /// Measure random 4 KiB direct reads of a file: a bare ring at several depths, and pread.
    Io(IoArgs),
    /// Measure random 4 KiB reads beside a background that reads and writes large blocks, for several budgets of background I/O.
    Interference(InterferenceArgs),
    /// One run of one engine; `compare` starts these.
    #[command(hide = true)]
    Child {
        /// The run, as JSON.
        job: String,
    },
}

#[derive(Args)]
pub(crate) struct CompareArgs {
    /// What to do.
    #[arg(long, value_enum)]
    pub(crate) workload: Workload,
    /// The engines; ratios are to the first. `ring` is the bare ring (get-cold only): the limit the others are held to.
    #[arg(long, value_enum, value_delimiter = ',', required = true)]
    pub(crate) engines: Vec<EngineKind>,
    /// Number of keys (entries, for prefix-scan).
    #[arg(long, default_value_t = 5_000_000)]
    pub(crate) keys: u32,
    /// Bytes of each value.
    #[arg(long, default_value_t = 100)]
    pub(crate) value_bytes: usize,
    /// Memory budget of the engine: write buffers and caches together. The default is 128M; for get-cold a tenth of the data.
    #[arg(long, value_parser = parse_size)]
    pub(crate) memory: Option<u64>,
    /// Rounds; the table shows medians.
    #[arg(long, default_value_t = 3)]
    pub(crate) rounds: u32,
    /// How many operations are in flight at once; several are measured one after another. Load is always one at a time.
    #[arg(long, value_delimiter = ',', default_value = "1,32")]
    pub(crate) in_flight: Vec<usize>,
    /// Operations in each round; the default depends on the workload. Load puts every key once.
    #[arg(long)]
    pub(crate) ops: Option<u32>,
    /// Operations before the clock starts in each round; the default is a fifth of `--ops`.
    #[arg(long)]
    pub(crate) warm_up_ops: Option<u32>,
    /// Where the stores go: a directory for each engine. All of them should be on the filesystem to be measured.
    #[arg(long, default_value = "target/bench-data")]
    pub(crate) dir: PathBuf,
    /// Keep the loaded stores, and use those that are there if they hold the same data.
    #[arg(long)]
    pub(crate) keep: bool,
    /// A memory cgroup that exists, and that each run joins before it opens its engine. Engines that read through the page
    /// cache have all of the machine's memory for it otherwise.
    #[arg(long)]
    pub(crate) cgroup: Option<PathBuf>,
    /// Append each round and the medians to this file, a JSON object a line.
    #[arg(long)]
    pub(crate) json: Option<PathBuf>,
    /// The seed of keys, values and choices.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
}

#[derive(Args)]
pub(crate) struct IoArgs {
    /// The file or device to read; a file is made and filled if it is missing.
    #[arg(long)]
    pub(crate) file: PathBuf,
    /// How much of the file to read from. The default is all of it.
    #[arg(long, value_parser = parse_size)]
    pub(crate) size: Option<u64>,
    /// Reads in flight, measured one after another.
    #[arg(long, value_delimiter = ',', default_value = "1,32,128")]
    pub(crate) depths: Vec<usize>,
    /// Seconds for each measurement.
    #[arg(long, default_value_t = 2.0)]
    pub(crate) seconds: f64,
    /// How often everything is measured.
    #[arg(long, default_value_t = 5)]
    pub(crate) rounds: u32,
    /// The seed of the offsets.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
}

#[derive(Args)]
pub(crate) struct InterferenceArgs {
    /// The file: made, and removed at the end.
    #[arg(long)]
    pub(crate) file: PathBuf,
    /// Its size.
    #[arg(long, value_parser = parse_size, default_value = "512M")]
    pub(crate) size: u64,
    /// Bytes of each background operation.
    #[arg(long, value_parser = parse_size, default_value = "512K")]
    pub(crate) block: u64,
    /// Foreground reads in flight, measured one after another.
    #[arg(long, value_delimiter = ',', default_value = "1,8")]
    pub(crate) depths: Vec<usize>,
    /// Background tasks, each with one operation at a time.
    #[arg(long, default_value_t = 64)]
    pub(crate) background_depth: usize,
    /// What the background may have with the device: bytes and operations, such as `4M:32`, or `none` for no limit.
    #[arg(long, value_parser = parse_budget, value_delimiter = ',', default_value = "none,16M:64,8M:32,4M:32,2M:32,1M:32,512K:32")]
    pub(crate) budgets: Vec<IoBudget>,
    /// Seconds for each measurement.
    #[arg(long, default_value_t = 2.0)]
    pub(crate) seconds: f64,
    /// Rounds; the table shows medians.
    #[arg(long, default_value_t = 5)]
    pub(crate) rounds: u32,
    /// The seed of the offsets.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
}

/// Parses `4M:32`: bytes and operations; `none` is no limit.
fn parse_budget(text: &str) -> Result<IoBudget, String> {
    if text == "none" {
        return Ok(IoBudget::UNLIMITED);
    }
    let (bytes, operations) = text.split_once(':').ok_or_else(|| format!("{text:?} is not BYTES:OPERATIONS"))?;
    let background_ops_max = operations.parse().map_err(|_| format!("{operations:?} is not a number"))?;
    Ok(IoBudget { background_bytes_max: parse_size(bytes)?, background_ops_max })
}

/// Parses `4096`, `64K`, `128M`, `128MiB`, `2G`: binary multiples.
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| format!("{text:?} does not start with a number"))?;
    let shift = match unit.to_ascii_lowercase().trim_end_matches('b').trim_end_matches('i') {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        _ => return Err(format!("unknown unit {unit:?}: use K, M or G")),
    };
    number.checked_mul(1 << shift).ok_or_else(|| format!("{text} is too large"))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn sizes_are_binary_multiples() {
        assert_eq!(parse_size("4096"), Ok(4096));
        assert_eq!(parse_size("128M"), Ok(128 << 20));
        assert_eq!(parse_size("2GiB"), Ok(2 << 30));
        assert!(parse_size("M").is_err());
        assert!(parse_size("1x").is_err());
        assert!(parse_size("99999999999G").is_err());
    }

    #[test]
    fn budgets_are_bytes_and_operations() {
        assert_eq!(parse_budget("none"), Ok(IoBudget::UNLIMITED));
        assert_eq!(parse_budget("2M:8"), Ok(IoBudget { background_bytes_max: 2 << 20, background_ops_max: 8 }));
        assert!(parse_budget("2M").is_err() && parse_budget("2M:x").is_err() && parse_budget("x:1").is_err());
    }

    #[test]
    fn command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
