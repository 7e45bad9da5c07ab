//! The hand-over under loom: the shard is a counter in loom's own cell, which reports two holders or a missing order.

use loom::thread;

use super::*;
use crate::sync::AtomicU32;

/// Serves one request for each turn: the numbers of the threads whose request is served are in `served`.
struct Counter {
    requests: Arc<Requests>,
    turns: u32,
}

struct Requests {
    pending: Mutex<Vec<(usize, Waker)>>,
    served: [AtomicU32; 3],
}

impl Pump for Counter {
    fn turn(&mut self, _: &Budget) -> Turn {
        self.turns += 1;
        let next = lock(&self.requests.pending).pop();
        let Some((number, waker)) = next else {
            thread::yield_now();
            return Turn::Idle;
        };
        self.requests.served[number].store(1, Ordering::Release);
        waker.wake();
        Turn::Progress
    }

    fn park(&mut self, _: Option<u64>) {
        thread::yield_now();
    }
}

/// Asks at its first poll, and is ready when it has been served.
struct Ask {
    requests: Arc<Requests>,
    number: usize,
    asked: bool,
}

impl Future for Ask {
    type Output = ();

    fn poll(mut self: std::pin::Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.requests.served[self.number].load(Ordering::Acquire) == 1 {
            return Poll::Ready(());
        }
        if !std::mem::replace(&mut self.asked, true) {
            lock(&self.requests.pending).push((self.number, cx.waker().clone()));
        }
        Poll::Pending
    }
}

fn model(threads: usize, with_background: bool) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(2);
    builder.check(move || {
        let requests = Arc::new(Requests { pending: Mutex::new(Vec::new()), served: Default::default() });
        // SAFETY: everything in the pump is `Send`.
        let baton = Arc::new(unsafe { Baton::new(Counter { requests: requests.clone(), turns: 0 }) });
        let ask = |number| Ask { requests: requests.clone(), number, asked: false };
        let mut handles = Vec::new();
        for number in 1..threads {
            let (baton, ask) = (baton.clone(), ask(number));
            handles.push(thread::spawn(move || baton.wait(ask)));
        }
        if with_background {
            let baton = baton.clone();
            handles.push(thread::spawn(move || {
                baton.try_turn(&Budget::default());
            }));
        }
        baton.wait(ask(0));
        for handle in handles {
            handle.join().unwrap();
        }
        assert!(requests.served.iter().take(threads).all(|served| served.load(Ordering::Acquire) == 1));
        assert!(!lock(&baton.hand.state).held && lock(&baton.hand.state).queue.is_empty());
    });
}

#[test]
fn two_waiting_threads_are_served_and_free_the_baton() {
    model(2, false);
}

#[test]
fn a_waiting_thread_and_the_background_never_hold_it_together() {
    model(1, true);
}
