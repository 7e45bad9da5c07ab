//! The mailbox under loom. Each model names the breaks that it was seen to catch: with the line changed, it fails.

use loom::thread;

use super::*;
use crate::sync::model::{block_on, explore};

/// Breaks caught: no fence in `try_send` before the look at `receiver_waits`; none in `poll_recv` before its last look; none in `pop`
/// before the look at `senders_waiting`; none in `poll_send` after it has registered; none in the last sender's drop; the number of senders
/// read after the last look at the queue (the last message is lost); `receiver_waits` stored and not swapped in `poll_recv`.
#[test]
fn every_message_arrives_and_the_end_is_seen() {
    explore(4, || {
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

/// Breaks caught: no fence in the sender's drop; none in `poll_recv`.
#[test]
fn messages_of_two_senders_arrive() {
    explore(3, || {
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

/// Breaks caught: no `wake_senders` when the receiver goes.
#[test]
fn a_full_sender_learns_that_the_receiver_has_gone_and_nothing_stays_behind() {
    explore(4, || {
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

/// The shard's select leaves the receiver noted as waiting when something else ends the wait, and then it closes.
///
/// Breaks caught: a sender that looks whether the receiver has gone only where it did not wait (as the code once did: the message, and
/// whoever waits for its reply, stayed for ever); no fence between the push and that look; none in the receiver's drop.
#[test]
fn nothing_stays_behind_when_a_receiver_that_waited_goes() {
    explore(4, || {
        let (sender, mut receiver) = channel(2);
        let message = std::sync::Arc::new(());
        let in_flight = message.clone();
        assert!(receiver.poll_recv(&Context::from_waker(Waker::noop())).is_pending());
        let thread = thread::spawn(move || {
            let _ = sender.try_send(in_flight);
            sender
        });
        drop(receiver);
        let _sender = thread.join().unwrap();
        assert_eq!(std::sync::Arc::strong_count(&message), 1, "a message stayed in a mailbox that nobody empties");
    });
}

/// Two senders wait for one place; the receiver takes everything. Nobody waits for ever.
///
/// Breaks caught: `wake_senders` that wakes one of them only; `senders_waiting` cleared outside the lock.
#[test]
fn two_full_senders_both_go_on() {
    explore(1, || {
        let (sender, mut receiver) = channel(1);
        sender.try_send(0).unwrap();
        let threads: Vec<_> = (1..=2)
            .map(|message| {
                let sender = sender.clone();
                thread::spawn(move || block_on(sender.send(message)).unwrap())
            })
            .collect();
        drop(sender);
        let mut sum = 0;
        while let Some(message) = block_on(receiver.recv()) {
            sum += message;
        }
        assert_eq!(sum, 3);
        for thread in threads {
            thread.join().unwrap();
        }
    });
}

/// The receiver moves to another task between two waits: the last waker counts.
///
/// Breaks caught: a waker stored after the note that the receiver waits.
#[test]
fn the_waker_of_the_last_poll_is_woken() {
    explore(4, || {
        let (sender, mut receiver) = channel(1);
        let thread = thread::spawn(move || sender.try_send(7).unwrap());
        // A poll with a waker that wakes nobody; the second registers the right one.
        let first = receiver.poll_recv(&Context::from_waker(Waker::noop()));
        let got = match first {
            Poll::Ready(message) => message,
            Poll::Pending => block_on(receiver.recv()),
        };
        assert_eq!(got, Some(7));
        thread.join().unwrap();
    });
}
