//! How much of the background may be in flight: from reads that were measured beside writes of which more and more were.
//!
//! What is in flight cannot be overtaken: a read that comes to the device waits behind it. So of two bounds the lower holds:
//!
//! 1. the most with which the median of the reads and their 90th percentile are at most [`SLOWDOWN_MAX`] times what they are alone. Not the 99th: a slice
//!    of a probe has hundreds of reads, of which that is two or three. Both of them, since a busy machine makes the slowest of the reads slow
//!    already while nothing is beside them, so that only the median tells;
//! 2. the least with which the writes move nearly ([`SATURATED_PERCENT`]) as much as they ever do: more would only wait in the device.
//!
//! Where even the least step is too much for the reads, it is taken all the same: the background must go on.

use super::Measurement;
use crate::volume::IoProfile;

/// How many times as long a read may take. Less would cost more than it gives: on a disk that moves 2.5 GB/s, four times as long leaves the background a
/// quarter of that, and writes wait for a compaction that does not come to its end; ten times as long leaves it more than half.
const SLOWDOWN_MAX: u64 = 10;
/// Writes that move so much of the most that they ever move keep the device busy.
const SATURATED_PERCENT: u64 = 90;
/// Bounds of the number of operations: a few, that reads of several SSTs go side by side, and no more than are of use to any device.
const OPS_MIN: u64 = 4;
const OPS_MAX: u64 = 1024;

/// The bytes of background that may be in flight. The steps are measurements of reads beside writes, the first beside none.
pub(super) fn background_bytes(steps: &[Measurement]) -> Option<u64> {
    let (alone, beside) = steps.split_first()?;
    let in_flight = |step: &&Measurement| step.beside_bytes.filter(|bytes| *bytes > 0);
    let least = beside.iter().filter_map(|step| in_flight(&step)).min()?;
    let within = |alone_us: u32, us: u32| u64::from(us) <= u64::from(alone_us.max(1)) * SLOWDOWN_MAX;
    let bearable = beside.iter().filter(|step| within(alone.p50_us, step.p50_us) && within(alone.p90_us, step.p90_us));
    let bearable = bearable.filter_map(|step| in_flight(&step)).max().unwrap_or(least);
    let most = beside.iter().map(Measurement::background_bytes_per_s).max()?;
    let saturates = |step: &&Measurement| {
        u128::from(step.background_bytes_per_s()) * 100 >= u128::from(most) * u128::from(SATURATED_PERCENT)
    };
    let saturated = beside.iter().filter(saturates).filter_map(|step| in_flight(&step)).min().unwrap_or(least);
    Some(bearable.min(saturated))
}

/// As many operations as take the device as long as those bytes do: an operation costs its share of the operations in a second, a byte its share of the
/// bytes in a second.
pub(super) fn background_ops(background_bytes: u64, read_iops: u64, write_bytes_per_s: u64) -> u32 {
    let ops = u128::from(background_bytes) * u128::from(read_iops) / u128::from(write_bytes_per_s.max(1));
    ops.clamp(OPS_MIN.into(), OPS_MAX.into()) as u32
}

