//! The shard's memtables, oldest first, and the sequence numbers of its open epochs.
//!
//! # Invariants
//!
//! 1. The last memtable is the active one, of the newest epoch. A write goes to the newest memtable of its epoch.
//! 2. Everything in a memtable has greater sequence numbers than everything in those before it, for any key: epochs are
//!    sequence number ranges in order, and within an epoch memtables are filled one after the other.
//! 3. Memtables are flushed strictly in order. The newest one of an epoch is flushed only when the epoch is over, its barrier
//!    has arrived and it is drained; so no write ever misses its memtable.
//! 4. At most two epochs are open: the current one, and the one before while it drains.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use crate::manifest::WalChain;
use crate::memtable::Memtable;
use crate::types::{Epoch, ReadView, SeqNo};

/// Sequence numbers that are kept free behind an epoch for its stragglers.
const STRAGGLER_SEQS: u64 = 1 << 24;

/// One memtable with what its flush needs to know.
pub(crate) struct MemtableSlot {
    pub(crate) memtable: Rc<Memtable>,
    pub(crate) epoch: Epoch,
    /// The logs, and from where in them, that hold everything in this memtable and those behind it.
    pub(crate) wal: Vec<WalChain>,
    /// The checkpoint that this memtable's flush completes in this shard.
    pub(crate) checkpoint: Cell<Option<u64>>,
}

struct OpenEpoch {
    epoch: Epoch,
    next: u64,
    /// End of its range of sequence numbers, once it is over.
    end: Option<u64>,
}

impl OpenEpoch {
    /// Where its sequence numbers end, where it is over now.
    fn end_if_over(&self) -> u64 {
        self.next + STRAGGLER_SEQS
    }
}

pub(crate) struct Memtables {
    slots: RefCell<VecDeque<Rc<MemtableSlot>>>,
    epochs: RefCell<Vec<OpenEpoch>>,
}

impl Memtables {
    pub(crate) fn new(epoch: Epoch, next_seq: SeqNo, first: Rc<MemtableSlot>) -> Self {
        assert_eq!(first.epoch, epoch);
        Memtables {
            slots: RefCell::new(VecDeque::from([first])),
            epochs: RefCell::new(vec![OpenEpoch { epoch, next: next_seq.0, end: None }]),
        }
    }

    /// The newest epoch.
    #[inline]
    pub(crate) fn epoch(&self) -> Epoch {
        self.active().epoch
    }

    pub(crate) fn active(&self) -> Rc<MemtableSlot> {
        Rc::clone(self.slots.borrow().back().expect("there is always an active memtable"))
    }

    /// Calls `each` for every memtable, newest first, until it returns something.
    #[inline]
    pub(crate) fn find<T>(&self, mut each: impl FnMut(&Memtable) -> Option<T>) -> Option<T> {
        self.slots.borrow().iter().rev().find_map(|slot| each(&slot.memtable))
    }

    /// All memtables, oldest first.
    pub(crate) fn all(&self) -> Vec<Rc<MemtableSlot>> {
        self.slots.borrow().iter().cloned().collect()
    }

    pub(crate) fn oldest(&self) -> Rc<MemtableSlot> {
        Rc::clone(self.slots.borrow().front().expect("there is always an active memtable"))
    }

    /// The memtable behind the oldest, if there is one.
    pub(crate) fn second(&self) -> Option<Rc<MemtableSlot>> {
        self.slots.borrow().get(1).cloned()
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.borrow().len()
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        self.slots.borrow().iter().map(|slot| slot.memtable.memory_bytes()).sum()
    }

    /// The memtable that takes the writes of an epoch.
    #[inline]
    pub(crate) fn of_epoch(&self, epoch: Epoch) -> Rc<MemtableSlot> {
        let slots = self.slots.borrow();
        let slot = slots.iter().rev().find(|slot| slot.epoch == epoch);
        Rc::clone(slot.expect("an epoch with operations in flight has its memtable"))
    }

    /// The least sequence number that a memtable can hold which is pushed now, for this epoch.
    pub(crate) fn first_seq_of_next(&self, epoch: Epoch) -> SeqNo {
        let epochs = self.epochs.borrow();
        let last = epochs.last().expect("there is always an open epoch");
        SeqNo(if epoch > last.epoch { last.end_if_over() } else { last.next })
    }

    /// Puts a new active memtable behind the others; where its epoch is a new one, the one before is over.
    pub(crate) fn push(&self, slot: Rc<MemtableSlot>) {
        let mut epochs = self.epochs.borrow_mut();
        let last = epochs.last_mut().expect("there is always an open epoch");
        if slot.epoch > last.epoch {
            let end = last.end_if_over();
            assert!(end < SeqNo::MAX.0, "sequence numbers are used up");
            last.end = Some(end);
            epochs.push(OpenEpoch { epoch: slot.epoch, next: end, end: None });
            assert!(epochs.len() <= 2, "one checkpoint at a time keeps at most two epochs open");
        }
        self.slots.borrow_mut().push_back(slot);
    }

    /// A checkpoint has failed: no flush completes it any more.
    pub(crate) fn unmark_checkpoint(&self, id: u64) {
        for slot in self.slots.borrow().iter().filter(|slot| slot.checkpoint.get() == Some(id)) {
            slot.checkpoint.set(None);
        }
    }

    /// Takes the oldest memtable away after its flush.
    pub(crate) fn pop(&self) {
        let mut slots = self.slots.borrow_mut();
        let popped = slots.pop_front().expect("a flushed memtable is there");
        assert!(!slots.is_empty(), "the active memtable is never flushed");
        let epoch_is_gone = slots.front().is_some_and(|slot| slot.epoch > popped.epoch);
        drop(slots);
        if epoch_is_gone {
            self.seal(popped.epoch);
        }
    }

    /// No write of this epoch can come any more: its unused sequence numbers are no hole in new views.
    pub(crate) fn seal(&self, epoch: Epoch) {
        self.epochs.borrow_mut().retain(|open| open.epoch != epoch);
    }

    /// Takes sequence numbers for a write in an epoch.
    #[inline]
    pub(crate) fn take_seqs(&self, epoch: Epoch, count: u64) -> SeqNo {
        let mut epochs = self.epochs.borrow_mut();
        let open = epochs.iter_mut().find(|open| open.epoch == epoch).expect("writes come only in open epochs");
        let first = open.next;
        open.next += count;
        assert!(open.next <= open.end.unwrap_or(SeqNo::MAX.0), "more than 2^24 stragglers in one epoch");
        SeqNo(first)
    }

    /// The view of everything written so far, now and for ever.
    pub(crate) fn view(&self) -> ReadView {
        let epochs = self.epochs.borrow();
        let current = epochs.last().expect("there is always an open epoch");
        let hole = match &epochs[..] {
            [_, _] if mutant!(SnapshotSeesStragglers) => None,
            [old, _] => Some((SeqNo(old.next - 1), SeqNo(old.end.expect("an old epoch has an end")))),
            _ => None,
        };
        ReadView { upper: SeqNo(current.next - 1), hole }
    }

    /// The next sequence number of the newest epoch.
    pub(crate) fn next_seq(&self) -> SeqNo {
        SeqNo(self.epochs.borrow().last().expect("there is always an open epoch").next)
    }
}
