//! How a state is declared: a name, its type and its options, told to [`Options`] before the engine opens and bound to the engine after.

use std::fmt;

use crate::{Engine, Error, Keyspace, KeyspaceOptions, Options, Partition, Result, Ttl};

/// A kind of typed state. Implemented by the types of this module only.
pub trait State: Sized + sealed::Sealed {
    /// The function that the state applies: nothing for most kinds, the reducer or the aggregate for those that have one.
    type Function: Clone;

    #[doc(hidden)]
    const PARTITION: Partition;

    #[doc(hidden)]
    fn from_keyspace(keyspace: Keyspace, function: Self::Function) -> Self;
}

/// A kind of state whose entries may have a time to live: all but timers.
pub trait Expires: State {}

pub(super) mod sealed {
    pub trait Sealed {}
}

/// The declaration of a state: the keyspace's name, the types, the time to live.
///
/// The types are not stored: who binds a keyspace must name those it was written with. A stored value that does not decode is
/// [`Error::Codec`].
///
/// ```no_run
/// use siltstone::state::{Descriptor, ValueState};
/// use siltstone::{Engine, Options, TimeDomain, Ttl};
///
/// let descriptor = Descriptor::<ValueState<String, u64>>::new("visits")
///     .ttl(Ttl { duration_ms: 3_600_000, time: TimeDomain::Event });
/// let engine = Engine::open(Options::at("/tmp/state").state(&descriptor))?;
/// let visits = descriptor.bind(&engine)?;
/// # let _ = visits;
/// # Ok::<(), siltstone::Error>(())
/// ```
pub struct Descriptor<S: State> {
    name: String,
    options: KeyspaceOptions,
    function: S::Function,
}

impl<S: State> Descriptor<S> {
    /// A state in the keyspace of this name.
    pub fn new(name: impl Into<String>) -> Self
    where
        S::Function: Default,
    {
        Descriptor::with_function(name, S::Function::default())
    }

    /// A state in the keyspace of this name that applies this function: the reducer of a [`ReducingState`](super::ReducingState), the
    /// aggregate of an [`AggregatingState`](super::AggregatingState).
    pub fn with_function(name: impl Into<String>, function: S::Function) -> Self {
        let options = KeyspaceOptions::default().partition(S::PARTITION);
        Descriptor { name: name.into(), options, function }
    }

    /// Bits of Bloom filter for each key. Default 10.
    #[must_use]
    pub fn filter_bits_per_key(mut self, bits: u32) -> Self {
        self.options = self.options.filter_bits_per_key(bits);
        self
    }

    /// The keyspace's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The keyspace's options.
    pub fn options(&self) -> &KeyspaceOptions {
        &self.options
    }

    /// The state in an open engine. [`Error::NotFound`] where the engine has no such keyspace ([`Options::state`] creates it);
    /// [`Error::InvalidArgument`] where it was made for another kind of state.
    pub fn bind(&self, engine: &Engine) -> Result<S> {
        let keyspace = engine.keyspace(&self.name)?;
        let found = keyspace.options().partition;
        if found != S::PARTITION {
            return Err(Error::InvalidArgument(format!(
                "keyspace {} was made for another kind of state: its keys are partitioned by {found:?}, not {:?}",
                self.name,
                S::PARTITION
            )));
        }
        Ok(S::from_keyspace(keyspace, self.function.clone()))
    }
}

impl<S: Expires> Descriptor<S> {
    /// How long an entry lives after it was last written, by event time ([`LocalShard::at`](crate::LocalShard::at), else the shard's
    /// watermark) or by the wall clock. Default: for ever.
    #[must_use]
    pub fn ttl(mut self, ttl: Ttl) -> Self {
        self.options = self.options.ttl(ttl);
        self
    }
}

impl<S: State> Clone for Descriptor<S> {
    fn clone(&self) -> Self {
        Descriptor { name: self.name.clone(), options: self.options, function: self.function.clone() }
    }
}

impl<S: State> fmt::Debug for Descriptor<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Descriptor").field("name", &self.name).field("options", &self.options).finish_non_exhaustive()
    }
}

impl Options {
    /// Has the opening create the keyspace of a state where it is missing.
    #[must_use]
    pub fn state<S: State>(self, descriptor: &Descriptor<S>) -> Options {
        self.keyspace(descriptor.name.clone(), descriptor.options)
    }
}
