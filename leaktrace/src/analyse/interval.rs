//! How sure is a figure that was estimated from a part of what happened?
//!
//! Two things are left out of a trace: small allocations, by sampling, and what happens between
//! windows. Both make an outstanding sum one of few, weighted, independent finds. For such a sum
//! the interval of Fay and Feuer (Statistics in Medicine 16, 1997) holds for few finds and for
//! many: with equal weights it is Garwood's for a Poisson count, with many finds the normal one.

/// Both ends of a 95 % confidence interval.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Interval {
    /// It is hardly less.
    pub low: f64,
    /// It is hardly more.
    pub high: f64,
}

/// 97.5 % of a normal distribution lie below so many standard deviations.
const NORMAL: f64 = 1.96;
/// What a leak must have put into a trace to be seen for sure: so many blocks that are kept. Of
/// ten that are expected, five come with a chance of 97 %.
const BLOCKS_TO_SEE: f64 = 10.0;

/// The interval of a weighted sum of rare finds: the sum, its variance, and the largest weight of
/// one find, which is what the next one could add.
pub fn of_weighted(sum: f64, variance: f64, largest_weight: f64) -> Interval {
    let (sum, variance) = (sum.max(0.0), variance.max(0.0));
    let weight = largest_weight.max(0.0);
    let low = if sum > 0.0 && variance > 0.0 {
        variance / (2.0 * sum) * chi_square(2.0 * sum * sum / variance, -NORMAL)
    } else {
        sum
    };
    let (more, wider) = (sum + weight, variance + weight * weight);
    let high = if variance == 0.0 && sum > 0.0 || wider == 0.0 {
        sum
    } else {
        wider / (2.0 * more) * chi_square(2.0 * more * more / wider, NORMAL)
    };
    Interval { low: low.clamp(0.0, sum), high: high.max(sum) }
}

/// The value of a chi-square distribution at a standard score (Wilson and Hilferty, 1931): within
/// 1 % from three degrees of freedom on, too low at the lower end below that.
fn chi_square(degrees: f64, score: f64) -> f64 {
    let spread = 2.0 / (9.0 * degrees);
    degrees * (1.0 - spread + score * spread.sqrt()).max(0.0).powi(3)
}

/// The same score for a sample of so few that its variance is uncertain too: Student's 97.5 %
/// point, by its expansion; within 2 % from three degrees of freedom on.
pub fn student(degrees: f64) -> f64 {
    let z = NORMAL;
    let (z3, z5) = (z.powi(3), z.powi(5));
    let v = degrees.max(1.0);
    let terms = (z3 + z) / (4.0 * v)
        + (5.0 * z5 + 16.0 * z3 + 3.0 * z) / (96.0 * v * v)
        + (3.0 * z.powi(7) + 19.0 * z5 + 17.0 * z3 - 15.0 * z) / (384.0 * v.powi(3));
    // The expansion falls short for one degree (12.7) and two (4.30).
    if v < 1.5 { 12.7 } else { z + terms }
}

/// How allocations were sampled: one for so many bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sampling {
    /// Mean bytes between samples; 0 when every allocation is kept.
    pub mean_bytes: u64,
}

impl Sampling {
    /// The chance of a block of `size` bytes to be kept.
    pub fn chance(self, size: u64) -> f64 {
        if size >= self.mean_bytes { 1.0 } else { size as f64 / self.mean_bytes as f64 }
    }

    /// The bytes that a kept block stands for.
    pub fn stands_for_bytes(self, size: u64) -> f64 {
        size.max(self.mean_bytes) as f64
    }

    /// The blocks that a kept block stands for. Blocks of no bytes are never sampled.
    pub fn stands_for_blocks(self, size: u64) -> f64 {
        if size >= self.mean_bytes { 1.0 } else { self.mean_bytes as f64 / size.max(1) as f64 }
    }

    /// What a kept block adds to the variance of a sum of bytes.
    pub fn variance(self, size: u64) -> f64 {
        let bytes = self.mean_bytes as f64;
        (1.0 - self.chance(size)) * bytes * bytes
    }
}

/// The kept live blocks of one stack.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Kept {
    /// Bytes that they stand for.
    pub bytes: f64,
    /// Blocks that they stand for.
    pub blocks: f64,
    /// The variance of `bytes` by sampling.
    pub variance: f64,
    /// How many there are.
    pub count: u64,
}

impl Kept {
    /// Adds a block of `size` bytes.
    pub fn add(&mut self, size: u64, sampling: Sampling) {
        self.bytes += sampling.stands_for_bytes(size);
        self.blocks += sampling.stands_for_blocks(size);
        self.variance += sampling.variance(size);
        self.count += 1;
    }

    /// The interval of `bytes`, where all that happened could be sampled.
    pub fn interval(&self, sampling: Sampling) -> Interval {
        if self.variance == 0.0 && self.count > 0 || sampling.mean_bytes == 0 {
            return Interval { low: self.bytes, high: self.bytes };
        }
        of_weighted(self.bytes, self.variance, sampling.mean_bytes as f64)
    }
}

