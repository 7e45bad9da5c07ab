//! Reading a log. What counts as its end is in the [module](super).
//!
//! The reader holds one extent at a time in a buffer of its own.

use siltstone_io::Buffer;

use super::LogPosition;
use super::block::{BlockHeader, LOG_PAGE_BYTES};
use crate::types::ExtentId;
use crate::volume::Volume;
use crate::{Corruption, Error, Result};

const STRUCTURE: &str = "log block";

/// Gives a log's commits in order.
pub(crate) struct LogReader {
    volume: Volume,
    /// Where the next block should be.
    at: LogPosition,
    /// The last block of a closed log.
    closed_at: Option<u64>,
    /// The start and the bytes so far of a commit of which not all blocks have been read.
    open: Option<(LogPosition, Vec<u8>)>,
    /// The extent in the buffer.
    loaded: Option<(ExtentId, Buffer)>,
    /// The successor of the current extent, as its blocks name it.
    next: Option<ExtentId>,
    ended: bool,
}

enum Step {
    /// A commit is whole.
    Commit,
    /// It goes on with the next block.
    More,
    /// The block is not there, for this reason.
    Missing(Error),
}

impl LogReader {
    /// Reads from `head`, the position of a commit. Where the log is known to be closed, `closed_at` is its last block: nothing behind it is read,
    /// and that one before it is missing is corruption.
    pub(crate) fn open(volume: Volume, head: LogPosition, closed_at: Option<u64>) -> LogReader {
        LogReader { volume, at: head, closed_at, open: None, loaded: None, next: None, ended: false }
    }

    /// The next commit, with its position; `None` at the end of the log.
    ///
    /// # Errors
    ///
    /// Corruption where a block is missing that was durable; I/O errors.
    pub(crate) async fn next(&mut self) -> Result<Option<(LogPosition, Vec<u8>)>> {
        while !self.ended {
            if self.closed_at.is_some_and(|last| self.at.seq > last) {
                self.ended = true;
                break;
            }
            if self.at.page >= self.pages_per_extent() {
                let reason = format!("log {} is said to go on at page {} of an extent", self.at.log_id, self.at.page);
                return Err(damage(self.offset(self.at), reason));
            }
            self.load(self.at.extent).await?;
            match self.block()? {
                Step::Commit => return Ok(self.open.take()),
                Step::More => {}
                Step::Missing(defect) => {
                    self.judge_end(defect).await?;
                    if self.open.is_some() {
                        mark!(LogEndsInsideCommit);
                    }
                    self.ended = true;
                }
            }
        }
        Ok(None)
    }

    /// After the end: the position behind the last whole commit.
    pub(crate) fn end(&self) -> LogPosition {
        self.open.as_ref().map_or(self.at, |(start, _)| *start)
    }

    /// Reads the block that should be at the position.
    fn block(&mut self) -> Result<Step> {
        let header = match self.header_at(self.at.page) {
            Ok(header) => header,
            Err(defect) => return Ok(Step::Missing(defect)),
        };
        if (header.log_id != self.at.log_id || header.seq != self.at.seq) && !mutant!(StaleLogBlockAccepted) {
            let reason = format!("block {} of log {} is in its place", header.seq, header.log_id);
            return Ok(Step::Missing(Error::corruption(STRUCTURE, reason)));
        }
        // The payload is checked before the flags, which are to be judged only in a block that is whole.
        let mut open = self.open.take();
        let fits = header.first == open.is_none();
        match header.payload(self.bytes_from(self.at.page)) {
            Ok(payload) => open.get_or_insert_with(|| (self.at, Vec::new())).1.extend_from_slice(payload),
            Err(defect) => {
                mark!(TornLogBlock);
                self.open = open;
                return Ok(Step::Missing(defect));
            }
        }
        self.open = open;
        if !fits {
            let reason = format!("block {} does not fit the commit before it", header.seq);
            return Err(damage(self.offset(self.at), reason));
        }
        let Some(seq) = self.at.seq.checked_add(1) else {
            return Err(damage(self.offset(self.at), "no log has that many blocks".into()));
        };
        self.next = Some(header.next);
        self.at.seq = seq;
        self.at.page += (header.block_bytes() / LOG_PAGE_BYTES) as u32;
        if self.at.page == self.pages_per_extent() {
            self.at.page = 0;
            self.at.extent = header.next;
            self.next = None;
        }
        Ok(if header.last { Step::Commit } else { Step::More })
    }

