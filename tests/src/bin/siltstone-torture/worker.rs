//! The process that is killed: a real engine under load that tells everything it does, and does what it is told.
//!
//! Commands come as lines on standard input; its end ends the process. Each is answered by `CommandDone`.
//!
//! | command | what it does |
//! |---|---|
//! | `dump` | reads all keys, by a scan and by gets, and tells what there is |
//! | `load` | starts the clients, and the threads that sync and take checkpoints |
//! | `stop` | ends them |
//! | `checkpoint NUMBER`, `drop NUMBER` | takes or drops a checkpoint |
//! | `limit BYTES` | the size that a file may have from now on (`RLIMIT_FSIZE`), 0 for any |
//! | `close` | closes the engine and ends |

use std::fs::File;
use std::io::BufRead;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, ValueEnum};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal};
use siltstone::{Durability, Engine, Keyspace, KeyspaceOptions, Options, Partition, ScanRange};
use xxhash_rust::xxh3::xxh3_64;

use crate::history::{KEYS, PREFIX_BYTES, key_bytes, key_of, number_of};
use crate::load::{Known, Load};
use crate::wire::{ErrorClass, Kind, PAYLOAD_BYTES_MAX, Reporter};

/// The keyspace that holds everything.
const KEYSPACE: &str = "torture";
/// Bytes of a key in a `Found` message.
const FOUND_BYTES: usize = 24;
/// Keys of one `get_many`.
const GETS: usize = 256;

/// How writes are acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    /// When they are on stable storage.
    Sync,
    /// At once; synced every few milliseconds.
    Interval,
    /// At once; durable with the next checkpoint.
    Checkpoint,
}

/// How a worker opens its engine and loads it.
#[derive(Args, Clone, Debug)]
pub(crate) struct WorkerOptions {
    #[arg(long)]
    pub(crate) path: PathBuf,
    #[arg(long)]
    pub(crate) mode: Mode,
    #[arg(long)]
    pub(crate) shards: usize,
    #[arg(long)]
    pub(crate) seed: u64,
    /// The first numbers of the clients' steps.
    #[arg(long, value_delimiter = ',')]
    pub(crate) first: Vec<u64>,
    /// The first number of a checkpoint.
    #[arg(long)]
    pub(crate) checkpoint: u64,
    #[arg(long)]
    pub(crate) value_bytes_max: usize,
    #[arg(long)]
    pub(crate) extent_bytes: usize,
    #[arg(long)]
    pub(crate) memtable_bytes: usize,
    #[arg(long)]
    pub(crate) capacity_bytes: u64,
    /// How many checkpoints are kept.
    #[arg(long)]
    pub(crate) retained: usize,
    /// Takes no checkpoints but when told to.
    #[arg(long)]
    pub(crate) no_checkpoints: bool,
    #[arg(long)]
    pub(crate) read_only: bool,
    /// A deliberate bug.
    #[arg(long)]
    pub(crate) mutant: Option<String>,
}

impl WorkerOptions {
    /// The command line that gives these options.
    pub(crate) fn arguments(&self) -> Vec<String> {
        let mode = self.mode.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned());
        let first: Vec<String> = self.first.iter().map(u64::to_string).collect();
        let mut arguments: Vec<String> = [
            ("--path", self.path.display().to_string()),
            ("--mode", mode),
            ("--shards", self.shards.to_string()),
            ("--seed", self.seed.to_string()),
            ("--first", first.join(",")),
            ("--checkpoint", self.checkpoint.to_string()),
            ("--value-bytes-max", self.value_bytes_max.to_string()),
            ("--extent-bytes", self.extent_bytes.to_string()),
            ("--memtable-bytes", self.memtable_bytes.to_string()),
            ("--capacity-bytes", self.capacity_bytes.to_string()),
            ("--retained", self.retained.to_string()),
        ]
        .into_iter()
        .flat_map(|(name, value)| [name.to_owned(), value])
        .collect();
        let flags = [("--no-checkpoints", self.no_checkpoints), ("--read-only", self.read_only)];
        arguments.extend(flags.into_iter().filter(|(_, given)| *given).map(|(name, _)| name.to_owned()));
        arguments.extend(self.mutant.iter().flat_map(|name| ["--mutant".to_owned(), name.clone()]));
        arguments
    }

    fn engine(&self) -> Options {
        let durability = match self.mode {
            Mode::Sync => Durability::Sync,
            Mode::Interval => Durability::Interval(Duration::from_millis(5)),
            Mode::Checkpoint => Durability::Checkpoint,
        };
        Options::at(&self.path)
            .shards(self.shards)
            .memory(self.shards * (4 << 20))
            .durability(durability)
            .extent_bytes(self.extent_bytes)
            .memtable_bytes(self.memtable_bytes)
            .table_bytes(4 * self.memtable_bytes)
            .capacity(self.capacity_bytes)
            .checkpoints_retained(self.retained)
            .read_only(self.read_only)
            .keyspace(KEYSPACE, KeyspaceOptions::default().partition(Partition::Prefix(PREFIX_BYTES)))
    }
}

