//! Flush: the oldest memtable becomes one SST of level 0 for each keyspace in it.
//!
//! # Steps, and what a crash after each leaves
//!
//! 1. Write the SSTs. Crash: unreferenced extents, free at the next open; the log still has the entries.
//! 2. Flush the device. Same.
//! 3. Commit one manifest edit: the SSTs, the log's new floor, and, where this memtable was the last before a barrier, the
//!    shard's part of the checkpoint. Crash before it is durable: same; after: the new state.
//! 4. Install the version, drop the memtable, give the log's extents back.

use std::rc::Rc;

use siltstone_io::{Class, Placement};

use crate::compaction::{Output, RewriteContext, rewrite};
use crate::error::{Error, Result};
use crate::manifest::ManifestEdit;
use crate::read::{MergeCursor, Source};
use crate::shard::{KeyspaceState, MemtableSlot, Shard};
use crate::types::{Epoch, SeqNo, Trailer};
use crate::version::VersionChange;

impl Shard {
    /// The flush task.
    pub(crate) async fn run_flush(self: Rc<Self>) {
        loop {
            if self.is_poisoned() || self.closing.get() {
                break;
            }
            if !self.has_flush_work() {
                self.flush_work().await;
                continue;
            }
            if let Err(error) = self.flush_oldest().await {
                match &error {
                    // Given up, not failed: what the log still has to write must not suffer.
                    Error::Closed if self.closing.get() && !mutant!(FlushGivenUpPoisons) => {
                        mark!(FlushGivenUp);
                        break;
                    }
                    Error::NoSpace(_) => mark!(NoSpaceInFlush),
                    _ => mark!(PoisonedByFlush),
                }
                if matches!(error, Error::NoSpace(_)) && mutant!(FlushWithoutSpaceDropsMemtable) {
                    self.memtables.pop();
                }
                self.background_failure(&error, &self.out_of_space);
                self.events.admission.notify_all();
                if self.closing.get() {
                    break;
                }
                if !self.is_poisoned() {
                    self.handle.sleep_us(RETRY_US).await;
                }
            } else if self.out_of_space.get() && !mutant!(OutOfSpaceForEver) {
                self.out_of_space.set(false);
                mark!(FlushedAfterNoSpace);
            }
        }
        self.events.stopped.notify_all();
    }

    /// Waits until there may be work: a memtable has frozen, or an epoch that is over has drained.
    async fn flush_work(&self) {
        let mut event = std::pin::pin!(self.events.flush.wait());
        std::future::poll_fn(|context| {
            self.gate.register(usize::from(self.id.0), context.waker());
            match self.has_flush_work() {
                true => std::task::Poll::Ready(()),
                false => event.as_mut().poll(context),
            }
        })
        .await;
    }

    fn has_flush_work(&self) -> bool {
        let Some(next) = self.memtables.second() else { return false };
        self.may_flush(&self.memtables.oldest(), next.epoch)
    }

    /// Whether all writes of the memtable have come, given the epoch of the memtable behind it.
    fn may_flush(&self, slot: &MemtableSlot, next_epoch: Epoch) -> bool {
        next_epoch == slot.epoch
            || (self.barrier.get() >= slot.epoch && (self.is_drained(slot.epoch) || mutant!(StragglersForgotten)))
    }

    async fn flush_oldest(self: &Rc<Self>) -> Result<()> {
        let slot = self.memtables.oldest();
        let mut outputs: Vec<(Rc<KeyspaceState>, Output)> = Vec::new();
        for id in slot.memtable.keyspaces() {
            // The keyspace may have been dropped meanwhile.
            let Ok(state) = self.keyspace(id) else { continue };
            if !outputs.is_empty() && mutant!(FlushForgetsAKeyspace) {
                break;
            }
            let mut merge = MergeCursor::new(vec![Source::Memtable(slot.memtable.cursor(id))]);
            merge.seek(&[], Trailer::NEWEST).await?;
            let version = state.version();
            let context = RewriteContext {
                handle: &self.handle,
                volume: &self.volume,
                class: Class::Flush,
                placement: Placement::Level0,
                filter_bits_per_key: state.keyspace.options().filter_bits_per_key,
                table_bytes: u64::MAX,
                views: self.views.live(),
                version: &version,
                output_level: 0,
                now_ms: self.expired_until_ms(&state.keyspace),
                cancelled: &self.closing,
            };
            for output in rewrite(context, &mut merge).await? {
                outputs.push((Rc::clone(&state), output));
            }
        }
        if !outputs.is_empty() && !mutant!(FlushOutputNotFlushed) {
            self.volume.flush().await?;
        }
        self.commit_flush(&slot, outputs).await
    }

