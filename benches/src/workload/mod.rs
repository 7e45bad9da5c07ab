//! The work: keys, values, and which key comes next. All of it is a function of the seed, so that every engine gets the
//! same operations in the same order, and every value read can be checked.
//!
//! What is costly to draw (zipf) is drawn before the clock starts.

mod keys;
mod random;
mod runs;
mod values;
mod zipf;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

pub(crate) use keys::{ENTRIES_PER_USER, KeyShape, KeySpace};
pub(crate) use random::{Random, mix};
pub(crate) use runs::{Gets, Load, Rmw, Scans, Versions};
pub(crate) use values::Values;
pub(crate) use zipf::Zipf;

/// The workloads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Workload {
    /// Put every key once, in random order.
    Load,
    /// Read a key, write its next version: zipf 0.99.
    Rmw,
    /// Get keys, uniformly, of data ten times the memory budget.
    GetCold,
    /// Scan the 100 entries of a random user.
    PrefixScan,
}

impl Workload {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Workload::Load => "load",
            Workload::Rmw => "rmw",
            Workload::GetCold => "get-cold",
            Workload::PrefixScan => "prefix-scan",
        }
    }

    pub(crate) fn key_shape(self) -> KeyShape {
        match self {
            Workload::Load | Workload::Rmw | Workload::GetCold => KeyShape::Point,
            Workload::PrefixScan => KeyShape::Map,
        }
    }

    /// Operations in a round, so that it takes a few seconds.
    pub(crate) fn default_ops(self, keys: u32) -> u32 {
        match self {
            Workload::Load => keys,
            Workload::Rmw => 500_000,
            Workload::GetCold => 200_000,
            Workload::PrefixScan => 50_000,
        }
    }
}
