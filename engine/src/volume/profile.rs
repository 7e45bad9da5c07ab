//! What a probe has measured of a volume's device, and the I/O budget that follows from it.
//!
//! # Layout
//!
//! 64 bytes of the superblock. All integers little-endian. All of them zero: the device was never measured.
//!
//! ```text
//! offset  bytes
//!      0      8  when it was measured, in milliseconds since 1970
//!      8      8  reads of 4 KiB in a second, with many at a time
//!     16      8  bytes read in a second, with large transfers
//!     24      8  bytes written in a second, with large transfers
//!     32      8  background bytes: how much of the background may be in flight
//!     40      8  bytes that this and earlier probes have written to the volume's device
//!     48      4  time of a read of 4 KiB, alone, in microseconds: the median
//!     52      4  the same: the 99th percentile
//!     56      4  time of a durable write of 4 KiB, alone, in microseconds: the median
//!     60      4  background operations: how many of the background may be in flight
//! ```

use siltstone_io::IoBudget;

use super::bytes::{is_zero, put_u32, put_u64, u32_at, u64_at};

/// Bytes of the stored form.
pub(super) const PROFILE_BYTES: usize = 64;

const MEASURED_AT: usize = 0;
const READ_IOPS_AT: usize = 8;
const READ_BYTES_AT: usize = 16;
const WRITE_BYTES_AT: usize = 24;
const BACKGROUND_BYTES_AT: usize = 32;
const PROBED_BYTES_AT: usize = 40;
const READ_P50_AT: usize = 48;
const READ_P99_AT: usize = 52;
const DURABLE_WRITE_AT: usize = 56;
const BACKGROUND_OPS_AT: usize = 60;

/// What a device can do, as [`probe`](crate::probe()) has measured it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct IoProfile {
    /// When it was measured, in milliseconds since 1970.
    pub measured_ms: u64,
    /// The median time of a read of 4 KiB with nothing else in flight, in microseconds.
    pub read_p50_us: u32,
    /// The 99th percentile of the same.
    pub read_p99_us: u32,
    /// Reads of 4 KiB in a second, with many in flight.
    pub read_iops: u64,
    /// Bytes read in a second, with large transfers.
    pub read_bytes_per_s: u64,
    /// Bytes written in a second, with large transfers.
    pub write_bytes_per_s: u64,
    /// The median time until a write of 4 KiB is on stable storage, in microseconds.
    pub durable_write_us: u32,
    /// How many bytes of background writes may be in flight on the device: more make a read beside them wait for longer, or move no more.
    pub background_bytes: u64,
    /// How many background operations may be in flight on the device: as many as take as long as those bytes.
    pub background_ops: u32,
    /// Bytes that this and earlier probes of the volume have written.
    pub probed_bytes: u64,
}

impl IoProfile {
    /// The budget of each of so many shards: its [share](IoBudget::divided) of what the device may have of the background at one time.
    pub fn budget(&self, shards: usize) -> IoBudget {
        let device = IoBudget { background_bytes_max: self.background_bytes, background_ops_max: self.background_ops };
        device.divided(u32::try_from(shards).unwrap_or(u32::MAX))
    }

    /// Checks what every measurement yields; gives what is wrong.
    pub(super) fn check(&self) -> Result<(), String> {
        if self.measured_ms == 0 || self.background_bytes == 0 || self.background_ops == 0 {
            return Err("a profile of the device without a time or without a budget".into());
        }
        Ok(())
    }

    pub(super) fn encode(&self, bytes: &mut [u8]) {
        assert_eq!(bytes.len(), PROFILE_BYTES);
        put_u64(bytes, MEASURED_AT, self.measured_ms);
        put_u64(bytes, READ_IOPS_AT, self.read_iops);
        put_u64(bytes, READ_BYTES_AT, self.read_bytes_per_s);
        put_u64(bytes, WRITE_BYTES_AT, self.write_bytes_per_s);
        put_u64(bytes, BACKGROUND_BYTES_AT, self.background_bytes);
        put_u64(bytes, PROBED_BYTES_AT, self.probed_bytes);
        put_u32(bytes, READ_P50_AT, self.read_p50_us);
        put_u32(bytes, READ_P99_AT, self.read_p99_us);
        put_u32(bytes, DURABLE_WRITE_AT, self.durable_write_us);
        put_u32(bytes, BACKGROUND_OPS_AT, self.background_ops);
    }

    /// `None` where the device was never measured.
    pub(super) fn decode(bytes: &[u8]) -> Option<IoProfile> {
        assert_eq!(bytes.len(), PROFILE_BYTES);
        if is_zero(bytes) {
            return None;
        }
        Some(IoProfile {
            measured_ms: u64_at(bytes, MEASURED_AT),
            read_p50_us: u32_at(bytes, READ_P50_AT),
            read_p99_us: u32_at(bytes, READ_P99_AT),
            read_iops: u64_at(bytes, READ_IOPS_AT),
            read_bytes_per_s: u64_at(bytes, READ_BYTES_AT),
            write_bytes_per_s: u64_at(bytes, WRITE_BYTES_AT),
            durable_write_us: u32_at(bytes, DURABLE_WRITE_AT),
            background_bytes: u64_at(bytes, BACKGROUND_BYTES_AT),
            background_ops: u32_at(bytes, BACKGROUND_OPS_AT),
            probed_bytes: u64_at(bytes, PROBED_BYTES_AT),
        })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(crate) fn any_profile() -> impl Strategy<Value = IoProfile> {
        let times = any::<(u32, u32, u32)>();
        let rates = any::<(u64, u64, u64, u64)>();
        (1u64.., times, rates, 1u64.., 1u32..).prop_map(
            |(measured_ms, times, rates, background_bytes, background_ops)| IoProfile {
                measured_ms,
                read_p50_us: times.0,
                read_p99_us: times.1,
                read_iops: rates.0,
                read_bytes_per_s: rates.1,
                write_bytes_per_s: rates.2,
                durable_write_us: times.2,
                background_bytes,
                background_ops,
                probed_bytes: rates.3,
            },
        )
    }

    proptest! {
        #[test]
        fn encodes_and_decodes(profile in any_profile()) {
            let mut bytes = [0; PROFILE_BYTES];
            prop_assert_eq!(IoProfile::decode(&bytes), None);
            profile.encode(&mut bytes);
            prop_assert_eq!(IoProfile::decode(&bytes), Some(profile));
            prop_assert_eq!(profile.check(), Ok(()));
        }

        /// All shards together have what the device may have, but for the least that each must have.
        #[test]
        fn shards_divide_the_budget(profile in any_profile(), shards in 1usize..=256) {
            let (device, each) = (profile.budget(1), profile.budget(shards));
            prop_assert_eq!((device.background_bytes_max, device.background_ops_max), (profile.background_bytes, profile.background_ops));
            let all = u128::from(each.background_bytes_max) * shards as u128;
            prop_assert!(all <= u128::from(profile.background_bytes) || each.background_bytes_max <= 512 << 10);
            let ops = u64::from(each.background_ops_max) * shards as u64;
            prop_assert!(ops <= profile.background_ops.into() || each.background_ops_max <= 4);
        }
    }
}
