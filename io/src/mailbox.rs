//! A bounded queue from many threads to one task: how messages cross cores.
//!
//! The queue is lock-free; wakers sit behind mutexes that are only touched when somebody waits.
//!
//! 1. Sending pushes, then looks whether the receiver waits. The receiver notes that it waits, then looks once more. A sequentially
//!    consistent fence on both sides between the two steps makes sure that at least one of them sees the other.
//! 2. A sender that finds the queue full does the same with the roles exchanged. The receiver wakes the waiting senders, all at once,
//!    when the queue has drained to half.
//! 3. The receiver's end drops what is in the queue, and senders that push at that moment drop what they find: no message (and no reply
//!    channel in one) stays behind.

use std::fmt;
use std::future::{Future, poll_fn};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

#[cfg(not(loom))]
use crossbeam_queue::ArrayQueue;
#[cfg(loom)]
use model_queue::ArrayQueue;

use crate::sync::{AtomicBool, AtomicUsize, Mutex, Ordering, fence, lock};

/// Makes a mailbox for up to `capacity` messages (at least 1).
///
/// ```
/// let (sender, mut receiver) = siltstone_io::mailbox::channel(8);
/// sender.try_send("hello").unwrap();
/// assert_eq!(receiver.try_recv(), Some("hello"));
/// ```
pub fn channel<T: Send>(capacity: usize) -> (Sender<T>, Receiver<T>) {
    let shared = Arc::new(Shared {
        queue: ArrayQueue::new(capacity.max(1)),
        senders: AtomicUsize::new(1),
        receiver_gone: AtomicBool::new(false),
        receiver_waits: AtomicBool::new(false),
        receiver: Mutex::new(None),
        senders_waiting: AtomicUsize::new(0),
        waiting: Mutex::new(Vec::new()),
    });
    (Sender { shared: Arc::clone(&shared) }, Receiver { shared })
}

struct Shared<T> {
    queue: ArrayQueue<T>,
    senders: AtomicUsize,
    receiver_gone: AtomicBool,
    receiver_waits: AtomicBool,
    receiver: Mutex<Option<Waker>>,
    /// The length of `waiting`.
    senders_waiting: AtomicUsize,
    waiting: Mutex<Vec<Waker>>,
}

/// The message could not be sent; it is given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TrySendError<T> {
    /// The mailbox is full.
    #[error("the mailbox is full")]
    Full(T),
    /// The receiver is gone.
    #[error("the mailbox is closed")]
    Closed(T),
}

/// The receiver is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the mailbox is closed")]
pub struct Closed;

/// Sends; one for each thread, by cloning, or shared.
pub struct Sender<T> {
    shared: Arc<Shared<T>>,
}

impl<T: Send> Sender<T> {
    /// Sends without waiting. A message that is sent just when the receiver goes may be dropped unseen.
    pub fn try_send(&self, message: T) -> Result<(), TrySendError<T>> {
        let shared = &*self.shared;
        if shared.receiver_gone.load(Ordering::Acquire) {
            return Err(TrySendError::Closed(message));
        }
        shared.queue.push(message).map_err(TrySendError::Full)?;
        fence(Ordering::SeqCst);
        if shared.receiver_waits.load(Ordering::Relaxed) {
            shared.wake_receiver();
        } else if shared.receiver_gone.load(Ordering::Relaxed) {
            shared.drop_messages();
        }
        Ok(())
    }

    /// Sends, waiting while the mailbox is full.
    pub async fn send(&self, message: T) -> Result<(), Closed> {
        let mut message = Some(message);
        poll_fn(|cx| self.poll_send(cx, &mut message)).await
    }

    fn poll_send(&self, cx: &Context<'_>, message: &mut Option<T>) -> Poll<Result<(), Closed>> {
        for registered in [false, true] {
            let Some(unsent) = message.take() else { panic!("polled after completion") };
            match self.try_send(unsent) {
                Ok(()) => return Poll::Ready(Ok(())),
                Err(TrySendError::Closed(_)) => return Poll::Ready(Err(Closed)),
                Err(TrySendError::Full(unsent)) => *message = Some(unsent),
            }
            if !registered {
                let mut waiting = lock(&self.shared.waiting);
                if !waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
                    waiting.push(cx.waker().clone());
                }
                self.shared.senders_waiting.store(waiting.len(), Ordering::Relaxed);
                drop(waiting);
                fence(Ordering::SeqCst);
            }
        }
        Poll::Pending
    }

    /// Whether the receiver is gone.
    pub fn is_closed(&self) -> bool {
        self.shared.receiver_gone.load(Ordering::Acquire)
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Sender<T> {
        self.shared.senders.fetch_add(1, Ordering::Relaxed);
        Sender { shared: Arc::clone(&self.shared) }
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        if self.shared.senders.fetch_sub(1, Ordering::AcqRel) == 1 {
            fence(Ordering::SeqCst);
            if self.shared.receiver_waits.load(Ordering::Relaxed) {
                self.shared.wake_receiver();
            }
        }
    }
}

