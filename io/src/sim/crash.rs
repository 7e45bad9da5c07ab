//! What is left when the power has failed.

use super::disk::{DiskState, History};
use crate::executor::POWER_LOST;
use crate::{OpKind, Random};

/// What a device writes at once even when the power fails, if it is that good.
const SECTOR_BYTES: usize = 512;

impl DiskState {
    /// Ends everything in flight, and decides for each block what is on the disk.
    pub(super) fn crash(&mut self) {
        if self.crashed {
            return;
        }
        self.land_in_flight();
        let unflushed = std::mem::take(&mut self.unflushed);
        let block = u64::from(self.options.logical_block_bytes);
        for (index, history) in unflushed {
            let survivor = survivor(&mut self.random, &history);
            self.current.write(index * block, &survivor);
        }
        if self.random.chance(0.5) {
            self.len = self.durable_len;
        }
        self.current.truncate(self.len);
        self.durable_len = self.len;
        self.growth.clear();
        self.crashed = true;
        self.life += 1;
    }

    /// Writes in flight become versions of their blocks, in random order, any part of them.
    fn land_in_flight(&mut self) {
        let mut ops: Vec<_> = std::mem::take(&mut self.in_flight).into_values().collect();
        self.random.shuffle(&mut ops);
        let block = self.options.logical_block_bytes as usize;
        for op in ops {
            // What was refused, or sent when the power was off already, never reached the disk.
            if matches!(op.errno, Some(POWER_LOST | libc::EAGAIN)) {
                continue;
            }
            let Some(data) = op.data.filter(|_| op.kind == OpKind::Write) else { continue };
            self.version += 1;
            for (index, bytes) in data.chunks(block).enumerate() {
                let end = op.offset + ((index + 1) * block) as u64;
                if self.random.chance(0.7) && end <= self.len {
                    self.write_block(op.offset / block as u64 + index as u64, bytes, false);
                }
            }
        }
    }
}

/// One version of a block, or a torn mix of two neighbours.
fn survivor(random: &mut Random, history: &History) -> Box<[u8]> {
    let version = |index: usize| match index {
        0 => &history.durable,
        _ => &history.versions[index - 1].1,
    };
    let chosen = random.below(history.versions.len() as u64 + 1) as usize;
    if chosen == 0 || random.chance(0.6) {
        return version(chosen).clone();
    }
    let (old, new) = (version(chosen - 1), version(chosen));
    let mut torn = old.clone();
    if random.chance(0.5) {
        // Some sectors made it, in no order.
        for (sector, bytes) in new.chunks(SECTOR_BYTES).enumerate() {
            if random.chance(0.5) {
                let start = sector * SECTOR_BYTES;
                torn[start..start + bytes.len()].copy_from_slice(bytes);
            }
        }
    } else {
        let len = random.below(new.len() as u64 + 1) as usize;
        torn[..len].copy_from_slice(&new[..len]);
    }
    torn
}
