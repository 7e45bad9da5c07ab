//! Zipf-distributed ranks by rejection-inversion.
//!
//! W. Hörmann and G. Derflinger, "Rejection-inversion to generate variates from monotone discrete distributions", ACM TOMACS 6
//! (1996). No table, constant time, exact: rank k comes with a probability proportional to 1 / k^exponent.

use crate::workload::Random;

/// Draws ranks 0..n, 0 the most frequent.
pub(crate) struct Zipf {
    n: f64,
    exponent: f64,
    integral_low: f64,
    integral_high: f64,
    shortcut: f64,
}

impl Zipf {
    pub(crate) fn new(n: u64, exponent: f64) -> Self {
        assert!(n > 0 && exponent > 0.0, "zipf needs ranks and a positive exponent");
        let mut zipf = Zipf { n: n as f64, exponent, integral_low: 0.0, integral_high: 0.0, shortcut: 0.0 };
        zipf.integral_low = zipf.integral(1.5) - 1.0;
        zipf.integral_high = zipf.integral(zipf.n + 0.5);
        zipf.shortcut = 2.0 - zipf.integral_inverse(zipf.integral(2.5) - zipf.density(2.0));
        zipf
    }

    pub(crate) fn sample(&self, random: &mut Random) -> u64 {
        loop {
            let u = self.integral_high + random.unit() * (self.integral_low - self.integral_high);
            let x = self.integral_inverse(u);
            let k = x.round().clamp(1.0, self.n);
            if k - x <= self.shortcut || u >= self.integral(k + 0.5) - self.density(k) {
                return k as u64 - 1;
            }
        }
    }

    /// The unnormalised density 1 / x^exponent.
    fn density(&self, x: f64) -> f64 {
        (-self.exponent * x.ln()).exp()
    }

    /// The integral of the density, up to a constant: (x^(1-exponent) - 1) / (1-exponent), and ln x where the exponent is 1.
    fn integral(&self, x: f64) -> f64 {
        let log = x.ln();
        let t = (1.0 - self.exponent) * log;
        if t.abs() < 1e-12 { log } else { t.exp_m1() / t * log }
    }

    fn integral_inverse(&self, y: f64) -> f64 {
        let t = ((1.0 - self.exponent) * y).max(-1.0);
        if t.abs() < 1e-12 { y.exp() } else { (t.ln_1p() / t * y).exp() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frequencies_follow_the_law() {
        for exponent in [0.99, 1.0, 1.5] {
            let (n, draws) = (1_000_u64, 400_000);
            let zipf = Zipf::new(n, exponent);
            let mut random = Random::new(11);
            let mut counts = vec![0_u32; n as usize];
            for _ in 0..draws {
                counts[zipf.sample(&mut random) as usize] += 1;
            }
            let total: f64 = (1..=n).map(|k| (k as f64).powf(-exponent)).sum();
            for rank in [1_u64, 2, 3, 10, 30] {
                let expected = f64::from(draws) * (rank as f64).powf(-exponent) / total;
                let found = f64::from(counts[rank as usize - 1]);
                assert!((found - expected).abs() < 5.0 * expected.sqrt(), "rank {rank}: {found} for {expected}");
            }
        }
    }

    #[test]
    fn a_single_rank_is_always_drawn() {
        let mut random = Random::new(1);
        assert!((0..100).all(|_| Zipf::new(1, 0.99).sample(&mut random) == 0));
    }
}