/// The process. Its exit status is 0 after `close`, 2 where opening failed, 3 where the oracle is gone.
pub(crate) fn run(options: &WorkerOptions) -> ExitCode {
    // A file that may not grow is an error of the write, not the death of the process.
    let mut ignored = SigSet::empty();
    ignored.add(Signal::SIGXFSZ);
    let blocked = ignored.thread_block();
    let pipe = std::io::stdout().as_fd().try_clone_to_owned();
    let (Ok(pipe), Ok(())) = (pipe, blocked) else { return ExitCode::from(3) };
    siltstone::testing::mutants::activate(options.mutant.as_deref());
    let reporter = Reporter::new(File::from(pipe));
    let engine = match Engine::open(options.engine()) {
        Ok(engine) => engine,
        Err(error) => {
            reporter.tell_error(Kind::NotOpened, 0, 0, &error);
            return ExitCode::from(2);
        }
    };
    let mut worker = match Worker::new(options.clone(), engine, reporter.clone()) {
        Ok(worker) => worker,
        Err(error) => {
            reporter.tell_error(Kind::NotOpened, 0, 0, &error);
            return ExitCode::from(2);
        }
    };
    for line in std::io::stdin().lock().lines() {
        let Ok(line) = line else { break };
        let result = worker.command(&line);
        let text = result.err().map_or_else(Vec::new, |error| {
            let mut payload = vec![ErrorClass::of(&error) as u8];
            payload.extend_from_slice(error.to_string().as_bytes());
            payload
        });
        reporter.tell(Kind::CommandDone, 0, 0, &text);
        if line == "close" {
            return ExitCode::SUCCESS;
        }
    }
    // The oracle is gone: end without closing, as its end was no wish of anybody's.
    std::process::exit(3)
}

struct Worker {
    options: WorkerOptions,
    engine: Engine,
    keyspace: Keyspace,
    reporter: Reporter,
    known: Vec<Known>,
    load: Option<Load>,
}

impl Worker {
    fn new(options: WorkerOptions, engine: Engine, reporter: Reporter) -> siltstone::Result<Worker> {
        let keyspace = engine.keyspace(KEYSPACE)?;
        let restored = engine.restored().map(|info| info.id);
        let checkpoints = engine.block_on(engine.checkpoints())?;
        let landed = checkpoints.iter().find(|info| Some(info.id) == restored);
        let mut names = vec![landed.map_or(0, |info| name_of(&info.name, &info.bytes))];
        names.extend(checkpoints.iter().map(|info| name_of(&info.name, &info.bytes)));
        let payload: Vec<u8> = names.iter().flat_map(|name| name.to_le_bytes()).collect();
        reporter.tell(Kind::Opened, 0, 0, &payload);
        Ok(Worker { options, engine, keyspace, reporter, known: vec![Known::Unknown; KEYS], load: None })
    }

    fn command(&mut self, line: &str) -> siltstone::Result<()> {
        let invalid = || siltstone::Error::InvalidArgument(format!("not a command: {line:?}"));
        let (command, argument) = line.split_once(' ').unwrap_or((line, "0"));
        let number: u64 = argument.parse().map_err(|_| invalid())?;
        match command {
            "dump" => self.dump(),
            "load" => {
                let known = std::mem::replace(&mut self.known, vec![Known::Unknown; KEYS]);
                let (engine, keyspace) = (self.engine.clone(), self.keyspace.clone());
                self.load = Some(Load::start(self.options.clone(), engine, keyspace, self.reporter.clone(), known));
                Ok(())
            }
            "stop" => {
                if let Some(load) = self.load.take() {
                    self.options.first = load.stop();
                }
                Ok(())
            }
            "checkpoint" => self.checkpoint(number),
            "drop" => self.engine.block_on(self.engine.drop_checkpoint(&number.to_string())),
            "limit" => limit_file_size(number),
            "close" => self.engine.close_blocking(),
            _ => Err(invalid()),
        }
    }

    fn checkpoint(&self, number: u64) -> siltstone::Result<()> {
        take_checkpoint(&self.engine, &self.reporter, number)
    }

