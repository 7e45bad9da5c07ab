//! The same reads through the engine's I/O layer: an executor, and one task for each read in flight.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use siltstone_io::{Backend, Buffer, Class, Device, Executor, ExecutorConfig, IoError, SharedDevice};

use super::PAGE_BYTES;
use crate::Result;
use crate::measure::{Recorder, now};
use crate::workload::Random;

/// What the tasks share.
struct Reads {
    device: Device,
    pages: u64,
    begin: Instant,
    duration: Duration,
    random: RefCell<Random>,
    recorder: RefCell<Recorder>,
    error: RefCell<Option<IoError>>,
}

pub(super) fn read(shared: &SharedDevice, pages: u64, depth: usize, seed: u64, duration: Duration) -> Result<Recorder> {
    let config = ExecutorConfig { name: "bench".into(), ..ExecutorConfig::default() }.driving_device(shared);
    let mut executor = Executor::new(config, Backend::Ring)?;
    let handle = executor.handle();
    let reads = Rc::new(Reads {
        device: handle.attach(shared)?,
        pages,
        begin: now(),
        duration,
        random: RefCell::new(Random::new(seed)),
        recorder: RefCell::new(Recorder::new()),
        error: RefCell::default(),
    });
    let frames = handle.buffer_pool(PAGE_BYTES as usize, depth);
    for _ in 0..depth {
        let frame = frames.take().expect("the pool has a frame for each task");
        handle.spawn(Class::Foreground, Rc::clone(&reads).run(frame));
    }
    executor.block_on(handle.sleep_us(duration.as_micros() as u64));
    while executor.tasks() > 0 {
        executor.block_on(handle.sleep_us(100));
    }
    match reads.error.take() {
        Some(error) => Err(error.into()),
        None => Ok(reads.recorder.replace(Recorder::new())),
    }
}

impl Reads {
    /// Reads pages anywhere, one after the other.
    async fn run(self: Rc<Self>, mut buffer: Buffer) {
        while self.begin.elapsed() < self.duration && self.error.borrow().is_none() {
            let offset = self.random.borrow_mut().below(self.pages) * PAGE_BYTES;
            let start = now();
            let (result, back) = self.device.read(offset, buffer, PAGE_BYTES as usize).await;
            buffer = back;
            match result {
                Ok(()) => self.recorder.borrow_mut().record(start),
                Err(error) => *self.error.borrow_mut() = Some(error),
            }
        }
    }
}
