//! What the models have in place of crossbeam's queues, the cell of a waker and the kernel's eventfd.
//!
//! A queue is one atomic word, the number of messages ever pushed and ever popped, 32 bits each, and the messages beside it under their
//! number. It promises less than crossbeam's queues do, so that a proof with it leans on nothing that they happen to do:
//!
//! 1. A push happens before the pop that takes its message.
//! 2. Pushes and pops are in one order. But `pop` may miss, and `is_empty` and `len` may overlook, what does not happen before them: they
//!    are a load that may see an old word. A look that finds nothing orders nothing.
//!
//! The cell of a waker promises that its calls are in one order, and nothing of what is visible after them.
//!
//! Messages and wakers are in a `std` mutex, which is no point of scheduling: it is never held over one.

use std::collections::BTreeMap;
use std::future::Future;
use std::task::Waker;

use super::{AtomicBool, AtomicU64, Condvar, Mutex, Ordering, lock};

/// A bounded queue.
#[derive(Debug)]
pub struct ArrayQueue<T> {
    queue: SegQueue<T>,
    capacity: usize,
}

impl<T> ArrayQueue<T> {
    /// A queue of at most this many messages.
    pub fn new(capacity: usize) -> Self {
        ArrayQueue { queue: SegQueue::new(), capacity }
    }

    /// Gives the message back where the queue is full.
    pub fn push(&self, message: T) -> Result<(), T> {
        self.queue.push_below(self.capacity, message)
    }

    /// The oldest message.
    pub fn pop(&self) -> Option<T> {
        self.queue.pop()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// How many there can be.
    pub fn capacity(&self) -> usize {
        self.capacity
    }
}

/// An unbounded queue.
#[derive(Debug)]
pub struct SegQueue<T> {
    /// Pushed, in the upper half, and popped.
    counts: AtomicU64,
    messages: std::sync::Mutex<BTreeMap<u64, T>>,
}

impl<T> Default for SegQueue<T> {
    fn default() -> Self {
        SegQueue::new()
    }
}

impl<T> SegQueue<T> {
    /// An empty queue.
    pub fn new() -> Self {
        SegQueue { counts: AtomicU64::new(0), messages: std::sync::Mutex::default() }
    }

    /// Adds a message.
    pub fn push(&self, message: T) {
        assert!(self.push_below(usize::MAX, message).is_ok(), "nothing else bounds it");
    }

