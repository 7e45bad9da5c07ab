//! One volume and the lives of the workers on it, seen by the oracle.

use std::time::{Duration, Instant};

use crate::child::{Heard, Machine, Worker};
use crate::clock::now;
use crate::history::CLIENTS;
use crate::oracle::Oracle;
use crate::place::Place;
use crate::wire::{ErrorClass, Kind, Message};
use crate::worker::{Mode, WorkerOptions};

/// How long anything that must end is waited for.
const PATIENCE: Duration = Duration::from_secs(60);
/// The same where a machine is booted first.
const MACHINE_PATIENCE: Duration = Duration::from_secs(240);

/// Figures of a run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) kills: u64,
    pub(crate) acknowledged: u64,
    pub(crate) failures: u64,
    /// What else there is to tell, by what it is.
    pub(crate) counts: std::collections::BTreeMap<String, u64>,
}

impl Tally {
    pub(crate) fn count(&mut self, what: impl Into<String>) {
        *self.counts.entry(what.into()).or_default() += 1;
    }
}

/// How an attempt to open ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Opening {
    Done,
    Refused(ErrorClass, String),
}

/// What was heard since the worker was started.
#[derive(Default)]
struct Log {
    opened: Option<Opening>,
    dumps: u32,
    clients_ended: usize,
    commands: Vec<Option<(ErrorClass, String)>>,
    read_failed: Option<(ErrorClass, String)>,
    errors: Vec<(ErrorClass, String)>,
    ended: bool,
}

/// See the module.
pub(crate) struct Session {
    pub(crate) place: Place,
    pub(crate) oracle: Oracle,
    pub(crate) options: WorkerOptions,
    /// What the workers run in; none: they are processes of this machine.
    pub(crate) machine: Option<Machine>,
    /// Gets every message, where there is one.
    pub(crate) recording: Option<Vec<Message>>,
    worker: Option<Worker>,
    log: Log,
    pub(crate) kills: u64,
}

impl Session {
    pub(crate) fn new(place: Place, options: WorkerOptions) -> Session {
        let oracle = Oracle::new(options.seed, options.value_bytes_max);
        Session { place, oracle, options, machine: None, recording: None, worker: None, log: Log::default(), kills: 0 }
    }

    /// Starts a worker; the one before is dead.
    pub(crate) fn start(&mut self, mode: Mode, shards: usize) -> Result<(), String> {
        self.options.mode = mode;
        self.options.shards = shards;
        self.options.first = self.oracle.next.to_vec();
        self.options.checkpoint = self.oracle.next_checkpoint;
        self.options.path = self.place.path();
        self.log = Log::default();
        let worker = Worker::start(&self.options, self.machine.as_ref(), self.place.directory());
        self.worker = Some(worker.map_err(|error| format!("the worker could not be started: {error}"))?);
        Ok(())
    }

    /// Waits until the engine is open, or is not.
    pub(crate) fn opening(&mut self) -> Result<Opening, String> {
        self.opening_or_end().ok_or_else(|| self.died("while it opened"))
    }

    /// The same; nothing where the worker has ended before.
    pub(crate) fn opening_or_end(&mut self) -> Option<Opening> {
        self.until(now() + self.patience(), |log| log.opened.is_some());
        self.log.opened.clone()
    }

    fn patience(&self) -> Duration {
        if self.machine.is_some() { MACHINE_PATIENCE } else { PATIENCE }
    }

    /// Has everything read, and checked against what may be there after an opening.
    pub(crate) fn check_opened(&mut self) -> Result<(), String> {
        self.dump()?;
        self.oracle.check_opened(self.options.mode);
        Ok(())
    }

    /// Has everything read, and checked against what the running engine has acknowledged. The clients have stopped.
    pub(crate) fn check_running(&mut self) -> Result<(), String> {
        self.dump()?;
        self.oracle.check_running();
        Ok(())
    }

    fn dump(&mut self) -> Result<(), String> {
        let dumps = self.log.dumps;
        self.command("dump")?.map_or(Ok(()), |(class, error)| Err(format!("reading failed ({class:?}): {error}")))?;
        if self.log.dumps == dumps { Err("the dump has no end".into()) } else { Ok(()) }
    }

