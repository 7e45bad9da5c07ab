//! Engines beside each other.
//!
//! 1. For all workloads but `load`, each engine loads its store once, and settles. A workload that writes gets a fresh copy of that
//!    store for each run: on one store, each drive would find in place what the one before it has just written.
//! 2. Then, round by round, each engine runs in each of its drives, so that what changes on the machine meanwhile hits all alike.
//! 3. Each load and each run is a child process; it opens the store, works, closes it, and prints what it measured.
//! 4. The table has the median of each figure over the rounds, and of latency maxima the greatest.

mod child;
mod report;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

use crate::Result;
use crate::cli::CompareArgs;
use crate::engines::{Drive, EngineConfig, EngineKind};
use crate::measure::{Latency, memory_limit_bytes};
use crate::workload::{ENTRIES_PER_USER, KeySpace, Workload};

pub(crate) use child::run_child;

/// What a child is asked to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Job {
    task: Task,
    engine: EngineKind,
    config: EngineConfig,
    /// The engine's own directory.
    dir: PathBuf,
    cgroup: Option<PathBuf>,
    /// The seed of the data.
    seed: u64,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Task {
    Load,
    Run { workload: Workload, drive: Drive, ops: u32, warm_up_ops: u32, round: u32 },
}

/// What a child measured.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Outcome {
    ops: u64,
    ops_per_s: f64,
    latency: Latency,
    cpu_us_per_op: f64,
    device_read_bytes: u64,
    /// Of a load, to the settled state.
    device_write_bytes: u64,
    /// Of a load: from the last put to the settled state.
    settle_s: f64,
    /// After the engine was closed.
    space_bytes: u64,
    /// Over what the harness itself held when the engine was opened.
    peak_memory_bytes: u64,
}

/// One line of the table: an engine in one drive.
#[derive(Debug)]
struct Series {
    engine: EngineKind,
    drive: Drive,
    rounds: Vec<Outcome>,
}

/// Runs the `compare` subcommand.
pub(crate) fn run(args: &CompareArgs) -> Result<()> {
    let config = config(args)?;
    for engine in unbounded_by_memory(args, &config) {
        eprintln!("warning: {engine}: no memory cgroup keeps the page cache smaller than the data (see --cgroup)");
    }
    fs::create_dir_all(&args.dir)?;
    let dir = fs::canonicalize(&args.dir)?;
    let mut json = report::Json::open(args.json.as_deref())?;
    json.setup(args, &config)?;

    let job = |engine: EngineKind, task: Task| Job {
        task,
        engine,
        config: config.clone(),
        dir: dir.join(format!("{}-{}", args.workload.name(), engine.name())),
        cgroup: args.cgroup.clone(),
        seed: args.seed,
    };
    let mut series = series(args)?;
    if args.workload != Workload::Load {
        for &engine in &args.engines {
            prepare(&job(engine, Task::Load), args.keep)?;
        }
    }
    for round in 0..args.rounds {
        for line in &mut series {
            let task = task(args, line.drive, round);
            eprintln!("round {} of {}: {} {}", round + 1, args.rounds, line.engine.name(), line.drive);
            let job = job(line.engine, task);
            let outcome = match args.workload {
                Workload::Load => {
                    remove(&job.dir)?;
                    spawn(&job)?
                }
                Workload::Rmw => spawn_on_copy(&job)?,
                Workload::GetCold | Workload::PrefixScan => spawn(&job)?,
            };
            json.round(line.engine, line.drive, round, &outcome)?;
            line.rounds.push(outcome);
        }
    }
    report::print(args, &config, &series, &mut json)?;
    if !args.keep {
        for &engine in &args.engines {
            remove(&job(engine, Task::Load).dir)?;
        }
    }
    Ok(())
}

