//! Fills the place: an error before it is a failure. Reads go on, nothing acknowledged is lost by a kill in the full state, and once there is
//! space writing goes on.

use std::time::{Duration, Instant};

use siltstone_io::Random;

use crate::clock::{now, sleep};
use crate::place::{Place, PlaceKind};
use crate::session::{Opening, Session, Tally};
use crate::suite::{Suite, worker_options};
use crate::wire::ErrorClass;
use crate::worker::Mode;

/// How large the place is at first.
const SMALL_BYTES: u64 = 24 << 20;
/// How long filling it may take, and going on to write once there is space.
const PATIENCE: Duration = Duration::from_secs(30);
/// Acknowledged steps after which writing goes on.
const ENOUGH: u64 = 400;

/// What fills it, and so what makes space again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Filler {
    /// Checkpoints that pin what was overwritten; dropped.
    Pins,
    /// Live data; the place grows.
    Live,
}

/// Fills new volumes until then.
pub(crate) fn run(kind: PlaceKind, seed: u64, until: Instant, suite: &mut Suite) -> Result<(), String> {
    let mut volume = 0;
    while now() < until && suite.goes_on() {
        let seed = seed.wrapping_add(volume);
        let mut random = Random::new(seed);
        let mut options = worker_options(seed, &mut random);
        // A zram device does not grow.
        let filler = if kind == PlaceKind::Zram || seed % 2 == 0 { Filler::Pins } else { Filler::Live };
        options.value_bytes_max = if filler == Filler::Pins { 3000 } else { 24_000 };
        options.extent_bytes = 64 << 10 << random.below(3);
        options.memtable_bytes = 256 << 10;
        options.capacity_bytes = if kind.is_file() { SMALL_BYTES } else { 1 << 40 };
        options.retained = 1000;
        options.no_checkpoints = true;
        options.mutant.clone_from(&suite.mutant);
        let mut session = Session::new(Place::new(kind, SMALL_BYTES, None)?, options);
        let mut tally = Tally::default();
        suite.progress(&session, volume);
        let result = fill(&mut session, filler, &mut random, &mut tally);
        suite.end(session, tally, result, seed);
        volume += 1;
    }
    Ok(())
}

fn fill(session: &mut Session, filler: Filler, random: &mut Random, tally: &mut Tally) -> Result<(), String> {
    let mode = if random.chance(0.5) { Mode::Sync } else { Mode::Interval };
    let shards = 1 + random.below(3) as usize;
    open(session, mode, shards)?;
    session.check_opened()?;
    until_full(session, filler)?;
    tally.count(format!("filled by {filler:?}"));
    session.command("stop")?;
    session.check_running()?;
    if random.chance(0.5) {
        session.kill()?;
        tally.count("killed when full");
        if !reopen_full(session, filler, mode, shards, tally)? {
            return session.verify();
        }
    }
    match filler {
        Filler::Pins => drop_all(session)?,
        Filler::Live => grow(session, mode, shards)?,
    }
    goes_on(session)?;
    tally.count("wrote on once there was space");
    session.kill()?;
    open(session, mode, shards)?;
    session.check_opened()?;
    session.close()?;
    session.verify()
}

fn open(session: &mut Session, mode: Mode, shards: usize) -> Result<(), String> {
    session.start(mode, shards)?;
    match session.opening()? {
        Opening::Done => Ok(()),
        Opening::Refused(class, error) => Err(format!("opening is refused ({class:?}): {error}")),
    }
}

/// Writes, and takes checkpoints where these are to fill the place, until every client has given up for lack of space.
fn until_full(session: &mut Session, filler: Filler) -> Result<(), String> {
    let until = now() + PATIENCE;
    session.load()?;
    while !session.listen((now() + Duration::from_millis(300)).min(until)) {
        if now() >= until {
            return Err("the place is never full".into());
        }
        if filler == Filler::Pins {
            let number = session.oracle.next_checkpoint;
            match session.command(&format!("checkpoint {number}"))? {
                None | Some((ErrorClass::NoSpace, _)) => {}
                // One that failed for lack of space stays under way until its memtables are written out.
                Some((ErrorClass::Other, error)) if error.starts_with("busy") => {}
                Some((class, error)) => return Err(format!("a checkpoint fails ({class:?}): {error}")),
            }
        }
    }
    let unexpected = |(class, error): &(ErrorClass, String)| {
        *class != ErrorClass::NoSpace && !(*class == ErrorClass::Other && error.starts_with("busy"))
    };
    match session.errors().into_iter().find(unexpected).or(session.read_failed()) {
        None => Ok(()),
        Some((class, error)) => Err(format!("an operation fails with {class:?} where there is no space: {error}")),
    }
}

/// Opens the full volume. That may need a little space: then it says so, and can be read. Whether it is open for writing in the end: what
/// cannot grow stays as it is.
fn reopen_full(
    session: &mut Session,
    filler: Filler,
    mode: Mode,
    shards: usize,
    tally: &mut Tally,
) -> Result<bool, String> {
    session.start(mode, shards)?;
    match session.opening()? {
        Opening::Done => {
            tally.count("reopened when full");
            session.check_opened()?;
            return Ok(true);
        }
        Opening::Refused(ErrorClass::NoSpace, _) => session.bury(),
        Opening::Refused(class, error) => return Err(format!("opening when full fails ({class:?}): {error}")),
    }
    tally.count("reopened read-only when full, as there was no space to open it for writing");
    session.options.read_only = true;
    open(session, mode, shards)?;
    session.check_opened()?;
    session.close()?;
    session.options.read_only = false;
    if filler == Filler::Live {
        return Ok(true);
    }
    if !session.place.grows() {
        tally.count("left full: neither does the device grow nor can its checkpoints be dropped");
        return Ok(false);
    }
    // Pins can be dropped only by who has it open for writing.
    enlarge(session)?;
    open(session, mode, shards)?;
    session.check_opened()?;
    Ok(true)
}

fn drop_all(session: &mut Session) -> Result<(), String> {
    for number in 1..session.oracle.next_checkpoint {
        match session.command(&format!("drop {number}"))? {
            // Those that failed were never there.
            None | Some((ErrorClass::Other, _)) => {}
            Some((class, error)) => return Err(format!("checkpoint {number} cannot be dropped ({class:?}): {error}")),
        }
    }
    session.oracle.dropped_all();
    Ok(())
}

fn grow(session: &mut Session, mode: Mode, shards: usize) -> Result<(), String> {
    session.kill()?;
    enlarge(session)?;
    open(session, mode, shards)?;
    session.check_opened()
}

fn enlarge(session: &mut Session) -> Result<(), String> {
    session.options.capacity_bytes = session.options.capacity_bytes.max(8 * SMALL_BYTES);
    session.place.grow(8 * SMALL_BYTES)
}

/// Writes until enough has been acknowledged.
fn goes_on(session: &mut Session) -> Result<(), String> {
    let (until, before) = (now() + PATIENCE, session.oracle.acknowledged);
    while now() < until {
        session.load()?;
        session.listen(now() + Duration::from_millis(500));
        session.command("stop")?;
        if session.oracle.acknowledged >= before + ENOUGH {
            return Ok(());
        }
        sleep(Duration::from_millis(100));
    }
    let acknowledged = session.oracle.acknowledged - before;
    Err(format!("writing does not go on once there is space: {acknowledged} steps acknowledged in {PATIENCE:?}"))
}
