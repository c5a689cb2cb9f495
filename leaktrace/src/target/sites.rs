//! Where in a function its probes go.

use leaktrace_ebpf::cookie::{Kind, NO_ARGUMENT, Signature};

use super::allocators::Entry;
use super::decode::{self, Machine, Need, Placement};
use super::elf::{Elf, Function};
use super::tails::{self, Bounds};

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
    /// Notes a call of an operator that only calls another function.
    Operator,
}

impl Role {
    /// As the reports write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::AllocEntry => "alloc-entry",
            Self::AllocReturn => "alloc-return",
            Self::Free => "free",
            Self::Operator => "operator",
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

/// The probes of a function of the catalogue.
pub(super) fn sites(
    bounds: &Bounds<'_, '_>,
    entry: &Entry,
    function: &Function,
) -> Result<Vec<RoleSite>, String> {
    sites_of(bounds, entry.signature, entry.throws, function)
}

/// The probes of any function: returns first, so that no entry is ever without its return.
pub(super) fn sites_of(
    bounds: &Bounds<'_, '_>,
    signature: Signature,
    throws: bool,
    function: &Function,
) -> Result<Vec<RoleSite>, String> {
    let elf = bounds.elf;
    let size = match function.size {
        0 => UNKNOWN_FUNCTION,
        size => size.min(LONGEST_FUNCTION),
    };
    let code = elf.code(function.address, size).map_err(|e| e.to_string())?;
    let place = |role, on_return_instruction, site: decode::Site| {
        let file_offset = function.address.wrapping_add(site.offset);
        let file_offset =
            elf.file_offset(file_offset).ok_or("its code lies outside of the file")?;
        Ok::<_, String>(RoleSite { role, on_return_instruction, site, file_offset })
    };
    let entry_site = entry_site(signature, &code, function.address)?;
    if signature.kind == Kind::Free {
        return Ok(vec![place(Role::Free, false, entry_site)?]);
    }
    let mut sites = Vec::new();
    if throws {
        if function.size == 0 || function.size > LONGEST_FUNCTION {
            return Err("an exception may pass through it, and its size is not known".to_owned());
        }
        let exits = tails::exits(bounds, function, code)
            .map_err(|why| format!("an exception may pass through it, and {why}"))?;
        for exit in exits {
            // What it jumps to may lie in front of it: the offset then wraps around.
            let site = decode::Site {
                offset: exit.address.wrapping_sub(function.address),
                instruction: exit.instruction,
                emulated: exit.emulated,
            };
            sites.push(place(Role::AllocReturn, true, site)?);
        }
    } else {
        sites.push(place(Role::AllocReturn, false, entry_site.clone())?);
    }
    sites.push(place(Role::AllocEntry, false, entry_site)?);
    Ok(sites)
}

/// The probe at the entry of an operator that only calls another function.
pub(super) fn operator_site(
    elf: &Elf<'_>,
    entry: &Entry,
    function: &Function,
) -> Result<RoleSite, String> {
    let size = function.size.clamp(UNKNOWN_FUNCTION, LONGEST_FUNCTION);
    let code = elf.code(function.address, size).map_err(|e| e.to_string())?;
    let pointer = entry.signature.pointer;
    let need = Need {
        arguments: if pointer == NO_ARGUMENT { &[] } else { &[pointer] },
        return_probe: true,
        ignore_when_zero: None,
    };
    let site = match decode::place(Machine::HOST, &code, function.address, &need) {
        Placement::At(site) => site,
        Placement::Refused(why) => return Err(why),
    };
    let file_offset = function
        .address
        .checked_add(site.offset)
        .and_then(|address| elf.file_offset(address))
        .ok_or("its code lies outside of the file")?;
    Ok(RoleSite { role: Role::Operator, on_return_instruction: false, site, file_offset })
}

fn entry_site(signature: Signature, code: &[u8], address: u64) -> Result<decode::Site, String> {
    let arguments: Vec<u8> = [signature.size, signature.count, signature.pointer, signature.out]
        .into_iter()
        .filter(|&argument| argument != NO_ARGUMENT)
        .collect();
    let frees = signature.kind == Kind::Free;
    let need = Need {
        arguments: &arguments,
        // The handlers look at the return address too.
        return_probe: true,
        ignore_when_zero: frees.then_some(signature.pointer),
    };
    match decode::place(Machine::HOST, code, address, &need) {
        Placement::At(site) => Ok(site),
        Placement::Refused(why) => Err(why),
    }
}
