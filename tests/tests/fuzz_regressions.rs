//! The inputs of the fuzz targets, on a stable compiler: seeds, and everything that once failed.
//!
//! `fuzz/regressions/TARGET/NAME` is an input that made a target fail before a bug was mended.

#![expect(clippy::unwrap_used, reason = "a test stops where something is not as it should be")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use siltstone::internals::fuzz::{TARGETS, seeds};

fn fuzz_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz")
}

/// The files of a folder, in order; none where it is missing.
fn files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

fn names(folder: &Path) -> BTreeSet<String> {
    files(folder).iter().map(|file| file.file_stem().unwrap().to_string_lossy().into_owned()).collect()
}

#[test]
fn targets_take_their_corpus_and_regressions() {
    for (name, target) in TARGETS {
        let corpus = files(&fuzz_folder().join("corpus").join(name));
        let seeds = corpus.into_iter().filter(|file| file.file_name().unwrap().to_string_lossy().starts_with("seed-"));
        for input in seeds.chain(files(&fuzz_folder().join("regressions").join(name))) {
            println!("{}", input.display());
            target(&fs::read(&input).unwrap());
        }
    }
}

/// A target that nobody builds finds nothing; an input of a target that is gone, neither.
#[test]
fn targets_and_folders_belong_together() {
    let targets: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(names(&fuzz_folder().join("fuzz_targets")), targets);
    assert_eq!(names(&fuzz_folder().join("corpus")), targets);
    for folder in ["regressions", "dictionaries"] {
        let strange: Vec<_> = names(&fuzz_folder().join(folder)).difference(&targets).cloned().collect();
        assert!(strange.is_empty(), "{folder} has {strange:?}, which are no targets");
    }
    let manifest = fs::read_to_string(fuzz_folder().join("Cargo.toml")).unwrap();
    for target in targets {
        assert!(manifest.contains(&format!("name = \"{target}\"")), "fuzz/Cargo.toml lacks {target}");
    }
}

/// The seeds on disk are those that the example writes.
#[test]
fn the_corpus_is_what_the_example_writes() {
    for (name, seeds) in seeds() {
        for (number, seed) in seeds.iter().enumerate() {
            let file = fuzz_folder().join("corpus").join(name).join(format!("seed-{number}"));
            let found = fs::read(&file).unwrap_or_default();
            assert!(
                found == *seed,
                "{} is old: cargo run -p siltstone --features fuzz --example fuzz_seeds",
                file.display()
            );
        }
    }
}
