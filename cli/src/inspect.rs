//! `info`, `verify` and `scan`: looking into a volume that nobody has open.

use std::error::Error;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::PathBuf;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use siltstone::inspect::{self, Problem, VolumeInfo};
use siltstone::{DeviceKind, Discard, Engine, Geometry, Options, ScanRange};

use crate::probe::print_profile;
use crate::size;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

#[derive(Args, Debug)]
pub(crate) struct InfoArgs {
    /// The volume: its file or device, or the directory of its file
    path: PathBuf,
}

#[derive(Args, Debug)]
pub(crate) struct VerifyArgs {
    /// The volume: its file or device, or the directory of its file
    path: PathBuf,
}

#[derive(Args, Debug)]
pub(crate) struct ScanArgs {
    /// The volume: its file or device, or the directory of its file
    path: PathBuf,
    /// The keyspace to read
    #[arg(long, value_name = "K")]
    keyspace: String,
    /// Only keys that start with these bytes, in hexadecimal
    #[arg(long, value_name = "HEX", value_parser = parse_hex)]
    prefix: Option<Bytes>,
}

/// Bytes given in hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Bytes(Vec<u8>);

/// Prints what is in a volume.
pub(crate) fn info(args: &InfoArgs) -> Result<()> {
    let info = inspect::info(&args.path)?;
    finish_output(print_info(&mut BufWriter::new(io::stdout().lock()), &info))
}

fn print_info(out: &mut impl Write, info: &VolumeInfo) -> io::Result<()> {
    writeln!(out, "volume       {}, {}", info.path.display(), hex(&info.uuid))?;
    writeln!(
        out,
        "made of      extents of {}, pages of {}, {} key groups over {} shards",
        size::show(info.extent_bytes.into()),
        size::show(info.page_bytes.into()),
        info.key_groups,
        info.shards
    )?;
    writeln!(
        out,
        "size         {}, of which {} in SSTs and {} in metadata",
        size::show(info.device_bytes),
        size::show(info.sst_extent_bytes),
        size::show(info.metadata_bytes)
    )?;
    print_device(out, &info.geometry)?;
    match &info.profile {
        Some(profile) => print_profile(out, profile)?,
        None => writeln!(out, "profile      none: `siltstone probe` measures the device")?,
    }
    print_wear(out, info)?;
    writeln!(out, "history      generation {}, epoch {}", info.generation, info.epoch)?;
    writeln!(out, "checkpoints  {}", info.checkpoints.len())?;
    for checkpoint in &info.checkpoints {
        writeln!(out, "  {} {:?}, {} bytes of its own", checkpoint.id, checkpoint.name, checkpoint.bytes.len())?;
    }
    writeln!(out, "keyspaces    {}", info.keyspaces.len())?;
    for keyspace in &info.keyspaces {
        writeln!(out, "  {:?}", keyspace.name)?;
        let levels = keyspace.levels.iter().enumerate().filter(|(_, level)| level.tables > 0);
        for (number, level) in levels {
            writeln!(
                out,
                "    level {number}: {} SSTs, {}, {} entries, {} of them tombstones",
                level.tables,
                size::show(level.bytes),
                level.entries,
                level.tombstones
            )?;
        }
    }
    out.flush()
}

/// What the device is, and what of it is in use.
fn print_device(out: &mut impl Write, geometry: &Geometry) -> io::Result<()> {
    let kind = match geometry.kind {
        DeviceKind::File => "a file",
        DeviceKind::Block => "a block device",
        DeviceKind::NvmePassthrough => "an NVMe namespace, past the block layer",
        _ => "a device",
    };
    let with = |has: bool, what: &str, not: &str| if has { what.to_string() } else { not.to_string() };
    let size = |bytes: u32| size::show(bytes.into());
    writeln!(
        out,
        "device       {kind}; logical blocks of {}, physical of {}; transfers up to {}",
        size(geometry.logical_block_bytes),
        size(geometry.physical_block_bytes),
        size(geometry.max_io_bytes)
    )?;
    let features = [
        with(geometry.direct, "direct I/O", "no direct I/O: the page cache is in between"),
        with(geometry.nowait, "starts without blocking", "each operation takes a kernel thread"),
        if geometry.writes_are_durable() {
            "no volatile cache: nothing to flush".into()
        } else {
            with(geometry.volatile_cache, "flushes a volatile cache", "flushes the file's metadata")
        },
        match geometry.discard {
            Discard::None => "no discards".into(),
            Discard::Hole => "discards as holes".into(),
            _ => "discards as commands".to_string(),
        },
        match geometry.atomic_write_bytes {
            0 => "writes are atomic by the logical block".into(),
            bytes => format!("writes are atomic up to {}", size(bytes)),
        },
        match (geometry.write_streams(), geometry.placement_handles) {
            (0, _) => "no write streams".into(),
            (used, had) => format!("writes in {used} of {had} streams, by how long they live"),
        },
    ];
    writeln!(out, "             {}", features.join("; "))
}

