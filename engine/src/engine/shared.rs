//! What the handles of one engine share: the ways to the shards, the epoch gate, keyspaces and how they are created.

use std::collections::BTreeMap;
use std::future::Future;
use std::rc::Rc;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};

use futures_util::future::join_all;
use siltstone_io::mailbox::TrySendError;
use siltstone_io::sync::{AtomicBool, AtomicU32, Ordering};

use super::{Keyspace, route};
use crate::checkpoint::{self, Barrier, CheckpointInfo, CheckpointOrder, EpochGate, Ticket};
use crate::error::{Error, Result};
use crate::manifest::ManifestEdit;
use crate::shard::{Control, KeyspaceState, LocalShard, Operator, Port, Shard, encode_options};
use crate::types::{KeyGroup, KeyspaceId};
use crate::version::Version;

/// What the handles of one engine share.
pub(crate) struct EngineShared {
    pub(super) ports: Box<[Port]>,
    pub(super) gate: Arc<EpochGate>,
    pub(super) key_groups: u32,
    pub(super) keyspaces: RwLock<BTreeMap<String, Keyspace>>,
    pub(super) next_keyspace: AtomicU32,
    pub(super) checkpoint_busy: Arc<AtomicBool>,
    pub(super) checkpoints_retained: Option<usize>,
    pub(super) restored: Option<CheckpointInfo>,
    pub(super) read_only: bool,
    /// Keyspaces whose creation has begun and not succeeded: their numbers, and whether it is under way.
    pub(super) creating: Mutex<BTreeMap<String, (KeyspaceId, bool)>>,
    /// Why some shard has ended without having written what it had acknowledged.
    pub(super) lost: Lost,
}

/// The first error that kept a shard from writing what it had acknowledged before it ended.
pub(crate) type Lost = Arc<OnceLock<Error>>;

impl EngineShared {
    pub(crate) fn shards(&self) -> usize {
        self.ports.len()
    }

    pub(crate) fn checkpoints_retained(&self) -> Option<usize> {
        self.checkpoints_retained
    }

    pub(super) fn shard_of_group(&self, group: KeyGroup) -> usize {
        route::shard_of_group(group, self.shards(), self.key_groups)
    }

    /// Sends an operator, at once; the future is its reply.
    pub(super) fn send<T, F, Fut>(
        &self,
        shard: usize,
        key_hash: Option<u64>,
        operator: F,
    ) -> impl Future<Output = Result<T>> + Send + use<T, F, Fut>
    where
        T: Send + 'static,
        F: FnOnce(LocalShard) -> Fut + Send + 'static,
        Fut: Future<Output = T> + 'static,
    {
        let (operator, reply) = self.begin(key_hash, operator);
        self.deliver(shard, operator);
        reply
    }

    pub(crate) fn deliver(&self, shard: usize, operator: Operator) {
        self.ports[shard].send(operator);
    }

    /// Begins an operator in the current epoch, ready to be sent; the future is its reply.
    pub(crate) fn begin<T, F, Fut>(
        &self,
        key_hash: Option<u64>,
        operator: F,
    ) -> (Operator, impl Future<Output = Result<T>> + Send + use<T, F, Fut>)
    where
        T: Send + 'static,
        F: FnOnce(LocalShard) -> Fut + Send + 'static,
        Fut: Future<Output = T> + 'static,
    {
        let (sender, receiver) = oneshot::channel();
        let operator = Operator {
            key_hash,
            epoch: self.gate.begin(),
            run: Box::new(move |shard: LocalShard| {
                let future = operator(shard);
                Box::pin(async move {
                    // Nobody waits any more: the operator has run all the same.
                    let _ = sender.send(future.await);
                })
            }),
        };
        (operator, async move { receiver.await.map_err(|_| Error::Closed) })
    }

    /// Runs a task on a shard itself, beside its operators and outside their epochs.
    pub(crate) fn control<T, F, Fut>(
        &self,
        shard: usize,
        task: F,
    ) -> impl Future<Output = Result<T>> + Send + use<T, F, Fut>
    where
        T: Send + 'static,
        F: FnOnce(Rc<Shard>) -> Fut + Send + 'static,
        Fut: Future<Output = T> + 'static,
    {
        let (sender, receiver) = oneshot::channel();
        let control = Control::Task(Box::new(move |shard| {
            let future = task(shard);
            Box::pin(async move {
                let _ = sender.send(future.await);
            })
        }));
        let port = self.ports[shard].controls.clone();
        async move {
            port.send(control).await.map_err(|_| Error::Closed)?;
            receiver.await.map_err(|_| Error::Closed)
        }
    }

