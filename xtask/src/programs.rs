//! What guests run: programs of the workspace, and the flights job's input with what must come of it.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::initramfs::Program;
use crate::run::{Result, output, run};
use crate::steps::Step;

/// Test programs of the workspace that guests run: the package, the file of its `tests` folder, and the step that runs it.
const TESTS: [(&str, &str, &str); 3] = [
    ("siltstone-io", "conformance", "conformance"),
    ("siltstone-io", "block_devices", "devices"),
    ("siltstone-tests", "model", "devices"),
];
/// Rows of the flights that the job reads in a guest.
const ROWS: usize = 40_000;

/// Builds what is tested: the command, the torture suite, and the test programs of these steps.
pub(crate) fn build(target: &Path, steps: &[&Step]) -> Result<Vec<Program>> {
    let mut programs = Vec::new();
    // One after the other: the features of the second would be the first's too.
    for (package, name) in [("siltstone-cli", "siltstone"), ("siltstone-tests", "siltstone-torture")] {
        let mut command = cargo();
        let status = command.args(["build", "--release", "--quiet", "-p", package, "--bin", name]).status();
        if !status.map_err(text)?.success() {
            return Err(format!("cargo build -p {package} has failed"));
        }
        programs.push(Program { path: target.join("release").join(name), name: name.into() });
    }
    for (package, name, _) in TESTS.iter().filter(|(_, _, user)| steps.iter().any(|step| step.name == *user)) {
        let mut command = cargo();
        command.args([
            "test",
            "--release",
            "--no-run",
            "--quiet",
            "--message-format=json",
            "-p",
            package,
            "--test",
            name,
        ]);
        if *package == "siltstone-io" {
            command.args(["--features", "testing"]);
        }
        let messages = output(&mut command)?;
        let path = messages
            .lines()
            .find_map(|message| executable(message, name))
            .ok_or_else(|| format!("cargo test -p {package} makes no {name}"))?;
        programs.push(Program { path: path.into(), name: (*name).into() });
    }
    Ok(programs)
}

fn cargo() -> Command {
    Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".into()))
}

/// The program of this test, where a message of cargo speaks of it; of other programs it speaks, too.
fn executable<'m>(message: &'m str, test: &str) -> Option<&'m str> {
    if !message.contains(r#""kind":["test"]"#) || !message.contains(&format!(r#""name":"{test}""#)) {
        return None;
    }
    let (_, rest) = message.split_once("\"executable\":\"")?;
    rest.split_once('"').map(|(path, _)| path)
}

/// The job's input, and the checksums of what the job makes of it on the host.
pub(crate) fn job_files(siltstone: &Path, scratch: &Path) -> Result<Vec<(PathBuf, String)>> {
    let all = Path::new(env!("CARGO_MANIFEST_DIR")).join("../data/flights.csv.zst");
    let mut zstd = Command::new("zstd").arg("-dc").arg(&all).stdout(Stdio::piped()).spawn().map_err(text)?;
    let input = scratch.join("flights.csv");
    let mut file = fs::File::create(&input).map_err(text)?;
    for line in BufReader::new(zstd.stdout.take().ok_or("no output")?).lines().take(ROWS + 1) {
        writeln!(file, "{}", line.map_err(text)?).map_err(text)?;
    }
    // It is not read to its end, which zstd does not like.
    let _ = zstd.kill();
    let _ = zstd.wait();
    let out = scratch.join("out");
    let mut job = Command::new(siltstone);
    job.args(["job", "flights", "--shards", "1", "--memory", "64M", "--input"]).arg(&input);
    run(job.arg("--store").arg(scratch.join("store")).arg("--output").arg(&out))?;
    let names = ["windows.csv", "alerts.csv", "gaps.csv", "routes.csv"];
    let sums = output(Command::new("sha256sum").args(names).current_dir(&out))?;
    let outputs = scratch.join("outputs.sha256");
    fs::write(&outputs, sums).map_err(text)?;
    Ok(vec![(input, "/data/flights.csv".into()), (outputs, "/data/outputs.sha256".into())])
}

fn text(error: std::io::Error) -> String {
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::steps::STEPS;

    #[test]
    fn every_test_program_has_a_step_that_runs_it() {
        for (_, program, user) in TESTS {
            assert!(STEPS.iter().any(|step| step.name == user), "{program} is run by {user}");
        }
    }

    #[test]
    fn the_program_is_found_in_what_cargo_says() {
        let message =
            r#"{"target":{"kind":["test"],"name":"model"},"filenames":["/a/b"],"executable":"/a/b-1","fresh":true}"#;
        assert_eq!(executable(message, "model"), Some("/a/b-1"));
        assert_eq!(executable(message, "other"), None);
        assert_eq!(executable(r#"{"target":{"kind":["test"],"name":"model"},"executable":null}"#, "model"), None);
        assert_eq!(executable(r#"{"target":{"kind":["bin"],"name":"model"},"executable":"/a/b"}"#, "model"), None);
    }
}
