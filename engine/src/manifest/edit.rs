//! The records of the manifest: what changes from one state of a shard to the next.
//!
//! # Layout
//!
//! One commit of the manifest's log is one atomic group of records. All integers little-endian; strings and lists have a u32 count
//! before them.
//!
//! ```text
//! group:   format version u8 = 1 | number of records u32 | records
//! record:  tag u8 | value bytes u32 | value
//! ```
//!
//! A record whose tag has the bit 0x80 may be skipped by a build that does not know it; any other unknown tag is an error that says so.
//!
//! | tag | record | value |
//! |---|---|---|
//! | 1 | snapshot start | shard u16 |
//! | 2 | keyspace id floor | next u32 |
//! | 3 | keyspace create | id u32, name, options (bytes that the manifest does not look into) |
//! | 4 | keyspace drop | id u32 |
//! | 5 | SST add | keyspace u32, level u8, groups (first u32, end u32), SST |
//! | 6 | SST remove | keyspace u32, level u8, first group u32, SST id u64 |
//! | 7 | WAL floor | list of chains: position (log u64, extent u32, page u32, seq u64), closed u8, last seq u64, groups, first entry's seq u64 |
//! | 8 | last sequence | seq u64 |
//! | 9 | epoch | epoch u64 |
//! | 10 | checkpoint part | checkpoint u64, epoch u64 |
//! | 11 | checkpoint commit | checkpoint u64, name, bytes, wall clock ms u64, shards u16 |
//! | 12 | checkpoint drop | checkpoint u64 |
//! | 13 | checkpoint begin | checkpoint u64, epoch u64, last sequence u64 |
//! | 14 | checkpoint keyspace | checkpoint u64, id u32, name, options |
//! | 15 | checkpoint SST | checkpoint u64, keyspace u32, level u8, groups, id u64, whole u8, SST if whole |
//! | 0x81 | wear | bytes written: metadata u64, log u64, level 0 u64, deeper u64; discards u64, bytes discarded u64 |
//!
//! An SST: id u64, pages u32, list of extents u32, footer CRC u32, smallest key, largest key, entries u64, tombstones u64, least and
//! greatest sequence u64, least and greatest expiry u64, data bytes u64.
//!
//! | version | what changed |
//! |---|---|
//! | 1 | the first |
//!
//! One file, though long: each record's encoding and decoding stand side by side, and all records share their layout's helpers.

use std::ops::Range;
use std::sync::Arc;

use super::coding::{Reader, Writer};
use crate::log::LogPosition;
use crate::types::{Epoch, ExtentId, KeyspaceId, SeqNo, ShardId, SstId};
use crate::volume::WearCounters;
use crate::{Error, Result};

const VERSION: u8 = 1;
/// Key groups are numbered in 16 bits, and the number after the last must fit too.
const KEY_GROUPS_MAX: u32 = 32_768;
const STRUCTURE: &str = "manifest record";
/// Tags with this bit may be skipped where they are not known.
const OPTIONAL: u8 = 0x80;
/// The shortest record: a tag and a length.
const RECORD_BYTES_MIN: usize = 5;

