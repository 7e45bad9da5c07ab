//! What the background costs a foreground read: random 4 KiB reads through an executor while tasks of the class compaction read and write large
//! blocks of the same file as fast as they may, for several budgets of background I/O.
//!
//! A round measures each budget once: reads and background together at each depth, and the background alone, whose bandwidth a
//! budget should not cost. Rounds are interleaved, since a shared device has its moods; the table has their medians. The first row has no
//! background: what a read takes at best.

use std::cell::{Cell, RefCell};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use siltstone_io::{
    Backend, Buffer, BufferPool, Class, Device, Executor, ExecutorConfig, IoBudget, IoStats, OpenMode, Placement,
    SharedDevice, WriteDurability,
};

use crate::Result;
use crate::cli::InterferenceArgs;
use crate::measure::{Recorder, median, now};
use crate::ring::PAGE_BYTES;
use crate::workload::Random;

/// How long things run before they are measured.
const WARM_UP: Duration = Duration::from_millis(200);

/// One line of the table.
struct Row {
    /// None: without a background.
    budget: Option<IoBudget>,
    /// Reads in flight; 0: the background alone.
    depth: usize,
    rounds: Vec<Figures>,
}

/// Of one measurement.
#[derive(Clone, Copy, Default)]
struct Figures {
    reads_per_second: f64,
    p50_us: f64,
    p99_us: f64,
    p999_us: f64,
    background_mb_per_second: f64,
}

/// Runs the `interference` subcommand.
pub(crate) fn run(args: &InterferenceArgs) -> Result<()> {
    let block_bytes = args.block as usize;
    let size = args.size / args.block * args.block;
    if size < 2 * args.block || !args.block.is_multiple_of(PAGE_BYTES) {
        return Err("--size must be at least two blocks, and --block whole pages".into());
    }
    let shared = SharedDevice::open(&args.file, OpenMode::Create)?;
    let _removed = RemovedAtEnd(&args.file);
    let setting = Setting { shared, size, block_bytes, background: args.background_depth };
    setting.fill()?;

    let mut rows: Vec<Row> = args.depths.iter().map(|&depth| Row { budget: None, depth, rounds: Vec::new() }).collect();
    for &budget in &args.budgets {
        let depths = args.depths.iter().copied().chain([0]);
        rows.extend(depths.map(|depth| Row { budget: Some(budget), depth, rounds: Vec::new() }));
    }
    for round in 0..args.rounds {
        for row in &mut rows {
            let seed = args.seed.wrapping_add(u64::from(round) << 32);
            row.rounds.push(setting.measure(row.budget, row.depth, seed, Duration::from_secs_f64(args.seconds))?);
        }
        eprintln!("round {} of {}", round + 1, args.rounds);
    }
    println!(
        "random {PAGE_BYTES}-byte reads of {} beside {} tasks that read and write {} KiB; medians of {} rounds of {} s",
        args.file.display(),
        args.background_depth,
        block_bytes >> 10,
        args.rounds,
        args.seconds
    );
    println!(
        "{:<16}{:>7}{:>10}{:>11}{:>11}{:>11}{:>17}",
        "budget", "depth", "reads/s", "p50 us", "p99 us", "p99.9 us", "background MB/s"
    );
    rows.iter().for_each(Row::print);
    Ok(())
}

struct Setting {
    shared: SharedDevice,
    size: u64,
    block_bytes: usize,
    /// Background tasks.
    background: usize,
}

/// What the tasks of a measurement share.
struct Run {
    device: Device,
    blocks: u64,
    block_bytes: usize,
    stop: Cell<bool>,
    recorder: RefCell<Recorder>,
    error: RefCell<Option<siltstone_io::IoError>>,
}

impl Setting {
    /// Writes the file once: a hole would be read without the device.
    fn fill(&self) -> Result<()> {
        let mut executor = Executor::new(ExecutorConfig::default(), Backend::Ring)?;
        let device = executor.handle().attach(&self.shared)?;
        executor.block_on(async {
            device.allocate(0, self.size).await?;
            let mut buffer = Buffer::heap(self.block_bytes);
            for block in 0..self.size / self.block_bytes as u64 {
                buffer.fill(block as u8);
                let offset = block * self.block_bytes as u64;
                let write = device.write(offset, buffer, 0..self.block_bytes, WriteDurability::Cached, Placement::Deep);
                let (result, back) = write.await;
                result?;
                buffer = back;
            }
            device.flush().await
        })?;
        Ok(())
    }

