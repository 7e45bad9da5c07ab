//! What is left when the power has failed.

use super::base::{History, Version};
use super::disk::DiskState;
use super::kinds::FaultKind;
use super::overlay::Shown;
use crate::{OpKind, Random};

/// What a device writes at once even when the power fails, if it is that good.
const SECTOR_BYTES: usize = 512;

/// Begins the trace of a crash.
const CRASH_EVENT: u64 = 3;
/// And that of the end of a process.
const KILL_EVENT: u64 = 4;

/// What a crash leaves of a block.
struct Survivor {
    bytes: Box<[u8]>,
    /// Which version it is; none where it is no version that was ever written.
    number: Option<u64>,
    outcome: FaultKind,
}

impl DiskState {
    /// Ends everything in flight, and decides for each block what is on the disk.
    pub(super) fn crash(&mut self) {
        if self.crashed {
            return;
        }
        self.land_in_flight();
        let block_bytes = self.block_bytes();
        for (block, history) in std::mem::take(&mut self.unflushed) {
            let torn_blocks = self.options.torn_blocks;
            let survivor = survivor(&mut self.random, history, torn_blocks);
            self.counts.add(survivor.outcome);
            let number = survivor.number.unwrap_or_else(|| {
                self.version += 1;
                self.version
            });
            self.current.write(block * block_bytes, &survivor.bytes);
            self.blocks.entry(block).or_default().version = number;
            self.overlay.keep(block, |version| version == number);
        }
        self.take_lost_flushes_back();
        let len = self.durable_len;
        if len < self.len && self.random.chance(0.5) {
            self.counts.add(FaultKind::CrashSizeOld);
            self.cut(len);
        }
        self.durable_len = self.len;
        self.growth.clear();
        self.crashed = true;
        self.life += 1;
        self.trace.add([CRASH_EVENT, self.version, self.len]);
    }

    /// The process ends and the power stays: what is in flight lands or not, and the cache keeps what it has.
    pub(super) fn kill(&mut self) {
        self.land_in_flight();
        self.life += 1;
        self.trace.add([KILL_EVENT, self.version, self.len]);
    }

    /// Writes and discards in flight become versions of their blocks, in random order, any part of them.
    fn land_in_flight(&mut self) {
        let mut ops: Vec<_> = std::mem::take(&mut self.in_flight).into_values().collect();
        self.random.shuffle(&mut ops);
        let block_bytes = self.block_bytes();
        let zeros = vec![0; block_bytes as usize];
        for op in ops {
            // What is refused, or was sent when the power was off already, never reached the disk.
            let refused = op.errno.is_some_and(|errno| errno != libc::EIO);
            if refused || !matches!(op.kind, OpKind::Write | OpKind::Discard) {
                continue;
            }
            self.version += 1;
            for (index, block) in (op.offset / block_bytes..(op.offset + op.len) / block_bytes).enumerate() {
                let start = index * block_bytes as usize;
                let bytes = op.data.as_deref().map_or(&zeros[..], |data| &data[start..start + block_bytes as usize]);
                if self.random.chance(0.7) && (block + 1) * block_bytes <= self.len && !self.unwritable.contains(&block)
                {
                    self.write_block(block, bytes, false, op.placement);
                }
            }
        }
    }

    /// Of what lost flushes covered, and nothing has made durable since, some is not there.
    fn take_lost_flushes_back(&mut self) {
        for (block, unsettled) in std::mem::take(&mut self.unsettled) {
            if self.version_of(block) == unsettled.number && self.random.chance(0.5) {
                let older = self.random.below(unsettled.older.len() as u64) as usize;
                self.counts.add(FaultKind::CrashFlushLost);
                self.hide(block, Shown::Bytes(unsettled.older[older].clone()), FaultKind::LostFlush);
            }
        }
    }
}

/// One version of a block, or a torn mix of two neighbours, or garbage.
fn survivor(random: &mut Random, mut history: History, torn_blocks: bool) -> Survivor {
    let before = history.versions.len();
    history.versions.retain(|version| !version.stranded);
    let stranded = history.versions.len() < before;
    let newest = history.versions.len();
    let chosen = random.below(newest as u64 + 1) as usize;
    let roll = random.below(10);
    if chosen == 0 {
        let outcome = if stranded && newest == 0 { FaultKind::CrashFlushFailed } else { FaultKind::CrashOld };
        return Survivor { bytes: history.durable, number: Some(history.durable_number), outcome };
    }
    let new = &history.versions[chosen - 1];
    let old = if chosen == 1 { &history.durable } else { &history.versions[chosen - 2].bytes };
    let torn_blocks = torn_blocks && new.bytes.len() > SECTOR_BYTES;
    match roll {
        0 => Survivor { bytes: garbled(random, &new.bytes), number: None, outcome: FaultKind::CrashGarbled },
        1..4 if torn_blocks => {
            Survivor { bytes: torn(random, old, &new.bytes), number: None, outcome: FaultKind::CrashTorn }
        }
        _ => {
            let outcome = if chosen == newest { FaultKind::CrashSurvives } else { FaultKind::CrashOld };
            let Version { number, bytes, .. } = history.versions.swap_remove(chosen - 1);
            Survivor { bytes, number: Some(number), outcome }
        }
    }
}

/// Some sectors made it: in no order, or up to a cut. At least one did, and at least one did not.
fn torn(random: &mut Random, old: &[u8], new: &[u8]) -> Box<[u8]> {
    let sectors = (new.len() / SECTOR_BYTES) as u64;
    let made_it = match random.chance(0.5) {
        true => 1 + random.below((1 << sectors) - 2),
        false => (1 << (1 + random.below(sectors - 1))) - 1,
    };
    let mut torn = Box::from(old);
    for (sector, bytes) in new.chunks(SECTOR_BYTES).enumerate() {
        if made_it & (1 << sector) != 0 {
            let start = sector * SECTOR_BYTES;
            let torn: &mut [u8] = &mut torn;
            torn[start..start + bytes.len()].copy_from_slice(bytes);
        }
    }
    torn
}

/// Garbage, in all of the block or in one of its sectors.
fn garbled(random: &mut Random, new: &[u8]) -> Box<[u8]> {
    let mut bytes: Box<[u8]> = Box::from(new);
    let sectors = (new.len() / SECTOR_BYTES) as u64;
    let garbage = match random.chance(0.5) {
        true => &mut bytes[..],
        false => {
            let start = random.below(sectors) as usize * SECTOR_BYTES;
            &mut bytes[start..start + SECTOR_BYTES]
        }
    };
    random.fill(garbage);
    bytes
}
