//! The 64-bit id of a stack, and a second hash that tells a collision.
//!
//! Ids are mixed like MurmurHash3's 64-bit variant (public domain, Austin Appleby): one
//! multiplication for each frame and a final avalanche. With 500,000 distinct stacks the chance
//! of any collision is below one in 100 million; the second hash makes it visible all the same.

/// A hash that frames are fed to, leaf first.
#[derive(Clone, Copy, Debug)]
pub struct StackHasher {
    id: u64,
    check: u64,
}

impl StackHasher {
    /// Starts a stack of the target in `slot`: equal frames in two targets are two stacks.
    #[inline(always)]
    pub const fn new(slot: u16) -> Self {
        Self { id: 0x9e37_79b9_7f4a_7c15 ^ slot as u64, check: slot as u64 }
    }

    /// Adds a frame.
    #[inline(always)]
    pub const fn push(&mut self, frame: u64) {
        let mixed = (self.id ^ frame).wrapping_mul(0xff51_afd7_ed55_8ccd);
        self.id = mixed ^ (mixed >> 32);
        self.check = self.check.wrapping_add(frame).wrapping_mul(0x2545_f491_4f6c_dd1d);
    }

    /// The id (never [`crate::records::UNKNOWN_STACK`]) and the second hash.
    #[inline(always)]
    pub const fn finish(self) -> (u64, u32) {
        let mut id = self.id;
        id ^= id >> 33;
        id = id.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
        id ^= id >> 33;
        // The lowest bits are given up: neither is ever 0.
        (id | 1, (self.check >> 32) as u32 | 1)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn id(slot: u16, frames: &[u64]) -> (u64, u32) {
        let mut hasher = StackHasher::new(slot);
        for &frame in frames {
            hasher.push(frame);
        }
        hasher.finish()
    }

    #[test]
    fn order_depth_and_target_all_count() {
        let stacks = [
            id(0, &[1, 2, 3]),
            id(0, &[3, 2, 1]),
            id(0, &[1, 2]),
            id(0, &[1, 2, 3, 0]),
            id(1, &[1, 2, 3]),
            id(0, &[]),
        ];
        let ids: HashSet<u64> = stacks.iter().map(|s| s.0).collect();
        let checks: HashSet<u32> = stacks.iter().map(|s| s.1).collect();
        assert_eq!(ids.len(), stacks.len());
        assert_eq!(checks.len(), stacks.len());
    }

    #[test]
    fn half_a_million_stacks_that_differ_in_one_frame_have_as_many_ids() {
        let ids: HashSet<u64> =
            (0..500_000u64).map(|i| id(0, &[0x5555_0000_1000 + 4 * i, 0x7fff_0000]).0).collect();
        assert_eq!(ids.len(), 500_000);
    }
}
