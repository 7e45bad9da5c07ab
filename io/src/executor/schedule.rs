//! The order of what may happen in any order.
//!
//! Ready tasks of one class, timers of one deadline, and completions due at one time have no order that code may rely on. Without a
//! seed they come first in, first out; with one, in a random order that the seed decides, so that a simulation tries many.

use crate::Random;

/// First in, first out, or a random order.
pub(crate) struct Order(Option<Random>);

impl Order {
    pub(crate) fn new(seed: Option<u64>) -> Order {
        Order(seed.map(Random::new))
    }

    #[inline]
    pub(crate) fn is_random(&self) -> bool {
        self.0.is_some()
    }

    /// Which of this many to take.
    #[inline]
    pub(crate) fn pick(&mut self, of: usize) -> usize {
        match &mut self.0 {
            Some(random) if of > 1 => random.below(of as u64) as usize,
            _ => 0,
        }
    }

    /// Where the n-th comes among those due at its time; no two have one rank.
    #[inline]
    pub(crate) fn rank(&mut self, nth: u64) -> u64 {
        match &mut self.0 {
            Some(random) => random.next_u64() << 32 | nth & u64::from(u32::MAX),
            None => nth,
        }
    }
}
