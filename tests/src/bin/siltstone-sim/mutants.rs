//! The mutation check: each deliberate bug must be found by some seed.
//!
//! Each runs in a process of its own: the switch is the process's, and a bug may hang or abort it.

use std::io::{BufRead, BufReader};
use std::process::{Command, ExitCode, Stdio};

use siltstone::testing::mutants;
use siltstone_tests::sim::Canary;

pub(crate) fn run(seeds: u64, seconds: u64, only: Option<&str>) -> ExitCode {
    let wanted = |name: &str| only.is_none_or(|part| name.contains(part));
    let bugs = mutants::all().iter().map(|mutant| ("--mutant", mutant.name, mutant.what));
    let canaries = Canary::ALL.iter().map(|(name, _, what)| ("--canary", *name, *what));
    let (mut caught, mut count) = (0, 0);
    for (flag, name, what) in bugs.chain(canaries).filter(|(_, name, _)| wanted(name)) {
        count += 1;
        match find(flag, name, seeds, seconds) {
            Some((seed, how)) => {
                caught += 1;
                println!("caught by seed {seed:>4}  {name}: {what}\n                     {how}");
            }
            None => println!("NOT CAUGHT           {name}: {what}"),
        }
    }
    println!("{caught} of {count} mutants caught");
    if caught == count { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The first seed that fails with this bug, and how.
fn find(flag: &str, name: &str, seeds: u64, seconds: u64) -> Option<(u64, String)> {
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
            let how = lines.get(at + 2).or(lines.get(at + 1)).map(|line| line.trim().chars().take(140).collect());
            Some((seed, how.unwrap_or_default()))
        }
        // No end, or a signal, as `timeout` tells of them; which seed it was, nobody has said. (A panic outside a seed is no find.)
        None if status.code().is_none_or(|code| code >= 124) => {
            Some((seeds, format!("the process ends with {status}")))
        }
        None => None,
    }
}
