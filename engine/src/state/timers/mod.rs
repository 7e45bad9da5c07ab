//! Event-time timers, which fire in order of (time, key).
//!
//! A timer is an entry without a value whose key is the time and the key: registering one twice is the same entry twice. Each key group's
//! timers are in time order in the store; the earliest of each group are in memory ([`heads`]), so that the earliest of the shard
//! is known without a read. They are read when the first timer of the shard is asked for, and when a group's run out.
//!
//! Registering, deleting and firing each write to the store, and may wait for it, while other operators of the shard run. The steps of each:
//!
//! 1. note how often the timer's group has changed; a removal also takes the timer out of memory, which counts as a change;
//! 2. write;
//! 3. where another change came between that may have crossed this one, or the write failed, or its future was dropped: forget what is known
//!    of the group, so that it is read again; else bring memory up to date.
//!
//! A refill, likewise, is thrown away and read again where its group changed while it read, and passes over timers that are being removed.
//! Refills exclude each other by a lock. Nobody holds it while it waits for a write: a write may wait for the end of operators of an older
//! epoch, and those may ask for timers.
//!
//! A crash leaves the store as it was written; nothing of the memory part is stored.

mod heads;

use std::cell::{RefCell, RefMut};
use std::fmt;
use std::marker::PhantomData;
use std::ops::Bound;
use std::rc::Rc;

use futures_util::lock::{Mutex, MutexGuard};

use super::Types;
use super::descriptor::{State, sealed};
use super::key::KeyCodec;
use super::stored::{split_timer, timer};
use crate::{KeyGroup, Keyspace, LocalShard, Partition, Result, ScanRange};
use heads::{Changes, Heads, Known, REFILL_TIMERS, Timer};

/// Event-time timers: at most one for each time and key.
///
/// Who owns the time, usually the source's watermark, asks each shard for the timers that are due, and acts on them.
///
/// ```no_run
/// # use siltstone::state::{Descriptor, Timers};
/// # use siltstone::{LocalShard, Result};
/// let descriptor = Descriptor::<Timers<String>>::new("window-ends");
///
/// async fn fire(window_ends: &Timers<String>, shard: &LocalShard, watermark_ms: i64) -> Result<()> {
///     while let Some((time_ms, user)) = window_ends.pop_due(shard, watermark_ms).await? {
///         println!("the window of {user} ended at {time_ms}");
///     }
///     Ok(())
/// }
/// # let _ = (descriptor, fire);
/// ```
pub struct Timers<K> {
    keyspace: Keyspace,
    types: Types<K>,
}

impl<K: KeyCodec> Timers<K> {
    /// Registers a timer for the key; nothing changes where there is one for that time. One write, no read.
    pub async fn register(&self, shard: &LocalShard, time_ms: i64, key: &K) -> Result<()> {
        let stored = timer(time_ms, key);
        let service = self.service(shard);
        let change = Change::begin(&service, shard, self.keyspace.group_of(&stored), None);
        shard.put(&self.keyspace, &stored, &[]).await?;
        change.finish(|heads, group| heads.insert(group, &stored));
        Ok(())
    }

    /// Deletes the key's timer for that time, if there is one.
    pub async fn delete(&self, shard: &LocalShard, time_ms: i64, key: &K) -> Result<()> {
        self.remove(shard, &self.service(shard), &timer(time_ms, key)).await
    }

    /// The time of the shard's earliest timer; `None` where there is none.
    pub async fn next_due(&self, shard: &LocalShard) -> Result<Option<i64>> {
        let service = self.service(shard);
        let turn = service.turn.lock().await;
        self.refill(shard, &service, &turn).await?;
        let heads = service.heads(shard);
        heads.first().map(|(stored, _)| split_timer(stored).map(|(time_ms, _)| time_ms)).transpose()
    }

    /// Removes and returns the shard's earliest timer with a time of at most `until_ms`, in order of (time, key's encoding).
    ///
    /// Timers of all keys of the shard are taken, also those that an operator of a newer epoch has registered. Who fires as an operator of the engine
    /// ([`Engine::on_shard`](crate::Engine::on_shard)) must therefore not ask, once a checkpoint has begun, for timers that operators sent after it may
    /// register: its removal belongs to the older epoch and would not hold. With a watermark that goes up, and timers registered ahead of it, that is so.
    pub async fn pop_due(&self, shard: &LocalShard, until_ms: i64) -> Result<Option<(i64, K)>> {
        let service = self.service(shard);
        let turn = service.turn.lock().await;
        self.refill(shard, &service, &turn).await?;
        let Some(stored) = service.heads(shard).first().map(|(stored, _)| Rc::clone(stored)) else { return Ok(None) };
        let (time_ms, key) = split_timer(&stored)?;
        if time_ms > until_ms {
            return Ok(None);
        }
        let key = K::decode_key(key)?;
        let removal = self.remove(shard, &service, &stored);
        drop(turn);
        removal.await?;
        Ok(Some((time_ms, key)))
    }

