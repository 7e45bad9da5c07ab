//! The simulated disks as an executor's driver: a queue of completions in virtual time.

use std::collections::BTreeMap;

use super::SimDisk;
use super::operation::{SimOp, Submitted, Ticket};
use crate::SimClock;
use crate::device::Target;
use crate::executor::{Order, Transfer};

/// An executor's attachment to a disk, in one of its lives.
pub(crate) struct SimAttachment {
    disk: SimDisk,
    life: u64,
}

impl SimDisk {
    pub(crate) fn attach(&self) -> SimAttachment {
        SimAttachment { disk: self.clone(), life: self.life() }
    }
}

/// See the module.
pub(crate) struct SimDriver {
    clock: SimClock,
    /// By time of completion, then in the order of the schedule.
    queue: BTreeMap<(u64, u64), (u64, SimTicket)>,
    submitted: u64,
    order: Order,
}

/// An operation in flight on one of the disks.
pub(crate) struct SimTicket {
    disk: SimDisk,
    ticket: Ticket,
}

impl SimDriver {
    pub(crate) fn new(clock: SimClock, schedule_seed: Option<u64>) -> SimDriver {
        SimDriver { clock, queue: BTreeMap::new(), submitted: 0, order: Order::new(schedule_seed) }
    }

    pub(crate) fn push(&mut self, key: u64, transfer: Transfer<'_>) {
        let Target::Simulated(SimAttachment { disk, life }) = transfer.device.target() else {
            unreachable!("attached only to simulated disks")
        };
        let is_write = transfer.kind == crate::OpKind::Write;
        let data = transfer.buffer.filter(|_| is_write).map(|(buffer, start)| {
            let bytes: &[u8] = buffer;
            &bytes[start..start + transfer.len as usize]
        });
        let op = SimOp {
            kind: transfer.kind,
            offset: transfer.offset,
            len: transfer.len,
            data,
            durable: transfer.durable,
            placement: transfer.placement,
        };
        match disk.submit(*life, op) {
            Submitted::Lost => (),
            Submitted::InFlight { ticket, latency_us } => {
                self.submitted += 1;
                let due = (self.clock.now_us() + latency_us, self.order.rank(self.submitted));
                self.queue.insert(due, (key, SimTicket { disk: disk.clone(), ticket }));
            }
        }
    }

    /// When the next operation completes.
    pub(crate) fn next_us(&self) -> Option<u64> {
        self.queue.first_key_value().map(|(due, _)| due.0)
    }

    /// Takes an operation whose time has come.
    pub(crate) fn pop_due(&mut self) -> Option<(u64, SimTicket)> {
        let first = self.queue.first_entry()?;
        (first.key().0 <= self.clock.now_us()).then(|| first.remove())
    }

    /// Lets it take effect; `None` where its disk has crashed.
    pub(crate) fn complete(&self, ticket: SimTicket, buffer: Option<&mut [u8]>) -> Option<i32> {
        ticket.disk.complete(ticket.ticket, buffer, self.clock.now_us())
    }
}
