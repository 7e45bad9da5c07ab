//! Every flush point of a run on a real device, by the kernel's dm-log-writes.
//!
//! `record` runs a worker on a device of that target and writes down what it tells; now and then it puts into the log a mark with the number of messages heard so
//! far. Who acknowledged a write before the mark had it durable before the mark. `judge` then replays the log ([`WriteLog`]), and at each point, or some of
//! them, opens the volume: everything of the messages before the last mark must be there, and nothing that was not submitted by the end.

use std::fs::File;
use std::io::{BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use clap::Args;
use siltstone_io::Random;

use crate::clock::now;
use crate::place::{Place, PlaceKind};
use crate::session::{Opening, Session};
use crate::suite::worker_options;
use crate::wire::{Kind, Message};
use crate::worker::{Mode, WorkerOptions};
use crate::write_log::WriteLog;

/// How long is listened between two marks.
const BETWEEN_MARKS: Duration = Duration::from_millis(40);
/// Points at which something is wrong, of which is told.
const FAILURES_MAX: u64 = 3;

/// What both must know of a run.
#[derive(Args)]
struct Run {
    /// What was said in it.
    #[arg(long)]
    messages: PathBuf,
    #[arg(long)]
    capacity_bytes: u64,
    #[arg(long)]
    mode: Mode,
    #[arg(long)]
    seed: u64,
}

/// A run that is written down.
#[derive(Args)]
pub(crate) struct RecordOptions {
    /// The device: one of dm-log-writes.
    #[arg(long)]
    device: PathBuf,
    /// What dmsetup calls it.
    #[arg(long)]
    name: String,
    #[command(flatten)]
    run: Run,
    /// For how long there is load.
    #[arg(long)]
    milliseconds: u64,
}

/// The points of a run.
#[derive(Args)]
pub(crate) struct JudgeOptions {
    /// The log of dm-log-writes.
    #[arg(long)]
    log: PathBuf,
    #[command(flatten)]
    run: Run,
    /// At how many points the volume is opened.
    #[arg(long)]
    points: usize,
    /// The log without the flushes and FUA writes behind its first point: what they held is missing, and that must be noticed.
    #[arg(long)]
    deaf: bool,
}

fn options_of(run: &Run) -> WorkerOptions {
    let mut options = worker_options(run.seed, &mut Random::new(run.seed));
    (options.mode, options.capacity_bytes) = (run.mode, run.capacity_bytes);
    options
}

/// Runs the load and writes down what was told.
pub(crate) fn record(options: &RecordOptions) -> ExitCode {
    match try_record(options) {
        Ok(count) => {
            println!("{count} messages");
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("FAILURE: {error}");
            ExitCode::FAILURE
        }
    }
}

fn try_record(options: &RecordOptions) -> Result<usize, String> {
    let place = Place::in_machine(&options.device)?;
    let mut session = Session::new(place, options_of(&options.run));
    session.recording = Some(Vec::new());
    session.start(options.run.mode, 2)?;
    if let Opening::Refused(class, error) = session.opening()? {
        return Err(format!("opening is refused ({class:?}): {error}"));
    }
    session.check_opened()?;
    session.load()?;
    let until = now() + Duration::from_millis(options.milliseconds);
    while now() < until {
        session.listen(now() + BETWEEN_MARKS);
        mark(&options.name, session.recording.as_ref().map_or(0, Vec::len))?;
    }
    session.kill()?;
    let messages = session.recording.take().unwrap_or_default();
    let mut file = File::create(&options.run.messages).map_err(text)?;
    for message in &messages {
        file.write_all(&message.bytes()).map_err(text)?;
    }
    Ok(messages.len())
}

fn mark(device: &str, messages: usize) -> Result<(), String> {
    let mark = format!("mark {messages}");
    let status = Command::new("dmsetup").args(["message", device, "0", &mark]).status().map_err(text)?;
    if status.success() { Ok(()) } else { Err(format!("dmsetup message: {status}")) }
}

/// Opens the volume at points of the log. The last line is the summary.
pub(crate) fn judge(options: &JudgeOptions) -> ExitCode {
    match try_judge(options) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            println!("FAILURE: {error}");
            ExitCode::FAILURE
        }
    }
}

