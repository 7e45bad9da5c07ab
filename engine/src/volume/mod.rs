//! The volume: one device cut into extents, and who owns which.
//!
//! # What stands where
//!
//! ```text
//! extent 0   copies of the superblock                                          superblock.rs, contents.rs
//! others     root pages, log extents, SSTs: whatever a manifest refers to, or free     extents.rs
//! ```
//!
//! An extent's byte offset is its index times the extent size. The device grows as extents are allocated, the lowest first.
//!
//! # Space
//!
//! 1. An extent is allocated in two steps: its bit in the shared map, then its space on the device. Only the second can find the device
//!    full, and it comes before anything is written: out of space is an error, not a failure.
//! 2. It is freed in the opposite order: discarded, awaited, and only then the bit is cleared. Another shard cannot have written to it when the
//!    discard comes.
//! 3. Space that is given up where nobody can wait for the device (a dropped writer, the last reference to an SST) goes into a queue that any
//!    shard drains ([`Volume::reclaim`]); it is also drained before an allocation fails.
//! 4. WAL extents are kept by the shard for its next WAL ([`Volume::recycle_extents`]): overwriting space that the filesystem has seen before
//!    needs no journal commit of its metadata.
//!
//! # Invariants
//!
//! 1. Nobody writes to an extent that they do not own; a buffer in flight keeps its extent owned ([`writer`]).
//! 2. An SST's extents are freed when no manifest refers to it durably and nobody holds it ([`sst`]).
//!
//! # A crash
//!
//! loses the map and the queue. At open, what the manifests refer to is marked, and the rest is free.

#[cfg(feature = "testing")]
mod audit;
pub(crate) mod bytes;
mod contents;
mod extents;
#[cfg(all(test, loom))]
#[expect(clippy::unwrap_used, reason = "a test stops where something is not as it should be")]
mod loom_models;
mod profile;
mod shared;
mod signature;
mod sst;
pub(crate) mod superblock;
#[cfg(all(test, not(any(loom, shuttle))))]
#[expect(clippy::unwrap_used, reason = "a test stops where something is not as it should be")]
pub(crate) mod testing;
#[cfg(all(test, not(any(loom, shuttle))))]
#[expect(clippy::unwrap_used, reason = "a test stops where something is not as it should be")]
mod tests;
mod wear;
mod writer;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::{Arc, OnceLock};

use siltstone_io::sync::{AtomicU64, Ordering, SegQueue};
use siltstone_io::{Buffer, BufferPool, Class, Device, Handle, IoError, Placement, SharedDevice, WriteDurability};

pub(crate) use self::contents::{BLANK_BYTES, Contents, contents, damaged_copies, holds, wipe, write_superblock};
use self::extents::ExtentMap;
pub use self::profile::IoProfile;
pub(crate) use self::shared::SharedExtents;
pub(crate) use self::sst::{SstFile, SstRegistry};
pub(crate) use self::superblock::{SUPERBLOCK_BYTES, Superblock};
pub use self::wear::WearCounters;
pub(crate) use self::writer::SstWriter;
use crate::types::{ExtentId, SstId};
use crate::{Error, Result};

/// How many extents a shard keeps for its next WAL.
const RECYCLED_MAX: usize = 64;
/// Bits of an id that count within one generation of the superblock.
const ID_COUNTER_BITS: u32 = 40;
/// Extents of a volume at most: their bitmap takes 32 MiB.
const EXTENTS_MAX: u32 = 1 << 28;
/// The superblock, and something.
const EXTENTS_MIN: u64 = 2;

/// What all shards of a volume share.
#[derive(Clone)]
pub(crate) struct VolumeParts {
    shared: Arc<Shared>,
}

struct Shared {
    device: SharedDevice,
    volume: [u8; 16],
    generation: u64,
    page_bytes: u32,
    extent_bytes: u32,
    map: ExtentMap,
    ids: AtomicU64,
    abandoned: SegQueue<Vec<ExtentId>>,
    /// The first flush that failed, by whichever shard.
    failed_flush: OnceLock<Error>,
    #[cfg(feature = "testing")]
    audit: audit::Audited,
}