    fn measure(&self, budget: Option<IoBudget>, depth: usize, seed: u64, duration: Duration) -> Result<Figures> {
        let io_budget = budget.unwrap_or_default();
        let config = ExecutorConfig { io_budget, ..ExecutorConfig::default() };
        let mut executor = Executor::new(config, Backend::Ring)?;
        let handle = executor.handle();
        let run = Rc::new(Run {
            device: handle.attach(&self.shared)?,
            blocks: self.size / self.block_bytes as u64,
            block_bytes: self.block_bytes,
            stop: Cell::new(false),
            recorder: RefCell::new(Recorder::new()),
            error: RefCell::new(None),
        });
        let pages = handle.buffer_pool(PAGE_BYTES as usize, depth.max(1));
        for reader in 0..depth as u64 {
            handle.spawn(Class::Foreground, Rc::clone(&run).read(frame(&pages), Random::new(seed ^ reader)));
        }
        let tasks = if budget.is_some() { self.background } else { 0 };
        let blocks = handle.buffer_pool(self.block_bytes, tasks.max(1));
        for task in 0..tasks as u64 {
            let random = Random::new(!(seed ^ task));
            handle.spawn(Class::Compaction, Rc::clone(&run).stream(frame(&blocks), task % 2 == 0, random));
        }
        let wait = |duration: Duration| handle.sleep_us(duration.as_micros() as u64);
        executor.block_on(wait(WARM_UP));
        *run.recorder.borrow_mut() = Recorder::new();
        let (begin, before) = (now(), handle.io_stats());
        executor.block_on(wait(duration));
        let (seconds, after) = (begin.elapsed().as_secs_f64(), handle.io_stats());
        let (reads, latency) = (run.recorder.borrow().count(), run.recorder.borrow().latency());
        run.stop.set(true);
        while executor.tasks() > 0 {
            executor.block_on(wait(Duration::from_millis(1)));
        }
        if let Some(error) = run.error.take() {
            return Err(error.into());
        }
        let bytes = |stats: IoStats| stats.read_bytes + stats.written_bytes;
        let background_bytes = (bytes(after) - bytes(before)).saturating_sub(reads * PAGE_BYTES);
        Ok(Figures {
            reads_per_second: reads as f64 / seconds,
            p50_us: latency.p50_us,
            p99_us: latency.p99_us,
            p999_us: latency.p999_us,
            background_mb_per_second: background_bytes as f64 / 1e6 / seconds,
        })
    }
}

fn frame(pool: &BufferPool) -> Buffer {
    pool.take().expect("the pool has a frame for each task")
}

impl Run {
    /// Reads pages anywhere, one after the other.
    async fn read(self: Rc<Self>, mut buffer: Buffer, mut random: Random) {
        let pages = self.blocks * self.block_bytes as u64 / PAGE_BYTES;
        while !self.stop.get() {
            let start = now();
            let read = self.device.read(random.below(pages) * PAGE_BYTES, buffer, PAGE_BYTES as usize);
            let (result, back) = read.await;
            buffer = back;
            self.recorder.borrow_mut().record(start);
            self.check(result);
        }
    }

    /// Reads or writes blocks anywhere, one after the other.
    async fn stream(self: Rc<Self>, mut buffer: Buffer, writes: bool, mut random: Random) {
        while !self.stop.get() {
            let (offset, len) = (random.below(self.blocks) * self.block_bytes as u64, self.block_bytes);
            let operation = match writes {
                true => self.device.write(offset, buffer, 0..len, WriteDurability::Cached, Placement::Deep),
                false => self.device.read(offset, buffer, len),
            };
            let (result, back) = operation.await;
            buffer = back;
            self.check(result);
        }
    }

    /// The first failure ends the measurement.
    fn check(&self, result: std::result::Result<(), siltstone_io::IoError>) {
        if let Err(error) = result {
            self.stop.set(true);
            self.error.borrow_mut().get_or_insert(error);
        }
    }
}

impl Row {
    fn print(&self) {
        let budget = match self.budget {
            None => "no background".to_owned(),
            Some(IoBudget::UNLIMITED) => "unlimited".to_owned(),
            Some(budget) => format!("{} KiB, {}", budget.background_bytes_max >> 10, budget.background_ops_max),
        };
        let of = |figure: fn(&Figures) -> f64| median(self.rounds.iter().map(figure).collect());
        let background = of(|figures| figures.background_mb_per_second);
        if self.depth == 0 {
            return println!("{budget:<16}{:>7}{:>10}{:>11}{:>11}{:>11}{background:>17.0}", "-", "-", "-", "-", "-");
        }
        println!(
            "{budget:<16}{:>7}{:>10.0}{:>11.1}{:>11.1}{:>11.1}{background:>17.0}",
            self.depth,
            of(|figures| figures.reads_per_second),
            of(|figures| figures.p50_us),
            of(|figures| figures.p99_us),
            of(|figures| figures.p999_us),
        );
    }
}

/// The file goes, however the benchmark ends.
struct RemovedAtEnd<'a>(&'a Path);

impl Drop for RemovedAtEnd<'_> {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(self.0) {
            eprintln!("{} is still there: {error}", self.0.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_are_measured_and_the_file_goes() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("volume");
        let shared = SharedDevice::open(&file, OpenMode::Create).unwrap();
        {
            let _removed = RemovedAtEnd(&file);
            let setting = Setting { shared, size: 4 << 20, block_bytes: 256 << 10, background: 8 };
            setting.fill().unwrap();
            let measure = |budget, depth| setting.measure(budget, depth, 1, Duration::from_millis(200)).unwrap();
            let both = measure(Some(IoBudget::default()), 2);
            assert!(both.reads_per_second > 0.0 && both.background_mb_per_second > 0.0 && both.p99_us >= both.p50_us);
            assert!(measure(None, 1).background_mb_per_second < 1.0);
            let alone = measure(Some(IoBudget::UNLIMITED), 0);
            assert!(alone.background_mb_per_second > 0.0 && alone.reads_per_second == 0.0);
        }
        assert!(!file.exists());
    }

    #[test]
    fn the_middle_of_the_rounds_counts() {
        assert_eq!(median(vec![9.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(Vec::new()), 0.0);
    }
}
