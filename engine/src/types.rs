//! The identifiers and small value types that every part of the engine shares.
//!
//! Things that must not be mixed are newtypes. All are plain integers on disk, little-endian unless they are part of a key.

use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $visibility:vis $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        $visibility struct $name(pub $inner);

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

id! {
    /// A shard's index: 0 .. number of shards.
    pub ShardId(u16)
}
id! {
    /// One of the fixed number of groups into which keys are hashed; the unit in which shards own keys.
    pub KeyGroup(u16)
}
id! {
    /// A keyspace's number, unique in its volume and never reused.
    pub KeyspaceId(u32)
}
id! {
    /// The index of an extent: its byte offset is the index times the extent size. Extent 0 holds the superblock.
    pub(crate) ExtentId(u32)
}
id! {
    /// The identity of an SST, never reused: the superblock generation of the opening that wrote it
    /// in the upper 24 bits, a counter in the lower 40.
    pub(crate) SstId(u64)
}
id! {
    /// The time between two checkpoint barriers. The first epoch of a volume is 1.
    pub Epoch(u64)
}
id! {
    /// A position in a shard's history of writes: 56 bits, assigned when the write is applied.
    pub SeqNo(u64)
}

impl SeqNo {
    /// The largest sequence number: a read at `MAX` sees everything.
    pub const MAX: SeqNo = SeqNo((1 << 56) - 1);
}

/// What an entry does to its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub(crate) enum Kind {
    /// The key is absent from here on (a tombstone).
    Delete = 0,
    /// The key has the value.
    Put = 1,
    /// The key has a value until a point in time: the value starts with the expiry time, milliseconds, u64 little-endian.
    PutExpiring = 2,
}

impl Kind {
    /// The kind with this number, if there is one.
    pub(crate) fn from_u8(byte: u8) -> Option<Kind> {
        match byte {
            0 => Some(Kind::Delete),
            1 => Some(Kind::Put),
            2 => Some(Kind::PutExpiring),
            _ => None,
        }
    }
}

/// Sequence number and kind of an entry in one word: `seq << 8 | kind`. Of two entries with one key the larger trailer is newer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Trailer(u64);

impl Trailer {
    /// The trailer of an entry.
    pub(crate) fn new(seq: SeqNo, kind: Kind) -> Self {
        debug_assert!(seq <= SeqNo::MAX);
        Trailer(seq.0 << 8 | kind as u64)
    }

    /// Sorts before all other entries of a key.
    pub(crate) const NEWEST: Trailer = Trailer(SeqNo::MAX.0 << 8 | 0xff);
    /// Sorts behind all other entries of a key.
    pub(crate) const OLDEST: Trailer = Trailer(0);

    /// Reads a stored trailer; `None` where the kind is unknown.
    pub(crate) fn from_u64(raw: u64) -> Option<Self> {
        Kind::from_u8((raw & 0xff) as u8).map(|_| Trailer(raw))
    }

    /// The word as stored.
    pub(crate) fn as_u64(self) -> u64 {
        self.0
    }

    /// The entry's sequence number.
    pub(crate) fn seq(self) -> SeqNo {
        SeqNo(self.0 >> 8)
    }

    /// The entry's kind.
    pub(crate) fn kind(self) -> Kind {
        match self.0 & 0xff {
            0 => Kind::Delete,
            1 => Kind::Put,
            _ => Kind::PutExpiring,
        }
    }
}

/// Which entries a read sees: those with a sequence number of at most `upper`, except those inside the `hole`.
///
/// The hole (exclusive at both ends) is there when the view was taken while an older epoch still awaited stragglers: what they
/// write later gets sequence numbers from that epoch's gap, below `upper`, and must not appear in the view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ReadView {
    /// The newest sequence number seen.
    pub(crate) upper: SeqNo,
    /// Sequence numbers strictly between these two are not seen.
    pub(crate) hole: Option<(SeqNo, SeqNo)>,
}

impl ReadView {
    /// The view that sees everything.
    pub(crate) const LATEST: ReadView = ReadView { upper: SeqNo::MAX, hole: None };

    /// Whether an entry with this sequence number is seen.
    #[inline]
    pub(crate) fn sees(&self, seq: SeqNo) -> bool {
        seq <= self.upper && !matches!(self.hole, Some((low, high)) if low < seq && seq < high)
    }
}