impl VolumeParts {
    /// The shared parts of the volume that `superblock` describes, all extents free. Space is given out up to `capacity_bytes`, or
    /// to the end of the device where that is farther; never behind the capacity that the volume was formatted with.
    ///
    /// Identities are unique because each opening for writing has a generation of its own: the superblock must be on the
    /// device before the first identity is.
    pub(crate) fn new(device: SharedDevice, superblock: &Superblock, capacity_bytes: u64) -> Result<VolumeParts> {
        superblock.check().map_err(Error::InvalidArgument)?;
        let geometry = device.geometry();
        let block = geometry.logical_block_bytes;
        if block > superblock.page_bytes.min(SUPERBLOCK_BYTES as u32) {
            return Err(Error::InvalidArgument(format!(
                "{} has logical blocks of {block} bytes: pages of {} bytes cannot be written to it (at most {SUPERBLOCK_BYTES} is supported)",
                device.path().display(),
                superblock.page_bytes,
            )));
        }
        let capacity_bytes = match (geometry.fixed_size, superblock.capacity_bytes) {
            (true, 0) => geometry.size_bytes,
            (true, formatted) => geometry.size_bytes.min(formatted),
            (false, 0) => capacity_bytes.max(geometry.size_bytes),
            (false, formatted) => capacity_bytes.max(geometry.size_bytes).min(formatted),
        };
        let extents = capacity_bytes / u64::from(superblock.extent_bytes);
        if extents < EXTENTS_MIN {
            return Err(Error::InvalidArgument(format!(
                "{} has room for {extents} extents of {} bytes, and a volume needs {EXTENTS_MIN} at least: use smaller extents, or more space",
                device.path().display(),
                superblock.extent_bytes
            )));
        }
        // The allocator has a bit for each extent: without a bound a careless capacity would be paid in memory.
        let Some(extents) = u32::try_from(extents).ok().filter(|extents| *extents <= EXTENTS_MAX) else {
            return Err(Error::InvalidArgument(format!(
                "a capacity of {capacity_bytes} bytes is {extents} extents of {}: at most {EXTENTS_MAX} are allowed; use larger extents",
                superblock.extent_bytes
            )));
        };
        let shared = Shared {
            volume: superblock.volume,
            generation: superblock.generation,
            page_bytes: superblock.page_bytes,
            extent_bytes: superblock.extent_bytes,
            map: ExtentMap::new(extents),
            ids: AtomicU64::new(1),
            abandoned: SegQueue::new(),
            failed_flush: OnceLock::new(),
            #[cfg(feature = "testing")]
            audit: audit::Audited::default(),
            device,
        };
        Ok(VolumeParts { shared: Arc::new(shared) })
    }

    /// The volume's identity.
    #[inline]
    pub(crate) fn id(&self) -> &[u8; 16] {
        &self.shared.volume
    }

    /// The device.
    pub(crate) fn device(&self) -> &SharedDevice {
        &self.shared.device
    }

    /// The unit of a block.
    #[inline]
    pub(crate) fn page_bytes(&self) -> u32 {
        self.shared.page_bytes
    }

    /// The unit of space.
    #[inline]
    pub(crate) fn extent_bytes(&self) -> u32 {
        self.shared.extent_bytes
    }

    /// Where an extent begins on the device.
    #[inline]
    pub(crate) fn offset(&self, extent: ExtentId) -> u64 {
        u64::from(extent.0) * u64::from(self.shared.extent_bytes)
    }

    /// Extents in use, the superblock's included, and how many there are in all.
    pub(crate) fn usage(&self) -> (u32, u32) {
        (self.shared.map.used(), self.shared.map.extents())
    }

    /// Marks an extent that stored metadata refers to, while the volume is opened.
    ///
    /// # Errors
    ///
    /// Corruption where it is referred to twice, or begins past the end of the device (a truncated file).
    pub(crate) fn mark_used(&self, extent: ExtentId) -> Result<()> {
        self.check_present(extent, 1)?;
        self.shared.map.mark_used(extent)
    }

    /// Fails where the device ends before the first `bytes` of an extent do.
    fn check_present(&self, extent: ExtentId, bytes: u64) -> Result<()> {
        let (end, size) = (self.offset(extent) + bytes, self.shared.device.len_bytes());
        if end > size {
            let reason =
                format!("extent {extent} is in use up to byte {end}, but the device has {size}: it was truncated");
            return Err(Error::corruption("volume", reason));
        }
        Ok(())
    }

    /// A number that was never given out in this volume, for an SST or a log, and greater than all that were.
    pub(crate) fn new_id(&self) -> u64 {
        let counter = self.shared.ids.fetch_add(1, Ordering::Relaxed);
        assert!(counter < 1 << ID_COUNTER_BITS, "2^{ID_COUNTER_BITS} identities in one opening");
        self.shared.generation << ID_COUNTER_BITS | counter
    }

    /// Whether [`VolumeParts::new_id`] may have given this number, now or in an earlier opening.
    pub(crate) fn may_have_given(&self, id: u64) -> bool {
        id >> ID_COUNTER_BITS <= self.shared.generation
    }

    /// The identity of a new SST.
    pub(crate) fn new_sst_id(&self) -> SstId {
        SstId(self.new_id())
    }

    /// Gives up extents where nobody can wait; some shard's [`Volume::reclaim`] frees them.
    pub(crate) fn abandon(&self, extents: Vec<ExtentId>) {
        if !extents.is_empty() {
            self.shared.abandoned.push(extents);
        }
    }
}

