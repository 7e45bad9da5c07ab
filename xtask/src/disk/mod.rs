//! A disk with a volatile cache, whose power can be cut.
//!
//! QEMU's drive is a client of this one by NBD ([`server`]), so what a completed command of the guest leaves behind is decided here and not by the
//! host's page cache, which outlives a killed QEMU and would lose nothing.
//!
//! # What is durable
//!
//! The *image* is what a power failure leaves. A write that has completed stands in the *cache*: for each block all versions since the image's.
//!
//! 1. Every completion gets a number. A flush makes durable, for each block, the newest version whose completion was *told to the guest* before
//!    the flush was received; no others. Commands wait in a queue and are completed in random order, so that a write and a flush that are under
//!    way at a time really are not ordered.
//! 2. A write with FUA ([`crate::queues`]) makes its own blocks durable, and what of them is older.
//! 3. When the cache is full, all of it is written back: a device may do so at any time.
//! 4. [`Disk::freeze`] is the moment of the power failure: no command completes any more.
//! 5. [`Disk::cut`] then settles what is left: each block of the cache has its durable version or any later one, at random and without regard to its
//!    neighbours; commands that were received and not completed count as versions too. A logical block is never torn (NVMe promises that at least;
//!    the simulator tears them).
//!
//! A discard is a write of zeroes.
//!
//! With [`Faults::deaf`] flushes are told to be done and are not: what runs on such a disk must be found to lose data, or whoever looks is blind.

mod cache;
pub(crate) mod server;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use cache::Cache;

use crate::queues::Queues;
use crate::random::Random;

/// What the cache holds at most.
const CACHE_BYTES_MAX: u64 = 32 << 20;
/// Of so many turns of the queue one waits first, so that commands gather.
const PAUSE_ONE_IN: u64 = 24;
const PAUSE: Duration = Duration::from_micros(1500);

/// A command as received.
pub(crate) struct Command {
    pub(crate) kind: CommandKind,
    /// What the client calls it.
    pub(crate) cookie: u64,
    pub(crate) offset: u64,
    pub(crate) len: u64,
    pub(crate) durable: bool,
    /// The data of a write.
    pub(crate) data: Vec<u8>,
    /// Completions that the guest had been told of when it was received.
    told: u64,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CommandKind {
    Read,
    Write,
    /// The blocks read as zero from then on.
    Zero,
    Flush,
}

/// What came of a command.
pub(crate) struct Completion {
    pub(crate) cookie: u64,
    pub(crate) result: io::Result<Vec<u8>>,
}

/// What is wrong with a disk.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Faults {
    /// Flushes and FUA do nothing.
    pub(crate) deaf: bool,
    /// The power fails at this write.
    pub(crate) freeze_at_write: Option<u64>,
}

/// How much was done.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counters {
    pub(crate) reads: u64,
    pub(crate) writes: u64,
    pub(crate) durable_writes: u64,
    pub(crate) zeroes: u64,
    pub(crate) flushes: u64,
}

/// What a power failure took.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Loss {
    /// Blocks of which there was more than a durable version.
    pub(crate) blocks: u64,
    /// Of them those that are not at their last.
    pub(crate) lost: u64,
}

/// See the module.
pub(crate) struct Disk {
    state: Mutex<State>,
    /// The last completion that the guest has been told of. It is locked while that is done, so that who receives a command which the guest sends
    /// upon it waits until the number is there.
    told: Mutex<u64>,
    changed: Condvar,
    len: u64,
    block_bytes: u64,
    /// The queues that its commands come from, and the number of its namespace.
    queues: OnceLock<(Arc<Queues>, u32)>,
}

struct State {
    image: File,
    cache: Cache,
    waiting: Vec<Command>,
    random: Random,
    completed: u64,
    frozen: bool,
    closed: bool,
    counters: Counters,
    faults: Faults,
}

impl Disk {
    /// A disk on an image file, of the file's size.
    pub(crate) fn open(image: &Path, block_bytes: u64, seed: u64, faults: Faults) -> io::Result<Disk> {
        let image = File::options().read(true).write(true).open(image)?;
        let len = image.metadata()?.len();
        let state = State {
            image,
            cache: Cache::new(block_bytes as usize),
            waiting: Vec::new(),
            random: Random::new(seed),
            completed: 0,
            frozen: false,
            closed: false,
            counters: Counters::default(),
            faults,
        };
        Ok(Disk {
            state: Mutex::new(state),
            told: Mutex::new(0),
            changed: Condvar::new(),
            len,
            block_bytes,
            queues: OnceLock::new(),
        })
    }

    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    pub(crate) fn block_bytes(&self) -> u64 {
        self.block_bytes
    }

    /// Says where its commands come from: what is FUA there is so here.
    pub(crate) fn attach(&self, queues: &Arc<Queues>, namespace: u32) {
        let _ = self.queues.set((Arc::clone(queues), namespace));
    }

    pub(crate) fn counters(&self) -> Counters {
        self.lock().counters
    }

    /// Takes a command into the queue.
    pub(crate) fn receive(&self, mut command: Command) {
        command.told = *self.lock_told();
        if let Some((queues, namespace)) = self.queues.get()
            && matches!(command.kind, CommandKind::Write | CommandKind::Zero)
        {
            let (first, count) = (command.offset / self.block_bytes, command.len / self.block_bytes);
            command.durable |= queues.wants_durable(*namespace, first, count);
        }
        self.lock().waiting.push(command);
        self.changed.notify_all();
    }

