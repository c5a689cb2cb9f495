//! The rules of the ledger: what an allocation, a free and a reallocation do to the live blocks,
//! the totals of their stacks and the counters.
//!
//! The kernel half runs these functions over BPF maps, the tests run them over `HashMap`s.

use crate::calls::{HAS_OLD, OpenCall};
use crate::records::{Block, Counter};

/// What became of a block that was put into the map of live blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Put {
    /// It is there.
    New,
    /// It is there, in the place of another with the same address.
    Replaced,
    /// The map is full.
    Full,
}

/// Where live blocks, totals and counters are kept.
pub trait Store {
    /// Removes the block under `key` into `block`; false when there is none.
    fn take_block(&mut self, key: u64, block: &mut Block) -> bool;
    /// Stores `block`; a block that it replaces goes to `replaced`.
    fn put_block(&mut self, key: u64, block: &Block, replaced: &mut Block) -> Put;
    /// Adds a block of `bytes` to what the stack has allocated, as what it stands for.
    fn book_allocated(&mut self, stack: u32, bytes: u64);
    /// Adds a block of `bytes` to what was freed of it.
    fn book_freed(&mut self, stack: u32, bytes: u64);
    /// How a free of a block that is not known counts.
    fn unknown_free(&self) -> Counter;
    /// Adds `n` to a counter.
    fn count(&mut self, counter: Counter, n: u64);
}

/// A block was handed out.
///
/// Blocks born before `since` don't count any more.
#[inline(always)]
pub fn allocated<S: Store>(store: &mut S, key: u64, block: &Block, since: u32) {
    let mut replaced = Block::default();
    store.count(Counter::Allocs, 1);
    let put = store.put_block(key, block, &mut replaced);
    if put as u32 == Put::Full as u32 {
        // Its free will not be known either, so it must not be booked.
        store.count(Counter::LostBlocksFull, 1);
        store.count(Counter::LostBlocksFullBytes, block.size());
        return;
    }
    if put as u32 == Put::Replaced as u32 {
        store.count(Counter::Reappeared, 1);
        if replaced.born >= since {
            store.book_freed(replaced.stack, replaced.size());
        }
    }
    store.book_allocated(block.stack, block.size());
}

/// A block is about to be given back.
#[inline(always)]
pub fn freed<S: Store>(store: &mut S, key: u64, since: u32) {
    if !freed_if_known(store, key, since) {
        unknown_freed(store);
    }
}

/// A block is about to be given back that is not known.
#[inline(always)]
pub fn unknown_freed<S: Store>(store: &mut S) {
    store.count(store.unknown_free(), 1);
}

/// The same if the block is known; false, and nothing is counted, if it is not.
#[inline(always)]
pub fn freed_if_known<S: Store>(store: &mut S, key: u64, since: u32) -> bool {
    freed_block(store, key, since, &mut Block::default())
}

/// As [`freed_if_known`]; `block` is the one.
#[inline(always)]
pub fn freed_block<S: Store>(store: &mut S, key: u64, since: u32, block: &mut Block) -> bool {
    if !store.take_block(key, block) {
        return false;
    }
    if block.born >= since {
        store.count(Counter::MatchedFrees, 1);
        store.book_freed(block.stack, block.size());
    } else {
        unknown_freed(store);
    }
    true
}

/// A reallocation begins: its old block leaves the map at once, since another thread may be given
/// the same address before the call returns.
#[inline(always)]
pub fn reallocation_begins<S: Store>(store: &mut S, key: u64, since: u32, call: &mut OpenCall) {
    let mut block = Block::default();
    if store.take_block(key, &mut block) && block.born >= since {
        call.old = block;
        call.flags |= HAS_OLD;
    }
}

/// A reallocation succeeded: the old block is gone (a new one, if any, is booked by
/// [`allocated`]).
#[inline(always)]
pub fn reallocation_succeeds<S: Store>(store: &mut S, call: &OpenCall) {
    if call.pointer == 0 {
        return;
    }
    if call.flags & HAS_OLD != 0 {
        store.count(Counter::MatchedFrees, 1);
        store.book_freed(call.old.stack, call.old.size());
    } else {
        store.count(store.unknown_free(), 1);
    }
}

