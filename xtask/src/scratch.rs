//! Folders that go when they are not needed any more: at the end, or, where this program was killed before, at the next start.

use std::fs;
use std::path::Path;

use tempfile::TempDir;

use crate::run::Result;

/// A new folder in `parent`, with this process's id in its name.
pub(crate) fn folder(parent: &Path, name: &str) -> Result<TempDir> {
    let prefix = format!("{name}-{}-", std::process::id());
    tempfile::Builder::new()
        .prefix(&prefix)
        .tempdir_in(parent)
        .map_err(|error| format!("{}: {error}", parent.display()))
}

/// Deletes such folders of processes that are no more.
pub(crate) fn sweep(parent: &Path, name: &str) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let file_name = entry.file_name().to_string_lossy().into_owned();
        let owner = file_name.strip_prefix(&format!("{name}-")).and_then(|rest| rest.split_once('-'));
        let Some((id, _)) = owner else { continue };
        let is_gone = id.parse::<u32>().is_ok_and(|id| !Path::new("/proc").join(id.to_string()).exists());
        if is_gone {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_folders_of_dead_processes_are_swept() {
        let parent = tempfile::tempdir().unwrap();
        let own = folder(parent.path(), "run").unwrap();
        // Process ids end far below.
        for other in ["run-4000000000-x", "kept-4000000000-x", "run-x"] {
            fs::create_dir(parent.path().join(other)).unwrap();
        }
        sweep(parent.path(), "run");
        let exists = |name: &str| parent.path().join(name).exists();
        assert!(own.path().exists() && exists("kept-4000000000-x") && exists("run-x"));
        assert!(!exists("run-4000000000-x"));
    }
}
