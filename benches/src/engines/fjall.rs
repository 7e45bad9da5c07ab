//! fjall.
//!
//! The budget is split: 3 write buffers as large as RocksDB's (one filling, two being flushed; fjall itself does not bound how many
//! there are), the rest is cache. No compression; 2 workers; other options as they
//! come (filters of 10 bits and more, index and filters partitioned from level 3 on). Its journal cannot be turned off: it is left
//! unsynced, and in its own buffer for as long as it likes. It has neither a batched get nor direct I/O.

use std::path::Path;
use std::thread;
use std::time::Duration;

use fjall::config::CompressionPolicy;
use fjall::{CompressionType, Database, Keyspace, KeyspaceCreateOptions, PersistMode};

use crate::Result;
use crate::engines::{Drive, Engine, EngineConfig, threads, unsupported};
use crate::measure::{Recorder, now};
use crate::workload::{Gets, Load, Rmw, Scans};

pub(crate) struct Fjall {
    // Before the database: a keyspace must not outlive it.
    keyspace: Keyspace,
    database: Database,
}

impl Fjall {
    pub(crate) fn open(dir: &Path, config: &EngineConfig) -> Result<Self> {
        const WRITE_BUFFERS: u64 = 3;
        let write_buffers_bytes = WRITE_BUFFERS * config.write_buffer_bytes();
        let cache_bytes = config.memory_bytes.saturating_sub(write_buffers_bytes).max(config.memory_bytes / 4);
        let database = Database::builder(dir)
            .cache_size(cache_bytes)
            .journal_compression(CompressionType::None)
            .manual_journal_persist(true)
            .worker_threads(2)
            .open()?;
        let keyspace = database.keyspace("bench", || {
            KeyspaceCreateOptions::default()
                .data_block_compression_policy(CompressionPolicy::all(CompressionType::None))
                .max_memtable_size(config.write_buffer_bytes())
                .manual_journal_persist(true)
        })?;
        Ok(Fjall { keyspace, database })
    }
}

impl Engine for Fjall {
    fn load(&mut self, load: &Load, recorder: &mut Recorder) -> Result<()> {
        let mut value = Vec::new();
        for index in load.indexes() {
            let key = load.space.key(index);
            load.values.fill(index, 0, &mut value);
            let start = now();
            self.keyspace.insert(&*key, value.as_slice())?;
            recorder.record(start);
        }
        Ok(())
    }

    #[expect(clippy::disallowed_methods, reason = "waits for the peer's own threads")]
    fn settle(&mut self) -> Result<()> {
        const CALM_MS: u64 = 200;
        self.keyspace.rotate_memtable_and_wait()?;
        // It does not say when nothing is due, so: nothing running and nothing finished for a while.
        let (mut finished, mut calm_ms) = (self.database.compactions_completed(), 0);
        while calm_ms < CALM_MS {
            thread::sleep(Duration::from_millis(10));
            let idle = self.database.active_compactions() == 0 && self.database.outstanding_flushes() == 0;
            let now_finished = self.database.compactions_completed();
            calm_ms = if idle && now_finished == finished { calm_ms + 10 } else { 0 };
            finished = now_finished;
        }
        Ok(())
    }

    fn get(&mut self, gets: &Gets, drive: Drive, recorder: &mut Recorder) -> Result<()> {
        let keyspace = &self.keyspace;
        match drive {
            Drive::Blocking | Drive::Threads(_) => threads::run(gets.picks(), recorder, |picks, recorder| {
                for &index in picks {
                    let (key, start) = (gets.space.key(index), now());
                    gets.check(index, keyspace.get(key)?.as_deref())?;
                    recorder.record(start);
                }
                Ok(())
            }),
            Drive::Batch(_) | Drive::InFlight(_) => unsupported(drive),
        }
    }

    fn rmw(&mut self, rmw: &Rmw<'_>, drive: Drive, recorder: &mut Recorder) -> Result<()> {
        let keyspace = &self.keyspace;
        match drive {
            Drive::Blocking | Drive::Threads(_) => threads::run(rmw.picks(), recorder, |picks, recorder| {
                let mut next = Vec::new();
                for &index in picks {
                    let (key, start) = (rmw.space.key(index), now());
                    rmw.update(index, keyspace.get(key)?.as_deref(), &mut next)?;
                    keyspace.insert(&*key, next.as_slice())?;
                    recorder.record(start);
                }
                Ok(())
            }),
            Drive::Batch(_) | Drive::InFlight(_) => unsupported(drive),
        }
    }

    fn prefix_scan(&mut self, scans: &Scans, drive: Drive, recorder: &mut Recorder) -> Result<()> {
        let keyspace = &self.keyspace;
        match drive {
            Drive::Blocking | Drive::Threads(_) => threads::run(scans.picks(), recorder, |picks, recorder| {
                for &user in picks {
                    let (prefix, start) = (scans.space.user(user), now());
                    let mut check = scans.check(user);
                    for entry in keyspace.prefix(prefix) {
                        let (key, value) = entry.into_inner()?;
                        check.entry(&key, &value)?;
                    }
                    check.end()?;
                    recorder.record(start);
                }
                Ok(())
            }),
            Drive::Batch(_) | Drive::InFlight(_) => unsupported(drive),
        }
    }

    fn close(self: Box<Self>) -> Result<()> {
        self.keyspace.rotate_memtable_and_wait()?;
        Ok(self.database.persist(PersistMode::SyncAll)?)
    }
}
