//! States that fold what is added to them into one value: reducing (of the same type) and aggregating (of another).

use std::fmt;

use super::codec::{Codec, Postcard};
use super::descriptor::{Expires, State, sealed};
use super::key::KeyCodec;
use super::value::{ValueEntries, ValueState};
use crate::{Keyspace, LocalShard, Partition, Result};

/// Combines two values of a [`ReducingState`] into one. Closures and functions of type `Fn(V, V) -> V` are reducers.
///
/// ```
/// use siltstone::state::Reduce;
///
/// #[derive(Clone, Default)]
/// struct Longest;
///
/// impl Reduce<String> for Longest {
///     fn reduce(&self, so_far: String, added: String) -> String {
///         if added.len() > so_far.len() { added } else { so_far }
///     }
/// }
/// assert_eq!(Longest.reduce("a".into(), "bc".into()), "bc");
/// assert_eq!(u64::max.reduce(1, 2), 2);
/// ```
pub trait Reduce<V> {
    /// The value that stands for both.
    fn reduce(&self, so_far: V, added: V) -> V;
}

impl<V, F: Fn(V, V) -> V> Reduce<V> for F {
    fn reduce(&self, so_far: V, added: V) -> V {
        self(so_far, added)
    }
}

/// One value for each key: all that were added to it, reduced to one.
///
/// ```no_run
/// # use siltstone::state::{Descriptor, ReducingState};
/// # use siltstone::{Engine, LocalShard, Options};
/// let descriptor = Descriptor::<ReducingState<String, u64, fn(u64, u64) -> u64>>::with_function("highest", u64::max);
/// let engine = Engine::open(Options::at("/tmp/state").state(&descriptor))?;
/// let highest = descriptor.bind(&engine)?;
///
/// # async fn example(highest: siltstone::state::ReducingState<String, u64, fn(u64, u64) -> u64>, shard: LocalShard) -> siltstone::Result<()> {
/// let user = "ada".to_string();
/// highest.add(&shard, &user, 3).await?;
/// assert!(highest.get(&shard, &user).await? >= Some(3));
/// # Ok(())
/// # }
/// # let _ = highest;
/// # Ok::<(), siltstone::Error>(())
/// ```
pub struct ReducingState<K, V, R, C = Postcard> {
    values: ValueState<K, V, C>,
    reducer: R,
}

impl<K: KeyCodec, V, R: Reduce<V>, C: Codec<V>> ReducingState<K, V, R, C> {
    /// Reduces a value into the key's.
    pub async fn add(&self, shard: &LocalShard, key: &K, value: V) -> Result<()> {
        let value = match self.values.get(shard, key).await? {
            Some(so_far) => self.reducer.reduce(so_far, value),
            None => value,
        };
        self.values.set(shard, key, &value).await
    }

    /// The key's value; `None` where nothing was added.
    pub async fn get(&self, shard: &LocalShard, key: &K) -> Result<Option<V>> {
        self.values.get(shard, key).await
    }

    /// Removes the key's value.
    pub async fn clear(&self, shard: &LocalShard, key: &K) -> Result<()> {
        self.values.clear(shard, key).await
    }

    /// All keys of the shard and their values, in order of (key group, key).
    pub fn entries(&self, shard: &LocalShard) -> Result<ValueEntries<K, V, C>> {
        self.values.entries(shard)
    }
}

/// How an [`AggregatingState`] folds inputs into an accumulator and what it makes of it.
///
/// ```
/// use siltstone::state::Aggregate;
///
/// #[derive(Clone, Default)]
/// struct Mean;
///
/// impl Aggregate for Mean {
///     type In = f64;
///     type Acc = (u64, f64);
///     type Out = f64;
///
///     fn empty(&self) -> (u64, f64) {
///         (0, 0.0)
///     }
///     fn add(&self, (count, sum): &mut (u64, f64), input: f64) {
///         *count += 1;
///         *sum += input;
///     }
///     fn result(&self, (count, sum): (u64, f64)) -> f64 {
///         sum / count as f64
///     }
/// }
///
/// let mut acc = Mean.empty();
/// Mean.add(&mut acc, 1.0);
/// Mean.add(&mut acc, 2.0);
/// assert_eq!(Mean.result(acc), 1.5);
/// ```
pub trait Aggregate {
    /// What is added.
    type In;
    /// What is stored for each key.
    type Acc;
    /// What is read.
    type Out;

    /// The accumulator of nothing.
    fn empty(&self) -> Self::Acc;

