//! Whether a function only wraps another that has a probe.

use std::collections::{HashMap, HashSet};

use super::allocators::{CATALOGUE, Entry};
use super::decode::{self, Machine, Transfer};
use super::elf::{Elf, ElfError, Function};
use super::sites::LONGEST_FUNCTION;

/// The ways out of a function that lead to another function of the catalogue.
pub(super) struct Route {
    addresses: HashSet<u64>,
    slots: HashMap<u64, String>,
}

impl Route {
    pub(super) fn through(
        elf: &Elf<'_>,
        functions: &[(&'static Entry, Function)],
    ) -> Result<Self, ElfError> {
        let named = |name: &str| CATALOGUE.iter().any(|entry| entry.name == name);
        Ok(Self {
            addresses: functions.iter().map(|(_, f)| f.address).collect(),
            slots: elf.slots(named)?,
        })
    }

    pub(super) fn is_taken_by(&self, elf: &Elf<'_>, function: &Function) -> bool {
        let size = function.size.clamp(1, LONGEST_FUNCTION);
        let Ok(code) = elf.code(function.address, size) else { return false };
        decode::transfers(Machine::HOST, &code, function.address).into_iter().any(|transfer| {
            match transfer {
                Transfer::Slot(slot) => self.slots.contains_key(&slot),
                Transfer::Direct(to) => {
                    let stub = elf.code(to, 32).unwrap_or_default();
                    self.addresses.contains(&to)
                        || decode::plt_slot(Machine::HOST, &stub, to)
                            .is_some_and(|slot| self.slots.contains_key(&slot))
                }
            }
        })
    }
}