    /// Tells a torn tail from damage: the block at the position is not there; was it ever durable?
    async fn judge_end(&mut self, defect: Error) -> Result<()> {
        let missing = self.at;
        let offset = self.offset(missing);
        let lost = |why: String| {
            let reason = format!("block {} of log {} is missing, but {why} ({defect})", missing.seq, missing.log_id);
            damage(offset, reason)
        };
        if let Some(last) = self.closed_at {
            return Err(lost(format!("the log goes on to block {last}")));
        }
        // As far as blocks of the log go on: a commit may fill extents, and only what follows it knows that it was durable. Sequences grow from
        // extent to extent, so the walk ends.
        let (mut first_page, mut seq) = (missing.page + 1, missing.seq);
        // Where the log is read from the middle of an extent, what stands before names the successor as well.
        self.next = self.next.or_else(|| self.newest_before(missing).map(|header| header.next));
        loop {
            for page in first_page..self.pages_per_extent() {
                let Ok(header) = self.header_at(page) else { continue };
                if header.log_id != missing.log_id || header.seq <= seq {
                    continue;
                }
                mark!(BlockBehindGap);
                if header.durable_through >= missing.seq && !mutant!(DamageTakenForTornTail) {
                    mark!(DurableLogBlockMissing);
                    return Err(lost(format!("block {} says that it was durable", header.seq)));
                }
                (self.next, seq) = (Some(header.next), header.seq);
            }
            let Some(next) = self.next.take() else { return Ok(()) };
            self.load(next).await?;
            first_page = 0;
        }
    }

    /// The first block of an extent from this page on that is wanted.
    async fn find(
        &mut self,
        extent: ExtentId,
        first_page: u32,
        wanted: impl Fn(&BlockHeader) -> bool,
    ) -> Result<Option<BlockHeader>> {
        self.load(extent).await?;
        Ok((first_page..self.pages_per_extent()).filter_map(|page| self.header_at(page).ok()).find(wanted))
    }

    /// The newest block of the log before a position in the extent in the buffer.
    fn newest_before(&self, position: LogPosition) -> Option<BlockHeader> {
        let before = (0..position.page).filter_map(|page| self.header_at(page).ok());
        before
            .filter(|header| header.log_id == position.log_id && header.seq < position.seq)
            .max_by_key(|header| header.seq)
    }

    /// Reads an extent into the buffer. What lies past the end of the device (a crash may have taken back an allocation, though not from
    /// under a durable block) is nothing.
    async fn load(&mut self, extent: ExtentId) -> Result<()> {
        if matches!(&self.loaded, Some((loaded, _)) if *loaded == extent) {
            return Ok(());
        }
        let len = self.volume.parts().extent_bytes() as usize;
        let mut buffer = self.loaded.take().map_or_else(|| Buffer::heap(len), |(_, buffer)| buffer);
        let offset = self.volume.parts().offset(extent);
        let present = present_bytes(&self.volume, extent);
        if present > 0 {
            let (result, back) = self.volume.device().read(offset, buffer, present).await;
            result?;
            buffer = back;
        }
        buffer[present..].fill(0);
        self.loaded = Some((extent, buffer));
        Ok(())
    }

    fn header_at(&self, page: u32) -> Result<BlockHeader> {
        let extent = self.loaded.as_ref().expect("an extent is loaded").0;
        let offset = self.volume.parts().offset(extent) + u64::from(page) * LOG_PAGE_BYTES as u64;
        BlockHeader::decode(self.volume.parts().id(), offset, self.bytes_from(page))
    }