    /// Folds an input into the accumulator.
    fn add(&self, acc: &mut Self::Acc, input: Self::In);

    /// What the accumulator amounts to.
    fn result(&self, acc: Self::Acc) -> Self::Out;
}

/// One accumulator for each key, into which inputs are folded as an [`Aggregate`] says.
///
/// ```no_run
/// # use siltstone::state::{Aggregate, AggregatingState, Descriptor};
/// # use siltstone::{LocalShard, Result};
/// #[derive(Clone, Default)]
/// struct Count;
///
/// impl Aggregate for Count {
///     type In = ();
///     type Acc = u64;
///     type Out = u64;
///     fn empty(&self) -> u64 {
///         0
///     }
///     fn add(&self, acc: &mut u64, _: ()) {
///         *acc += 1;
///     }
///     fn result(&self, acc: u64) -> u64 {
///         acc
///     }
/// }
///
/// let descriptor = Descriptor::<AggregatingState<String, Count>>::new("counts");
/// async fn count(counts: &AggregatingState<String, Count>, shard: &LocalShard, user: &String) -> Result<Option<u64>> {
///     counts.add(shard, user, ()).await?;
///     counts.get(shard, user).await
/// }
/// # let _ = (descriptor, count);
/// ```
pub struct AggregatingState<K, A: Aggregate, C = Postcard> {
    accumulators: ValueState<K, A::Acc, C>,
    aggregate: A,
}

impl<K: KeyCodec, A: Aggregate, C: Codec<A::Acc>> AggregatingState<K, A, C> {
    /// Folds an input into the key's accumulator.
    pub async fn add(&self, shard: &LocalShard, key: &K, input: A::In) -> Result<()> {
        let mut acc = self.accumulators.get(shard, key).await?.unwrap_or_else(|| self.aggregate.empty());
        self.aggregate.add(&mut acc, input);
        self.accumulators.set(shard, key, &acc).await
    }

    /// The key's result; `None` where nothing was added.
    pub async fn get(&self, shard: &LocalShard, key: &K) -> Result<Option<A::Out>> {
        Ok(self.accumulators.get(shard, key).await?.map(|acc| self.aggregate.result(acc)))
    }

    /// The key's result, which is removed; `None` where nothing was added. What a window does when it fires.
    pub async fn take(&self, shard: &LocalShard, key: &K) -> Result<Option<A::Out>> {
        let result = self.get(shard, key).await?;
        if result.is_some() {
            self.clear(shard, key).await?;
        }
        Ok(result)
    }

    /// Removes the key's accumulator.
    pub async fn clear(&self, shard: &LocalShard, key: &K) -> Result<()> {
        self.accumulators.clear(shard, key).await
    }
}

impl<K, V, R, C> sealed::Sealed for ReducingState<K, V, R, C> {}

impl<K, V, R: Clone, C> State for ReducingState<K, V, R, C> {
    type Function = R;
    const PARTITION: Partition = Partition::WholeKey;

    fn from_keyspace(keyspace: Keyspace, reducer: R) -> Self {
        ReducingState { values: ValueState::from_keyspace(keyspace, ()), reducer }
    }
}

impl<K, V, R: Clone, C> Expires for ReducingState<K, V, R, C> {}

impl<K, V, R: Clone, C> Clone for ReducingState<K, V, R, C> {
    fn clone(&self) -> Self {
        ReducingState { values: self.values.clone(), reducer: self.reducer.clone() }
    }
}

impl<K, V, R, C> fmt::Debug for ReducingState<K, V, R, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ReducingState").field(&self.values).finish()
    }
}

impl<K, A: Aggregate, C> sealed::Sealed for AggregatingState<K, A, C> {}

impl<K, A: Aggregate + Clone, C> State for AggregatingState<K, A, C> {
    type Function = A;
    const PARTITION: Partition = Partition::WholeKey;

    fn from_keyspace(keyspace: Keyspace, aggregate: A) -> Self {
        AggregatingState { accumulators: ValueState::from_keyspace(keyspace, ()), aggregate }
    }
}

impl<K, A: Aggregate + Clone, C> Expires for AggregatingState<K, A, C> {}

impl<K, A: Aggregate + Clone, C> Clone for AggregatingState<K, A, C> {
    fn clone(&self) -> Self {
        AggregatingState { accumulators: self.accumulators.clone(), aggregate: self.aggregate.clone() }
    }
}

impl<K, A: Aggregate, C> fmt::Debug for AggregatingState<K, A, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("AggregatingState").field(&self.accumulators).finish()
    }
}
