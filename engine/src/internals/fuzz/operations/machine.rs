//! A simulated machine: disk, clock, and an engine whose shards this thread turns in an order drawn from a seed.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use siltstone_io::{Budget, Random, SimClock, SimDisk, Turn};

use crate::{Engine, Options, Result, ShardDriver};

/// Rounds without an end of the client's future after which a run counts as stuck.
const ROUNDS_MAX: u32 = 2_000_000;

/// The disk has lost power.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::internals::fuzz) struct Crashed;

/// See the module.
pub(in crate::internals::fuzz) struct Machine {
    pub(super) disk: SimDisk,
    clock: SimClock,
    random: Random,
    engine: Option<Engine>,
    drivers: Vec<Option<ShardDriver>>,
}

impl Machine {
    pub(in crate::internals::fuzz) fn new(disk: SimDisk, clock: SimClock, seed: u64) -> Self {
        Machine { disk, clock, random: Random::new(seed), engine: None, drivers: Vec::new() }
    }

    /// Options for an engine on this disk.
    pub(in crate::internals::fuzz) fn options(&self) -> Options {
        Options::simulated(self.disk.clone(), self.clock.clone())
    }

    /// Opens an engine and starts its shards. Fails where the power does.
    pub(in crate::internals::fuzz) fn open(&mut self, options: Options) -> Result<()> {
        let (engine, seeds) = Engine::open_driven(options)?;
        self.drivers = seeds.into_iter().map(|seed| seed.start().map(Some)).collect::<Result<_>>()?;
        self.engine = Some(engine);
        Ok(())
    }

    /// The open engine.
    pub(in crate::internals::fuzz) fn engine(&self) -> &Engine {
        self.engine.as_ref().expect("an engine is open")
    }

    /// Closes the engine.
    pub(in crate::internals::fuzz) fn close(&mut self) {
        if let Some(engine) = self.engine.take() {
            let closed = self.run(engine.close());
            assert!(matches!(closed, Ok(Ok(()))) || self.disk.crashed(), "closing fails: {closed:?}");
        }
        self.drivers.clear();
    }

    /// Ends the power and everything that ran, then brings the power back.
    pub(super) fn power_cycle(&mut self) {
        self.disk.crash();
        self.engine = None;
        self.drivers.clear();
        self.disk.restart();
    }

    /// Runs a client's future to its end or until the power fails.
    pub(in crate::internals::fuzz) fn run<F: Future>(&mut self, future: F) -> std::result::Result<F::Output, Crashed> {
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
                let next = self.drivers.iter().flatten().filter_map(ShardDriver::next_event_us).min();
                self.clock.advance_to(next.expect("a standstill: the client waits for what will never happen"));
            }
        }
        panic!("the engine runs in circles");
    }

    /// Lets virtual time pass, and with it what the engine does by itself.
    pub(super) fn idle(&mut self, duration_us: u64) -> std::result::Result<(), Crashed> {
        let end = self.clock.now_us() + duration_us;
        for _ in 0..ROUNDS_MAX {
            let progress = self.round();
            if self.disk.crashed() {
                return Err(Crashed);
            }
            if !progress {
                let next = self.drivers.iter().flatten().filter_map(ShardDriver::next_event_us).min();
                match next.filter(|next| *next < end) {
                    Some(next) => self.clock.advance_to(next),
                    None => {
                        self.clock.advance_to(end);
                        return Ok(());
                    }
                }
            }
        }
        panic!("an idle engine runs in circles");
    }

    /// Turns all shards once, in random order.
    fn round(&mut self) -> bool {
        let mut order: Vec<usize> = (0..self.drivers.len()).collect();
        self.random.shuffle(&mut order);
        let mut progress = false;
        for index in order {
            let Some(driver) = &mut self.drivers[index] else { continue };
            let budget = Budget { background_slice_us: 1 + self.random.below(200) as u32, ..Budget::default() };
            progress |= driver.turn(&budget) == Turn::Progress;
            if driver.is_closed() {
                self.drivers[index] = None;
                progress = true;
            }
        }
        progress
    }
}

struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}
