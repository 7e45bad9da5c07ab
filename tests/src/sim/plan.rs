//! What a seed decides before anything runs: the volume, the faults, how much is done. [`Limits`] cut a plan down, so that a failing history can
//! be shortened and repeated.

use std::collections::BTreeSet;
use std::time::Duration;

use siltstone::{Durability, IoBudget, KeyspaceOptions, Options, Partition, TimeDomain, Ttl};
use siltstone_io::{Random, SimFaults, SimOptions};

use super::typed::TypedPlan;

/// What goes wrong beside crashes, which always do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Contract {
    /// Nothing: everything must be recovered, and nothing may fail while the power is on.
    Crash,
    /// The device refuses and fails openly: operations may fail with an error that names the fault; nothing acknowledged is lost.
    Errors,
    /// The device lies: damage is detected and named, and never returned as data.
    Media,
}

/// The plan of one simulation.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Its root seed.
    pub seed: u64,
    /// What may go wrong.
    pub contract: Contract,
    /// The device.
    pub device: SimOptions,
    /// The rates of its faults.
    pub faults: SimFaults,
    /// Key groups, extent and page sizes of the volume.
    pub key_groups: u32,
    /// Bytes of an extent.
    pub extent_bytes: usize,
    /// Bytes of a page.
    pub page_bytes: usize,
    /// How often the volume is opened, worked on and crashed or closed.
    pub lives: u32,
    /// Rounds of a life; between rounds everything is compared.
    pub rounds: u32,
    /// Clients at a time.
    pub clients: u32,
    /// Steps of each client in a round.
    pub steps: u32,
    /// The chance that a shard whose turn it is waits a little longer.
    pub skip_chance: f64,
    /// The chance that the disk is nearly full for a round.
    pub full_chance: f64,
    /// How much of the background may be with the device, where that is not as ever.
    pub io_budget: Option<IoBudget>,
    /// What use is made of typed state.
    pub(crate) typed: TypedPlan,
    /// Tells of each life and opening on standard error.
    pub verbose: bool,
    /// A check that must fail.
    pub canary: Option<Canary>,
}

/// Cuts a plan down.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// At most so many lives.
    pub lives: Option<u32>,
    /// At most so many rounds in each.
    pub rounds: Option<u32>,
    /// At most so many clients.
    pub clients: Option<u32>,
    /// At most so many steps of each client.
    pub steps: Option<u32>,
    /// Faults that do not happen, by their names.
    pub without: BTreeSet<String>,
    /// Tells of each life and opening on standard error.
    pub verbose: bool,
    /// A check that must fail.
    pub canary: Option<Canary>,
}

/// A check that must always fail: what shows that the oracle would notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Canary {
    /// A write counts as durable that was never made.
    LostWrite,
    /// The oracle does not know of a write that was made.
    StrangeWrite,
    /// In a recovery: a write was acknowledged as durable that is not there.
    DurableWriteLost,
    /// In a recovery: a write is there that was never submitted.
    WriteNeverSubmitted,
    /// In a recovery: a cell was acknowledged as durable that is not there.
    DurableCellLost,
    /// In a recovery: a cell is there that was never written.
    CellNeverWritten,
    /// In a recovery: a cell is not there that was written before others, which are.
    EarlierCellLost,
    /// In a recovery: of a batch of cells one is there and one is not.
    HalfBatch,
    /// An extent is taken that nobody refers to.
    LostExtent,
    /// A checkpoint holds what the oracle does not think it does.
    CheckpointCut,
    /// A snapshot has shown what it does not show any more.
    ChangedSnapshot,
    /// A client waits for what will never happen.
    Standstill,
}

/// How a canary is asked for, and how it is noticed.
pub struct CanaryPlan {
    /// Its name.
    pub name: &'static str,
    /// Which it is.
    pub canary: Canary,
    /// What is wrong, or what the oracle is made to believe.
    pub what: &'static str,
    /// What the check says that must notice.
    pub expects: &'static str,
}