/// A volume as one shard uses it. Clones are the same.
#[derive(Clone)]
pub(crate) struct Volume {
    inner: Rc<Inner>,
    device: Device,
}

struct Inner {
    parts: VolumeParts,
    handle: Handle,
    pool: Option<BufferPool>,
    /// The extent that each placement got last: the next one is its neighbour where that is free.
    last: [Cell<Option<ExtentId>>; 4],
    recycled: RefCell<Vec<ExtentId>>,
}

impl Volume {
    /// The volume for the shard of this executor. Buffers of large writes come from the pool while it has some.
    pub(crate) fn new(parts: VolumeParts, device: Device, handle: Handle, pool: Option<BufferPool>) -> Volume {
        let last = std::array::from_fn(|_| Cell::new(None));
        Volume { inner: Rc::new(Inner { parts, handle, pool, last, recycled: RefCell::default() }), device }
    }

    /// The same volume for what tasks of all classes wait for, such as a log: its I/O is foreground's, whichever task does it.
    pub(crate) fn urgent(&self) -> Volume {
        Volume { inner: Rc::clone(&self.inner), device: self.device.in_class(Class::Foreground) }
    }

    /// What the shards share.
    #[inline]
    pub(crate) fn parts(&self) -> &VolumeParts {
        &self.inner.parts
    }

    /// The shard's attachment to the device.
    #[inline]
    pub(crate) fn device(&self) -> &Device {
        &self.device
    }

    /// The shard's executor.
    #[inline]
    pub(crate) fn handle(&self) -> &Handle {
        &self.inner.handle
    }

    /// A buffer of at least this many bytes, its contents arbitrary.
    pub(crate) fn buffer(&self, bytes: usize) -> Buffer {
        let pooled = self.inner.pool.as_ref().filter(|pool| pool.frame_bytes() >= bytes).and_then(BufferPool::take);
        pooled.unwrap_or_else(|| Buffer::heap(bytes))
    }

    /// Makes everything durable that was written before.
    ///
    /// A flush is the device's, not the shard's: when one has failed, what any shard had written before it may be lost, and no later flush makes
    /// it durable, though it succeed. So from then on all of them fail.
    pub(crate) async fn flush(&self) -> Result<()> {
        let failed = &self.inner.parts.shared.failed_flush;
        let flushed = self.device.flush().await;
        if flushed.is_err() && mutant!(FlushFailureIgnored) {
            return Ok(());
        }
        if flushed.is_err() && mutant!(FailedFlushTriedAgain) {
            return Ok(self.device.flush().await?);
        }
        if let Err(error) = flushed {
            self.no_flush_any_more(&error.into());
        }
        match failed.get() {
            Some(_) if mutant!(FlushFailureOfOtherShardIgnored) => Ok(()),
            Some(error) => Err(error.clone()),
            None => Ok(()),
        }
    }

    /// Writes to a log or a root page. Where a durable write has a flush behind it ([`Geometry::fua`](siltstone_io::Geometry::fua)), its failure is
    /// that flush's, too.
    pub(crate) async fn write(
        &self,
        offset: u64,
        buffer: Buffer,
        len: usize,
        durability: WriteDurability,
        placement: Placement,
    ) -> std::result::Result<(), IoError> {
        let (result, _) = self.device.write(offset, buffer, 0..len, durability, placement).await;
        let flushes = durability == WriteDurability::Durable && !self.device.geometry().fua;
        if let Err(error) = &result
            && flushes
            // Where there is no space nothing has been sent.
            && !error.is_no_space()
            && !mutant!(DurableWriteFailureIsOnes)
        {
            mark!(FlushBehindWriteFailed);
            self.no_flush_any_more(&error.clone().into());
        }
        result
    }

    /// All later flushes fail with this.
    pub(crate) fn no_flush_any_more(&self, error: &Error) {
        let _ = self.inner.parts.shared.failed_flush.set(error.clone());
    }

    /// Allocates an extent and reserves its space on the device.
    ///
    /// # Errors
    ///
    /// `NoSpace` where the volume's capacity or the device is used up; nothing has changed then.
    pub(crate) async fn allocate_extent(&self, placement: Placement) -> Result<ExtentId> {
        if matches!(placement, Placement::Wal)
            && let Some(extent) = self.inner.recycled.borrow_mut().pop()
        {
            mark!(RecycledExtentUsed);
            return Ok(extent);
        }
        let last = &self.inner.last[placement_index(placement)];
        let extent = match self.try_allocate(last.get()).await {
            Err(Error::NoSpace(_)) => {
                mark!(NoSpaceInAllocate);
                let kept = self.inner.recycled.take();
                self.free_extents(kept).await;
                self.reclaim().await;
                // Without a wish for the neighbour: the lowest extent has the best chances not to need a longer device.
                let extent = self.try_allocate(None).await?;
                mark!(SpaceFoundByReclaiming);
                extent
            }
            other => other?,
        };
        last.set(Some(extent));
        Ok(extent)
    }

