//! The compaction task of a shard.
//!
//! One job at a time. Its outputs are committed by one manifest edit together with the removal of its inputs; the inputs' extents come
//! back when the last version, iterator, checkpoint and shard that holds them lets go.

use std::pin::pin;
use std::rc::Rc;

use siltstone_io::{Class, Placement};

use crate::compaction::{CompactionJob, Leveled, Output, RewriteContext, Strategy, rewrite};
use crate::error::{Error, Result};
use crate::manifest::ManifestEdit;
use crate::read::{Access, MergeCursor, RunCursor, Source};
use crate::shard::{KeyspaceState, Shard};
use crate::types::Trailer;
use crate::version::{Table, VersionChange};

impl Shard {
    /// The compaction task.
    pub(crate) async fn run_compaction(self: Rc<Self>) {
        while !self.closing.get() && !self.is_poisoned() {
            let Some((state, job)) = self.pick_compaction() else {
                self.events.compaction.wait().await;
                continue;
            };
            let result = self.compact(&state, &job).await;
            // The inputs go with the job; what nobody else holds of them is free now.
            drop(job);
            self.volume.reclaim().await;
            if let Err(error) = result {
                if self.closing.get() {
                    mark!(CompactionGivenUp);
                    break;
                }
                match &error {
                    Error::NoSpace(_) => mark!(NoSpaceInCompaction),
                    _ => mark!(PoisonedByCompaction),
                }
                self.background_failure(&error, &self.compaction_out_of_space);
                self.events.admission.notify_all();
                if !self.is_poisoned() {
                    // Out of space: others may have freed some, or this volume a log.
                    let changed = pin!(self.events.compaction.wait());
                    let retry = pin!(self.handle.sleep_us(RETRY_US));
                    futures_util::future::select(changed, retry).await;
                }
            } else if self.compaction_out_of_space.replace(false) {
                mark!(CompactedAfterNoSpace);
            }
        }
        self.events.stopped.notify_all();
    }

    /// The most urgent work of all keyspaces.
    fn pick_compaction(&self) -> Option<(Rc<KeyspaceState>, CompactionJob)> {
        let strategy = Leveled { base_bytes: 4 * self.config.memtable_bytes as u64 };
        self.all_keyspaces()
            .into_iter()
            .filter_map(|state| strategy.pick(&state.version()).map(|job| (state, job)))
            .max_by(|left, right| left.1.score.total_cmp(&right.1.score))
    }

    async fn compact(self: &Rc<Self>, state: &Rc<KeyspaceState>, job: &CompactionJob) -> Result<()> {
        job.inputs.iter().for_each(|(_, table)| table.set_busy(true));
        let result = self.compact_busy(state, job).await;
        job.inputs.iter().for_each(|(_, table)| table.set_busy(false));
        result
    }

    async fn compact_busy(self: &Rc<Self>, state: &Rc<KeyspaceState>, job: &CompactionJob) -> Result<()> {
        let keyspace = state.keyspace.id();
        if job.is_trivial_move() {
            let (level, table) = &job.inputs[0];
            let moved = Table::new(
                table.meta().clone(),
                table.file().clone(),
                table.groups().clone(),
                self.blocks.page_bytes(),
            );
            if let Some(directory) = table.directory() {
                moved.set_directory(directory);
            }
            let change =
                VersionChange { removed: vec![(*level, Rc::clone(table))], added: vec![(job.output_level, moved)] };
            return self.commit_version(state, change).await;
        }
        let version = state.version();
        let mut merge = MergeCursor::new(self.compaction_sources(job));
        merge.seek(&[], Trailer::NEWEST).await?;
        let context = RewriteContext {
            handle: &self.handle,
            volume: &self.volume,
            class: Class::Compaction,
            placement: Placement::Deep,
            filter_bits_per_key: state.keyspace.options().filter_bits_per_key,
            table_bytes: self.config.table_bytes as u64,
            views: if mutant!(CompactionIgnoresSnapshots) { Vec::new() } else { self.views.live() },
            version: &version,
            output_level: job.output_level,
            now_ms: self.expired_until_ms(&state.keyspace),
            cancelled: &self.closing,
        };
        let outputs = rewrite(context, &mut merge).await?;
        if !mutant!(CompactionOutputNotFlushed) {
            self.volume.flush().await?;
        }
        let read: u64 = job.inputs.iter().map(|(_, table)| table.bytes()).sum();
        let added: Vec<(usize, Rc<Table>)> =
            outputs.into_iter().map(|output| (job.output_level, self.table_of(output))).collect();
        let written: u64 = added.iter().map(|(_, table)| table.bytes()).sum();
        self.commit_version(state, VersionChange { removed: job.inputs.clone(), added }).await?;
        for (_, table) in &job.inputs {
            self.blocks.cache().remove_sst(table.meta().id);
        }
        self.counters.bytes_compacted.set(self.counters.bytes_compacted.get() + written);
        tracing::debug!(shard = self.id.0, keyspace = keyspace.0, level = job.output_level, read, written, "compacted");
        Ok(())
    }

    fn compaction_sources(&self, job: &CompactionJob) -> Vec<Source> {
        let access = Access::Streaming(Class::Compaction);
        let mut sources = Vec::new();
        let mut runs: std::collections::BTreeMap<usize, Vec<Rc<Table>>> = std::collections::BTreeMap::new();
        for (level, table) in &job.inputs {
            match level {
                0 => sources.push(Source::Run(RunCursor::new(Rc::clone(&self.blocks), vec![Rc::clone(table)], access))),
                _ => runs.entry(*level).or_default().push(Rc::clone(table)),
            }
        }
        let runs = runs.into_values().map(|run| Source::Run(RunCursor::new(Rc::clone(&self.blocks), run, access)));
        sources.extend(runs);
        sources
    }

    pub(crate) fn table_of(&self, output: Output) -> Rc<Table> {
        Table::new(output.meta, output.file, self.groups.clone(), self.blocks.page_bytes())
    }

    /// Commits and installs a change of one keyspace's version.
    pub(crate) async fn commit_version(&self, state: &KeyspaceState, change: VersionChange) -> Result<()> {
        let keyspace = state.keyspace.id();
        let manifest = self.manifest.lock().await;
        let next = state.version().with(&change)?;
        let removed = change.removed.iter().map(|(level, table)| ManifestEdit::SstRemove {
            keyspace,
            level: *level as u8,
            sst: table.meta().id,
            first_group: table.groups().start,
        });
        let added = change.added.iter().map(|(level, table)| ManifestEdit::SstAdd {
            keyspace,
            level: *level as u8,
            groups: table.groups().clone(),
            meta: table.meta().clone(),
        });
        let edits: Vec<ManifestEdit> = removed.chain(added).collect();
        let files = change.added.iter().map(|(_, table)| table.file().clone()).collect();
        self.commit_locked(&manifest, edits, files).await?;
        state.install(next);
        drop(manifest);
        self.update_level_0_count();
        self.events.admission.notify_all();
        self.volume.reclaim().await;
        Ok(())
    }

    /// Compacts until nothing is due, for tests and tools.
    pub(crate) async fn compact_all(&self) -> Result<()> {
        while self.pick_compaction().is_some()
            || self.all_keyspaces().iter().any(|state| state.version().tables().any(|(_, table)| table.is_busy()))
        {
            self.check_writable()?;
            if self.compaction_out_of_space.get() {
                return Err(Error::NoSpace(format!("shard {} cannot write what compaction makes", self.id)));
            }
            self.events.admission.wait().await;
        }
        Ok(())
    }
}

/// How long to wait before a compaction is tried again that found no space.
const RETRY_US: u64 = 500_000;
