//! `probe`: measures a device, prints a table and the profile that the engine uses, or all of it for programs ([`json`]).

mod json;

use std::error::Error;
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use siltstone::{Access, IoProfile, Measurement, Options, ProbeOptions, ProbeReport, ProbeSubject};

use crate::backend::Backend;
use crate::size;

#[derive(Args, Debug)]
pub(crate) struct ProbeArgs {
    /// The volume, or a device, a file, or a directory (where a temporary file is used)
    path: PathBuf,
    /// How a device is driven
    #[arg(long, value_enum, default_value_t = Backend::Auto)]
    backend: Backend,
    /// Poll for the device's completions, which it must have queues for
    #[arg(long)]
    polled: bool,
    /// How long it may take
    #[arg(long, value_name = "SECONDS", default_value_t = 5.0)]
    seconds: f64,
    /// Write also to what is no volume; it must be blank
    #[arg(long)]
    write: bool,
    /// With --write: destroy what the device holds: a filesystem, a partition table
    #[arg(long, requires = "write")]
    force: bool,
    /// Print the report as one JSON object, when all is measured
    #[arg(long)]
    json: bool,
}

/// Measures and prints each figure as it comes, and the profile in the end.
pub(crate) fn probe(args: &ProbeArgs) -> Result<(), Box<dyn Error>> {
    let duration = Duration::try_from_secs_f64(args.seconds).map_err(|_| "--seconds: a time is needed, such as 5")?;
    if args.force {
        eprintln!("{}: what it holds is destroyed, unless it is a volume", args.path.display());
    } else if args.write {
        eprintln!("{}: it is written to, if it is blank", args.path.display());
    }
    let measuring = ProbeOptions::default().duration(duration).write(args.write).force(args.force);
    let options = args.backend.apply(Options::at(&args.path)).polled(args.polled);
    let mut table = Table::default();
    let shown = |measured: &Measurement| {
        if !args.json {
            table.row(measured)
        }
    };
    let report = siltstone::probe(&options, &measuring, shown)?;
    // Printed or not, the measuring is done: a reader that has seen enough is no error.
    let mut out = io::stdout().lock();
    let _ = if args.json { print_json(&mut out, &report) } else { print_report(&mut out, &report) };
    Ok(())
}

/// The part of the table that is printed.
#[derive(Default)]
struct Table {
    begun: bool,
    beside: bool,
}

impl Table {
    fn row(&mut self, measured: &Measurement) {
        let mut out = io::stdout().lock();
        let _ = self.print(&mut out, measured).and_then(|()| out.flush());
    }

    fn print(&mut self, out: &mut impl Write, measured: &Measurement) -> io::Result<()> {
        let times = format!("{:>8} {:>8} {:>8}", measured.p50_us, measured.p90_us, measured.p99_us);
        if let Some(beside) = measured.beside_bytes {
            if !std::mem::replace(&mut self.beside, true) {
                writeln!(out)?;
                writeln!(
                    out,
                    "{:<34} {:>9} {:>12} {:>8} {:>8} {:>8}",
                    "one read of 4 KiB at a time beside", "reads/s", "written/s", "p50 us", "p90 us", "p99 us"
                )?;
            }
            let what = match beside {
                0 => "nothing".into(),
                bytes => format!("{} of writes in flight", size::show(bytes)),
            };
            let moved = size::show(measured.background_bytes_per_s());
            return writeln!(out, "{what:<34} {:>9} {moved:>12} {times}", measured.operations_per_s());
        }
        if !std::mem::replace(&mut self.begun, true) {
            writeln!(
                out,
                "{:<34} {:>9} {:>12} {:>8} {:>8} {:>8}",
                "", "ops/s", "bytes/s", "p50 us", "p90 us", "p99 us"
            )?;
        }
        let access = match measured.access {
            Access::Fill => "fill",
            Access::Read => "read",
            Access::Write => "write",
            Access::DurableWrite => "durable write",
            _ => "other",
        };
        let what = format!("{access} {}, depth {}", size::show(measured.transfer_bytes.into()), measured.depth);
        let moved = size::show(measured.bytes_per_s());
        writeln!(out, "{what:<34} {:>9} {moved:>12} {times}", measured.operations_per_s())
    }
}

fn print_json(out: &mut impl Write, report: &ProbeReport) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, &json::Report::from(report))?;
    writeln!(out)?;
    out.flush()
}

fn print_report(out: &mut impl Write, report: &ProbeReport) -> io::Result<()> {
    writeln!(out)?;
    let on = match report.subject {
        ProbeSubject::Volume if report.only_read.is_none() => "the free space of a volume",
        ProbeSubject::Volume => "a volume",
        ProbeSubject::TemporaryFile => "a temporary file, which is gone",
        _ => "what is no volume",
    };
    writeln!(out, "measured on  {}: {} of {on}", report.path.display(), size::show(report.area_bytes))?;
    let Some(profile) = &report.profile else {
        let why = report.only_read.as_deref().unwrap_or("nothing was written");
        writeln!(out, "only read    {why}; what was never written may be answered without the device")?;
        return writeln!(out, "profile      none: it takes writes");
    };
    print_profile(out, profile)?;
    writeln!(
        out,
        "             {}",
        match (report.stored, &report.subject) {
            (true, _) => "stored in the volume: the engine uses it from the next opening on",
            (false, _) => "not stored: only a volume keeps it",
        }
    )?;
    out.flush()
}

/// What a device can do, and what the engine makes of it.
pub(crate) fn print_profile(out: &mut impl Write, profile: &IoProfile) -> io::Result<()> {
    writeln!(
        out,
        "profile      reads of 4 KiB: {} us, 99 % within {} us, up to {} a second; durable writes: {} us",
        profile.read_p50_us, profile.read_p99_us, profile.read_iops, profile.durable_write_us
    )?;
    writeln!(
        out,
        "             reads {}/s, writes {}/s; background: {} and {} operations in flight, divided by the shards",
        size::show(profile.read_bytes_per_s),
        size::show(profile.write_bytes_per_s),
        size::show(profile.background_bytes),
        profile.background_ops
    )
}