impl CanaryPlan {
    const fn new(name: &'static str, canary: Canary, what: &'static str, expects: &'static str) -> CanaryPlan {
        CanaryPlan { name, canary, what, expects }
    }
}

impl Canary {
    /// All of them.
    pub const ALL: [CanaryPlan; 12] = [
        CanaryPlan::new(
            "canary-lost-write",
            Canary::LostWrite,
            "a write counts as made that never was",
            "and has too much: []",
        ),
        CanaryPlan::new(
            "canary-strange-write",
            Canary::StrangeWrite,
            "the oracle does not know of a write",
            "lacks [] and has too much: [",
        ),
        CanaryPlan::new(
            "canary-durable-write-lost",
            Canary::DurableWriteLost,
            "a write that never was counts as durable in a recovery",
            "were durable and are gone",
        ),
        CanaryPlan::new(
            "canary-write-never-submitted",
            Canary::WriteNeverSubmitted,
            "a recovery finds a write that nobody submitted",
            "were never made",
        ),
        CanaryPlan::new(
            "canary-durable-cell-lost",
            Canary::DurableCellLost,
            "a cell that never was counts as durable in a recovery",
            "found nothing; it should be one of",
        ),
        CanaryPlan::new(
            "canary-cell-never-written",
            Canary::CellNeverWritten,
            "a recovery finds a cell that nobody wrote",
            "is there and should not be",
        ),
        CanaryPlan::new(
            "canary-earlier-cell-lost",
            Canary::EarlierCellLost,
            "a recovery lacks a cell that was written before the others",
            "recovered out of order",
        ),
        CanaryPlan::new("canary-half-batch", Canary::HalfBatch, "a recovery finds half of a batch", "half of a batch"),
        CanaryPlan::new(
            "canary-lost-extent",
            Canary::LostExtent,
            "an extent is taken that nobody refers to",
            "extents in use are not those referred to",
        ),
        CanaryPlan::new(
            "canary-checkpoint-cut",
            Canary::CheckpointCut,
            "a checkpoint holds a write that is not of its cut",
            "a checkpoint lacks [] and has too much: [",
        ),
        CanaryPlan::new(
            "canary-changed-snapshot",
            Canary::ChangedSnapshot,
            "a snapshot does not show any more what it has shown",
            "has changed",
        ),
        CanaryPlan::new(
            "canary-standstill",
            Canary::Standstill,
            "a client waits for what will never happen",
            "a standstill",
        ),
    ];
}

/// How a life begins.
#[derive(Clone, Debug)]
pub(crate) struct Way {
    pub(crate) durability: Durability,
    pub(crate) restore: siltstone::Restore,
    pub(crate) retained: Option<usize>,
}

type Rate = fn(&mut SimFaults) -> &mut f64;

/// Faults of which an operation tells, by name.
const ERRORS: [(&str, Rate); 8] = [
    ("read-error", |faults| &mut faults.read_error_chance),
    ("write-error", |faults| &mut faults.write_error_chance),
    ("flush-error", |faults| &mut faults.flush_error_chance),
    ("discard-error", |faults| &mut faults.discard_error_chance),
    ("allocate-error", |faults| &mut faults.allocate_error_chance),
    ("bad-read", |faults| &mut faults.bad_read_chance),
    ("bad-write", |faults| &mut faults.bad_write_chance),
    ("no-space", |faults| &mut faults.no_space_chance),
];

/// Faults that the engine must bear without a word.
const NUISANCES: [(&str, Rate); 5] = [
    ("short-transfer", |faults| &mut faults.short_transfer_chance),
    ("again", |faults| &mut faults.again_chance),
    ("interrupted", |faults| &mut faults.interrupted_chance),
    ("cancelled", |faults| &mut faults.cancelled_chance),
    ("stall", |faults| &mut faults.stall_chance),
];

/// Faults that nobody tells of.
const SILENT: [(&str, Rate); 4] = [
    ("lost-flush", |faults| &mut faults.lost_flush_chance),
    ("lost-write", |faults| &mut faults.lost_write_chance),
    ("misdirected-write", |faults| &mut faults.misdirected_write_chance),
    ("bit-rot", |faults| &mut faults.bit_rot_chance),
];

