//! Checks that must always fail: the oracle is made wrong, and what follows must notice.
//!
//! Two make it wrong about the state of the last life. The others make it wrong about a recovery in one of the lives before, each where
//! another of the rules must see it: the two bounds of operators' writes and of cells, the order of a shard's writes, whole batches.

use super::cells::Version;
use super::order::Place;
use super::plan::{CELL_SPACES, Canary};
use super::world::{Found, World};

/// A key that no client writes.
const KEY: &[u8] = b"canary";
/// A partition part of the operators.
const PART: [u8; 2] = [b'p', 0];

impl World {
    /// In the last life, when all is well.
    pub(super) fn put_canary(&mut self) {
        let mut oracle = self.oracle.lock();
        match self.plan.canary {
            Some(Canary::LostWrite) => {
                let id = oracle.journal.submit(PART, Vec::new());
                oracle.apply(0, id);
            }
            Some(Canary::StrangeWrite) => {
                let id = oracle.journal.submit(PART, vec![(vec![b'k', 0], Some(b"canary".to_vec()))]);
                oracle.apply(0, id);
                oracle.journal.forget_one();
            }
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
            Canary::LostWrite | Canary::StrangeWrite => {}
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
                oracle.cells.end(&id, true, false, 0);
            }
            Canary::HalfBatch => {
                let sent = found.cells.iter().find_map(|(id, value)| oracle.cells.sent(id, value));
                if let Some((place, begun)) = sent {
                    oracle.cells.begin(&id, version, place, begun);
                    oracle.cells.end(&id, false, false, begun);
                }
            }
        }
    }
}
