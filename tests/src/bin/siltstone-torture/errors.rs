//! Has the kernel return errors: a typed error, reads that go on, and nothing acknowledged lost once the device is well again.
//!
//! | fault | place | what the kernel returns |
//! |---|---|---|
//! | the file may not grow (`RLIMIT_FSIZE`) | file | EFBIG on reserving space |
//! | the device is read-only | loop, zram | EPERM on writes |
//! | the filesystem below the device is full | loop on a tmpfs | ENOSPC or EIO on writes |
//! | the device's memory is used up | zram | EIO on writes |
//! | the end of the file below the device is missing | loop | EIO on reads |

use std::time::{Duration, Instant};

use siltstone_io::Random;

use crate::clock::now;
use crate::place::{Place, PlaceKind};
use crate::session::{Opening, Session, Tally};
use crate::suite::{Suite, worker_options};
use crate::wire::ErrorClass;
use crate::worker::Mode;

const PLACE_BYTES: u64 = 512 << 20;
/// The tmpfs below a loop device: less than what is written until it fails.
const TMPFS_BYTES: u64 = 256 << 20;
/// How long an error may take to be met.
const PATIENCE: Duration = Duration::from_secs(15);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    FileMayNotGrow,
    ReadOnlyDevice,
    FullBelow,
    NoMemory,
    CutBelow,
}

fn faults(kind: PlaceKind) -> &'static [Fault] {
    match kind {
        PlaceKind::Loop => &[Fault::FullBelow, Fault::ReadOnlyDevice, Fault::CutBelow],
        PlaceKind::Zram => &[Fault::NoMemory, Fault::ReadOnlyDevice],
        _ => &[Fault::FileMayNotGrow],
    }
}

/// Has errors on new volumes until then.
pub(crate) fn run(kind: PlaceKind, seed: u64, until: Instant, suite: &mut Suite) -> Result<(), String> {
    let mut volume = 0;
    while now() < until && suite.goes_on() {
        let seed = seed.wrapping_add(volume);
        let mut random = Random::new(seed);
        let faults = faults(kind);
        let fault = faults[(seed % faults.len() as u64) as usize];
        let mut options = worker_options(seed, &mut random);
        options.value_bytes_max = 4000;
        let small = (fault == Fault::FullBelow).then_some(TMPFS_BYTES);
        options.mutant.clone_from(&suite.mutant);
        let mut session = Session::new(Place::new(kind, PLACE_BYTES, small)?, options);
        let mut tally = Tally::default();
        suite.progress(&session, volume);
        let result = match fault {
            Fault::CutBelow => reads_fail(&mut session, &mut random, &mut tally),
            _ => writes_fail(&mut session, fault, &mut random, &mut tally),
        };
        suite.end(session, tally, result.map_err(|error| format!("{fault:?}: {error}")), seed);
        volume += 1;
    }
    Ok(())
}

fn open(session: &mut Session, mode: Mode, shards: usize) -> Result<(), String> {
    session.start(mode, shards)?;
    match session.opening()? {
        Opening::Done => session.check_opened(),
        Opening::Refused(class, error) => Err(format!("opening the healthy device is refused ({class:?}): {error}")),
    }
}

/// The device fails under load; the engine is killed or closed, the device gets well, and everything is there.
fn writes_fail(session: &mut Session, fault: Fault, random: &mut Random, tally: &mut Tally) -> Result<(), String> {
    let modes = [Mode::Sync, Mode::Interval, Mode::Checkpoint];
    let mode = modes[random.below(3) as usize];
    open(session, mode, 1 + random.below(4) as usize)?;
    session.load()?;
    session.listen(now() + Duration::from_millis(100 + random.below(500)));
    inject(session, fault)?;
    let met = session.listen(now() + PATIENCE);
    session.command("stop")?;
    let allowed = [ErrorClass::Io, ErrorClass::Poisoned, ErrorClass::NoSpace];
    for (class, error) in session.errors() {
        if !allowed.contains(&class) && !error.starts_with("busy") {
            return Err(format!("an operation fails with {class:?}: {error}"));
        }
        tally.count(format!("{fault:?} is told as {class:?}"));
    }
    if let Some((class, error)) = session.read_failed() {
        return Err(format!("a read fails ({class:?}): {error}"));
    }
    if !met {
        return Err(format!("no client has met an error in {PATIENCE:?}"));
    }
    session.check_running()?;
    tally.count(format!("{fault:?}: all reads went on"));
    session.kill()?;
    heal(session, fault)?;
    open(session, mode, 1 + random.below(4) as usize)?;
    tally.count(format!("{fault:?}: reopened with everything that was durable"));
    let before = session.oracle.acknowledged;
    session.load()?;
    session.listen(now() + Duration::from_millis(300));
    session.kill()?;
    if session.oracle.acknowledged == before {
        return Err("the reopened volume takes no writes".into());
    }
    open(session, mode, 2)?;
    session.close()?;
    session.verify()
}

fn inject(session: &mut Session, fault: Fault) -> Result<(), String> {
    match fault {
        Fault::FileMayNotGrow => {
            let file = session.place.path().join(siltstone::VOLUME_FILE_NAME);
            let bytes = std::fs::metadata(file).map_err(|error| error.to_string())?.len();
            session.command(&format!("limit {bytes}")).map(drop)
        }
        Fault::ReadOnlyDevice => session.place.set_read_only(true),
        Fault::FullBelow => session.place.fill_below(true),
        Fault::NoMemory => session.place.memory_used().and_then(|bytes| session.place.limit_memory(bytes)),
        Fault::CutBelow => Ok(()),
    }
}

fn heal(session: &mut Session, fault: Fault) -> Result<(), String> {
    match fault {
        // The limit went with the process.
        Fault::FileMayNotGrow | Fault::CutBelow => Ok(()),
        Fault::ReadOnlyDevice => session.place.set_read_only(false),
        Fault::FullBelow => session.place.fill_below(false),
        Fault::NoMemory => session.place.limit_memory(0),
    }
}

/// Part of the device cannot be read for a while.
fn reads_fail(session: &mut Session, random: &mut Random, tally: &mut Tally) -> Result<(), String> {
    let shards = 1 + random.below(4) as usize;
    open(session, Mode::Sync, shards)?;
    session.load()?;
    session.listen(now() + Duration::from_millis(500 + random.below(500)));
    session.kill()?;
    let tail = session.place.cut_below((1 + random.below(24)) << 20)?;
    session.options.read_only = true;
    session.start(Mode::Sync, shards)?;
    let failed = match session.opening()? {
        Opening::Refused(class, error) => Some((class, error, "opening")),
        Opening::Done => session.command("dump")?.map(|(class, error)| (class, error, "reading")),
    };
    match failed {
        Some((ErrorClass::Io, _, what)) => tally.count(format!("CutBelow: {what} failed, as an error of the device")),
        Some((class, error, what)) => return Err(format!("{what} fails with {class:?}: {error}")),
        None => tally.count("CutBelow: nothing lay behind the cut"),
    }
    session.bury();
    session.options.read_only = false;
    tail.restore()?;
    open(session, Mode::Sync, shards)?;
    session.close()?;
    session.verify()
}
