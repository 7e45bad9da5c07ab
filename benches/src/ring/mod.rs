//! The limit: random 4 KiB direct reads of a file by a bare ring, and by `pread`.
//!
//! The engine's reads are held to these figures, so the ring has all that helps: fixed file, fixed buffers, deferred task
//! work, one enter for all that is ready.

mod reader;

use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use crate::Result;
use crate::cli::IoArgs;
use crate::measure::{Recorder, Usage, now};
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

/// Runs the `io` subcommand.
pub(crate) fn run(args: &IoArgs) -> Result<()> {
    let pages = prepare(&args.file, args.size)?;
    let file = open_direct(&args.file)?;
    println!("random {PAGE_BYTES}-byte O_DIRECT reads of {}, {} MiB", args.file.display(), (pages * PAGE_BYTES) >> 20);
    println!(
        "{:<12}{:>7}{:>11}{:>10}{:>10}{:>10}{:>10}{:>12}",
        "", "depth", "reads/s", "p50 us", "p99 us", "p99.9 us", "max us", "CPU us/read"
    );
    // What the first reads of a cold device cost is not what is asked for.
    pread(&file, pages, args.seed ^ 1, Duration::from_millis(200))?;
    print_row("pread", 1, || pread(&file, pages, args.seed, Duration::from_secs(args.seconds)))?;
    for &depth in &args.depths {
        print_row("ring", depth, || ring(&file, pages, depth, args.seed, Duration::from_secs(args.seconds)))?;
    }
    Ok(())
}

fn print_row(name: &str, depth: usize, measure: impl FnOnce() -> Result<Recorder>) -> Result<()> {
    let (before, start) = (Usage::so_far()?, now());
    let recorder = measure()?;
    let (seconds, usage) = (start.elapsed().as_secs_f64(), Usage::so_far()?.since(before));
    let (reads, latency) = (recorder.count() as f64, recorder.latency());
    println!(
        "{name:<12}{depth:>7}{:>11.0}{:>10.1}{:>10.1}{:>10.1}{:>10.1}{:>12.2}",
        reads / seconds,
        latency.p50_us,
        latency.p99_us,
        latency.p999_us,
        latency.max_us,
        usage.cpu_us as f64 / reads,
    );
    Ok(())
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

/// Makes sure that there are pages to read, and says how many.
fn prepare(path: &Path, size: Option<u64>) -> Result<u64> {
    let existing_bytes = path.metadata().map(|metadata| metadata.len()).unwrap_or(0);
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
}
