//! Reading and checking all of a volume.
//!
//! # What is checked
//!
//! 1. The copies of the superblock, and each shard's root pages.
//! 2. Each manifest: its log, its records, and that they make a state.
//! 3. Each log: whole up to its end, its records decode.
//! 4. Each SST, once however many shards and checkpoints hold it: footer, directory, every index and filter partition and data block against the
//!    checksum in its parent and its own, entries in order and inside the bounds that the manifest states, counts, and that every key is
//!    in its filter.
//! 5. Levels above 0 do not overlap; no extent has two owners.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use siltstone_io::Buffer;

use crate::error::{Error, Result};
use crate::inspect::View;
use crate::log::{LogReader, read_chain};
use crate::manifest::{FoundManifest, SstMeta, damaged_roots};
use crate::table::{
    BlockHandle, BlockType, Directory, IndexCursor, TableId, check_entries, decode_footer, filter_may_contain,
    key_hash, verify_block,
};
use crate::types::{ExtentId, Kind, ShardId, SstId, Trailer};
use crate::version::Version;
use crate::volume::{SstFile, SstRegistry, damaged_copies};
use crate::wal::decode_commit;

/// What a verification has found.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct VerifyReport {
    /// What is wrong, in the order in which it was found.
    pub problems: Vec<Problem>,
    /// SSTs read.
    pub tables: u64,
    /// Blocks of SSTs read.
    pub blocks: u64,
    /// Entries in them.
    pub entries: u64,
    /// Commits in logs.
    pub log_commits: u64,
    /// Bytes of SSTs read.
    pub bytes: u64,
}

impl VerifyReport {
    /// Whether nothing is wrong.
    pub fn is_clean(&self) -> bool {
        self.problems.is_empty()
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Problem {
    /// The shard, where it is one's.
    pub shard: Option<u16>,
    /// The device offset in bytes, where known.
    pub offset: Option<u64>,
    /// What is wrong.
    pub text: String,
}

struct Verification<'v> {
    view: &'v View,
    report: VerifyReport,
    owners: BTreeMap<ExtentId, String>,
    total_bytes: u64,
    progress: &'v mut dyn FnMut(u64, u64),
}

pub(super) async fn run(view: &View, progress: &mut dyn FnMut(u64, u64)) -> Result<VerifyReport> {
    let mut verification =
        Verification { view, report: VerifyReport::default(), owners: BTreeMap::new(), total_bytes: 0, progress };
    verification.superblock().await?;
    let manifests = verification.manifests().await?;
    verification.logs(&manifests).await?;
    verification.levels(&manifests);
    verification.tables(&manifests).await?;
    Ok(verification.report)
}

impl Verification<'_> {
    fn problem(&mut self, shard: Option<u16>, offset: Option<u64>, text: impl Into<String>) {
        self.report.problems.push(Problem { shard, offset, text: text.into() });
    }

    /// Lists damage and goes on; other errors end the verification.
    fn note(&mut self, shard: u16, error: Error) -> Result<()> {
        match &error {
            Error::Corruption(corruption) => {
                self.problem(
                    Some(shard),
                    corruption.offset,
                    format!("{}: {}", corruption.structure, corruption.reason),
                );
                Ok(())
            }
            Error::Io(io) => {
                self.problem(Some(shard), Some(io.offset), io.to_string());
                Ok(())
            }
            _ => Err(error),
        }
    }

    async fn superblock(&mut self) -> Result<()> {
        for (offset, reason) in damaged_copies(self.view.volume.device()).await? {
            self.problem(None, Some(offset), format!("superblock copy: {reason}"));
        }
        self.own(ExtentId(0), "the superblock");
        Ok(())
    }

    async fn manifests(&mut self) -> Result<Vec<FoundManifest>> {
        let mut manifests = Vec::new();
        for (shard, root) in self.view.superblock.roots.iter().enumerate() {
            let shard = shard as u16;
            match FoundManifest::read(&self.view.volume, ShardId(shard), *root).await {
                Ok(found) => {
                    for (offset, error) in damaged_roots(&self.view.volume, *root).await? {
                        self.note(shard, error.located(shard, offset))?;
                    }
                    let extents: Vec<ExtentId> = found.extents().collect();
                    extents.into_iter().for_each(|extent| self.own(extent, &format!("the manifest of shard {shard}")));
                    manifests.push(found);
                }
                Err(error) => self.note(shard, error)?,
            }
        }
        Ok(manifests)
    }

