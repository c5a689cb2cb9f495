//! What the ledger held at one moment.

use std::collections::HashMap;

use super::ids::{CodeAddr, Slot, StackId};

/// What was allocated and freed. Outstanding is the difference.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Bytes allocated.
    pub allocated_bytes: u64,
    /// Blocks allocated.
    pub allocated_blocks: u64,
    /// Bytes of those that were freed.
    pub freed_bytes: u64,
    /// Blocks of those that were freed.
    pub freed_blocks: u64,
}

impl Totals {
    /// Bytes allocated and not freed.
    pub fn outstanding_bytes(&self) -> u64 {
        // The four counters are read one after another while the target runs on.
        self.allocated_bytes.saturating_sub(self.freed_bytes)
    }

    /// Blocks allocated and not freed.
    pub fn outstanding_blocks(&self) -> u64 {
        self.allocated_blocks.saturating_sub(self.freed_blocks)
    }
}

impl std::ops::AddAssign for Totals {
    fn add_assign(&mut self, other: Self) {
        self.allocated_bytes += other.allocated_bytes;
        self.allocated_blocks += other.allocated_blocks;
        self.freed_bytes += other.freed_bytes;
        self.freed_blocks += other.freed_blocks;
    }
}

/// All stacks' totals at one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Seconds since tracing began.
    pub at_s: f64,
    /// By stack.
    pub stacks: HashMap<StackId, Totals>,
}

/// Why a stack ends where it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ending {
    /// It reaches the thread's start.
    Complete,
    /// It has more frames than are kept.
    Depth,
    /// The caller of the last frame could not be found.
    Lost,
    /// The last frame lies in code that was not known to the unwinder.
    Unmapped,
}

/// The frames of a stack as the kernel half sent them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StackFrames {
    /// The address space they are addresses of.
    pub slot: Slot,
    /// Leaf first.
    pub frames: Box<[CodeAddr]>,
    /// Why there are no more.
    pub ending: Ending,
}
