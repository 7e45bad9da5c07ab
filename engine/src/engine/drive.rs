//! Who drives the shards: threads of the engine's own, the caller's loop, or the caller's blocking threads under a baton.
//!
//! A shard is the same in all cases: an executor with a task that takes what comes through the mailboxes. It begins as a [`ShardSeed`],
//! which can be sent to the thread where it is to live, and becomes a [`ShardDriver`] there.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::os::fd::BorrowedFd;
use std::pin::pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{JoinHandle, Thread};

use siltstone_io::sync::{AtomicBool, AtomicU32, Ordering};
use siltstone_io::{
    Backend, Baton, Budget, Class, Driving, Executor, ExecutorConfig, IoBudget, Pump, RemoteWake, Turn, spawn_pinned,
};

use crate::checkpoint::CheckpointInfo;
use crate::engine::open::{Opened, open_volume, power_lost};
use crate::engine::options::{Options, Place};
use crate::engine::{CONTROLS_CAPACITY, Engine, EngineShared, Keyspace, KeyspaceInfo, Lost, MAILBOX_CAPACITY};
use crate::error::{Error, Result};
use crate::shard::{Inbox, LocalShard, Shard, ShardPlan, inbox, start};

/// How the engine's shards come to run.
pub(crate) enum Drive {
    /// Threads of the engine's own.
    Pinned(Mutex<Vec<JoinHandle<()>>>),
    /// The caller turns the drivers.
    Driven,
    /// Whoever waits.
    Baton(BatonDrive),
}

/// A shard that has not been started yet.
pub struct ShardSeed {
    plan: ShardPlan,
    inbox: Inbox,
    backend: Backend,
    schedule_seed: Option<u64>,
    spin_us: u32,
    io_budget: IoBudget,
    lost: Lost,
}

/// A running shard and its executor, driven by its owner: turn by turn, or until a future is done.
///
/// ```
/// use siltstone::{Engine, KeyspaceOptions, Options};
/// # fn main() -> siltstone::Result<()> {
/// # let directory = tempfile::tempdir().unwrap();
/// # let path = directory.path();
/// let options = Options::at(path).keyspace("counts", KeyspaceOptions::default());
/// let (engine, mut seeds) = Engine::open_driven(options)?;
/// let mut driver = seeds.remove(0).start()?;
/// let shard = driver.local();
/// let counts = engine.keyspace("counts")?;
/// let value = driver.block_on(async {
///     shard.put(&counts, b"events", b"1").await?;
///     shard.get(&counts, b"events").await
/// })?;
/// assert_eq!(value.as_deref(), Some(&b"1"[..]));
/// # Ok(())
/// # }
/// ```
pub struct ShardDriver {
    executor: Executor,
    shard: Rc<Shard>,
    ending: Rc<Ending>,
}

/// The end of a shard. Dropped last of a driver's parts, it tells those who wait.
struct Ending {
    closed: Cell<bool>,
    closers: RefCell<Vec<oneshot::Sender<()>>>,
    lost: Lost,
}

impl ShardSeed {
    /// Starts the shard on the calling thread, which must be the one that drives it. Blocks until it has recovered.
    pub fn start(self) -> Result<ShardDriver> {
        self.start_driven(Driving::Pinned)
    }

    fn start_driven(self, driving: Driving) -> Result<ShardDriver> {
        let config = ExecutorConfig {
            driving,
            spin_us: self.spin_us,
            name: format!("shard {}", self.plan.id),
            schedule_seed: self.schedule_seed,
            io_budget: self.io_budget,
            ..ExecutorConfig::default()
        }
        .driving_device(self.plan.parts.device());
        let mut executor = Executor::new(config, self.backend)?;
        let handle = executor.handle();
        let started = executor.try_block_on(start(self.plan, handle.clone()));
        let shard = started.unwrap_or_else(|| Err(power_lost("recovery")))?;
        let ending = Rc::new(Ending { closed: Cell::new(false), closers: RefCell::default(), lost: self.lost });
        let (served, end) = (Rc::clone(&shard), Rc::clone(&ending));
        handle.spawn(Class::Foreground, async move {
            let closers = Rc::clone(&served).serve(self.inbox).await;
            end.note_lost(&served);
            end.closed.set(true);
            match driving {
                // The driver is dropped next, and then there is nothing left of the shard.
                Driving::Pinned => end.closers.replace(closers),
                // Those who wait are the ones who drive.
                Driving::Moving => closers,
            };
        });
        Ok(ShardDriver { executor, shard, ending })
    }
}

impl ShardDriver {
    /// The shard, for code on this thread.
    pub fn local(&self) -> LocalShard {
        LocalShard::new(Rc::clone(&self.shard), None)
    }

