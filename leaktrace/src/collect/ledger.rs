//! What userspace knows of the stacks: their frames by id, and the block ages of the last scan.

use std::collections::HashMap;

use anyhow::Result;

use super::clock;
use super::maps::KernelMaps;
use super::tables::whole_blocks;
use crate::model::{Slot, Snapshot, StackFrames, StackId, Totals};

/// The stacks that the kernel half has told of.
#[derive(Default)]
pub struct Ledger {
    stacks: HashMap<StackId, (u32, StackFrames)>,
    /// Stacks that came twice under one id with different frames.
    pub collisions: u64,
}

/// What the live blocks of one stack look like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlockAges {
    /// Bytes in blocks that are at least as old as was asked.
    pub bytes: u64,
    /// The number of those blocks.
    pub blocks: u64,
    /// Age of the oldest block, in nanoseconds.
    pub oldest_ns: u64,
    /// Bytes that all its blocks stand for, however old.
    pub all_bytes: u64,
    /// How many those are.
    pub samples: u64,
    /// Of those, the ones that stand for more than themselves.
    pub small_samples: u64,
    /// And their own bytes.
    pub small_bytes: u64,
}

impl Ledger {
    /// Takes in a stack: its id, its second hash, its frames.
    pub fn take(&mut self, id: StackId, check: u32, stack: StackFrames) {
        match self.stacks.get(&id) {
            None => {
                self.stacks.insert(id, (check, stack));
            }
            Some((known_check, known)) if *known_check != check || known.frames != stack.frames => {
                self.collisions += 1;
            }
            Some(_) => {}
        }
    }

    /// The frames of a stack; `None` if they never arrived.
    pub fn frames(&self, id: StackId) -> Option<&StackFrames> {
        self.stacks.get(&id).map(|(_, frames)| frames)
    }

    /// Forgets the stacks of an address space that is gone; returns which.
    pub fn forget(&mut self, slot: Slot) -> Vec<StackId> {
        self.stacks.extract_if(|_, (_, stack)| stack.slot == slot).map(|(id, _)| id).collect()
    }
}

/// All stacks' totals now; `at_s` is the time since the trace began.
///
/// # Errors
///
/// When the kernel refuses.
pub fn snapshot(maps: &KernelMaps, at_s: f64) -> Result<Snapshot> {
    let mut stacks = HashMap::new();
    maps.for_each_stack(|id, totals| {
        if totals.allocated_blocks != 0 {
            *stacks.entry(id).or_insert_with(Totals::default) += totals;
        }
    })?;
    Ok(Snapshot { at_s, stacks })
}

/// Looks at every live block: how old, and which are at least `min_age_ns` old. A block counts
/// as often as `weight` says, by the slot of its target and its birth.
///
/// # Errors
///
/// When the kernel refuses.
pub fn scan_ages(
    maps: &KernelMaps,
    min_age_ns: u64,
    weight: impl Fn(Slot, u64) -> f64,
) -> Result<HashMap<StackId, BlockAges>> {
    let now = clock::monotonic_ns();
    let mut ages: HashMap<StackId, BlockAges> = HashMap::new();
    maps.for_each_block(|_, slot, block| {
        let age = now.saturating_sub(block.born_ns);
        let of_stack = ages.entry(block.stack).or_default();
        of_stack.oldest_ns = of_stack.oldest_ns.max(age);
        if age >= min_age_ns {
            let weight = weight(slot, block.born_ns);
            let times = |amount: u64| (amount as f64 * weight).round() as u64;
            of_stack.bytes = of_stack.bytes.saturating_add(times(block.stands_for_bytes));
            of_stack.blocks = of_stack.blocks.saturating_add(times(block.stands_for_blocks));
        }
        of_stack.all_bytes = of_stack.all_bytes.saturating_add(block.stands_for_bytes);
        of_stack.samples += 1;
        if block.stands_for_bytes > block.size {
            of_stack.small_samples += 1;
            of_stack.small_bytes = of_stack.small_bytes.saturating_add(block.size);
        }
    })?;
    // Summed before they are rounded.
    ages.values_mut().for_each(|of_stack| of_stack.blocks = whole_blocks(of_stack.blocks));
    Ok(ages)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Addr, CodeAddr, Ending};

    fn stack(frame: u64) -> StackFrames {
        StackFrames {
            slot: Slot(0),
            frames: Box::new([CodeAddr::returning_to(Addr(frame))]),
            ending: Ending::Complete,
        }
    }

    #[test]
    fn two_stacks_under_one_id_are_seen() {
        let mut ledger = Ledger::default();
        ledger.take(StackId(1), 1, stack(10));
        ledger.take(StackId(1), 1, stack(10));
        assert_eq!(ledger.collisions, 0);
        ledger.take(StackId(1), 2, stack(11));
        assert_eq!(ledger.collisions, 1);
        assert_eq!(
            ledger.frames(StackId(1)).unwrap().frames[0].ip(),
            Addr(10),
            "never overwritten"
        );
        assert_eq!(ledger.forget(Slot(0)), [StackId(1)]);
        assert!(ledger.frames(StackId(1)).is_none());
    }
}
