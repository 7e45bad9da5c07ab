//! Typed state: what an operator keeps for each key, over keyspaces of the engine.
//!
//! | state | for each key | stored as |
//! |---|---|---|
//! | [`ValueState`] | a value | one entry |
//! | [`MapState`] | an ordered map | an entry for each map entry |
//! | [`ListState`] | a list | one entry, and one more for each KiB |
//! | [`ReducingState`] | values reduced to one | one entry |
//! | [`AggregatingState`] | inputs folded into an accumulator | one entry |
//! | [`Timers`] | points in event time | an entry for each timer |
//!
//! A state is declared by a [`Descriptor`], told to the options by [`Options::state`](crate::Options::state), and bound to the open engine by
//! [`Descriptor::bind`]. Its methods take the [`LocalShard`](crate::LocalShard) on which an operator runs; all states of a key are on the shard to which
//! [`Engine::on_shard`](crate::Engine::on_shard) ships the operator when it is given [`partition_of`] the key. Asking another shard for them finds nothing.
//!
//! Keys are encoded so that they sort ([`KeyCodec`]), values by serde or by hand ([`Codec`]). A state and its key's encoding are all there is: no
//! type names, no versions; the kinds that store records of their own (lists) have a version in each record.
//!
//! ```no_run
//! use siltstone::state::{partition_of, Descriptor, ListState, ValueState};
//! use siltstone::{Durability, Engine, Options};
//!
//! # async fn example() -> siltstone::Result<()> {
//! let last_seen = Descriptor::<ValueState<String, i64>>::new("last-seen");
//! let delays = Descriptor::<ListState<String, i64>>::new("delays");
//! let options = Options::at("/tmp/state").durability(Durability::Checkpoint).state(&last_seen).state(&delays);
//! let engine = Engine::open(options)?;
//! let (last_seen, delays) = (last_seen.bind(&engine)?, delays.bind(&engine)?);
//!
//! let plane = "N14228".to_string();
//! engine
//!     .on_shard(&partition_of(&plane), move |shard| async move {
//!         last_seen.set(&shard, &plane, &1_357_035_300_000).await?;
//!         delays.push_bounded(&shard, &plane, &11, 100).await
//!     })
//!     .await?
//! # }
//! ```

mod buf;
mod codec;
mod descriptor;
mod key;
mod list;
mod map;
mod reducing;
mod stored;
mod timers;
mod value;

pub use buf::EncodeBuf;
pub use codec::{Codec, Postcard, Raw};
pub use descriptor::{Descriptor, Expires, State};
pub use key::KeyCodec;
#[cfg(feature = "fuzz")]
pub(crate) use list::decode_elements;
pub use list::{ListIter, ListState};
pub use map::{MapEntries, MapIter, MapState};
pub use reducing::{Aggregate, AggregatingState, Reduce, ReducingState};
pub use stored::partition_of;
#[cfg(feature = "fuzz")]
pub(crate) use stored::{split_prefixed, split_timer};
pub use timers::Timers;
pub use value::{ValueEntries, ValueState};

/// Types that a state is for but holds no values of; it may cross threads whatever they are.
type Types<T> = std::marker::PhantomData<fn() -> T>;

#[cfg(test)]
mod tests;
