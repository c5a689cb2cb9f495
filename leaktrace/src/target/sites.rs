//! Where in a function its probes go.

use leaktrace_ebpf::cookie::{Kind, NO_ARGUMENT, Signature};

use super::allocators::{self, Entry};
use super::decode::{self, Machine, Need, Part, Placement};
use super::elf::{Elf, Function};

/// The most code of one function that is decoded, in bytes.
pub(super) const LONGEST_FUNCTION: u64 = 64 << 10;
/// What is decoded of a function whose symbol gives no size, in bytes.
const UNKNOWN_FUNCTION: u64 = 64;

/// What a probe is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Notes the arguments of an allocation.
    AllocEntry,
    /// Books the new block.
    AllocReturn,
    /// Books a free.
    Free,
}

impl Role {
    /// As the reports write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::AllocEntry => "alloc-entry",
            Self::AllocReturn => "alloc-return",
            Self::Free => "free",
        }
    }
}

/// A place in a function for a probe of one role.
pub(super) struct RoleSite {
    pub(super) role: Role,
    pub(super) on_return_instruction: bool,
    pub(super) site: decode::Site,
    pub(super) file_offset: u64,
}

/// The probes of one function: returns first, so that no entry is ever without its return.
pub(super) fn sites(
    elf: &Elf<'_>,
    entry: &Entry,
    function: &Function,
    cold: &[Function],
) -> Result<Vec<RoleSite>, String> {
    let size = match function.size {
        0 => UNKNOWN_FUNCTION,
        size => size.min(LONGEST_FUNCTION),
    };
    let code = elf.code(function.address, size).map_err(|e| e.to_string())?;
    let place = |role, on_return_instruction, site: decode::Site| {
        let file_offset = function
            .address
            .checked_add(site.offset)
            .and_then(|address| elf.file_offset(address))
            .ok_or("its code lies outside of the file")?;
        Ok::<_, String>(RoleSite { role, on_return_instruction, site, file_offset })
    };
    let entry_site = entry_site(entry.signature, &code, function.address)?;
    if entry.signature.kind == Kind::Free {
        return Ok(vec![place(Role::Free, false, entry_site)?]);
    }
    let mut sites = Vec::new();
    if entry.throws {
        if function.size == 0 || function.size > LONGEST_FUNCTION {
            return Err("an exception may pass through it, and its size is not known".to_owned());
        }
        let cold = cold_parts(elf, entry, cold);
        let exits = decode::exits(Machine::HOST, &code, function.address, &cold)
            .map_err(|why| format!("an exception may pass through it, and {why}"))?;
        for exit in exits {
            sites.push(place(Role::AllocReturn, true, exit)?);
        }
    } else {
        sites.push(place(Role::AllocReturn, false, entry_site.clone())?);
    }
    sites.push(place(Role::AllocEntry, false, entry_site)?);
    Ok(sites)
}

/// The cold parts of a function; one that cannot be read is none, and a jump to it leads elsewhere.
fn cold_parts(elf: &Elf<'_>, entry: &Entry, cold: &[Function]) -> Vec<Part> {
    cold.iter()
        .filter(|part| allocators::cold_part_of(&part.name).is_some_and(|e| e.name == entry.name))
        .filter(|part| part.size <= LONGEST_FUNCTION)
        .filter_map(|part| {
            let code = elf.code(part.address, part.size).ok()?;
            Some(Part { address: part.address, code })
        })
        .collect()
}

fn entry_site(signature: Signature, code: &[u8], address: u64) -> Result<decode::Site, String> {
    let arguments: Vec<u8> = [signature.size, signature.count, signature.pointer, signature.out]
        .into_iter()
        .filter(|&argument| argument != NO_ARGUMENT)
        .collect();
    let frees = signature.kind == Kind::Free;
    let need = Need {
        arguments: &arguments,
        return_probe: !frees,
        ignore_when_zero: frees.then_some(signature.pointer),
    };
    match decode::place(Machine::HOST, code, address, &need) {
        Placement::At(site) => Ok(site),
        Placement::Refused(why) => Err(why),
    }
}
