//! The source: reads the CSV file, plain or zstd, on a thread of its own, from any position on.
//!
//! 1. The header line is read and names the columns; then the text up to the position is passed over (a plain file is not read for it).
//! 2. Rows are parsed and sent in batches through a bounded channel; each carries the position behind it, which is what a checkpoint
//!    stores. Rows without a tail number are counted and passed over.
//! 3. The last message is the end, or the error that ended the reading. A receiver that is gone ends the thread.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use serde::{Deserialize, Serialize};

use super::error::JobError;
use super::event::{Event, parse_time};

/// Rows in a message, and messages in the channel: a few thousand rows ahead of the job.
const BATCH_ROWS: usize = 256;
const CHANNEL_BATCHES: usize = 16;
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// A point between two rows of the input.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Position {
    /// Bytes of text before it; 0 is the beginning, header included.
    pub(crate) byte: u64,
    /// The number of the line that follows.
    pub(crate) line: u64,
    /// Rows without a tail number before it.
    pub(crate) skipped: u64,
}

/// What the source sends.
pub(crate) enum Message {
    /// Events in order, each with the position behind it.
    Rows(Vec<(Event, Position)>),
    /// There are no more.
    End(Position),
    /// The reading failed.
    Failed(JobError),
}

/// The running source.
pub(crate) struct Source {
    /// The events.
    pub(crate) messages: Receiver<Message>,
    /// The size of the file, compressed if it is.
    pub(crate) file_bytes: u64,
    read_bytes: Arc<AtomicU64>,
}

impl Source {
    /// Opens the file and begins to read behind the position.
    pub(crate) fn start(path: &Path, from: Position) -> Result<Source, JobError> {
        let failed = |cause| JobError::Input { path: path.to_path_buf(), cause };
        let file = File::open(path).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        if metadata.is_dir() {
            return Err(failed(io::ErrorKind::IsADirectory.into()));
        }
        let read_bytes = Arc::new(AtomicU64::new(0));
        let file = Counted { file, read_bytes: Arc::clone(&read_bytes) };
        let (sender, messages) = sync_channel(CHANNEL_BATCHES);
        let path = path.to_path_buf();
        thread::Builder::new()
            .name("flights-source".into())
            .spawn(move || {
                let last = read(path, file, from, &sender).unwrap_or_else(Message::Failed);
                // Nobody listens when the job has already ended.
                let _ = sender.send(last);
            })
            .map_err(JobError::Thread)?;
        Ok(Source { messages, file_bytes: metadata.len(), read_bytes })
    }

    /// How much of the file has been read.
    pub(crate) fn read_bytes(&self) -> u64 {
        self.read_bytes.load(Ordering::Relaxed)
    }
}

fn read(path: PathBuf, file: Counted, from: Position, sender: &SyncSender<Message>) -> Result<Message, JobError> {
    let input = |cause| JobError::Input { path: path.clone(), cause };
    let mut text = Text::open(file).map_err(input)?;
    let mut header = Vec::new();
    text.reader().read_until(b'\n', &mut header).map_err(input)?;
    let columns =
        Columns::of_header(&header).map_err(|reason| JobError::Row { path: path.clone(), line: 1, reason })?;
    let header_bytes = header.len() as u64;
    let base = if from.byte == 0 { Position { byte: header_bytes, line: 2, skipped: 0 } } else { from };
    text.pass(header_bytes, base.byte).map_err(input)?;

    let mut reader = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(text.reader());
    let mut record = csv::StringRecord::new();
    let mut position = base;
    let mut rows = Vec::with_capacity(BATCH_ROWS);
    let mut last_ms = i64::MIN;
    loop {
        let line = base.line + reader.position().line() - 1;
        let bad_row = |reason| JobError::Row { path: path.clone(), line, reason };
        match reader.read_record(&mut record) {
            Ok(true) => {}
            Ok(false) => break,
            Err(error) => {
                return Err(match error.into_kind() {
                    csv::ErrorKind::Io(cause) => input(cause),
                    csv::ErrorKind::Utf8 { err, .. } => bad_row(format!("not UTF-8: {err}")),
                    other => bad_row(format!("{other:?}")),
                });
            }
        }
        // The reader passes over empty lines; the record knows on which line it began.
        let line = record.position().map_or(line, |at| base.line + at.line() - 1);
        let bad_row = |reason| JobError::Row { path: path.clone(), line, reason };
        let event = columns.event(&record).map_err(bad_row)?;
        position.byte = base.byte + reader.position().byte();
        position.line = base.line + reader.position().line() - 1;
        let Some(event) = event else {
            position.skipped += 1;
            continue;
        };
        if event.time_ms < last_ms {
            return Err(bad_row("event_time is before that of the row before; sort the input by event_time".into()));
        }
        last_ms = event.time_ms;
        rows.push((event, position));
        if rows.len() == BATCH_ROWS && sender.send(Message::Rows(std::mem::take(&mut rows))).is_err() {
            return Ok(Message::End(position));
        }
    }
    if !rows.is_empty() {
        // As above: the end follows, for whoever still listens.
        let _ = sender.send(Message::Rows(rows));
    }
    Ok(Message::End(position))
}

