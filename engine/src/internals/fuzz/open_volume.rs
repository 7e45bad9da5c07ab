//! Opening a volume whose metadata says what an input wants, with right checksums.
//!
//! 1. A small volume of two shards is made once: two keyspaces, SSTs, a checkpoint, logs with entries that are in no SST; and the power fails.
//! 2. The input changes it: the records of a shard's manifest are left out, doubled, altered in a field or joined by others, or its bytes are
//!    damaged; blocks of logs and root pages say something else about themselves. Then all checksums are made right.
//! 3. It is verified, and opened in some way. That ends in a typed error, or in an engine, from which everything is read and to which something is
//!    written. What it reads may be anything: nothing but the checksums tells such a volume from a true one. It ends, without a panic, and
//!    with a bounded number of reads.

use std::ops::Range;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arbitrary::{Arbitrary, Result, Unstructured};
use siltstone_io::{SimClock, SimDisk, SimOptions};

use super::damage::Damage;
use super::log_walk::{draw_extent, draw_seq};
use super::manifest::draw_edit;
use super::operations::Machine;
use crate::log::block::{self, BlockHeader, HEADER_BYTES, LOG_PAGE_BYTES};
use crate::manifest::root;
use crate::manifest::{ManifestEdit, SstMeta, SstRef, WalChain, decode_edits, encode_edits};
use crate::shard::ScanRange;
use crate::types::{Epoch, SeqNo};
use crate::volume::bytes::{placed_crc, put_u32, put_u64, u32_at};
use crate::volume::superblock;
use crate::{Durability, Engine, KeyspaceOptions, Options, Partition, Restore, WriteBatch, inspect};

const EXTENT_BYTES: usize = 64 << 10;
const SHARDS: usize = 2;
const KEYSPACES: [&str; 2] = ["words", "counts"];
/// Keys of each keyspace.
const KEYS: u8 = 40;
/// Changes of one volume at most.
const CHANGES_MAX: usize = 6;
/// The true volume takes less than a tenth of these.
const READS_MAX: u64 = 5_000;
const ENTRIES_MAX: usize = 10_000;

/// See the module.
pub fn open_volume(bytes: &[u8]) {
    let mut input = Unstructured::new(bytes);
    let mut volume = Image { bytes: sample().to_vec() };
    let Ok(way) = Way::arbitrary(&mut input) else { return };
    for _ in 0..CHANGES_MAX {
        if input.is_empty() || volume.change(&mut input).is_err() {
            break;
        }
    }
    let (disk, clock) = (SimDisk::new(1, SimOptions::default()), SimClock::new());
    disk.write_raw(0, &volume.bytes);
    let _ = inspect::verify_simulated(&disk, &clock);
    let mut machine = Machine::new(disk.clone(), clock, 1);
    if machine.open(way.options(&machine)).is_ok() {
        use_it(&mut machine);
    }
    let reads = disk.stats().reads;
    assert!(reads <= READS_MAX, "{reads} reads");
}

/// How it is opened.
#[derive(Arbitrary)]
struct Way {
    shards: u8,
    durability: u8,
    restore: u8,
    flags: u8,
}

impl Way {
    fn options(&self, machine: &Machine) -> Options {
        let options =
            settings(machine.options(), 1 + usize::from(self.shards % 3)).durability(match self.durability % 4 {
                0..2 => Durability::Sync,
                2 => Durability::Interval(Duration::from_millis(1)),
                _ => Durability::Checkpoint,
            });
        let options = options.restore(match self.restore % 4 {
            0..2 => Restore::Latest,
            2 => Restore::LastCheckpoint,
            _ => Restore::Checkpoint("first".into()),
        });
        options.read_only(self.flags % 8 == 7)
    }
}

fn settings(options: Options, shards: usize) -> Options {
    let options = options
        .shards(shards)
        .key_groups(16)
        .memory(shards * (4 << 20))
        .memtable_bytes(16 << 10)
        .extent_bytes(EXTENT_BYTES)
        .table_bytes(32 << 10)
        .capacity(64 * EXTENT_BYTES as u64);
    let keyspace = || KeyspaceOptions::default().partition(Partition::Prefix(2));
    options.keyspace(KEYSPACES[0], keyspace()).keyspace(KEYSPACES[1], keyspace())
}