/// Receives, in one task.
pub struct Receiver<T> {
    shared: Arc<Shared<T>>,
}

impl<T: Send> Receiver<T> {
    /// The next message; `None` when the mailbox is empty and all senders are gone.
    pub fn recv(&mut self) -> impl Future<Output = Option<T>> + '_ {
        poll_fn(|cx| self.poll_recv(cx))
    }

    /// See [`recv`](Receiver::recv).
    pub fn poll_recv(&mut self, cx: &Context<'_>) -> Poll<Option<T>> {
        if let Some(message) = self.try_recv() {
            return Poll::Ready(Some(message));
        }
        let shared = &*self.shared;
        let mut waker = lock(&shared.receiver);
        match &mut *waker {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        drop(waker);
        // A swap, not a store: it comes after the swap of a sender that took the last note, in every thread's eyes.
        shared.receiver_waits.swap(true, Ordering::AcqRel);
        fence(Ordering::SeqCst);
        // Before the last look: what the last sender sent before it went is in the queue.
        let senders_gone = shared.senders.load(Ordering::Acquire) == 0;
        match shared.pop() {
            Some(message) => {
                shared.receiver_waits.store(false, Ordering::Relaxed);
                Poll::Ready(Some(message))
            }
            None if senders_gone => Poll::Ready(None),
            None => Poll::Pending,
        }
    }

    /// The next message, if there is one.
    pub fn try_recv(&mut self) -> Option<T> {
        self.shared.pop()
    }

    /// How many messages wait.
    pub fn len(&self) -> usize {
        self.shared.queue.len()
    }

    /// Whether no message waits.
    pub fn is_empty(&self) -> bool {
        self.shared.queue.is_empty()
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        self.shared.receiver_gone.store(true, Ordering::Release);
        fence(Ordering::SeqCst);
        self.shared.drop_messages();
        self.shared.wake_senders();
    }
}

impl<T> Shared<T> {
    fn pop(&self) -> Option<T> {
        let message = self.queue.pop()?;
        fence(Ordering::SeqCst);
        if self.senders_waiting.load(Ordering::Relaxed) > 0 && self.queue.len() <= self.queue.capacity() / 2 {
            self.wake_senders();
        }
        Some(message)
    }

    #[cold]
    fn wake_receiver(&self) {
        if self.receiver_waits.swap(false, Ordering::AcqRel) {
            let waker = lock(&self.receiver).clone();
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }

    #[cold]
    fn wake_senders(&self) {
        let mut waiting = lock(&self.waiting);
        let wakers = std::mem::take(&mut *waiting);
        self.senders_waiting.store(0, Ordering::Relaxed);
        drop(waiting);
        wakers.into_iter().for_each(Waker::wake);
    }

    fn drop_messages(&self) {
        while let Some(message) = self.queue.pop() {
            drop(message);
        }
    }
}

impl<T> fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sender({} of {} waiting)", self.shared.queue.len(), self.shared.queue.capacity())
    }
}

impl<T> fmt::Debug for Receiver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Receiver({} of {} waiting)", self.shared.queue.len(), self.shared.queue.capacity())
    }
}

/// The queue as loom sees it: linearizable, and with no more ordering than its own.
#[cfg(loom)]
mod model_queue {
    use crate::sync::{Mutex, lock};
    use std::collections::VecDeque;

    pub(super) struct ArrayQueue<T> {
        messages: Mutex<VecDeque<T>>,
        capacity: usize,
    }

    impl<T> ArrayQueue<T> {
        pub(super) fn new(capacity: usize) -> Self {
            ArrayQueue { messages: Mutex::new(VecDeque::new()), capacity }
        }

        pub(super) fn push(&self, message: T) -> Result<(), T> {
            let mut messages = lock(&self.messages);
            if messages.len() == self.capacity {
                return Err(message);
            }
            messages.push_back(message);
            Ok(())
        }

        pub(super) fn pop(&self) -> Option<T> {
            lock(&self.messages).pop_front()
        }

        pub(super) fn len(&self) -> usize {
            lock(&self.messages).len()
        }

        pub(super) fn is_empty(&self) -> bool {
            self.len() == 0
        }

