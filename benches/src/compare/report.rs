//! Medians, the table (Markdown, aligned), and JSON lines.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;

use serde_json::json;

use crate::Result;
use crate::cli::CompareArgs;
use crate::compare::{Outcome, Series, unbounded_by_memory};
use crate::engines::{Drive, EngineConfig, EngineKind};
use crate::measure::{Latency, median, memory_limit_bytes};
use crate::workload::Workload;

/// Prints the table of all series and appends their medians to the JSON file.
pub(crate) fn print(args: &CompareArgs, config: &EngineConfig, series: &[Series], json: &mut Json) -> Result<()> {
    let medians: Vec<Outcome> = series.iter().map(|line| median_outcome(&line.rounds)).collect();
    println!("{}\n", title(args, config));
    let mut rows = vec![header(args.workload)];
    for (line, median) in series.iter().zip(&medians) {
        let ratio =
            reference(args.engines[0], line.drive.depth(), series, &medians).map(|first| median.ops_per_s / first);
        json.median(line, median, ratio)?;
        rows.push(row(args.workload, config, line, median, ratio));
    }
    print_rows(&rows);
    println!("\nratio: ops/s over those of {} with as many in flight, its best drive.", args.engines[0].name());
    let cached = unbounded_by_memory(args, config);
    if !cached.is_empty() {
        // Part of the table, so that it goes where the table goes.
        println!(
            "NOT COMPARABLE: {} read through a page cache that no memory limit keeps smaller than the data.",
            cached.join(", ")
        );
    }
    Ok(())
}

/// What a line's rate is compared with: the first engine's best at this depth.
fn reference(first: EngineKind, depth: usize, series: &[Series], medians: &[Outcome]) -> Option<f64> {
    let same = series.iter().zip(medians).filter(|(line, _)| line.engine == first && line.drive.depth() == depth);
    same.map(|(_, median)| median.ops_per_s).max_by(f64::total_cmp)
}

fn title(args: &CompareArgs, config: &EngineConfig) -> String {
    format!(
        "{}: {} keys of {} bytes, values of {} bytes ({} MiB), budget {} MiB, {} rounds, memory limit {}",
        args.workload.name(),
        config.keys,
        config.key_bytes,
        config.value_bytes,
        config.data_bytes() >> 20,
        config.memory_bytes >> 20,
        args.rounds,
        memory_limit_bytes(args.cgroup.as_deref()).map_or("none".to_owned(), |bytes| format!("{} MiB", bytes >> 20)),
    )
}

fn header(workload: Workload) -> Vec<String> {
    let mut names = vec!["engine", "drive", "ops/s", "ratio", "p50 us", "p99 us", "p99.9 us", "max us", "CPU us/op"];
    names.extend(["read B/op", "written B/op", "space/data", "peak MiB"]);
    if workload == Workload::Load {
        names.extend(["write amp", "settle s"]);
    }
    names.into_iter().map(str::to_owned).collect()
}

fn row(workload: Workload, config: &EngineConfig, line: &Series, median: &Outcome, ratio: Option<f64>) -> Vec<String> {
    let (data_bytes, ops) = (config.data_bytes() as f64, median.ops as f64);
    let latency = median.latency;
    let mut cells = vec![
        line.engine.name().to_owned(),
        line.drive.to_string(),
        format!("{:.0}", median.ops_per_s),
        ratio.map_or("-".to_owned(), |ratio| format!("{ratio:.2}")),
        format!("{:.1}", latency.p50_us),
        format!("{:.1}", latency.p99_us),
        format!("{:.1}", latency.p999_us),
        format!("{:.0}", latency.max_us),
        format!("{:.2}", median.cpu_us_per_op),
        format!("{:.0}", median.device_read_bytes as f64 / ops),
        format!("{:.0}", median.device_write_bytes as f64 / ops),
        format!("{:.2}", median.space_bytes as f64 / data_bytes),
        format!("{:.0}", median.peak_memory_bytes as f64 / f64::from(1 << 20)),
    ];
    if workload == Workload::Load {
        cells.push(format!("{:.2}", median.device_write_bytes as f64 / data_bytes));
        cells.push(format!("{:.1}", median.settle_s));
    }
    cells
}

