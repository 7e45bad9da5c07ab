//! A simulated machine: a disk, a clock, and an engine in virtual time.

use std::future::Future;

use siltstone_io::{Random, SimClock, SimDisk};

use crate::testing::{Crashed, TurnedShards};
use crate::{Engine, Options, Result};

/// See the module.
pub(in crate::internals::fuzz) struct Machine {
    pub(super) disk: SimDisk,
    clock: SimClock,
    random: Random,
    open: Option<(Engine, TurnedShards)>,
}

impl Machine {
    pub(in crate::internals::fuzz) fn new(disk: SimDisk, clock: SimClock, seed: u64) -> Self {
        Machine { disk, clock, random: Random::new(seed), open: None }
    }

    /// Options for an engine on this disk.
    pub(in crate::internals::fuzz) fn options(&self) -> Options {
        Options::simulated(self.disk.clone(), self.clock.clone())
    }

    /// Opens an engine and starts its shards. Fails where the power does.
    pub(in crate::internals::fuzz) fn open(&mut self, options: Options) -> Result<()> {
        let random = Random::new(self.random.next_u64());
        self.open = Some(TurnedShards::open(options, self.disk.clone(), self.clock.clone(), random, 0.0)?);
        Ok(())
    }

    /// The open engine.
    pub(in crate::internals::fuzz) fn engine(&self) -> &Engine {
        &self.open.as_ref().expect("an engine is open").0
    }

    /// Closes the engine.
    pub(in crate::internals::fuzz) fn close(&mut self) {
        if let Some((engine, mut shards)) = self.open.take() {
            let closed = shards.run(engine.close());
            assert!(matches!(closed, Ok(Ok(()))) || self.disk.crashed(), "closing fails: {closed:?}");
        }
    }

    /// Ends what runs, as it is.
    pub(in crate::internals::fuzz) fn drop_engine(&mut self) {
        self.open = None;
    }

    /// Ends the power and everything that ran, then brings the power back.
    pub(super) fn power_cycle(&mut self) {
        self.disk.crash();
        self.open = None;
        self.disk.restart();
    }

    /// Runs a client's future to its end or until the power fails.
    pub(in crate::internals::fuzz) fn run<F: Future>(&mut self, future: F) -> std::result::Result<F::Output, Crashed> {
        self.shards().run(future)
    }

    /// Lets virtual time pass, and with it what the engine does by itself.
    pub(super) fn idle(&mut self, duration_us: u64) -> std::result::Result<(), Crashed> {
        self.shards().idle(duration_us)
    }

    fn shards(&mut self) -> &mut TurnedShards {
        &mut self.open.as_mut().expect("an engine is open").1
    }
}
