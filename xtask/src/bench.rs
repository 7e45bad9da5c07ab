//! The NVMe test bench: the engine on a real NVMe driver.
//!
//! **What is booted.** QEMU without hardware virtualisation, with Debian's kernel and an archive of busybox, modules and the release builds of
//! `siltstone` and `siltstone-torture` as its only filesystem. It has one NVMe controller with two namespaces, of 512 and of 4096 bytes a logical block,
//! several queues and two that are polled (`nvme poll_queues=2`); and, where steps share a machine, three that no volume fits on. Its drives are NBD clients of this process, which *is* the disk ([`crate::disk`]), on
//! sparse image files in a scratch folder.
//!
//! **How results come back.** The guest's first process runs a plan, a list of steps of `guest/steps.sh`, and prints a line on the serial console for each that
//! begins and ends. A step that has begun and whose end is not heard of (the guest panics, hangs, or QEMU dies) has failed, and so have those behind it.
//! Every machine has a time limit, and dies with this process.
//!
//! **What is lost in a power cut.** To kill QEMU alone loses nothing: what it has written is in the host's page cache. Here the disk has a volatile cache of
//! its own, and at the cut each block of it falls back to its durable version or to any later one, at random, without regard to order. Durable is what a flush
//! covers: writes whose completion the guest had been told of before the flush came. `siltstone-torture cut` boots a machine for each life of its
//! worker, hears through a virtual serial port what it submits and what is acknowledged, cuts the power under load or at a random write of the
//! recovery, and has the volume verified and read back in the next machine.
//!
//! **FUA.** QEMU's NVMe controller (7.2 at least) does not pass it on, and a write of io_uring with `RWF_DSYNC` on a block device is nothing but a write with
//! FUA. So the disk looks it up in the guest's submission queues ([`crate::queues`]).

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use clap::Args;

use crate::disk::{Disk, Faults};
use crate::initramfs;
use crate::machine::{Heard, Line, Machine, Namespace, Parts, SOCKETS, SOCKETS_NAME};
use crate::packages;
use crate::programs;
use crate::run::Result;
use crate::scratch;
use crate::steps::{Expected, How, STEPS, Step};

/// Size of each namespace. The image files are sparse.
const IMAGE_BYTES: u64 = 512 << 20;
/// Namespaces that cannot hold a volume: size, logical block, size of a zone. The block device of the second has no bytes before Linux 6.15.
const USELESS: [(u64, u64, Option<u64>); 3] =
    [(IMAGE_BYTES, 4096, Some(16 << 20)), (IMAGE_BYTES, 16384, None), (1 << 20, 512, None)];
/// How long a machine may take until its first step.
const BOOT: Duration = Duration::from_secs(300);
/// For how long a load is recorded.
const RECORDED_MS: u64 = 5000;

