//! Which errors are legitimate: each must be explained by a fault that was injected, as near to it as can be known.
//!
//! 1. An error of the device is one that the disk has told in this life: the same operation, at the same place.
//! 2. A shard is read-only for such an error, or for damage, which its cause names. A fault makes one shard read-only, unless it is a flush's
//!    (also of one behind a durable write), which is everybody's: as many shards name a fault as operations have failed there.
//! 3. There is no space so long as the disk has said so in this life, and a little longer: until what waits has tried again. (A client may hear of an
//!    operator's end much later than that was: it counts when the operator was sent.)
//! 4. Damage is near a damaged block. It may be elsewhere where a block of metadata was damaged when the volume was opened, in this life or an
//!    earlier one: metadata is read only then, and what has come back in an older state names what is not there any more. And a large data
//!    block crosses extents, which lie anywhere.
//! 5. What was acknowledged may be missing where a block of a log or of metadata was damaged when the volume was opened.
//! 6. What writes nothing goes on where nothing can be written: a read fails with a failed read, with damage, or because the engine has been closed.

use std::collections::{BTreeMap, BTreeSet};

use siltstone::Error;
use siltstone_io::{Damage, OpKind, Placement, SimClock, SimDisk, Told};

use super::plan::Contract;

/// How far from a block an error may name its place: SSTs and logs are named by extent.
pub(crate) const NEAR_BYTES: u64 = 256 << 10;

/// How long it takes at most until all that waits for space has tried again, on a disk that answers soon.
const RETRIED_US: u64 = 2_000_000;

/// What kind of operation of the engine it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// It writes nothing, and waits for no write.
    Read,
    Write,
}

/// An operation of the device, as an error names it: what, where, how much.
type Operation = (OpKind, u64, u64);

pub(crate) struct Excuses {
    contract: Contract,
    disk: SimDisk,
    clock: SimClock,
    /// The longest that an operation may take.
    stall_us: u64,
    /// How many failures the disk had told of when this life began.
    told_before: usize,
    /// The shards that are read-only for each failure, in this life.
    poisoned: BTreeMap<String, BTreeSet<u16>>,
    /// Any damage ever: where and what.
    damage: BTreeMap<u64, Damage>,
    /// The volume was opened, at some time, while a block of metadata was damaged.
    misled: bool,
    /// Since the last comparison the volume was opened while a block of a log or of metadata was damaged: what was acknowledged may be gone.
    pub(crate) log_was_damaged: bool,
    /// The same of metadata alone.
    pub(crate) metadata_was_damaged: bool,
    /// Somebody has begun to close the engine.
    pub(crate) closing: bool,
}

impl Excuses {
    pub(crate) fn new(contract: Contract, disk: SimDisk, clock: SimClock, stall_us: u64) -> Excuses {
        Excuses {
            contract,
            disk,
            clock,
            stall_us,
            told_before: 0,
            poisoned: BTreeMap::new(),
            damage: BTreeMap::new(),
            misled: false,
            log_was_damaged: false,
            metadata_was_damaged: false,
            closing: false,
        }
    }

    /// A life begins: from now on errors need a new excuse.
    pub(crate) fn begin_life(&mut self) {
        self.told_before += self.told().len();
        self.poisoned.clear();
        self.closing = false;
    }

    /// The volume is about to be opened, or has just been: remembers what of it is damaged.
    pub(crate) fn before_opening(&mut self) {
        self.learn_damage();
        let placements: Vec<_> = self.disk.atlas().iter().map(|damage| damage.placement).collect();
        let metadata = placements.contains(&Some(Placement::Metadata));
        self.misled |= metadata;
        self.metadata_was_damaged |= metadata;
        self.log_was_damaged |= metadata || placements.contains(&Some(Placement::Wal)) || placements.contains(&None);
    }

    /// What is there has been compared, and is the truth from now on.
    pub(crate) fn compared(&mut self) {
        (self.log_was_damaged, self.metadata_was_damaged) = (false, false);
    }

    pub(crate) fn now_us(&self) -> u64 {
        self.clock.now_us()
    }

    /// How long it takes until all that waits for space has tried again.
    pub(crate) fn retried_us(&self) -> u64 {
        RETRIED_US + 3 * self.stall_us
    }

    /// Whether the disk was full so shortly before this moment, or after it, that somebody may not have known better.
    pub(crate) fn lacked_space(&self, sent_us: u64) -> bool {
        let since_us = sent_us.saturating_sub(self.retried_us());
        self.told().iter().any(|told| told.errno == nix::libc::ENOSPC && told.at_us >= since_us)
    }

    /// Whether an operation that was sent at this moment may fail with this error; if not, why.
    pub(crate) fn legitimate(&mut self, effect: Effect, error: &Error, sent_us: u64) -> Result<(), String> {
        self.learn_damage();
        match error {
            Error::Corruption(corruption) => self.is_damaged(corruption.structure, corruption.offset),
            Error::NotFound(_) if self.log_was_damaged => Ok(()),
            Error::NotAVolume { .. } | Error::Version { .. } => self.is_damaged("superblock", Some(0)),
            _ if self.disk.crashed() => Ok(()),
            Error::Closed if self.closing => Ok(()),
            Error::Closed | Error::Busy(_) => Err("nobody has closed it".into()),
            Error::NoSpace(_) | Error::Poisoned { .. } if effect == Effect::Read => Err("it writes nothing".into()),
            Error::Io(error) if effect == Effect::Read && error.op != OpKind::Read => Err("it only reads".into()),
            Error::NoSpace(_) if self.lacked_space(sent_us) => Ok(()),
            Error::NoSpace(_) => Err("there is space".into()),
            Error::Io(error) => self.has_told((error.op, error.offset, error.length)).map(drop),
            Error::Poisoned { shard, cause } => self.may_be_poisoned(*shard, cause),
            _ => Err("such errors are the caller's".into()),
        }
    }

