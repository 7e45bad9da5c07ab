//! One measurement: so many operations in flight for so long, and how long each took.
//!
//! # Algorithm
//!
//! Each operation in flight is a *lane*: a task with one buffer that begins its next operation when the last one has ended, until the time is
//! over. A lane makes at least one operation, so that a slow device yields a figure too. Lanes of background writes run beside the
//! measured ones and are only counted.
//!
//! All lanes are foreground tasks: the executor's budget for the background is what is to be found, not to be kept.
//!
//! A failed operation ends all lanes, each after the operation that it has in flight.

use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::rc::Rc;

use siltstone_io::{Buffer, BufferPool, Class, Device, Handle, Placement, Random, WriteDurability, local::Event};

use super::{Access, Measurement};
use crate::error::{Error, Result};

/// The smallest transfer that is measured.
pub(super) const SMALL_BYTES: u32 = 4096;
/// Lanes of large transfers, and of small ones, at most.
pub(super) const LARGE_LANES_MAX: u32 = 17;
pub(super) const SMALL_LANES_MAX: u32 = 64;

/// Byte ranges of a device in which operations have their places.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Area {
    runs: Vec<Range<u64>>,
}

/// The places for operations of one size.
#[derive(Clone)]
pub(super) struct Slots {
    transfer_bytes: u32,
    /// The number of each run's first slot, and where the run begins.
    runs: Vec<(u64, u64)>,
    count: u64,
}

/// What to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Load {
    pub(super) access: Access,
    pub(super) transfer_bytes: u32,
    pub(super) depth: u32,
    /// Lanes of large writes beside it.
    pub(super) beside: Option<u32>,
}

/// What measures.
pub(super) struct Bench {
    handle: Handle,
    device: Device,
    large: BufferPool,
    small: BufferPool,
    random: RefCell<Random>,
}

/// What the lanes of one measurement share.
struct Run {
    handle: Handle,
    device: Device,
    ends_at_us: u64,
    lanes: Cell<u32>,
    ended: Event,
    times_us: RefCell<Vec<u32>>,
    background_bytes: Cell<u64>,
    /// The next slot of a fill.
    next_slot: Cell<u64>,
    random: RefCell<Random>,
    error: RefCell<Option<Error>>,
}

impl Area {
    /// These ranges, in order; neighbours count as one.
    pub(super) fn new(ranges: impl IntoIterator<Item = Range<u64>>) -> Area {
        let mut runs: Vec<Range<u64>> = Vec::new();
        for range in ranges {
            match runs.last_mut() {
                Some(last) if last.end == range.start => last.end = range.end,
                _ => runs.push(range),
            }
        }
        Area { runs }
    }

    pub(super) fn bytes(&self) -> u64 {
        self.runs.iter().map(|run| run.end - run.start).sum()
    }

    /// The longest run.
    pub(super) fn longest(&self) -> u64 {
        self.runs.iter().map(|run| run.end - run.start).max().unwrap_or(0)
    }

    /// The places for operations of this size.
    pub(super) fn slots(&self, transfer_bytes: u32) -> Slots {
        let mut slots = Slots { transfer_bytes, runs: Vec::new(), count: 0 };
        for run in &self.runs {
            let count = (run.end - run.start) / u64::from(transfer_bytes);
            if count > 0 {
                slots.runs.push((slots.count, run.start));
                slots.count += count;
            }
        }
        slots
    }
}

impl Slots {
    fn offset(&self, slot: u64) -> u64 {
        assert!(slot < self.count, "slot {slot} of {}", self.count);
        let (first, start) = self.runs[self.runs.partition_point(|run| run.0 <= slot) - 1];
        start + (slot - first) * u64::from(self.transfer_bytes)
    }

    /// The area of the first slots.
    fn area(&self, count: u64) -> Area {
        Area::new((0..count).map(|slot| {
            let offset = self.offset(slot);
            offset..offset + u64::from(self.transfer_bytes)
        }))
    }
}

impl Bench {
    /// With buffers for transfers of up to `large_bytes`.
    pub(super) fn new(handle: Handle, device: Device, large_bytes: u32) -> Bench {
        let large = handle.buffer_pool(large_bytes as usize, LARGE_LANES_MAX as usize);
        let small = handle.buffer_pool(SMALL_BYTES as usize, SMALL_LANES_MAX as usize);
        Bench { handle, device, large, small, random: RefCell::new(Random::new(1)) }
    }

    /// Fills the area from its beginning, for so long; gives what was filled.
    pub(super) async fn fill(&self, area: &Area, load: Load, duration_us: u64) -> Result<(Measurement, Area)> {
        let slots = area.slots(load.transfer_bytes);
        let (measurement, filled) = self.measure(&slots, &slots, load, duration_us).await?;
        Ok((measurement, slots.area(filled)))
    }

    /// Measures a load at random places of the area, for so long. Writes beside it have the size that `beside` has slots for.
    pub(super) async fn run(&self, area: &Area, load: Load, beside: &Slots, duration_us: u64) -> Result<Measurement> {
        Ok(self.measure(&area.slots(load.transfer_bytes), beside, load, duration_us).await?.0)
    }

