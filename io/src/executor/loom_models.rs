//! Waking, parking and pumping under loom: the executor itself, on a simulated clock, with the model's eventfd to sleep on. A wake-up that is
//! lost leaves it asleep, which loom reports as a deadlock. Each model names the breaks that it was seen to catch.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

use loom::sync::Arc;
use loom::thread;

use super::park::{Found, SleepFlag};
use super::*;
use crate::SimClock;
use crate::sync::model::{Event, block_on, explore};
use crate::sync::{AtomicU32, Ordering};

/// Breaks caught: `notify` that returns without an exchange where a notification waits already; `fall_asleep` or `wake_up` as a store.
#[test]
fn no_wake_up_is_lost_between_the_last_look_and_sleep() {
    for wakers in 1..=2 {
        explore(3, move || {
            let (flag, work, event) =
                (Arc::new(SleepFlag::new()), Arc::new(AtomicU32::new(0)), Arc::new(Event::default()));
            let threads: Vec<_> = (0..wakers)
                .map(|_| {
                    let (flag, work, event) = (flag.clone(), work.clone(), event.clone());
                    thread::spawn(move || {
                        work.fetch_add(1, Ordering::Relaxed);
                        if flag.notify() == Found::Sleeping {
                            event.kick();
                        }
                    })
                })
                .collect();
            let mut done = 0;
            while done < wakers {
                if flag.take() {
                    done += work.swap(0, Ordering::Relaxed);
                } else if flag.fall_asleep() {
                    event.wait();
                    flag.wake_up();
                }
            }
            for thread in threads {
                thread.join().unwrap();
            }
        });
    }
}

/// An executor with a task that is done when it has seen the work of every thread, or one such task for each thread.
struct Worker {
    executor: Executor,
    unfinished: Rc<Cell<usize>>,
    wakers: Vec<Waker>,
    work: Arc<[AtomicU32; 2]>,
}

impl Worker {
    /// Tasks that each wait for some of the threads.
    fn new(tasks: &[&'static [usize]]) -> Worker {
        let mut executor = Executor::new(ExecutorConfig::default(), Backend::Simulated(SimClock::new())).unwrap();
        let unfinished = Rc::new(Cell::new(tasks.len()));
        let wakers = Rc::new(RefCell::new(Vec::new()));
        let work = Arc::new([AtomicU32::new(0), AtomicU32::new(0)]);
        for &threads in tasks {
            let (unfinished, wakers, work) = (unfinished.clone(), wakers.clone(), work.clone());
            executor.handle().spawn(Class::Foreground, async move {
                poll_fn(|cx| {
                    if wakers.borrow().len() < 2 {
                        threads.iter().for_each(|_| wakers.borrow_mut().push(cx.waker().clone()));
                    }
                    // As weak as can be: it is the wake-up that must make the work visible.
                    match threads.iter().all(|&thread| work[thread].load(Ordering::Relaxed) == 1) {
                        true => Poll::Ready(()),
                        false => Poll::Pending,
                    }
                })
                .await;
                unfinished.set(unfinished.get() - 1);
            });
        }
        executor.turn(&Budget::default());
        let wakers = wakers.take();
        Worker { executor, unfinished, wakers, work }
    }

    /// Threads that each do their work and wake the task that waits for it.
    fn threads(&self, count: usize) -> Vec<thread::JoinHandle<()>> {
        let begin = |number: usize| {
            let (work, waker) = (self.work.clone(), self.wakers[number].clone());
            thread::spawn(move || {
                work[number].store(1, Ordering::Relaxed);
                waker.wake();
            })
        };
        (0..count).map(begin).collect()
    }

    fn is_done(&self) -> bool {
        self.unfinished.get() == 0
    }

    fn end(self, threads: Vec<thread::JoinHandle<()>>) {
        for thread in threads {
            thread.join().unwrap();
        }
    }
}

/// Breaks caught: `queued` cleared after the poll and not before (a wake-up during the poll is lost); `queued` exchanged in a relaxed way by
/// the waker or by `begin_poll`, or stored by the latter; the slot queued after the notification; a turn that takes one slot only; a
/// wake-up that does not kick a sleeper.
#[test]
fn tasks_that_other_threads_wake_run_again() {
    let cases: [(usize, usize, &[&'static [usize]]); 3] = [(4, 1, &[&[0]]), (3, 2, &[&[0, 1]]), (2, 2, &[&[0], &[1]])];
    for (preemptions_max, threads, tasks) in cases {
        explore(preemptions_max, move || {
            let mut worker = Worker::new(tasks);
            let threads = worker.threads(threads);
            while !worker.is_done() {
                if worker.executor.turn(&Budget::default()) != Turn::Progress {
                    worker.executor.park(None);
                }
            }
            worker.end(threads);
        });
    }
}

/// The executor is a task of another one, which sleeps until the pump's waker is woken.
///
/// Breaks caught: no fence between the note that there is a pump and the look at the notification, in `set_pump` or in `notify`; `take` or
/// `notify` with a relaxed exchange.
#[test]
fn a_pump_that_is_named_while_a_wake_up_comes_is_woken() {
    explore(3, || {
        let mut worker = Worker::new(&[&[0]]);
        let threads = worker.threads(1);
        block_on(poll_fn(|cx| {
            worker.executor.set_pump_waker(Some(cx.waker().clone()));
            while worker.executor.turn(&Budget::default()) == Turn::Progress {}
            if worker.is_done() { Poll::Ready(()) } else { Poll::Pending }
        }));
        worker.executor.set_pump_waker(None);
        worker.end(threads);
    });
}

/// The pump is named once, after the turn that found nothing to do.
///
/// Breaks caught: those of the model before; a `set_pump` that does not look at the notification.
#[test]
fn a_pump_that_was_named_once_is_woken() {
    explore(3, || {
        let mut worker = Worker::new(&[&[0]]);
        let threads = worker.threads(1);
        let mut named = false;
        block_on(poll_fn(|cx| {
            while worker.executor.turn(&Budget::default()) == Turn::Progress {}
            if worker.is_done() {
                return Poll::Ready(());
            }
            if !std::mem::replace(&mut named, true) {
                worker.executor.set_pump_waker(Some(cx.waker().clone()));
            }
            Poll::Pending
        }));
        worker.executor.set_pump_waker(None);
        worker.end(threads);
    });
}

/// The caller polls the eventfd with its own loop.
///
/// Breaks caught: no fence between the note that the eventfd is polled and the next look at the notification, in `set_polled` or in `notify`.
#[test]
fn whoever_polls_the_eventfd_sees_every_wake_up() {
    explore(3, || {
        let mut worker = Worker::new(&[&[0]]);
        let threads = worker.threads(1);
        let _ = worker.executor.wake_fd();
        let remote = worker.executor.remote();
        while !worker.is_done() {
            if worker.executor.turn(&Budget::default()) != Turn::Progress {
                remote.0.poll_event();
            }
        }
        worker.end(threads);
    });
}
