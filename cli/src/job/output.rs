//! The output files, exactly once.
//!
//! A checkpoint stores the length that each file had when it was taken, after the files were made durable. A run that goes on from a checkpoint
//! cuts the files to these lengths: what was written behind them belongs to events that will be processed again.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::error::JobError;

/// The files and their headers, in the order in which a checkpoint keeps their lengths.
const FILES: [(&str, [&str; 6]); 4] = [
    ("windows.csv", ["window_start", "tailnum", "flights", "dep_delay_sum", "dep_delay_min", "dep_delay_max"]),
    ("alerts.csv", ["event_time", "tailnum", "n", "arr_delay_sum", "", ""]),
    ("gaps.csv", ["event_time", "tailnum", "minutes", "", "", ""]),
    ("routes.csv", ["tailnum", "dest", "flights", "arr_delay_sum", "", ""]),
];

/// How far one file has been written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FileProgress {
    /// Its length, header included.
    pub(crate) bytes: u64,
    /// Its rows, without the header.
    pub(crate) rows: u64,
}

/// How far all files have been written.
pub(crate) type Progress = [FileProgress; FILES.len()];

/// The four output files.
pub(crate) struct Outputs {
    pub(crate) windows: Output,
    pub(crate) alerts: Output,
    pub(crate) gaps: Output,
    pub(crate) routes: Output,
}

impl Outputs {
    /// Opens the files of a directory: anew where there is no progress, else cut back to it.
    pub(crate) fn open(dir: &Path, progress: Option<&Progress>) -> Result<Outputs, JobError> {
        let failed = |cause| JobError::Output { path: dir.to_path_buf(), cause };
        fs::create_dir_all(dir).map_err(failed)?;
        let open = |index: usize| {
            let (name, header) = FILES[index];
            let path = dir.join(name);
            match progress {
                Some(progress) => Output::resume(path, progress[index]),
                None => Output::create(path, &header),
            }
        };
        let outputs = Outputs { windows: open(0)?, alerts: open(1)?, gaps: open(2)?, routes: open(3)? };
        // The names must be as durable as the contents.
        File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed)?;
        Ok(outputs)
    }

    /// Checks that the files of a finished job are still there.
    pub(crate) fn check(dir: &Path, progress: &Progress) -> Result<(), JobError> {
        for ((name, _), expected) in FILES.iter().zip(progress) {
            let path = dir.join(name);
            let found = match fs::metadata(&path) {
                Ok(metadata) => metadata.len(),
                Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
                Err(cause) => return Err(JobError::Output { path, cause }),
            };
            if found != expected.bytes {
                return Err(JobError::OutputLost { path, expected: expected.bytes, found });
            }
        }
        Ok(())
    }

    /// Makes everything written so far durable and says how much it is.
    pub(crate) fn sync(&mut self) -> Result<Progress, JobError> {
        Ok([self.windows.sync()?, self.alerts.sync()?, self.gaps.sync()?, self.routes.sync()?])
    }
}

/// One output file.
pub(crate) struct Output {
    path: PathBuf,
    writer: csv::Writer<Counted>,
    rows: u64,
    /// What of it is durable.
    synced: Option<FileProgress>,
}

impl Output {
    fn create(path: PathBuf, header: &[&str]) -> Result<Output, JobError> {
        let failed = |cause| JobError::Output { path: path.clone(), cause };
        let file = OpenOptions::new().write(true).create(true).truncate(true).open(&path).map_err(failed)?;
        let mut output = Output::new(path, file, FileProgress::default());
        output.write(header.iter().filter(|name| !name.is_empty()).collect::<Vec<_>>())?;
        output.rows = 0;
        Ok(output)
    }