fn config(args: &CompareArgs) -> Result<EngineConfig> {
    let key_shape = args.workload.key_shape();
    if args.keys == 0 || args.rounds == 0 {
        return Err("there is nothing to do without keys and rounds".into());
    }
    if args.workload == Workload::PrefixScan && !args.keys.is_multiple_of(ENTRIES_PER_USER) {
        return Err(format!("for prefix-scan --keys is a multiple of {ENTRIES_PER_USER}").into());
    }
    let key_bytes = KeySpace::new(key_shape, args.keys, args.seed).key_bytes();
    let mut config =
        EngineConfig { memory_bytes: 128 << 20, key_shape, keys: args.keys, key_bytes, value_bytes: args.value_bytes };
    match args.memory {
        Some(bytes) => config.memory_bytes = bytes,
        None if args.workload == Workload::GetCold => config.memory_bytes = config.data_bytes() / 10,
        None => {}
    }
    Ok(config)
}

fn task(args: &CompareArgs, drive: Drive, round: u32) -> Task {
    if args.workload == Workload::Load {
        return Task::Load;
    }
    let ops = args.ops.unwrap_or_else(|| args.workload.default_ops(args.keys));
    let warm_up_ops = args.warm_up_ops.unwrap_or(ops / 5);
    Task::Run { workload: args.workload, drive, ops, warm_up_ops, round }
}

fn series(args: &CompareArgs) -> Result<Vec<Series>> {
    let depths = if args.workload == Workload::Load { &[1][..] } else { &args.in_flight };
    if depths.contains(&0) {
        return Err("--in-flight is at least 1".into());
    }
    let mut series = Vec::new();
    for &depth in depths {
        for &engine in &args.engines {
            let drives = engine.drives(args.workload, depth);
            if drives.is_empty() {
                return Err(format!("{} has no {} workload", engine.name(), args.workload.name()).into());
            }
            series.extend(drives.into_iter().map(|drive| Series { engine, drive, rounds: Vec::new() }));
        }
    }
    Ok(series)
}

/// Loads a store, unless it is there and may be used.
fn prepare(job: &Job, keep: bool) -> Result<()> {
    let marker = child::marker(&job.dir);
    let description = serde_json::to_string(&(&job.config, job.seed))?;
    if keep && fs::read_to_string(&marker).is_ok_and(|found| found == description) {
        eprintln!("{}: uses the store in {}", job.engine.name(), job.dir.display());
        return Ok(());
    }
    eprintln!("loading {}", job.engine.name());
    remove(&job.dir)?;
    spawn(job)?;
    Ok(fs::write(marker, description)?)
}

fn spawn(job: &Job) -> Result<Outcome> {
    let output = Command::new(std::env::current_exe()?)
        .arg("child")
        .arg(serde_json::to_string(job)?)
        .stderr(Stdio::inherit())
        .output()?;
    if !output.status.success() {
        return Err(format!("{}: the run failed ({})", job.engine.name(), output.status).into());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// Runs a job on a copy of its store, holes and all, and removes the copy.
fn spawn_on_copy(job: &Job) -> Result<Outcome> {
    let mut on_copy = job.clone();
    on_copy.dir.set_extension("copy");
    remove(&on_copy.dir)?;
    fs::create_dir_all(&on_copy.dir)?;
    let status = Command::new("cp").arg("-a").arg(child::store(&job.dir)).arg(child::store(&on_copy.dir)).status()?;
    if !status.success() {
        return Err(format!("{}: cannot copy the store ({status})", job.engine.name()).into());
    }
    let outcome = spawn(&on_copy);
    remove(&on_copy.dir)?;
    outcome
}

fn remove(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(format!("{}: {error}", dir.display()).into()),
        _ => Ok(()),
    }
}

/// The engines whose reads come from a page cache that may hold all of the data, for want of a limit, when the budget does not.
fn unbounded_by_memory(args: &CompareArgs, config: &EngineConfig) -> Vec<&'static str> {
    let bounded = memory_limit_bytes(args.cgroup.as_deref()).is_some_and(|bytes| bytes < config.data_bytes());
    let all_in_memory = config.memory_bytes >= config.data_bytes();
    let cached = args.engines.iter().filter(|engine| engine.uses_page_cache() && !bounded && !all_in_memory);
    cached.map(|engine| engine.name()).collect()
}