    /// Gives a command and waits for its end; the error, where it gave one.
    pub(crate) fn command(&mut self, command: &str) -> Result<Option<(ErrorClass, String)>, String> {
        let before = self.log.commands.len();
        if let Some(worker) = &mut self.worker {
            worker.command(command);
        }
        self.until(now() + self.patience(), |log| log.commands.len() > before);
        self.log.commands.get(before).cloned().ok_or_else(|| self.died(&format!("at the command {command:?}")))
    }

    /// Listens until then, or until all clients have ended; whether they have.
    pub(crate) fn listen(&mut self, until: Instant) -> bool {
        self.until(until, |log| log.clients_ended >= CLIENTS);
        self.log.clients_ended >= CLIENTS
    }

    /// Starts the clients.
    pub(crate) fn load(&mut self) -> Result<(), String> {
        self.log.clients_ended = 0;
        self.command("load").map(drop)
    }

    /// Kills the worker. That it had ended by itself is an error.
    pub(crate) fn kill(&mut self) -> Result<(), String> {
        let Some(worker) = self.worker.take() else { return Ok(()) };
        let words = worker.last_words();
        let (messages, ended) = worker.kill();
        messages.iter().for_each(|message| self.take(message));
        match ended {
            None => {
                self.kills += 1;
                Ok(())
            }
            Some(status) => Err(format!("the worker ended by itself ({status}): {words}")),
        }
    }

    /// Ends a worker that could not open its engine.
    pub(crate) fn bury(&mut self) {
        self.worker = None;
    }

    /// Has the engine closed, and waits for the end of the process.
    pub(crate) fn close(&mut self) -> Result<(), String> {
        self.command("close")?.map_or(Ok(()), |(_, error)| Err(format!("closing failed: {error}")))?;
        let patience = self.patience();
        let status = self.worker.as_mut().and_then(|worker| worker.wait(patience));
        self.worker = None;
        match status {
            Some(status) if status.success() => {
                self.oracle.closed();
                Ok(())
            }
            other => Err(format!("closing ended with {other:?}")),
        }
    }

    /// Reads every block of the volume; a worker must not be there.
    pub(crate) fn verify(&mut self) -> Result<(), String> {
        let mut path = self.place.path();
        if path.is_dir() {
            path.push(siltstone::VOLUME_FILE_NAME);
        }
        let report = siltstone::inspect::verify(&path, |_, _| ()).map_err(|error| format!("verify: {error}"))?;
        match report.problems.first() {
            None => Ok(()),
            Some(problem) => Err(format!("verify finds {} problems, the first: {problem:?}", report.problems.len())),
        }
    }

    /// The classes of the errors that clients and checkpoints met, and the first of each.
    pub(crate) fn errors(&self) -> Vec<(ErrorClass, String)> {
        self.log.errors.clone()
    }

    /// A read that failed under load.
    pub(crate) fn read_failed(&self) -> Option<(ErrorClass, String)> {
        self.log.read_failed.clone()
    }

    fn until(&mut self, until: Instant, done: impl Fn(&Log) -> bool) {
        while !done(&self.log) && !self.log.ended {
            let Some(worker) = &self.worker else { return };
            match worker.hear(until) {
                Heard::Message(message) => self.take(&message),
                Heard::Silence => return,
                Heard::End => self.log.ended = true,
            }
            if now() >= until {
                return;
            }
        }
    }

    fn take(&mut self, message: &Message) {
        self.oracle.hear(message, self.options.mode);
        if let Some(recording) = &mut self.recording {
            recording.push(message.clone());
        }
        let error = || message.error();
        match message.kind {
            Kind::Opened => self.log.opened = Some(Opening::Done),
            Kind::NotOpened => {
                let (class, text) = error();
                self.log.opened = Some(Opening::Refused(class, text));
            }
            Kind::FoundAll => self.log.dumps += 1,
            Kind::ClientEnded => self.log.clients_ended += 1,
            Kind::CommandDone => self.log.commands.push((!message.payload.is_empty()).then(error)),
            Kind::ReadFailed => self.log.read_failed = Some(error()),
            Kind::Failed | Kind::CheckpointFailed => {
                let (class, text) = error();
                if self.log.errors.iter().all(|(known, _)| *known != class) {
                    self.log.errors.push((class, text));
                }
            }
            _ => {}
        }
    }

    fn died(&mut self, when: &str) -> String {
        let words = self.worker.as_ref().map(Worker::last_words).unwrap_or_default();
        let how = if self.log.ended { "died" } else { "does not answer" };
        format!("the worker {how} {when}: {words}")
    }
}
