//! Whether a function only wraps another that has a probe.

use std::collections::HashMap;

use super::allocators::{self, Entry, Family};
use super::decode::{self, Machine, Transfer};
use super::elf::{Elf, ElfError, Function};
use super::sites::LONGEST_FUNCTION;

/// How many functions lie at most between Rust's global allocator and what it is made of.
const DEEPEST: usize = 3;

/// The ways out of a function that lead to another function of the catalogue.
pub(super) struct Route {
    addresses: HashMap<u64, &'static Entry>,
    slots: HashMap<u64, String>,
}

impl Route {
    pub(super) fn through(
        elf: &Elf<'_>,
        functions: &[(&'static Entry, Function)],
    ) -> Result<Self, ElfError> {
        let mut addresses = HashMap::new();
        for (entry, function) in functions {
            addresses.entry(function.address).or_insert(*entry);
        }
        Ok(Self { addresses, slots: elf.slots(|name| allocators::find(name).is_some())? })
    }

    /// The function that this one hands its calls on to, if that is all it does.
    pub(super) fn covering(
        &self,
        elf: &Elf<'_>,
        entry: &Entry,
        function: &Function,
    ) -> Option<&'static Entry> {
        let code = code_of(elf, function)?;
        if entry.family == Family::Rust {
            return self.behind_rust(elf, &code, function.address, DEEPEST);
        }
        if let Some(target) = decode::stub_target(Machine::HOST, &code, function.address)
            .and_then(|jump| self.entry_at(elf, jump))
            .filter(|target| is_called_alike(entry, target))
        {
            return Some(target);
        }
        if !entry.wraps {
            return None;
        }
        let known = |transfer| self.entry_at(elf, transfer).filter(|t| t.frees() == entry.frees());
        if !decode::forwards(Machine::HOST, &code, function.address, |to| known(to).is_some()) {
            return None;
        }
        decode::transfers(Machine::HOST, &code, function.address).into_iter().find_map(known)
    }

    /// Whether any way out of a function leads to one that takes blocks.
    pub(super) fn leads_to_a_free(&self, elf: &Elf<'_>, function: &Function) -> bool {
        let Some(code) = code_of(elf, function) else { return false };
        let transfers = decode::transfers(Machine::HOST, &code, function.address);
        let frees = |transfer| self.entry_at(elf, transfer).is_some_and(Entry::frees);
        transfers.into_iter().any(frees)
    }

    /// What Rust's global allocator leads to: any function of another allocator.
    fn behind_rust(
        &self,
        elf: &Elf<'_>,
        code: &[u8],
        address: u64,
        depth: usize,
    ) -> Option<&'static Entry> {
        let transfers = decode::transfers(Machine::HOST, code, address);
        let is_other = |entry: &&'static Entry| entry.family != Family::Rust;
        let found = transfers.iter().find_map(|&to| self.entry_at(elf, to).filter(is_other));
        if found.is_some() || depth == 0 {
            return found;
        }
        transfers.into_iter().take(16).find_map(|transfer| {
            let Transfer::Direct(to) = transfer else { return None };
            let code = elf.code(to, 256).ok()?;
            self.behind_rust(elf, &code, to, depth - 1)
        })
    }

    fn entry_at(&self, elf: &Elf<'_>, transfer: Transfer) -> Option<&'static Entry> {
        let through = |slot: u64| Some(allocators::find(self.slots.get(&slot)?)?.1);
        match transfer {
            Transfer::Slot(slot) => through(slot),
            Transfer::Direct(to) => self.addresses.get(&to).copied().or_else(|| {
                let stub = elf.code(to, 32).ok()?;
                through(decode::plt_slot(Machine::HOST, &stub, to)?)
            }),
        }
    }
}

fn code_of(elf: &Elf<'_>, function: &Function) -> Option<Vec<u8>> {
    elf.code(function.address, function.size.clamp(1, LONGEST_FUNCTION)).ok()
}

/// Whether the same arguments mean the same to both.
fn is_called_alike(a: &Entry, b: &Entry) -> bool {
    let (a, b) = (a.signature, b.signature);
    (a.kind, a.size, a.count, a.pointer, a.out) == (b.kind, b.size, b.count, b.pointer, b.out)
}
