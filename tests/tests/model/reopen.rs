//! Closing, and opening again: with other numbers of shards and other durability, on the latest state or on a checkpoint.

use siltstone::{Durability, Restore};

use crate::expected::State;
use crate::world::{Saved, World};

impl World {
    pub(crate) fn reopen(&mut self) {
        self.finish_checkpoint();
        let had_log = self.durability != Durability::Checkpoint;
        self.durability = self.any_durability();
        let restore = self.any_restore();
        let latest = restore == Restore::Latest && self.durability != Durability::Checkpoint;
        if latest && !had_log {
            // Nothing else makes it durable.
            self.must(self.engine().flush());
        }
        self.held.clear();
        let node = self.node.take().expect("the engine is open between steps");
        node.close().unwrap_or_else(|error| panic!("closing fails: {error}"));
        let landed = match &restore {
            Restore::Latest if latest => None,
            Restore::Checkpoint(name) => Some(self.checkpoints.iter().rfind(|saved| saved.name == *name).cloned()),
            Restore::Latest | Restore::LastCheckpoint => Some(self.checkpoints.last().cloned()),
        };
        let options = self.options().restore(restore);
        self.open(options);
        self.land(landed);
        self.check_all();
    }

    fn any_restore(&mut self) -> Restore {
        match self.random.below(8) {
            0 => Restore::LastCheckpoint,
            1..3 if !self.checkpoints.is_empty() => {
                let index = self.random.below(self.checkpoints.len() as u64) as usize;
                Restore::Checkpoint(self.checkpoints[index].name.clone())
            }
            _ => Restore::Latest,
        }
    }

    /// Gives the model the state on which the opening should have landed, where that is a checkpoint's or none at all.
    fn land(&mut self, landed: Option<Option<Saved>>) {
        let restored = self.engine().restored().map(|info| (info.name.clone(), info.bytes.clone()));
        let expected = landed.as_ref().and_then(|saved| saved.as_ref());
        assert_eq!(restored, expected.map(|saved| (saved.name.clone(), saved.bytes.clone())));
        match landed {
            None => {}
            Some(Some(saved)) => {
                self.state = saved.state;
                let found = self.engine().keyspaces();
                let created = saved.created_meanwhile.into_iter().filter(|(name, _)| found.contains(name));
                self.state.extend(created);
            }
            Some(None) => {
                let emptied = |state: &mut State| state.values_mut().for_each(|space| space.cells.clear());
                emptied(&mut self.state);
            }
        }
    }
}