/// The names of all faults that a plan can have.
pub fn fault_names() -> impl Iterator<Item = &'static str> {
    ERRORS.iter().chain(&NUISANCES).chain(&SILENT).map(|(name, _)| *name).chain([FULL])
}

/// The name of a disk that is full for a while.
const FULL: &str = "full";

impl Plan {
    /// The plan of a seed, cut down.
    pub fn new(seed: u64, limits: &Limits) -> Plan {
        let mut random = Random::new(seed ^ 0x706c_616e);
        let contract = match random.below(20) {
            0..11 => Contract::Crash,
            11..16 => Contract::Errors,
            _ => Contract::Media,
        };
        let logical_block_bytes = if random.chance(0.5) { 512 } else { 4096 };
        let device = SimOptions {
            // Of a generator of its own: the other draws are what they were before there was this one.
            fua: Random::new(seed ^ 0x66_7561).chance(0.6),
            volatile_cache: random.chance(0.9),
            logical_block_bytes,
            torn_blocks: random.chance(0.5),
            exponential_latency: random.chance(0.5),
            max_io_bytes: [16 << 10, 128 << 10, 512 << 10][random.below(3) as usize],
            ..SimOptions::default()
        };
        let mut faults = SimFaults::default();
        draw(&mut faults, &NUISANCES, 0.4, 0.05, &mut random);
        // A stall is seconds: often, it would only be a slow device.
        faults.stall_chance /= 20.0;
        faults.stall_us = 10_000..1 + 10u64.pow(5 + random.below(3) as u32);
        match contract {
            Contract::Crash => (),
            Contract::Errors => {
                draw(&mut faults, &ERRORS, 0.4, 0.01, &mut random);
                // Space is asked for seldom, and the engine goes on without.
                faults.no_space_chance *= 30.0;
            }
            Contract::Media => {
                draw(&mut faults, &SILENT, 0.5, 0.02, &mut random);
                if random.chance(0.3) {
                    draw(&mut faults, &ERRORS, 0.2, 0.003, &mut random);
                }
            }
        }
        let page_bytes = [4096, 4096, 8192, 16384][random.below(4) as usize];
        let size = random.below(3);
        let mut plan = Plan {
            seed,
            contract,
            device,
            faults,
            key_groups: [4, 64, 1024][random.below(3) as usize],
            extent_bytes: if page_bytes == 16384 || random.chance(0.3) { 128 << 10 } else { 64 << 10 },
            page_bytes,
            lives: 2 + random.below(5) as u32,
            rounds: 1 + random.below(4) as u32,
            clients: [1, 3, 8][size as usize],
            steps: (8 + random.below(if size == 0 { 300 } else { 120 })) as u32,
            skip_chance: if random.chance(0.5) { 0.3 } else { 0.0 },
            full_chance: if contract == Contract::Errors && random.chance(0.4) { 0.4 } else { 0.0 },
            typed: TypedPlan {
                share: [0.0, 0.2, 0.5, 0.9][random.below(4) as usize],
                ttl_ms: random.chance(0.3).then_some(600),
            },
            io_budget: None,
            verbose: limits.verbose,
            canary: limits.canary,
        };
        plan.io_budget = random.chance(0.6).then(|| IoBudget {
            background_bytes_max: [0, 4096, 40_000, 300_000, u64::MAX][random.below(5) as usize],
            background_ops_max: 1 + random.below(6) as u32,
        });
        plan.limit(limits);
        plan
    }

    fn limit(&mut self, limits: &Limits) {
        self.lives = self.lives.min(limits.lives.unwrap_or(u32::MAX));
        self.rounds = self.rounds.min(limits.rounds.unwrap_or(u32::MAX));
        self.clients = self.clients.min(limits.clients.unwrap_or(u32::MAX));
        self.steps = self.steps.min(limits.steps.unwrap_or(u32::MAX));
        if limits.without.contains(FULL) {
            self.full_chance = 0.0;
        }
        for (name, rate) in ERRORS.iter().chain(&NUISANCES).chain(&SILENT) {
            if limits.without.contains(*name) {
                *rate(&mut self.faults) = 0.0;
            }
        }
    }

