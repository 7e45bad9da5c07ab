//! The limit, and what the engine's I/O layer costs below it: random 4 KiB direct reads of a file or a device by `pread`, by a bare ring, through the
//! layer (`siltstone-io`), and by fio where it is installed.
//!
//! The bare ring has all that helps: fixed file, fixed buffers, deferred task work, one enter for all that is ready. The layer has the same
//! flags. A round measures each row once; rounds are interleaved, since a shared device has its moods. The table has medians, and
//! of reads a second and CPU for a read the median of the rounds' ratios to the bare ring of the same depth.

mod fio;
mod layer;
mod reader;

use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use siltstone_io::{OpenMode, SharedDevice};

use crate::Result;
use crate::cli::IoArgs;
use crate::measure::{Recorder, Usage, median, now};
use crate::workload::{Random, mix};

pub(crate) use reader::RingReader;

/// Bytes of each read.
pub(crate) const PAGE_BYTES: u64 = 4096;

/// A buffer that direct I/O accepts.
#[repr(align(4096))]
pub(crate) struct Page(pub(crate) [u8; PAGE_BYTES as usize]);

impl Page {
    pub(crate) fn zero() -> Self {
        Page([0; PAGE_BYTES as usize])
    }
}

/// Who reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reader {
    Pread,
    Ring,
    Layer,
    Fio,
}

/// Of one measurement.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Figures {
    reads_per_second: f64,
    p50_us: f64,
    p99_us: f64,
    p999_us: f64,
    cpu_us: f64,
}

/// One line of the table.
struct Row {
    reader: Reader,
    /// Reads in flight.
    depth: usize,
    rounds: Vec<Figures>,
}

/// What is read, and for how long.
struct Setting<'a> {
    path: &'a Path,
    file: File,
    device: SharedDevice,
    pages: u64,
    duration: Duration,
}

/// Runs the `io` subcommand.
pub(crate) fn run(args: &IoArgs) -> Result<()> {
    if args.rounds == 0 || args.depths.contains(&0) {
        return Err("--rounds and --depths are at least 1".into());
    }
    let pages = prepare(&args.file, args.size)?;
    let device = SharedDevice::open(&args.file, OpenMode::ReadOnly)?;
    let (path, file) = (&args.file, open_direct(&args.file)?);
    let setting = Setting { path, file, device, pages, duration: Duration::from_secs_f64(args.seconds) };
    let mut rows = vec![Row::new(Reader::Pread, 1)];
    let fio = fio::is_installed();
    for &depth in &args.depths {
        rows.extend([Reader::Ring, Reader::Layer].map(|reader| Row::new(reader, depth)));
        rows.extend(fio.then(|| Row::new(Reader::Fio, depth)));
    }
    // What the first reads of a cold device cost is not what is asked for.
    pread(&setting.file, pages, args.seed ^ 1, Duration::from_millis(200))?;
    for round in 0..args.rounds {
        for row in &mut rows {
            let seed = args.seed.wrapping_add(u64::from(round) << 32);
            row.rounds.push(setting.measure(row.reader, row.depth, seed)?);
        }
        eprintln!("round {} of {}", round + 1, args.rounds);
    }
    println!(
        "random {PAGE_BYTES}-byte O_DIRECT reads of {}, {} MiB; medians of {} rounds of {} s{}",
        args.file.display(),
        (pages * PAGE_BYTES) >> 20,
        args.rounds,
        args.seconds,
        if fio { "" } else { "; fio is not installed" },
    );
    println!(
        "{:<8}{:>7}{:>11}{:>10}{:>10}{:>10}{:>13}{:>14}{:>14}",
        "", "depth", "reads/s", "p50 us", "p99 us", "p99.9 us", "CPU us/read", "reads / ring", "CPU / ring"
    );
    for row in &rows {
        let bare = rows.iter().find(|other| other.reader == Reader::Ring && other.depth == row.depth);
        row.print(bare.filter(|_| matches!(row.reader, Reader::Layer | Reader::Fio)));
    }
    Ok(())
}

impl Setting<'_> {
    fn measure(&self, reader: Reader, depth: usize, seed: u64) -> Result<Figures> {
        if reader == Reader::Fio {
            return fio::measure(self.path, self.pages * PAGE_BYTES, depth, seed, self.duration);
        }
        let (before, start) = (Usage::so_far()?, now());
        let recorder = match reader {
            Reader::Pread => pread(&self.file, self.pages, seed, self.duration)?,
            Reader::Ring => ring(&self.file, self.pages, depth, seed, self.duration)?,
            _ => layer::read(&self.device, self.pages, depth, seed, self.duration)?,
        };
        let (seconds, usage) = (start.elapsed().as_secs_f64(), Usage::so_far()?.since(before));
        let (reads, latency) = (recorder.count().max(1) as f64, recorder.latency());
        Ok(Figures {
            reads_per_second: reads / seconds,
            p50_us: latency.p50_us,
            p99_us: latency.p99_us,
            p999_us: latency.p999_us,
            cpu_us: usage.cpu_us as f64 / reads,
        })
    }
}

impl Row {
    fn new(reader: Reader, depth: usize) -> Row {
        Row { reader, depth, rounds: Vec::new() }
    }

    fn of(&self, figure: impl Fn(&Figures) -> f64) -> f64 {
        median(self.rounds.iter().map(figure).collect())
    }

