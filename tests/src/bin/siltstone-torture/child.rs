//! A worker as its parent sees it: killed with the value, whatever happens.

use std::fs::File;
use std::io::{BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use siltstone_io::spawn_pinned;

use crate::clock::now;
use crate::wire::Message;
use crate::worker::WorkerOptions;

/// How long the failure of a machine's power may take.
const MACHINE_PATIENCE: Duration = Duration::from_secs(60);

/// A program that boots a machine, runs a worker in it and looks like the worker: but the end of its standard input is a failure of the machine's power.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    pub(crate) program: String,
    /// Its arguments; the worker's follow behind `--`.
    pub(crate) arguments: Vec<String>,
}

/// A running worker.
pub(crate) struct Worker {
    child: Child,
    in_machine: bool,
    commands: Option<ChildStdin>,
    messages: Receiver<Message>,
    reader: Option<JoinHandle<()>>,
    log: PathBuf,
}

/// What came of waiting for a message.
pub(crate) enum Heard {
    Message(Message),
    /// Nothing until then.
    Silence,
    /// The process has ended.
    End,
}

impl Worker {
    /// Starts this program as a worker, or one in a machine; what it prints goes to a file in `directory`.
    pub(crate) fn start(
        options: &WorkerOptions,
        machine: Option<&Machine>,
        directory: &Path,
    ) -> std::io::Result<Worker> {
        let log = directory.join("worker.log");
        let mut command = match machine {
            None => Command::new(std::env::current_exe()?),
            Some(machine) => Command::new(&machine.program),
        };
        match machine {
            None => command.arg("worker"),
            Some(machine) => command.args(&machine.arguments).arg("--"),
        };
        let mut child = command
            .args(options.arguments())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::options().create(true).append(true).open(&log)?)
            .spawn()?;
        let commands = child.stdin.take();
        let pipe = child.stdout.take();
        let (sender, messages) = channel();
        // Reads on after the end: what the process had told before it was killed is still in the pipe.
        let reader = spawn_pinned("reader", None, move || {
            let Some(pipe) = pipe else { return };
            let mut pipe = BufReader::with_capacity(1 << 20, pipe);
            while let Some(message) = Message::read(&mut pipe) {
                if sender.send(message).is_err() {
                    return;
                }
            }
        });
        let reader = Some(reader.map_err(|error| std::io::Error::other(error.to_string()))?);
        Ok(Worker { child, in_machine: machine.is_some(), commands, messages, reader, log })
    }

    /// Gives it a command. That it is gone is heard from [`Self::hear`].
    pub(crate) fn command(&mut self, command: &str) {
        if let Some(commands) = &mut self.commands {
            let _ = commands.write_all(format!("{command}\n").as_bytes());
        }
    }

    /// The next message, waiting for it until then.
    pub(crate) fn hear(&self, until: Instant) -> Heard {
        match self.messages.recv_timeout(until.saturating_duration_since(now())) {
            Ok(message) => Heard::Message(message),
            Err(RecvTimeoutError::Timeout) => Heard::Silence,
            Err(RecvTimeoutError::Disconnected) => Heard::End,
        }
    }

    /// Kills it, and gives what it had told by then. The status is that of a process that ended by itself before; of a machine, that of one
    /// that did not end well.
    pub(crate) fn kill(mut self) -> (Vec<Message>, Option<ExitStatus>) {
        let ended = match self.in_machine {
            false => self.child.try_wait().ok().flatten(),
            true => {
                self.commands = None;
                self.wait(MACHINE_PATIENCE).filter(|status| !status.success())
            }
        };
        self.end();
        (self.messages.try_iter().collect(), ended)
    }

    /// Waits for its end at most this long.
    pub(crate) fn wait(&mut self, longest: Duration) -> Option<ExitStatus> {
        let until = now() + longest;
        while now() < until {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Some(status);
            }
            crate::clock::sleep(Duration::from_millis(2));
        }
        None
    }

    /// The last lines of what it printed.
    pub(crate) fn last_words(&self) -> String {
        last_lines(&self.log)
    }

    fn end(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.end();
    }
}

/// The last lines of a file.
pub(crate) fn last_lines(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(12)..].join("\n")
}
