//! Which allocations are kept when only a sample is, and what each of them then stands for.
//!
//! With one sample for each T bytes on average, a block of `size` bytes is kept with the chance
//! size / T and then stands for T bytes in T / size blocks; a block of T bytes or more is always
//! kept and stands for itself. So the sums are right on average, by bytes and by blocks. A block
//! of no bytes is kept with the chance 1 / T, and stands for T blocks of no bytes.

/// Blocks are counted in units of this, so that a block may stand for a fraction of one more.
pub const BLOCK: u64 = 1 << 16;

/// The largest T.
pub const MAX_BYTES: u64 = 1 << 32;

/// T, and what is worked out from it once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sampling {
    /// T: a power of two up to [`MAX_BYTES`]; 0 keeps every allocation.
    pub bytes: u64,
    /// 2^32 / T.
    pub scale: u64,
}

impl Sampling {
    /// Every allocation.
    pub const EXACT: Self = Self { bytes: 0, scale: 0 };

    /// Sampling by the power of two next to `bytes`, of [`MAX_BYTES`] at most; 0 and 1 keep every
    /// allocation.
    pub const fn by(bytes: u64) -> Self {
        if bytes < 2 {
            return Self::EXACT;
        }
        if bytes >= MAX_BYTES {
            return Self { bytes: MAX_BYTES, scale: 1 };
        }
        let above = bytes.next_power_of_two();
        let below = above / 2;
        let bytes = if above - bytes <= bytes - below { above } else { below };
        Self { bytes, scale: MAX_BYTES / bytes }
    }

    /// Whether every allocation is kept.
    #[inline(always)]
    pub const fn is_exact(self) -> bool {
        self.bytes == 0
    }

    /// Whether a block is kept, by a random number.
    #[inline(always)]
    pub const fn keeps(self, size: u64, random: u32) -> bool {
        if size >= self.bytes {
            return true;
        }
        let size = if size == 0 { 1 } else { size };
        // Smaller than 2^32, since `size` is smaller than T.
        (random as u64) < size.wrapping_mul(self.scale)
    }

    /// The bytes that a kept block stands for.
    #[inline(always)]
    pub const fn bytes_of(self, size: u64) -> u64 {
        if size >= self.bytes || size == 0 { size } else { self.bytes }
    }

    /// The blocks that a kept block stands for, in units of 1/[`BLOCK`], rounded.
    #[inline(always)]
    pub const fn blocks_of(self, size: u64) -> u64 {
        if size >= self.bytes {
            return BLOCK;
        }
        let size = if size == 0 { 1 } else { size };
        (self.bytes * BLOCK + size / 2) / size
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What is expected of a block's bytes and blocks: chance times weight.
    fn expected(sampling: Sampling, size: u64) -> (f64, f64) {
        // The chance is exact: keeps() is monotonous in the random number.
        let (mut low, mut high) = (0u64, 1u64 << 32);
        while low < high {
            let middle = u64::midpoint(low, high);
            if sampling.keeps(size, middle as u32) { low = middle + 1 } else { high = middle }
        }
        let chance = low as f64 / (1u64 << 32) as f64;
        (
            chance * sampling.bytes_of(size) as f64,
            chance * sampling.blocks_of(size) as f64 / BLOCK as f64,
        )
    }

    proptest! {
        #[test]
        fn the_sums_are_right_on_average(
            size in prop_oneof![0..64u64, 0..1u64 << 20, 0..1u64 << 40],
            bytes in prop_oneof![0..64u64, 0..1u64 << 34],
        ) {
            let sampling = Sampling::by(bytes);
            let (by_bytes, by_blocks) = expected(sampling, size);
            prop_assert!((by_bytes - size as f64).abs() <= size as f64 * 1e-12, "{by_bytes}");
            prop_assert!((by_blocks - 1.0).abs() < 1e-5, "{by_blocks}");
        }

        /// With real dice, many times: the estimate lies within five standard errors.
        #[test]
        fn a_sample_estimates_the_whole(seed in any::<u64>(), sizes in prop::collection::vec(0..10_000u64, 1..20)) {
            const ROUNDS: u64 = 2000;
            let sampling = Sampling::by(4096);
            let mut state = seed | 1;
            let (mut bytes, mut blocks) = (0u64, 0u64);
            for _ in 0..ROUNDS {
                for &size in &sizes {
                    state ^= state << 13;
                    state ^= state >> 7;
                    state ^= state << 17;
                    let random = (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) as u32;
                    if sampling.keeps(size, random) {
                        bytes += sampling.bytes_of(size);
                        blocks += sampling.blocks_of(size);
                    }
                }
            }
            let (mut byte_variance, mut block_variance) = (0.0, 0.0);
            for &size in &sizes {
                let weight = sampling.blocks_of(size) as f64 / BLOCK as f64;
                block_variance += weight - 1.0;
                byte_variance += (weight - 1.0) * (size * size) as f64;
            }
            let rounds = ROUNDS as f64;
            let true_bytes = rounds * sizes.iter().sum::<u64>() as f64;
            let true_blocks = rounds * sizes.len() as f64;
            let blocks = blocks as f64 / BLOCK as f64;
            // A sum of few large weights is no bell curve: for blocks of a few bytes, 10.
            prop_assert!((bytes as f64 - true_bytes).abs() <= 10.0 * (rounds * byte_variance).sqrt() + 1.0);
            prop_assert!((blocks - true_blocks).abs() <= 10.0 * (rounds * block_variance).sqrt() + 5.0 * 4096.0);
        }
    }

    #[test]
    fn exact_is_exact_and_t_is_a_power_of_two() {
        for size in [0, 1, 4096, u64::MAX] {
            assert!(Sampling::EXACT.keeps(size, u32::MAX));
            assert_eq!(Sampling::EXACT.bytes_of(size), size);
            assert_eq!(Sampling::EXACT.blocks_of(size), BLOCK);
        }
        assert_eq!(Sampling::by(1), Sampling::EXACT);
        assert_eq!(Sampling::by(500_000).bytes, 1 << 19);
        assert_eq!(Sampling::by(600_000).bytes, 1 << 19);
        assert_eq!(Sampling::by(3).bytes, 4);
        assert_eq!(Sampling::by(u64::MAX).bytes, MAX_BYTES);
    }
}
