//! The load: clients that write as fast as the engine takes it, and threads that sync and take checkpoints.
//!
//! A client submits its steps in windows: it tells how far it is about to go, starts all steps of the window, tells of each that is
//! acknowledged, and begins the next window when all have ended. In between, it reads some of its keys: it alone writes them, so it
//! knows what they hold.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use futures_util::future::join_all;
use siltstone::{Engine, Error, Keyspace, WriteBatch};
use siltstone_io::{Random, spawn_pinned};

use crate::clock::sleep;
use crate::history::{CLIENTS, How, KEYS, MEMBERS, PARTITIONS, PREFIX_BYTES, Step, key_bytes, number_of, step, value};
use crate::wire::{Kind, Reporter};
use crate::worker::{Mode, WorkerOptions, take_checkpoint};

/// Most steps of a window.
const WINDOW_MAX: u64 = 128;
/// Keys that are read after a window.
const READS: u64 = 8;
/// Windows without space after which a client ends.
const FULL_WINDOWS_MAX: u32 = 3;

/// What a client knows of a key of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Known {
    /// A write to it has failed, or nobody has read it yet.
    Unknown,
    Absent,
    /// The step that gave it its value.
    At(u64),
}

impl Known {
    fn agrees(self, value: Option<&[u8]>) -> bool {
        match self {
            Known::Unknown => true,
            Known::Absent => value.is_none(),
            Known::At(number) => value.map(number_of) == Some(number),
        }
    }
}

/// Threads under way.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    /// The next numbers of the clients.
    numbers: Vec<Arc<AtomicU64>>,
}

impl Load {
    pub(crate) fn start(
        options: WorkerOptions,
        engine: Engine,
        keyspace: Keyspace,
        reporter: Reporter,
        known: Vec<Known>,
    ) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let mut load = Load { stop, threads: Vec::new(), numbers: Vec::new() };
        let keys_of_client = KEYS / CLIENTS;
        for (client, known) in known.chunks(keys_of_client).enumerate() {
            let mut client = Client {
                client,
                number: options.first.get(client).copied().unwrap_or_default(),
                options: options.clone(),
                engine: engine.clone(),
                keyspace: keyspace.clone(),
                reporter: reporter.clone(),
                known: known.to_vec(),
                full_windows: 0,
                random: Random::new(options.seed ^ options.checkpoint ^ client as u64),
            };
            let stop = Arc::clone(&load.stop);
            let ended = Arc::new(AtomicU64::new(client.number));
            load.numbers.push(Arc::clone(&ended));
            let body = move || ended.store(client.run(&stop), Ordering::SeqCst);
            load.threads.extend(spawn_pinned("client", None, body).ok());
        }
        let (stop, random) = (Arc::clone(&load.stop), Random::new(options.seed ^ options.checkpoint));
        let (syncing, told) = (engine.clone(), reporter.clone());
        if options.mode == Mode::Interval {
            load.threads.extend(spawn_pinned("sync", None, move || sync_often(&syncing, &told, random, &stop)).ok());
        }
        if !options.no_checkpoints {
            let (stop, random) = (Arc::clone(&load.stop), Random::new(options.seed ^ !options.checkpoint));
            let first = options.checkpoint;
            let body = move || take_checkpoints(&engine, &reporter, first, random, &stop);
            load.threads.extend(spawn_pinned("checkpoints", None, body).ok());
        }
        load
    }

    /// Waits for the end of the windows under way; the next numbers of the clients.
    pub(crate) fn stop(self) -> Vec<u64> {
        self.stop.store(true, Ordering::SeqCst);
        for thread in self.threads {
            let _ = thread.join();
        }
        self.numbers.iter().map(|number| number.load(Ordering::SeqCst)).collect()
    }
}

fn sync_often(engine: &Engine, reporter: &Reporter, mut random: Random, stop: &AtomicBool) {
    let mut number = 0;
    while !stop.load(Ordering::SeqCst) {
        sleep(Duration::from_millis(1 + random.below(60)));
        number += 1;
        reporter.tell(Kind::SyncBegins, 0, number, &[]);
        if engine.block_on(engine.sync()).is_ok() {
            reporter.tell(Kind::SyncDone, 0, number, &[]);
        }
    }
}

fn take_checkpoints(engine: &Engine, reporter: &Reporter, first: u64, mut random: Random, stop: &AtomicBool) {
    let mut number = first;
    while !stop.load(Ordering::SeqCst) {
        sleep(Duration::from_millis(random.below(200)));
        // A failure has been told; the next one may succeed.
        let _ = take_checkpoint(engine, reporter, number);
        number += 1;
    }
}

struct Client {
    client: usize,
    number: u64,
    options: WorkerOptions,
    engine: Engine,
    keyspace: Keyspace,
    reporter: Reporter,
    known: Vec<Known>,
    full_windows: u32,
    random: Random,
}

