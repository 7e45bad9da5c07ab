//! The end of a simulation: a last life without faults, in which everything must work, and looks at the volume from outside.

use siltstone::{Durability, Error, KeyspaceOptions, Restore, Result, inspect};
use siltstone_io::SimFaults;

use super::excuses::Effect;
use super::operators::drop_snapshots;
use super::plan::{Canary, Way};
use super::shift::Shift;
use super::world::World;
use crate::{Crashed, Node};

impl World {
    /// The end: no faults any more. What is there is all there, everything that is asked for is done, no space is lost, and opening again
    /// changes nothing.
    pub(super) fn finish(&mut self) {
        self.finishing = true;
        self.simulation.disk.heal();
        let way = self.any_way();
        let Some(node) = self.recover(&way, false) else { return };
        let shift = self.shift(&node, &way);
        let failures = self.tally.borrow().failures();
        self.put_canary(&node);
        let survived = node.try_run(shift.tell_time()).and_then(|()| {
            self.round(&node, &shift, 20)?;
            self.compare(&node, &shift)
        });
        assert!(survived.is_ok(), "the power fails where no crash was planned");
        assert_eq!(self.tally.borrow().failures(), failures, "operations fail without faults");
        self.audit(&node, &shift);
        if way.durability == Durability::Checkpoint {
            // Only that outlasts the life.
            node.run(shift.checkpoint());
        }
        let closed = node.close();
        assert!(closed.is_ok(), "{closed:?}");
        self.verify();
        {
            let mut oracle = self.oracle.lock();
            let applied = oracle.applied();
            oracle.acknowledge(applied);
        }
        self.read_only(&way);
        self.damage_at_rest(&way);
        self.write_on_damage(&way);
        for _ in 0..2 {
            let way = Way { restore: Restore::Latest, durability: Durability::Sync, retained: None };
            drop(self.recover(&way, false));
            self.power_cycle();
        }
    }

    /// Opened for reading only the volume shows the same, takes no writes, and does not change.
    fn read_only(&mut self, way: &Way) {
        let written = self.disk().write_ops();
        let way = Way { restore: Restore::Latest, ..way.clone() };
        let options = self.plan.options(self.simulation.options(), &way, &mut self.random).read_only(true);
        let node =
            self.simulation.open(options).unwrap_or_else(|error| panic!("opening for reading only fails: {error}"));
        let shift = self.shift(&node, &way);
        let survived = node.try_run(shift.tell_time()).and_then(|()| self.compare(&node, &shift));
        assert!(survived.is_ok(), "the power fails where no crash was planned");
        let refused = node.run(async {
            let put = node.engine.put(&shift.spaces[2], b"key", b"value").await;
            let checkpoint = node.engine.checkpoint("checkpoint", Vec::new()).await;
            [put, checkpoint.map(drop), node.engine.create_keyspace("new", KeyspaceOptions::default()).await.map(drop)]
        });
        let is_refusal = |result: &Result<()>| matches!(result, Err(Error::ReadOnly));
        assert!(refused.iter().all(is_refusal), "a volume that is open for reading only was changed: {refused:?}");
        drop((shift, node));
        assert_eq!(self.disk().write_ops(), written, "a volume that is open for reading only was written to");
        self.tally.borrow_mut().count("open for reading only");
    }

    /// Whatever has failed in a life: the extents in use are those that somebody refers to. (A shard that cannot write any more does not know.)
    pub(super) fn audit_at_rest(&mut self, node: &Node) -> std::result::Result<(), Crashed> {
        self.disk().set_faults(SimFaults::default());
        let audit = node.try_run(siltstone::testing::audit(&node.engine));
        self.disk().set_faults(self.plan.faults.clone());
        match audit? {
            Ok(audit) => {
                assert!(audit.is_clean(), "extents in use are not those referred to: {audit:?}");
                self.tally.borrow_mut().count("audit at rest");
            }
            // Of a shard that cannot be written any more.
            Err(error) => self.oracle.lock().judge(Effect::Write, "audit at rest", &error),
        }
        Ok(())
    }

    /// With nothing left to do, and nobody who reads: the extents in use are those that a manifest refers to.
    fn audit(&mut self, node: &Node, shift: &Shift) {
        let data = shift.spaces[0].clone();
        node.run(async {
            let dropped = node.engine.on_each_shard(move |shard| {
                drop_snapshots(&shard, &data);
                async {}
            });
            dropped.await?;
            node.engine.flush().await?;
            node.engine.compact().await
        })
        .unwrap_or_else(|error| panic!("flush and compaction fail without faults: {error}"));
        if self.plan.canary == Some(Canary::LostExtent) {
            let lost = node.run(siltstone::testing::lose_extent(&node.engine));
            lost.unwrap_or_else(|error| panic!("an extent cannot be taken: {error}"));
        }
        let audit = node.run(siltstone::testing::audit_quiet(&node.engine));
        let audit = audit.unwrap_or_else(|error| panic!("the audit fails: {error}"));
        assert!(audit.is_clean(), "extents in use are not those referred to: {audit:?}");
        self.tally.borrow_mut().count("audit");
    }

    fn verify(&mut self) {
        let report = inspect::verify_simulated(&self.simulation.disk, &self.simulation.clock);
        let report = report.unwrap_or_else(|error| panic!("the volume cannot be verified: {error}"));
        assert!(report.is_clean(), "the volume is not sound: {:?}", report.problems);
        let info = inspect::info_simulated(&self.simulation.disk, &self.simulation.clock);
        let info = info.unwrap_or_else(|error| panic!("nothing can be said of the volume: {error}"));
        let names: Vec<&String> = info.checkpoints.iter().map(|info| &info.name).collect();
        let oracle = self.oracle.lock();
        let missing: Vec<&String> = oracle
            .checkpoints
            .iter()
            .filter(|saved| !saved.doomed && !names.contains(&&saved.name))
            .map(|saved| &saved.name)
            .collect();
        assert!(missing.is_empty(), "of checkpoints {missing:?} the volume tells nothing");
        self.tally.borrow_mut().count("verify");
    }
}