/// One record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ManifestEdit {
    /// The state so far is nothing: the first record of every manifest log.
    SnapshotStart { shard: ShardId },
    /// Keyspace ids below this one have been given out.
    KeyspaceIdFloor { next: KeyspaceId },
    /// A keyspace begins.
    KeyspaceCreate { id: KeyspaceId, name: String, options: Vec<u8> },
    /// A keyspace ends, and its SSTs with it; checkpoints keep theirs.
    KeyspaceDrop { id: KeyspaceId },
    /// An SST, as far as it lies in these key groups, becomes part of a keyspace.
    SstAdd { keyspace: KeyspaceId, level: u8, groups: Range<u32>, meta: Arc<SstMeta> },
    /// The piece of an SST that begins with this key group is no longer part of a keyspace.
    SstRemove { keyspace: KeyspaceId, level: u8, first_group: u32, sst: SstId },
    /// What replay has to read, in this order. Replaces what an earlier record said.
    WalFloor { chains: Vec<WalChain> },
    /// Sequence numbers up to this one may be in use.
    LastSeq { seq: SeqNo },
    /// The shard has reached this epoch.
    Epoch { epoch: Epoch },
    /// The state after this commit is this shard's part of a checkpoint.
    CheckpointPart { id: u64, epoch: Epoch },
    /// The checkpoint exists: all its parts are durable. In shard 0's manifest only.
    CheckpointCommit { id: u64, info: CheckpointInfo },
    /// The checkpoint, or this shard's part of it, is gone.
    CheckpointDrop { id: u64 },
    /// In a snapshot: a part of a checkpoint, its keyspaces and SSTs to follow.
    CheckpointBegin { id: u64, epoch: Epoch, last_seq: SeqNo },
    /// In a snapshot: a keyspace of a part.
    CheckpointKeyspace { id: u64, keyspace: KeyspaceId, name: String, options: Vec<u8> },
    /// In a snapshot: an SST of a part, by its id where it is described earlier in the snapshot.
    CheckpointSst { id: u64, keyspace: KeyspaceId, level: u8, groups: Range<u32>, sst: SstRef },
    /// What the shard has cost the device so far. Replaces what an earlier record said.
    Wear { counters: WearCounters },
}

/// An SST in a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SstRef {
    /// Described by an earlier record.
    Known(SstId),
    /// Described here.
    Whole(Arc<SstMeta>),
}

/// What the manifest knows of an SST.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SstMeta {
    /// Its identity.
    pub(crate) id: SstId,
    /// Its length.
    pub(crate) pages: u32,
    /// Where it is: its bytes are the concatenation of these.
    pub(crate) extents: Vec<ExtentId>,
    /// The checksum of its footer.
    pub(crate) footer_crc: u32,
    /// Its first stored key.
    pub(crate) smallest: Box<[u8]>,
    /// Its last stored key.
    pub(crate) largest: Box<[u8]>,
    /// Entries in it, tombstones included.
    pub(crate) entries: u64,
    /// Tombstones in it.
    pub(crate) tombstones: u64,
    /// Its least sequence number.
    pub(crate) min_seq: SeqNo,
    /// Its greatest sequence number.
    pub(crate) max_seq: SeqNo,
    /// The first expiry time in it, `u64::MAX` where nothing expires.
    pub(crate) min_expiry: u64,
    /// The last expiry time in it, `u64::MAX` where something never expires.
    pub(crate) max_expiry: u64,
    /// Bytes of keys and values before encoding.
    pub(crate) data_bytes: u64,
}

/// One WAL that replay reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WalChain {
    /// The first commit to be replayed.
    pub(crate) head: LogPosition,
    /// The last block of the chain where it is closed: that it be missing is then corruption, not a torn tail.
    pub(crate) end: Option<u64>,
    /// The key groups whose entries count; those of others have been written out, or are another shard's.
    pub(crate) groups: Range<u32>,
    /// Entries with smaller sequence numbers have been written out. The head alone does not tell: a commit, and the stragglers behind it, hold
    /// entries of older memtables too, and what an SST has newer versions of must not come back into a memtable.
    pub(crate) first_entry: SeqNo,
}

/// What shard 0 knows of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CheckpointInfo {
    /// Its name.
    pub(crate) name: String,
    /// The caller's bytes.
    pub(crate) bytes: Vec<u8>,
    /// When it was committed, in milliseconds since 1970.
    pub(crate) wall_ms: u64,
    /// How many shards the volume had.
    pub(crate) shards: u16,
}

/// Encodes a group of records.
pub(crate) fn encode_edits(edits: &[ManifestEdit]) -> Vec<u8> {
    let mut out = Vec::with_capacity(64 * edits.len() + 8);
    out.put_u8(VERSION);
    out.put_u32(u32::try_from(edits.len()).expect("a group has fewer than 2^32 records"));
    for edit in edits {
        out.put_u8(edit.tag());
        let len_at = out.len();
        out.put_u32(0);
        edit.encode_value(&mut out);
        let len = u32::try_from(out.len() - len_at - 4).expect("a record is shorter than 4 GiB");
        out[len_at..len_at + 4].copy_from_slice(&len.to_le_bytes());
    }
    out
}

