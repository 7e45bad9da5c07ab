//! What is measured: time, latency, CPU, device traffic, memory, space.

mod recorder;
mod usage;

pub(crate) use recorder::{Latency, Recorder, now};
pub(crate) use usage::{
    Usage, directory_bytes, drop_page_cache, join_cgroup, memory_limit_bytes, peak_resident_bytes, reset_peak_resident,
    resident_bytes,
};

/// The middle value, or the mean of the two middle ones. Of nothing it is nothing.
pub(crate) fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    let middle = figures.len() / 2;
    match figures.len() {
        0 => 0.0,
        even if even % 2 == 0 => (figures[middle - 1] + figures[middle]) / 2.0,
        _ => figures[middle],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_is_the_middle_or_between_the_two() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 100.0]), 3.0);
        assert_eq!(median(Vec::new()), 0.0);
    }
}
