//! Writes: admission, sequence numbers, memtable, log.

use std::rc::Rc;

use crate::engine::{Durability, KEY_BYTES_MAX, TimeDomain, VALUE_BYTES_MAX};
use crate::error::{Error, Result};
use crate::memtable::Memtable;
use crate::shard::{LEVEL_0_TABLES_MAX, MEMTABLES_MAX, MemtableSlot, Shard, Write};
use crate::types::{Epoch, Kind, Trailer};
use crate::wal::BatchEncoder;

/// A writer that runs on without waiting lets background work have a slice each time it has filled this share of the room that is left.
const ROOM_SHARES: u64 = 64;

/// Fixed bytes that an entry costs beside its key and value, about.
const ENTRY_OVERHEAD_BYTES: usize = 32;

impl Shard {
    /// Writes a batch in an epoch (the current one where none is given) and waits until it is as durable as the engine promises.
    ///
    /// `time_ms` is the operation's event time. Costs no I/O of its own: the log write is shared by all writes of the turn.
    pub(crate) async fn write<'w>(
        &self,
        epoch: Option<Epoch>,
        time_ms: Option<u64>,
        writes: impl ExactSizeIterator<Item = Write<'w>> + Clone,
    ) -> Result<()> {
        let bytes = self.check_writes(writes.clone())?;
        if let Err(error) = self.admit(epoch, bytes).await {
            if matches!(error, Error::NoSpace(_)) {
                mark!(WriteRefusedWithoutSpace);
                if writes.len() > 1 && mutant!(NoSpaceHalfApplied) {
                    self.apply(epoch, time_ms, writes.take(1));
                }
            }
            return Err(error);
        }
        let record = self.apply(epoch, time_ms, writes);
        match self.config.durability {
            Durability::Sync => self.wal.durable(self, record).await,
            Durability::Interval(_) | Durability::Checkpoint => Ok(()),
        }
    }

    fn check_writes<'w>(&self, writes: impl Iterator<Item = Write<'w>>) -> Result<usize> {
        let mut bytes = 0;
        for write in writes {
            if write.key.is_empty() || write.key.len() > KEY_BYTES_MAX {
                let length = write.key.len();
                return Err(Error::InvalidArgument(format!(
                    "a key of {length} bytes: 1 to {KEY_BYTES_MAX} are allowed"
                )));
            }
            let value_bytes = write.value.map_or(0, <[u8]>::len);
            if value_bytes > VALUE_BYTES_MAX {
                return Err(Error::InvalidArgument(format!(
                    "a value of {value_bytes} bytes: at most {VALUE_BYTES_MAX} are allowed"
                )));
            }
            self.own_group(write.keyspace, write.key)?;
            bytes += write.key.len() + value_bytes + ENTRY_OVERHEAD_BYTES;
        }
        if bytes > self.config.memory_bytes / 4 {
            return Err(Error::InvalidArgument(format!(
                "a batch of {bytes} bytes: at most a quarter of the shard's memory ({}) is allowed",
                self.config.memory_bytes / 4
            )));
        }
        Ok(bytes)
    }

    /// Waits until there is room for a write of this size.
    ///
    /// A straggler is let in at once: the memtable of its epoch, and those behind it, can be written out only when it has ended, so that it
    /// would wait for itself.
    #[inline]
    async fn admit(&self, epoch: Option<Epoch>, bytes: usize) -> Result<()> {
        if self.pace_bytes.get() < bytes {
            self.pace(bytes).await;
        }
        self.pace_bytes.set(self.pace_bytes.get().saturating_sub(bytes));
        self.check_writable()?;
        self.wal.reserve(bytes).await?;
        while !self.may_write(bytes)? && !self.is_straggler(epoch) {
            mark!(WriteWaited);
            self.counters.admission_waits.set(self.counters.admission_waits.get() + 1);
            self.events.admission.wait().await;
            self.check_writable()?;
        }
        self.check_writable()?;
        // The log may have been written for the last time: what is let in now would be acknowledged and lost.
        if self.is_closing() {
            return Err(Error::Closed);
        }
        Ok(())
    }

    fn is_straggler(&self, epoch: Option<Epoch>) -> bool {
        self.open_current_epoch();
        epoch.is_some_and(|epoch| epoch < self.memtables.epoch())
    }

    /// Slows writers smoothly, and early: the less room is left for writes until flush and compaction have made more, the fewer bytes
    /// are admitted between two turns of the executor, in each of which background work gets its slice. Without this an operator
    /// that never waits would fill all memtables at full speed and then stand still for as long as a flush takes.
    #[cold]
    async fn pace(&self, bytes: usize) {
        if self.memtables.len() > 1 || self.counters.level_0_tables_max.get() >= LEVEL_0_TABLES_MAX / 4 {
            self.handle.yield_now().await;
        }
        let capacity = MEMTABLES_MAX * self.config.memtable_bytes;
        let memory_room = capacity.saturating_sub(self.memtables.memory_bytes());
        let tables_room = LEVEL_0_TABLES_MAX.saturating_sub(self.counters.level_0_tables_max.get());
        let room = memory_room.min(capacity / LEVEL_0_TABLES_MAX * tables_room);
        // By the square of what is left: hardly anything while there is much, almost to a standstill at the end.
        let share = room as u64 * room as u64 / (capacity as u64 * ROOM_SHARES);
        self.pace_bytes.set((share as usize).max(bytes));
    }

    #[inline]
    fn may_write(&self, bytes: usize) -> Result<bool> {
        if self.memtables.len() < MEMTABLES_MAX
            && self.memtables.active().memtable.memory_bytes() < self.config.memtable_bytes
        {
            return self.level_0_has_room();
        }
        self.may_write_when_full(bytes)
    }

    fn may_write_when_full(&self, bytes: usize) -> Result<bool> {
        let memory = self.memtables.memory_bytes() + bytes;
        if self.memtables.len() >= MEMTABLES_MAX && memory > MEMTABLES_MAX * self.config.memtable_bytes {
            if self.out_of_space.get() {
                // The flush task cannot go on: say so instead of waiting for space that nobody may free.
                self.events.flush.notify_all();
                return Err(Error::NoSpace(format!(
                    "shard {} cannot write its full memtables out; free space on {}",
                    self.id,
                    self.volume.device().path().display()
                )));
            }
            return Ok(false);
        }
        self.level_0_has_room()
    }

    #[inline]
    fn level_0_has_room(&self) -> Result<bool> {
        let full = self.counters.level_0_tables_max.get() >= LEVEL_0_TABLES_MAX;
        if full && self.compaction_out_of_space.get() {
            let path = self.volume.device().path().display();
            return Err(Error::NoSpace(format!("shard {} cannot compact level 0; free space on {path}", self.id)));
        }
        Ok(!full)
    }

    /// Puts a batch into the memtable and the log's buffer; nothing here waits. Returns the log record to wait for.
    fn apply<'w>(
        &self,
        epoch: Option<Epoch>,
        time_ms: Option<u64>,
        writes: impl ExactSizeIterator<Item = Write<'w>>,
    ) -> u64 {
        self.open_current_epoch();
        let slot = match epoch {
            Some(epoch) if mutant!(CutIncludesNextEpoch) && self.oldest_epoch() < epoch => self.memtables.oldest(),
            Some(epoch) => self.memtables.of_epoch(epoch),
            None => self.memtables.active(),
        };
        mark!(StragglerWritten if slot.epoch < self.memtables.epoch());
        let base = self.memtables.take_seqs(slot.epoch, writes.len() as u64);
        let keep_above = self.views.newest();
        let logs = self.config.durability != Durability::Checkpoint;
        let mut pending = self.wal.pending();
        let mut encoder = logs.then(|| BatchEncoder::begin(&mut pending, base));
        for (index, write) in writes.enumerate() {
            let key = write.keyspace.stored_key(write.key);
            let expires_at = self.expiry_ms(&write, time_ms).map(u64::to_le_bytes);
            let (kind, head) = match (write.value, &expires_at) {
                (None, _) => (Kind::Delete, &[][..]),
                (Some(_), None) => (Kind::Put, &[][..]),
                (Some(_), Some(bytes)) => (Kind::PutExpiring, &bytes[..]),
            };
            let value = [head, write.value.unwrap_or_default()];
            let seq = crate::types::SeqNo(base.0 + index as u64);
            slot.memtable.insert(write.keyspace.id(), &key, Trailer::new(seq, kind), value, keep_above);
            if let Some(encoder) = &mut encoder
                && !(index > 0 && mutant!(BatchHalfLogged))
            {
                encoder.push(kind, write.keyspace.id(), &key, value);
            }
            self.counters.writes.set(self.counters.writes.get() + 1);
        }
        if let Some(encoder) = encoder {
            encoder.end();
        }
        let full = slot.memtable.memory_bytes() >= self.config.memtable_bytes;
        let record = if logs { self.wal.appended(pending) } else { 0 };
        if full && Rc::ptr_eq(&slot, &self.memtables.active()) {
            self.rotate(slot.epoch);
        }
        record
    }

    fn expiry_ms(&self, write: &Write<'_>, time_ms: Option<u64>) -> Option<u64> {
        if write.expires_at_ms.is_some() {
            return write.expires_at_ms;
        }
        let ttl = write.keyspace.options().ttl?;
        let now = match ttl.time {
            TimeDomain::Processing => self.wall_ms(),
            TimeDomain::Event => time_ms.or(self.watermark_ms()).unwrap_or_default(),
        };
        Some(now.saturating_add(ttl.duration_ms))
    }

    /// Starts a new active memtable in an epoch; the one before freezes (up to stragglers, where the epoch is a new one).
    pub(crate) fn rotate(&self, epoch: Epoch) {
        self.memtables.push(Rc::new(MemtableSlot {
            memtable: Rc::new(Memtable::new()),
            epoch,
            wal: self.wal.chain_from_here(&self.groups, self.memtables.first_seq_of_next(epoch)),
            checkpoint: std::cell::Cell::new(None),
        }));
        self.events.flush.notify_all();
    }

    /// Takes notice of a barrier that another thread has opened.
    #[inline]
    pub(crate) fn open_current_epoch(&self) {
        let current = self.gate.current();
        // A shard that cannot write any more flushes nothing, and so ends no epoch. It takes no writes, so it needs no memtable for them.
        if current > self.memtables.epoch() && !self.is_poisoned() && !self.is_closing() {
            self.barrier_watermark_ms.set(self.watermark_ms());
            self.rotate(current);
            // Who waits may have become a straggler.
            self.events.admission.notify_all();
        }
    }
}