/// Decodes a group of records.
pub(crate) fn decode_edits(bytes: &[u8]) -> Result<Vec<ManifestEdit>> {
    let mut reader = Reader::new(bytes);
    let version = reader.u8()?;
    if version != VERSION {
        return Err(Error::corruption(STRUCTURE, format!("version {version}, this build knows {VERSION}")));
    }
    let edits = reader.list(RECORD_BYTES_MIN, |reader| {
        let tag = reader.u8()?;
        let mut value = Reader::new(reader.bytes()?);
        let edit = ManifestEdit::decode_value(tag, &mut value)?;
        if edit.is_some() {
            value.finish("a record")?;
        }
        Ok(edit)
    })?;
    reader.finish("a group of records")?;
    Ok(edits.into_iter().flatten().collect())
}

impl ManifestEdit {
    fn tag(&self) -> u8 {
        match self {
            ManifestEdit::SnapshotStart { .. } => 1,
            ManifestEdit::KeyspaceIdFloor { .. } => 2,
            ManifestEdit::KeyspaceCreate { .. } => 3,
            ManifestEdit::KeyspaceDrop { .. } => 4,
            ManifestEdit::SstAdd { .. } => 5,
            ManifestEdit::SstRemove { .. } => 6,
            ManifestEdit::WalFloor { .. } => 7,
            ManifestEdit::LastSeq { .. } => 8,
            ManifestEdit::Epoch { .. } => 9,
            ManifestEdit::CheckpointPart { .. } => 10,
            ManifestEdit::CheckpointCommit { .. } => 11,
            ManifestEdit::CheckpointDrop { .. } => 12,
            ManifestEdit::CheckpointBegin { .. } => 13,
            ManifestEdit::CheckpointKeyspace { .. } => 14,
            ManifestEdit::CheckpointSst { .. } => 15,
            ManifestEdit::Wear { .. } => OPTIONAL | 1,
        }
    }

    fn encode_value(&self, out: &mut Vec<u8>) {
        match self {
            ManifestEdit::SnapshotStart { shard } => out.put_u16(shard.0),
            ManifestEdit::KeyspaceIdFloor { next } => out.put_u32(next.0),
            ManifestEdit::KeyspaceCreate { id, name, options } => {
                out.put_u32(id.0);
                out.put_bytes(name.as_bytes());
                out.put_bytes(options);
            }
            ManifestEdit::KeyspaceDrop { id } => out.put_u32(id.0),
            ManifestEdit::SstAdd { keyspace, level, groups, meta } => {
                out.put_u32(keyspace.0);
                out.put_u8(*level);
                put_groups(out, groups);
                meta.encode(out);
            }
            ManifestEdit::SstRemove { keyspace, level, first_group, sst } => {
                out.put_u32(keyspace.0);
                out.put_u8(*level);
                out.put_u32(*first_group);
                out.put_u64(sst.0);
            }
            ManifestEdit::WalFloor { chains } => {
                out.put_u32(u32::try_from(chains.len()).expect("few chains"));
                chains.iter().for_each(|chain| chain.encode(out));
            }
            ManifestEdit::LastSeq { seq } => out.put_u64(seq.0),
            ManifestEdit::Epoch { epoch } => out.put_u64(epoch.0),
            ManifestEdit::CheckpointPart { id, epoch } => {
                out.put_u64(*id);
                out.put_u64(epoch.0);
            }
            ManifestEdit::CheckpointCommit { id, info } => {
                out.put_u64(*id);
                out.put_bytes(info.name.as_bytes());
                out.put_bytes(&info.bytes);
                out.put_u64(info.wall_ms);
                out.put_u16(info.shards);
            }
            ManifestEdit::CheckpointDrop { id } => out.put_u64(*id),
            ManifestEdit::CheckpointBegin { id, epoch, last_seq } => {
                out.put_u64(*id);
                out.put_u64(epoch.0);
                out.put_u64(last_seq.0);
            }
            ManifestEdit::CheckpointKeyspace { id, keyspace, name, options } => {
                out.put_u64(*id);
                out.put_u32(keyspace.0);
                out.put_bytes(name.as_bytes());
                out.put_bytes(options);
            }
            ManifestEdit::CheckpointSst { id, keyspace, level, groups, sst } => {
                out.put_u64(*id);
                out.put_u32(keyspace.0);
                out.put_u8(*level);
                put_groups(out, groups);
                match sst {
                    SstRef::Known(sst) => {
                        out.put_u64(sst.0);
                        out.put_u8(0);
                    }
                    SstRef::Whole(meta) => {
                        out.put_u64(meta.id.0);
                        out.put_u8(1);
                        meta.encode(out);
                    }
                }
            }
            ManifestEdit::Wear { counters } => counters.numbers().into_iter().for_each(|number| out.put_u64(number)),
        }
    }

