//! The shard's mailbox: operators and control tasks that come from other threads.
//!
//! An operator with a key runs alone among those of its key, in the order in which they arrived; operators of different keys run
//! side by side. Control tasks (barriers, checkpoints, keyspaces, closing) have a mailbox of their own, so that a flood of operators
//! does not delay them.

use std::collections::VecDeque;
use std::rc::Rc;

use futures_util::future::LocalBoxFuture;
use rustc_hash::FxHashMap;
use siltstone_io::Class;
use std::cell::RefCell;

use crate::checkpoint::EpochGuard;
use crate::shard::{Arrival, Inbox, LocalShard, Scope, Shard};

/// What the operator's sender wants done with the shard.
pub(crate) type OperatorFn = Box<dyn FnOnce(LocalShard) -> LocalBoxFuture<'static, ()> + Send>;
/// Work on the shard itself.
pub(crate) enum Control {
    /// A task beside the operators.
    Task(Box<dyn FnOnce(Rc<Shard>) -> LocalBoxFuture<'static, ()> + Send>),
    /// The end; answered when the shard and its executor are gone.
    Close(oneshot::Sender<()>),
    /// Something waits behind the mailbox of operators.
    Look,
}

/// An operator on its way to its data.
pub(crate) struct Operator {
    /// The hash of its key, where it must run alone among those with the same.
    pub(crate) key_hash: Option<u64>,
    pub(crate) epoch: EpochGuard,
    pub(crate) run: OperatorFn,
}

/// The operators that wait for another one of their key.
#[derive(Default)]
struct KeyQueues {
    running: RefCell<FxHashMap<u64, VecDeque<Operator>>>,
}

impl Shard {
    /// Takes operators until all senders are gone or the shard is told to close; then ends its background tasks. Returns who wants to know
    /// of the end.
    pub(crate) async fn serve(self: Rc<Self>, mut inbox: Inbox) -> Vec<oneshot::Sender<()>> {
        let queues = Rc::new(KeyQueues::default());
        let mut closers = Vec::new();
        while closers.is_empty() {
            while let Some(control) = inbox.controls.try_recv() {
                self.take_control(control, &mut closers);
            }
            let mut taken = 0;
            while taken < OPERATORS_A_ROUND
                && let Some(operator) = inbox.try_recv()
            {
                self.take_operator(&queues, operator);
                taken += 1;
            }
            if taken > 0 {
                // Let them run before more are taken.
                self.handle.yield_now().await;
                continue;
            }
            if !closers.is_empty() {
                break;
            }
            match inbox.recv().await {
                Some(Arrival::Control(control)) => self.take_control(control, &mut closers),
                Some(Arrival::Operator(operator)) => self.take_operator(&queues, operator),
                // The last handle of the engine is gone.
                None => break,
            }
        }
        self.begin_close();
        self.stopped().await;
        self.store_wear().await;
        while let Some(control) = inbox.controls.try_recv() {
            if let Control::Close(closer) = control {
                closers.push(closer);
            }
        }
        closers
    }

    fn take_control(self: &Rc<Self>, control: Control, closers: &mut Vec<oneshot::Sender<()>>) {
        match control {
            Control::Task(task) => self.handle.spawn(Class::Foreground, task(Rc::clone(self))),
            Control::Close(closer) => closers.push(closer),
            Control::Look => {}
        }
    }

    fn take_operator(self: &Rc<Self>, queues: &Rc<KeyQueues>, mut operator: Operator) {
        // An operator that arrives behind one of a newer epoch was sent while the barrier between them opened: it may as well have begun
        // after it. So it does: it might run behind the other on the same key, and what it writes must then be newer.
        if operator.epoch.epoch() < self.newest_arrival.get() {
            mark!(OperatorBegunAnew);
            operator.epoch = self.gate.begin();
        }
        self.newest_arrival.set(operator.epoch.epoch());
        let Some(hash) = operator.key_hash.filter(|_| !mutant!(KeyNotLocked)) else {
            let run = self.run_operator(operator);
            return self.handle.spawn(Class::Foreground, run);
        };
        let mut running = queues.running.borrow_mut();
        if let Some(queue) = running.get_mut(&hash) {
            queue.push_back(operator);
            return;
        }
        running.insert(hash, VecDeque::new());
        drop(running);
        let (shard, queues) = (Rc::clone(self), Rc::clone(queues));
        self.handle.spawn(Class::Foreground, async move {
            let mut next = Some(operator);
            while let Some(operator) = next {
                shard.run_operator(operator).await;
                let mut running = queues.running.borrow_mut();
                let queue = running.get_mut(&hash).expect("the key's queue stays while one of its operators runs");
                next = if mutant!(OperatorsOvertake) { queue.pop_back() } else { queue.pop_front() };
                if next.is_none() {
                    running.remove(&hash);
                }
            }
        });
    }

    fn run_operator(self: &Rc<Self>, operator: Operator) -> impl Future<Output = ()> + use<> {
        let scope = Scope::remote(self, operator.epoch);
        (operator.run)(LocalShard::new(Rc::clone(self), Some(scope)))
    }

    /// Ends the shard's tasks: what is in the log's buffer is written, nothing else.
    fn begin_close(&self) {
        mark!(ClosedWithPendingLog if !self.wal.pending().is_empty());
        self.closing.set(true);
        self.wal.wake_all();
        self.events.flush.notify_all();
        self.events.compaction.notify_all();
        self.events.admission.notify_all();
        self.events.checkpoint.notify_all();
    }

    /// Whether the shard is closing or closed.
    pub(crate) fn is_closing(&self) -> bool {
        self.closing.get()
    }

    /// Resolves when the background tasks have ended after [`Self::begin_close`].
    async fn stopped(&self) {
        while self.tasks.get() > 0 {
            self.events.stopped.wait().await;
        }
    }

    /// Starts a background task that [`Self::stopped`] waits for.
    pub(crate) fn spawn_task(self: &Rc<Self>, class: Class, task: impl Future<Output = ()> + 'static) {
        self.tasks.set(self.tasks.get() + 1);
        let shard = Rc::clone(self);
        self.handle.spawn(class, async move {
            task.await;
            shard.tasks.set(shard.tasks.get() - 1);
            shard.events.stopped.notify_all();
        });
    }
}

/// Operators that are taken from the mailbox before those that are there run on.
const OPERATORS_A_ROUND: usize = 256;
