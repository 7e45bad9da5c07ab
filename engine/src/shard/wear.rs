//! What the shard costs the device: counted by its executor, stored in its manifest.
//!
//! The sum is put into every group of records that the shard commits, so that it costs no write of its own but the one at closing: with
//! a log that is flushed rarely, most of what a short life has written would be missing.

use crate::manifest::ManifestEdit;
use crate::shard::Shard;
use crate::volume::WearCounters;

impl Shard {
    /// What it has cost the device since the volume was made.
    pub(crate) fn wear(&self) -> WearCounters {
        self.wear_before.plus(&WearCounters::of(&self.handle.io_stats()))
    }

    /// The record of it.
    pub(super) fn wear_edit(&self) -> ManifestEdit {
        ManifestEdit::Wear { counters: self.wear() }
    }

    /// Stores the counters once more, where more than metadata has been written since they last were. Where that fails, they are behind.
    pub(super) async fn store_wear(&self) {
        let manifest = self.manifest.lock().await;
        let Some(stored) = manifest.as_ref().map(|manifest| manifest.state().wear) else { return };
        if self.is_poisoned() || stored.data_bytes() == self.wear().data_bytes() {
            return;
        }
        if let Err(error) = self.commit_locked(&manifest, Vec::new(), Vec::new()).await {
            tracing::warn!(shard = self.id.0, %error, "what was written last is not counted");
        }
    }
}

#[cfg(all(test, not(any(loom, shuttle, miri))))]
#[expect(clippy::unwrap_used, reason = "a test stops where something is not as it should be")]
mod tests {
    use std::path::Path;

    use crate::engine::{Durability, Engine, KeyspaceOptions, Options};
    use crate::inspect::info;

    fn open(path: &Path, shards: usize) -> Engine {
        let options = Options::at(path).shards(shards).memory(shards * (4 << 20)).durability(Durability::Sync);
        Engine::open(options.keyspace("k", KeyspaceOptions::default())).unwrap()
    }

    fn write(engine: &Engine, count: u32) {
        let keyspace = engine.keyspace("k").unwrap();
        for key in 0..count {
            engine.put_blocking(&keyspace, &key.to_be_bytes(), &[7; 1000]).unwrap();
        }
    }

    #[test]
    fn counters_survive_reopening_and_another_number_of_shards() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        let engine = open(path, 2);
        write(&engine, 50);
        engine.close_blocking().unwrap();
        let logged = info(path).unwrap().wear;
        // Each write was awaited: a page of the log for each, though no memtable was flushed.
        assert!(logged.wal_bytes >= 50 * 4096 && logged.wal_bytes < 120 * 4096, "{logged:?}");
        assert_eq!((logged.level_0_bytes, logged.deep_bytes), (0, 0));
        assert!(logged.metadata_bytes >= 8 * 4096, "{logged:?}");

        let engine = open(path, 2);
        engine.block_on(engine.flush()).unwrap();
        engine.close_blocking().unwrap();
        let flushed = info(path).unwrap().wear;
        assert_eq!(flushed.wal_bytes, logged.wal_bytes);
        assert!(flushed.level_0_bytes >= 50 * 1000 && flushed.level_0_bytes < 1 << 20, "{flushed:?}");
        assert!(flushed.discards > logged.discards && flushed.discarded_bytes > logged.discarded_bytes, "{flushed:?}");

        for shards in [3, 1, 1] {
            let before = info(path).unwrap().wear;
            open(path, shards).close_blocking().unwrap();
            let after = info(path).unwrap().wear;
            assert_eq!(after.data_bytes(), before.data_bytes(), "{shards} shards");
            assert!(after.metadata_bytes > before.metadata_bytes && after.discards >= before.discards);
        }
        let engine = open(path, 2);
        write(&engine, 10);
        engine.close_blocking().unwrap();
        let again = info(path).unwrap().wear;
        assert!((flushed.wal_bytes + 10 * 4096..flushed.wal_bytes + 40 * 4096).contains(&again.wal_bytes), "{again:?}");
        assert!(again.level_0_bytes >= flushed.level_0_bytes);
    }
}
