//! A virtual machine: QEMU without hardware virtualisation, an NVMe controller with one namespace for each disk, and the guest's console.
//!
//! The console's lines that begin with `@@` are the guest's report ([`Line`]). QEMU dies with the value, and with this process, whatever happens
//! to it. It runs at a low priority.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use crate::disk::{Disk, server};
use crate::initramfs::plan;
use crate::queues::Queues;
use crate::run::Result;
use crate::scratch;

/// Queue pairs of the controller: more than the guest has CPUs, and some to poll.
const QUEUES: u32 = 6;
const MEMORY_MIB: u64 = 1024;
/// Where the folders of sockets are, and how their names begin.
pub(crate) const SOCKETS: &str = "/tmp";
pub(crate) const SOCKETS_NAME: &str = "siltstone-nvme";
/// The socket of QEMU's monitor.
const MONITOR: &str = "monitor";
/// Lines of the console that are shown where something went wrong.
const LAST_LINES: usize = 16;

/// How long the monitor may take to answer.
const MONITOR_PATIENCE: Duration = Duration::from_secs(30);

/// What a machine is made of.
#[derive(Clone, Debug)]
pub(crate) struct Parts {
    pub(crate) kernel: PathBuf,
    pub(crate) initramfs: PathBuf,
}

/// A namespace of the machine's controller.
pub(crate) struct Namespace {
    pub(crate) disk: Arc<Disk>,
    /// It has zones of so many bytes, each to be written in order.
    pub(crate) zone_bytes: Option<u64>,
}

impl Namespace {
    pub(crate) fn new(disk: Disk) -> Namespace {
        Namespace { disk: Arc::new(disk), zone_bytes: None }
    }
}

/// A line of the guest's console.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Line {
    Started {
        name: String,
    },
    Passed {
        name: String,
        seconds: u64,
    },
    Failed {
        name: String,
        seconds: u64,
    },
    /// The host is to take this device away.
    Unplug {
        device: String,
    },
    /// The plan is done.
    End,
    Other(String),
}

impl Line {
    fn parse(text: &str) -> Line {
        let Some(report) = text.strip_prefix("@@") else { return Line::Other(text.to_owned()) };
        let mut words = report.splitn(2, ' ');
        let (kind, rest) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let (seconds, name) = rest.split_once(' ').unwrap_or(("", rest));
        let (seconds, name) = (seconds.parse().unwrap_or_default(), name.to_owned());
        match kind {
            "START" => Line::Started { name: rest.to_owned() },
            "PASS" => Line::Passed { name, seconds },
            "FAIL" => Line::Failed { name, seconds },
            "UNPLUG" => Line::Unplug { device: rest.to_owned() },
            "END" => Line::End,
            _ => Line::Other(text.to_owned()),
        }
    }
}

/// What came of waiting for a line.
pub(crate) enum Heard {
    Line(Line),
    /// Nothing in that time.
    Silence,
    /// QEMU has ended.
    Ended,
}

/// A running machine.
pub(crate) struct Machine {
    qemu: Child,
    lines: Receiver<String>,
    last: Vec<String>,
    /// The host's end of the guest's `/dev/vport0p1`.
    pub(crate) port: Option<UnixStream>,
    // Sockets of the disks, of the port and of the monitor, and the filesystem; with it the folder goes.
    sockets: tempfile::TempDir,
}

