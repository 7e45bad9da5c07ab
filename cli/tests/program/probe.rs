//! Measuring devices.

use std::fs;

use crate::{Place, assert_success, first_flights, text};

fn probe(place: &Place, path: &str, args: &[&str]) -> std::process::Output {
    let path = place.path(path);
    place.command(["probe", path.to_str().unwrap(), "--seconds", "0.3"].iter().chain(args))
}

#[test]
fn a_volume_keeps_its_profile_and_what_it_holds() {
    let place = Place::new();
    fs::write(place.path("flights.csv"), first_flights(2_000)).unwrap();
    let input = place.path("flights.csv");
    assert_success(&place.run(["--input", input.to_str().unwrap()]));
    let store = place.path("store");
    let scanned = || text(&place.command(["scan", store.to_str().unwrap(), "--keyspace", "last-event"]).stdout);
    let before = scanned();
    assert!(!before.is_empty());

    let output = probe(&place, "store", &[]);
    assert_success(&output);
    let said = text(&output.stdout);
    for part in [
        "fill 512.0 KiB, depth 8",
        "read 4.0 KiB, depth 64",
        "durable write 4.0 KiB, depth 1",
        "8.0 MiB of writes in flight",
        "the free space of a volume",
        "profile      reads of 4 KiB: ",
        "stored in the volume",
    ] {
        assert!(said.contains(part), "no {part} in:\n{said}");
    }
    let info = text(&place.command(["info", store.to_str().unwrap()]).stdout);
    let profile = said.lines().find(|line| line.starts_with("profile ")).unwrap();
    assert!(info.contains(profile) && !info.contains("by probes 0 B"), "{info}");
    assert_eq!(scanned(), before);
    assert_success(&place.command(["verify", store.to_str().unwrap()]));
}

/// What programs read: one object, and nothing else, of a volume and of what is none.
#[test]
fn a_report_for_programs_is_one_json_object() {
    let place = Place::new();
    let store = place.path("store");
    assert_success(&place.command(["format", store.to_str().unwrap(), "--size", "64M"]));
    fs::write(place.path("letter.txt"), "not a volume\n".repeat(1_000_000)).unwrap();
    let report = |path: &str| -> serde_json::Value {
        let output = probe(&place, path, &["--json"]);
        assert_success(&output);
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let volume = report("store");
    assert_eq!((&volume["subject"], &volume["stored"]), (&"volume".into(), &true.into()));
    assert_eq!((&volume["only_read"], &volume["device"]["kind"]), (&serde_json::Value::Null, &"file".into()));
    assert_eq!((&volume["device"]["write_streams"], &volume["device"]["polled"]), (&0.into(), &false.into()));
    assert!(volume["path"].as_str().unwrap().starts_with(store.to_str().unwrap()));
    let measurements = volume["measurements"].as_array().unwrap();
    for access in ["fill", "read", "write", "durable_write"] {
        let of_kind: Vec<_> = measurements.iter().filter(|measured| measured["access"] == access).collect();
        assert!(of_kind.iter().any(|measured| measured["operations"].as_u64() > Some(0)), "{access}: {of_kind:?}");
        for measured in of_kind {
            let times = ["p50_us", "p90_us", "p99_us"].map(|name| measured[name].as_u64().unwrap());
            assert!(times.is_sorted() && measured["bytes"].as_u64() >= measured["operations"].as_u64(), "{measured}");
        }
    }
    assert!(measurements.iter().any(|measured| measured["beside_bytes"].as_u64() == Some(8 << 20)));
    let info = text(&place.command(["info", store.to_str().unwrap()]).stdout);
    let iops = format!("up to {} a second", volume["profile"]["read_iops"]);
    assert!(info.contains(&iops), "no {iops} in:\n{info}");

    let letter = report("letter.txt");
    assert_eq!((&letter["subject"], &letter["profile"]), (&"other".into(), &serde_json::Value::Null));
    assert!(letter["only_read"].as_str().unwrap().contains("--write"));
    let refused = probe(&place, "letter.txt", &["--json", "--write"]);
    assert_eq!((refused.status.code(), refused.stdout.len()), (Some(1), 0));
}

#[test]
fn a_directory_is_measured_and_left_as_it_was() {
    let place = Place::new();
    fs::write(place.path("letter.txt"), "not a volume\n").unwrap();
    fs::write(place.path("empty"), "").unwrap();
    for path in ["", "empty"] {
        let output = probe(&place, path, &[]);
        assert_success(&output);
        let said = text(&output.stdout);
        assert!(said.contains("a temporary file, which is gone") && said.contains("not stored"), "{said}");
        let names: Vec<_> = fs::read_dir(place.path("")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names.len(), 2, "{names:?}");
        assert_eq!(fs::metadata(place.path("empty")).unwrap().len(), 0);
    }
}

#[test]
fn what_is_no_volume_is_not_written_to_unasked() {
    let place = Place::new();
    let letter = "not a volume\n".repeat(3_000_000);
    fs::write(place.path("letter.txt"), &letter).unwrap();
    let output = probe(&place, "letter.txt", &[]);
    assert_success(&output);
    let said = text(&output.stdout);
    assert!(said.contains("only read    it is no volume") && !said.contains("write 4.0 KiB"), "{said}");
    let refused = probe(&place, "letter.txt", &["--write"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("--force"), "{}", text(&refused.stderr));
    assert!(!probe(&place, "letter.txt", &["--force"]).status.success(), "--force alone");
    assert!(fs::read_to_string(place.path("letter.txt")).unwrap() == letter, "it has been changed");

    let forced = probe(&place, "letter.txt", &["--write", "--force"]);
    assert_success(&forced);
    assert!(text(&forced.stdout).contains("profile      reads"), "{}", text(&forced.stdout));
    assert_success(&place.command(["format", place.path("letter.txt").to_str().unwrap()]));

    let absent = probe(&place, "absent", &[]);
    assert_eq!(absent.status.code(), Some(1));
    assert!(text(&absent.stderr).contains("there is nothing at") && !place.path("absent").exists());
}