    /// Whether the disk has told of a failure in this life, or shows something that is not true.
    pub(crate) fn has_faults(&self) -> bool {
        !self.told().is_empty() || !self.disk.atlas().is_empty()
    }

    fn told(&self) -> Vec<Told> {
        self.disk.told(self.told_before)
    }

    /// Rule 1: how often the disk has told of a failure there.
    fn has_told(&self, (op, offset, length): Operation) -> Result<Vec<Told>, String> {
        let overlaps = |told: &Told| {
            let is_there = told.offset < offset + length && offset < told.offset + told.len;
            told.op == op && (op == OpKind::Flush || is_there)
        };
        let mut told = self.told();
        told.retain(overlaps);
        match told.is_empty() {
            true => Err(format!("no {op:?} of {length} bytes at {offset} has failed in this life")),
            false => Ok(told),
        }
    }

    /// Rule 2.
    fn may_be_poisoned(&mut self, shard: u16, cause: &str) -> Result<(), String> {
        if let Some((structure, offset)) = damage_in(cause) {
            return self.is_damaged(structure, offset);
        }
        let operation = operation_in(cause).ok_or_else(|| format!("the cause names no fault: {cause}"))?;
        let told = self.has_told(operation)?;
        let shards = self.poisoned.entry(cause.to_owned()).or_default();
        shards.insert(shard);
        match told.iter().any(|told| told.flushes) || shards.len() <= told.len() {
            true => Ok(()),
            false => {
                let count = told.len();
                Err(format!("{count} operations have failed there, and shards {shards:?} are read-only for it"))
            }
        }
    }

    fn learn_damage(&mut self) {
        for damage in self.disk.atlas() {
            self.damage.insert(damage.offset, damage);
        }
    }

    /// Rule 4.
    fn is_damaged(&self, structure: &str, offset: Option<u64>) -> Result<(), String> {
        if self.contract != Contract::Media {
            return Err("the device has lied about nothing".into());
        }
        let of_table = |damage: &Damage| !matches!(damage.placement, Some(Placement::Wal | Placement::Metadata));
        let explains = |damage: &Damage| {
            offset.is_none_or(|offset| damage.offset.abs_diff(offset) < NEAR_BYTES)
                || structure == "data block" && of_table(damage)
        };
        match self.misled || self.damage.values().any(explains) {
            true => Ok(()),
            false => {
                let places: Vec<_> = self.damage.values().map(|damage| (damage.offset, damage.placement)).collect();
                Err(format!("no damage near byte {offset:?}, and no metadata was; there is some at {places:?}"))
            }
        }
    }
}

/// What an error's text says of damage: the structure and, if it is named, the place.
pub(crate) fn damage_in(text: &str) -> Option<(&str, Option<u64>)> {
    let (_, rest) = text.split_once("corruption in ")?;
    let structure = rest.split([':', '(']).next().unwrap_or_default().trim();
    Some((structure, rest.split_once("(at byte ").and_then(|(_, rest)| number(rest))))
}

/// The device's operation that an error's text names.
fn operation_in(text: &str) -> Option<Operation> {
    [OpKind::Read, OpKind::Write, OpKind::Flush, OpKind::Discard, OpKind::Allocate].into_iter().find_map(|op| {
        let (_, rest) = text.split_once(&format!("{op:?} of "))?;
        let (_, behind) = rest.split_once(" bytes at offset ")?;
        Some((op, number(behind)?, number(rest)?))
    })
}

/// The number with which a text begins.
fn number(text: &str) -> Option<u64> {
    let end = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
    text[..end].parse().ok()
}

#[cfg(test)]
mod tests {
    use siltstone_io::{IoError, SimOptions};

    use super::*;

    fn excuses(contract: Contract) -> Excuses {
        Excuses::new(contract, SimDisk::new(1, SimOptions::default()), SimClock::new(), 0)
    }

    #[test]
    fn an_error_names_its_operation_and_its_place() {
        let error = Error::from(IoError::from_errno(OpKind::Write, "disk", 8192, 4096, nix::libc::EIO));
        assert_eq!(operation_in(&error.to_string()), Some((OpKind::Write, 8192, 4096)));
        let damage = Error::corruption("data block", "a checksum").located(3, 77);
        assert_eq!(damage_in(&damage.to_string()), Some(("data block", Some(77))));
        assert_eq!(damage_in(&Error::corruption("footer", "short").to_string()), Some(("footer", None)));
    }

    #[test]
    fn what_no_fault_explains_is_not_legitimate() {
        let mut excuses = excuses(Contract::Errors);
        let failed = IoError::from_errno(OpKind::Write, "disk", 8192, 4096, nix::libc::EIO);
        let poisoned = Error::Poisoned { shard: 0, cause: failed.to_string() };
        for error in [Error::Io(failed), poisoned, Error::NoSpace("full".into()), Error::corruption("root", "torn")] {
            assert!(excuses.legitimate(Effect::Write, &error, 0).is_err(), "{error}");
        }
    }

    #[test]
    fn a_read_does_not_fail_for_want_of_a_shard_that_can_be_written() {
        let mut excuses = excuses(Contract::Errors);
        let failed = IoError::from_errno(OpKind::Write, "disk", 8192, 4096, nix::libc::EIO);
        let poisoned = Error::Poisoned { shard: 0, cause: failed.to_string() };
        for error in [Error::Io(failed), poisoned, Error::NoSpace("full".into())] {
            let reason = excuses.legitimate(Effect::Read, &error, 0).expect_err("nothing excuses it");
            assert!(["it writes nothing", "it only reads"].contains(&&reason[..]), "{error}: {reason}");
        }
    }
}
