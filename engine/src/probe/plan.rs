//! The sequence of a probe's measurements.
//!
//! Each has a share of the time. Where nothing may be written, the reads alone are measured, and have all of it.

use super::load::{Bench, Load, SMALL_BYTES};
use super::saturation::profile;
use super::target::Ready;
use super::{Access, Measurement, ProbeOptions, ProbeReport};
use crate::error::Result;

/// Large transfers: what the engine's own are at most.
const LARGE_BYTES: u32 = 512 << 10;
const MEDIUM_BYTES: u32 = 128 << 10;
/// The depths of small transfers, and of larger ones.
const SMALL_DEPTHS: [u32; 4] = [1, 4, 16, 64];
const LARGE_DEPTHS: [u32; 2] = [1, 8];
/// Large writes in flight beside reads: up to 8 MiB.
const STEPS: [u32; 6] = [0, 1, 2, 4, 8, 16];
/// Shares of the time; all others have one.
const FILL_SHARE: u64 = 3;
const STEP_SHARE: u64 = 2;

/// Measures, gives the space back, and stores what came of it.
pub(super) async fn run(
    mut ready: Ready,
    measuring: &ProbeOptions,
    progress: &mut impl FnMut(&Measurement),
) -> Result<ProbeReport> {
    let area_bytes = ready.area.bytes();
    let measured = measure(&ready, measuring, progress).await;
    ready.give_back().await;
    let measurements = measured?;
    let probed_bytes = ready.probed_before().saturating_add(ready.handle.io_stats().written_bytes);
    let profile = profile(&measurements, ready.handle.wall_ms(), probed_bytes);
    let stored = match profile {
        Some(profile) => ready.store(profile).await?,
        None => false,
    };
    Ok(ProbeReport {
        path: ready.path,
        subject: ready.subject,
        geometry: ready.device.geometry().clone(),
        area_bytes,
        only_read: ready.only_read,
        measurements,
        profile,
        stored,
    })
}

async fn measure(
    ready: &Ready,
    measuring: &ProbeOptions,
    progress: &mut impl FnMut(&Measurement),
) -> Result<Vec<Measurement>> {
    let large_bytes = (1 << ready.area.longest().min(LARGE_BYTES.into()).ilog2()).max(SMALL_BYTES);
    let bench = Bench::new(ready.handle.clone(), ready.device.clone(), large_bytes);
    let loads = loads(large_bytes, ready.only_read.is_none());
    let shares: u64 = loads.iter().map(|(_, share)| share).sum();
    let share_us = measuring.duration.as_micros() as u64 / shares;
    let mut area = ready.area.clone();
    let mut measurements = Vec::new();
    for (load, share) in loads {
        let measurement = if load.access == Access::Fill {
            let (measurement, filled) = bench.fill(&area, load, share * share_us).await?;
            area = filled;
            measurement
        } else {
            bench.run(&area, load, &area.slots(large_bytes), share * share_us).await?
        };
        progress(&measurement);
        measurements.push(measurement);
    }
    Ok(measurements)
}

/// What is measured, and its share of the time.
fn loads(large_bytes: u32, writes: bool) -> Vec<(Load, u64)> {
    let load = |access, transfer_bytes, depth| Load { access, transfer_bytes, depth, beside: None };
    let small = |access| SMALL_DEPTHS.map(|depth| (load(access, SMALL_BYTES, depth), 1));
    let large = |access, bytes| LARGE_DEPTHS.map(|depth| (load(access, bytes, depth), 1));
    let mut loads = Vec::new();
    if writes {
        loads.push((load(Access::Fill, large_bytes, 8), FILL_SHARE));
    }
    loads.extend(small(Access::Read));
    let sizes = [MEDIUM_BYTES, large_bytes];
    let sizes = if large_bytes > MEDIUM_BYTES { &sizes[..] } else { &sizes[1..] };
    loads.extend(sizes.iter().flat_map(|&bytes| large(Access::Read, bytes)));
    if writes {
        loads.extend(small(Access::Write));
        loads.extend(large(Access::Write, large_bytes));
        loads.push((load(Access::DurableWrite, SMALL_BYTES, 1), 1));
        loads.extend(STEPS.map(|beside| {
            let read = load(Access::Read, SMALL_BYTES, 1);
            (Load { beside: Some(beside), ..read }, STEP_SHARE)
        }));
    }
    loads
}