        pub(super) fn capacity(&self) -> usize {
            self.capacity
        }
    }
}

#[cfg(all(test, loom))]
mod loom_models {
    use super::*;
    use loom::future::block_on;
    use loom::thread;

    fn model(body: impl Fn() + Send + Sync + 'static) {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(4);
        builder.check(body);
    }

    #[test]
    fn every_message_arrives_and_the_end_is_seen() {
        model(|| {
            let (sender, mut receiver) = channel(1);
            let thread = thread::spawn(move || {
                block_on(sender.send(1)).unwrap();
                block_on(sender.send(2)).unwrap();
            });
            assert_eq!(block_on(receiver.recv()), Some(1));
            assert_eq!(block_on(receiver.recv()), Some(2));
            assert_eq!(block_on(receiver.recv()), None);
            thread.join().unwrap();
        });
    }

    #[test]
    fn messages_of_two_senders_arrive() {
        model(|| {
            let (sender, mut receiver) = channel(2);
            let other = sender.clone();
            let thread = thread::spawn(move || other.try_send(1).unwrap());
            sender.try_send(2).unwrap();
            drop(sender);
            let (first, second) = (block_on(receiver.recv()), block_on(receiver.recv()));
            assert_eq!(first.unwrap() + second.unwrap(), 3);
            assert_eq!(block_on(receiver.recv()), None);
            thread.join().unwrap();
        });
    }

    #[test]
    fn a_full_sender_learns_that_the_receiver_has_gone_and_nothing_stays_behind() {
        model(|| {
            let (sender, receiver) = channel(1);
            let message = std::sync::Arc::new(());
            sender.try_send(message.clone()).unwrap();
            let thread = thread::spawn(move || drop(receiver));
            let _ = block_on(sender.send(message.clone()));
            thread.join().unwrap();
            assert!(sender.is_closed());
            assert_eq!(std::sync::Arc::strong_count(&message), 1);
        });
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::{Backend, Class, Executor, ExecutorConfig, SimClock};
    use std::rc::Rc;

    #[test]
    fn a_full_mailbox_gives_the_message_back() {
        let (sender, mut receiver) = channel(1);
        assert_eq!(sender.try_send(1), Ok(()));
        assert_eq!(sender.try_send(2), Err(TrySendError::Full(2)));
        assert_eq!((receiver.try_recv(), receiver.try_recv()), (Some(1), None));
        drop(receiver);
        assert!(sender.is_closed());
        assert_eq!(sender.try_send(3), Err(TrySendError::Closed(3)));
    }

    #[test]
    fn messages_in_the_queue_go_with_the_receiver() {
        let (sender, receiver) = channel(4);
        let message = Arc::new(());
        sender.try_send(Arc::clone(&message)).unwrap();
        drop(receiver);
        assert_eq!(Arc::strong_count(&message), 1);
    }

    #[test]
    fn waiting_senders_go_on_when_there_is_room() {
        let mut executor = Executor::new(ExecutorConfig::default(), Backend::Simulated(SimClock::new())).unwrap();
        let (sender, mut receiver) = channel(2);
        for base in [0, 100] {
            let sender = sender.clone();
            executor.handle().spawn(Class::Foreground, async move {
                for message in base..base + 50 {
                    sender.send(message).await.unwrap();
                }
            });
        }
        drop(sender);
        let got = Rc::new(std::cell::RefCell::new(Vec::new()));
        executor.block_on(async {
            while let Some(message) = receiver.recv().await {
                got.borrow_mut().push(message);
            }
        });
        let got = got.borrow();
        assert_eq!(got.len(), 100);
        assert!(got.iter().filter(|message| **message < 100).is_sorted());
    }

    #[test]
    #[cfg_attr(miri, ignore = "Miri has no io_uring")]
    fn messages_from_other_threads_wake_a_parked_executor() {
        let mut executor = Executor::new(ExecutorConfig::default(), Backend::Ring).unwrap();
        let (sender, mut receiver) = channel(4);
        let thread = crate::spawn_pinned("sender", None, move || {
            let mut executor = Executor::new(ExecutorConfig::default(), Backend::Ring).unwrap();
            executor.block_on(async {
                for message in 0..1000u32 {
                    sender.send(message).await.unwrap();
                }
            });
        })
        .unwrap();
        let received = executor.block_on(async {
            let mut expected = 0;
            while let Some(message) = receiver.recv().await {
                assert_eq!(message, expected);
                expected += 1;
            }
            expected
        });
        assert_eq!(received, 1000);
        thread.join().unwrap();
    }
}