    /// Starts a task on the shard's executor: an operator of this thread's.
    pub fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.executor.handle().spawn(Class::Foreground, task);
    }

    /// Runs what is ready, within a budget.
    pub fn turn(&mut self, budget: &Budget) -> Turn {
        self.executor.turn(budget)
    }

    /// Sleeps until there is something to do, at most this long.
    pub fn park(&mut self, timeout_us: Option<u64>) {
        self.executor.park(timeout_us);
    }

    /// Turns and sleeps until a future is done. It may use [`Self::local`] of this driver.
    pub fn block_on<F: Future>(&mut self, future: F) -> F::Output {
        self.executor.block_on(future)
    }

    /// A file descriptor that becomes readable when there is something to do; none on a simulated disk.
    pub fn wake_fd(&mut self) -> Option<BorrowedFd<'_>> {
        self.executor.wake_fd()
    }

    /// Whom to wake when another thread gives the shard something to do between turns.
    pub fn set_pump_waker(&self, waker: Option<Waker>) {
        self.executor.set_pump_waker(waker);
    }

    /// On a simulated disk: the virtual time of the next completion or timer.
    pub fn next_event_us(&self) -> Option<u64> {
        self.executor.next_event_us()
    }

    /// Whether the shard has ended, after [`Engine::close`] or when all handles are gone. Then drop the driver.
    pub fn is_closed(&self) -> bool {
        self.ending.closed.get()
    }

    /// Drives the shard to its end, and tells those who wait for it.
    fn run(mut self) {
        let budget = Budget { park_follows: true, ..Budget::default() };
        while !self.is_closed() {
            if self.executor.turn(&budget) != Turn::Progress {
                self.executor.park(None);
            }
        }
    }
}

impl Ending {
    /// What the shard has acknowledged and not written will not be written any more.
    fn note_lost(&self, shard: &Shard) {
        if let Some(error) = shard.unwritten() {
            // One error is enough: each says that the end of what was acknowledged is lost.
            let _ = self.lost.set(error);
        }
    }
}

impl Drop for ShardDriver {
    fn drop(&mut self) {
        if !self.is_closed() {
            // Dropped by its owner, or the shard has panicked.
            self.ending.note_lost(&self.shard);
        }
        // What operators keep there (snapshots) may hold the shard, and with it the device and its lock.
        self.shard.drop_extensions();
    }
}

impl Pump for ShardDriver {
    fn turn(&mut self, budget: &Budget) -> Turn {
        self.executor.turn(budget)
    }

    fn park(&mut self, timeout_us: Option<u64>) {
        self.executor.park(timeout_us);
    }

    fn remote(&self) -> Option<RemoteWake> {
        Some(self.executor.remote())
    }
}

pub(super) fn open_driven(options: Options) -> Result<(Engine, Vec<ShardSeed>)> {
    let opened = open_volume(&options)?;
    let (shared, seeds) = assemble(&options, opened);
    Ok((Engine { shared, drive: Arc::new(Drive::Driven) }, seeds))
}

pub(super) fn open_pinned(options: Options) -> Result<Engine> {
    let opened = open_volume(&options)?;
    let (shared, seeds) = assemble(&options, opened);
    let mut threads = Vec::new();
    let mut started = Vec::new();
    for (index, seed) in seeds.into_iter().enumerate() {
        let (sender, receiver) = oneshot::channel();
        let name = format!("siltstone-{index}");
        let cpu = options.pin_cpus.then_some(index);
        threads.push(spawn_pinned(&name, cpu, move || match seed.start() {
            Ok(driver) => {
                let _ = sender.send(Ok(()));
                driver.run();
            }
            Err(error) => {
                let _ = sender.send(Err(error));
            }
        })?);
        started.push(receiver);
    }
    let engine = Engine { shared, drive: Arc::new(Drive::Pinned(Mutex::new(threads))) };
    let mut failure = None;
    for receiver in started {
        if let Err(error) = receiver.recv().unwrap_or(Err(Error::Closed)) {
            failure.get_or_insert(error);
        }
    }
    match failure {
        None => Ok(engine),
        Some(error) => {
            // End the others before the volume's lock is given up. They have acknowledged nothing.
            let _ = engine.close_blocking();
            Err(error)
        }
    }
}

pub(super) fn open_under_baton(options: Options) -> Result<Engine> {
    let opened = open_volume(&options)?;
    let (shared, seeds) = assemble(&options, opened);
    let drive = BatonDrive::start(seeds)?;
    Ok(Engine { shared, drive: Arc::new(Drive::Baton(drive)) })
}