/// Options of the bench.
#[derive(Args, Debug)]
pub(crate) struct BenchArgs {
    /// Only lists the steps.
    #[arg(long)]
    list: bool,
    /// Only these steps, or those whose names begin like this.
    #[arg(long, value_name = "STEP")]
    only: Vec<String>,
    /// Keeps images and consoles.
    #[arg(long)]
    keep: bool,
    /// Only says what is missing.
    #[arg(long)]
    no_install: bool,
    /// Power failures of each such step.
    #[arg(long, default_value_t = 4)]
    cuts: u32,
    /// Flush points of each such step at which the volume is opened.
    #[arg(long, default_value_t = 40)]
    points: usize,
    /// Decides what the power failures do.
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

/// Where things are.
struct Bench {
    parts: Parts,
    torture: PathBuf,
    scratch: PathBuf,
    cuts: u32,
    points: usize,
    seed: u64,
}

/// Runs the steps; whether all have passed.
pub(crate) fn run(args: &BenchArgs) -> Result<bool> {
    let chosen =
        |step: &&Step| args.only.is_empty() || args.only.iter().any(|name| step.name.starts_with(name.as_str()));
    let steps: Vec<&Step> = STEPS.iter().filter(chosen).collect();
    if args.list {
        steps.iter().for_each(|step| println!("{:<16} {}", step.name, step.about));
        return Ok(true);
    }
    if steps.is_empty() {
        return Err(format!("no step is called {:?}: see --list", args.only));
    }
    let target = target_folder()?;
    let cache = target.join("nvme");
    fs::create_dir_all(&cache).map_err(text)?;
    packages::provide(!args.no_install)?;
    let kernel = packages::kernel(&cache, !args.no_install)?;
    scratch::sweep(&cache, "run");
    scratch::sweep(Path::new(SOCKETS), SOCKETS_NAME);
    let scratch = scratch::folder(&cache, "run")?;
    let programs = programs::build(&target, &steps)?;
    let files = programs::job_files(&programs[0].path, scratch.path())?;
    let initramfs = scratch.path().join("initramfs");
    fs::write(&initramfs, initramfs::pack(&kernel, &programs, &files, scratch.path())?).map_err(text)?;
    println!("Linux {}, {} steps", kernel.name, steps.len());
    let bench = Bench {
        parts: Parts { kernel: kernel.image, initramfs },
        torture: programs[1].path.clone(),
        scratch: scratch.path().to_owned(),
        cuts: args.cuts,
        points: args.points,
        seed: args.seed,
    };
    let failed = bench.steps(&steps);
    if args.keep {
        // Under a name that is not swept.
        let (from, to) = (scratch.keep(), cache.join(format!("kept-{}", std::process::id())));
        fs::rename(&from, &to).map_err(text)?;
        println!("images and consoles are in {}", to.display());
    }
    let failed = failed?;
    println!("{} passed, {failed} failed", steps.len() - failed);
    Ok(failed == 0)
}

impl Bench {
    /// Makes the steps; how many have failed.
    fn steps(&self, steps: &[&Step]) -> Result<usize> {
        let in_guest: Vec<&Step> = steps.iter().copied().filter(|step| matches!(step.how, How::Guest(_))).collect();
        let mut failed = if in_guest.is_empty() { 0 } else { self.in_guest(&in_guest)? };
        for step in steps {
            let begun = Instant::now();
            let result = match step.how {
                How::Guest(_) => continue,
                How::Cut { block_bytes, node, disk } => self.cut(step, block_bytes, node, disk),
                How::Points { mode, disk } => self.points(step, mode, disk),
            };
            failed += usize::from(result.is_err());
            tell(step.name, result.as_ref().err().map(String::as_str), begun.elapsed().as_secs());
        }
        Ok(failed)
    }

    /// Runs all steps of the guest in one machine.
    fn in_guest(&self, steps: &[&Step]) -> Result<usize> {
        let mut namespaces = Vec::new();
        for (bytes, block_bytes, zone_bytes) in
            [(IMAGE_BYTES, 512, None), (IMAGE_BYTES, 4096, None)].into_iter().chain(USELESS)
        {
            let image = self.image(&format!("image{}", namespaces.len() + 1), bytes)?;
            let disk = Disk::open(&image, block_bytes, self.seed, Faults::default()).map_err(text)?;
            namespaces.push(Namespace { zone_bytes, ..Namespace::new(disk) });
        }
        let mut script = String::new();
        for step in steps {
            let How::Guest(command) = step.how else { continue };
            script.push_str(&format!("step {} {command}\n", step.name));
        }
        let begun = Instant::now();
        let mut machine = Machine::boot(&self.parts, &namespaces, &script, false, &self.scratch.join("guest.console"))?;
        let (mut limit, mut passed, mut told) = (begun + BOOT, 0, Vec::new());
        let why = loop {
            match machine.hear(limit) {
                Heard::Line(Line::Started { name }) => {
                    let step = steps.iter().find(|step| step.name == name);
                    limit = Instant::now() + Duration::from_secs(step.map_or(0, |step| step.seconds_max));
                    if told.is_empty() {
                        println!("booted in {} s", begun.elapsed().as_secs());
                        told.push("");
                    }
                }
                Heard::Line(Line::Passed { name, seconds }) => {
                    passed += 1;
                    tell(&name, None, seconds);
                    told.extend(steps.iter().map(|step| step.name).filter(|known| *known == name));
                }
                Heard::Line(Line::Failed { name, seconds }) => {
                    tell(&name, Some(&machine.last_lines()), seconds);
                    let word = name.split(' ').next().unwrap_or_default();
                    told.extend(steps.iter().map(|step| step.name).filter(|known| *known == word));
                }
                Heard::Line(Line::Unplug { device }) => machine.unplug(&device)?,
                Heard::Line(Line::End) => break "it is not in the plan",
                Heard::Line(Line::Other(_)) => {}
                Heard::Silence => break "the machine did not get to its end in time",
                Heard::Ended => break "the machine has ended",
            }
        };
        for step in steps.iter().filter(|step| !told.contains(&step.name)) {
            tell(step.name, Some(&format!("{why}\n{}", machine.last_lines())), 0);
        }
        machine.kill();
        for Namespace { disk, .. } in namespaces.iter().take(2) {
            println!("disk of {} bytes a block: {:?}", disk.block_bytes(), disk.counters());
        }
        Ok(steps.len() - passed)
    }