    /// The measurement, and how many slots a fill has used.
    async fn measure(&self, slots: &Slots, beside: &Slots, load: Load, duration_us: u64) -> Result<(Measurement, u64)> {
        // What earlier writes have left in caches is not this measurement's.
        if load.access != Access::Read || load.beside.is_some() {
            self.device.flush().await?;
        }
        let begun_us = self.handle.now_us();
        let background = load.beside.unwrap_or(0);
        let run = Rc::new(Run {
            handle: self.handle.clone(),
            device: self.device.clone(),
            ends_at_us: begun_us + duration_us,
            lanes: Cell::new(load.depth + background),
            ended: Event::new(),
            times_us: RefCell::default(),
            background_bytes: Cell::new(0),
            next_slot: Cell::new(0),
            random: RefCell::new(Random::new(self.random.borrow_mut().next_u64())),
            error: RefCell::new(None),
        });
        for lane in 0..load.depth + background {
            let (access, slots) = if lane < load.depth { (load.access, slots) } else { (Access::Write, beside) };
            let buffer = self.buffer(slots.transfer_bytes);
            let lane = Rc::clone(&run).lane(access, slots.clone(), buffer, lane < load.depth);
            self.handle.spawn(Class::Foreground, lane);
        }
        while run.lanes.get() > 0 {
            run.ended.wait().await;
        }
        let elapsed_us = self.handle.now_us() - begun_us;
        if let Some(error) = run.error.take() {
            return Err(error);
        }
        let mut times_us = run.times_us.take();
        times_us.sort_unstable();
        let measurement = Measurement {
            access: load.access,
            transfer_bytes: load.transfer_bytes,
            depth: load.depth,
            beside_bytes: load.beside.map(|lanes| u64::from(lanes) * u64::from(beside.transfer_bytes)),
            operations: times_us.len() as u64,
            bytes: times_us.len() as u64 * u64::from(load.transfer_bytes),
            background_bytes: run.background_bytes.get(),
            elapsed_us,
            p50_us: percentile(&times_us, 50),
            p90_us: percentile(&times_us, 90),
            p99_us: percentile(&times_us, 99),
        };
        Ok((measurement, run.next_slot.get()))
    }

    /// A buffer of random bytes, which no device can make shorter.
    fn buffer(&self, bytes: u32) -> Buffer {
        let pools = [&self.small, &self.large];
        let fitting = pools.into_iter().find(|pool| pool.frame_bytes() >= bytes as usize);
        let mut buffer = fitting.and_then(BufferPool::take).unwrap_or_else(|| Buffer::heap(bytes as usize));
        self.random.borrow_mut().fill(&mut buffer[..bytes as usize]);
        buffer
    }
}

impl Run {
    async fn lane(self: Rc<Self>, access: Access, slots: Slots, mut buffer: Buffer, measured: bool) {
        let bytes = slots.transfer_bytes as usize;
        while let Some(slot) = self.slot(access, &slots) {
            let (offset, begun_us) = (slots.offset(slot), self.handle.now_us());
            let (result, back) = match access {
                Access::Read => self.device.read(offset, buffer, bytes).await,
                Access::Fill | Access::Write => {
                    self.device.write(offset, buffer, 0..bytes, WriteDurability::Cached, Placement::Deep).await
                }
                Access::DurableWrite => {
                    self.device.write(offset, buffer, 0..bytes, WriteDurability::Durable, Placement::Wal).await
                }
            };
            buffer = back;
            let now_us = self.handle.now_us();
            match result {
                Ok(()) if measured => {
                    let time_us = u32::try_from(now_us - begun_us).unwrap_or(u32::MAX);
                    self.times_us.borrow_mut().push(time_us);
                }
                Ok(()) => self.background_bytes.set(self.background_bytes.get() + bytes as u64),
                Err(error) => {
                    self.error.borrow_mut().get_or_insert(error.into());
                }
            }
            if now_us >= self.ends_at_us || self.error.borrow().is_some() {
                break;
            }
        }
        self.lanes.set(self.lanes.get() - 1);
        self.ended.notify_all();
    }

    /// Where the next operation goes; `None` where all has been filled.
    fn slot(&self, access: Access, slots: &Slots) -> Option<u64> {
        if access != Access::Fill {
            return Some(self.random.borrow_mut().below(slots.count));
        }
        let slot = self.next_slot.get();
        (slot < slots.count).then(|| {
            self.next_slot.set(slot + 1);
            slot
        })
    }
}

/// The time that so many in a hundred took at most, of sorted times.
fn percentile(times_us: &[u32], percent: usize) -> u32 {
    let rank = (times_us.len() * percent).div_ceil(100).max(1);
    times_us.get(rank - 1).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn percentiles_are_times_that_were_taken() {
        let times: Vec<u32> = (1..=200).collect();
        assert_eq!([50, 90, 99].map(|percent| percentile(&times, percent)), [100, 180, 198]);
        assert_eq!(percentile(&[7], 50), 7);
        assert_eq!(percentile(&[1, 9], 99), 9);
        assert_eq!(percentile(&[], 99), 0);
    }

    proptest! {
        /// Every slot lies in the area, and no two overlap.
        #[test]
        fn slots_lie_apart_and_inside(lengths in prop::collection::vec((0u64..5, 0u64..40), 1..20), shift in 0u32..4) {
            let (mut at, mut ranges) = (0, Vec::new());
            for (gap, length) in lengths {
                let start = at + gap * 4096;
                at = start + length * 4096;
                ranges.push(start..at);
            }
            let area = Area::new(ranges.clone());
            prop_assert_eq!(area.bytes(), ranges.iter().map(|range| range.end - range.start).sum::<u64>());
            let bytes = 4096 << shift;
            let slots = area.slots(bytes);
            let mut end = 0;
            for slot in 0..slots.count {
                let offset = slots.offset(slot);
                prop_assert!(offset >= end);
                end = offset + u64::from(bytes);
                prop_assert!(area.runs.iter().any(|run| run.start <= offset && end <= run.end));
            }
            if shift == 0 {
                prop_assert_eq!(slots.count * 4096, area.bytes());
                prop_assert_eq!(slots.area(slots.count).bytes(), area.bytes());
            }
        }
    }
}
