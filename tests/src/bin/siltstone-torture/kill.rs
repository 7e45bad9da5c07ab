//! Kills the process again and again: under load, while it opens, while it recovers; in all durability modes, with another number of shards
//! each time.

use std::time::{Duration, Instant};

use siltstone_io::Random;

use crate::clock::now;
use crate::place::{Place, PlaceKind};
use crate::session::{Opening, Session, Tally};
use crate::suite::{Suite, worker_options};
use crate::worker::Mode;

/// Size of a device, and how far a file may grow.
const PLACE_BYTES: u64 = 512 << 20;
/// Lives on one volume.
const LIVES: u64 = 24;
/// Most milliseconds that a worker lives when it is killed while it opens.
const OPENING_MS: u64 = 40;

/// Runs lives on new volumes until then.
pub(crate) fn run(kind: PlaceKind, seed: u64, until: Instant, suite: &mut Suite) -> Result<(), String> {
    let mut volume = 0;
    while now() < until && suite.goes_on() {
        let seed = seed.wrapping_add(volume);
        let place = Place::new(kind, PLACE_BYTES, None)?;
        let mut random = Random::new(seed);
        let mut options = worker_options(seed, &mut random);
        options.capacity_bytes = PLACE_BYTES;
        options.mutant.clone_from(&suite.mutant);
        let mut session = Session::new(place, options);
        let mut tally = Tally::default();
        let result = lives(&mut session, &mut random, until, suite, &mut tally);
        suite.end(session, tally, result, seed);
        volume += 1;
    }
    Ok(())
}

fn lives(
    session: &mut Session,
    random: &mut Random,
    until: Instant,
    suite: &Suite,
    tally: &mut Tally,
) -> Result<(), String> {
    let mut again = None;
    for life in 0..LIVES {
        if now() >= until || !session.oracle.failures.is_empty() {
            break;
        }
        suite.progress(session, life);
        // Whether an opening that lands on a checkpoint was killed before or after it had done so cannot be told: it is made again.
        let mode = again.take().unwrap_or_else(|| pick_mode(random));
        session.start(mode, 1 + random.below(4) as usize)?;
        if random.chance(0.25) {
            session.listen(now() + Duration::from_micros(random.below(OPENING_MS * 1000)));
            session.kill()?;
            tally.count("killed while opening or recovering");
            again = (mode == Mode::Checkpoint).then_some(mode);
            continue;
        }
        if let Opening::Refused(class, error) = session.opening()? {
            return Err(format!("opening is refused ({class:?}): {error}"));
        }
        session.check_opened()?;
        tally.count(format!("openings checked with {mode:?}"));
        session.load()?;
        let longest = if random.chance(0.3) { 50 } else { 900 };
        session.listen(now() + Duration::from_micros(random.below(longest * 1000)));
        if random.chance(0.05) {
            session.command("stop")?;
            session.check_running()?;
            session.close()?;
            // What was written until then is durable, but for what only a checkpoint makes so.
            tally.count("closed");
        } else {
            session.kill()?;
        }
        refuse_errors(session)?;
        if random.chance(0.15) {
            session.verify()?;
            tally.count("volumes verified");
        }
    }
    session.start(again.unwrap_or(Mode::Sync), 2)?;
    if let Opening::Refused(class, error) = session.opening()? {
        return Err(format!("the last opening is refused ({class:?}): {error}"));
    }
    session.check_opened()?;
    session.close()?;
    session.verify()
}

pub(crate) fn refuse_errors(session: &Session) -> Result<(), String> {
    match session.errors().into_iter().chain(session.read_failed()).next() {
        None => Ok(()),
        Some((class, error)) => Err(format!("an operation failed though nothing was wrong ({class:?}): {error}")),
    }
}

pub(crate) fn pick_mode(random: &mut Random) -> Mode {
    [Mode::Sync, Mode::Interval, Mode::Checkpoint][random.below(3) as usize]
}