    /// Has `siltstone-torture` cut the power of workers in machines.
    fn cut(&self, step: &Step, block_bytes: u64, node: &str, disk: Expected) -> Result<()> {
        let image = self.image(step.name, IMAGE_BYTES)?;
        let xtask = std::env::current_exe().map_err(text)?;
        let losses = self.scratch.join(format!("{}.losses", step.name));
        let mut machine = vec![
            xtask.display().to_string(),
            "machine".into(),
            format!("--kernel={}", self.parts.kernel.display()),
            format!("--initramfs={}", self.parts.initramfs.display()),
            format!("--image={}", image.display()),
            format!("--losses={}", losses.display()),
            format!("--block-bytes={block_bytes}"),
            format!("--device={node}"),
            format!("--log={}", self.scratch.join(format!("{}.console", step.name)).display()),
        ];
        machine.extend((disk == Expected::Deaf).then(|| "--deaf".into()));
        let mut command = Command::new(&self.torture);
        command.args(["cut", "--device", node, "--machine", &machine.join("\n")]);
        command.args(["--capacity-bytes", &IMAGE_BYTES.to_string()]);
        command.args(["--cuts", &self.cuts.to_string(), "--seed", &self.seed.to_string()]);
        command.args(["--seconds", &step.seconds_max.to_string()]);
        command.args(["--again", &format!("cargo xtask nvme --only {} --cuts {}", step.name, self.cuts)]);
        command.env("TMPDIR", &self.scratch);
        let (status, lines) = listen(&mut command)?;
        let _ = fs::remove_file(image);
        let [gone, open, flushes, durable] = sum_losses(&fs::read_to_string(losses).unwrap_or_default());
        println!(
            "    {gone} of {open} blocks that were not durable were lost; {flushes} flushes, {durable} writes with FUA"
        );
        let lost = lines.iter().any(|line| line.starts_with("LOST"));
        match disk {
            Expected::Honest if status.success() && gone > 0 => Ok(()),
            Expected::Honest if status.success() => {
                Err("the power failures have taken nothing: this has tested nothing".into())
            }
            Expected::Honest => Err(format!("siltstone-torture: {status}")),
            Expected::Deaf if !status.success() && lost => Ok(()),
            Expected::Deaf => Err("the disk has lost what it was told to keep, and nobody has noticed".into()),
        }
    }

