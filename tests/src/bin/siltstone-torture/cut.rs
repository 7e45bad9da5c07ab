//! Cuts the power of the machine that a worker runs in: under load, and while it recovers.
//!
//! A SIGKILL leaves whatever the kernel was handed; a power failure leaves what the device had made durable, and of the rest what it likes. Each life is
//! a machine of its own, booted by a program that is given ([`Machine`]), which keeps the disk and decides what is left of it. The volume is verified in the
//! next machine before the engine opens it; then everything is read back and held against the oracle, as after a kill.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use siltstone_io::Random;

use crate::child::Machine;
use crate::clock::now;
use crate::kill::refuse_errors;
use crate::place::Place;
use crate::session::{Opening, Session, Tally};
use crate::suite::{Suite, worker_options};
use crate::wire::ErrorClass;
use crate::worker::Mode;

/// By turns: the lives are few.
const MODES: [Mode; 3] = [Mode::Sync, Mode::Interval, Mode::Checkpoint];
/// The power fails at one of so many writes of an opening: those of a recovery are few.
const OPENING_WRITES: u64 = 24;
/// How long a load goes on, in milliseconds: a machine without hardware virtualisation is slow.
const LOAD_MS: u64 = 6000;

/// One volume and the power failures of its machines.
#[derive(Args)]
pub(crate) struct CutOptions {
    /// The program that boots a machine, and its arguments: a line each.
    #[arg(long)]
    machine: String,
    /// The device of the volume, in the machine.
    #[arg(long)]
    device: PathBuf,
    /// How much there is of it.
    #[arg(long)]
    capacity_bytes: u64,
    /// Power failures.
    #[arg(long)]
    cuts: u64,
    /// After so long no life is begun.
    #[arg(long, default_value_t = 600.0)]
    seconds: f64,
    /// What is done, and what of the disk is left; not when.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// What repeats the run, but for the seed.
    #[arg(long, default_value = "siltstone-torture cut")]
    again: String,
    /// With this deliberate bug in the engine.
    #[arg(long)]
    mutant: Option<String>,
}

/// Runs the lives. The last line is the summary; before it, `LOST` says that something acknowledged was lost or damaged.
pub(crate) fn run(options: &CutOptions) -> ExitCode {
    let mut suite = Suite::new(options.again.clone());
    let result = Place::in_machine(&options.device).map(|place| {
        let mut random = Random::new(options.seed);
        let mut worker = worker_options(options.seed, &mut random);
        worker.capacity_bytes = options.capacity_bytes;
        worker.mutant.clone_from(&options.mutant);
        let mut session = Session::new(place, worker);
        let mut tally = Tally::default();
        let result = lives(&mut session, &mut random, options, &suite, &mut tally);
        if lost(&session, &result) {
            println!("LOST: the volume is not what was acknowledged");
        }
        suite.end(session, tally, result.map_err(|end| end.text), options.seed);
    });
    if let Err(reason) = &result {
        println!("FAILURE: {reason}");
    }
    if suite.summary() && result.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Why the lives have ended.
struct End {
    text: String,
    /// Whether the volume is to blame.
    damage: bool,
}

impl From<String> for End {
    fn from(text: String) -> End {
        // The step of the guest that verifies says so.
        let damage = text.contains("verify has found");
        End { text, damage }
    }
}

fn lost(session: &Session, result: &Result<(), End>) -> bool {
    !session.oracle.failures.is_empty() || result.as_ref().is_err_and(|end| end.damage)
}

fn lives(
    session: &mut Session,
    random: &mut Random,
    options: &CutOptions,
    suite: &Suite,
    tally: &mut Tally,
) -> Result<(), End> {
    let until = now() + Duration::from_secs_f64(options.seconds);
    let mut opened = false;
    // Whether an opening that lands on a checkpoint was cut before or after it had done so cannot be told: it is made again.
    let mut again = None;
    for life in 0..options.cuts {
        if now() >= until || !session.oracle.failures.is_empty() {
            break;
        }
        suite.progress(session, life);
        let mode = again.take().unwrap_or(MODES[(life + options.seed) as usize % MODES.len()]);
        let shards = 1 + random.below(3) as usize;
        let at_write = (life % 4 == 2).then(|| random.below(OPENING_WRITES));
        session.machine = Some(machine(options, life, at_write, opened)?);
        session.start(mode, shards)?;
        if at_write.is_some() {
            if let Some(Opening::Refused(class, error)) = session.opening_or_end() {
                return Err(refused(class, &error));
            }
            session.kill()?;
            tally.count("power failures while opening or recovering");
            again = (mode == Mode::Checkpoint).then_some(mode);
            continue;
        }
        check_opening(session)?;
        opened = true;
        tally.count(format!("openings checked with {mode:?}"));
        session.load()?;
        session.listen(now() + Duration::from_millis(50 + random.below(LOAD_MS)));
        session.kill()?;
        tally.count("power failures under load");
        refuse_errors(session)?;
    }
    if !session.oracle.failures.is_empty() {
        return Ok(());
    }
    session.machine = Some(machine(options, options.cuts, None, opened)?);
    session.start(again.unwrap_or(Mode::Sync), 2)?;
    check_opening(session)?;
    Ok(session.close()?)
}

fn check_opening(session: &mut Session) -> Result<(), End> {
    if let Opening::Refused(class, error) = session.opening()? {
        return Err(refused(class, &error));
    }
    Ok(session.check_opened()?)
}

fn refused(class: ErrorClass, error: &str) -> End {
    End { text: format!("opening is refused ({class:?}): {error}"), damage: class == ErrorClass::Corruption }
}

/// The machine of a life.
fn machine(options: &CutOptions, life: u64, at_write: Option<u64>, verify: bool) -> Result<Machine, String> {
    let mut words = options.machine.lines().map(str::to_owned);
    let program = words.next().ok_or("--machine is empty")?;
    let mut arguments: Vec<String> = words.collect();
    arguments.push(format!("--seed={}", options.seed.wrapping_mul(1000) + life));
    arguments.extend(at_write.map(|write| format!("--cut-at-write={write}")));
    arguments.extend(verify.then(|| "--verify".into()));
    Ok(Machine { program, arguments })
}
