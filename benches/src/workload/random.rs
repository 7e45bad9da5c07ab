//! Random numbers from a seed.

/// SplitMix64's output function: a bijection of 64-bit words whose values look random.
#[inline]
pub(crate) fn mix(word: u64) -> u64 {
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

/// SplitMix64.
#[derive(Clone)]
pub(crate) struct Random {
    state: u64,
}

impl Random {
    const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

    pub(crate) fn new(seed: u64) -> Self {
        Random { state: mix(seed.wrapping_add(Self::STEP)) }
    }

    #[inline]
    pub(crate) fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(Self::STEP);
        mix(self.state)
    }

    /// A number below `bound`, uniformly (Lemire's multiplication; the bias is below 2^-32 for 32-bit bounds).
    #[inline]
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next_u64()) * u128::from(bound)) >> 64) as u64
    }

    /// A number in [0, 1).
    #[inline]
    pub(crate) fn unit(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// A permutation of 0..n that looks random and needs no table: a Feistel network over the next even power of two, walked
/// along until the value falls below n.
#[derive(Clone)]
pub(crate) struct Permutation {
    n: u64,
    half_bits: u32,
    seed: u64,
}

impl Permutation {
    const ROUNDS: u64 = 4;

    pub(crate) fn new(n: u64, seed: u64) -> Self {
        assert!(n > 0, "a permutation of nothing");
        let bits = 64 - (n - 1).leading_zeros();
        Permutation { n, half_bits: bits.div_ceil(2).max(1), seed: mix(seed) }
    }

    #[inline]
    pub(crate) fn apply(&self, index: u64) -> u64 {
        debug_assert!(index < self.n);
        let mut value = index;
        loop {
            value = self.feistel(value);
            if value < self.n {
                return value;
            }
        }
    }

    #[inline]
    fn feistel(&self, value: u64) -> u64 {
        let mask = (1 << self.half_bits) - 1;
        let (mut left, mut right) = (value >> self.half_bits, value & mask);
        for round in 0..Self::ROUNDS {
            (left, right) = (right, left ^ (mix(right ^ self.seed.wrapping_add(round << 56)) & mask));
        }
        (left << self.half_bits) | right
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permutation_hits_every_index_once() {
        for n in [1, 2, 3, 100, 1000, 4096, 5000] {
            let permutation = Permutation::new(n, 7);
            let mut seen = vec![false; n as usize];
            for index in 0..n {
                let to = permutation.apply(index) as usize;
                assert!(!std::mem::replace(&mut seen[to], true), "{to} of {n} twice");
            }
        }
    }

    #[test]
    fn permutation_depends_on_the_seed() {
        let (a, b) = (Permutation::new(1000, 1), Permutation::new(1000, 2));
        assert!((0..1000).filter(|&i| a.apply(i) == b.apply(i)).count() < 20);
    }

    #[test]
    fn below_covers_the_range_evenly() {
        let mut random = Random::new(3);
        let mut counts = [0_u32; 10];
        for _ in 0..100_000 {
            counts[random.below(10) as usize] += 1;
        }
        assert!(counts.iter().all(|count| (9_500..10_500).contains(count)), "{counts:?}");
    }
}