impl Machine {
    /// Boots a machine that runs this script of steps. `log` gets its console.
    pub(crate) fn boot(
        parts: &Parts,
        namespaces: &[Namespace],
        script: &str,
        with_port: bool,
        log: &Path,
    ) -> Result<Machine> {
        // The path of a socket has little room: not in the build's folder.
        let sockets = scratch::folder(Path::new(SOCKETS), SOCKETS_NAME)?;
        let initramfs = sockets.path().join("initramfs");
        // Two archives behind each other.
        std::fs::copy(&parts.initramfs, &initramfs).map_err(text)?;
        let mut file = File::options().append(true).open(&initramfs).map_err(text)?;
        file.write_all(&plan(script)).map_err(text)?;

        // Its memory is seen by us too: a file without a name, which QEMU opens by our descriptor.
        let memory = tempfile::tempfile_in("/dev/shm").map_err(text)?;
        memory.set_len(MEMORY_MIB << 20).map_err(text)?;
        let memory_path = format!("/proc/{}/fd/{}", std::process::id(), memory.as_raw_fd());
        let queues = Arc::new(Queues::new(memory));

        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "nice", "-n", "5", "qemu-system-x86_64"]);
        command.args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-M", "pc,memory-backend=memory"]);
        command.arg("-m").arg(format!("{MEMORY_MIB}"));
        let backend = format!("memory-backend-file,id=memory,share=on,size={MEMORY_MIB}M,mem-path={memory_path}");
        command.arg("-object").arg(backend).args(["-trace", "pci_nvme_create_sq"]);
        command.args(["-nodefaults", "-display", "none", "-monitor", "none", "-no-reboot", "-serial", "stdio"]);
        command.arg("-kernel").arg(&parts.kernel).arg("-initrd").arg(&initramfs);
        command.arg("-qmp").arg(format!("unix:{},server=on,wait=off", sockets.path().join(MONITOR).display()));
        // What the kernel does not know is the environment of init.
        command
            .arg("-append")
            .arg(format!("console=ttyS0 quiet loglevel=3 panic=-1 mitigations=off NAMESPACES={}", namespaces.len()));
        command.arg("-device").arg(format!("nvme,id=nvme0,serial=siltstone,max_ioqpairs={QUEUES}"));
        for (index, Namespace { disk, zone_bytes }) in namespaces.iter().enumerate() {
            let socket = sockets.path().join(format!("disk{index}"));
            let listener = UnixListener::bind(&socket).map_err(text)?;
            disk.attach(&queues, index as u32 + 1);
            let disk_served = Arc::clone(disk);
            std::thread::spawn(move || {
                let served = listener.accept().and_then(|(stream, _)| server::serve(stream, &disk_served));
                if let Err(error) = served {
                    eprintln!("disk {index}: {error}");
                }
            });
            let node = format!(
                "driver=nbd,node-name=disk{index},discard=unmap,server.type=unix,server.path={}",
                socket.display()
            );
            let block = disk.block_bytes();
            let (nsid, sizes) = (index + 1, format!("logical_block_size={block},physical_block_size={block}"));
            let zones = zone_bytes.map(|bytes| format!(",zoned=true,zoned.zone_size={bytes}")).unwrap_or_default();
            command.arg("-blockdev").arg(node);
            command.arg("-device").arg(format!("nvme-ns,drive=disk{index},bus=nvme0,nsid={nsid},{sizes}{zones}"));
        }
        let mut listener = None;
        if with_port {
            let socket = sockets.path().join("port");
            listener = Some(UnixListener::bind(&socket).map_err(text)?);
            command.args(["-device", "virtio-serial-pci", "-device", "virtserialport,chardev=port,name=siltstone"]);
            command.arg("-chardev").arg(format!("socket,id=port,server=off,path={}", socket.display()));
        }
        let log_file = File::create(log).map_err(text)?;
        let mut errors_log = log_file.try_clone().map_err(text)?;
        let mut qemu = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| format!("QEMU does not start: {error}"))?;
        let (console, errors) = (qemu.stdout.take(), qemu.stderr.take());
        std::thread::spawn(move || {
            let lines =
                errors.into_iter().flat_map(|errors| BufReader::new(errors).lines().map_while(std::result::Result::ok));
            for line in lines {
                if !queues.hear(&line) {
                    let _ = writeln!(errors_log, "{line}");
                }
            }
        });
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            let Some(console) = console else { return };
            let (mut console, mut log, mut line) = (BufReader::new(console), log_file, Vec::new());
            while console.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
                let _ = log.write_all(&line);
                let text = String::from_utf8_lossy(&line).trim_end().to_owned();
                line.clear();
                if sender.send(text).is_err() {
                    return;
                }
            }
        });
        let mut machine = Machine { qemu, lines, last: Vec::new(), port: None, sockets };
        if let Some(listener) = listener {
            machine.port = Some(machine.accept(&listener, log)?);
        }
        Ok(machine)
    }

    /// Waits for QEMU to connect; it may also end instead.
    fn accept(&mut self, listener: &UnixListener, log: &Path) -> Result<UnixStream> {
        listener.set_nonblocking(true).map_err(text)?;
        loop {
            match listener.accept() {
                Ok((stream, _)) => {
                    stream.set_nonblocking(false).map_err(text)?;
                    return Ok(stream);
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(text(error)),
            }
            if let Ok(Some(status)) = self.qemu.try_wait() {
                let words = std::fs::read_to_string(log).unwrap_or_default();
                return Err(format!("QEMU has ended ({status}): {words}"));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// The next line of the console, waiting for it until then.
    pub(crate) fn hear(&mut self, until: Instant) -> Heard {
        match self.lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(line) => {
                self.last.push(line.clone());
                if self.last.len() > LAST_LINES {
                    self.last.remove(0);
                }
                Heard::Line(Line::parse(&line))
            }
            Err(RecvTimeoutError::Timeout) => Heard::Silence,
            Err(RecvTimeoutError::Disconnected) => Heard::Ended,
        }
    }

    /// Takes a device of the guest's away, as if somebody pulled it.
    pub(crate) fn unplug(&self, device: &str) -> Result<()> {
        let mut monitor = UnixStream::connect(self.sockets.path().join(MONITOR)).map_err(text)?;
        monitor.set_read_timeout(Some(MONITOR_PATIENCE)).map_err(text)?;
        let mut answers = BufReader::new(monitor.try_clone().map_err(text)?).lines();
        let commands = [
            r#"{"execute": "qmp_capabilities"}"#.to_owned(),
            format!(r#"{{"execute": "device_del", "arguments": {{"id": "{device}"}}}}"#),
        ];
        for command in commands {
            writeln!(monitor, "{command}").map_err(text)?;
            // Before the answer there may be a greeting, and events.
            loop {
                let answer = answers.next().ok_or("the monitor is gone")?.map_err(text)?;
                match answer {
                    answer if answer.contains("\"error\"") => return Err(format!("{command}: {answer}")),
                    answer if answer.contains("\"return\"") => break,
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// The last lines of the console.
    pub(crate) fn last_lines(&self) -> String {
        self.last.join("\n")
    }

    /// Ends QEMU at once.
    pub(crate) fn kill(&mut self) {
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.kill();
    }
}

fn text(error: std::io::Error) -> String {
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_are_told_from_other_lines() {
        assert_eq!(Line::parse("@@PASS 12 a step"), Line::Passed { name: "a step".into(), seconds: 12 });
        assert_eq!(Line::parse("@@FAIL 3 a (status 1)"), Line::Failed { name: "a (status 1)".into(), seconds: 3 });
        assert_eq!(Line::parse("@@START a step"), Line::Started { name: "a step".into() });
        assert_eq!(Line::parse("@@UNPLUG nvme0"), Line::Unplug { device: "nvme0".into() });
        assert_eq!(Line::parse("@@END"), Line::End);
        assert_eq!(Line::parse("[ 1.0] PASS"), Line::Other("[ 1.0] PASS".into()));
    }
}