/// A reallocation failed, or never returned: the old block lives on.
#[inline(always)]
pub fn reallocation_fails<S: Store>(store: &mut S, key: u64, call: &OpenCall) {
    if call.flags & HAS_OLD == 0 {
        return;
    }
    let mut replaced = Block::default();
    let put = store.put_block(key, &call.old, &mut replaced);
    if put as u32 == Put::Full as u32 {
        store.count(Counter::LostBlocksFull, 1);
        store.count(Counter::LostBlocksFullBytes, call.old.size());
        store.book_freed(call.old.stack, call.old.size());
    } else if put as u32 == Put::Replaced as u32 {
        store.count(Counter::Reappeared, 1);
        store.book_freed(replaced.stack, replaced.size());
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;
    use crate::records::{COUNTER_COUNT, StackTotals};

    /// The maps of the kernel half, as the host has them.
    struct Maps {
        blocks: HashMap<u64, Block>,
        capacity: usize,
        stacks: HashMap<u32, StackTotals>,
        counters: [u64; COUNTER_COUNT],
    }

    impl Maps {
        fn new(capacity: usize) -> Self {
            Self {
                blocks: HashMap::new(),
                capacity,
                stacks: HashMap::new(),
                counters: [0; COUNTER_COUNT],
            }
        }

        fn get(&self, counter: Counter) -> u64 {
            self.counters[counter as usize]
        }

        fn outstanding(&self) -> (u64, u64) {
            self.stacks.values().fold((0, 0), |(bytes, blocks), t| {
                (
                    bytes + t.allocated_bytes - t.freed_bytes,
                    blocks + t.allocated_blocks - t.freed_blocks,
                )
            })
        }
    }

    impl Store for Maps {
        fn take_block(&mut self, key: u64, block: &mut Block) -> bool {
            match self.blocks.remove(&key) {
                Some(taken) => {
                    *block = taken;
                    true
                }
                None => false,
            }
        }

        fn put_block(&mut self, key: u64, block: &Block, replaced: &mut Block) -> Put {
            if let Some(old) = self.blocks.get_mut(&key) {
                *replaced = *old;
                *old = *block;
                return Put::Replaced;
            }
            if self.blocks.len() >= self.capacity {
                return Put::Full;
            }
            self.blocks.insert(key, *block);
            Put::New
        }

        fn book_allocated(&mut self, stack: u32, bytes: u64) {
            let totals = self.stacks.entry(stack).or_default();
            totals.allocated_bytes += bytes;
            totals.allocated_blocks += 1;
        }

        fn book_freed(&mut self, stack: u32, bytes: u64) {
            let totals = self.stacks.entry(stack).or_default();
            totals.freed_bytes += bytes;
            totals.freed_blocks += 1;
        }

        fn unknown_free(&self) -> Counter {
            Counter::UnknownFrees
        }

        fn count(&mut self, counter: Counter, n: u64) {
            self.counters[counter as usize] += n;
        }
    }

    /// What a program can do with its heap.
    #[derive(Clone, Debug)]
    enum Op {
        Allocate { address: u64, size: u64, stack: u32 },
        Free { address: u64 },
        Reallocate { from: u64, to: u64, size: u64, stack: u32 },
        FailToReallocate { from: u64, size: u64 },
        ReallocateToNothing { from: u64 },
        AbandonReallocation { from: u64 },
    }

    fn op() -> impl Strategy<Value = Op> {
        let address = 1..40u64;
        let size = 0..5000u64;
        let stack = 1..5u32;
        prop_oneof![
            (address.clone(), size.clone(), stack.clone())
                .prop_map(|(address, size, stack)| Op::Allocate { address, size, stack }),
            address.clone().prop_map(|address| Op::Free { address }),
            (address.clone(), address.clone(), size.clone(), stack)
                .prop_map(|(from, to, size, stack)| Op::Reallocate { from, to, size, stack }),
            (address.clone(), 1..5000u64)
                .prop_map(|(from, size)| Op::FailToReallocate { from, size }),
            address.clone().prop_map(|from| Op::ReallocateToNothing { from }),
            address.prop_map(|from| Op::AbandonReallocation { from }),
        ]
    }

    fn run(maps: &mut Maps, op: &Op) {
        let begin = |maps: &mut Maps, from: u64, size: u64| {
            let mut call = OpenCall { size, pointer: from, ..OpenCall::default() };
            reallocation_begins(maps, from, 0, &mut call);
            call
        };
        match *op {
            Op::Allocate { address, size, stack } => {
                allocated(maps, address, &Block::new(size, 0, stack, 1), 0);
            }
            Op::Free { address } => freed(maps, address, 0),
            Op::Reallocate { from, to, size, stack } => {
                let call = begin(maps, from, size);
                reallocation_succeeds(maps, &call);
                allocated(maps, to, &Block::new(size, 0, stack, 1), 0);
            }
            Op::FailToReallocate { from, size } => {
                let call = begin(maps, from, size);
                reallocation_fails(maps, from, &call);
            }
            Op::ReallocateToNothing { from } => {
                let call = begin(maps, from, 0);
                reallocation_succeeds(maps, &call);
            }
            Op::AbandonReallocation { from } => {
                let call = begin(maps, from, 7);
                reallocation_fails(maps, from, &call);
            }
        }
    }

    proptest! {
        /// The ledger agrees with the plainest bookkeeping there is: a map from address to
        /// (size, stack), and nothing else.
        #[test]
        fn the_ledger_agrees_with_a_naive_model(ops in prop::collection::vec(op(), 0..300)) {
            let mut maps = Maps::new(usize::MAX);
            let mut model: HashMap<u64, (u64, u32)> = HashMap::new();
            for op in &ops {
                run(&mut maps, op);
                match *op {
                    Op::Allocate { address, size, stack } => {
                        model.insert(address, (size, stack));
                    }
                    Op::Free { address } => {
                        model.remove(&address);
                    }
                    Op::Reallocate { from, to, size, stack } => {
                        model.remove(&from);
                        model.insert(to, (size, stack));
                    }
                    Op::ReallocateToNothing { from } => {
                        model.remove(&from);
                    }
                    Op::FailToReallocate { .. } | Op::AbandonReallocation { .. } => {}
                }
            }
            let live: HashMap<u64, (u64, u32)> =
                maps.blocks.iter().map(|(k, b)| (*k, (b.size(), b.stack))).collect();
            prop_assert_eq!(&live, &model);
            for stack in 1..5u32 {
                let of_stack: Vec<u64> =
                    model.values().filter(|v| v.1 == stack).map(|v| v.0).collect();
                let totals = maps.stacks.get(&stack).copied().unwrap_or_default();
                prop_assert_eq!(
                    totals.allocated_bytes - totals.freed_bytes,
                    of_stack.iter().sum::<u64>()
                );
                prop_assert_eq!(
                    totals.allocated_blocks - totals.freed_blocks,
                    of_stack.len() as u64
                );
            }
            let frees = ops.iter().filter(|op| {
                matches!(op, Op::Free { .. } | Op::Reallocate { .. } | Op::ReallocateToNothing { .. })
            });
            prop_assert_eq!(
                frees.count() as u64,
                maps.get(Counter::MatchedFrees) + maps.get(Counter::UnknownFrees)
            );
            prop_assert_eq!(
                maps.get(Counter::Allocs) - maps.get(Counter::MatchedFrees)
                    - maps.get(Counter::Reappeared),
                model.len() as u64
            );
        }

        /// With a full map, blocks are lost and counted, and the totals still are exactly what
        /// the map holds: nothing is blamed that isn't known to live.
        #[test]
        fn a_full_map_loses_and_counts(ops in prop::collection::vec(op(), 0..300)) {
            let mut maps = Maps::new(5);
            for op in &ops {
                run(&mut maps, op);
            }
            let held: u64 = maps.blocks.values().map(|b| b.size()).sum();
            prop_assert_eq!(maps.outstanding(), (held, maps.blocks.len() as u64));
            prop_assert_eq!(
                maps.get(Counter::Allocs),
                maps.get(Counter::LostBlocksFull) + maps.get(Counter::MatchedFrees)
                    + maps.get(Counter::Reappeared) + maps.blocks.len() as u64
            );
        }
    }

    #[test]
    fn blocks_from_before_the_trace_are_nobodys() {
        let mut maps = Maps::new(10);
        allocated(&mut maps, 1, &Block::new(10, 0, 1, 5), 0);
        maps.stacks.clear();
        freed(&mut maps, 1, 6);
        assert_eq!(maps.get(Counter::UnknownFrees), 1);
        assert!(maps.stacks.is_empty(), "its totals went with the old count");
    }
}
