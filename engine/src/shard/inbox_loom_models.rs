//! The inbox under loom. The operators are never run: they are told apart by the hash of their key. Each model names the breaks that it was
//! seen to catch.

use loom::thread;
use siltstone_io::sync::model::{block_on, explore};

use super::*;
use crate::checkpoint::EpochGate;
use crate::types::Epoch;

/// Operators with these numbers, each with a share in the token.
fn operators(numbers: &[u64], token: &Arc<()>) -> Vec<Operator> {
    let gate = EpochGate::new(Epoch(1), 0);
    let operator = |number: &u64| {
        let token = Arc::clone(token);
        Operator {
            key_hash: Some(*number),
            epoch: gate.begin(),
            run: Box::new(move |_shard| {
                drop(token);
                Box::pin(async {})
            }),
        }
    };
    numbers.iter().map(operator).collect()
}

/// Takes operators as the shard does, until there are so many or the senders are gone.
fn take(inbox: &mut Inbox, count: usize) -> Vec<Operator> {
    let mut taken = Vec::new();
    while taken.len() < count {
        while inbox.controls.try_recv().is_some() {}
        if let Some(operator) = inbox.try_recv() {
            taken.push(operator);
            continue;
        }
        match block_on(inbox.recv()) {
            Some(Arrival::Operator(operator)) => taken.push(operator),
            Some(Arrival::Control(_)) => {}
            None => break,
        }
    }
    taken
}

fn numbers(operators: &[Operator]) -> Vec<u64> {
    operators.iter().filter_map(|operator| operator.key_hash).collect()
}

/// Breaks caught: a shard that takes from the overflow when it found the mailbox empty before, and not after, it saw that the overflow holds
/// something (as the code once did: the mailbox filled and overflowed in between); a sender that uses the mailbox while the overflow
/// holds something; an end that is believed before everything was looked at.
#[test]
fn what_one_thread_sends_arrives_in_order_and_all_of_it() {
    explore(3, || {
        let (port, mut inbox) = inbox(1, 2);
        let token = Arc::new(());
        let sent = operators(&[1, 2, 3], &token);
        let thread = thread::spawn(move || sent.into_iter().for_each(|operator| port.send(operator)));
        let taken = take(&mut inbox, 4);
        assert_eq!(numbers(&taken), [1, 2, 3]);
        thread.join().unwrap();
    });
}

/// Two senders; the controls are full from the start, so that the note for the shard does not fit.
///
/// Breaks caught: no fence between the push into the overflow and the note; no note.
#[test]
fn what_two_threads_send_arrives_where_the_controls_are_full() {
    explore(1, || {
        let (port, mut inbox) = inbox(1, 1);
        let token = Arc::new(());
        assert!(port.controls.try_send(Control::Look).is_ok());
        let port = Arc::new(port);
        let threads: Vec<_> = [&[1, 2][..], &[3]]
            .iter()
            .map(|numbers| {
                let (port, sent) = (Arc::clone(&port), operators(numbers, &token));
                thread::spawn(move || sent.into_iter().for_each(|operator| port.send(operator)))
            })
            .collect();
        let taken = numbers(&take(&mut inbox, 3));
        let place = |number| taken.iter().position(|taken| *taken == number).unwrap();
        assert!(taken.len() == 3 && place(1) < place(2), "{taken:?}");
        for thread in threads {
            thread.join().unwrap();
        }
        drop(port);
    });
}

/// The shard ends while operators come: each is taken or dropped, and its reply with it.
///
/// Breaks caught: no fence between the push and the look whether the overflow is closed, or between closing and emptying it; a sender that does
/// not look.
#[test]
fn nothing_stays_behind_when_the_shard_ends() {
    explore(3, || {
        let (port, mut inbox) = inbox(1, 1);
        let token = Arc::new(());
        let sent = operators(&[1, 2, 3], &token);
        let thread = thread::spawn(move || {
            sent.into_iter().for_each(|operator| port.send(operator));
            port
        });
        let taken = inbox.try_recv();
        drop(inbox);
        drop(taken);
        let _port = thread.join().unwrap();
        assert_eq!(Arc::strong_count(&token), 1, "an operator stayed where nobody takes it");
    });
}

/// The last handle goes while the shard waits: what was sent before is taken, and then the end is seen.
///
/// Breaks caught: a `recv` that takes the end of the operators for the end before it has looked at the controls and the overflow.
#[test]
fn the_end_is_seen_after_everything_that_was_sent() {
    explore(3, || {
        let (port, mut inbox) = inbox(1, 1);
        let token = Arc::new(());
        let sent = operators(&[1, 2], &token);
        let thread = thread::spawn(move || sent.into_iter().for_each(|operator| port.send(operator)));
        assert_eq!(numbers(&take(&mut inbox, 9)), [1, 2]);
        thread.join().unwrap();
    });
}

/// The end of an engine, as two handles ask for it and as the shard gives it: each answer comes, or its sender is dropped. The channel of the
/// replies is the real one under loom too.
///
/// Breaks caught: controls that stay in the mailbox of a shard that has ended (the break of the mailbox's own model).
#[cfg(oneshot_loom)]
#[test]
fn whoever_closes_an_engine_hears_of_its_end() {
    explore(1, || {
        let (port, mut inbox) = inbox(1, 1);
        let port = Arc::new(port);
        let close = |port: &Port| {
            let (sender, receiver) = oneshot::channel();
            block_on(async {
                if port.controls.send(Control::Close(sender)).await.is_ok() {
                    let _ = receiver.into_future().await;
                }
            });
        };
        let others = Arc::clone(&port);
        let other = thread::spawn(move || close(&others));
        let own = Arc::clone(&port);
        let one = thread::spawn(move || close(&own));
        // As `Shard::serve` ends.
        let mut closers = Vec::new();
        while closers.is_empty() {
            if let Some(Arrival::Control(Control::Close(closer))) = block_on(inbox.recv()) {
                closers.push(closer);
            }
        }
        while let Some(control) = inbox.controls.try_recv() {
            if let Control::Close(closer) = control {
                closers.push(closer);
            }
        }
        drop(inbox);
        closers.into_iter().for_each(|closer| drop(closer.send(())));
        one.join().unwrap();
        other.join().unwrap();
        drop(port);
    });
}

/// A caller waits for the reply of an operator that the shard takes, or drops as it ends.
///
/// Breaks caught: an overflow that is not emptied by the sender after it was closed.
#[cfg(oneshot_loom)]
#[test]
fn whoever_waits_for_a_reply_hears_of_the_shards_end() {
    explore(3, || {
        let (port, mut inbox) = inbox(1, 1);
        let gate = EpochGate::new(Epoch(1), 0);
        let caller = thread::spawn(move || {
            let replies: Vec<_> = (0..2)
                .map(|_| {
                    let (sender, receiver) = oneshot::channel::<()>();
                    let epoch = gate.begin();
                    let run = Box::new(move |_shard| {
                        drop(sender);
                        unreachable!("the model runs no operator")
                    });
                    port.send(Operator { key_hash: None, epoch, run });
                    receiver
                })
                .collect();
            for reply in replies {
                assert!(block_on(reply.into_future()).is_err());
            }
        });
        drop(inbox.try_recv());
        drop(inbox);
        caller.join().unwrap();
    });
}
