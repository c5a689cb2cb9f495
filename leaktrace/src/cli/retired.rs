//! Targets that have ended and make room: a group of processes may see any number come and go.

use std::collections::VecDeque;

use anyhow::Result;

use super::session::Session;
use crate::model::Slot;

/// So many that have ended stay in the report; of more, the first are dropped.
const MOST_ENDED: usize = 64;

/// What is left of targets that were dropped.
#[derive(Default)]
pub struct Retired {
    count: u64,
    cpu_s: f64,
    were_out: bool,
    /// Slots that are nobody's any more, the longest free first.
    slots: VecDeque<Slot>,
}

impl Retired {
    /// A slot that was another's.
    pub fn take_slot(&mut self) -> Option<Slot> {
        self.slots.pop_front()
    }

    /// A slot was not needed.
    pub fn give_back(&mut self, slot: Slot) {
        self.slots.push_back(slot);
    }

    /// Whether there are any.
    pub fn is_none(&self) -> bool {
        self.count == 0
    }

    /// CPU seconds that they used while they were traced.
    pub fn cpu_s(&self) -> f64 {
        self.cpu_s
    }

    /// Whether there is time in which one of them was not traced, for the budget's sake.
    pub fn were_out(&self) -> bool {
        self.were_out
    }

    /// What is to be said of them.
    pub fn note(&self) -> Option<String> {
        (self.count > 0).then(|| {
            format!(
                "{} of the processes that have ended are in the figures no more, but for what was \
                 seen and lost: the report keeps {MOST_ENDED} of them",
                self.count
            )
        })
    }
}

impl Session {
    /// Drops the targets that ended first, should there be too many.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub(super) fn retire(&mut self) -> Result<()> {
        while self.targets.iter().filter(|target| target.ended).count() > MOST_ENDED {
            let Some(first) = self.targets.iter().position(|target| target.ended) else { break };
            let mut target = self.targets.remove(first);
            drop(target.take_probes());
            let stacks = self.ledger.forget(target.slot);
            self.maps.purge(target.slot, &stacks)?;
            self.mappings.known.forget(target.slot);
            self.retired.count += 1;
            self.retired.cpu_s += target.cpu_s();
            self.retired.were_out |= target.was_out() || target.known.was_out;
            // Wrong frees are known by slots until the end.
            if !self.args.check_frees {
                self.retired.give_back(target.slot);
            }
            target.space.retire(&mut self.unwinding);
        }
        Ok(())
    }
}