    async fn try_allocate(&self, after: Option<ExtentId>) -> Result<ExtentId> {
        let parts = &self.inner.parts;
        let Some(extent) = parts.shared.map.allocate(after) else {
            let capacity = u64::from(parts.shared.map.extents()) * u64::from(parts.extent_bytes());
            return Err(Error::NoSpace(format!("all {capacity} bytes of its capacity are in use")));
        };
        let lease = Lease::new(parts.clone());
        lease.add(extent);
        match self.device.allocate(parts.offset(extent), u64::from(parts.extent_bytes())).await {
            Ok(()) => {
                lease.take();
                Ok(extent)
            }
            Err(error) => {
                lease.take();
                if !mutant!(RefusedExtentLeaked) {
                    parts.shared.map.free(extent);
                }
                Err(if error.is_no_space() { Error::NoSpace(error.to_string()) } else { error.into() })
            }
        }
    }

    /// Discards extents and then frees them. A discard that fails costs space on the device, not correctness: it is logged.
    ///
    /// The edit that drops the last reference to them must be durable.
    pub(crate) async fn free_extents(&self, mut extents: Vec<ExtentId>) {
        let parts = &self.inner.parts;
        extents.sort_unstable();
        #[cfg(feature = "testing")]
        extents.iter().for_each(|&extent| parts.shared.audit.lend(extent));
        for run in extents.chunk_by(|a, b| a.0 + 1 == b.0) {
            let bytes = run.len() as u64 * u64::from(parts.extent_bytes());
            let freed_early = mutant!(FreedBeforeDiscard);
            if freed_early {
                run.iter().for_each(|&extent| parts.shared.map.free(extent));
            }
            if let Err(error) = self.device.discard(parts.offset(run[0]), bytes).await {
                tracing::warn!(%error, "space of a freed extent could not be given back to the device");
            }
            #[cfg(feature = "testing")]
            parts.shared.audit.give_back(run);
            if !freed_early {
                run.iter().for_each(|&extent| parts.shared.map.free(extent));
            }
        }
    }

    /// Frees extents of a WAL, some of them into the shard's own store for its next WAL.
    pub(crate) async fn recycle_extents(&self, mut extents: Vec<ExtentId>) {
        {
            // Not those whose space a crash has taken back: to write there would need an allocation after all.
            let (parts, len_bytes) = (&self.inner.parts, self.device.len_bytes());
            let whole = |extent: ExtentId| parts.offset(extent) + u64::from(parts.extent_bytes()) <= len_bytes;
            let mut recycled = self.inner.recycled.borrow_mut();
            extents.retain(|&extent| {
                let keep = recycled.len() < RECYCLED_MAX && whole(extent);
                if keep {
                    recycled.push(extent);
                }
                !keep || mutant!(RecycledAndFreed)
            });
        }
        self.free_extents(extents).await;
    }

    /// Frees what was given up without waiting: extents of dropped writers and of SSTs that nobody needs any more. Gives the number of
    /// extents freed.
    pub(crate) async fn reclaim(&self) -> usize {
        let mut freed = 0;
        while let Some(extents) = self.inner.parts.shared.abandoned.pop() {
            mark!(ExtentsReclaimed);
            freed += extents.len();
            self.free_extents(extents).await;
        }
        freed
    }
}

fn placement_index(placement: Placement) -> usize {
    match placement {
        Placement::Metadata => 0,
        Placement::Wal => 1,
        Placement::Level0 => 2,
        Placement::Deep => 3,
    }
}

/// Extents that nothing durable refers to yet. Dropped, they are given up; [`Lease::take`] hands them on.
struct Lease {
    parts: VolumeParts,
    extents: RefCell<Vec<ExtentId>>,
}

impl Lease {
    fn new(parts: VolumeParts) -> Lease {
        Lease { parts, extents: RefCell::default() }
    }

    fn add(&self, extent: ExtentId) {
        #[cfg(feature = "testing")]
        self.parts.shared.audit.lend(extent);
        self.extents.borrow_mut().push(extent);
    }

    fn len(&self) -> usize {
        self.extents.borrow().len()
    }

    fn at(&self, index: usize) -> ExtentId {
        self.extents.borrow()[index]
    }

    fn take(&self) -> Vec<ExtentId> {
        #[cfg(feature = "testing")]
        self.parts.shared.audit.give_back(&self.extents.borrow());
        self.extents.take()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let extents = self.take();
        if !extents.is_empty() {
            mark!(WriterDropped);
            if mutant!(WriterExtentsLeaked) {
                return;
            }
        }
        self.parts.abandon(extents);
    }
}
