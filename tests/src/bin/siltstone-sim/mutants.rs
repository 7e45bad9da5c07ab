//! The mutation check: each deliberate bug must be found by some seed.
//!
//! Each runs in a process of its own: the switch is the process's, and a bug may hang or abort it.

use std::io::{BufRead, BufReader};
use std::process::{Command, ExitCode, Stdio};

use siltstone::testing::mutants;
use siltstone_tests::sim::Canary;

/// What became of the search for one.
enum Search {
    /// The first seed that fails, and how.
    Found {
        seed: u64,
        how: String,
    },
    /// It was another check that noticed than the one it is for.
    FoundOtherwise {
        seed: u64,
        how: String,
    },
    /// The process had to be ended, or was: which seed it was, nobody has said, and a machine that is too busy does the same.
    Hung {
        status: String,
    },
    NotFound,
}

pub(crate) fn run(seeds: u64, seconds: u64, only: Option<&str>) -> ExitCode {
    let wanted = |name: &str| only.is_none_or(|part| name.contains(part));
    // What a mutant breaks any check may notice; a canary is there for one.
    let bugs = mutants::all().iter().map(|mutant| ("--mutant", mutant.name, mutant.what, ""));
    let canaries = Canary::ALL.iter().map(|plan| ("--canary", plan.name, plan.what, plan.expects));
    let (mut caught, mut count, mut hung) = (0, 0, Vec::new());
    for (flag, name, what, expects) in bugs.chain(canaries).filter(|(_, name, ..)| wanted(name)) {
        count += 1;
        match find(flag, name, expects, seeds, seconds) {
            Search::Found { seed, how } => {
                caught += 1;
                println!("caught by seed {seed:>4}  {name}: {what}\n                     {how}");
            }
            Search::FoundOtherwise { seed, how } => {
                println!(
                    "NOT CAUGHT           {name}: {what}\n                     seed {seed} fails otherwise: {how}"
                );
            }
            Search::Hung { status } => {
                hung.push(name);
                println!("hung                 {name}: {what}\n                     the process ends with {status}");
            }
            Search::NotFound => println!("NOT CAUGHT           {name}: {what}"),
        }
    }
    if !hung.is_empty() {
        println!("{} hung: {hung:?}", hung.len());
    }
    println!("{caught} of {count} mutants caught");
    if caught == count { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs seeds with this bug until one fails, with a message that contains what is expected.
fn find(flag: &str, name: &str, expects: &str, seeds: u64, seconds: u64) -> Search {
    let binary = std::env::current_exe().unwrap_or_else(|error| panic!("{error}"));
    let range = format!("0..{seeds}");
    let minutes = (seconds as f64 / 60.0).to_string();
    let mut child = Command::new("timeout")
        .arg((seconds + 60).to_string())
        .arg(binary)
        .args(["run", "--seeds", &range, "--minutes", &minutes, "--failures-max", "1", flag, name])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| panic!("{error}"));
    let output = child.stdout.take().unwrap_or_else(|| unreachable!("it is piped"));
    let lines: Vec<String> = BufReader::new(output).lines().map_while(Result::ok).collect();
    let status = child.wait().unwrap_or_else(|error| panic!("{error}"));
    let failed = lines.iter().position(|line| line.starts_with("FAILURE of seed "));
    match failed {
        Some(at) => {
            let seed = lines[at].split_whitespace().nth(3).and_then(|word| word.parse().ok()).unwrap_or_default();
            let message = lines.get(at + 2).or(lines.get(at + 1)).map_or("", |line| line.trim());
            let how = message.chars().take(140).collect();
            match message.contains(expects) {
                true => Search::Found { seed, how },
                false => Search::FoundOtherwise { seed, how },
            }
        }
        // No end, or a signal, as `timeout` tells of them. (A panic outside a seed is no find.)
        None if status.code().is_none_or(|code| code >= 124) => Search::Hung { status: status.to_string() },
        None => Search::NotFound,
    }
}
