//! The audit: extents in use are extents that something refers to, each by one owner.
//!
//! 1. Every shard says which extents it refers to, and why ([`Owner`]): what its manifest says, and what it holds in memory.
//! 2. What no shard knows of is asked of the volume: leases of writers, extents given up and not yet freed, SSTs that only a reader holds.
//! 3. Both are compared with the extent map.
//! 4. In an engine that is quiet ([`audit_quiet`]) what is held in memory alone is held for nothing: what a shard holds of SSTs and old logs its
//!    manifest must name, and no writer has a lease.
//!
//! The shards answer one after the other, and an extent on its way from one owner to the next belongs to nobody for that moment. So
//! what is not clean is looked at again, with longer and longer waits, and only what stays is reported. Who calls makes sure that
//! nothing is under way: no flush, compaction, checkpoint or keyspace creation, and no shard is poisoned, since a shard that cannot write
//! any more leaves what it does not know to the next opening.
//!
//! Nothing is read from the device: what the stored metadata says is what an opening checks.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use siltstone_io::Placement;

use crate::engine::{Engine, EngineShared};
use crate::error::{Error, Result};
use crate::types::{ExtentId, SstId};
use crate::volume::VolumeParts;

/// How often what is not clean is looked at, ...
const ATTEMPTS: u32 = 14;
/// ... and how long the first wait is; each is twice the one before, eight seconds in all.
const FIRST_WAIT_US: u64 = 1000;

/// What an audit has found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Audit {
    /// In use, and nothing refers to them.
    pub leaked: Vec<u32>,
    /// Referred to, and marked free.
    pub unowned: Vec<u32>,
    /// Of two owners that do not share.
    pub double: Vec<u32>,
    /// Held by somebody though no manifest names them; only looked for in a quiet engine.
    pub forgotten: Vec<u32>,
    /// Extents in use, the superblock's included.
    pub used: u32,
    /// One line for each extent in the lists above: who refers to it.
    pub reasons: Vec<String>,
}

impl Audit {
    /// Whether nothing is wrong.
    pub fn is_clean(&self) -> bool {
        self.leaked.is_empty() && self.unowned.is_empty() && self.double.is_empty() && self.forgotten.is_empty()
    }
}

/// Who refers to an extent. Equal owners are one: several shards may share an SST or an old log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Owner {
    /// The volume.
    Superblock,
    /// The root pages of a shard.
    Root(u16),
    /// The manifest log of a shard, its reserve included.
    ManifestLog(u16),
    /// The log of writes of a shard, its reserve included.
    Wal(u16),
    /// A log of an earlier opening, by its first extent.
    OldLog(ExtentId),
    /// A shard's store for its next log.
    Recycled(u16),
    /// An SST.
    Sst(SstId),
    /// A writer that has not finished.
    Writer,
    /// Nobody: given up, and not yet freed.
    Abandoned,
}

/// What one shard refers to.
pub(crate) struct References {
    /// The shard's volume, for the map.
    pub(crate) parts: VolumeParts,
    /// Each extent as often as it is held.
    pub(crate) held: Vec<(Owner, ExtentId)>,
    /// What the manifest names, in addition: the same extents by the same owners, if all is well.
    pub(crate) named: Vec<(Owner, ExtentId)>,
}

/// Compares the extents in use with those that something refers to; see the module for when to call it.
///
/// # Errors
/// `Poisoned` or `ReadOnly` where a shard is; `Closed`.
pub fn audit(engine: &Engine) -> impl Future<Output = Result<Audit>> + Send + use<> {
    audit_in(engine, false)
}

/// The same where, besides, nobody reads, no snapshot is held, and everything has been flushed and compacted.
///
/// # Errors
/// As [`audit`].
pub fn audit_quiet(engine: &Engine) -> impl Future<Output = Result<Audit>> + Send + use<> {
    audit_in(engine, true)
}

