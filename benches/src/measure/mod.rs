//! What is measured: time, latency, CPU, device traffic, memory, space.

mod recorder;
mod usage;

pub(crate) use recorder::{Latency, Recorder, now};
pub(crate) use usage::{
    Usage, directory_bytes, drop_page_cache, join_cgroup, memory_limit_bytes, peak_resident_bytes, reset_peak_resident,
    resident_bytes,
};
