//! How much of a target's files may be read to plan probes: a target may map thousands of files
//! that are made to keep a reader busy.

use std::cell::Cell;

/// What may be read of all files of one plan together, in bytes.
const PLAN: u64 = 2 << 30;

/// The bytes that may still be read.
#[derive(Debug)]
pub struct Budget {
    left: Cell<u64>,
}

impl Budget {
    /// A budget of so many bytes.
    pub fn of(bytes: u64) -> Self {
        Self { left: Cell::new(bytes) }
    }

    /// What the files of one address space may take together.
    pub fn for_plan() -> Self {
        Self::of(PLAN)
    }

    /// Takes `bytes` out; false when there are not as many, and then takes none.
    pub fn take(&self, bytes: u64) -> bool {
        let rest = self.left.get().checked_sub(bytes);
        if let Some(rest) = rest {
            self.left.set(rest);
        }
        rest.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_taken_than_there_is() {
        let budget = Budget::of(10);
        assert!(budget.take(4) && !budget.take(7) && budget.take(6) && !budget.take(1));
        assert!(budget.take(0));
    }
}