/// Makes the shared part of an engine and the seeds of its shards.
fn assemble(options: &Options, opened: Opened) -> (Arc<EngineShared>, Vec<ShardSeed>) {
    let Opened { plans, gate, keyspaces, key_groups, restored, next_keyspace, io_budget } = opened;
    let mut ports = Vec::new();
    let mut seeds = Vec::new();
    let lost = Lost::default();
    for plan in plans {
        let (port, inbox) = inbox(MAILBOX_CAPACITY, CONTROLS_CAPACITY);
        ports.push(port);
        let schedule_seed = match &options.place {
            Place::Path(_) => None,
            Place::Simulated(disk, _) => Some(disk.schedule_seed()),
        };
        let backend = options.place.backend();
        let lost = Arc::clone(&lost);
        let spin_us = options.spin_us;
        seeds.push(ShardSeed { plan, inbox, backend, schedule_seed, spin_us, io_budget, lost });
    }
    let keyspaces: BTreeMap<String, Keyspace> = keyspaces
        .into_iter()
        .map(|(id, name, options)| (name.clone(), Keyspace::new(KeyspaceInfo { id, name, options, key_groups })))
        .collect();
    let restored: Option<CheckpointInfo> = restored;
    let shared = EngineShared {
        ports: ports.into(),
        gate,
        key_groups,
        keyspaces: RwLock::new(keyspaces),
        next_keyspace: AtomicU32::new(next_keyspace.0),
        checkpoint_busy: Arc::new(AtomicBool::new(false)),
        checkpoints_retained: options.checkpoints_retained,
        restored,
        read_only: options.read_only,
        creating: Mutex::default(),
        lost,
    };
    (Arc::new(shared), seeds)
}

/// Shards under batons, and the thread that drives them while nobody waits.
pub(crate) struct BatonDrive {
    batons: Arc<[Baton<ShardDriver>]>,
    stop: Arc<AtomicBool>,
    background: Mutex<Option<JoinHandle<()>>>,
}

/// How long the background thread stays with one shard without progress, in microseconds.
const BACKGROUND_PARK_US: u64 = 1000;

impl BatonDrive {
    fn start(seeds: Vec<ShardSeed>) -> Result<Self> {
        let mut batons = Vec::new();
        for seed in seeds {
            let driver = seed.start_driven(Driving::Moving)?;
            batons.push(under_baton(driver));
        }
        let batons: Arc<[Baton<ShardDriver>]> = batons.into();
        let stop = Arc::new(AtomicBool::new(false));
        let (driven, stopped) = (Arc::clone(&batons), Arc::clone(&stop));
        let background = spawn_pinned("siltstone-background", None, move || {
            while !stopped.load(Ordering::Acquire) {
                for baton in driven.iter() {
                    baton.drive(&Budget::default(), BACKGROUND_PARK_US);
                }
            }
        })?;
        Ok(BatonDrive { batons, stop, background: Mutex::new(Some(background)) })
    }

    /// The caller drives the first shard while it waits; the background thread drives the others.
    fn wait<F: Future>(&self, future: F) -> F::Output {
        self.batons[0].wait(future)
    }

    fn end(&self) {
        self.stop.store(true, Ordering::Release);
        let background = self.background.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = background {
            let _ = thread.join();
        }
        // The first one last: a caller who drives it may wait for an operation of another, which ends when that is dropped.
        for baton in self.batons.iter().rev() {
            drop(baton.close());
        }
    }
}

impl Drop for BatonDrive {
    fn drop(&mut self) {
        self.end();
    }
}

/// Puts a shard under a baton.
#[expect(
    unsafe_code,
    reason = "the proof that a whole shard may move between threads belongs where the shard is assembled"
)]
fn under_baton(driver: ShardDriver) -> Baton<ShardDriver> {
    // SAFETY: the driver was made on this thread a moment ago, with `Driving::Moving`, and nobody has called `local` on it: every `Rc`
    // of the shard is held by the driver or by tasks of its executor, which it owns. Operators, the only code of others that could
    // keep a handle elsewhere, are refused by an engine under a baton; what the engine itself sends as tasks keeps nothing.
    unsafe { Baton::new(driver) }
}

impl Drive {
    pub(super) fn block_on<F: Future>(&self, future: F) -> F::Output {
        match self {
            Drive::Pinned(_) | Drive::Driven => block_on_thread(future),
            Drive::Baton(drive) => drive.wait(future),
        }
    }

    /// Waits for the threads of an engine that has been closed.
    pub(super) fn join(&self) {
        match self {
            Drive::Pinned(threads) => {
                let threads = std::mem::take(&mut *threads.lock().unwrap_or_else(PoisonError::into_inner));
                for thread in threads {
                    // A shard that panicked has said so; its operations have failed with `Closed`.
                    let _ = thread.join();
                }
            }
            Drive::Driven => {}
            Drive::Baton(drive) => drive.end(),
        }
    }
}

/// Polls a future on this thread, which sleeps in between.
#[expect(clippy::disallowed_methods, reason = "the caller's own thread, which no shard's is: to wake it")]
fn block_on_thread<F: Future>(future: F) -> F::Output {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(output) => return output,
            Poll::Pending => std::thread::park(),
        }
    }
}
