//! Many clients as one future: which of those that were woken goes on is drawn from the seed.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures_util::task::AtomicWaker;
use siltstone_io::Random;

type Client = Pin<Box<dyn Future<Output = ()>>>;

pub(crate) struct Clients {
    clients: Vec<Option<(Client, Arc<Woken>)>>,
    root: Arc<AtomicWaker>,
    random: Random,
}

struct Woken {
    flag: AtomicBool,
    root: Arc<AtomicWaker>,
}

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.flag.store(true, Ordering::SeqCst);
        self.root.wake();
    }
}

impl Clients {
    pub(crate) fn new(random: Random) -> Clients {
        Clients { clients: Vec::new(), root: Arc::new(AtomicWaker::new()), random }
    }

    pub(crate) fn add(&mut self, client: impl Future<Output = ()> + 'static) {
        let woken = Arc::new(Woken { flag: AtomicBool::new(true), root: Arc::clone(&self.root) });
        self.clients.push(Some((Box::pin(client), woken)));
    }
}

impl Future for Clients {
    type Output = ();

    /// Polls one client that was woken; where there are others, it wants to be polled again.
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        this.root.register(context.waker());
        let is_woken = |slot: &Option<(Client, Arc<Woken>)>| {
            slot.as_ref().is_some_and(|(_, woken)| woken.flag.load(Ordering::SeqCst))
        };
        let ready: Vec<usize> = (0..this.clients.len()).filter(|index| is_woken(&this.clients[*index])).collect();
        if !ready.is_empty() {
            let chosen = ready[this.random.below(ready.len() as u64) as usize];
            let slot = &mut this.clients[chosen];
            if let Some((client, woken)) = slot {
                woken.flag.store(false, Ordering::SeqCst);
                let waker = Waker::from(Arc::clone(woken));
                if client.as_mut().poll(&mut Context::from_waker(&waker)).is_ready() {
                    *slot = None;
                }
            }
            if ready.len() > 1 {
                context.waker().wake_by_ref();
            }
        }
        if this.clients.iter().all(Option::is_none) { Poll::Ready(()) } else { Poll::Pending }
    }
}
