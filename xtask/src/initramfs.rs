//! The guest's filesystem: busybox, modules, programs with the libraries they need, the steps.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cpio::Archive;
use crate::packages::{Kernel, find};
use crate::run::{Result, output, run};

const INIT: &str = include_str!("guest/init.sh");
const STEPS: &str = include_str!("guest/steps.sh");
/// Programs of the host that guests use.
const TOOLS: [&str; 5] = ["mkfs.ext4", "mkfs.xfs", "mkfs.btrfs", "dmsetup", "losetup"];

/// Files of the host, and where the guest has them.
pub(crate) type Files = [(PathBuf, String)];

/// A program that guests run: where it is, and its name there.
pub(crate) struct Program {
    pub(crate) path: PathBuf,
    pub(crate) name: String,
}

/// Packs the archive that all boots share. `programs` are stripped and go to `/bin`, `files` where they say.
pub(crate) fn pack(kernel: &Kernel, programs: &[Program], files: &Files, scratch: &Path) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    archive.character_device("/dev/console", 5, 1);
    for folder in ["/proc", "/sys", "/tmp", "/mnt", "/etc", "/sbin", "/usr/bin", "/usr/sbin"] {
        archive.folder(folder);
    }
    archive.file("/init", INIT.as_bytes());
    archive.file("/steps.sh", STEPS.as_bytes());
    archive.file("/bin/busybox", &read(&find("busybox").ok_or("no busybox")?)?);
    archive.link("/bin/sh", "busybox");
    let mut order = String::new();
    for module in &kernel.modules {
        let name = name_of(module);
        archive.file(&format!("/modules/{name}"), &read(module)?);
        order.push_str(&format!("{name}\n"));
    }
    archive.file("/modules/order", order.as_bytes());
    let mut libraries = BTreeSet::new();
    for program in programs {
        let stripped = scratch.join("stripped");
        run(Command::new("strip").arg("-o").arg(&stripped).arg(&program.path))?;
        archive.file(&format!("/bin/{}", program.name), &read(&stripped)?);
        libraries.extend(libraries_of(&program.path)?);
    }
    for tool in TOOLS {
        let path = find(tool).ok_or_else(|| format!("no {tool}"))?;
        archive.file(&format!("/bin/{tool}"), &read(&path)?);
        libraries.extend(libraries_of(&path)?);
    }
    for library in libraries {
        archive.file(&library, &read(Path::new(&library))?);
    }
    for (from, to) in files {
        archive.file(to, &read(from)?);
    }
    Ok(archive.finish())
}

/// What one boot adds: a script that runs steps.
pub(crate) fn plan(script: &str) -> Vec<u8> {
    let mut archive = Archive::default();
    archive.file("/plan.sh", script.as_bytes());
    archive.finish()
}

/// The shared libraries of a program, as `ldd` finds them, and the loader.
fn libraries_of(program: &Path) -> Result<Vec<String>> {
    Ok(libraries_in(&output(Command::new("ldd").arg(program))?))
}

fn libraries_in(text: &str) -> Vec<String> {
    // `NAME => PATH (ADDRESS)`, or `PATH (ADDRESS)` for the loader
    let path = |line: &str| line.split_whitespace().find(|word| word.starts_with('/')).map(str::to_owned);
    text.lines().filter_map(path).collect()
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(|error| format!("{}: {error}", path.display()))
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_libraries_are_those_with_a_path() {
        let text =
            "\tlinux-vdso.so.1 (0x1)\n\tlibc.so.6 => /lib/x/libc.so.6 (0x2)\n\t/lib64/ld-linux-x86-64.so.2 (0x3)\n";
        assert_eq!(libraries_in(text), ["/lib/x/libc.so.6", "/lib64/ld-linux-x86-64.so.2"]);
    }
}
