//! One run of one engine, in a process of its own.
//!
//! 1. Joins the cgroup, drops the store's pages from the page cache, draws the operations.
//! 2. Opens the engine, warms up (not counted).
//! 3. Reads the counters, works, reads the counters again. A load goes on until the store has settled: its rate is that of the
//!    puts, its CPU and device writes are those of all.
//! 4. Closes the engine, looks at the space, prints the outcome as JSON.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::Result;
use crate::compare::{Job, Outcome, Task};
use crate::engines::{self, Drive, Engine};
use crate::measure::{
    Recorder, Usage, directory_bytes, drop_page_cache, join_cgroup, now, peak_resident_bytes, reset_peak_resident,
    resident_bytes,
};
use crate::workload::{Gets, KeySpace, Load, Rmw, Scans, Values, Versions, Workload, mix};

/// Runs the hidden `child` subcommand.
pub(crate) fn run_child(job: &str) -> Result<()> {
    let job: Job = serde_json::from_str(job)?;
    if let Some(cgroup) = &job.cgroup {
        join_cgroup(cgroup)?;
    }
    let outcome = match job.task {
        Task::Load => load(&job)?,
        Task::Run { workload, drive, ops, warm_up_ops, round } => {
            let plan = Plan { workload, drive, ops, warm_up_ops, round };
            plan.run(&job)?
        }
    };
    println!("{}", serde_json::to_string(&outcome)?);
    Ok(())
}

fn drive_number(drive: Drive) -> u64 {
    let kind = match drive {
        Drive::Blocking => 0,
        Drive::Batch(_) => 1,
        Drive::Threads(_) => 2,
        Drive::InFlight(_) => 3,
    };
    (drive.depth() as u64) << 8 | kind
}

/// Names the data of a store; written once its load is complete.
pub(crate) fn marker(dir: &Path) -> PathBuf {
    dir.join("data.json")
}

/// The engine's own files.
pub(crate) fn store(dir: &Path) -> PathBuf {
    dir.join("store")
}

fn load(job: &Job) -> Result<Outcome> {
    let store = store(&job.dir);
    fs::create_dir_all(&store)?;
    let (space, values) = data(job)?;
    let load = Load { space, values };
    let mut recorder = Recorder::new();

    let memory = Memory::watch()?;
    let mut engine = engines::open(job.engine, &store, &job.config)?;
    let (before, start) = (Usage::so_far()?, now());
    engine.load(&load, &mut recorder)?;
    let putting = start.elapsed();
    engine.settle()?;
    let (all, usage) = (start.elapsed(), Usage::so_far()?.since(before));
    let peak_memory_bytes = memory.peak_bytes()?;
    engine.close()?;
    let mut outcome = outcome(&recorder, putting, usage);
    outcome.settle_s = (all - putting).as_secs_f64();
    outcome.space_bytes = directory_bytes(&store)?;
    outcome.peak_memory_bytes = peak_memory_bytes;
    Ok(outcome)
}

struct Plan {
    workload: Workload,
    drive: Drive,
    ops: u32,
    warm_up_ops: u32,
    round: u32,
}

impl Plan {
    fn run(&self, job: &Job) -> Result<Outcome> {
        let store = store(&job.dir);
        drop_page_cache(&store)?;
        // A run that writes works on a fresh copy of the loaded store.
        let versions = Versions::zero(if self.workload == Workload::Rmw { job.config.keys } else { 0 });
        // The same for all engines that are driven alike, another for each drive and round: what one drive of an engine has just
        // read may be in a cache below the device's driver.
        let seed = mix(job.seed ^ u64::from(self.round) << 32 ^ drive_number(self.drive));
        let warm_up = Operations::draw(self, job, &versions, self.warm_up_ops, mix(seed))?;
        let operations = Operations::draw(self, job, &versions, self.ops, seed)?;
        let mut recorder = Recorder::new();

        let memory = Memory::watch()?;
        let mut engine = engines::open(job.engine, &store, &job.config)?;
        warm_up.put_to(&mut *engine, self.drive, &mut Recorder::new())?;
        let (before, start) = (Usage::so_far()?, now());
        operations.put_to(&mut *engine, self.drive, &mut recorder)?;
        let (elapsed, usage) = (start.elapsed(), Usage::so_far()?.since(before));
        let peak_memory_bytes = memory.peak_bytes()?;
        engine.close()?;
        let mut outcome = outcome(&recorder, elapsed, usage);
        outcome.space_bytes = directory_bytes(&store)?;
        outcome.peak_memory_bytes = peak_memory_bytes;
        Ok(outcome)
    }
}

/// The operations of one run.
enum Operations<'a> {
    Gets(Gets),
    Rmw(Rmw<'a>),
    Scans(Scans),
}

impl<'a> Operations<'a> {
    fn draw(plan: &Plan, job: &Job, versions: &'a Versions, ops: u32, seed: u64) -> Result<Self> {
        let ((space, values), lists) = (data(job)?, plan.drive.lists());
        match plan.workload {
            Workload::Load => Err("a load is not a run".into()),
            Workload::GetCold => Ok(Operations::Gets(Gets::new(space, values, ops, lists, seed))),
            Workload::Rmw => Ok(Operations::Rmw(Rmw::new(space, values, versions, ops, lists, seed))),
            Workload::PrefixScan => Ok(Operations::Scans(Scans::new(space, values, ops, lists, seed))),
        }
    }

    fn put_to(&self, engine: &mut dyn Engine, drive: Drive, recorder: &mut Recorder) -> Result<()> {
        match self {
            Operations::Gets(gets) => engine.get(gets, drive, recorder),
            Operations::Rmw(rmw) => engine.rmw(rmw, drive, recorder),
            Operations::Scans(scans) => engine.prefix_scan(scans, drive, recorder),
        }
    }
}

fn data(job: &Job) -> Result<(KeySpace, Values)> {
    let config = &job.config;
    let space = KeySpace::new(config.key_shape, config.keys, job.seed);
    Ok((space, Values::new(config.value_bytes, job.seed)?))
}

fn outcome(recorder: &Recorder, elapsed: Duration, usage: Usage) -> Outcome {
    let ops = recorder.count();
    Outcome {
        ops,
        ops_per_s: ops as f64 / elapsed.as_secs_f64(),
        latency: recorder.latency(),
        // The bare ring's load counts no operations.
        cpu_us_per_op: usage.cpu_us as f64 / ops.max(1) as f64,
        device_read_bytes: usage.device_read_bytes,
        device_write_bytes: usage.device_write_bytes,
        ..Outcome::default()
    }
}

/// Peak memory over what the harness held when it began to watch.
struct Memory {
    own_bytes: u64,
}

impl Memory {
    fn watch() -> Result<Self> {
        reset_peak_resident()?;
        Ok(Memory { own_bytes: resident_bytes()? })
    }

    fn peak_bytes(&self) -> Result<u64> {
        Ok(peak_resident_bytes()?.saturating_sub(self.own_bytes))
    }
}