    async fn commit_flush(
        self: &Rc<Self>,
        slot: &MemtableSlot,
        outputs: Vec<(Rc<KeyspaceState>, Output)>,
    ) -> Result<()> {
        let checkpoint = slot.checkpoint.get();
        let next = match self.memtables.second().expect("only a memtable that has frozen is flushed") {
            _ if self.memtables.len() > 2 && mutant!(FloorOfNewestMemtable) => self.memtables.active(),
            next => next,
        };
        // Also where the entries have cancelled each other out: the floor must pass those of them that are in the log, or a crash
        // would bring a key back whose deletion is not in the log yet.
        if !outputs.is_empty() || checkpoint.is_some() || !slot.memtable.is_empty() {
            let mut edits = vec![
                ManifestEdit::LastSeq { seq: SeqNo(self.memtables.next_seq().0 - 1) },
                ManifestEdit::Epoch { epoch: self.memtables.epoch() },
                ManifestEdit::WalFloor { chains: next.wal.clone() },
            ];
            edits.extend(outputs.iter().map(|(state, output)| ManifestEdit::SstAdd {
                keyspace: state.keyspace.id(),
                level: 0,
                groups: self.groups.clone(),
                meta: output.meta.clone(),
            }));
            edits.extend(checkpoint.map(|id| ManifestEdit::CheckpointPart { id, epoch: slot.epoch }));
            let files = outputs.iter().map(|(_, output)| output.file.clone()).collect();
            let dropped_early = mutant!(MemtableDroppedBeforeEdit);
            if dropped_early {
                self.memtables.pop();
            }
            if mutant!(RecycledBeforeEdit)
                && let Some(chain) = next.wal.iter().find(|chain| chain.end.is_none())
            {
                self.volume.free_extents(self.wal.trim(chain.head)).await;
            }
            let manifest = self.manifest.lock().await;
            self.commit_locked(&manifest, edits, files).await?;
            for (state, output) in outputs {
                let table = self.table_of(output);
                self.counters.bytes_flushed.set(self.counters.bytes_flushed.get() + table.bytes());
                let change = VersionChange { removed: Vec::new(), added: vec![(0, table)] };
                state.install(state.version().with(&change)?);
            }
            self.checkpoints.borrow_mut().extend(checkpoint);
            if !dropped_early {
                self.memtables.pop();
            }
            drop(manifest);
            self.give_back_logs(&next).await;
        } else {
            // Empty: nothing durable changes, and the log before it is held until the next flush.
            self.memtables.pop();
        }
        self.update_level_0_count();
        if !mutant!(AdmissionNotWoken) {
            self.events.admission.notify_all();
        }
        self.events.compaction.notify_all();
        self.events.checkpoint.notify_all();
        // To give back what a large compaction has left takes the device a while: writers and the next flush do not wait for it.
        let volume = self.volume.clone();
        self.spawn_task(Class::Compaction, async move {
            volume.reclaim().await;
        });
        Ok(())
    }

    /// Frees what lies before the log's new floor, after the edit that moved it is durable.
    async fn give_back_logs(&self, oldest: &MemtableSlot) {
        if oldest.wal.iter().all(|chain| chain.end.is_none()) {
            // The logs of earlier openings have been written out.
            self.replayed.take().iter().for_each(|log| log.release());
        }
        if let Some(chain) = oldest.wal.iter().find(|chain| chain.end.is_none()) {
            let extents = self.wal.trim(chain.head);
            if extents.is_empty() || mutant!(LogExtentsLeaked) {
                return;
            }
            self.volume.recycle_extents(extents).await;
        }
    }

    pub(crate) fn update_level_0_count(&self) {
        let most = self.all_keyspaces().iter().map(|state| state.version().level(0).len()).max();
        self.counters.level_0_tables_max.set(most.unwrap_or_default());
    }

    /// Writes all memtables out and waits for it.
    pub(crate) async fn flush(&self) -> Result<()> {
        self.open_current_epoch();
        self.check_writable()?;
        let active = self.memtables.active();
        if !active.memtable.is_empty() {
            self.rotate(active.epoch);
        }
        let last = self.memtables.active();
        while self.memtables.all().iter().skip(1).any(|slot| Rc::ptr_eq(slot, &last)) {
            self.check_writable()?;
            if self.closing.get() {
                return Err(Error::Closed);
            }
            if self.out_of_space.get() {
                return Err(Error::NoSpace("memtables cannot be written out".into()));
            }
            self.events.admission.wait().await;
        }
        Ok(())
    }
}

/// How long to wait before a flush is tried again that found no space.
const RETRY_US: u64 = 100_000;