    /// Reads everything and tells it.
    fn dump(&mut self) -> siltstone::Result<()> {
        let result = self.try_dump();
        if let Err(error) = &result {
            self.reporter.tell_error(Kind::ReadFailed, 0, 0, error);
        }
        result
    }

    fn try_dump(&mut self) -> siltstone::Result<()> {
        self.tell_shards();
        let mut found: Vec<Option<Vec<u8>>> = vec![None; KEYS];
        let mut scan = self.engine.scan(&self.keyspace, ScanRange::all());
        while let Some((key, value)) = self.engine.block_on(scan.next())? {
            match key_of(&key) {
                Some(index) if found[index as usize].is_none() => found[index as usize] = Some(value),
                Some(index) => self.wrong(&format!("a scan gives key {index} twice")),
                None => self.wrong(&format!("a scan gives key {key:?}, which nobody has written")),
            }
        }
        let keys: Vec<u32> = (0..KEYS as u32).collect();
        for keys in keys.chunks(GETS) {
            let bytes: Vec<[u8; 9]> = keys.iter().map(|&key| key_bytes(key)).collect();
            for (&key, value) in keys.iter().zip(self.engine.get_many_blocking(&self.keyspace, &bytes)?) {
                if value != found[key as usize] {
                    let number = |value: &Option<Vec<u8>>| value.as_deref().map(number_of);
                    let (got, scanned) = (number(&value), number(&found[key as usize]));
                    self.wrong(&format!("key {key}: a get gives number {got:?}, a scan {scanned:?}"));
                }
            }
        }
        let mut payload = Vec::new();
        for (key, value) in found.iter().enumerate() {
            let number = value.as_deref().map(number_of);
            self.known[key] = number.map_or(Known::Absent, Known::At);
            let (Some(number), Some(value)) = (number, value) else { continue };
            for part in [key as u64, number, xxh3_64(value)] {
                payload.extend_from_slice(&part.to_le_bytes());
            }
            if payload.len() + FOUND_BYTES > PAYLOAD_BYTES_MAX {
                self.reporter.tell(Kind::Found, 0, 0, &payload);
                payload.clear();
            }
        }
        self.reporter.tell(Kind::Found, 0, 0, &payload);
        self.reporter.tell(Kind::FoundAll, 0, 0, &[]);
        Ok(())
    }

    fn tell_shards(&self) {
        let prefix = |key: u32| -> [u8; PREFIX_BYTES as usize] { std::array::from_fn(|at| key_bytes(key)[at]) };
        let shards: Vec<u8> = (0..KEYS as u32).map(|key| self.engine.shard_of(&prefix(key)).0 as u8).collect();
        for (index, part) in shards.chunks(PAYLOAD_BYTES_MAX).enumerate() {
            self.reporter.tell(Kind::Shards, 0, (index * PAYLOAD_BYTES_MAX) as u64, part);
        }
    }

    fn wrong(&self, what: &str) {
        self.reporter.tell(Kind::Wrong, 0, 0, what.as_bytes());
    }
}

/// Takes a checkpoint, and tells of each step.
pub(crate) fn take_checkpoint(engine: &Engine, reporter: &Reporter, number: u64) -> siltstone::Result<()> {
    reporter.tell(Kind::CheckpointBegins, 0, number, &[]);
    let checkpoint = engine.checkpoint(&number.to_string(), number.to_le_bytes().to_vec());
    reporter.tell(Kind::CheckpointBarrier, 0, number, &[]);
    let result = engine.block_on(checkpoint);
    match &result {
        Ok(_) => reporter.tell(Kind::CheckpointDone, 0, number, &[]),
        Err(error) => reporter.tell_error(Kind::CheckpointFailed, 0, number, error),
    }
    result.map(drop)
}

/// A checkpoint's number, which its name and its bytes both hold.
fn name_of(name: &str, bytes: &[u8]) -> u64 {
    let number = name.parse().unwrap_or(u64::MAX);
    if bytes == u64::to_le_bytes(number) { number } else { u64::MAX }
}

fn limit_file_size(bytes: u64) -> siltstone::Result<()> {
    let set = || {
        let (_, hard) = getrlimit(Resource::RLIMIT_FSIZE)?;
        setrlimit(Resource::RLIMIT_FSIZE, if bytes == 0 { hard } else { bytes.min(hard) }, hard)
    };
    set().map_err(|errno: nix::errno::Errno| siltstone::Error::InvalidArgument(format!("RLIMIT_FSIZE: {errno}")))
}
