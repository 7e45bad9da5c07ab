//! The report of a probe as one JSON object: for programs, with whole numbers in bytes, microseconds and operations. Names are never taken
//! back; more may come.

use serde::Serialize;
use siltstone::{Access, DeviceKind, Discard, Geometry, IoProfile, Measurement, ProbeReport, ProbeSubject};

/// What is printed.
#[derive(Debug, Serialize)]
pub(super) struct Report<'r> {
    path: String,
    /// `volume`, `temporary_file` or `other`.
    subject: &'static str,
    device: Device,
    area_bytes: u64,
    /// Why nothing was written, or null.
    only_read: Option<&'r str>,
    measurements: Vec<Measured>,
    profile: Option<Profile>,
    /// The volume has kept the profile.
    stored: bool,
}

#[derive(Debug, Serialize)]
struct Device {
    /// `file`, `block` or `nvme`, as `--backend` takes it.
    kind: &'static str,
    logical_block_bytes: u32,
    physical_block_bytes: u32,
    optimal_io_bytes: u32,
    max_io_bytes: u32,
    size_bytes: u64,
    atomic_write_bytes: u32,
    volatile_cache: bool,
    direct: bool,
    nowait: bool,
    polled: bool,
    /// `none`, `hole` or `command`.
    discard: &'static str,
    /// In how many streams writes come; 0 where they are not separated.
    write_streams: u16,
}

#[derive(Debug, Serialize)]
struct Measured {
    /// `fill`, `read`, `write` or `durable_write`.
    access: &'static str,
    transfer_bytes: u32,
    depth: u32,
    /// Bytes of large writes in flight beside them, or null where reads beside writes were not the question.
    beside_bytes: Option<u64>,
    operations: u64,
    bytes: u64,
    background_bytes: u64,
    elapsed_us: u64,
    operations_per_s: u64,
    bytes_per_s: u64,
    background_bytes_per_s: u64,
    p50_us: u32,
    p90_us: u32,
    p99_us: u32,
}

#[derive(Debug, Serialize)]
struct Profile {
    /// Milliseconds since 1970.
    measured_ms: u64,
    read_p50_us: u32,
    read_p99_us: u32,
    read_iops: u64,
    read_bytes_per_s: u64,
    write_bytes_per_s: u64,
    durable_write_us: u32,
    background_bytes: u64,
    background_ops: u32,
    probed_bytes: u64,
}

impl<'r> From<&'r ProbeReport> for Report<'r> {
    fn from(report: &'r ProbeReport) -> Report<'r> {
        Report {
            path: report.path.to_string_lossy().into_owned(),
            subject: match report.subject {
                ProbeSubject::Volume => "volume",
                ProbeSubject::TemporaryFile => "temporary_file",
                _ => "other",
            },
            device: Device::from(&report.geometry),
            area_bytes: report.area_bytes,
            only_read: report.only_read.as_deref(),
            measurements: report.measurements.iter().map(Measured::from).collect(),
            profile: report.profile.as_ref().map(Profile::from),
            stored: report.stored,
        }
    }
}

impl From<&Geometry> for Device {
    fn from(geometry: &Geometry) -> Device {
        Device {
            kind: match geometry.kind {
                DeviceKind::File => "file",
                DeviceKind::Block => "block",
                DeviceKind::NvmePassthrough => "nvme",
                _ => "other",
            },
            logical_block_bytes: geometry.logical_block_bytes,
            physical_block_bytes: geometry.physical_block_bytes,
            optimal_io_bytes: geometry.optimal_io_bytes,
            max_io_bytes: geometry.max_io_bytes,
            size_bytes: geometry.size_bytes,
            atomic_write_bytes: geometry.atomic_write_bytes,
            volatile_cache: geometry.volatile_cache,
            direct: geometry.direct,
            nowait: geometry.nowait,
            polled: geometry.polled,
            discard: match geometry.discard {
                Discard::Hole => "hole",
                Discard::Command => "command",
                _ => "none",
            },
            write_streams: geometry.write_streams(),
        }
    }
}

impl From<&Measurement> for Measured {
    fn from(measured: &Measurement) -> Measured {
        Measured {
            access: match measured.access {
                Access::Fill => "fill",
                Access::Read => "read",
                Access::Write => "write",
                Access::DurableWrite => "durable_write",
                _ => "other",
            },
            transfer_bytes: measured.transfer_bytes,
            depth: measured.depth,
            beside_bytes: measured.beside_bytes,
            operations: measured.operations,
            bytes: measured.bytes,
            background_bytes: measured.background_bytes,
            elapsed_us: measured.elapsed_us,
            operations_per_s: measured.operations_per_s(),
            bytes_per_s: measured.bytes_per_s(),
            background_bytes_per_s: measured.background_bytes_per_s(),
            p50_us: measured.p50_us,
            p90_us: measured.p90_us,
            p99_us: measured.p99_us,
        }
    }
}

impl From<&IoProfile> for Profile {
    fn from(profile: &IoProfile) -> Profile {
        Profile {
            measured_ms: profile.measured_ms,
            read_p50_us: profile.read_p50_us,
            read_p99_us: profile.read_p99_us,
            read_iops: profile.read_iops,
            read_bytes_per_s: profile.read_bytes_per_s,
            write_bytes_per_s: profile.write_bytes_per_s,
            durable_write_us: profile.durable_write_us,
            background_bytes: profile.background_bytes,
            background_ops: profile.background_ops,
            probed_bytes: profile.probed_bytes,
        }
    }
}
