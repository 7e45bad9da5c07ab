//! Running seeds, and saying what became of them.

use std::any::Any;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Once, PoisonError};

use siltstone_io::spawn_pinned;

use super::plan::{Limits, Plan};
use super::tally::Tally;
use super::world::World;

/// What became of a seed.
pub struct Outcome {
    /// The seed.
    pub seed: u64,
    /// Operations that clients were answered.
    pub operations: u64,
    /// A hash of everything that the disk and the clients saw: the same for each run of a seed.
    pub trace: u64,
    /// Faults that were injected, by kind.
    pub faults: BTreeMap<&'static str, u64>,
    /// Operations by kind, and failures by kind.
    pub done: BTreeMap<&'static str, u64>,
    /// What was wrong.
    pub failure: Option<String>,
}

thread_local! {
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Runs one seed.
pub fn simulate(seed: u64, limits: &Limits) -> Outcome {
    keep_panics_quiet();
    let plan = Plan::new(seed, limits);
    let tally = Rc::new(RefCell::new(Tally::default()));
    let mut world = World::new(plan, Rc::clone(&tally));
    let disk = world.disk().clone();
    PANIC.set(Some(String::new()));
    let played = catch_unwind(AssertUnwindSafe(|| world.play()));
    let message = PANIC.take().unwrap_or_default();
    let failure = played.err().map(|panic| if message.is_empty() { text_of(&panic) } else { message });
    if failure.is_some() {
        // What a failed simulation holds may not even be dropped in order.
        std::mem::forget(world);
    }
    let tally = tally.borrow();
    Outcome {
        seed,
        operations: tally.operations(),
        trace: disk.trace_hash() ^ tally.hash().rotate_left(1),
        faults: disk.fault_counts(),
        done: tally.done.iter().chain(&tally.failed).map(|(what, count)| (*what, *count)).collect(),
        failure,
    }
}

fn text_of(panic: &Box<dyn Any + Send>) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or("a panic without a message".into())
}

/// Panics of simulations are results: they are kept, with their places, instead of printed.
fn keep_panics_quiet() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let kept = PANIC.with_borrow_mut(|kept| match kept {
                Some(text) => {
                    if text.is_empty() {
                        *text = info.to_string();
                    }
                    true
                }
                None => false,
            });
            if !kept {
                usual(info);
            }
        }));
    });
}

/// Runs seeds on this many threads until `next` has no more; each outcome goes to `each`, one at a time.
pub fn run_many(
    threads: usize,
    limits: &Limits,
    next: impl Fn() -> Option<u64> + Send + Sync + 'static,
    each: impl FnMut(Outcome) + Send + 'static,
) {
    let (next, each) = (Arc::new(next), Arc::new(Mutex::new(each)));
    let workers: Vec<_> = (0..threads)
        .map(|thread| {
            let (next, each, limits) = (Arc::clone(&next), Arc::clone(&each), limits.clone());
            let worker = spawn_pinned(&format!("simulation-{thread}"), None, move || {
                while let Some(seed) = next() {
                    let outcome = simulate(seed, &limits);
                    let mut each = each.lock().unwrap_or_else(PoisonError::into_inner);
                    (*each)(outcome);
                }
            });
            worker.unwrap_or_else(|error| panic!("{error}"))
        })
        .collect();
    for worker in workers {
        if let Err(panic) = worker.join() {
            std::panic::resume_unwind(panic);
        }
    }
}

/// The seeds of a range, one after the other.
pub fn seeds(range: std::ops::Range<u64>) -> impl Fn() -> Option<u64> + Send + Sync + 'static {
    let next = AtomicU64::new(range.start);
    move || {
        let seed = next.fetch_add(1, Ordering::SeqCst);
        (seed < range.end).then_some(seed)
    }
}

/// Cuts a failing seed's history down, as far as it still fails; the limits that are left, and how it fails with them.
pub fn shrink(seed: u64, mut progress: impl FnMut(&Limits, &str)) -> Option<(Limits, String)> {
    let mut best = Limits::default();
    let mut failure = simulate(seed, &best).failure?;
    let mut attempt = |best: &mut Limits, candidate: Limits| {
        if candidate == *best {
            return false;
        }
        match simulate(seed, &candidate).failure {
            Some(found) => {
                progress(&candidate, &found);
                failure = found;
                *best = candidate;
                true
            }
            None => false,
        }
    };
    for fault in Plan::new(seed, &best).fault_names() {
        let mut candidate = best.clone();
        candidate.without.insert(fault.to_owned());
        attempt(&mut best, candidate);
    }
    loop {
        let plan = Plan::new(seed, &best);
        let mut shorter = false;
        type Field = fn(&mut Limits) -> &mut Option<u32>;
        let fields: [(u32, u32, Field); 4] = [
            (plan.lives, 0, |limits| &mut limits.lives),
            (plan.rounds, 1, |limits| &mut limits.rounds),
            (plan.clients, 1, |limits| &mut limits.clients),
            (plan.steps, 1, |limits| &mut limits.steps),
        ];
        for (now, least, field) in fields {
            // Half of it, or one less.
            for smaller in [now / 2, now.saturating_sub(now / 5), now.saturating_sub(1)] {
                if smaller >= least && smaller < now {
                    let mut candidate = best.clone();
                    *field(&mut candidate) = Some(smaller);
                    if attempt(&mut best, candidate) {
                        shorter = true;
                        break;
                    }
                }
            }
        }
        if !shorter {
            break;
        }
    }
    Some((best, failure))
}