/// Reads everything, writes a little, and ends in good order where that goes.
fn use_it(machine: &mut Machine) {
    let engine = machine.engine().clone();
    let used = machine.run(async {
        let mut found = 0;
        for name in KEYSPACES {
            let keyspace = engine.keyspace(name)?;
            let mut scan = engine.scan(&keyspace, ScanRange::all());
            while let Ok(Some(_)) = scan.next().await {
                found += 1;
                assert!(found <= ENTRIES_MAX, "a scan goes on for ever");
            }
            for number in (0..KEYS).step_by(7) {
                // Damage elsewhere does not keep this one from being read.
                let _ = engine.get(&keyspace, &key(number)).await;
            }
        }
        engine.checkpoints().await?;
        write(&engine, 1, 1).await?;
        engine.sync().await?;
        engine.flush().await?;
        engine.close().await
    });
    // The power never fails: it is an engine's answer.
    let _ = used.expect("the power is on");
    machine.drop_engine();
}

fn key(number: u8) -> Vec<u8> {
    vec![b'p', number % 12, number]
}

async fn write(engine: &Engine, round: u8, step: usize) -> crate::Result<()> {
    for number in (0..KEYS).step_by(step) {
        let mut batch = WriteBatch::new();
        for name in KEYSPACES {
            batch.put(&engine.keyspace(name)?, &key(number), &[round; 60]);
        }
        engine.write(batch).await?;
    }
    Ok(())
}

/// The true volume.
fn sample() -> &'static [u8] {
    static SAMPLE: OnceLock<Vec<u8>> = OnceLock::new();
    SAMPLE.get_or_init(|| {
        let disk = SimDisk::new(1, SimOptions::default());
        let mut machine = Machine::new(disk.clone(), SimClock::new(), 1);
        machine.open(settings(machine.options(), SHARDS)).expect("an empty disk becomes a volume");
        let engine = machine.engine().clone();
        let made = machine.run(async {
            write(&engine, 1, 1).await?;
            engine.flush().await?;
            engine.checkpoint("first", vec![1]).await?;
            write(&engine, 2, 2).await?;
            engine.flush().await?;
            engine.checkpoint("second", vec![2]).await?;
            write(&engine, 3, 3).await
        });
        made.expect("the power is on").expect("nothing fails");
        disk.crash();
        machine.drop_engine();
        disk.snapshot()
    })
}

/// A volume's bytes.
struct Image {
    bytes: Vec<u8>,
}

impl Image {
    fn id(&self) -> [u8; 16] {
        let mut id = [0; 16];
        id.copy_from_slice(&self.bytes[superblock::VOLUME_AT..][..16]);
        id
    }

    /// The first of a shard's root pages.
    fn root(&self, shard: usize) -> usize {
        u32_at(&self.bytes, superblock::ROOTS_AT + 4 * shard) as usize * EXTENT_BYTES
    }

    /// Where the blocks of a shard's manifest begin. Nothing where a root page was made to lead elsewhere.
    fn manifest(&self, shard: usize) -> Option<usize> {
        let page = &self.bytes[self.root(shard)..];
        let (extent, first) = (u32_at(page, root::EXTENT_AT) as usize, u32_at(page, root::PAGE_AT) as usize);
        let at = extent.checked_mul(EXTENT_BYTES)?.checked_add(first.checked_mul(LOG_PAGE_BYTES)?)?;
        self.header(at).map(|_| at)
    }

    fn header(&self, at: usize) -> Option<BlockHeader> {
        BlockHeader::decode(&self.id(), at as u64, self.bytes.get(at..)?).ok()
    }

    fn change(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        let shard = usize::from(u8::arbitrary(input)?) % SHARDS;
        match u8::arbitrary(input)? % 8 {
            0..5 => self.change_records(shard, input),
            5..7 => self.change_header(input),
            _ => self.change_root(shard, input),
        }
    }

