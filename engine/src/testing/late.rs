//! Operators that are sent while a barrier opens: they have begun before it, and arrive behind it.
//!
//! With threads that is a matter of a few instructions. Here the two halves of sending are two calls.

use std::future::Future;
use std::sync::Arc;

use crate::engine::EngineShared;
use crate::shard::Operator;
use crate::{Engine, Epoch, LocalShard, Result};

/// An operator that has begun and is not sent yet. What ends its epoch waits for it.
pub struct LateOperator {
    engine: Arc<EngineShared>,
    shard: usize,
    operator: Operator,
}

impl LateOperator {
    /// Begins an operator as [`Engine::on_shard`] does. The future is its reply.
    pub fn begin<T, F, Fut>(
        engine: &Engine,
        key: &[u8],
        operator: F,
    ) -> (LateOperator, impl Future<Output = Result<T>> + Send + use<T, F, Fut>)
    where
        T: Send + 'static,
        F: FnOnce(LocalShard) -> Fut + Send + 'static,
        Fut: Future<Output = T> + 'static,
    {
        let shared = Arc::clone(engine.shared());
        let (operator, reply) = shared.begin(Some(xxhash_rust::xxh3::xxh3_64(key)), operator);
        (LateOperator { engine: shared, shard: usize::from(engine.shard_of(key).0), operator }, reply)
    }

    /// The epoch in which it has begun.
    pub fn epoch(&self) -> Epoch {
        self.operator.epoch.epoch()
    }

    /// Sends it to its shard.
    pub fn arrive(self) {
        self.engine.deliver(self.shard, self.operator);
    }
}

/// The epoch to which an operator's writes belong.
pub fn epoch_of(shard: &LocalShard) -> Option<Epoch> {
    shard.epoch()
}