fn try_judge(options: &JudgeOptions) -> Result<u64, String> {
    let log = WriteLog::read(File::open(&options.log).map_err(text)?)?;
    let mut file = BufReader::new(File::open(&options.run.messages).map_err(text)?);
    let messages: Vec<Message> = std::iter::from_fn(|| Message::read(&mut file)).collect();
    let first = messages.iter().position(|message| message.kind == Kind::FoundAll).ok_or("the run never was open")? + 1;
    // Points behind a mark by which the engine was open, and how many messages had been heard there.
    let mut points = Vec::new();
    let mut heard = 0;
    for (index, entry) in log.entries.iter().enumerate() {
        heard = entry.mark.as_ref().and_then(|mark| mark.parse().ok()).unwrap_or(heard);
        if entry.is_point && heard >= first {
            points.push((index, heard));
        }
    }
    if points.is_empty() {
        return Err("the log has no point behind a mark".into());
    }
    let all = points.len();
    let wanted = options.points.clamp(1, all);
    let chosen: Vec<(usize, usize)> = (1..=wanted).map(|number| points[number * all / wanted - 1]).collect();

    let folder = tempfile::tempdir().map_err(text)?;
    let path = folder.path().join("image");
    let image = File::options().read(true).write(true).create_new(true).open(&path).map_err(text)?;
    image.set_len(options.run.capacity_bytes).map_err(text)?;
    let (mut next, mut failures, mut acknowledged) = (0, 0, 0);
    for &(index, heard) in &chosen {
        for (at, entry) in log.entries.iter().enumerate().take(index + 1).skip(next) {
            if !(options.deaf && entry.is_point && at > points[0].0) {
                log.apply(entry, &image)?;
            }
        }
        next = index + 1;
        match judge_point(options, &path, &messages, first, heard) {
            Ok(count) => acknowledged += count,
            Err(findings) => {
                failures += 1;
                println!("FAILURE at entry {index} of {}, {heard} messages: {findings}", log.entries.len());
            }
        }
        if failures >= FAILURES_MAX {
            break;
        }
    }
    println!("{} of {all} points, {acknowledged} acknowledged writes checked, {failures} failures", chosen.len());
    Ok(failures)
}

/// Opens a copy of the image, as a power failure at the point would leave it; how many writes had been acknowledged.
fn judge_point(
    options: &JudgeOptions,
    image: &Path,
    messages: &[Message],
    first: usize,
    heard: usize,
) -> Result<u64, String> {
    let place = Place::new(PlaceKind::File, options.run.capacity_bytes, None)?;
    let copied = Command::new("cp").arg("--sparse=always").arg(image).arg(place.path()).status().map_err(text)?;
    if !copied.success() {
        return Err(format!("cp: {copied}"));
    }
    let mut session = Session::new(place, options_of(&options.run));
    session.verify()?;
    let oracle = &mut session.oracle;
    messages[..first].iter().for_each(|message| oracle.hear(message, options.run.mode));
    oracle.check_opened(options.run.mode);
    for (index, message) in messages.iter().enumerate().skip(first) {
        if index < heard || is_beginning(message.kind) {
            oracle.hear(message, options.run.mode);
        }
    }
    let acknowledged = oracle.acknowledged;
    session.start(options.run.mode, 2)?;
    if let Opening::Refused(class, error) = session.opening()? {
        return Err(format!("opening is refused ({class:?}): {error}"));
    }
    session.check_opened()?;
    session.close()?;
    session.verify()?;
    match session.oracle.failures.first() {
        None => Ok(acknowledged),
        Some(failure) => Err(format!("{} findings, the first: {failure}", session.oracle.failures.len())),
    }
}

/// What comes later than the mark may have been begun before the point, but need not have ended.
fn is_beginning(kind: Kind) -> bool {
    matches!(kind, Kind::Submitted | Kind::CheckpointBegins | Kind::CheckpointBarrier)
}

fn text(error: std::io::Error) -> String {
    error.to_string()
}
