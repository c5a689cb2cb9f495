//! Where the totals of stacks are kept: an open-addressed table in one array.
//!
//! A stack claims a place by compare-and-exchange on its id and keeps it; a block remembers the
//! place, so that its free looks nothing up. Index 0 is the unknown stack's.

use crate::{atomic::exchange, records::StackTotals};

/// How many places a stack may lie in.
pub const PROBES: u32 = 16;

/// There is no room for the stack.
pub const NOWHERE: u64 = u64::MAX;

/// Places beyond this cannot be told in a handle.
pub const MAX_PLACES: u32 = 1 << INDEX_BITS;

const INDEX_BITS: u32 = 24;

/// How many places hold `stacks` with next to no risk that one finds no room: two thirds full.
pub const fn places_for(stacks: u32) -> u32 {
    let places = (stacks as u64 * 3 / 2 + PROBES as u64) as u32;
    if stacks >= MAX_PLACES / 3 * 2 - PROBES { MAX_PLACES } else { places }
}

/// What a block remembers of its stack: the index of its totals, and their generation.
#[inline(always)]
pub const fn handle(index: u32, generation: u32) -> u32 {
    index & (MAX_PLACES - 1) | generation << INDEX_BITS
}

/// The index of the totals.
#[inline(always)]
pub const fn index_of(handle: u32) -> u32 {
    handle & (MAX_PLACES - 1)
}

/// The generation that the totals had.
#[inline(always)]
pub const fn generation_of(handle: u32) -> u32 {
    handle >> INDEX_BITS
}

/// The memory that the totals lie in.
pub trait Memory {
    /// How many places there are, the unknown stack's included; at least 2.
    fn places(&self) -> u32;
    /// The totals at an index; good for reading and writing as long as the memory is.
    fn totals(&self, index: u32) -> Option<*mut StackTotals>;
}

/// The index of the totals of stack `id`, which gets a place if it has none; or [`NOWHERE`].
#[inline(always)]
pub fn find_or_claim<M: Memory>(memory: &M, id: u64) -> u64 {
    let others = memory.places() as u64 - 1;
    let mut hash = id;
    let mut probe = 0;
    while probe < PROBES {
        let index = 1 + (((hash >> 32) * others) >> 32);
        let Some(totals) = memory.totals(index as u32) else {
            return NOWHERE;
        };
        // SAFETY: the id of totals that `Memory::totals` has vouched for.
        let there = unsafe { (&raw const (*totals).id).read_volatile() };
        if there == id {
            return index;
        }
        if there == 0 {
            // SAFETY: as above; ids are only written in one step.
            let was = unsafe { exchange(&raw mut (*totals).id, 0, id) };
            if was == 0 || was == id {
                return index;
            }
        }
        hash = hash.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(31);
        probe += 1;
    }
    NOWHERE
}

#[cfg(test)]
mod tests {
    use std::cell::UnsafeCell;
    use std::collections::HashMap;

    use super::*;
    use crate::stack_id::StackHasher;

    struct Table(Vec<UnsafeCell<StackTotals>>);

    // SAFETY: the function under test is what keeps threads apart.
    unsafe impl Sync for Table {}

    impl Memory for Table {
        fn places(&self) -> u32 {
            self.0.len() as u32
        }

        fn totals(&self, index: u32) -> Option<*mut StackTotals> {
            self.0.get(index as usize).map(UnsafeCell::get)
        }
    }

    fn table(stacks: u32) -> Table {
        Table((0..places_for(stacks)).map(|_| UnsafeCell::new(StackTotals::default())).collect())
    }

    fn id(n: u64) -> u64 {
        let mut hasher = StackHasher::new(0);
        hasher.push(0x5555_0000_1000 + 4 * n);
        hasher.finish().0
    }

    #[test]
    fn as_many_stacks_fit_as_were_asked_for_and_stay_where_they_are() {
        for stacks in [1, 64, 10_000, 500_000] {
            let table = table(stacks);
            let places: Vec<u64> =
                (0..u64::from(stacks)).map(|n| find_or_claim(&table, id(n))).collect();
            let lost = places.iter().filter(|place| **place == NOWHERE).count();
            // One in 10,000 may find its sixteen places taken.
            assert!(lost as u32 <= stacks / 10_000, "{lost} of {stacks}");
            for (n, place) in places.iter().enumerate().filter(|(_, place)| **place != NOWHERE) {
                assert_ne!(*place, 0, "the unknown stack's");
                assert_eq!(find_or_claim(&table, id(n as u64)), *place);
            }
        }
    }

    #[test]
    fn two_threads_find_one_stack_in_one_place() {
        let table = table(20_000);
        let find_all = || -> HashMap<u64, u64> {
            (0..20_000).map(|n| (n, find_or_claim(&table, id(n)))).collect()
        };
        let (one, other) = std::thread::scope(|scope| {
            let one = scope.spawn(find_all);
            (find_all(), one.join().unwrap())
        });
        assert_eq!(one, other);
    }

    #[test]
    fn a_full_table_says_so() {
        let table = table(1);
        let found = (0..100).filter(|n| find_or_claim(&table, id(*n)) != NOWHERE).count();
        assert!(found < table.0.len());
        assert_eq!(handle(index_of(u32::MAX), generation_of(u32::MAX)), u32::MAX);
    }
}