/// Takes an extent and forgets it: an audit must notice.
///
/// # Errors
/// As an allocation.
pub fn lose_extent(engine: &Engine) -> impl Future<Output = Result<()>> + Send + use<> {
    let shared = Arc::clone(engine.shared());
    async move {
        let taken = shared.control(0, |shard| async move { shard.volume.allocate_extent(Placement::Deep).await });
        taken.await?.map(drop)
    }
}

fn audit_in(engine: &Engine, quiet: bool) -> impl Future<Output = Result<Audit>> + Send + use<> {
    let shared = Arc::clone(engine.shared());
    async move {
        let mut wait_us = FIRST_WAIT_US;
        for _ in 1..ATTEMPTS {
            let found = look(&shared, quiet).await?;
            if found.is_clean() {
                return Ok(found);
            }
            shared.control(0, move |shard| async move { shard.handle.sleep_us(wait_us).await }).await?;
            wait_us *= 2;
        }
        look(&shared, quiet).await
    }
}

async fn look(shared: &EngineShared, quiet: bool) -> Result<Audit> {
    shared.control(0, |shard| async move { shard.volume.reclaim().await }).await?;
    let answers = shared.on_every_shard(|shard| async move { shard.references() }).await;
    let answers: Vec<References> =
        answers.into_iter().map(|answer| answer.and_then(|answer| answer)).collect::<Result<_>>()?;
    let parts = answers.first().map(|answer| answer.parts.clone()).ok_or(Error::Closed)?;
    Ok(compare(&parts, &answers, quiet))
}

fn compare(parts: &VolumeParts, answers: &[References], quiet: bool) -> Audit {
    let mut owners: BTreeMap<ExtentId, BTreeSet<Owner>> = BTreeMap::new();
    let mut twice: BTreeSet<ExtentId> = BTreeSet::new();
    let unshared = parts.audited();
    for &(owner, extent) in answers.iter().flat_map(|answer| &answer.held).chain(&unshared) {
        let is_new = owners.entry(extent).or_default().insert(owner);
        if !is_new && !matches!(owner, Owner::Sst(_) | Owner::OldLog(_)) {
            twice.insert(extent);
        }
    }
    for &(owner, extent) in answers.iter().flat_map(|answer| &answer.named) {
        owners.entry(extent).or_default().insert(owner);
    }
    let named: BTreeSet<Owner> = answers.iter().flat_map(|answer| &answer.named).map(|(owner, _)| *owner).collect();
    let is_forgotten = |owner: &Owner| match owner {
        Owner::Sst(_) | Owner::OldLog(_) => !named.contains(owner),
        Owner::Writer | Owner::Abandoned => true,
        Owner::Superblock | Owner::Root(_) | Owner::ManifestLog(_) | Owner::Wal(_) | Owner::Recycled(_) => false,
    };
    let forgotten = owners.iter().filter(|(_, owners)| quiet && owners.iter().any(is_forgotten));
    let forgotten: Vec<ExtentId> = forgotten.map(|(extent, _)| *extent).collect();
    let taken = parts.taken();
    twice.extend(owners.iter().filter(|(_, owners)| owners.len() > 1).map(|(extent, _)| *extent));
    let numbers = |extents: Vec<ExtentId>| extents.into_iter().map(|extent| extent.0).collect();
    let leaked: Vec<ExtentId> = taken.iter().filter(|extent| !owners.contains_key(extent)).copied().collect();
    let unowned: Vec<ExtentId> = owners.keys().filter(|extent| !taken.contains(extent)).copied().collect();
    let suspects: BTreeSet<ExtentId> = leaked.iter().chain(&unowned).chain(&twice).chain(&forgotten).copied().collect();
    let reasons = suspects.iter().map(|extent| format!("extent {extent}: {:?}", owners.get(extent))).collect();
    Audit {
        leaked: numbers(leaked),
        unowned: numbers(unowned),
        double: numbers(twice.into_iter().collect()),
        forgotten: numbers(forgotten),
        used: taken.len() as u32,
        reasons,
    }
}