    /// Has a load recorded by dm-log-writes, and judged at points of the log.
    fn points(&self, step: &Step, mode: &str, expected: Expected) -> Result<()> {
        let (mut namespaces, mut images) = (Vec::new(), Vec::new());
        for block_bytes in [512, 4096] {
            let image = self.image(&format!("{}{block_bytes}", step.name), IMAGE_BYTES)?;
            namespaces
                .push(Namespace::new(Disk::open(&image, block_bytes, self.seed, Faults::default()).map_err(text)?));
            images.push(image);
        }
        let options =
            [format!("--capacity-bytes={IMAGE_BYTES}"), format!("--mode={mode}"), format!("--seed={}", self.seed)];
        let load = format!("--milliseconds={RECORDED_MS}");
        let script = format!("step record record /dev/nvme0n2 /dev/nvme0n1 {} {load}\n", options.join(" "));
        let console = self.scratch.join(format!("{}.console", step.name));
        let mut machine = Machine::boot(&self.parts, &namespaces, &script, true, &console)?;
        let mut port = machine.port.take().ok_or("the machine has no port")?;
        let messages = self.scratch.join(format!("{}.messages", step.name));
        let mut file = fs::File::create(&messages).map_err(text)?;
        let copied = std::thread::spawn(move || std::io::copy(&mut port, &mut file));
        let limit = Instant::now() + BOOT + Duration::from_secs(step.seconds_max);
        loop {
            match machine.hear(limit) {
                Heard::Line(Line::Failed { name, .. }) => return Err(format!("{name}\n{}", machine.last_lines())),
                Heard::Line(_) => {}
                Heard::Silence => return Err(format!("it is not done in time\n{}", machine.last_lines())),
                Heard::Ended => break,
            }
        }
        machine.kill();
        copied.join().map_err(|_| "the messages were not copied")?.map_err(text)?;
        let mut command = Command::new(&self.torture);
        command.arg("judge").arg("--log").arg(&images[0]).arg("--messages").arg(&messages).args(options);
        command.arg(format!("--points={}", self.points)).args((expected == Expected::Deaf).then_some("--deaf"));
        let (status, lines) = listen(command.env("TMPDIR", &self.scratch))?;
        images.iter().for_each(|image| drop(fs::remove_file(image)));
        let noticed = lines.iter().any(|line| line.starts_with("FAILURE at entry"));
        match expected {
            Expected::Honest if status.success() => Ok(()),
            Expected::Honest => Err(format!("siltstone-torture judge: {status}")),
            Expected::Deaf if noticed => Ok(()),
            Expected::Deaf => Err("the log lacks what was durable, and nobody has noticed".into()),
        }
    }

    fn image(&self, name: &str, bytes: u64) -> Result<PathBuf> {
        let path = self.scratch.join(name);
        fs::File::create(&path).and_then(|file| file.set_len(bytes)).map_err(text)?;
        Ok(path)
    }
}

/// Runs a program and shows what it prints.
fn listen(command: &mut Command) -> Result<(ExitStatus, Vec<String>)> {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().map_err(text)?;
    let mut lines = Vec::new();
    for line in BufReader::new(child.stdout.take().ok_or("no output")?).lines().map_while(std::result::Result::ok) {
        println!("    {line}");
        lines.push(line);
    }
    Ok((child.wait().map_err(text)?, lines))
}

/// The sums of the columns of all power failures.
fn sum_losses(text: &str) -> [u64; 4] {
    let mut sums = [0; 4];
    for line in text.lines() {
        for (sum, word) in sums.iter_mut().zip(line.split(' ')) {
            *sum += word.parse::<u64>().unwrap_or_default();
        }
    }
    sums
}

/// One line for a step, and behind it what there is to say of a failure.
fn tell(name: &str, failure: Option<&str>, seconds: u64) {
    match failure {
        None => println!("PASS {name:<32} {seconds:>4} s"),
        Some(why) => {
            println!("FAIL {name:<32} {seconds:>4} s");
            why.lines().for_each(|line| println!("    {line}"));
        }
    }
    let _ = std::io::stdout().flush();
}

/// The folder that cargo builds into: this program is in a folder of it.
fn target_folder() -> Result<PathBuf> {
    let program = std::env::current_exe().map_err(text)?;
    program.ancestors().nth(2).map(Path::to_owned).ok_or_else(|| "this program is nowhere".into())
}

fn text(error: std::io::Error) -> String {
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_are_summed_up() {
        assert_eq!(sum_losses("1 2 3 4\n30 40 50 60\n"), [31, 42, 53, 64]);
        assert_eq!(sum_losses(""), [0; 4]);
    }
}