    /// The faults that this plan has.
    pub fn fault_names(&self) -> Vec<&'static str> {
        let mut faults = self.faults.clone();
        let all = ERRORS.iter().chain(&NUISANCES).chain(&SILENT);
        let drawn = all.filter(|(_, rate)| *rate(&mut faults) > 0.0).map(|(name, _)| *name);
        drawn.chain((self.full_chance > 0.0).then_some(FULL)).collect()
    }

    /// Options of one opening.
    pub(crate) fn options(&self, base: Options, way: &Way, random: &mut Random) -> Options {
        let shards = 1 + random.below(4) as usize;
        let memory = [4 << 20, 6 << 20][random.below(2) as usize];
        let memtable = if random.chance(0.3) { 128 << 10 } else { 16 << 10 };
        let frames = [0, 4, 16, 64, usize::MAX][random.below(5) as usize];
        let options = base
            .shards(shards)
            .key_groups(self.key_groups)
            .memory(shards * memory)
            .memtable_bytes(memtable)
            .extent_bytes(self.extent_bytes)
            .page_bytes(self.page_bytes)
            .table_bytes([self.page_bytes * 8, self.page_bytes * 16, 1 << 20][random.below(3) as usize])
            .capacity(1 << 36)
            .durability(way.durability)
            .restore(way.restore.clone());
        let options = self.io_budget.into_iter().fold(options, Options::io_budget);
        let options = self.typed.options(siltstone::testing::limit_cache(options, frames));
        let options = SPACES.iter().fold(options, |options, space| options.keyspace(space.name, space.options(random)));
        match way.retained {
            Some(count) => options.checkpoints_retained(count),
            None => options,
        }
    }

    pub(crate) fn any_durability(random: &mut Random) -> Durability {
        match random.below(3) {
            0 => Durability::Sync,
            1 => {
                // About as long as a write takes, or much longer.
                let most_us = if random.chance(0.5) { 100 } else { 5000 };
                Durability::Interval(Duration::from_micros(1 + random.below(most_us)))
            }
            _ => Durability::Checkpoint,
        }
    }
}

/// Some of these faults, at rates over two orders of magnitude.
fn draw(faults: &mut SimFaults, rates: &[(&str, Rate)], share: f64, most: f64, random: &mut Random) {
    for (_, rate) in rates {
        if random.chance(share) {
            *rate(faults) = most / 10f64.powi(random.below(3) as i32);
        }
    }
}

/// A keyspace of the simulation.
pub(crate) struct SpacePlan {
    pub(crate) name: &'static str,
    pub(crate) partition: Partition,
    pub(crate) ttl_ms: Option<u64>,
}

/// The keyspaces: `data` and `journal` belong to the operators, whose writes are batches that name themselves; the others have cells, written one
/// by one.
pub(crate) const SPACES: [SpacePlan; 5] = [
    SpacePlan { name: "data", partition: Partition::Prefix(2), ttl_ms: None },
    SpacePlan { name: "journal", partition: Partition::Prefix(2), ttl_ms: None },
    SpacePlan { name: "whole", partition: Partition::WholeKey, ttl_ms: None },
    SpacePlan { name: "prefix", partition: Partition::Prefix(2), ttl_ms: None },
    SpacePlan { name: "expiring", partition: Partition::Prefix(2), ttl_ms: Some(700) },
];

/// Where the spaces of cells begin in [`SPACES`].
pub(crate) const CELL_SPACES: std::ops::Range<usize> = 2..SPACES.len();

impl SpacePlan {
    fn options(&self, random: &mut Random) -> KeyspaceOptions {
        let options = KeyspaceOptions::default();
        let options = options.partition(self.partition).filter_bits_per_key([0, 4, 10][random.below(3) as usize]);
        match self.ttl_ms {
            Some(duration_ms) => options.ttl(Ttl { duration_ms, time: TimeDomain::Event }),
            None => options,
        }
    }
}
