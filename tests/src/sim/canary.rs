//! Checks that must always fail: the oracle is made wrong, and what follows must notice.
//!
//! Two make it wrong about the state of the last life. Six make it wrong about a recovery in one of the lives before, each where another of the
//! rules must see it: the two bounds of operators' writes and of cells, the order of a shard's writes, whole batches. The others are an
//! extent that leaks, a checkpoint's cut, a snapshot, and a client that waits for ever. Each must be noticed by the check that it is for.

use std::collections::BTreeSet;

use super::cells::Version;
use super::journal::{Data, WriteId};
use super::oracle::Oracle;
use super::order::Place;
use super::plan::{CELL_SPACES, Canary};
use super::world::{Found, World};
use crate::Node;

/// A key that no client writes.
const KEY: &[u8] = b"canary";
/// A partition part of the operators.
const PART: [u8; 2] = [b'p', 0];

impl World {
    /// In the last life, when all is well.
    pub(super) fn put_canary(&mut self, node: &Node) {
        if self.plan.canary == Some(Canary::Standstill) {
            node.run(std::future::pending::<()>());
        }
        let mut oracle = self.oracle.lock();
        match self.plan.canary {
            Some(Canary::LostWrite) => {
                let id = oracle.journal.submit(PART, Vec::new());
                oracle.apply(0, id);
            }
            Some(Canary::StrangeWrite) => oracle.journal.forget_one(),
            _ => {}
        }
    }

    /// In any life but the last, when the latest state has been recovered and is about to be judged in full.
    pub(super) fn put_canary_in_recovery(&self, found: &Found) {
        let Some(canary) = self.plan.canary.filter(|_| !self.finishing) else { return };
        let mut oracle = self.oracle.lock();
        let id = (CELL_SPACES.start, KEY.to_vec());
        let version = Version { value: Some(KEY.to_vec()), expires_ms: None };
        let place = Place { shard: 0, epoch: 0 };
        match canary {
            // They are put elsewhere.
            Canary::LostWrite
            | Canary::StrangeWrite
            | Canary::LostExtent
            | Canary::CheckpointCut
            | Canary::ChangedSnapshot
            | Canary::Standstill => {}
            Canary::DurableWriteLost => {
                let id = oracle.journal.submit(PART, Vec::new());
                oracle.apply(0, id);
                oracle.journal.acknowledge([id]);
            }
            Canary::WriteNeverSubmitted => oracle.journal.forget_submission(&found.journal),
            Canary::DurableCellLost => {
                oracle.begin_cells([(id.clone(), version)], place);
                oracle.end_cells([&id], true, true);
            }
            Canary::CellNeverWritten => {
                if let Some(id) = found.cells.keys().next() {
                    oracle.cells.forget(id);
                }
            }
            Canary::EarlierCellLost => {
                // Before everything else in that shard.
                oracle.cells.begin(&id, version, place, 0);
                oracle.cells.end(&id, true, false, 0, u64::MAX);
            }
            Canary::HalfBatch => {
                let sent = found.cells.iter().find_map(|(id, value)| oracle.cells.sent(id, value));
                if let Some((place, begun)) = sent {
                    oracle.cells.begin(&id, version, place, begun);
                    oracle.cells.end(&id, false, false, begun, u64::MAX);
                }
            }
        }
    }
}

impl Oracle {
    /// When a checkpoint has been restored and is about to be compared.
    pub(super) fn put_canary_in_checkpoint(&self, writes: &mut BTreeSet<WriteId>) {
        if self.canary == Some(Canary::CheckpointCut) {
            let first = self.journal.with_entries(writes).first().copied();
            first.map(|id| writes.remove(&id));
        }
    }

    /// In what a snapshot has shown when it was taken.
    pub(super) fn put_canary_in_snapshot(&self, shown: &mut Data) {
        if self.canary == Some(Canary::ChangedSnapshot) {
            shown.insert(KEY.to_vec(), Vec::new());
        }
    }
}
