//! An engine under test and whoever drives its shards.

use std::cell::RefCell;
use std::future::Future;

pub use siltstone::testing::Crashed;
use siltstone::testing::TurnedShards;
use siltstone::{Engine, Error, Options, Result};
use siltstone_io::{Random, SimClock, SimDisk, SimFaults, SimOptions};

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
    turned: Option<RefCell<TurnedShards>>,
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
        let random = Random::new(self.seed ^ (self.openings << 32));
        let (disk, clock) = (self.disk.clone(), self.clock.clone());
        let (engine, turned) = TurnedShards::open(options, disk, clock, random, self.skip_chance)?;
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

    /// Lets virtual time pass, with whatever the engine does by itself in it. An engine that drives its shards itself is left alone.
    ///
    /// # Panics
    /// When the engine never comes to rest.
    pub fn idle(&self, duration_us: u64) -> std::result::Result<(), Crashed> {
        match &self.turned {
            None => Ok(()),
            Some(turned) => turned.borrow_mut().idle(duration_us),
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