    /// Takes a timer out of memory at once, and then out of the store.
    fn remove<'s>(
        &'s self,
        shard: &'s LocalShard,
        service: &'s Service,
        stored: &'s [u8],
    ) -> impl Future<Output = Result<()>> + 's {
        let group = self.keyspace.group_of(stored);
        service.heads(shard).hide(group, stored);
        let change = Change::begin(service, shard, group, Some(stored));
        async move {
            shard.delete(&self.keyspace, stored).await?;
            change.finish(|heads, group| heads.remove(group, stored));
            Ok(())
        }
    }

    /// Reads the earliest timers of all groups that have none in memory.
    async fn refill(&self, shard: &LocalShard, service: &Service, _turn: &MutexGuard<'_, ()>) -> Result<()> {
        loop {
            let Some((group, known)) = service.heads(shard).unfilled() else { return Ok(()) };
            let changes = service.heads(shard).changes(group);
            let from = match known {
                Known::UpTo(bound) => Bound::Excluded(bound.to_vec()),
                Known::Nothing | Known::All => Bound::Unbounded,
            };
            let mut scan = shard.scan(&self.keyspace, ScanRange::range(from, Bound::Unbounded).group(group))?;
            let mut timers: Vec<Timer> = Vec::new();
            let mut last = false;
            while timers.len() < REFILL_TIMERS && !last {
                match scan.next().await? {
                    Some(entry) => timers.push(entry.key.into()),
                    None => last = true,
                }
            }
            let mut heads = service.heads(shard);
            if heads.changes(group) == changes {
                mark!(TimersRefilled if !timers.is_empty());
                heads.fill(group, timers, last);
            } else {
                mark!(TimerRefillCrossed);
            }
        }
    }

    fn service(&self, shard: &LocalShard) -> Rc<Service> {
        shard.extension::<Service>(&self.keyspace)
    }
}

/// The part of a timer keyspace that is in a shard's memory.
#[derive(Default)]
struct Service {
    heads: RefCell<Option<Heads>>,
    turn: Mutex<()>,
}

impl Service {
    fn heads(&self, shard: &LocalShard) -> RefMut<'_, Heads> {
        RefMut::map(self.heads.borrow_mut(), |heads| heads.get_or_insert_with(|| Heads::new(shard.key_groups())))
    }
}

/// A write to a group that is under way. Dropped before it has finished, it has the group read again.
struct Change<'a> {
    service: &'a Service,
    shard: &'a LocalShard,
    group: KeyGroup,
    before: Changes,
    /// The timer that it removes, which is hidden meanwhile.
    removes: Option<&'a [u8]>,
    finished: bool,
}

impl<'a> Change<'a> {
    fn begin(service: &'a Service, shard: &'a LocalShard, group: KeyGroup, removes: Option<&'a [u8]>) -> Self {
        let before = service.heads(shard).changes(group);
        Change { service, shard, group, before, removes, finished: false }
    }

    /// The write is done: brings memory up to date with it, or forgets the group where another change may have crossed it. Insertions do
    /// not cross each other.
    fn finish(mut self, apply: impl FnOnce(&mut Heads, KeyGroup)) {
        self.finished = true;
        let mut heads = self.service.heads(self.shard);
        let now = heads.changes(self.group);
        let crossed = now.removals != self.before.removals
            || (self.removes.is_some() && now.insertions != self.before.insertions);
        if let Some(timer) = self.removes {
            heads.unhide(self.group, timer);
        }
        if crossed {
            mark!(TimerGroupForgotten);
            heads.forget(self.group);
        } else {
            apply(&mut heads, self.group);
        }
    }
}

impl Drop for Change<'_> {
    fn drop(&mut self) {
        if !self.finished {
            let mut heads = self.service.heads(self.shard);
            if let Some(timer) = self.removes {
                heads.unhide(self.group, timer);
            }
            heads.forget(self.group);
        }
    }
}

impl<K> sealed::Sealed for Timers<K> {}

impl<K> State for Timers<K> {
    type Function = ();
    const PARTITION: Partition = Partition::After(size_of::<i64>() as u16);

    fn from_keyspace(keyspace: Keyspace, (): ()) -> Self {
        Timers { keyspace, types: PhantomData }
    }
}

impl<K> Clone for Timers<K> {
    fn clone(&self) -> Self {
        Timers { keyspace: self.keyspace.clone(), types: PhantomData }
    }
}

impl<K> fmt::Debug for Timers<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Timers").field(&self.keyspace.name()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::Descriptor;
    use crate::{Durability, Engine, Options};

    /// Each firing once had its group forgotten, so that it was scanned again for the next: a change had been made from a copy of
    /// another, whose drop counted as a failure.
    #[test]
    #[cfg_attr(miri, ignore = "Miri has no io_uring")]
    fn firing_and_deleting_do_not_have_the_group_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let descriptor = Descriptor::<Timers<u8>>::new("timers");
        let options = Options::at(dir.path()).key_groups(1).durability(Durability::Checkpoint).state(&descriptor);
        let engine = Engine::open(options).unwrap();
        let timers = descriptor.bind(&engine).unwrap();
        let operator = engine.on_shard(&[], |shard| async move {
            for time_ms in 0..10 {
                timers.register(&shard, time_ms, &1).await?;
            }
            assert_eq!(timers.next_due(&shard).await?, Some(0));
            let service = timers.service(&shard);
            let refills = service.heads(&shard).changes(KeyGroup(0)).removals;
            timers.delete(&shard, 7, &1).await?;
            while timers.pop_due(&shard, 8).await?.is_some() {
                assert_eq!(service.heads(&shard).unfilled(), None);
            }
            // Two changes for each of the nine timers that went, and no refill.
            assert_eq!(service.heads(&shard).changes(KeyGroup(0)).removals, refills + 18);
            Ok::<(), crate::Error>(())
        });
        engine.block_on(operator).unwrap().unwrap();
        engine.close_blocking().unwrap();
    }
}
