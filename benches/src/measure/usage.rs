//! What a process used, as the kernel counts it, and what a directory takes.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;

use crate::Result;

/// Counters of the whole process, all threads: those of the kernel's io workers too.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Usage {
    /// User and system time.
    pub(crate) cpu_us: u64,
    /// Bytes fetched from the device. Hits in the page cache are not in it.
    pub(crate) device_read_bytes: u64,
    /// Bytes sent to the device; for buffered writes, when the page is dirtied.
    pub(crate) device_write_bytes: u64,
}

impl Usage {
    /// The counters so far.
    pub(crate) fn so_far() -> Result<Usage> {
        let usage = getrusage(UsageWho::RUSAGE_SELF)?;
        let us = |time: TimeVal| time.tv_sec() as u64 * 1_000_000 + time.tv_usec() as u64;
        let io = fs::read_to_string("/proc/self/io")?;
        Ok(Usage {
            cpu_us: us(usage.user_time()) + us(usage.system_time()),
            device_read_bytes: field(&io, "read_bytes:")?,
            device_write_bytes: field(&io, "write_bytes:")?,
        })
    }

    /// What was used since an earlier reading.
    pub(crate) fn since(self, earlier: Usage) -> Usage {
        Usage {
            cpu_us: self.cpu_us - earlier.cpu_us,
            device_read_bytes: self.device_read_bytes - earlier.device_read_bytes,
            device_write_bytes: self.device_write_bytes - earlier.device_write_bytes,
        }
    }
}

/// Memory of this process that is resident now.
pub(crate) fn resident_bytes() -> Result<u64> {
    Ok(field(&fs::read_to_string("/proc/self/status")?, "VmRSS:")? * 1024)
}

/// The most that was resident since [`reset_peak_resident`].
pub(crate) fn peak_resident_bytes() -> Result<u64> {
    Ok(field(&fs::read_to_string("/proc/self/status")?, "VmHWM:")? * 1024)
}

/// Starts the peak anew.
pub(crate) fn reset_peak_resident() -> Result<()> {
    Ok(fs::write("/proc/self/clear_refs", "5")?)
}

/// The blocks that the files below a directory take on the device.
pub(crate) fn directory_bytes(dir: &Path) -> io::Result<u64> {
    let mut total = 0;
    for_each_file(dir, &mut |path| {
        total += fs::metadata(path)?.blocks() * 512;
        Ok(())
    })?;
    Ok(total)
}

/// Writes back and drops what the page cache holds of the files below a directory.
pub(crate) fn drop_page_cache(dir: &Path) -> io::Result<()> {
    for_each_file(dir, &mut |path| {
        let file = File::open(path)?;
        file.sync_all()?;
        posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED).map_err(io::Error::from)
    })
}

/// Moves this process into a memory cgroup.
pub(crate) fn join_cgroup(cgroup: &Path) -> Result<()> {
    let path = cgroup.join("cgroup.procs");
    // Never created: in a directory that is no cgroup the process would go on without a limit.
    let file = OpenOptions::new().write(true).open(&path);
    let joined = file.and_then(|mut file| file.write_all(std::process::id().to_string().as_bytes()));
    joined.map_err(|error| format!("cannot join the cgroup: {}: {error}", path.display()).into())
}

/// The limit of a memory cgroup, or, without one, of those that this process is in; `None` where there is no limit.
pub(crate) fn memory_limit_bytes(cgroup: Option<&Path>) -> Option<u64> {
    let own = cgroup.map(Path::to_path_buf).or_else(own_memory_cgroup)?;
    own.ancestors()
        .filter_map(|dir| {
            let limit = ["memory.max", "memory.limit_in_bytes"]
                .iter()
                .find_map(|name| fs::read_to_string(dir.join(name)).ok())?;
            limit.trim().parse().ok()
        })
        // Version 1 says "none" with a number that no machine has.
        .filter(|&bytes: &u64| bytes < 1 << 50)
        .min()
}

fn own_memory_cgroup() -> Option<PathBuf> {
    let cgroups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let path_of = |marker: &str| {
        cgroups.lines().find_map(|line| line.split_once(marker).map(|(_, path)| path.trim_start_matches('/')))
    };
    if let Some(path) = path_of(":memory:") {
        return Some(Path::new("/sys/fs/cgroup/memory").join(path));
    }
    path_of("0::").map(|path| Path::new("/sys/fs/cgroup").join(path))
}

fn for_each_file(dir: &Path, visit: &mut dyn FnMut(&Path) -> io::Result<()>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            for_each_file(&entry.path(), visit)?;
        } else {
            visit(&entry.path())?;
        }
    }
    Ok(())
}

/// The number after a name at the start of a line.
fn field(text: &str, name: &str) -> Result<u64> {
    let rest = text
        .lines()
        .find_map(|line| line.strip_prefix(name))
        .ok_or_else(|| format!("the kernel does not report {name}"))?;
    Ok(rest.split_whitespace().next().unwrap_or_default().parse()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_by_their_whole_name() {
        let text = "rchar: 1\nread_bytes: 22\ncancelled_write_bytes: 3\nwrite_bytes: 4\nVmHWM:\t  77 kB\n";
        assert_eq!(field(text, "read_bytes:").unwrap(), 22);
        assert_eq!(field(text, "write_bytes:").unwrap(), 4);
        assert_eq!(field(text, "VmHWM:").unwrap(), 77);
        assert!(field(text, "VmRSS:").is_err());
    }

    #[test]
    fn cpu_time_grows_with_work() {
        let before = Usage::so_far().unwrap();
        let mut state = 1_u64;
        let start = crate::measure::now();
        while start.elapsed().as_millis() < 50 {
            state = std::hint::black_box(state.wrapping_mul(3));
        }
        assert!(Usage::so_far().unwrap().since(before).cpu_us >= 10_000);
    }

    #[test]
    fn directory_counts_allocated_blocks_of_nested_files() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("a")).unwrap();
        fs::write(dir.path().join("a/b"), vec![1; 10_000]).unwrap();
        drop_page_cache(dir.path()).unwrap();
        assert!(directory_bytes(dir.path()).unwrap() >= 10_000);
    }

    #[test]
    fn the_smallest_limit_on_the_way_up_counts() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("inner");
        fs::create_dir(&inner).unwrap();
        fs::write(dir.path().join("memory.max"), "1000\n").unwrap();
        fs::write(inner.join("memory.max"), "max\n").unwrap();
        assert_eq!(memory_limit_bytes(Some(&inner)), Some(1000));
        fs::write(inner.join("memory.max"), "500\n").unwrap();
        assert_eq!(memory_limit_bytes(Some(&inner)), Some(500));
    }

    #[test]
    fn a_version_1_limit_that_is_no_limit_does_not_count() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("memory.limit_in_bytes"), "9223372036854771712\n").unwrap();
        assert_eq!(memory_limit_bytes(Some(dir.path())), None);
    }

    #[test]
    fn a_directory_that_is_no_cgroup_is_not_joined() {
        let dir = tempfile::tempdir().unwrap();
        assert!(join_cgroup(dir.path()).is_err());
        assert!(!dir.path().join("cgroup.procs").exists());
    }
}
