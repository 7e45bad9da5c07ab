//! Wrong input gets an error of one line that says what is wrong and what to do.

use std::ffi::OsStr;
use std::fs;

use crate::{Place, first_flights, text};

/// Runs the job, expects it to fail, and returns the one line it says.
fn failure(place: &Place, args: &[&OsStr]) -> String {
    let output = place.run(args);
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    let lines: Vec<&str> = stderr.lines().filter(|line| line.starts_with("siltstone: ")).collect();
    assert_eq!(lines.len(), 1, "{stderr}");
    lines[0].to_string()
}

#[test]
fn a_bad_row_is_named_by_its_line() {
    let place = Place::new();
    let input = place.path("flights.csv");
    let good = first_flights(500);
    for (bad, reason) in [
        ("2013-01-02T10:15:00Z,UA,1545,N14228\n", "4 fields"),
        ("2013-01-02,UA,1545,N14228,EWR,IAH,2,11,227,1400\n", "event_time"),
        ("2013-01-02T10:15:00Z,UA,1545,N14228,EWR,IAH,2,soon,227,1400\n", "arr_delay"),
        ("2012-12-31T10:15:00Z,UA,1545,N14228,EWR,IAH,2,11,227,1400\n", "before"),
    ] {
        fs::write(&input, format!("{good}{bad}")).unwrap();
        let line = failure(&place, &["--input".as_ref(), input.as_ref(), "--fresh".as_ref()]);
        assert!(line.contains("flights.csv line 502: ") && line.contains(reason), "{line}");
    }
}

#[test]
fn an_input_that_is_not_there_is_named() {
    let place = Place::new();
    let line = failure(&place, &["--input".as_ref(), place.path("absent.csv").as_ref()]);
    assert!(line.contains("absent.csv") && line.contains("--input"), "{line}");
}

#[test]
fn a_path_that_cannot_be_written_is_named() {
    let place = Place::new();
    // Even root cannot create anything here.
    let line = failure(&place, &["--output".as_ref(), "/proc/siltstone".as_ref()]);
    assert!(line.contains("/proc/siltstone") && line.contains("--output"), "{line}");
    let line = failure(&place, &["--store".as_ref(), "/proc/siltstone".as_ref()]);
    assert!(line.contains("/proc/siltstone") && line.contains("--store"), "{line}");
}

#[test]
fn a_store_that_is_no_volume_is_refused_and_kept() {
    let place = Place::new();
    let file = place.path("letter.txt");
    let letter = "not a volume\n".repeat(10_000);
    fs::write(&file, &letter).unwrap();
    for args in
        [&["--store".as_ref(), file.as_os_str()][..], &["--store".as_ref(), file.as_os_str(), "--fresh".as_ref()]]
    {
        let line = failure(&place, args);
        assert!(line.contains("letter.txt") && line.contains("--store"), "{line}");
        assert_eq!(fs::read_to_string(&file).unwrap(), letter);
    }
}

#[test]
fn options_out_of_range_are_named() {
    let place = Place::new();
    let line = failure(&place, &["--shards".as_ref(), "0".as_ref()]);
    assert!(line.contains("shards is 0"), "{line}");
    let line = failure(&place, &["--memory".as_ref(), "1k".as_ref()]);
    assert!(line.contains("memory"), "{line}");
    for args in [["--checkpoint-every", "0"], ["--memory", "much"]] {
        let output = place.run(args);
        assert_eq!(output.status.code(), Some(2), "{}", text(&output.stderr));
        assert!(text(&output.stderr).contains(args[0]));
    }
}
