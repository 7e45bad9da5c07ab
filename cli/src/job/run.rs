//! The job's loop: events out to the shards, effects back in order.

use std::collections::VecDeque;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use hdrhistogram::Histogram;
use siltstone::state::partition_of;
use siltstone::{CheckpointInfo, Engine, Result as StoreResult};

use super::checkpoint::JobPosition;
use super::error::JobError;
use super::event::{DAY_MS, Event, format_time};
use super::output::Outputs;
use super::source::{Message, Position, Source};
use super::state::{Effects, States, window_end_ms};
use super::summary::{Progress, Summary};
use crate::clock;

/// Events under way at a time. They wait for each other on a shard only where they have one tail number; the window keeps all shards busy
/// while the effects of the oldest event come back.
const IN_FLIGHT_EVENTS: usize = 512;

/// Latencies above an hour count as an hour.
const LATENCY_NS_MAX: u64 = 3_600_000_000_000;

type Reply<T> = Pin<Box<dyn Future<Output = StoreResult<T>> + Send>>;

/// A run of the job.
pub(crate) struct Run {
    engine: Engine,
    states: Arc<States>,
    outputs: Outputs,
    checkpoint_every: u64,
    /// Events whose effects are not yet written, oldest first.
    in_flight: VecDeque<InFlight>,
    /// What the next checkpoint will carry, but for the outputs.
    position: JobPosition,
    /// No timer is earlier than this; none at all where it is `None`.
    next_due_ms: Option<i64>,
    /// The checkpoint that is becoming durable.
    pending: Option<(Instant, Reply<CheckpointInfo>)>,
    checkpoints: Vec<Duration>,
    latency_ns: Histogram<u64>,
}

struct InFlight {
    time_ms: i64,
    sent: Instant,
    reply: Reply<StoreResult<(Effects, String, Instant)>>,
}

impl Run {
    pub(crate) fn new(
        engine: Engine,
        states: States,
        outputs: Outputs,
        position: JobPosition,
        checkpoint_every: u64,
    ) -> Self {
        Run {
            engine,
            states: Arc::new(states),
            outputs,
            checkpoint_every,
            in_flight: VecDeque::with_capacity(IN_FLIGHT_EVENTS),
            position,
            // Unknown until the shards have been asked, which the first event's time makes happen.
            next_due_ms: Some(i64::MIN),
            pending: None,
            checkpoints: Vec::new(),
            latency_ns: Histogram::new_with_bounds(1, LATENCY_NS_MAX, 3)
                .expect("the bounds and three digits are allowed"),
        }
    }

    /// Processes what the source has left to give, and finishes the job.
    pub(crate) fn finish_job(mut self, source: &Source, output_dir: &Path) -> Result<Summary, JobError> {
        let started = clock::now();
        let events_before = self.position.events;
        let mut progress = Progress::new(source.file_bytes);
        loop {
            match source.messages.recv() {
                Ok(Message::Rows(rows)) => {
                    for (event, behind) in rows {
                        self.event(event, behind)?;
                    }
                }
                Ok(Message::End(position)) => {
                    self.position.source = position;
                    break;
                }
                Ok(Message::Failed(error)) => return Err(error),
                Err(_) => return Err(JobError::Thread(std::io::Error::other("the source thread has ended"))),
            }
            self.poll_checkpoint()?;
            progress.show(source.read_bytes(), self.position.events, self.checkpoints.len() as u64);
        }
        self.finish()?;
        progress.finish();

        let stats = self.engine.block_on(self.engine.stats())?;
        self.engine.close_blocking()?;
        let outputs = self.position.outputs;
        Ok(Summary {
            events: self.position.events - events_before,
            elapsed: clock::now() - started,
            events_total: self.position.events,
            skipped_total: self.position.source.skipped,
            latency_ns: self.latency_ns,
            checkpoints: self.checkpoints,
            bytes_written: stats.device_bytes_written,
            cache_hits: stats.cache_hits,
            cache_misses: stats.cache_misses,
            output_dir: output_dir.to_path_buf(),
            outputs: [
                ("windows", outputs[0].rows),
                ("alerts", outputs[1].rows),
                ("gaps", outputs[2].rows),
                ("routes", outputs[3].rows),
            ],
        })
    }

    fn event(&mut self, event: Event, behind: Position) -> Result<(), JobError> {
        if self.next_due_ms.is_some_and(|due_ms| due_ms <= event.time_ms) {
            self.fire(event.time_ms)?;
        }
        if self.in_flight.len() == IN_FLIGHT_EVENTS {
            self.write_oldest()?;
        }
        let end_ms = window_end_ms(event.time_ms);
        self.next_due_ms = Some(self.next_due_ms.map_or(end_ms, |due_ms| due_ms.min(end_ms)));
        self.position.source = behind;
        self.position.events += 1;
        self.position.watermark_ms = self.position.watermark_ms.max(Some(event.time_ms));
        self.ship(event);
        if self.position.events.is_multiple_of(self.checkpoint_every) {
            self.checkpoint()?;
        }
        Ok(())
    }

