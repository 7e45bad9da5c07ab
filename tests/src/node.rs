//! An engine under test and whoever drives its shards.

use std::cell::RefCell;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use siltstone::{Engine, Error, Options, Result, ShardDriver};
use siltstone_io::{Budget, Random, SimClock, SimDisk, SimFaults, SimOptions, Turn};

/// Rounds without an end of the client's future after which a simulation counts as stuck.
const ROUNDS_MAX: u64 = 3_000_000;

/// The simulated disk has lost power.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Crashed;

/// A simulated disk in virtual time, and the order in which things happen on it, all from one seed.
pub struct Simulation {
    /// The disk.
    pub disk: SimDisk,
    /// Virtual time.
    pub clock: SimClock,
    seed: u64,
    openings: u64,
    skip_chance: f64,
}

/// An open engine.
pub struct Node {
    /// Its handle.
    pub engine: Engine,
    turned: Option<RefCell<Turned>>,
}

/// The shards of an engine that this thread turns.
struct Turned {
    drivers: Vec<Option<ShardDriver>>,
    disk: SimDisk,
    clock: SimClock,
    random: Random,
    skip_chance: f64,
}

impl Simulation {
    /// An empty disk.
    pub fn new(seed: u64) -> Simulation {
        let mut random = Random::new(seed);
        let options = SimOptions {
            volatile_cache: random.chance(0.9),
            logical_block_bytes: if random.chance(0.5) { 512 } else { 4096 },
            ..SimOptions::default()
        };
        let disk = SimDisk::new(seed, options);
        disk.set_faults(SimFaults {
            short_transfer_chance: if random.chance(0.3) { 0.05 } else { 0.0 },
            again_chance: if random.chance(0.3) { 0.02 } else { 0.0 },
            ..SimFaults::default()
        });
        Simulation { disk, clock: SimClock::new(), seed, openings: 0, skip_chance: 0.0 }
    }

    /// An empty disk of this kind. A shard whose turn it is waits a little longer with this chance.
    pub fn with(seed: u64, options: SimOptions, skip_chance: f64) -> Simulation {
        let disk = SimDisk::new(seed, options);
        Simulation { disk, clock: SimClock::new(), seed, openings: 0, skip_chance }
    }

    /// This disk, as it is.
    pub fn on(disk: SimDisk, seed: u64) -> Simulation {
        Simulation { disk, clock: SimClock::new(), seed, openings: 0, skip_chance: 0.0 }
    }

    /// Options for an engine on this disk.
    pub fn options(&self) -> Options {
        Options::simulated(self.disk.clone(), self.clock.clone())
    }

    /// Opens an engine and starts its shards. Fails where the power does.
    pub fn open(&mut self, options: Options) -> Result<Node> {
        self.openings += 1;
        let (engine, seeds) = Engine::open_driven(options)?;
        let mut drivers = Vec::new();
        for seed in seeds {
            drivers.push(Some(seed.start()?));
        }
        let random = Random::new(self.seed ^ (self.openings << 32));
        let turned = Turned {
            drivers,
            disk: self.disk.clone(),
            clock: self.clock.clone(),
            random,
            skip_chance: self.skip_chance,
        };
        Ok(Node { engine, turned: Some(RefCell::new(turned)) })
    }
}

impl Node {
    /// An engine that drives its shards itself, or under a baton.
    pub fn real(engine: Engine) -> Node {
        Node { engine, turned: None }
    }

    /// Runs a client's future to its end.
    ///
    /// # Panics
    /// When the disk crashes, or nothing can happen any more.
    pub fn run<F: Future>(&self, future: F) -> F::Output {
        self.try_run(future).unwrap_or_else(|Crashed| panic!("the disk crashed where no crash was planned"))
    }

    /// Runs a client's future to its end or until the disk crashes.
    ///
    /// # Panics
    /// When nothing can happen any more.
    pub fn try_run<F: Future>(&self, future: F) -> std::result::Result<F::Output, Crashed> {
        match &self.turned {
            None => Ok(self.engine.block_on(future)),
            Some(turned) => turned.borrow_mut().run(future),
        }
    }

    /// Closes the engine and waits for its end.
    pub fn close(self) -> Result<()> {
        match &self.turned {
            None => self.engine.close_blocking(),
            Some(turned) => {
                let closed = turned.borrow_mut().run(self.engine.close());
                closed.unwrap_or(Err(Error::Closed))
            }
        }
    }
}

impl Turned {
    fn run<F: Future>(&mut self, future: F) -> std::result::Result<F::Output, Crashed> {
        let mut future = pin!(future);
        let woken = Arc::new(Woken(AtomicBool::new(true)));
        let waker = Waker::from(Arc::clone(&woken));
        for _ in 0..ROUNDS_MAX {
            if woken.0.swap(false, Ordering::SeqCst)
                && let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker))
            {
                return Ok(output);
            }
            let progress = self.round();
            if woken.0.load(Ordering::SeqCst) {
                continue;
            }
            if self.disk.crashed() {
                return Err(Crashed);
            }
            if !progress {
                self.wait();
            }
        }
        panic!("the simulation runs in circles");
    }

    /// Turns some shards, in random order.
    fn round(&mut self) -> bool {
        let mut order: Vec<usize> = (0..self.drivers.len()).collect();
        self.random.shuffle(&mut order);
        let mut progress = false;
        for index in order {
            let Some(driver) = &mut self.drivers[index] else { continue };
            if self.skip_chance > 0.0 && self.random.chance(self.skip_chance) {
                progress = true;
                continue;
            }
            let budget = Budget { background_slice_us: 1 + self.random.below(200) as u32, ..Budget::default() };
            progress |= driver.turn(&budget) == Turn::Progress;
            if driver.is_closed() {
                self.drivers[index] = None;
                progress = true;
            }
        }
        progress
    }

    /// Moves the clock to the next event.
    fn wait(&self) {
        let next = self.drivers.iter().flatten().filter_map(ShardDriver::next_event_us).min();
        match next {
            Some(next) => self.clock.advance_to(next),
            None => panic!("the simulation has come to a standstill: the client waits for what will never happen"),
        }
    }
}

struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}