/// What a trace could see.
#[derive(Clone, Copy, Debug)]
pub struct Sight {
    /// Seconds traced.
    pub duration_s: f64,
    /// How often the ledger was looked at, or windows were closed.
    pub looks: u64,
    /// How allocations were sampled.
    pub sampling: Sampling,
    /// The share of the target's work that fell into windows: 1 when they never closed.
    pub share_seen: f64,
    /// Mean bytes of a block.
    pub mean_block_bytes: f64,
}

/// The smallest leak that would have been seen, in bytes a second; `None` when the trace was too
/// short to see any.
///
/// A leak of L bytes a second in blocks of m bytes leaks L/m blocks a second. A block is kept with
/// a chance of min(1, m/T), T being the mean bytes between samples, if it falls into a window, of
/// which the chance is f. Ten kept blocks in D seconds are L = 10 * max(m, T) / (f * D). A verdict
/// needs `least_looks`.
pub fn smallest_leak_bytes_per_s(sight: &Sight, least_looks: u64) -> Option<f64> {
    let seen_s = sight.share_seen.clamp(0.0, 1.0) * sight.duration_s;
    if sight.looks < least_looks.max(3) || seen_s.is_nan() || seen_s <= 0.0 {
        return None;
    }
    let bytes = sight.mean_block_bytes.max(sight.sampling.mean_bytes as f64).max(1.0);
    Some(BLOCKS_TO_SEE * bytes / seen_s)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(count: u32, low: f64, high: f64) {
        let count = f64::from(count);
        let interval = of_weighted(count, count, 1.0);
        assert!((interval.low - low).abs() < 0.02 + 0.01 * low, "{count}: {interval:?}");
        assert!((interval.high - high).abs() < 0.02 + 0.01 * high, "{count}: {interval:?}");
    }

    #[test]
    fn equal_weights_have_the_exact_interval_of_a_count() {
        // Garwood's table.
        check(0, 0.0, 3.689);
        check(1, 0.0253, 5.572);
        check(5, 1.623, 11.668);
        check(10, 4.795, 18.390);
        check(100, 81.36, 121.63);
    }

    #[test]
    fn students_points_are_those_of_the_table() {
        for (degrees, point) in [(1.0, 12.7), (3.0, 3.182), (5.0, 2.571), (30.0, 2.042)] {
            let near = student(degrees);
            assert!((near / point - 1.0).abs() < 0.02, "{degrees}: {near}");
        }
    }

    /// Sampling as the kernel half does it, many times over: unbiased, and in 95 of 100 cases
    /// inside the interval.
    #[test]
    fn sampled_sums_are_unbiased_and_lie_in_their_intervals() {
        let mut random = 1u64;
        let mut chance = || {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            (random >> 11) as f64 / (1u64 << 53) as f64
        };
        for (sizes, blocks) in [(16..200, 4000), (1000..30_000, 200), (60_000..90_000, 40)] {
            let sampling = Sampling { mean_bytes: 65_536 };
            let (mut inside, mut sum_of_all, mut truth_of_all) = (0, 0.0, 0.0);
            for _ in 0..1000 {
                let (mut truth, mut kept) = (0.0, Kept::default());
                for i in 0..blocks {
                    let size = sizes.start + i * 37 % (sizes.end - sizes.start);
                    truth += size as f64;
                    if chance() < sampling.chance(size) {
                        kept.add(size, sampling);
                    }
                }
                let interval = kept.interval(sampling);
                inside += u32::from((interval.low..=interval.high).contains(&truth));
                sum_of_all += kept.bytes;
                truth_of_all += truth;
            }
            let off = sum_of_all / truth_of_all - 1.0;
            assert!(off.abs() < 0.02, "{sizes:?}: {off}");
            assert!(inside >= 940, "{sizes:?}: {inside} of 1000 inside");
        }
    }

    #[test]
    fn every_allocation_leaves_no_doubt() {
        let mut kept = Kept::default();
        kept.add(100, Sampling::default());
        assert_eq!(kept.interval(Sampling::default()), Interval { low: 100.0, high: 100.0 });
    }

    #[test]
    fn the_smallest_leak_is_ten_blocks() {
        let sight = Sight {
            duration_s: 100.0,
            looks: 50,
            sampling: Sampling { mean_bytes: 1000 },
            share_seen: 0.1,
            mean_block_bytes: 100.0,
        };
        assert_eq!(smallest_leak_bytes_per_s(&sight, 6), Some(1000.0));
        assert_eq!(smallest_leak_bytes_per_s(&Sight { looks: 5, ..sight }, 6), None);
        assert_eq!(smallest_leak_bytes_per_s(&Sight { share_seen: 0.0, ..sight }, 6), None);
    }
}