    async fn logs(&mut self, manifests: &[FoundManifest]) -> Result<()> {
        let mut seen = BTreeSet::new();
        for found in manifests {
            let shard = found.state.shard.0;
            for chain in &found.state.wal {
                if !seen.insert(chain.head) {
                    continue;
                }
                match read_chain(&self.view.volume, chain.head, chain.end).await {
                    Ok(extents) => {
                        let owner = format!("log {}", chain.head.log_id);
                        extents.into_iter().for_each(|extent| self.own(extent, &owner));
                    }
                    Err(error) => self.note(shard, error)?,
                }
                let mut reader = LogReader::open(self.view.volume.clone(), chain.head, chain.end);
                loop {
                    let checked = match reader.next().await {
                        Ok(None) => break,
                        Ok(Some((position, payload))) => {
                            self.report.log_commits += 1;
                            decode_commit(&payload, |_| ())
                                .map_err(|error| error.located(shard, self.view.volume.parts().offset(position.extent)))
                        }
                        Err(error) => Err(error),
                    };
                    if let Err(error) = checked {
                        self.note(shard, error)?;
                        break;
                    }
                }
            }
        }
        Ok(())
    }

    /// The rules between the tables of a version.
    fn levels(&mut self, manifests: &[FoundManifest]) {
        for found in manifests {
            let parts = found.state.parts.iter().map(|(id, part)| (format!("checkpoint {id}"), &part.keyspaces));
            let versions = std::iter::once(("the current state".to_owned(), &found.state.keyspaces)).chain(parts);
            let mut problems = Vec::new();
            for (what, keyspaces) in versions {
                for keyspace in keyspaces.values() {
                    let bounds =
                        keyspace.ssts.values().map(|place| (usize::from(place.level), &place.meta, &place.groups));
                    if let Err(error) = Version::check_bounds(bounds) {
                        problems.push(format!("{what}, keyspace {}: {error}", keyspace.name));
                    }
                }
            }
            let shard = found.state.shard.0;
            problems.into_iter().for_each(|text| self.problem(Some(shard), None, text));
        }
    }

    async fn tables(&mut self, manifests: &[FoundManifest]) -> Result<()> {
        let mut tables: BTreeMap<SstId, (u16, Arc<SstMeta>)> = BTreeMap::new();
        for found in manifests {
            for (id, meta) in found.state.ssts() {
                let (_, first) = tables.entry(id).or_insert_with(|| (found.state.shard.0, Arc::clone(&meta)));
                if *first != meta {
                    let text = format!("the manifests disagree on SST {id}");
                    self.problem(Some(found.state.shard.0), None, text);
                }
            }
        }
        let page_bytes = u64::from(self.view.volume.parts().page_bytes());
        self.total_bytes = tables.values().map(|(_, meta)| u64::from(meta.pages) * page_bytes).sum();
        let mut registry = SstRegistry::new(self.view.volume.parts().clone());
        for (id, (shard, meta)) in tables {
            meta.extents.iter().for_each(|&extent| self.own(extent, &format!("SST {id}")));
            self.report.tables += 1;
            let checked = match registry.open(id, meta.pages, &meta.extents) {
                Ok(file) => self.table(shard, &meta, &file).await,
                Err(error) => Err(error),
            };
            if let Err(error) = checked {
                self.note(shard, error)?;
            }
        }
        Ok(())
    }

    /// Checks one SST. Damage that keeps the rest from being found is returned; other damage is noted on the way.
    async fn table(&mut self, shard: u16, meta: &SstMeta, file: &SstFile) -> Result<()> {
        let id = TableId { volume: *self.view.volume.parts().id(), sst: meta.id };
        let page_bytes = self.view.volume.parts().page_bytes() as usize;
        let footer_page = meta.pages - 1;
        let bytes = self.read(file, footer_page, 1).await?;
        let footer = decode_footer(&id, page_bytes, footer_page, Some(meta.footer_crc), &bytes[..page_bytes])
            .map_err(|error| error.located(shard, file.page_offset(footer_page)))?;
        let handle = footer.directory;
        let bytes = self.read(file, handle.page, handle.pages).await?;
        let directory = Directory::decode(&id, &handle, page_bytes, &bytes[..handle.pages as usize * page_bytes])
            .map_err(|error| error.located(shard, file.page_offset(handle.page)))?;
        let mut filters = Vec::new();
        for partition in 0..directory.filter_partitions() {
            filters.push(self.block(shard, &id, file, BlockType::Filter, directory.filter_handle(partition)).await?);
        }
        let mut counts = Counts::default();
        for partition in 0..directory.index_partitions() {
            let handle = directory.index_handle(partition);
            let Some(index) = self.block(shard, &id, file, BlockType::Index, handle).await? else { continue };
            let mut cursor = IndexCursor::new(index)?;
            cursor.seek_first()?;
            while cursor.valid() {
                let handle = cursor.handle()?;
                if let Some(data) = self.block(shard, &id, file, BlockType::Data, handle).await? {
                    let checked = counts.data_block(&data, meta, &directory, &filters);
                    if let Err(error) = checked {
                        self.note(shard, error.located(shard, file.page_offset(handle.page)))?;
                    }
                } else {
                    counts.incomplete = true;
                }
                cursor.next()?;
            }
        }
        self.report.entries += counts.entries;
        if !counts.incomplete && (counts.entries, counts.tombstones) != (meta.entries, meta.tombstones) {
            let text = format!(
                "SST {}: {} entries and {} tombstones, {} and {} expected",
                meta.id, counts.entries, counts.tombstones, meta.entries, meta.tombstones
            );
            self.problem(Some(shard), Some(file.page_offset(0)), text);
        }
        Ok(())
    }