    /// Completes one command of the queue, waiting for it; nothing after the end of the connection or of the power.
    pub(crate) fn complete(&self) -> Option<(Completion, u64)> {
        let mut state = self.lock();
        loop {
            if state.frozen || state.closed {
                return None;
            }
            if !state.waiting.is_empty() {
                break;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.random.below(PAUSE_ONE_IN) == 0 {
            drop(state);
            std::thread::sleep(PAUSE);
            state = self.lock();
            if state.frozen {
                return None;
            }
        }
        let count = state.waiting.len() as u64;
        let index = state.random.below(count) as usize;
        if state.waiting[index].kind == CommandKind::Write
            && state.faults.freeze_at_write == Some(state.counters.writes)
        {
            state.frozen = true;
            return None;
        }
        let command = state.waiting.swap_remove(index);
        let result = self.check(&command).and_then(|()| state.run(&command));
        state.completed += 1;
        Some((Completion { cookie: command.cookie, result }, state.completed))
    }

    /// Tells the guest of a completion; `number` is that of [`Self::complete`].
    pub(crate) fn tell(&self, number: u64, tell: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let mut told = self.lock_told();
        tell()?;
        *told = number;
        Ok(())
    }

    /// The client is gone.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    /// The power fails: no command completes from now on.
    pub(crate) fn freeze(&self) {
        self.lock().frozen = true;
        self.changed.notify_all();
    }

    /// Whether the power has failed.
    pub(crate) fn frozen(&self) -> bool {
        self.lock().frozen
    }

    /// Leaves in the image what a power failure leaves. Once, at the end.
    pub(crate) fn cut(&self) -> io::Result<Loss> {
        let mut state = self.lock();
        let state = &mut *state;
        state.frozen = true;
        for command in std::mem::take(&mut state.waiting) {
            // A command in flight may have been done in part: its blocks are versions like others.
            if matches!(command.kind, CommandKind::Write | CommandKind::Zero) && self.check(&command).is_ok() {
                state.completed_write(&command);
                state.completed += 1;
            }
        }
        let mut loss = Loss::default();
        for (offset, versions) in state.cache.take() {
            loss.blocks += 1;
            // 0: what the image has.
            let survives = state.random.below(versions.len() as u64 + 1) as usize;
            loss.lost += u64::from(survives < versions.len());
            if survives > 0 {
                state.image.write_all_at(&versions[survives - 1], offset)?;
            }
        }
        Ok(loss)
    }

    fn check(&self, command: &Command) -> io::Result<()> {
        let block = self.block_bytes;
        let aligned = command.offset.is_multiple_of(block) && command.len.is_multiple_of(block);
        let inside = command.offset.checked_add(command.len).is_some_and(|end| end <= self.len);
        if aligned && inside { Ok(()) } else { Err(io::ErrorKind::InvalidInput.into()) }
    }

    fn lock_told(&self) -> MutexGuard<'_, u64> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn run(&mut self, command: &Command) -> io::Result<Vec<u8>> {
        match command.kind {
            CommandKind::Read => {
                self.counters.reads += 1;
                let mut data = vec![0; command.len as usize];
                self.image.read_exact_at(&mut data, command.offset)?;
                self.cache.overlay(command.offset, &mut data);
                return Ok(data);
            }
            CommandKind::Flush => {
                self.counters.flushes += 1;
                if !self.faults.deaf {
                    self.write_back(command.told)?;
                }
            }
            CommandKind::Zero if command.len > CACHE_BYTES_MAX => {
                self.counters.zeroes += 1;
                self.write_back(u64::MAX)?;
                zero(&self.image, command.offset, command.len)?;
            }
            CommandKind::Write | CommandKind::Zero => {
                let zero = command.kind == CommandKind::Zero;
                *(if zero { &mut self.counters.zeroes } else { &mut self.counters.writes }) += 1;
                self.completed_write(command);
                if command.durable && !self.faults.deaf {
                    self.counters.durable_writes += 1;
                    let image = &self.image;
                    let range = command.offset..command.offset + command.len;
                    self.cache.drain(range, u64::MAX, |offset, data| image.write_all_at(data, offset))?;
                }
                if self.cache.bytes() > CACHE_BYTES_MAX {
                    self.write_back(u64::MAX)?;
                }
            }
        }
        Ok(Vec::new())
    }

    fn completed_write(&mut self, command: &Command) {
        let data = (command.kind == CommandKind::Write).then_some(command.data.as_slice());
        self.cache.put(command.offset, command.len, data, self.completed + 1);
    }

    fn write_back(&mut self, up_to: u64) -> io::Result<()> {
        let image = &self.image;
        self.cache.drain(0..u64::MAX, up_to, |offset, data| image.write_all_at(data, offset))
    }
}

/// Writes zeroes where there is anything else: holes of the image stay.
fn zero(image: &File, offset: u64, len: u64) -> io::Result<()> {
    let mut piece = vec![0; 1 << 20];
    let mut at = offset;
    while at < offset + len {
        let count = (offset + len - at).min(piece.len() as u64) as usize;
        image.read_exact_at(&mut piece[..count], at)?;
        if piece[..count].iter().any(|byte| *byte != 0) {
            piece.fill(0);
            image.write_all_at(&piece[..count], at)?;
        }
        at += count as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
