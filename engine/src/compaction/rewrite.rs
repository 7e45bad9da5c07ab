//! The merge of sorted sources into new SSTs.

use std::cell::Cell;
use std::sync::Arc;

use siltstone_io::{Class, Handle, Placement};

use crate::error::{Error, Result};
use crate::manifest::SstMeta;
use crate::read::MergeCursor;
use crate::shard::expiry_ms;
use crate::table::{TableBuilder, TableId, TableOptions};
use crate::types::{Kind, ReadView, SeqNo, Trailer};
use crate::version::{LEVELS, Version};
use crate::volume::{SstFile, SstWriter, Volume};

/// Entries between two questions whether others wait, or whether to stop. Memtables in tests are small, and are to be interrupted too.
const ENTRIES_A_SLICE: u32 = if cfg!(feature = "testing") { 4 } else { 32 };

/// What a rewrite needs to know of its surroundings.
pub(crate) struct RewriteContext<'c> {
    pub(crate) handle: &'c Handle,
    pub(crate) volume: &'c Volume,
    pub(crate) class: Class,
    pub(crate) placement: Placement,
    pub(crate) filter_bits_per_key: u32,
    /// Size at which an output is finished, in bytes.
    pub(crate) table_bytes: u64,
    /// The views whose entries must stay. They are taken when the rewrite begins; later views see only what these see or the latest.
    pub(crate) views: Vec<ReadView>,
    /// The version below whose `output_level` nothing may be resurrected.
    pub(crate) version: &'c Version,
    pub(crate) output_level: usize,
    /// Values that expire at or before this time are gone.
    pub(crate) now_ms: u64,
    /// Ends the rewrite with `Closed` when it becomes true.
    pub(crate) cancelled: &'c Cell<bool>,
}

/// A finished SST.
pub(crate) struct Output {
    pub(crate) meta: Arc<SstMeta>,
    pub(crate) file: Arc<SstFile>,
}

/// Writes what must stay of the merged entries into SSTs. The caller flushes the device before it commits them.
pub(crate) async fn rewrite(context: RewriteContext<'_>, merge: &mut MergeCursor) -> Result<Vec<Output>> {
    let mut outputs = Vec::new();
    let mut open: Option<OpenOutput> = None;
    let mut retention = Retention::new(&context);
    let mut entries = 0u32;
    while merge.valid() {
        if let Some(trailer) = retention.decide(merge.key(), merge.trailer(), merge.value())? {
            // All versions of a key stay in one table, so that tables of one level do not overlap.
            if retention.is_first_of_key()
                && open.as_ref().is_some_and(|open| open.builder.estimated_bytes() >= context.table_bytes)
            {
                let full = open.take().expect("checked just now");
                outputs.push(full.finish().await?);
                if mutant!(EntryAtTableBorderLost) {
                    merge.next().await?;
                    continue;
                }
            }
            let output = match &mut open {
                Some(output) => output,
                None => open.insert(OpenOutput::new(&context)?),
            };
            output.builder.add(merge.key(), trailer, merge.value(), &mut output.writer);
            if output.writer.needs_drain() {
                output.writer.drain_if_needed().await?;
            }
        }
        merge.next().await?;
        entries += 1;
        if entries.is_multiple_of(ENTRIES_A_SLICE) {
            if context.cancelled.get() {
                return Err(Error::Closed);
            }
            if context.handle.need_preempt() {
                context.handle.yield_now().await;
            }
        }
    }
    if let Some(output) = open {
        outputs.push(output.finish().await?);
    }
    Ok(outputs)
}

struct OpenOutput {
    builder: TableBuilder,
    writer: SstWriter,
}

impl OpenOutput {
    fn new(context: &RewriteContext<'_>) -> Result<Self> {
        let writer = SstWriter::new(context.volume.clone(), context.placement, context.class);
        let options = TableOptions {
            page_bytes: context.volume.parts().page_bytes() as usize,
            filter_bits_per_key: context.filter_bits_per_key,
            created_ms: context.handle.wall_ms(),
            ..TableOptions::default()
        };
        let builder = TableBuilder::new(TableId { volume: *context.volume.parts().id(), sst: writer.id() }, options);
        Ok(OpenOutput { builder, writer })
    }

