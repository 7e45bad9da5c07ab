//! The hand-over under loom: the shard is a value in loom's own cell, which reports two holders or a missing order. Where it has a waker it
//! parks until it is woken, however short the time it is given, so that a wake-up that gets lost is a deadlock. Each model names the breaks
//! that it was seen to catch.

use loom::thread;

use super::*;
use crate::executor::Remote;
use crate::sync::AtomicU32;
use crate::sync::model::explore;

/// Answers one request in each turn.
struct Shard {
    requests: Arc<Requests>,
    serves: bool,
}

const SERVED: u32 = 1;
const REFUSED: u32 = 2;

/// What callers have asked of the shard, and the answers.
struct Requests {
    /// None when the shard is gone.
    pending: Mutex<Option<Vec<(usize, Waker)>>>,
    /// By the number of the caller. As weak as can be: it is the wake-up that must make them visible.
    answers: [AtomicU32; 3],
    remote: Option<RemoteWake>,
    /// From now on a park with a timeout ends by it.
    times_out: AtomicBool,
}

impl Requests {
    fn new(has_remote: bool) -> Arc<Requests> {
        let remote = || RemoteWake(Arc::new(Remote::new(false).unwrap()));
        Arc::new(Requests {
            pending: Mutex::new(Some(Vec::new())),
            answers: Default::default(),
            remote: has_remote.then(remote),
            times_out: AtomicBool::new(false),
        })
    }

    fn answer(&self, (number, waker): (usize, Waker), answer: u32) {
        self.answers[number].store(answer, Ordering::Relaxed);
        waker.wake();
    }

    /// Refuses what is asked now, and later.
    fn end(&self) {
        let refused = lock(&self.pending).take();
        refused.into_iter().flatten().for_each(|request| self.answer(request, REFUSED));
    }

    /// Ends a park with a timeout, which does not end by itself.
    fn let_time_pass(&self) {
        self.times_out.store(true, Ordering::Relaxed);
        self.remote.as_ref().unwrap().wake();
    }

    fn ask(self: &Arc<Self>, number: usize) -> Ask {
        Ask { requests: Arc::clone(self), number, asked: false }
    }

    /// Under a baton, served or not.
    fn shard(self: &Arc<Self>, serves: bool) -> Arc<Baton<Shard>> {
        // SAFETY: everything in the pump is `Send`.
        Arc::new(unsafe { Baton::new(Shard { requests: Arc::clone(self), serves }) })
    }
}

impl Pump for Shard {
    fn turn(&mut self, _: &Budget) -> Turn {
        if let Some(remote) = &self.requests.remote {
            remote.0.flag.take();
        }
        let next = lock(&self.requests.pending).as_mut().filter(|_| self.serves).and_then(Vec::pop);
        match next {
            Some(request) => {
                self.requests.answer(request, SERVED);
                Turn::Progress
            }
            None => Turn::Idle,
        }
    }

    fn park(&mut self, timeout_us: Option<u64>) {
        match &self.requests.remote {
            _ if timeout_us == Some(0) => {}
            Some(_) if timeout_us.is_some() && self.requests.times_out.load(Ordering::Relaxed) => {}
            Some(remote) => remote.0.sleep(),
            None => thread::yield_now(),
        }
    }

    fn remote(&self) -> Option<RemoteWake> {
        self.requests.remote.clone()
    }
}

impl Drop for Shard {
    fn drop(&mut self) {
        self.requests.end();
    }
}

/// Asks at its first poll, and is ready when it has been answered.
struct Ask {
    requests: Arc<Requests>,
    number: usize,
    asked: bool,
}

impl Future for Ask {
    type Output = u32;