    /// `None` for a record that may be skipped.
    fn decode_value(tag: u8, reader: &mut Reader<'_>) -> Result<Option<ManifestEdit>> {
        let edit = match tag {
            1 => ManifestEdit::SnapshotStart { shard: ShardId(reader.u16()?) },
            2 => ManifestEdit::KeyspaceIdFloor { next: KeyspaceId(reader.u32()?) },
            3 => ManifestEdit::KeyspaceCreate {
                id: KeyspaceId(reader.u32()?),
                name: reader.string()?,
                options: reader.bytes()?.to_vec(),
            },
            4 => ManifestEdit::KeyspaceDrop { id: KeyspaceId(reader.u32()?) },
            5 => ManifestEdit::SstAdd {
                keyspace: KeyspaceId(reader.u32()?),
                level: reader.u8()?,
                groups: read_groups(reader)?,
                meta: Arc::new(SstMeta::decode(reader)?),
            },
            6 => ManifestEdit::SstRemove {
                keyspace: KeyspaceId(reader.u32()?),
                level: reader.u8()?,
                first_group: reader.u32()?,
                sst: SstId(reader.u64()?),
            },
            7 => ManifestEdit::WalFloor { chains: reader.list(WalChain::BYTES, WalChain::decode)? },
            8 => ManifestEdit::LastSeq { seq: read_seq(reader)? },
            9 => ManifestEdit::Epoch { epoch: Epoch(reader.u64()?) },
            10 => ManifestEdit::CheckpointPart { id: reader.u64()?, epoch: Epoch(reader.u64()?) },
            11 => ManifestEdit::CheckpointCommit {
                id: reader.u64()?,
                info: CheckpointInfo {
                    name: reader.string()?,
                    bytes: reader.bytes()?.to_vec(),
                    wall_ms: reader.u64()?,
                    shards: reader.u16()?,
                },
            },
            12 => ManifestEdit::CheckpointDrop { id: reader.u64()? },
            13 => ManifestEdit::CheckpointBegin {
                id: reader.u64()?,
                epoch: Epoch(reader.u64()?),
                last_seq: read_seq(reader)?,
            },
            14 => ManifestEdit::CheckpointKeyspace {
                id: reader.u64()?,
                keyspace: KeyspaceId(reader.u32()?),
                name: reader.string()?,
                options: reader.bytes()?.to_vec(),
            },
            15 => ManifestEdit::CheckpointSst {
                id: reader.u64()?,
                keyspace: KeyspaceId(reader.u32()?),
                level: reader.u8()?,
                groups: read_groups(reader)?,
                sst: SstRef::decode(reader)?,
            },
            129 => {
                let mut numbers = [0; WearCounters::COUNT];
                for number in &mut numbers {
                    *number = reader.u64()?;
                }
                ManifestEdit::Wear { counters: WearCounters::from_numbers(numbers) }
            }
            unknown if unknown & OPTIONAL != 0 => return Ok(None),
            unknown => {
                let reason = format!("record type {unknown} is not known to this build: use a newer one");
                return Err(Error::corruption(STRUCTURE, reason));
            }
        };
        Ok(Some(edit))
    }
}

impl SstRef {
    fn decode(reader: &mut Reader<'_>) -> Result<SstRef> {
        let id = SstId(reader.u64()?);
        if !reader.flag()? {
            return Ok(SstRef::Known(id));
        }
        let meta = SstMeta::decode(reader)?;
        if meta.id != id {
            return Err(Error::corruption(STRUCTURE, format!("SST {id} is described as SST {}", meta.id)));
        }
        Ok(SstRef::Whole(Arc::new(meta)))
    }
}

