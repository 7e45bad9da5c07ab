//! The same reads by fio, if it is installed: a check of the bare ring.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use super::{Figures, PAGE_BYTES};
use crate::Result;

pub(super) fn is_installed() -> bool {
    let version = Command::new("fio").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    version.is_ok_and(|status| status.success())
}

pub(super) fn measure(path: &Path, bytes: u64, depth: usize, seed: u64, duration: Duration) -> Result<Figures> {
    // A colon separates files.
    let path = path.to_string_lossy().replace(':', "\\:");
    let output = Command::new("fio")
        .args(["--name=reads", "--readonly", "--rw=randread", "--norandommap", "--direct=1", "--thread"])
        .args(["--ioengine=io_uring", "--fixedbufs", "--registerfiles", "--time_based", "--output-format=json"])
        .arg(format!("--filename={path}"))
        .arg(format!("--bs={PAGE_BYTES}"))
        .arg(format!("--size={bytes}"))
        .arg(format!("--iodepth={depth}"))
        .arg(format!("--randseed={seed}"))
        .arg(format!("--runtime={}ms", duration.as_millis()))
        .output()?;
    if !output.status.success() {
        return Err(format!("fio: {}", String::from_utf8_lossy(&output.stderr).trim()).into());
    }
    // Notes may stand before the report.
    let text = String::from_utf8_lossy(&output.stdout);
    let report = text.find('{').map(|start| &text[start..]).unwrap_or_default();
    figures(&serde_json::from_str(report)?).ok_or_else(|| "fio's report lacks something".into())
}

fn figures(report: &Value) -> Option<Figures> {
    let job = report.get("jobs")?.get(0)?;
    let read = job.get("read")?;
    let reads_per_second = read.get("iops")?.as_f64()?;
    let percentiles = read.get("clat_ns")?.get("percentile")?;
    let us = |name: &str| Some(percentiles.get(name)?.as_f64()? / 1000.0);
    // Of one core, in percent.
    let cpu = job.get("usr_cpu")?.as_f64()? + job.get("sys_cpu")?.as_f64()?;
    Some(Figures {
        reads_per_second,
        p50_us: us("50.000000")?,
        p99_us: us("99.000000")?,
        p999_us: us("99.900000")?,
        cpu_us: cpu * 10_000.0 / reads_per_second,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_read() {
        let report = r#"{"jobs":[{"usr_cpu":10.0,"sys_cpu":30.0,"read":{"iops":20000.0,
            "clat_ns":{"percentile":{"50.000000":45000,"99.000000":90000,"99.900000":200000}}}}]}"#;
        let found = figures(&serde_json::from_str(report).unwrap()).unwrap();
        let expected = Figures { reads_per_second: 20_000.0, p50_us: 45.0, p99_us: 90.0, p999_us: 200.0, cpu_us: 20.0 };
        assert_eq!(found, expected);
        assert_eq!(figures(&Value::Null), None);
    }
}