    fn resume(path: PathBuf, progress: FileProgress) -> Result<Output, JobError> {
        let failed = |cause| JobError::Output { path: path.clone(), cause };
        let mut file = match OpenOptions::new().write(true).open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(JobError::OutputLost { path, expected: progress.bytes, found: 0 });
            }
            Err(cause) => return Err(failed(cause)),
        };
        let found = file.metadata().map_err(failed)?.len();
        if found < progress.bytes {
            return Err(JobError::OutputLost { path, expected: progress.bytes, found });
        }
        file.set_len(progress.bytes).map_err(failed)?;
        file.seek(SeekFrom::End(0)).map_err(failed)?;
        Ok(Output::new(path, file, progress))
    }

    fn new(path: PathBuf, file: File, progress: FileProgress) -> Output {
        let file = Counted { file, bytes: progress.bytes };
        let writer = csv::WriterBuilder::new().has_headers(false).buffer_capacity(64 << 10).from_writer(file);
        Output { path, writer, rows: progress.rows, synced: None }
    }

    /// Writes a row: a tuple or slice of fields.
    pub(crate) fn write(&mut self, row: impl Serialize) -> Result<(), JobError> {
        self.rows += 1;
        self.writer.serialize(row).map_err(|error| JobError::Output { path: self.path.clone(), cause: error.into() })
    }

    fn sync(&mut self) -> Result<FileProgress, JobError> {
        let failed = |cause| JobError::Output { path: self.path.clone(), cause };
        self.writer.flush().map_err(failed)?;
        let file = self.writer.get_ref();
        let progress = FileProgress { bytes: file.bytes, rows: self.rows };
        if self.synced != Some(progress) {
            file.file.sync_data().map_err(failed)?;
            self.synced = Some(progress);
        }
        Ok(progress)
    }
}

/// A file that knows its length.
struct Counted {
    file: File,
    bytes: u64,
}

impl Write for Counted {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let written = self.file.write(buf)?;
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resumed_files_are_cut_to_their_progress() {
        let dir = tempfile::tempdir().unwrap();
        let mut outputs = Outputs::open(dir.path(), None).unwrap();
        outputs.gaps.write(("2013-01-01T10:15:00Z", "N1", 50_000)).unwrap();
        let progress = outputs.sync().unwrap();
        assert_eq!(progress[2], FileProgress { bytes: 27 + 30, rows: 1 });
        outputs.gaps.write(("2014-01-01T10:15:00Z", "N1", 1)).unwrap();
        outputs.windows.write(("2013-01-01T00:00:00Z", "N,1", 1u64, 0i64, None::<i32>, Some(3))).unwrap();
        let later = outputs.sync().unwrap();
        drop(outputs);
        assert!(Outputs::check(dir.path(), &later).is_ok());
        assert!(matches!(Outputs::check(dir.path(), &progress), Err(JobError::OutputLost { .. })));
        let windows = fs::read_to_string(dir.path().join("windows.csv")).unwrap();
        assert!(windows.ends_with("\n2013-01-01T00:00:00Z,\"N,1\",1,0,,3\n"), "{windows}");

        let mut outputs = Outputs::open(dir.path(), Some(&progress)).unwrap();
        outputs.gaps.write(("2015-01-01T10:15:00Z", "N1", 2)).unwrap();
        let again = outputs.sync().unwrap();
        assert_eq!(again[2].rows, 2);
        let gaps = fs::read_to_string(dir.path().join("gaps.csv")).unwrap();
        assert_eq!(gaps, "event_time,tailnum,minutes\n2013-01-01T10:15:00Z,N1,50000\n2015-01-01T10:15:00Z,N1,2\n");
        assert_eq!(fs::read_to_string(dir.path().join("windows.csv")).unwrap().lines().count(), 1);
    }

    #[test]
    fn a_lost_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let progress = Outputs::open(dir.path(), None).unwrap().sync().unwrap();
        fs::remove_file(dir.path().join("alerts.csv")).unwrap();
        let error = Outputs::open(dir.path(), Some(&progress)).err().unwrap();
        assert!(matches!(&error, JobError::OutputLost { path, .. } if path.ends_with("alerts.csv")), "{error}");
    }
}