/// What the volume has cost the device.
fn print_wear(out: &mut impl Write, info: &VolumeInfo) -> io::Result<()> {
    let wear = &info.wear;
    writeln!(
        out,
        "written      {}: log {}, level 0 {}, deeper levels {}, metadata {}; by probes {}",
        size::show(wear.written_bytes()),
        size::show(wear.wal_bytes),
        size::show(wear.level_0_bytes),
        size::show(wear.deep_bytes),
        size::show(wear.metadata_bytes),
        size::show(info.profile.map_or(0, |profile| profile.probed_bytes))
    )?;
    writeln!(out, "discarded    {} in {} discards", size::show(wear.discarded_bytes), wear.discards)
}

/// Reads and checks all of a volume; true where nothing is wrong.
pub(crate) fn verify(args: &VerifyArgs) -> Result<bool> {
    let bar = io::stderr().is_terminal().then(|| {
        let style = ProgressStyle::with_template("{bar:40} {percent:>3}%, {binary_bytes_per_sec}, {eta} left");
        ProgressBar::new(0).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
    });
    let report = inspect::verify(&args.path, |read, total| {
        if let Some(bar) = &bar {
            bar.set_length(total);
            bar.set_position(read);
        }
    })?;
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    let mut out = BufWriter::new(io::stdout().lock());
    let printed = (|| {
        for problem in &report.problems {
            print_problem(&mut out, problem)?;
        }
        writeln!(
            out,
            "{}: read {} SSTs, {} blocks, {}, {} entries, and {} commits in logs",
            match report.problems.len() {
                0 => "nothing is wrong".to_string(),
                1 => "1 problem".to_string(),
                count => format!("{count} problems"),
            },
            report.tables,
            report.blocks,
            size::show(report.bytes),
            report.entries,
            report.log_commits
        )?;
        out.flush()
    })();
    finish_output(printed)?;
    Ok(report.is_clean())
}

fn print_problem(out: &mut impl Write, problem: &Problem) -> io::Result<()> {
    if let Some(shard) = problem.shard {
        write!(out, "shard {shard}: ")?;
    }
    if let Some(offset) = problem.offset {
        write!(out, "byte {offset}: ")?;
    }
    writeln!(out, "{}", problem.text)
}

/// Prints the keys and values of a keyspace, in hexadecimal, one entry a line, in the order of (key group, key).
pub(crate) fn scan(args: &ScanArgs) -> Result<()> {
    let shards = inspect::info(&args.path)?.shards;
    let engine = Engine::open(Options::at(&args.path).create(false).read_only(true).shards(shards))?;
    let keyspace = engine.keyspace(&args.keyspace)?;
    let range = args.prefix.as_ref().map_or_else(ScanRange::all, |prefix| ScanRange::prefix(&prefix.0[..]));
    let mut scan = engine.scan(&keyspace, range);
    let mut out = BufWriter::new(io::stdout().lock());
    while let Some((key, value)) = engine.block_on(scan.next())? {
        if let Err(error) = writeln!(out, "{}\t{}", hex(&key), hex(&value)) {
            return finish_output(Err(error));
        }
    }
    finish_output(out.flush())?;
    engine.close_blocking()?;
    Ok(())
}

/// A reader that has seen enough, such as `head`, is no error.
fn finish_output(result: io::Result<()>) -> Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 0xf]);
    digits.map(|digit| char::from(DIGITS[usize::from(digit)])).collect()
}

fn parse_hex(text: &str) -> std::result::Result<Bytes, String> {
    let digits: Option<Vec<u8>> = text.chars().map(|c| c.to_digit(16).map(|digit| digit as u8)).collect();
    match digits {
        Some(digits) if digits.len() % 2 == 0 => {
            Ok(Bytes(digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()))
        }
        _ => Err("pairs of hexadecimal digits are needed, such as 4e31".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hexadecimal_round_trips() {
        assert_eq!(hex(&[0x00, 0x4e, 0xff]), "004eff");
        assert_eq!(parse_hex("004EfF"), Ok(Bytes(vec![0x00, 0x4e, 0xff])));
        assert_eq!(parse_hex(""), Ok(Bytes(vec![])));
        assert!(parse_hex("4e3").is_err());
        assert!(parse_hex("xy").is_err());
    }
}