    /// A block that is whole; damage is noted.
    async fn block(
        &mut self,
        shard: u16,
        id: &TableId,
        file: &SstFile,
        kind: BlockType,
        handle: BlockHandle,
    ) -> Result<Option<Buffer>> {
        let page_bytes = self.view.volume.parts().page_bytes() as usize;
        let read = self.read(file, handle.page, handle.pages).await;
        let checked = read.and_then(|bytes| {
            verify_block(id, kind, &handle, page_bytes, &bytes[..handle.pages as usize * page_bytes])
                .map_err(|error| error.located(shard, file.page_offset(handle.page)))
                .map(|()| bytes)
        });
        match checked {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) => self.note(shard, error).map(|()| None),
        }
    }

    async fn read(&mut self, file: &SstFile, page: u32, pages: u32) -> Result<Buffer> {
        if page.checked_add(pages).is_none_or(|end| end > file.pages()) {
            let reason = format!("pages {page}..+{pages} of an SST of {} pages", file.pages());
            return Err(Error::corruption("block handle", reason));
        }
        let page_bytes = self.view.volume.parts().page_bytes() as usize;
        let mut buffer = Buffer::heap(pages as usize * page_bytes);
        let mut at = 0;
        for (offset, bytes) in file.runs(page..page + pages) {
            let (result, piece) = self.view.volume.device().read(offset, Buffer::heap(bytes), bytes).await;
            result?;
            buffer[at..at + bytes].copy_from_slice(&piece[..bytes]);
            at += bytes;
        }
        self.report.blocks += 1;
        self.report.bytes += at as u64;
        (self.progress)(self.report.bytes.min(self.total_bytes), self.total_bytes);
        Ok(buffer)
    }

    fn own(&mut self, extent: ExtentId, owner: &str) {
        // One log may be named from several places in it.
        if let Some(other) = self.owners.insert(extent, owner.to_owned())
            && other != owner
        {
            let offset = self.view.volume.parts().offset(extent);
            self.problem(None, Some(offset), format!("extent {extent} belongs to {other} and to {owner}"));
        }
    }
}

#[derive(Default)]
struct Counts {
    entries: u64,
    tombstones: u64,
    last: Option<(Vec<u8>, Trailer)>,
    incomplete: bool,
}

impl Counts {
    fn data_block(
        &mut self,
        data: &Buffer,
        meta: &SstMeta,
        directory: &Directory,
        filters: &[Option<Buffer>],
    ) -> Result<()> {
        let corrupt = |reason: String| Error::corruption("data block", reason);
        check_entries(data, |key, trailer, _| {
            if key < &*meta.smallest || key > &*meta.largest {
                return Err(corrupt(format!("a key of SST {} is outside the bounds in the manifest", meta.id)));
            }
            let in_order = self.last.as_ref().is_none_or(|(last, newer)| {
                (last.as_slice(), std::cmp::Reverse(*newer)) < (key, std::cmp::Reverse(trailer))
            });
            if !in_order {
                return Err(corrupt(format!("the first entry of a block of SST {} is out of order", meta.id)));
            }
            let hash = key_hash(key);
            if let Some(Some(filter)) = directory.find_filter_partition(key).map(|partition| &filters[partition])
                && !filter_may_contain(filter, hash)
            {
                return Err(corrupt(format!("a key of SST {} is not in its filter", meta.id)));
            }
            self.entries += 1;
            self.tombstones += u64::from(trailer.kind() == Kind::Delete);
            let last = self.last.get_or_insert_with(|| (Vec::new(), trailer));
            last.0.clear();
            last.0.extend_from_slice(key);
            last.1 = trailer;
            Ok(())
        })
    }
}
