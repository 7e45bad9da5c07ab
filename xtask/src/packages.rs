//! What the bench needs from Debian: packages, and a kernel with its modules.
//!
//! Packages that are missing are installed where we are root. The kernel is not installed (that would build an initial filesystem and touch the
//! boot loader): its package is downloaded and unpacked into the cache folder, and only the modules that a guest loads are kept.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::run::{Result, output, run};

/// A program that must be there, and the package that has it.
const PROGRAMS: [(&str, &str); 10] = [
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("busybox", "busybox-static"),
    ("depmod", "kmod"),
    ("dmsetup", "dmsetup"),
    ("mkfs.ext4", "e2fsprogs"),
    ("mkfs.xfs", "xfsprogs"),
    ("mkfs.btrfs", "btrfs-progs"),
    ("losetup", "mount"),
    ("strip", "binutils"),
    ("zstd", "zstd"),
];
const KERNEL_PACKAGE: &str = "linux-image-amd64";

/// Modules that the guest loads, after those on which they depend. The crc ones are asked for by name by filesystems and NVMe.
const MODULES: [&str; 16] = [
    "crc32c_generic",
    "crct10dif_generic",
    "crc64_rocksoft_generic",
    "virtio_pci",
    "virtio_console",
    "nvme",
    "ext4",
    "xfs",
    "btrfs",
    "loop",
    "dm-mod",
    "dm-log-writes",
    "dm-flakey",
    "zram",
    "sd_mod",
    "scsi_debug",
];

/// A kernel and its modules, in the order in which they can be loaded.
pub(crate) struct Kernel {
    pub(crate) image: PathBuf,
    pub(crate) modules: Vec<PathBuf>,
    pub(crate) name: String,
}

/// Sees to it that all programs are there.
pub(crate) fn provide(install: bool) -> Result<()> {
    let missing: Vec<&str> =
        PROGRAMS.iter().filter(|(program, _)| find(program).is_none()).map(|(_, package)| *package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.join(" ");
    println!("missing Debian packages: {list}");
    let root = output(Command::new("id").arg("-u"))?.trim() == "0";
    if !install || !root {
        return Err(format!("install them: apt-get install --no-install-recommends {list}"));
    }
    let mut get = apt_get();
    get.args(["install", "-y", "--no-install-recommends"]).args(&missing);
    if run(&mut get).is_err() {
        run(apt_get().arg("update"))?;
        run(&mut get)?;
    }
    match PROGRAMS.iter().find(|(program, _)| find(program).is_none()) {
        None => Ok(()),
        Some((program, package)) => Err(format!("{package} is installed, but there is no {program}")),
    }
}

/// The path of a program, also of those for administrators.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    let folders = path.split(':').chain(["/usr/sbin", "/sbin", "/usr/local/sbin"]);
    folders.map(|folder| Path::new(folder).join(program)).find(|path| path.is_file())
}

/// The kernel of the distribution, from the cache or downloaded into it.
pub(crate) fn kernel(cache: &Path, install: bool) -> Result<Kernel> {
    let folder = cache.join("kernel");
    let list = folder.join("modules.list");
    let key = MODULES.join(" ");
    let cached = fs::read_to_string(&list).unwrap_or_default();
    let mut lines = cached.lines();
    if lines.next() == Some(&key) {
        let name = lines.next().unwrap_or_default().to_owned();
        let modules = lines.map(|module| folder.join(module)).collect();
        return Ok(Kernel { image: folder.join("vmlinuz"), modules, name });
    }
    if !install {
        return Err(format!(
            "there is no kernel in {}: run without --no-install to download {KERNEL_PACKAGE}",
            folder.display()
        ));
    }
    fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let package = download(&folder)?;
    let unpacked = tempfile::tempdir_in(cache).map_err(|error| error.to_string())?;
    run(Command::new("dpkg").arg("-x").arg(&package).arg(unpacked.path()))?;
    let boot = unpacked.path().join("boot");
    let image = entry(&boot, "vmlinuz-")?;
    let name = image.trim_start_matches("vmlinuz-").to_owned();
    copy(&boot.join(&image), &folder.join("vmlinuz"))?;
    let modules = [unpacked.path().join("lib/modules"), unpacked.path().join("usr/lib/modules")];
    let modules = modules.iter().find(|path| path.is_dir()).ok_or("the kernel package has no modules")?;
    let base = modules.ancestors().nth(2).ok_or("the kernel package has no modules")?;
    run(Command::new(find("depmod").ok_or("no depmod")?).arg("-b").arg(base).arg(&name))?;
    let modules = modules.join(&name);
    let mut names = Vec::new();
    for path in in_order(&fs::read_to_string(modules.join("modules.dep")).map_err(|error| error.to_string())?)? {
        let file = path.rsplit('/').next().unwrap_or(&path).to_owned();
        let target = folder.join(&file);
        copy(&modules.join(&path), &target)?;
        names.push(match file.strip_suffix(".xz") {
            None => file,
            Some(plain) => {
                run(Command::new("xz").args(["-d", "-f"]).arg(&target))?;
                plain.to_owned()
            }
        });
    }
    fs::write(&list, format!("{key}\n{name}\n{}\n", names.join("\n"))).map_err(|error| error.to_string())?;
    let modules = names.iter().map(|module| folder.join(module)).collect();
    Ok(Kernel { image: folder.join("vmlinuz"), modules, name })
}

