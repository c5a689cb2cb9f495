//! The processes that the kernel half follows: which slots they have, and which slots are free.

use anyhow::{Context, Result};
use aya::Ebpf;
use aya::maps::{Array, MapData, Queue};
use leaktrace_ebpf::records::{self, CHILD_LIVES, CHILD_NONE, MAX_TARGETS, NO_SLOT};

use super::maps::PlainData;
use crate::model::{Pid, Slot};

/// The maps of children.
pub struct Children {
    by_slot: Array<MapData, PlainData<records::Child>>,
    free: Queue<MapData, u32>,
}

impl Children {
    /// Takes the maps out of the loaded object; every slot is free.
    ///
    /// # Errors
    ///
    /// When the object lacks one, or the kernel refuses.
    pub fn take(ebpf: &mut Ebpf) -> Result<Self> {
        let mut take = |name: &'static str| {
            ebpf.take_map(name).with_context(|| format!("the BPF object lacks the map {name}"))
        };
        let by_slot = take("CHILDREN")?.try_into()?;
        let mut this = Self { by_slot, free: take("FREE_SLOTS")?.try_into()? };
        for slot in 0..MAX_TARGETS {
            this.free.push(slot, 0).context("cannot write the queue of free slots")?;
        }
        Ok(this)
    }

    /// A slot that was free; `None` when none is.
    pub fn take_slot(&mut self) -> Option<Slot> {
        Some(Slot(u16::try_from(self.free.pop(0).ok()?).ok()?))
    }

    /// Gives a slot back that nobody uses any more.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn give_back(&mut self, slot: Slot) -> Result<()> {
        self.set(slot, records::Child { state: CHILD_NONE, ..records::Child::default() })?;
        self.free.push(u32::from(slot.0), 0).context("cannot write the queue of free slots")
    }

    /// Has a process followed that is traced already: from its next exec on, and to its end.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn follow(&mut self, pid: Pid, slot: Slot) -> Result<()> {
        let (pid, origin) = (pid.get(), u32::from(slot.0));
        let child =
            records::Child { pid, origin, exited_ns: 0, state: CHILD_LIVES, parent: NO_SLOT };
        self.set(slot, child)
    }

    /// All slots that are in use by processes that are followed.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn all(&self) -> Result<Vec<(Slot, records::Child)>> {
        let mut all = Vec::new();
        for slot in 0..MAX_TARGETS as u16 {
            let child = self.get(Slot(slot))?;
            if child.state != CHILD_NONE {
                all.push((Slot(slot), child));
            }
        }
        Ok(all)
    }

    /// The process in a slot.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn get(&self, slot: Slot) -> Result<records::Child> {
        let child = self.by_slot.get(&u32::from(slot.0), 0);
        Ok(child.context("cannot read the map of children")?.0)
    }

    fn set(&mut self, slot: Slot, child: records::Child) -> Result<()> {
        self.by_slot
            .set(u32::from(slot.0), PlainData(child), 0)
            .context("cannot write the map of children")
    }
}
