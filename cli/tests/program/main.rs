//! The program as its users run it: the flights job against an independent reference, and the commands that look into volumes.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod input;
mod inspect;
mod kill;
mod probe;
mod reference;

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use reference::{Expected, reference};
use siltstone_io::testing::places::{Filesystem, Mounted, or_skipped};
use tempfile::TempDir;

/// A run's store and outputs, in a directory of their own.
pub(crate) struct Place {
    dir: TempDir,
}

impl Place {
    pub(crate) fn new() -> Place {
        // Beside the program rather than in /tmp, which may be in memory and refuse direct I/O.
        Place::below(Path::new(env!("CARGO_TARGET_TMPDIR")))
    }

    pub(crate) fn below(folder: &Path) -> Place {
        Place { dir: TempDir::new_in(folder).unwrap() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The job over this place, with more arguments.
    pub(crate) fn job(&self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_siltstone"));
        command.args(["job", "flights", "--store"]).arg(self.path("store"));
        command.arg("--output").arg(self.path("out")).args(args);
        command.stdin(Stdio::null()).env_remove("RUST_LOG");
        command
    }

    /// Another command of the program.
    pub(crate) fn command(&self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Output {
        Command::new(env!("CARGO_BIN_EXE_siltstone")).args(args).env_remove("RUST_LOG").output().unwrap()
    }

    pub(crate) fn run(&self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Output {
        self.job(args).output().unwrap()
    }

    /// Compares the outputs byte by byte; says where they differ rather than printing megabytes.
    pub(crate) fn assert_outputs(&self, expected: &Expected) {
        for (name, expected) in &expected.files {
            let found = fs::read_to_string(self.path("out").join(name)).unwrap();
            if found == *expected {
                continue;
            }
            let differs = found.lines().zip(expected.lines()).position(|(found, expected)| found != expected);
            let line = differs.unwrap_or_else(|| found.lines().count().min(expected.lines().count()));
            panic!(
                "{name} differs from line {}: {:?}, expected {:?} ({} and {} bytes)",
                line + 1,
                found.lines().nth(line),
                expected.lines().nth(line),
                found.len(),
                expected.len()
            );
        }
    }
}

pub(crate) fn assert_success(output: &Output) {
    assert!(output.status.success(), "{}: {}", output.status, text(&output.stderr));
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The text of the input that ships with the repository.
pub(crate) fn flights() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../data/flights.csv.zst");
    String::from_utf8(zstd::decode_all(fs::File::open(path).unwrap()).unwrap()).unwrap()
}

/// The header and the first rows of it.
pub(crate) fn first_flights(rows: usize) -> String {
    flights().split_inclusive('\n').take(rows + 1).collect()
}

fn outputs_equal_the_reference(shards: &str) {
    let expected = reference(&flights());
    assert_eq!(expected.events, 336_776 - 2_512);
    let place = Place::new();
    let output = place.run(["--shards", shards]);
    assert_success(&output);
    place.assert_outputs(&expected);
    let summary = text(&output.stdout);
    for part in
        ["events       334264 in", "latency      p50", "checkpoints  17", "written", "cache", "2512 rows without"]
    {
        assert!(summary.contains(part), "no {part:?} in:\n{summary}");
    }
}

#[test]
fn outputs_equal_the_reference_on_one_shard() {
    outputs_equal_the_reference("1");
}

#[test]
fn outputs_equal_the_reference_on_two_shards() {
    outputs_equal_the_reference("2");
}

#[test]
fn outputs_equal_the_reference_on_four_shards() {
    outputs_equal_the_reference("4");
}

/// Little memory, so that memtables fill and the state is read from tables.
#[test]
fn outputs_equal_the_reference_in_little_memory() {
    let text = first_flights(60_000);
    let place = Place::new();
    fs::write(place.path("flights.csv"), &text).unwrap();
    let input = place.path("flights.csv");
    let input = input.to_str().unwrap();
    assert_success(&place.run(["--input", input, "--shards", "2", "--memory", "8M", "--checkpoint-every", "5000"]));
    place.assert_outputs(&reference(&text));
}

#[test]
fn outputs_equal_the_reference_on_each_filesystem() {
    let text = first_flights(20_000);
    let expected = reference(&text);
    for filesystem in Filesystem::ALL {
        let folder = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let Some(mounted) = or_skipped(Mounted::new(filesystem, folder.path())) else { return };
        let place = Place::below(mounted.path());
        fs::write(place.path("flights.csv"), &text).unwrap();
        let input = place.path("flights.csv");
        let input = input.to_str().unwrap();
        assert_success(&place.run(["--input", input, "--shards", "2", "--memory", "8M", "--checkpoint-every", "3000"]));
        place.assert_outputs(&expected);
    }
}

#[test]
fn a_finished_job_says_so_and_a_fresh_one_starts_anew() {
    let text_of = |rows| first_flights(rows);
    let place = Place::new();
    let input = place.path("flights.csv");
    let input_arg = input.to_str().unwrap().to_string();
    fs::write(&input, text_of(3_000)).unwrap();
    let args = ["--input", &input_arg, "--checkpoint-every", "700"];
    assert_success(&place.run(args));
    place.assert_outputs(&reference(&text_of(3_000)));

    let again = place.run(args);
    assert_success(&again);
    assert!(text(&again.stdout).contains("the job is finished"), "{}", text(&again.stdout));
    place.assert_outputs(&reference(&text_of(3_000)));

    // Another input under the state of the first is refused; with --fresh it is a new job. What is not the job's stays.
    fs::write(&input, text_of(2_000)).unwrap();
    fs::write(place.path("out").join("notes.txt"), "keep").unwrap();
    fs::write(place.path("store").join("notes.txt"), "keep").unwrap();
    let refused = place.run(args);
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("--fresh"), "{}", text(&refused.stderr));
    assert_success(&place.run(args.into_iter().chain(["--fresh"])));
    place.assert_outputs(&reference(&text_of(2_000)));
    for dir in ["out", "store"] {
        assert_eq!(fs::read_to_string(place.path(dir).join("notes.txt")).unwrap(), "keep");
    }

    fs::write(place.path("out").join("gaps.csv"), "event").unwrap();
    let changed = place.run(args);
    assert_eq!(changed.status.code(), Some(1));
    assert!(text(&changed.stderr).contains("gaps.csv"), "{}", text(&changed.stderr));
}

#[test]
fn an_input_without_rows_gives_headers() {
    let place = Place::new();
    let text = first_flights(0);
    fs::write(place.path("flights.csv"), &text).unwrap();
    assert_success(&place.run(["--input".as_ref(), place.path("flights.csv").as_os_str()]));
    place.assert_outputs(&reference(&text));
}