    /// Writes a shard's manifest anew, as one commit in one block, with other records.
    fn change_records(&mut self, shard: usize, input: &mut Unstructured<'_>) -> Result<()> {
        let Some(at) = self.manifest(shard) else { return Ok(()) };
        let Some(header) = self.header(at) else { return Ok(()) };
        let extent_end = (at / EXTENT_BYTES + 1) * EXTENT_BYTES;
        let (mut edits, mut next) = (Vec::new(), at);
        while next < extent_end
            && let Some(block) = self.header(next)
            && block.log_id == header.log_id
            && let Ok(group) = block.payload(&self.bytes[next..extent_end])
            && let Ok(more) = decode_edits(group)
        {
            edits.extend(more);
            next += block.block_bytes();
        }
        change_edits(&mut edits, input)?;
        let mut payload = encode_edits(&edits);
        if u8::arbitrary(input)? > 200 {
            Damage::arbitrary(input)?.apply(&mut payload);
        }
        let header = BlockHeader { first: true, last: true, payload_bytes: payload.len() as u32, ..header };
        if at + header.block_bytes() > extent_end {
            return Ok(());
        }
        self.bytes[at..extent_end].fill(0);
        let id = self.id();
        let block = &mut self.bytes[at..at + header.block_bytes()];
        block[HEADER_BYTES..HEADER_BYTES + payload.len()].copy_from_slice(&payload);
        header.seal(&id, at as u64, block);
        Ok(())
    }

    /// Some block of some log says something else of itself.
    fn change_header(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        let blocks: Vec<usize> =
            (0..self.bytes.len()).step_by(LOG_PAGE_BYTES).filter(|at| self.header(*at).is_some()).collect();
        if blocks.is_empty() {
            return Ok(());
        }
        let at = blocks[usize::from(u8::arbitrary(input)?) % blocks.len()];
        let id = self.id();
        let header = &mut self.bytes[at..at + HEADER_BYTES];
        match u8::arbitrary(input)? % 6 {
            0 => header[block::FLAGS_AT] ^= u8::arbitrary(input)? & 3,
            1 => put_u64(header, block::LOG_AT, input.arbitrary()?),
            2 => put_u64(header, block::SEQ_AT, draw_seq(input)?),
            3 => put_u64(header, block::DURABLE_AT, draw_seq(input)?),
            4 => put_u32(header, block::PAYLOAD_BYTES_AT, input.arbitrary()?),
            _ => put_u32(header, block::NEXT_AT, draw_extent(input)?.0),
        }
        let crc = placed_crc(&id, at as u64, header, block::CRC_AT);
        put_u32(header, block::CRC_AT, crc);
        Ok(())
    }

    /// Both root pages of a shard say something else.
    fn change_root(&mut self, shard: usize, input: &mut Unstructured<'_>) -> Result<()> {
        let (id, first) = (self.id(), self.root(shard));
        let (field, seq, extent, number) =
            (u8::arbitrary(input)?, draw_seq(input)?, draw_extent(input)?, input.arbitrary()?);
        for at in [first, first + root::PAGE_SPACING_BYTES as usize] {
            let page = &mut self.bytes[at..at + root::ROOT_BYTES];
            match field % 5 {
                0 => put_u64(page, root::LOG_AT, seq),
                1 => put_u64(page, root::SEQ_AT, seq),
                2 => put_u32(page, root::EXTENT_AT, extent.0),
                3 => put_u32(page, root::PAGE_AT, number),
                _ => put_u32(page, root::SHARD_AT, number),
            }
            let crc = placed_crc(&id, at as u64, page, root::CRC_AT);
            put_u32(page, root::CRC_AT, crc);
        }
        Ok(())
    }
}

/// Leaves records out, doubles, moves or alters them, or adds others.
fn change_edits(edits: &mut Vec<ManifestEdit>, input: &mut Unstructured<'_>) -> Result<()> {
    for _ in 0..1 + u8::arbitrary(input)? % 4 {
        if edits.is_empty() {
            return Ok(());
        }
        let at = usize::from(u8::arbitrary(input)?) % edits.len();
        match u8::arbitrary(input)? % 8 {
            0 => drop(edits.remove(at)),
            1 => edits.push(edits[at].clone()),
            2 => edits.insert(at, draw_edit(input)?),
            3 => edits.push(draw_edit(input)?),
            _ => change_edit(&mut edits[at], input)?,
        }
    }
    Ok(())
}