impl SstMeta {
    fn encode(&self, out: &mut Vec<u8>) {
        out.put_u64(self.id.0);
        out.put_u32(self.pages);
        out.put_u32(u32::try_from(self.extents.len()).expect("extents are counted in 32 bits"));
        self.extents.iter().for_each(|extent| out.put_u32(extent.0));
        out.put_u32(self.footer_crc);
        out.put_bytes(&self.smallest);
        out.put_bytes(&self.largest);
        out.put_u64(self.entries);
        out.put_u64(self.tombstones);
        out.put_u64(self.min_seq.0);
        out.put_u64(self.max_seq.0);
        out.put_u64(self.min_expiry);
        out.put_u64(self.max_expiry);
        out.put_u64(self.data_bytes);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<SstMeta> {
        let meta = SstMeta {
            id: SstId(reader.u64()?),
            pages: reader.u32()?,
            extents: reader.list(4, |reader| Ok(ExtentId(reader.u32()?)))?,
            footer_crc: reader.u32()?,
            smallest: reader.bytes()?.into(),
            largest: reader.bytes()?.into(),
            entries: reader.u64()?,
            tombstones: reader.u64()?,
            min_seq: read_seq(reader)?,
            max_seq: read_seq(reader)?,
            min_expiry: reader.u64()?,
            max_expiry: reader.u64()?,
            data_bytes: reader.u64()?,
        };
        let fault = if meta.pages == 0 || meta.extents.is_empty() {
            "is empty"
        } else if meta.smallest.len() < 2 || meta.largest.len() < 2 {
            "has a bound without a key group"
        } else if meta.smallest > meta.largest {
            "has a smallest key above its largest"
        } else if meta.min_seq > meta.max_seq {
            "has a least sequence number above its greatest"
        } else if meta.tombstones > meta.entries {
            "has more tombstones than entries"
        } else {
            return Ok(meta);
        };
        Err(Error::corruption(STRUCTURE, format!("SST {} {fault}", meta.id)))
    }
}

impl WalChain {
    const BYTES: usize = 8 + 4 + 4 + 8 + 1 + 8 + 8 + 8;

    fn encode(&self, out: &mut Vec<u8>) {
        out.put_u64(self.head.log_id);
        out.put_u32(self.head.extent.0);
        out.put_u32(self.head.page);
        out.put_u64(self.head.seq);
        out.put_u8(u8::from(self.end.is_some()));
        out.put_u64(self.end.unwrap_or(0));
        put_groups(out, &self.groups);
        out.put_u64(self.first_entry.0);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<WalChain> {
        let head = LogPosition {
            log_id: reader.u64()?,
            extent: ExtentId(reader.u32()?),
            page: reader.u32()?,
            seq: reader.u64()?,
        };
        let closed = reader.flag()?;
        let end = reader.u64()?;
        if !closed && end != 0 {
            return Err(Error::corruption(STRUCTURE, "an open WAL chain has an end"));
        }
        let groups = read_groups(reader)?;
        Ok(WalChain { head, end: closed.then_some(end), groups, first_entry: SeqNo(reader.u64()?) })
    }
}

fn put_groups(out: &mut Vec<u8>, groups: &Range<u32>) {
    out.put_u32(groups.start);
    out.put_u32(groups.end);
}

fn read_groups(reader: &mut Reader<'_>) -> Result<Range<u32>> {
    let groups = reader.u32()?..reader.u32()?;
    if groups.is_empty() || groups.end > KEY_GROUPS_MAX {
        return Err(Error::corruption(STRUCTURE, format!("key groups {groups:?} are impossible")));
    }
    Ok(groups)
}

fn read_seq(reader: &mut Reader<'_>) -> Result<SeqNo> {
    let seq = SeqNo(reader.u64()?);
    if seq > SeqNo::MAX {
        return Err(Error::corruption(STRUCTURE, format!("sequence number {seq} has more than 56 bits")));
    }
    Ok(seq)
}

#[cfg(test)]
pub(super) mod tests;