    async fn finish(mut self) -> Result<Output> {
        let summary = self.builder.finish(&mut self.writer);
        let file = self.writer.finish().await?;
        let properties = summary.properties;
        let meta = SstMeta {
            id: file.id(),
            pages: summary.pages,
            extents: file.extents().to_vec(),
            footer_crc: summary.footer_crc,
            smallest: properties.smallest,
            largest: properties.largest,
            entries: properties.entries,
            tombstones: properties.tombstones,
            min_seq: properties.min_seq,
            max_seq: properties.max_seq,
            min_expiry: properties.min_expiry_ms,
            max_expiry: properties.max_expiry_ms,
            data_bytes: properties.raw_bytes,
        };
        Ok(Output { meta: Arc::new(meta), file })
    }
}

/// Decides entry by entry what stays.
struct Retention<'c> {
    context: &'c RewriteContext<'c>,
    key: Vec<u8>,
    /// For each live view, and the latest state as the last: whether it has found its entry of the current key.
    served: Vec<bool>,
    kept_of_key: u32,
    /// No deeper level has any table: nothing older than the output can hold a key.
    is_deepest: bool,
    /// The newest entry of the key that stays, or would have stayed, is a droppable tombstone: what is older is hidden by it.
    hidden: bool,
}

impl<'c> Retention<'c> {
    fn new(context: &'c RewriteContext<'c>) -> Self {
        let served = vec![false; context.views.len() + 1];
        let is_deepest = context.output_level > 0
            && (context.output_level + 1..LEVELS).all(|level| context.version.level(level).is_empty());
        Retention { context, key: Vec::new(), served, kept_of_key: 0, is_deepest, hidden: false }
    }

    /// The trailer under which the entry stays, or nothing where it goes.
    fn decide(&mut self, key: &[u8], trailer: Trailer, value: &[u8]) -> Result<Option<Trailer>> {
        if key != self.key {
            self.key.clear();
            self.key.extend_from_slice(key);
            self.served.fill(false);
            self.kept_of_key = 0;
            self.hidden = false;
        }
        if trailer.kind() == Kind::PutExpiring {
            expiry_ms(value)?;
        }
        if self.hidden || !self.serves_a_view(trailer.seq()) {
            return Ok(None);
        }
        let seen_by_all = self.context.views.iter().all(|view| view.sees(trailer.seq()));
        if !seen_by_all {
            self.kept_of_key += 1;
            return Ok(Some(trailer));
        }
        let is_gone = match trailer.kind() {
            Kind::Delete => true,
            Kind::Put => false,
            Kind::PutExpiring => expiry_ms(value)? <= self.context.now_ms,
        };
        // Level 0 keeps its sequence numbers: its tables are ordered by them.
        let may_forget_seq = self.kept_of_key == 0 && self.context.output_level > 0;
        let is_bottom = (is_gone || may_forget_seq)
            && (self.is_deepest
                || !self.context.version.older_may_hold(self.context.output_level, key)
                || (is_gone && mutant!(TombstoneDroppedAboveBottom)));
        if is_gone && is_bottom {
            self.hidden = true;
            return Ok(None);
        }
        self.kept_of_key += 1;
        if may_forget_seq && (is_bottom || mutant!(SeqForgottenAboveBottom)) {
            return Ok(Some(Trailer::new(SeqNo(0), trailer.kind())));
        }
        Ok(Some(trailer))
    }

    /// Whether some view finds its entry of the key in this one.
    fn serves_a_view(&mut self, seq: SeqNo) -> bool {
        let mut serves = false;
        let views = self.context.views.iter().chain([&ReadView::LATEST]);
        for (view, served) in views.zip(&mut self.served) {
            if !*served && view.sees(seq) {
                *served = true;
                serves = true;
            }
        }
        serves
    }

    fn is_first_of_key(&self) -> bool {
        self.kept_of_key == 1
    }
}
