//! What a user may set: any combination is refused, with a typed error, or makes an engine that works.

use std::time::Duration;

use arbitrary::{Arbitrary, Unstructured};
use siltstone_io::{SimClock, SimDisk, SimOptions};

use super::operations::Machine;
use crate::{Durability, Error, KeyspaceOptions, Options, Partition, Restore, TimeDomain, Ttl};

/// Memory for an engine that is really opened, in bytes.
const MEMORY_BYTES_MAX: usize = 64 << 20;

/// Options from the edges of their ranges: validated, and where they are valid, and small, used.
pub fn options(bytes: &[u8]) {
    let mut input = Unstructured::new(bytes);
    let disk_options = SimOptions {
        logical_block_bytes: if bytes.first().is_some_and(|byte| byte & 1 == 0) { 512 } else { 4096 },
        ..SimOptions::default()
    };
    let mut machine = Machine::new(SimDisk::new(1, disk_options), SimClock::new(), 1);
    let Ok(options) = draw_options(&machine, &mut input) else { return };
    if let Err(error) = options.validate() {
        assert!(matches!(error, Error::InvalidArgument(_)), "{error}");
        return;
    }
    if options.memory_bytes > MEMORY_BYTES_MAX || options.shards > 8 {
        return;
    }
    let names: Vec<String> = options.keyspaces.iter().map(|(name, _)| name.clone()).collect();
    for again in [false, true] {
        match machine.open(options.clone()) {
            Ok(()) => {}
            Err(error) => return check_refusal(&options, &error, again),
        }
        for name in &names {
            let keyspace = machine.engine().keyspace(name).expect("it was asked for");
            let engine = machine.engine().clone();
            let written = async {
                engine.put(&keyspace, b"\0\x03key and more", b"value").await?;
                engine.get(&keyspace, b"\0\x03key and more").await
            };
            match machine.run(written).expect("the power is on") {
                Ok(value) => assert_eq!(value.as_deref(), Some(&b"value"[..]), "a write is read"),
                Err(error) => assert!(options.read_only && matches!(error, Error::ReadOnly), "{error}"),
            }
        }
        machine.close();
    }
}

/// Valid options are refused only for what is, or is not, on the disk.
fn check_refusal(options: &Options, error: &Error, again: bool) {
    let there_is_nothing = matches!(error, Error::NotFound(_) | Error::NotAVolume { .. } | Error::ReadOnly);
    let excused = match error {
        _ if there_is_nothing && !again => options.read_only || !options.create,
        _ if there_is_nothing => options.restore != Restore::Latest,
        Error::InvalidArgument(_) => true,
        Error::NoSpace(_) => options.capacity_bytes < 64 * (options.shards * options.extent_bytes) as u64,
        _ => false,
    };
    assert!(excused || options.restore != Restore::Latest, "{options:?} are refused: {error}");
}

fn draw_options(machine: &Machine, input: &mut Unstructured<'_>) -> arbitrary::Result<Options> {
    let mut options = machine
        .options()
        .shards(draw_number(input)?)
        .memory(draw_number(input)?)
        .key_groups(draw_number(input)? as u32)
        .extent_bytes(draw_number(input)?)
        .page_bytes(draw_number(input)?)
        .table_bytes(draw_number(input)?)
        .capacity(draw_number(input)? as u64)
        .durability(match u8::arbitrary(input)? % 4 {
            0 => Durability::Sync,
            1 => Durability::Checkpoint,
            2 => Durability::Interval(Duration::from_micros(draw_number(input)? as u64)),
            _ => Durability::Interval(Duration::new(input.arbitrary()?, 0)),
        })
        .restore(match u8::arbitrary(input)? % 8 {
            0 => Restore::LastCheckpoint,
            1 => Restore::Checkpoint("none of this name".into()),
            _ => Restore::Latest,
        });
    let flags = u8::arbitrary(input)?;
    options = options.read_only(flags % 8 == 1).create(flags % 16 != 2).spin_us(u32::from(flags));
    if flags & 0x20 != 0 {
        options = options.memtable_bytes(draw_number(input)?);
    }
    if flags & 0x40 != 0 {
        options = options.checkpoints_retained(draw_number(input)?);
    }
    for _ in 0..1 + flags % 3 {
        let length = draw_number(input)? % 300;
        options = options.keyspace("k".repeat(length), draw_keyspace(input)?);
    }
    Ok(options)
}

fn draw_keyspace(input: &mut Unstructured<'_>) -> arbitrary::Result<KeyspaceOptions> {
    let partition = match u8::arbitrary(input)? % 4 {
        0 => Partition::WholeKey,
        1 => Partition::Prefix(input.arbitrary()?),
        2 => Partition::LengthPrefixed,
        _ => Partition::After(input.arbitrary()?),
    };
    let options = KeyspaceOptions::default().partition(partition).filter_bits_per_key(draw_number(input)? as u32);
    let time = if bool::arbitrary(input)? { TimeDomain::Event } else { TimeDomain::Processing };
    Ok(match bool::arbitrary(input)? {
        // Long enough that nothing expires between a write and its read.
        true => options.ttl(Ttl { duration_ms: u64::arbitrary(input)? & !0xffff, time }),
        false => options,
    })
}

/// A number that an option might have: small, around a power of two, or any.
fn draw_number(input: &mut Unstructured<'_>) -> arbitrary::Result<usize> {
    Ok(match u8::arbitrary(input)? {
        choice @ 0..64 => usize::from(choice),
        choice @ 64..255 => {
            let power = 1usize << (choice % 64);
            match choice / 64 {
                1 => power,
                2 => power.wrapping_add(power / 2),
                _ => power.wrapping_sub(1),
            }
        }
        255 => input.arbitrary()?,
    })
}