    fn poll(mut self: std::pin::Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<u32> {
        let answer = self.requests.answers[self.number].load(Ordering::Relaxed);
        if answer != 0 {
            return Poll::Ready(answer);
        }
        if !std::mem::replace(&mut self.asked, true) {
            match lock(&self.requests.pending).as_mut() {
                Some(pending) => pending.push((self.number, cx.waker().clone())),
                None => return Poll::Ready(REFUSED),
            }
            if let Some(remote) = &self.requests.remote {
                remote.wake();
            }
        }
        Poll::Pending
    }
}

fn assert_free<P: Pump>(baton: &Baton<P>) {
    let state = lock(&baton.hand.state);
    assert!(!state.held && state.queue.is_empty() && !baton.hand.is_wanted());
}

/// Breaks caught: a baton that is freed though somebody is queued, or free as well as handed over; handed over when the hand is unlocked already;
/// one who leaves and keeps the baton, or stays in the queue.
#[test]
fn two_waiting_threads_are_served_and_free_the_baton() {
    for has_remote in [false, true] {
        explore(2, move || {
            let requests = Requests::new(has_remote);
            let baton = requests.shard(true);
            let (others, ask) = (Arc::clone(&baton), requests.ask(1));
            let other = thread::spawn(move || others.wait(ask));
            assert_eq!((baton.wait(requests.ask(0)), other.join().unwrap()), (SERVED, SERVED));
            assert_free(&baton);
        });
    }
}

/// Breaks caught: those of the model before; a baton that the background takes though it is held, or that is taken from the background.
#[test]
fn a_waiting_thread_and_the_background_never_hold_it_together() {
    explore(3, || {
        let requests = Requests::new(false);
        let baton = requests.shard(true);
        let others = Arc::clone(&baton);
        let background = thread::spawn(move || others.try_turn(&Budget::default()));
        assert_eq!(baton.wait(requests.ask(0)), SERVED);
        background.join().unwrap();
        assert_free(&baton);
    });
}

/// The background may have parked the shard when somebody comes.
///
/// Breaks caught: those of the two models before; a sleeper that was woken and handed the baton, and forgets the latter.
#[test]
fn the_background_gives_the_baton_up_to_whoever_waits() {
    explore(3, || {
        let requests = Requests::new(true);
        let baton = requests.shard(true);
        let others = Arc::clone(&baton);
        let background = thread::spawn(move || others.drive(&Budget::default(), 1));
        assert_eq!(baton.wait(requests.ask(0)), SERVED);
        requests.let_time_pass();
        background.join().unwrap();
        assert_free(&baton);
    });
}

/// The shard has nothing to do with what its driver waits for.
///
/// Breaks caught: a wake-up that does not end the park; a driver that does not say that it drives, or after it has looked; a waker that looks
/// whether it drives before it notes the wake-up.
#[test]
fn a_parked_driver_hears_its_future_woken_from_elsewhere() {
    explore(3, || {
        let requests = Requests::new(true);
        let baton = requests.shard(false);
        let elsewhere = Arc::clone(&requests);
        let thread = thread::spawn(move || elsewhere.end());
        assert_eq!(baton.wait(requests.ask(0)), REFUSED);
        thread.join().unwrap();
        assert_free(&baton);
    });
}

/// Two wait for what comes from elsewhere: the one who drives leaves first, or the one who sleeps, or they change places.
///
/// Breaks caught: one who leaves and keeps the baton, or stays in the queue; those of the model before.
#[test]
fn who_leaves_the_queue_passes_the_baton_on() {
    explore(2, || {
        let requests = Requests::new(true);
        let baton = requests.shard(false);
        let elsewhere = Arc::clone(&requests);
        let thread = thread::spawn(move || elsewhere.end());
        let (others, ask) = (Arc::clone(&baton), requests.ask(1));
        let other = thread::spawn(move || others.wait(ask));
        assert_eq!((baton.wait(requests.ask(0)), other.join().unwrap()), (REFUSED, REFUSED));
        thread.join().unwrap();
        assert_free(&baton);
    });
}

/// The shard is closed and dropped while somebody drives it, waits for the baton, or is about to: it is answered in any case.
///
/// Breaks caught: whoever comes after the end panics (as the code once did), queues up, or sleeps though it was woken; a shard that is taken out
/// without the baton; an end that is noted when the baton is free again, or not at all.
#[test]
fn whoever_waits_while_the_shard_is_closed_is_answered() {
    explore(3, || {
        let requests = Requests::new(true);
        let baton = requests.shard(true);
        let others = Arc::clone(&baton);
        let closer = thread::spawn(move || drop(others.close().expect("nobody else closes it")));
        let answer = baton.wait(requests.ask(0));
        assert!(answer == SERVED || answer == REFUSED);
        closer.join().unwrap();
        assert_free(&baton);
        assert_eq!(baton.wait(requests.ask(1)), REFUSED);
    });
}

/// Breaks caught: those of the model before, with a queue.
#[test]
fn two_waiting_threads_are_answered_while_the_shard_is_closed() {
    explore(2, || {
        let requests = Requests::new(true);
        let baton = requests.shard(true);
        let waiting: Vec<_> = (0..2)
            .map(|number| {
                let (baton, ask) = (Arc::clone(&baton), requests.ask(number));
                thread::spawn(move || baton.wait(ask))
            })
            .collect();
        drop(baton.close().expect("nobody else closes it"));
        for thread in waiting {
            assert!([SERVED, REFUSED].contains(&thread.join().unwrap()));
        }
        assert_free(&baton);
    });
}

/// The background may have parked the shard when it is closed.
///
/// Breaks caught: one who closes and does not wake the background (as the code once did), wakes it before the queue says so, or does not say
/// that the baton is wanted; a background that takes the baton of a closed shard.
#[test]
fn closing_ends_the_backgrounds_turn() {
    explore(3, || {
        let requests = Requests::new(true);
        let baton = requests.shard(true);
        let others = Arc::clone(&baton);
        let background = thread::spawn(move || others.drive(&Budget::default(), 1));
        drop(baton.close().expect("nobody else closes it"));
        background.join().unwrap();
        assert!(baton.drive(&Budget::default(), 1).is_none() && baton.try_turn(&Budget::default()).is_none());
    });
}

/// Breaks caught: a second one who panics (as the code once did); a queue that is not sent away at the end, or does not notice it.
#[test]
fn of_two_who_close_it_one_gets_the_shard() {
    explore(3, || {
        let requests = Requests::new(true);
        let baton = requests.shard(true);
        let others = Arc::clone(&baton);
        let other = thread::spawn(move || others.close().is_some());
        let mine = baton.close().is_some();
        assert!(mine != other.join().unwrap());
        assert_free(&baton);
    });
}

/// A caller drives the first of two shards and waits for the second, which nobody drives any more. They are closed as the engine does it, the
/// callers' shard last.
///
/// Breaks caught: the callers' shard first (as the code once did): the caller drives it for ever.
#[test]
fn shards_that_only_the_background_drives_are_closed_before_the_callers() {
    explore(3, || {
        let (first, second) = (Requests::new(true), Requests::new(true));
        let batons = Arc::new([first.shard(true), second.shard(true)]);
        let (others, ask) = (Arc::clone(&batons), second.ask(0));
        let caller = thread::spawn(move || others[0].wait(ask));
        batons.iter().rev().for_each(|baton| drop(baton.close().expect("nobody else closes it")));
        assert_eq!(caller.join().unwrap(), REFUSED);
    });
}