/// The profile that follows from all measurements; `None` where writes are not among them.
pub(super) fn profile(measurements: &[Measurement], measured_ms: u64, probed_bytes: u64) -> Option<IoProfile> {
    use super::Access::{DurableWrite, Read, Write};
    let apart = || measurements.iter().filter(|measured| measured.beside_bytes.is_none());
    let small = |measured: &&Measurement| measured.transfer_bytes == super::load::SMALL_BYTES;
    let steps: Vec<Measurement> =
        measurements.iter().filter(|measured| measured.beside_bytes.is_some()).cloned().collect();
    let read_alone = apart().filter(small).find(|measured| measured.access == Read && measured.depth == 1)?;
    let durable_write = apart().find(|measured| measured.access == DurableWrite)?;
    let moved = |access| {
        apart().filter(move |measured| measured.access == access).map(Measurement::bytes_per_s).max().unwrap_or(0)
    };
    let reads = apart().filter(small).filter(|measured| measured.access == Read);
    let read_iops = reads.map(Measurement::operations_per_s).max().unwrap_or(0);
    let write_bytes_per_s = moved(Write);
    let background_bytes = background_bytes(&steps)?;
    Some(IoProfile {
        measured_ms,
        read_p50_us: read_alone.p50_us,
        read_p99_us: read_alone.p99_us,
        read_iops,
        read_bytes_per_s: moved(Read),
        write_bytes_per_s,
        durable_write_us: durable_write.p50_us,
        background_bytes,
        background_ops: background_ops(background_bytes, read_iops, write_bytes_per_s),
        probed_bytes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::Access;

    const KIB: u64 = 1 << 10;

    /// Reads beside so many KiB in flight, their 90th percentile, and the KiB that the writes have moved in a second.
    fn steps(of: &[(u64, u32, u64)]) -> Vec<Measurement> {
        let step = |&(beside_kib, p90_us, moved_kib): &(u64, u32, u64)| Measurement {
            access: Access::Read,
            transfer_bytes: 4096,
            depth: 1,
            beside_bytes: Some(beside_kib * KIB),
            operations: 1000,
            bytes: 1000 * 4096,
            background_bytes: moved_kib * KIB,
            elapsed_us: 1_000_000,
            p50_us: p90_us / 2,
            p90_us,
            p99_us: p90_us * 10,
        };
        of.iter().map(step).collect()
    }

    #[test]
    fn reads_bound_the_background() {
        let grows = [(0, 100, 0), (512, 350, 1000), (1024, 700, 2000), (2048, 1000, 4000), (4096, 1900, 8000)];
        assert_eq!(background_bytes(&steps(&grows)), Some(2048 * KIB));
        // One step that was disturbed does not end it.
        let disturbed = [(0, 100, 0), (512, 1950, 1000), (1024, 300, 2000), (2048, 1900, 4000)];
        assert_eq!(background_bytes(&steps(&disturbed)), Some(1024 * KIB));
    }

    /// As measured on a machine that was busy otherwise: from 4 MiB on the median tells what the slowest reads do not.
    #[test]
    fn the_median_bounds_the_background_too() {
        let mut steps =
            steps(&[(0, 1448, 0), (512, 1942, 348), (1024, 2044, 387), (2048, 2326, 736), (4096, 3605, 1400)]);
        for (step, p50_us) in steps.iter_mut().zip([67, 243, 109, 101, 1325]) {
            step.p50_us = p50_us;
        }
        assert_eq!(background_bytes(&steps), Some(2048 * KIB));
    }

    #[test]
    fn where_the_device_is_busy_more_is_of_no_use() {
        let saturated = [(0, 100, 0), (512, 110, 700), (1024, 110, 950), (2048, 110, 1000), (4096, 120, 990)];
        assert_eq!(background_bytes(&steps(&saturated)), Some(1024 * KIB));
    }

    #[test]
    fn the_background_always_has_the_least_step() {
        let slow = [(0, 100, 0), (512, 5000, 1000), (1024, 9000, 2000)];
        assert_eq!(background_bytes(&steps(&slow)), Some(512 * KIB));
        let still = [(0, 0, 0), (512, 5000, 0), (1024, 5000, 0)];
        assert_eq!(background_bytes(&steps(&still)), Some(512 * KIB));
        assert_eq!(background_bytes(&steps(&[(0, 100, 0)])), None);
        assert_eq!(background_bytes(&[]), None);
    }

    #[test]
    fn operations_take_as_long_as_the_bytes() {
        // 1 MiB of 512 MiB/s are 2 ms, in which 100,000 operations a second are 200.
        assert_eq!(background_ops(1 << 20, 100_000, 512 << 20), 195);
        assert_eq!(background_ops(1 << 20, 100, 512 << 20), 4);
        assert_eq!(background_ops(u64::MAX, u64::MAX, 0), 1024);
    }

    #[test]
    fn without_writes_there_is_no_profile() {
        let reads = Measurement { beside_bytes: None, ..steps(&[(0, 100, 0)])[0].clone() };
        assert_eq!(profile(&[reads], 1, 0), None);
    }
}
