//! The mailbox under an executor.

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
    let each = if cfg!(miri) { 8 } else { 50 };
    for base in [0, 100] {
        let sender = sender.clone();
        executor.handle().spawn(Class::Foreground, async move {
            for message in base..base + each {
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
    assert_eq!(got.len(), 2 * each);
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
