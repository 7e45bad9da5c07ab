//! `xtask machine`: a worker of `siltstone-torture` in a machine of its own, whose power can be cut.
//!
//! The caller takes this process for the worker. What it writes to standard input goes to the worker's, what the worker tells comes out of standard
//! output, both through a virtual serial port. The end of standard input is the power failure:
//!
//! 1. The disk freezes: no command completes any more, and nothing changes what is on it. This is the moment.
//! 2. What the worker had told by then, and what is still on its way out of the guest, is passed on: until nothing has come for a while. What it tells
//!    now can only be of commands that completed before. So whatever was told to be acknowledged was so before the failure, and whatever is on the
//!    disk was told to be submitted.
//! 3. QEMU is killed, and the disk loses what it may lose ([`crate::disk`]).
//!
//! The same happens where the machine ends by itself: to be closed is to need no power.

use std::fs::File;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Args;

use crate::disk::{Disk, Faults};
use crate::machine::{Heard, Line, Machine, Namespace, Parts};
use crate::run::Result;

/// How often it is looked at whether anything has happened.
const TURN: Duration = Duration::from_millis(20);
/// For how long the guest must be silent after the failure, and how long that is waited for.
const SILENCE: Duration = Duration::from_millis(400);
const SILENCE_PATIENCE: Duration = Duration::from_secs(10);

/// A machine for one worker.
#[derive(Args, Debug)]
pub(crate) struct WorkerArgs {
    #[arg(long)]
    kernel: PathBuf,
    #[arg(long)]
    initramfs: PathBuf,
    /// The disk's image; it stays from machine to machine.
    #[arg(long)]
    image: PathBuf,
    #[arg(long)]
    block_bytes: u64,
    /// Gets the console.
    #[arg(long)]
    log: PathBuf,
    /// Gets a line for each power failure: blocks that were lost, blocks that were not durable, flushes and writes with FUA before.
    #[arg(long)]
    losses: PathBuf,
    /// The longest that the machine may live.
    #[arg(long, default_value_t = 300)]
    seconds: u64,
    /// Decides what a power failure leaves.
    #[arg(long)]
    seed: u64,
    /// Flushes do nothing.
    #[arg(long)]
    deaf: bool,
    /// The power fails at this write.
    #[arg(long)]
    cut_at_write: Option<u64>,
    /// The volume's device, in the machine.
    #[arg(long)]
    device: String,
    /// The volume is verified before the worker begins.
    #[arg(long)]
    verify: bool,
    /// The worker's arguments.
    #[arg(last = true)]
    worker: Vec<String>,
}

/// Boots the machine, and returns when it is gone: an error where the guest ended with one.
pub(crate) fn run(args: &WorkerArgs) -> Result<()> {
    let faults = Faults { deaf: args.deaf, freeze_at_write: args.cut_at_write };
    let disk = Disk::open(&args.image, args.block_bytes, args.seed, faults);
    let namespace = Namespace::new(disk.map_err(|error| format!("{}: {error}", args.image.display()))?);
    let disk = Arc::clone(&namespace.disk);
    let parts = Parts { kernel: args.kernel.clone(), initramfs: args.initramfs.clone() };
    let device = &args.device;
    let verified = if args.verify { format!("verified {device} ") } else { String::new() };
    let script = format!("step worker {verified}worker {device} {}\n", args.worker.join(" "));
    let mut machine = Machine::boot(&parts, &[namespace], &script, true, &args.log)?;
    let port = machine.port.take().ok_or("the machine has no port")?;
    let wanted_end = Arc::new(AtomicBool::new(false));
    let told = Arc::new(AtomicU64::new(0));
    let passing = pass_on(&port, &told)?;
    take_commands(&port, &wanted_end)?;

    let until = Instant::now() + Duration::from_secs(args.seconds);
    let mut failed = None;
    while !wanted_end.load(Ordering::SeqCst) && !disk.frozen() {
        match machine.hear(Instant::now() + TURN) {
            Heard::Line(Line::Failed { name, .. }) => failed = Some(format!("{name}\n{}", machine.last_lines())),
            Heard::Line(_) => {}
            Heard::Ended => break,
            Heard::Silence if Instant::now() < until => {}
            Heard::Silence => {
                failed = Some(format!("the machine has lived for {} s\n{}", args.seconds, machine.last_lines()));
                break;
            }
        }
    }
    disk.freeze();
    let patience = Instant::now() + SILENCE_PATIENCE;
    let (mut heard, mut since) = (told.load(Ordering::SeqCst), Instant::now());
    while since.elapsed() < SILENCE && Instant::now() < patience && !passing.is_finished() {
        std::thread::sleep(TURN);
        let now = told.load(Ordering::SeqCst);
        if now != heard {
            (heard, since) = (now, Instant::now());
        }
    }
    machine.kill();
    let _ = port.shutdown(Shutdown::Both);
    let _ = passing.join();
    let counters = disk.counters();
    let loss = disk.cut().map_err(|error| format!("{}: {error}", args.image.display()))?;
    eprintln!("power failure: {} of {} blocks lost; {counters:?}", loss.lost, loss.blocks);
    let losses = File::options().create(true).append(true).open(&args.losses);
    let written = losses.and_then(|mut file| {
        writeln!(file, "{} {} {} {}", loss.lost, loss.blocks, counters.flushes, counters.durable_writes)
    });
    written.map_err(|error| format!("{}: {error}", args.losses.display()))?;
    failed.map_or(Ok(()), Err)
}

/// What comes out of the guest goes to standard output.
fn pass_on(port: &UnixStream, told: &Arc<AtomicU64>) -> Result<std::thread::JoinHandle<()>> {
    let mut from = port.try_clone().map_err(|error| error.to_string())?;
    let told = Arc::clone(told);
    Ok(std::thread::spawn(move || {
        let (mut to, mut piece) = (std::io::stdout().lock(), vec![0; 64 << 10]);
        while let Ok(count @ 1..) = from.read(&mut piece) {
            if to.write_all(&piece[..count]).and_then(|()| to.flush()).is_err() {
                return;
            }
            told.fetch_add(count as u64, Ordering::SeqCst);
        }
    }))
}

/// What comes from standard input goes into the guest; its end is told.
fn take_commands(port: &UnixStream, ended: &Arc<AtomicBool>) -> Result<()> {
    let mut to = port.try_clone().map_err(|error| error.to_string())?;
    let ended = Arc::clone(ended);
    std::thread::spawn(move || {
        let (mut from, mut piece) = (std::io::stdin().lock(), vec![0; 4096]);
        while let Ok(count @ 1..) = from.read(&mut piece) {
            if to.write_all(&piece[..count]).is_err() {
                return;
            }
        }
        ended.store(true, Ordering::SeqCst);
    });
    Ok(())
}