    /// The median of the rounds' ratios to another row.
    fn ratio(&self, other: &Row, figure: impl Fn(&Figures) -> f64) -> f64 {
        median(self.rounds.iter().zip(&other.rounds).map(|(own, others)| figure(own) / figure(others)).collect())
    }

    fn print(&self, bare: Option<&Row>) {
        let ratio =
            |figure: fn(&Figures) -> f64| bare.map_or(String::new(), |bare| format!("{:.3}", self.ratio(bare, figure)));
        println!(
            "{:<8}{:>7}{:>11.0}{:>10.1}{:>10.1}{:>10.1}{:>13.2}{:>14}{:>14}",
            format!("{:?}", self.reader).to_lowercase(),
            self.depth,
            self.of(|figures| figures.reads_per_second),
            self.of(|figures| figures.p50_us),
            self.of(|figures| figures.p99_us),
            self.of(|figures| figures.p999_us),
            self.of(|figures| figures.cpu_us),
            ratio(|figures| figures.reads_per_second),
            ratio(|figures| figures.cpu_us),
        );
    }
}

fn pread(file: &File, pages: u64, seed: u64, duration: Duration) -> Result<Recorder> {
    let (mut recorder, mut random, mut page) = (Recorder::new(), Random::new(seed), Page::zero());
    let begin = now();
    while begin.elapsed() < duration {
        let start = now();
        file.read_exact_at(&mut page.0, random.below(pages) * PAGE_BYTES)?;
        recorder.record(start);
    }
    Ok(recorder)
}

fn ring(file: &File, pages: u64, depth: usize, seed: u64, duration: Duration) -> Result<Recorder> {
    let mut reader = RingReader::new(file, depth)?;
    let (mut recorder, mut random) = (Recorder::new(), Random::new(seed));
    let begin = now();
    let offsets = std::iter::from_fn(|| (begin.elapsed() < duration).then(|| random.below(pages) * PAGE_BYTES));
    reader.read_all(offsets, |_, _, start| {
        recorder.record(start);
        Ok(())
    })?;
    Ok(recorder)
}

/// Makes sure that there are pages to read, and says how many. A device is taken as it is.
fn prepare(path: &Path, size: Option<u64>) -> Result<u64> {
    let existing_bytes = match File::open(path) {
        Ok(mut file) => file.seek(SeekFrom::End(0))?,
        Err(_) => 0,
    };
    let wanted_bytes = size.unwrap_or(existing_bytes);
    let pages = wanted_bytes / PAGE_BYTES;
    if pages == 0 {
        return Err(format!("{} has no pages to read: give a --size", path.display()).into());
    }
    if existing_bytes < wanted_bytes {
        if existing_bytes > 0 {
            return Err(format!("{} is shorter than --size: name a new file, or a smaller size", path.display()).into());
        }
        fill(path, pages)?;
    }
    Ok(pages)
}

/// Writes a file of pages, each of which begins with its number. It is really written: a hole would be read without the device.
pub(crate) fn fill(path: &Path, pages: u64) -> Result<()> {
    let mut file = BufWriter::with_capacity(1 << 20, File::create_new(path)?);
    let mut page = Page::zero();
    for number in 0..pages {
        page.0[..8].copy_from_slice(&number.to_le_bytes());
        page.0[8..16].copy_from_slice(&mix(number).to_le_bytes());
        file.write_all(&page.0)?;
    }
    file.into_inner()?.sync_all()?;
    Ok(())
}

/// Opens a file for reads that bypass the page cache.
pub(crate) fn open_direct(path: &Path) -> Result<File> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(path);
    file.map_err(|error| format!("open {} with O_DIRECT: {error}", path.display()).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn preparing_fills_a_new_file_and_keeps_an_existing_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pages");
        assert!(prepare(&path, None).is_err());
        assert_eq!(prepare(&path, Some(10 * PAGE_BYTES)).unwrap(), 10);
        assert_eq!(prepare(&path, None).unwrap(), 10);
        assert_eq!(prepare(&path, Some(5 * PAGE_BYTES)).unwrap(), 5);
        assert!(prepare(&path, Some(11 * PAGE_BYTES)).is_err());
    }

    #[test]
    fn every_reader_reads() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pages");
        fill(&path, 64).unwrap();
        let device = SharedDevice::open(&path, OpenMode::ReadOnly).unwrap();
        let file = File::open(&path).unwrap();
        let setting = Setting { path: &path, file, device, pages: 64, duration: Duration::from_millis(20) };
        for (reader, depth) in
            [(Reader::Pread, 1), (Reader::Ring, 1), (Reader::Ring, 7), (Reader::Layer, 1), (Reader::Layer, 7)]
        {
            let figures = setting.measure(reader, depth, 1).unwrap();
            assert!(figures.reads_per_second > 0.0 && figures.p999_us >= figures.p50_us, "{reader:?} {depth}");
        }
    }

    #[test]
    fn ratios_are_of_the_same_round() {
        let row = |rates: [f64; 3]| Row {
            reader: Reader::Ring,
            depth: 1,
            rounds: rates.map(|reads_per_second| Figures { reads_per_second, ..Figures::default() }).to_vec(),
        };
        let ratio = row([2.0, 30.0, 4.0]).ratio(&row([1.0, 10.0, 4.0]), |figures| figures.reads_per_second);
        assert_eq!(ratio, 2.0);
    }
}