/// Where the fields of an event are in a row.
struct Columns {
    count: usize,
    event_time: usize,
    tailnum: usize,
    dest: usize,
    dep_delay: usize,
    arr_delay: usize,
}

impl Columns {
    fn of_header(line: &[u8]) -> Result<Columns, String> {
        let line = std::str::from_utf8(line).map_err(|error| format!("the header is not UTF-8: {error}"))?;
        let names: Vec<&str> = line.trim_end_matches(['\n', '\r']).split(',').collect();
        let column = |name: &str| {
            names.iter().position(|found| *found == name).ok_or_else(|| {
                format!(
                    "the header has no column {name}: event_time, tailnum, dest, dep_delay and arr_delay are needed"
                )
            })
        };
        Ok(Columns {
            count: names.len(),
            event_time: column("event_time")?,
            tailnum: column("tailnum")?,
            dest: column("dest")?,
            dep_delay: column("dep_delay")?,
            arr_delay: column("arr_delay")?,
        })
    }

    /// The event of a row; none where it has no tail number.
    fn event(&self, row: &csv::StringRecord) -> Result<Option<Event>, String> {
        if row.len() != self.count {
            return Err(format!("{} fields, but the header has {}", row.len(), self.count));
        }
        let delay = |name: &str, text: &str| match text {
            "" => Ok(None),
            text => text
                .parse()
                .map(Some)
                .map_err(|_| format!("{name} is {text:?}: a whole number of minutes or nothing is needed")),
        };
        let time = &row[self.event_time];
        let event = Event {
            time_ms: parse_time(time)
                .ok_or_else(|| format!("event_time is {time:?}: a time such as 2013-01-01T10:15:00Z is needed"))?,
            tailnum: row[self.tailnum].to_string(),
            dest: row[self.dest].to_string(),
            dep_delay: delay("dep_delay", &row[self.dep_delay])?,
            arr_delay: delay("arr_delay", &row[self.arr_delay])?,
        };
        Ok((!event.tailnum.is_empty()).then_some(event))
    }
}

/// The file's text.
enum Text {
    Plain(BufReader<Counted>),
    Zstd(Box<BufReader<zstd::Decoder<'static, BufReader<Counted>>>>),
}

impl Text {
    fn open(file: Counted) -> io::Result<Text> {
        let mut file = BufReader::with_capacity(256 << 10, file);
        Ok(if file.fill_buf()?.starts_with(&ZSTD_MAGIC) {
            Text::Zstd(Box::new(BufReader::with_capacity(256 << 10, zstd::Decoder::with_buffer(file)?)))
        } else {
            Text::Plain(file)
        })
    }

    fn reader(&mut self) -> &mut dyn BufRead {
        match self {
            Text::Plain(reader) => reader,
            Text::Zstd(reader) => &mut **reader,
        }
    }

    /// Goes forward between two positions of the text.
    fn pass(&mut self, from: u64, to: u64) -> io::Result<()> {
        let bytes = to.saturating_sub(from);
        match self {
            Text::Plain(reader) => reader.seek(SeekFrom::Start(to)).map(drop),
            Text::Zstd(reader) => match io::copy(&mut reader.take(bytes), &mut io::sink())? {
                passed if passed == bytes => Ok(()),
                _ => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it ends before the checkpoint's position")),
            },
        }
    }
}

/// A file that counts what has been read of it.
struct Counted {
    file: File,
    read_bytes: Arc<AtomicU64>,
}

impl Read for Counted {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buf)?;
        self.read_bytes.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

impl Seek for Counted {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = self.file.seek(to)?;
        self.read_bytes.store(at, Ordering::Relaxed);
        Ok(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    const HEADER: &str = "event_time,carrier,tailnum,dest,dep_delay,arr_delay\n";

    fn file(text: &str, compressed: bool) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let bytes = if compressed { zstd::encode_all(text.as_bytes(), 1).unwrap() } else { text.as_bytes().to_vec() };
        file.write_all(&bytes).unwrap();
        file
    }

