//! An engine on a simulated disk whose shards the calling thread turns in virtual time, in an order drawn from a seed.
//!
//! A round turns each shard once, in random order, with a random budget; some wait a little longer. Where a round changes nothing, the clock
//! goes on to the next completion or timer. That there is none, or no end of it, is a bug of the engine or of its client, and panics.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use siltstone_io::{Budget, Random, SimClock, SimDisk, Turn};

use crate::{Engine, LocalShard, Options, Result, ShardDriver};

/// Rounds without an end of what is waited for after which a run counts as stuck.
const ROUNDS_MAX: u32 = 3_000_000;

/// The simulated disk has lost power.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Crashed;

/// See the module.
pub struct TurnedShards {
    drivers: Vec<Option<ShardDriver>>,
    disk: SimDisk,
    clock: SimClock,
    random: Random,
    skip_chance: f64,
}

impl TurnedShards {
    /// Opens an engine on a disk and starts its shards. A shard whose turn it is waits a little longer with `skip_chance`.
    ///
    /// # Errors
    /// As [`Engine::open_driven`]; also where the power fails.
    pub fn open(
        options: Options,
        disk: SimDisk,
        clock: SimClock,
        random: Random,
        skip_chance: f64,
    ) -> Result<(Engine, TurnedShards)> {
        let (engine, seeds) = Engine::open_driven(options)?;
        let drivers = seeds.into_iter().map(|seed| seed.start().map(Some)).collect::<Result<_>>()?;
        Ok((engine, TurnedShards { drivers, disk, clock, random, skip_chance }))
    }

    /// A shard, for code on this thread.
    ///
    /// # Panics
    /// When there is no such shard, or it has ended.
    pub fn local(&self, shard: usize) -> LocalShard {
        self.drivers[shard].as_ref().expect("the shard has not ended").local()
    }

    /// Runs a client's future to its end, or until the power fails.
    ///
    /// # Panics
    /// When nothing can happen any more.
    pub fn run<F: Future>(&mut self, future: F) -> std::result::Result<F::Output, Crashed> {
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
                let next = self.next_event_us();
                self.clock.advance_to(next.expect("a standstill: the client waits for what will never happen"));
            }
        }
        panic!("the engine runs in circles");
    }

    /// Lets virtual time pass, and with it what the engine does by itself.
    ///
    /// # Panics
    /// When the engine never comes to rest.
    pub fn idle(&mut self, duration_us: u64) -> std::result::Result<(), Crashed> {
        let end = self.clock.now_us() + duration_us;
        for _ in 0..ROUNDS_MAX {
            let progress = self.round();
            if self.disk.crashed() {
                return Err(Crashed);
            }
            if !progress {
                match self.next_event_us().filter(|next| *next < end) {
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

    /// Turns the shards, in random order; whether anything happened.
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
            progress |= driver.turn(&draw_budget(&mut self.random)) == Turn::Progress;
            if driver.is_closed() {
                self.drivers[index] = None;
                progress = true;
            }
        }
        progress
    }

    fn next_event_us(&self) -> Option<u64> {
        self.drivers.iter().flatten().filter_map(ShardDriver::next_event_us).min()
    }
}

/// Mostly small ones: a flush of few entries is interrupted too, and what happens in between is another task's choice.
fn draw_budget(random: &mut Random) -> Budget {
    Budget {
        foreground_tasks_max: 1 << random.below(9),
        background_slice_us: 1 << random.below(8),
        ..Budget::default()
    }
}

struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}