    /// Sends the event to the shard of its tail number. The message is sent here, in order; only its reply is awaited later.
    fn ship(&mut self, event: Event) {
        let states = Arc::clone(&self.states);
        let sent = clock::now();
        let time_ms = event.time_ms;
        let reply = self.engine.on_shard(&partition_of(&event.tailnum), move |shard| async move {
            let effects = states.process(&shard, &event).await?;
            Ok((effects, event.tailnum, clock::now()))
        });
        self.in_flight.push_back(InFlight { time_ms, sent, reply: Box::pin(reply) });
    }

    /// Awaits the oldest event in flight and writes its effects.
    fn write_oldest(&mut self) -> Result<(), JobError> {
        let Some(InFlight { time_ms, sent, reply }) = self.in_flight.pop_front() else { return Ok(()) };
        let (effects, tailnum, done) = self.engine.block_on(reply)??;
        self.latency_ns.saturating_record((done - sent).as_nanos() as u64);
        if let Some(alert) = effects.alert {
            self.outputs.alerts.write((format_time(time_ms), &tailnum, alert.delays, alert.arr_delay_sum))?;
        }
        if let Some(minutes) = effects.gap_minutes {
            self.outputs.gaps.write((format_time(time_ms), &tailnum, minutes))?;
        }
        Ok(())
    }

    fn drain(&mut self) -> Result<(), JobError> {
        while !self.in_flight.is_empty() {
            self.write_oldest()?;
        }
        Ok(())
    }

    /// Fires all timers up to a time, on all shards, in order of (time, tail number).
    fn fire(&mut self, until_ms: i64) -> Result<(), JobError> {
        self.drain()?;
        let states = Arc::clone(&self.states);
        let fired = self
            .engine
            .block_on(self.engine.on_each_shard(move |shard| {
                let states = Arc::clone(&states);
                async move { states.fire(&shard, until_ms).await }
            }))?
            .into_iter()
            .collect::<StoreResult<Vec<_>>>()?;
        self.next_due_ms = fired.iter().filter_map(|(_, next_due_ms)| *next_due_ms).min();
        let mut windows: Vec<_> = fired.into_iter().flat_map(|(windows, _)| windows).collect();
        windows.sort_unstable_by(|a, b| (a.end_ms, &a.tailnum).cmp(&(b.end_ms, &b.tailnum)));
        for window in windows {
            let start = format_time(window.end_ms - DAY_MS);
            let day = window.day;
            let row = (start, &window.tailnum, day.flights, day.dep_delay_sum, day.dep_delay_min, day.dep_delay_max);
            self.outputs.windows.write(row)?;
        }
        Ok(())
    }

    /// Opens the barrier of a checkpoint, after the one before has become durable. The state needs no drain for it; the outputs do: their lengths in the
    /// checkpoint must be those after exactly the events before the barrier.
    fn checkpoint(&mut self) -> Result<(), JobError> {
        self.drain()?;
        self.await_checkpoint()?;
        self.position.outputs = self.outputs.sync()?;
        let reply = self.engine.checkpoint(&self.position.name(), self.position.encode());
        self.pending = Some((clock::now(), Box::pin(reply)));
        Ok(())
    }

    /// Notes the end of the pending checkpoint, if it has come.
    fn poll_checkpoint(&mut self) -> Result<(), JobError> {
        if let Some((begun, reply)) = &mut self.pending
            && let Some(result) = reply.now_or_never()
        {
            result?;
            self.checkpoints.push(clock::now() - *begun);
            self.pending = None;
        }
        Ok(())
    }

    fn await_checkpoint(&mut self) -> Result<(), JobError> {
        if let Some((begun, reply)) = self.pending.take() {
            self.engine.block_on(reply)?;
            self.checkpoints.push(clock::now() - begun);
        }
        Ok(())
    }

    /// The end of the input: all timers fire, the live routes are written, and a checkpoint says that the job is finished.
    fn finish(&mut self) -> Result<(), JobError> {
        self.fire(i64::MAX)?;
        if let Some(watermark_ms) = self.position.watermark_ms {
            let states = Arc::clone(&self.states);
            let routes = self
                .engine
                .block_on(self.engine.on_each_shard(move |shard| {
                    let states = Arc::clone(&states);
                    async move { states.routes(&shard, watermark_ms).await }
                }))?
                .into_iter()
                .collect::<StoreResult<Vec<_>>>()?;
            let mut routes: Vec<_> = routes.into_iter().flatten().collect();
            routes.sort_unstable_by(|a, b| (&a.0, &a.1).cmp(&(&b.0, &b.1)));
            for (tailnum, dest, route) in routes {
                self.outputs.routes.write((tailnum, dest, route.flights, route.arr_delay_sum))?;
            }
        }
        self.position.finished = true;
        self.checkpoint()?;
        self.await_checkpoint()
    }
}