    pub(crate) async fn on_every_shard<T, F, Fut>(&self, task: F) -> Vec<Result<T>>
    where
        T: Send + 'static,
        F: FnOnce(Rc<Shard>) -> Fut + Clone + Send + 'static,
        Fut: Future<Output = T> + 'static,
    {
        join_all((0..self.shards()).map(|shard| self.control(shard, task.clone()))).await
    }

    /// Opens the barrier and hands the rest to shard 0.
    pub(super) fn begin_checkpoint(
        self: &Arc<Self>,
        name: &str,
        bytes: Vec<u8>,
    ) -> Result<oneshot::Receiver<Result<CheckpointInfo>>> {
        if name.is_empty() || name.len() > 255 {
            return Err(Error::InvalidArgument(format!("a checkpoint's name has 1 to 255 bytes, not {}", name.len())));
        }
        if bytes.len() > checkpoint::CHECKPOINT_BYTES_MAX {
            return Err(Error::InvalidArgument(format!(
                "a checkpoint carries at most {} bytes, not {}",
                checkpoint::CHECKPOINT_BYTES_MAX,
                bytes.len()
            )));
        }
        if self.read_only {
            return Err(Error::ReadOnly);
        }
        let ticket = Ticket::take(&self.checkpoint_busy)?;
        let (sender, receiver) = oneshot::channel();
        let (engine, name) = (Arc::clone(self), name.to_owned());
        // The barrier must not open unless the order for its checkpoint is certain to arrive: the epoch could not be flushed.
        let sent = Barrier::order(&self.gate, |barrier| {
            self.ports[0].controls.try_send(Control::Task(Box::new(move |shard: Rc<Shard>| {
                let epoch = barrier.open();
                Box::pin(async move {
                    let order = CheckpointOrder { epoch, name, bytes, ticket };
                    let _ = sender.send(checkpoint::coordinate(shard, engine, order).await);
                })
            })))
        });
        match sent {
            Ok(()) => Ok(receiver),
            Err(TrySendError::Full(_)) => Err(Error::Busy("shard 0 has too many control tasks waiting".into())),
            Err(TrySendError::Closed(_)) => Err(Error::Closed),
        }
    }
}

/// A keyspace that is being created: there is one creation of a name at a time, and one that has failed in some shards is taken up again
/// under the same number.
pub(super) struct Creation<'e> {
    engine: &'e EngineShared,
    name: String,
    pub(super) id: KeyspaceId,
}

impl<'e> Creation<'e> {
    pub(super) fn begin(engine: &'e EngineShared, name: &str) -> Result<Self> {
        let mut creating = engine.creating.lock().unwrap_or_else(PoisonError::into_inner);
        let (id, under_way) = creating
            .entry(name.to_owned())
            .or_insert_with(|| (KeyspaceId(engine.next_keyspace.fetch_add(1, Ordering::SeqCst)), false));
        if std::mem::replace(under_way, true) {
            return Err(Error::Busy(format!("keyspace {name} is being created by another call")));
        }
        Ok(Creation { engine, name: name.to_owned(), id: *id })
    }
}

impl Drop for Creation<'_> {
    fn drop(&mut self) {
        let mut creating = self.engine.creating.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, under_way)) = creating.get_mut(&self.name) {
            *under_way = false;
        }
    }
}

impl Shard {
    /// Creates a keyspace in this shard; durable when it returns.
    pub(super) async fn create_keyspace(&self, keyspace: Keyspace) -> Result<()> {
        if self.keyspace(keyspace.id()).is_ok() {
            return Ok(());
        }
        let edit = ManifestEdit::KeyspaceCreate {
            id: keyspace.id(),
            name: keyspace.name().to_owned(),
            options: encode_options(keyspace.options()),
        };
        self.commit_edits(vec![edit]).await?;
        self.add_keyspace(KeyspaceState::new(keyspace, Version::default()));
        Ok(())
    }
}