fn change_edit(edit: &mut ManifestEdit, input: &mut Unstructured<'_>) -> Result<()> {
    match edit {
        ManifestEdit::KeyspaceIdFloor { next } => next.0 = input.arbitrary()?,
        ManifestEdit::KeyspaceCreate { id, options, .. } if bool::arbitrary(input)? => {
            id.0 ^= 1;
            Damage::arbitrary(input)?.apply(options);
        }
        ManifestEdit::KeyspaceCreate { options, .. } => Damage::arbitrary(input)?.apply(options),
        ManifestEdit::SstAdd { level, groups, meta, .. } => match u8::arbitrary(input)? % 3 {
            0 => *level = input.arbitrary()?,
            1 => *groups = draw_range(input)?,
            _ => change_sst(meta, input)?,
        },
        ManifestEdit::WalFloor { chains } => {
            if let Some(first) = chains.first_mut() {
                change_chain(first, input)?;
            }
        }
        ManifestEdit::LastSeq { seq } => *seq = SeqNo(draw_seq(input)?),
        ManifestEdit::Epoch { epoch } => *epoch = Epoch(draw_seq(input)?),
        ManifestEdit::CheckpointBegin { id, epoch, last_seq } => match u8::arbitrary(input)? % 3 {
            0 => *id = draw_seq(input)?,
            1 => *epoch = Epoch(draw_seq(input)?),
            _ => *last_seq = SeqNo(draw_seq(input)?),
        },
        ManifestEdit::CheckpointPart { id, .. } => *id = draw_seq(input)?,
        ManifestEdit::CheckpointCommit { id, info } => match u8::arbitrary(input)? % 3 {
            0 => *id = draw_seq(input)?,
            1 => info.shards = input.arbitrary()?,
            _ => info.wall_ms = input.arbitrary()?,
        },
        ManifestEdit::CheckpointKeyspace { keyspace, options, .. } => {
            keyspace.0 = u32::from(u8::arbitrary(input)? % 4);
            Damage::arbitrary(input)?.apply(options);
        }
        ManifestEdit::CheckpointSst { level, groups, sst, .. } => match (u8::arbitrary(input)? % 3, sst) {
            (0, _) => *level = input.arbitrary()?,
            (1, _) => *groups = draw_range(input)?,
            (_, SstRef::Whole(meta)) => change_sst(meta, input)?,
            (_, SstRef::Known(id)) => id.0 ^= u64::from(u8::arbitrary(input)?),
        },
        _ => {}
    }
    Ok(())
}

fn change_sst(meta: &mut Arc<SstMeta>, input: &mut Unstructured<'_>) -> Result<()> {
    let meta = Arc::make_mut(meta);
    match u8::arbitrary(input)? % 10 {
        0 => meta.id.0 ^= u64::from(u8::arbitrary(input)?),
        1 => meta.pages = input.arbitrary()?,
        2 => meta.extents = (0..u8::arbitrary(input)? % 4).map(|_| draw_extent(input)).collect::<Result<_>>()?,
        3 => meta.footer_crc = input.arbitrary()?,
        4 => meta.smallest = input.arbitrary()?,
        5 => meta.largest = input.arbitrary()?,
        6 => std::mem::swap(&mut meta.smallest, &mut meta.largest),
        7 => (meta.entries, meta.tombstones) = (draw_seq(input)?, draw_seq(input)?),
        8 => (meta.min_seq, meta.max_seq) = (SeqNo(draw_seq(input)?), SeqNo(draw_seq(input)?)),
        _ => (meta.min_expiry, meta.max_expiry, meta.data_bytes) = input.arbitrary()?,
    }
    Ok(())
}

fn change_chain(chain: &mut WalChain, input: &mut Unstructured<'_>) -> Result<()> {
    match u8::arbitrary(input)? % 7 {
        0 => chain.head.log_id = input.arbitrary()?,
        1 => chain.head.extent = draw_extent(input)?,
        2 => chain.head.page = input.arbitrary()?,
        3 => chain.head.seq = draw_seq(input)?,
        4 => chain.end = Some(draw_seq(input)?),
        5 => chain.groups = draw_range(input)?,
        _ => chain.first_entry = SeqNo(draw_seq(input)?),
    }
    Ok(())
}

fn draw_range(input: &mut Unstructured<'_>) -> Result<Range<u32>> {
    Ok(match u8::arbitrary(input)? {
        255 => input.arbitrary()?..input.arbitrary()?,
        small => u32::from(small % 18)..u32::from(u8::arbitrary(input)? % 18),
    })
}