    /// The oldest message.
    pub fn pop(&self) -> Option<T> {
        let mut counts = self.counts.load(Ordering::Acquire);
        loop {
            let (pushed, popped) = (counts >> 32, counts & 0xffff_ffff);
            if pushed == popped {
                return None;
            }
            match self.counts.compare_exchange(counts, counts + 1, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Some(self.messages().remove(&popped).expect("a message that was counted is there")),
                Err(now) => counts = now,
            }
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        let counts = self.counts.load(Ordering::Acquire);
        ((counts >> 32) - (counts & 0xffff_ffff)) as usize
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn push_below(&self, capacity: usize, message: T) -> Result<(), T> {
        let mut counts = self.counts.load(Ordering::Relaxed);
        loop {
            let (pushed, popped) = (counts >> 32, counts & 0xffff_ffff);
            if (pushed - popped) as usize >= capacity {
                return Err(message);
            }
            match self.counts.compare_exchange(counts, counts + (1 << 32), Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => {
                    // No other thread runs between the exchange and this.
                    self.messages().insert(pushed, message);
                    return Ok(());
                }
                Err(now) => counts = now,
            }
        }
    }

    fn messages(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, T>> {
        self.messages.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// The cell for the waker of one task.
#[derive(Debug)]
pub struct AtomicWaker {
    is_set: AtomicBool,
    waker: std::sync::Mutex<Option<Waker>>,
}

impl Default for AtomicWaker {
    fn default() -> Self {
        AtomicWaker::new()
    }
}

impl AtomicWaker {
    /// An empty cell.
    pub fn new() -> Self {
        AtomicWaker { is_set: AtomicBool::new(false), waker: std::sync::Mutex::default() }
    }

    /// Puts the task's waker in, in place of an older one.
    pub fn register(&self, waker: &Waker) {
        let waker = waker.clone();
        self.is_set.swap(true, Ordering::Relaxed);
        // No other thread runs between the exchange and this.
        let old = self.slot().replace(waker);
        drop(old);
    }

    /// Takes the waker out, if there is one, and wakes the task.
    pub fn wake(&self) {
        if self.is_set.swap(false, Ordering::Relaxed) {
            let waker = self.slot().take().expect("a waker that was noted is there");
            waker.wake();
        }
    }

    fn slot(&self) -> std::sync::MutexGuard<'_, Option<Waker>> {
        self.waker.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// An eventfd: a counter on which one thread sleeps.
#[derive(Debug, Default)]
pub struct Event {
    count: Mutex<u64>,
    raised: Condvar,
}

impl Event {
    /// A write: wakes the sleeper.
    pub fn kick(&self) {
        *lock(&self.count) += 1;
        self.raised.notify_one();
    }

    /// A read that does not block.
    pub fn clear(&self) {
        *lock(&self.count) = 0;
    }

    /// Sleeps until there has been a kick since the last look, as a poll does: the count stays.
    pub fn poll(&self) {
        let mut count = lock(&self.count);
        while *count == 0 {
            count = self.raised.wait(count).unwrap_or_else(std::sync::PoisonError::into_inner);
        }
    }

    /// A read that blocks.
    pub fn wait(&self) {
        self.poll();
        self.clear();
    }
}

/// Blocks the model's thread until the future is ready.
pub fn block_on<F: Future>(future: F) -> F::Output {
    #[cfg(loom)]
    return loom::future::block_on(future);
    #[cfg(shuttle)]
    return shuttle::future::block_on(future);
}

/// Explores a model under loom, up to this many preemptions or what `LOOM_MAX_PREEMPTIONS` says, where that is fewer.
#[cfg(loom)]
pub fn explore(preemptions_max: usize, model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    let asked = builder.preemption_bound.unwrap_or(preemptions_max);
    builder.preemption_bound = Some(asked.min(preemptions_max));
    builder.check(model);
}

/// Runs a flow under shuttle: half of the runs in an order that is random at every step, half with few changes of thread at random places (PCT),
/// where rare orders hide.
///
/// `SHUTTLE_ITERATIONS` says how often, `SHUTTLE_SEED` from which seed. A failure prints its schedule;
/// `SHUTTLE_SCHEDULE` with that text runs it again.
#[cfg(shuttle)]
#[expect(clippy::disallowed_methods, reason = "how much a model tries is not part of any run")]
pub fn shuffle(iterations: usize, flow: impl Fn() + Send + Sync + 'static) {
    use shuttle::scheduler::{PctScheduler, RandomScheduler, ReplayScheduler, Scheduler};
    fn run(scheduler: impl Scheduler + 'static, flow: std::sync::Arc<dyn Fn() + Send + Sync>) {
        let mut config = shuttle::Config::new();
        config.stack_size = 512 << 10;
        config.silence_warnings = true;
        config.max_steps = shuttle::MaxSteps::FailAfter(2_000_000);
        let began = crate::clock::machine_now_us();
        let runs = shuttle::Runner::new(scheduler, config).run(move || flow());
        println!("{runs} runs in {} ms", (crate::clock::machine_now_us() - began) / 1000);
    }
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let flow: std::sync::Arc<dyn Fn() + Send + Sync> = std::sync::Arc::new(flow);
    if let Ok(schedule) = std::env::var("SHUTTLE_SCHEDULE") {
        return run(ReplayScheduler::new_from_encoded(&schedule), flow);
    }
    let iterations = number("SHUTTLE_ITERATIONS").map_or(iterations, |number| number as usize);
    let seed = number("SHUTTLE_SEED").unwrap_or(1);
    run(RandomScheduler::new_from_seed(seed, iterations), std::sync::Arc::clone(&flow));
    run(PctScheduler::new_from_seed(seed, 4, iterations), flow);
}
