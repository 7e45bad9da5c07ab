//! The beginning of checkpoints under loom: tickets, barriers and the gate, with orders in a real mailbox to a thread that stands for shard 0.
//! Each model names the breaks that it was seen to catch.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use loom::cell::UnsafeCell;
use loom::thread;
use siltstone_io::mailbox::{Receiver, Sender, channel};
use siltstone_io::sync::model::{block_on, explore};
use siltstone_io::sync::{AtomicBool, AtomicU32, Ordering};

use super::{Barrier, EpochGate, Ticket};
use crate::types::Epoch;

/// As a shard's flush task waits, told of the barrier by a message.
pub(super) fn wait_until_drained(gate: &EpochGate, shard: usize, epoch: Epoch) {
    block_on(poll_fn(|cx| {
        gate.register(shard, cx.waker());
        if gate.is_drained(epoch) { Poll::Ready(()) } else { Poll::Pending }
    }));
}

/// What is sent to shard 0.
struct Order {
    barrier: Arc<Barrier>,
    ticket: Ticket,
}

/// What callers and shard 0 share.
struct World {
    gate: Arc<EpochGate>,
    busy: Arc<AtomicBool>,
    /// Only for the holder of the ticket.
    under_way: UnsafeCell<()>,
    /// The last epoch that shard 0 has sealed.
    sealed: AtomicU32,
}

impl World {
    #[expect(
        clippy::arc_with_non_send_sync,
        reason = "loom runs its threads in turns, and checks each access to a cell"
    )]
    fn new() -> Arc<World> {
        Arc::new(World {
            gate: EpochGate::new(Epoch(1), 1),
            busy: Arc::new(AtomicBool::new(false)),
            under_way: UnsafeCell::new(()),
            sealed: AtomicU32::new(0),
        })
    }

    /// What `Engine::checkpoint` does; whether the order was accepted. If so, what the caller does next is in a later epoch.
    fn order(&self, orders: &Sender<Order>) -> bool {
        let Ok(ticket) = Ticket::take(&self.busy) else { return false };
        self.under_way.with_mut(|_| {});
        let before = self.gate.current();
        let sent = Barrier::order(&self.gate, |barrier| orders.try_send(Order { barrier, ticket }));
        if sent.is_ok() {
            assert!(self.gate.begin().epoch() > before, "what begins after the call belongs to the next epoch");
        }
        sent.is_ok()
    }

    /// What shard 0 does with an order, with only itself to ask.
    fn take(&self, order: Order) -> Epoch {
        let epoch = order.barrier.open();
        assert!(self.gate.current() > epoch, "an epoch that has ended is not the current one");
        wait_until_drained(&self.gate, 0, epoch);
        self.sealed.store(epoch.0 as u32, Ordering::SeqCst);
        self.under_way.with_mut(|_| {});
        drop(order.ticket);
        epoch
    }

    fn operate(self: &Arc<World>) -> thread::JoinHandle<()> {
        let world = Arc::clone(self);
        thread::spawn(move || {
            let guard = world.gate.begin();
            let sealed = world.sealed.load(Ordering::SeqCst);
            assert!(guard.epoch().0 > u64::from(sealed), "a write reached an epoch that was sealed");
        })
    }

    /// After `ended` checkpoints, that many epochs have ended, and the next one may be ordered.
    fn assert_idle(&self, ended: usize) {
        assert_eq!(self.gate.current(), Epoch(1 + ended as u64));
        assert!(Ticket::take(&self.busy).is_ok(), "the ticket was not given back");
    }
}

fn take_all(world: &World, orders: &mut Receiver<Order>) -> Vec<Epoch> {
    std::iter::from_fn(|| block_on(orders.recv())).map(|order| world.take(order)).collect()
}

/// A checkpoint is ordered while an operation comes: shard 0 may take the order before its sender goes on.
///
/// Breaks caught: a sender that does not open the barrier; a lock that is let go between the look and the note; a barrier that opens at each
/// call, or gives the second the current epoch; a ticket that is not given back.
#[test]
fn a_barrier_opens_one_epoch_before_its_order_is_taken_and_its_sender_goes_on() {
    explore(2, || {
        let (world, (sender, mut orders)) = (World::new(), channel(1));
        let own = Arc::clone(&world);
        let caller = thread::spawn(move || assert!(own.order(&sender)));
        let operation = world.operate();
        assert_eq!(take_all(&world, &mut orders), [Epoch(1)]);
        caller.join().unwrap();
        operation.join().unwrap();
        world.assert_idle(1);
    });
}

/// The mailbox is full, and shard 0 looks at it or ends: an order that is refused opens nothing and keeps nothing, and one that is dropped unread
/// gives the ticket back.
///
/// Breaks caught: those of the model before; a barrier that opens before the order is sent, or though it was refused.
#[test]
fn an_order_that_is_refused_opens_nothing() {
    for shard_ends in [false, true] {
        explore(3, move || {
            let (world, (sender, mut orders)) = (World::new(), channel::<Option<Order>>(1));
            assert!(sender.try_send(None).is_ok());
            let own = Arc::clone(&world);
            let caller = thread::spawn(move || {
                let ticket = Ticket::take(&own.busy).unwrap();
                own.under_way.with_mut(|_| {});
                let send = |barrier| sender.try_send(Some(Order { barrier, ticket }));
                let sent = Barrier::order(&own.gate, send).is_ok();
                assert_eq!(own.gate.current(), Epoch(1 + u64::from(sent)));
                sent
            });
            assert!(matches!(orders.try_recv(), Some(None)));
            let taken = if shard_ends {
                drop(orders);
                0
            } else {
                std::iter::from_fn(|| block_on(orders.recv())).flatten().fold(0, |taken, order| {
                    world.take(order);
                    taken + 1
                })
            };
            let sent = caller.join().unwrap();
            assert!(shard_ends || taken == usize::from(sent));
            world.assert_idle(usize::from(sent));
        });
    }
}

/// Two callers order a checkpoint each: while one is under way the other is refused, and one of them then tries once more.
///
/// Breaks caught: the ticket taken by load and store, or without a look; taken or given back with a relaxed exchange; given back by whoever was
/// refused.
#[test]
fn there_is_one_checkpoint_at_a_time() {
    explore(2, || {
        let (world, (sender, mut orders)) = (World::new(), channel(2));
        let callers: Vec<_> = (1..=2)
            .map(|attempts| {
                let (world, sender) = (Arc::clone(&world), sender.clone());
                thread::spawn(move || (0..attempts).any(|_| world.order(&sender)))
            })
            .collect();
        drop(sender);
        let taken = take_all(&world, &mut orders);
        let sent = callers.into_iter().map(|caller| caller.join().unwrap()).filter(|sent| *sent).count();
        let expected: Vec<Epoch> = (1..=sent as u64).map(Epoch).collect();
        assert!(sent > 0 && taken == expected, "{taken:?}");
        world.assert_idle(sent);
    });
}
