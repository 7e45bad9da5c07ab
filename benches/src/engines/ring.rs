//! The bare ring in the place of an engine, for gets of cold data: a file as large as the data, and one page read an operation.
//! What an engine can reach at most, measured in the same rounds.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::Result;
use crate::engines::{Drive, Engine, EngineConfig, unsupported};
use crate::measure::{Recorder, now};
use crate::ring::{PAGE_BYTES, Page, RingReader, fill, open_direct};
use crate::workload::{Gets, Load, Rmw, Scans, mix};

pub(crate) struct Ring {
    path: PathBuf,
    pages: u64,
}

impl Ring {
    pub(crate) fn open(dir: &Path, config: &EngineConfig) -> Self {
        Ring { path: dir.join("pages"), pages: config.data_bytes().div_ceil(PAGE_BYTES) }
    }

    fn offset(&self, index: u32) -> u64 {
        mix(u64::from(index)) % self.pages * PAGE_BYTES
    }
}

impl Engine for Ring {
    fn load(&mut self, _: &Load, _: &mut Recorder) -> Result<()> {
        fill(&self.path, self.pages)
    }

    fn settle(&mut self) -> Result<()> {
        Ok(())
    }

    fn get(&mut self, gets: &Gets, drive: Drive, recorder: &mut Recorder) -> Result<()> {
        let file = open_direct(&self.path)?;
        let picks = gets.picks().concat();
        match drive {
            Drive::Blocking => {
                let mut page = Page::zero();
                for index in picks {
                    let (start, offset) = (now(), self.offset(index));
                    file.read_exact_at(&mut page.0, offset)?;
                    check(offset, &page)?;
                    recorder.record(start);
                }
                Ok(())
            }
            Drive::InFlight(depth) => {
                let mut reader = RingReader::new(&file, depth)?;
                let offsets = picks.into_iter().map(|index| self.offset(index));
                reader.read_all(offsets, |offset, page, start| {
                    check(offset, page)?;
                    recorder.record(start);
                    Ok(())
                })
            }
            Drive::Batch(_) | Drive::Threads(_) => unsupported(drive),
        }
    }

    fn rmw(&mut self, _: &Rmw<'_>, drive: Drive, _: &mut Recorder) -> Result<()> {
        unsupported(drive)
    }

    fn prefix_scan(&mut self, _: &Scans, drive: Drive, _: &mut Recorder) -> Result<()> {
        unsupported(drive)
    }

    fn close(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}

fn check(offset: u64, page: &Page) -> Result<()> {
    if page.0[..8] == (offset / PAGE_BYTES).to_le_bytes() {
        return Ok(());
    }
    Err(format!("the page at {offset} is not the one written there").into())
}