    fn read_all(path: &Path, from: Position) -> Result<(Vec<(Event, Position)>, Position), JobError> {
        let source = Source::start(path, from)?;
        let mut all = Vec::new();
        loop {
            match source.messages.recv().unwrap() {
                Message::Rows(rows) => all.extend(rows),
                Message::End(position) => return Ok((all, position)),
                Message::Failed(error) => return Err(error),
            }
        }
    }

    fn rows(count: usize) -> String {
        let mut text = HEADER.to_string();
        for row in 0..count {
            let tailnum = if row % 7 == 3 { String::new() } else { format!("N{}", row % 5) };
            text += &format!(
                "2013-01-01T10:{:02}:{:02}Z,UA,{tailnum},\"IAH\",{},\n",
                row / 60 % 60,
                row % 60,
                row as i32 - 4
            );
        }
        text
    }

    #[test]
    fn reads_on_from_every_position_of_plain_and_compressed_files() {
        for compressed in [false, true] {
            let file = file(&rows(700), compressed);
            let (all, end) = read_all(file.path(), Position::default()).unwrap();
            assert_eq!(all.len(), 600);
            assert_eq!((end.line, end.skipped), (702, 100));
            assert_eq!(all[0].0.dep_delay, Some(-4));
            assert_eq!((all[0].0.arr_delay, all[0].0.dest.as_str()), (None, "IAH"));
            for index in (0..600).step_by(41) {
                let (rest, found) = read_all(file.path(), all[index].1).unwrap();
                assert_eq!(rest, all[index + 1..]);
                assert_eq!(found, end);
            }
            assert_eq!(read_all(file.path(), end).unwrap(), (Vec::new(), end));
        }
    }

    #[test]
    fn a_bad_row_is_named_by_its_line() {
        let good = "2013-01-01T10:15:00Z,UA,N1,IAH,2,11\n";
        for (bad, reason) in [
            ("2013-01-01T10:15:00Z,UA,N1,IAH,2\n", "5 fields"),
            ("yesterday,UA,N1,IAH,2,11\n", "event_time"),
            ("2013-01-01T10:15:00Z,UA,N1,IAH,late,11\n", "dep_delay"),
            ("2013-01-01T10:15:00Z,UA,N1,IAH,2,1.5\n", "arr_delay"),
            ("2012-01-01T10:15:00Z,UA,N1,IAH,2,11\n", "before"),
        ] {
            let file = file(&format!("{HEADER}{good}{good}{bad}{good}"), false);
            match read_all(file.path(), Position::default()) {
                Err(JobError::Row { line: 4, reason: found, .. }) => assert!(found.contains(reason), "{found}"),
                other => panic!("{bad}: {other:?}"),
            }
        }
    }

    #[test]
    fn bytes_that_are_no_text_are_named_by_their_line() {
        let mut file = file(&format!("{HEADER}2013-01-01T10:15:00Z,UA,N1,IAH,2,11\n"), false);
        file.write_all(b"2013-01-01T10:15:00Z,UA,N\xff,IAH,2,11\n").unwrap();
        let error = read_all(file.path(), Position::default()).unwrap_err();
        assert!(matches!(error, JobError::Row { line: 3, .. }), "{error}");
    }

    #[test]
    fn a_header_without_a_column_is_named() {
        let file = file("event_time,tailnum,dest,dep_delay\n", false);
        let error = read_all(file.path(), Position::default()).unwrap_err();
        assert!(matches!(&error, JobError::Row { line: 1, reason, .. } if reason.contains("arr_delay")), "{error}");
    }

    #[test]
    fn a_compressed_file_that_is_cut_short_is_an_input_error() {
        let whole = zstd::encode_all(rows(5000).as_bytes(), 1).unwrap();
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&whole[..whole.len() / 2]).unwrap();
        let error = read_all(file.path(), Position::default()).unwrap_err();
        assert!(matches!(error, JobError::Input { .. }), "{error}");
    }
}