    fn bytes_from(&self, page: u32) -> &[u8] {
        let len = self.volume.parts().extent_bytes() as usize;
        let buffer = &self.loaded.as_ref().expect("an extent is loaded").1;
        buffer[..len].get(page as usize * LOG_PAGE_BYTES..).unwrap_or_default()
    }

    fn offset(&self, position: LogPosition) -> u64 {
        self.volume.parts().offset(position.extent) + u64::from(position.page) * LOG_PAGE_BYTES as u64
    }

    fn pages_per_extent(&self) -> u32 {
        self.volume.parts().extent_bytes() / LOG_PAGE_BYTES as u32
    }
}

/// How many bytes of an extent, in whole pages, the device has. A log has nothing in extent 0.
fn present_bytes(volume: &Volume, extent: ExtentId) -> usize {
    if extent.0 == 0 {
        return 0;
    }
    let bytes = volume.device().len_bytes().saturating_sub(volume.parts().offset(extent));
    bytes.min(u64::from(volume.parts().extent_bytes())) as usize / LOG_PAGE_BYTES * LOG_PAGE_BYTES
}

fn damage(offset: u64, reason: String) -> Error {
    Error::Corruption(Box::new(Corruption { structure: STRUCTURE, shard: None, offset: Some(offset), reason }))
}

/// The extents of a log from `head` on, to the block `closed_at` where it is known to be closed. It is at least what a [`LogReader`] will read blocks
/// from: at open everything in use is marked before anything is allocated, and replay may allocate.
///
/// An extent is known by its first block: one page read for each. Where that is not there, the extent is searched: the end of the log looks like this, and
/// so does a damaged block, behind which the log goes on. What is there must not be given to others before the reader has told the two apart.
pub(crate) async fn read_chain(volume: &Volume, head: LogPosition, closed_at: Option<u64>) -> Result<Vec<ExtentId>> {
    let mut extents = vec![head.extent];
    let mut reader = LogReader::open(volume.clone(), head, closed_at);
    let mut buffer = Buffer::heap(LOG_PAGE_BYTES);
    let (mut extent, mut page, mut seq_min) = (head.extent, head.page, head.seq);
    let mut at_head = true;
    loop {
        let at = page as usize * LOG_PAGE_BYTES;
        if at >= present_bytes(volume, extent) {
            break;
        }
        let offset = volume.parts().offset(extent) + at as u64;
        let (result, back) = volume.device().read(offset, buffer, LOG_PAGE_BYTES).await;
        result?;
        buffer = back;
        // Sequences grow from extent to extent, so the walk ends.
        let seqs = seq_min..=closed_at.unwrap_or(u64::MAX);
        let is_next = |header: &BlockHeader| header.log_id == head.log_id && seqs.contains(&header.seq);
        let first = BlockHeader::decode(volume.parts().id(), offset, &buffer[..LOG_PAGE_BYTES]).ok().filter(is_next);
        let header = match first {
            Some(header) => header,
            None => {
                // The end of a closed log: what it would have gone on with may be somebody else's.
                if let Some(last) = closed_at
                    && let Some(before) = extents.last().filter(|before| **before != extent)
                    && reader
                        .find(*before, 0, |header| header.log_id == head.log_id && header.seq == last)
                        .await?
                        .is_some()
                {
                    break;
                }
                match reader.find(extent, page + 1, is_next).await? {
                    Some(header) => {
                        mark!(LogGoesOnBehindDamage);
                        header
                    }
                    // The block may have reached to the end of its extent: what stands before names the same successor.
                    // Only at the head: it says nothing of sequences behind it, and extents that lead back here would be followed for ever.
                    None if !at_head => break,
                    None => match reader.newest_before(head) {
                        Some(header) => header,
                        None => break,
                    },
                }
            }
        };
        if extent != head.extent {
            extents.push(extent);
        }
        // A block behind which there can be none ends the walk; reading it says that it is damaged.
        let Some(behind) = header.seq.checked_add(1) else { break };
        (extent, page, seq_min) = (header.next, 0, seq_min.max(behind));
        at_head = false;
    }
    Ok(extents)
}
