//! Whether a function only wraps another that has a probe.

use std::collections::HashMap;

use super::allocators::{self, Entry, Family};
use super::decode::{self, Machine, Transfer};
use super::elf::{Elf, ElfError, Function};
use super::sites::LONGEST_FUNCTION;

/// How many functions lie at most between Rust's global allocator and what it is made of.
const DEEPEST: usize = 3;
/// So many ways out of each of these are followed.
const MOST_WAYS: usize = 16;
/// So much of the code of each is looked at, in bytes.
const HELPER: u64 = 512;

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
            return self.behind_rust(elf, &code, function.address, entry.frees(), DEEPEST);
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

    /// Whether a function calls another of the catalogue, which may do for it what it is asked for.
    pub(super) fn calls_another(&self, elf: &Elf<'_>, entry: &Entry, at: &Function) -> bool {
        let Some(code) = code_of(elf, at) else { return false };
        let transfers = decode::transfers(Machine::HOST, &code, at.address);
        let is_alike = |to| self.entry_at(elf, to).is_some_and(|e| e.frees() == entry.frees());
        transfers.into_iter().any(is_alike)
    }

    /// What each way through Rust's global allocator leads to: another allocator's functions.
    fn behind_rust(
        &self,
        elf: &Elf<'_>,
        code: &[u8],
        address: u64,
        frees: bool,
        depth: usize,
    ) -> Option<&'static Entry> {
        let transfers = decode::transfers(Machine::HOST, code, address);
        let is_alike =
            |entry: &&'static Entry| entry.family != Family::Rust && entry.frees() == frees;
        let known = |&to: &Transfer| {
            let found = self.entry_at(elf, to).filter(is_alike);
            let (None, Transfer::Direct(to), true) = (found, to, depth > 0) else { return found };
            let code = elf.code(to, HELPER).ok()?;
            self.behind_rust(elf, &code, to, frees, depth - 1)
        };
        let known: HashMap<Transfer, &'static Entry> =
            transfers.iter().take(MOST_WAYS).filter_map(|to| Some((*to, known(to)?))).collect();
        decode::forwards(Machine::HOST, code, address, |to| known.contains_key(&to))
            .then(|| transfers.iter().find_map(|to| known.get(to).copied()))
            .flatten()
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
