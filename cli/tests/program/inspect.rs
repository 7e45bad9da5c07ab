//! The commands that look into a volume.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::process::Output;

use crate::{Place, assert_success, first_flights, text};

/// A store of a finished job over a few flights.
fn store() -> Place {
    let place = Place::new();
    fs::write(place.path("flights.csv"), first_flights(5_000)).unwrap();
    let input = place.path("flights.csv");
    assert_success(&place.run(["--input", input.to_str().unwrap(), "--shards", "2", "--checkpoint-every", "1000"]));
    place
}

fn on_store(place: &Place, command: &str, args: &[&str]) -> Output {
    let store = place.path("store");
    place.command([command, store.to_str().unwrap()].iter().chain(args))
}

#[test]
fn info_names_shards_checkpoints_and_keyspaces() {
    let place = store();
    let output = on_store(&place, "info", &[]);
    assert_success(&output);
    let info = text(&output.stdout);
    let parts = [
        "1024 key groups over 2 shards",
        "\"flights-finished\"",
        "\"last-event\"",
        "\"window-ends\"",
        "level ",
        "profile      none",
    ];
    for part in parts {
        assert!(info.contains(part), "no {part} in:\n{info}");
    }
    // The job has no log, and writes its checkpoints' SSTs.
    let written = info.lines().find(|line| line.starts_with("written ")).expect("what was written");
    assert!(written.contains("log 0 B") && !written.contains("level 0 0 B"), "{written}");
    assert!(!info.contains("discarded    0 B"), "{info}");
}

#[test]
fn scan_prints_the_entries_of_a_keyspace_and_a_prefix() {
    let place = store();
    let all = on_store(&place, "scan", &["--keyspace", "last-event"]);
    assert_success(&all);
    let lines: Vec<String> = text(&all.stdout).lines().map(str::to_string).collect();
    let mut tailnums: Vec<String> = first_flights(5_000)
        .lines()
        .skip(1)
        .filter_map(|line| line.split(',').nth(3).filter(|tailnum| !tailnum.is_empty()).map(str::to_string))
        .collect();
    tailnums.sort_unstable();
    tailnums.dedup();
    let hex = |text: &str| text.bytes().map(|byte| format!("{byte:02x}")).collect::<String>();
    let mut keys: Vec<&str> = lines.iter().map(|line| line.split_once('\t').expect("key and value").0).collect();
    keys.sort_unstable();
    let mut expected: Vec<String> = tailnums.iter().map(|tailnum| hex(tailnum)).collect();
    expected.sort_unstable();
    assert_eq!(keys, expected);

    let prefix = hex(&tailnums[0][..3]);
    let some = on_store(&place, "scan", &["--keyspace", "last-event", "--prefix", &prefix]);
    assert_success(&some);
    let expected: Vec<String> = lines.iter().filter(|line| line.starts_with(&prefix)).cloned().collect();
    assert!(!expected.is_empty() && expected.len() < lines.len());
    assert_eq!(text(&some.stdout).lines().collect::<Vec<_>>(), expected);

    let unknown = on_store(&place, "scan", &["--keyspace", "nothing"]);
    assert_eq!(unknown.status.code(), Some(1));
    assert!(text(&unknown.stderr).contains("last-event"), "{}", text(&unknown.stderr));
}

#[test]
fn verify_lists_damage_and_exits_with_one() {
    let place = store();
    let clean = on_store(&place, "verify", &[]);
    assert_success(&clean);
    assert!(text(&clean.stdout).contains("nothing is wrong"), "{}", text(&clean.stdout));

    // A stored key of a route, as it lies in a data block of the volume.
    let path = place.path("store").join("siltstone.vol");
    let volume = fs::read(&path).unwrap();
    let scan = text(&on_store(&place, "scan", &["--keyspace", "last-event"]).stdout);
    let tailnum: Vec<u8> = scan
        .split_once('\t')
        .map(|(key, _)| (0..key.len()).step_by(2).map(|at| u8::from_str_radix(&key[at..at + 2], 16).unwrap()).collect())
        .unwrap();
    let offsets: Vec<usize> =
        volume.windows(tailnum.len()).enumerate().filter(|(_, bytes)| *bytes == tailnum).map(|(at, _)| at).collect();
    assert!(!offsets.is_empty());
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    for &offset in &offsets {
        file.write_all_at(&[volume[offset] ^ 0x10], offset as u64).unwrap();
    }
    let damaged = on_store(&place, "verify", &[]);
    assert_eq!(damaged.status.code(), Some(1), "{}", text(&damaged.stderr));
    let report = text(&damaged.stdout);
    assert!(report.contains("shard") && report.contains("byte") && report.contains("problem"), "{report}");
}

#[test]
fn what_is_no_volume_is_named() {
    let place = Place::new();
    fs::write(place.path("letter.txt"), "not a volume\n".repeat(10_000)).unwrap();
    for name in ["letter.txt", "absent"] {
        let path = place.path(name);
        let path = path.to_str().unwrap();
        for args in [&["info", path][..], &["verify", path], &["scan", path, "--keyspace", "k"]] {
            let output = place.command(args);
            assert_eq!(output.status.code(), Some(1), "{args:?}");
            let stderr = text(&output.stderr);
            assert!(stderr.starts_with("siltstone: ") && stderr.contains(name), "{args:?}: {stderr}");
        }
        assert!(name != "absent" || !place.path(name).exists());
    }
}

#[test]
fn format_makes_a_volume_that_the_job_runs_in_and_destroys_one_only_by_force() {
    let place = Place::new();
    let made = on_store(&place, "format", &["--size", "256M", "--extent", "256K", "--key-groups", "64"]);
    assert_success(&made);
    assert!(text(&made.stdout).contains("a volume of 256.0 MiB with extents of 256.0 KiB and 64 key groups"));
    fs::write(place.path("flights.csv"), first_flights(2_000)).unwrap();
    assert_success(&place.run(["--input", place.path("flights.csv").to_str().unwrap()]));
    let info = text(&on_store(&place, "info", &[]).stdout);
    for part in
        ["64 key groups", "a file; logical blocks of", "discards as holes", "no write streams", "\"flights-finished\""]
    {
        assert!(info.contains(part), "no {part} in:\n{info}");
    }

    let refused = on_store(&place, "format", &[]);
    assert!(!refused.status.success());
    let said = text(&refused.stderr);
    assert!(said.contains("it holds a Siltstone volume") && said.contains("--force"), "{said}");
    assert_success(&on_store(&place, "format", &["--force"]));
    assert!(text(&on_store(&place, "info", &[]).stdout).contains("keyspaces    0"));
}