impl Client {
    fn run(&mut self, stop: &AtomicBool) -> u64 {
        while !stop.load(Ordering::SeqCst) && self.window() {
            self.read_some();
        }
        self.reporter.tell(Kind::ClientEnded, self.client, self.number, &[]);
        self.number
    }

    /// Makes a window of steps; whether to go on.
    fn window(&mut self) -> bool {
        let count = 1 + self.random.below(WINDOW_MAX);
        let (from, to) = (self.number, self.number + count);
        self.number = to;
        self.reporter.tell(Kind::Submitted, self.client, to, &[]);
        let steps: Vec<Step> = (from..to).map(|number| step(self.options.seed, self.client, number)).collect();
        let made = (from..to).zip(&steps).map(|(number, step)| self.make(number, step));
        let results = self.engine.block_on(join_all(made));
        let mut failed = None;
        for ((number, step), result) in (from..to).zip(&steps).zip(results) {
            for &(key, put) in &step.writes {
                let own = self.own(key);
                self.known[own] = match (&result, put) {
                    (Err(_), _) => Known::Unknown,
                    (Ok(()), true) => Known::At(number),
                    (Ok(()), false) => Known::Absent,
                };
            }
            failed = failed.or(result.err());
        }
        match failed {
            None => {
                self.full_windows = 0;
                true
            }
            Some(Error::NoSpace(_)) => {
                self.full_windows += 1;
                self.full_windows < FULL_WINDOWS_MAX
            }
            Some(_) => false,
        }
    }

    async fn make(&self, number: u64, step: &Step) -> siltstone::Result<()> {
        let seed = self.options.seed;
        let bytes_max = self.options.value_bytes_max;
        let result = match step.how {
            How::Single => {
                let (key, put) = step.writes[0];
                match put {
                    true => {
                        self.engine.put(&self.keyspace, &key_bytes(key), &value(seed, key, number, bytes_max)).await
                    }
                    false => self.engine.delete(&self.keyspace, &key_bytes(key)).await,
                }
            }
            How::Batch => {
                let mut batch = WriteBatch::new();
                for &(key, put) in &step.writes {
                    match put {
                        true => batch.put(&self.keyspace, &key_bytes(key), &value(seed, key, number, bytes_max)),
                        false => batch.delete(&self.keyspace, &key_bytes(key)),
                    };
                }
                self.engine.write(batch).await
            }
            How::Operator => self.operate(number, step).await,
        };
        match &result {
            Ok(()) => self.reporter.tell(Kind::Acknowledged, self.client, number, &[]),
            Err(error) => self.reporter.tell_error(Kind::Failed, self.client, number, error),
        }
        result
    }

    /// Ships an operator that reads and writes each key of the step.
    async fn operate(&self, number: u64, step: &Step) -> siltstone::Result<()> {
        let writes: Vec<(u32, bool, Known)> =
            step.writes.iter().map(|&(key, put)| (key, put, self.known[self.own(key)])).collect();
        let (keyspace, reporter) = (self.keyspace.clone(), self.reporter.clone());
        let (client, seed, bytes_max) = (self.client, self.options.seed, self.options.value_bytes_max);
        let key = key_bytes(step.writes[0].0);
        let operator = self.engine.on_shard(&key[..usize::from(PREFIX_BYTES)], move |shard| async move {
            for (key, put, known) in writes {
                let found = shard.get(&keyspace, &key_bytes(key)).await?;
                if !known.agrees(found.as_deref()) {
                    let number = found.as_deref().map(number_of);
                    let text = format!("an operator finds number {number:?} in key {key} where it knows {known:?}");
                    reporter.tell(Kind::Wrong, client, number.unwrap_or_default(), text.as_bytes());
                }
                drop(found);
                match put {
                    true => shard.put(&keyspace, &key_bytes(key), &value(seed, key, number, bytes_max)).await?,
                    false => shard.delete(&keyspace, &key_bytes(key)).await?,
                }
            }
            Ok(())
        });
        operator.await?
    }

    fn read_some(&mut self) {
        let first = self.client as u64 * PARTITIONS * MEMBERS;
        let keys: Vec<u32> = (0..READS).map(|_| (first + self.random.below(PARTITIONS * MEMBERS)) as u32).collect();
        let bytes: Vec<[u8; 9]> = keys.iter().map(|&key| key_bytes(key)).collect();
        match self.engine.get_many_blocking(&self.keyspace, &bytes) {
            Ok(values) => {
                for (key, value) in keys.into_iter().zip(values) {
                    let known = self.known[self.own(key)];
                    if !known.agrees(value.as_deref()) {
                        let number = value.as_deref().map(number_of);
                        let text =
                            format!("a get finds number {number:?} in key {key} where its client knows {known:?}");
                        self.reporter.tell(Kind::Wrong, self.client, 0, text.as_bytes());
                    }
                }
            }
            Err(error) => self.reporter.tell_error(Kind::ReadFailed, self.client, 0, &error),
        }
    }

    /// The place of a key among the client's own.
    fn own(&self, key: u32) -> usize {
        key as usize - self.client * (PARTITIONS * MEMBERS) as usize
    }
}