fn print_rows(rows: &[Vec<String>]) {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(String::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    for (number, row) in rows.iter().enumerate() {
        let cells: Vec<String> = row
            .iter()
            .zip(&widths)
            .enumerate()
            // Names to the left, figures to the right.
            .map(
                |(column, (cell, &width))| {
                    if column < 2 { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
                },
            )
            .collect();
        println!("| {} |", cells.join(" | "));
        if number == 0 {
            let rules: Vec<String> = widths
                .iter()
                .enumerate()
                .map(
                    |(column, &width)| {
                        if column < 2 { "-".repeat(width) } else { format!("{}:", "-".repeat(width - 1)) }
                    },
                )
                .collect();
            println!("| {} |", rules.join(" | "));
        }
    }
}

/// The median of each figure; of the latency maxima the greatest.
fn median_outcome(rounds: &[Outcome]) -> Outcome {
    let float = |figure: fn(&Outcome) -> f64| median(rounds.iter().map(figure).collect());
    let integer =
        |figure: fn(&Outcome) -> u64| median(rounds.iter().map(|round| figure(round) as f64).collect()) as u64;
    Outcome {
        ops: integer(|round| round.ops),
        ops_per_s: float(|round| round.ops_per_s),
        latency: Latency {
            p50_us: float(|round| round.latency.p50_us),
            p99_us: float(|round| round.latency.p99_us),
            p999_us: float(|round| round.latency.p999_us),
            max_us: rounds.iter().map(|round| round.latency.max_us).fold(0.0, f64::max),
        },
        cpu_us_per_op: float(|round| round.cpu_us_per_op),
        device_read_bytes: integer(|round| round.device_read_bytes),
        device_write_bytes: integer(|round| round.device_write_bytes),
        settle_s: float(|round| round.settle_s),
        space_bytes: integer(|round| round.space_bytes),
        peak_memory_bytes: integer(|round| round.peak_memory_bytes),
    }
}

/// The JSON lines; nowhere without `--json`.
pub(crate) struct Json {
    file: Option<File>,
}

impl Json {
    pub(crate) fn open(path: Option<&Path>) -> Result<Self> {
        let open = |path: &Path| {
            let file = OpenOptions::new().create(true).append(true).open(path);
            file.map_err(|error| format!("{}: {error}", path.display()))
        };
        Ok(Json { file: path.map(open).transpose()? })
    }

    /// What all following lines are of.
    pub(crate) fn setup(&mut self, args: &CompareArgs, config: &EngineConfig) -> Result<()> {
        let engines: Vec<&str> = args.engines.iter().map(|engine| engine.name()).collect();
        self.line(&json!({
            "kind": "setup", "workload": args.workload.name(), "engines": engines, "config": config, "rounds": args.rounds,
            "in_flight": args.in_flight, "ops": args.ops, "seed": args.seed,
            "memory_limit_bytes": memory_limit_bytes(args.cgroup.as_deref()),
            "not_comparable": unbounded_by_memory(args, config),
        }))
    }

    pub(crate) fn round(&mut self, engine: EngineKind, drive: Drive, round: u32, outcome: &Outcome) -> Result<()> {
        self.line(
            &json!({"kind": "round", "engine": engine.name(), "drive": drive, "round": round, "outcome": outcome}),
        )
    }

    fn median(&mut self, line: &Series, outcome: &Outcome, ratio: Option<f64>) -> Result<()> {
        self.line(&json!({
            "kind": "median", "engine": line.engine.name(), "drive": line.drive, "outcome": outcome, "ratio": ratio,
        }))
    }

    fn line(&mut self, value: &serde_json::Value) -> Result<()> {
        if let Some(file) = &mut self.file {
            writeln!(file, "{value}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_maximum_is_kept() {
        let round = |ops_per_s, max_us| Outcome {
            ops_per_s,
            latency: Latency { max_us, ..Latency::default() },
            ..Outcome::default()
        };
        let outcome = median_outcome(&[round(1.0, 5.0), round(9.0, 70.0), round(2.0, 6.0)]);
        assert_eq!(outcome.ops_per_s, 2.0);
        assert_eq!(outcome.latency.max_us, 70.0);
    }

    #[test]
    fn the_reference_is_the_best_drive_of_the_same_depth() {
        let line = |engine, drive| Series { engine, drive, rounds: Vec::new() };
        let series = [
            line(EngineKind::RocksDb, Drive::Blocking),
            line(EngineKind::RocksDb, Drive::Batch(32)),
            line(EngineKind::RocksDb, Drive::Threads(32)),
            line(EngineKind::Fjall, Drive::Threads(32)),
        ];
        let medians = [10.0, 20.0, 60.0, 90.0].map(|ops_per_s| Outcome { ops_per_s, ..Outcome::default() });
        assert_eq!(reference(EngineKind::RocksDb, 32, &series, &medians), Some(60.0));
        assert_eq!(reference(EngineKind::RocksDb, 1, &series, &medians), Some(10.0));
        assert_eq!(reference(EngineKind::RocksDb, 128, &series, &medians), None);
    }
}