/// Downloads the package of the kernel, unless it is there.
fn download(folder: &Path) -> Result<PathBuf> {
    let depends = || output(Command::new("apt-cache").args(["depends", KERNEL_PACKAGE]));
    let name_in = |text: &str| {
        text.lines().find_map(|line| line.trim().strip_prefix("Depends: ")).map(|name| name.trim().to_owned())
    };
    let mut name = name_in(&depends()?);
    if name.is_none() {
        run(apt_get().arg("update"))?;
        name = name_in(&depends()?);
    }
    let name = name.ok_or_else(|| format!("apt knows no {KERNEL_PACKAGE}"))?;
    if let Ok(file) = entry(folder, &format!("{name}_")) {
        return Ok(folder.join(file));
    }
    println!("downloading {name}");
    // apt's own user need not be able to write here.
    let download = || apt_get().args(["-o", "APT::Sandbox::User=root", "download", &name]).current_dir(folder).status();
    let mut done = download().map_err(|error| error.to_string())?;
    if !done.success() {
        run(apt_get().arg("update"))?;
        done = download().map_err(|error| error.to_string())?;
    }
    if !done.success() {
        return Err(format!("{name} could not be downloaded"));
    }
    Ok(folder.join(entry(folder, &format!("{name}_"))?))
}

/// The paths of [`MODULES`], each after those it needs, by the text of `modules.dep`.
fn in_order(dependencies: &str) -> Result<Vec<String>> {
    let mut known = BTreeMap::new();
    for line in dependencies.lines() {
        let Some((path, needs)) = line.split_once(':') else { continue };
        let file = path.rsplit('/').next().unwrap_or(path);
        let name = file.split('.').next().unwrap_or(file).replace('-', "_");
        known.insert(name, (path.to_owned(), needs.split_whitespace().map(str::to_owned).collect::<Vec<_>>()));
    }
    let mut order: Vec<String> = Vec::new();
    for module in MODULES {
        let (path, needs) =
            known.get(&module.replace('-', "_")).ok_or_else(|| format!("there is no module {module}"))?;
        // depmod lists all that a module needs, the deepest last.
        for path in needs.iter().rev().chain([path]) {
            if !order.contains(path) {
                order.push(path.clone());
            }
        }
    }
    Ok(order)
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive").arg("-q");
    command
}

/// The name of the first entry of a folder that begins like this.
fn entry(folder: &Path, prefix: &str) -> Result<String> {
    let entries = fs::read_dir(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with(prefix)).min().ok_or_else(|| format!("no {prefix}* in {}", folder.display()))
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).map(drop).map_err(|error| format!("{}: {error}", from.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_come_after_what_they_need() {
        let mut text = String::from(
            "kernel/a/nvme.ko: kernel/a/nvme-core.ko kernel/a/t10-pi.ko\nkernel/a/nvme-core.ko: kernel/a/t10-pi.ko\n",
        );
        for module in MODULES.iter().filter(|module| **module != "nvme") {
            text.push_str(&format!("kernel/{module}.ko.xz:\n"));
        }
        let order = in_order(&text).unwrap();
        let at = |name: &str| order.iter().position(|path| path.contains(name)).unwrap();
        assert!(at("t10-pi") < at("nvme-core") && at("nvme-core") < at("nvme.ko"), "{order:?}");
        assert_eq!(order.len(), MODULES.len() + 2);
        assert!(in_order("kernel/a/nvme.ko:\n").is_err());
    }
}
