//! Runs on a real file, and traces in files.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use siltstone_io::testing::Recorder;
use siltstone_tests::enumerate::workload::Large;
use siltstone_tests::enumerate::{Enumerator, Limits};

use crate::read;
use crate::report::Progress;

/// States tried at a crash point that is visited.
const STATES_OF_A_POINT: u64 = 2;

pub(crate) struct Runs {
    pub(crate) seconds: f64,
    pub(crate) seed: u64,
    pub(crate) shards: usize,
    pub(crate) batches: u64,
    pub(crate) states: u64,
    pub(crate) directory: Option<PathBuf>,
    pub(crate) failures_max: usize,
}

pub(crate) fn run(runs: &Runs) -> Result<ExitCode, String> {
    let text = |error: std::io::Error| error.to_string();
    let temporary = tempfile::tempdir().map_err(text)?;
    let directory = runs.directory.clone().unwrap_or_else(|| temporary.path().to_path_buf());
    std::fs::create_dir_all(&directory).map_err(text)?;
    let mut progress = Progress::begin();
    for seed in runs.seed.. {
        let path = directory.join(format!("seed-{seed}.trace"));
        record_in(&directory, &path, seed, runs.shards, runs.batches)?;
        let trace = read(&path)?;
        // About as many crash points as records that shrink the set of states or mark something.
        let point_chance = runs.states as f64 / STATES_OF_A_POINT as f64 / (trace.events.len() as f64 / 3.0);
        let limits = Limits {
            states_max: STATES_OF_A_POINT,
            samples: STATES_OF_A_POINT,
            point_chance: point_chance.min(1.0),
            rescale: true,
            seed,
            ..Limits::default()
        };
        // A cache would only cost memory: hardly any state comes twice.
        let report = Enumerator::default().enumerate(&trace, &limits, || progress.seconds() < runs.seconds)?;
        let failed = !report.failures.is_empty();
        progress.add(report, |failure| {
            let Limits { states_max, samples, .. } = limits;
            let (path, seed, point) = (path.display(), failure.seed, failure.point);
            format!(
                "check {path} --rescale --states-max {states_max} --samples {samples} --seed {seed} --point {point}"
            )
        });
        if failed {
            keep(&temporary, &path)?;
        } else {
            std::fs::remove_file(&path).map_err(text)?;
        }
        if progress.total.failures.len() >= runs.failures_max || progress.seconds() >= runs.seconds {
            break;
        }
    }
    Ok(progress.end())
}

/// Copies a trace out of a directory that will be removed.
fn keep(temporary: &tempfile::TempDir, path: &Path) -> Result<(), String> {
    if let (true, Some(name)) = (path.starts_with(temporary.path()), path.file_name()) {
        std::fs::copy(path, name).map_err(|error| error.to_string())?;
        println!("  the trace is now {} in this directory", Path::new(name).display());
    }
    Ok(())
}

fn record_in(directory: &Path, trace: &Path, seed: u64, shards: usize, batches: u64) -> Result<(), String> {
    let volume = tempfile::tempdir_in(directory).map_err(|error| error.to_string())?;
    let recorder = Recorder::to_file(trace).map_err(|error| format!("{}: {error}", trace.display()))?;
    let large = Large { seed, shards, batches };
    let name = format!("siltstone-crash record --seed {seed} --shards {shards} --batches {batches}");
    large.record(volume.path(), &recorder, &name).map_err(|error| format!("the run fails without a crash: {error}"))?;
    recorder.finish().map(drop).map_err(|error| format!("{}: {error}", trace.display()))
}

pub(crate) fn record(trace: &Path, seed: u64, shards: usize, batches: u64) -> Result<ExitCode, String> {
    let directory = trace.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    record_in(directory, trace, seed, shards, batches)?;
    println!("{} records", read(trace)?.events.len());
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn check(trace: &Path, limits: &Limits) -> Result<ExitCode, String> {
    let mut progress = Progress::begin();
    let report = Enumerator::default().enumerate(&read(trace)?, limits, || true)?;
    progress.add(report, |failure| {
        let (seed, point) = (failure.seed, failure.point);
        format!("check {} --seed {seed} --point {point}", trace.display())
    });
    Ok(progress.end())
}
