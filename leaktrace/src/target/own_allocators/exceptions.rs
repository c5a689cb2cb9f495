//! May an exception pass through a function that the user names? One that meets a return probe ends the
//! process, so where it is not known the answer is yes.

use super::names::is_mangled;
use super::{Exceptions, OwnFunction, Place};
use crate::target::decode::{self, Machine, Part};
use crate::target::elf::Function;
use crate::target::sites::{LONGEST_FUNCTION, RoleSite, sites_of};
use crate::target::tails::Bounds;

/// The probes of a function through which exceptions may pass or not.
///
/// # Errors
///
/// Why it gets none.
pub(super) fn sites(
    bounds: &Bounds<'_, '_>,
    own: &OwnFunction,
    throws: bool,
    function: &Function,
) -> Result<Vec<RoleSite>, String> {
    match sites_of(bounds, own.signature, throws, function) {
        Err(why)
            if own.exceptions == Exceptions::NotSaid
                && throws
                && sites_of(bounds, own.signature, false, function).is_ok() =>
        {
            Err(format!("{why}: if none can, say so by the key `nothrow`"))
        }
        sites => sites,
    }
}

/// Whether an exception may pass through a function.
pub(super) fn may_pass(bounds: &Bounds<'_, '_>, own: &OwnFunction, function: &Function) -> bool {
    match own.exceptions {
        // A free has no return probe.
        _ if own.frees() => false,
        Exceptions::Pass => true,
        Exceptions::Never => false,
        Exceptions::NotSaid => {
            // A function of C is taken to be one of C.
            let is_of_any_language =
                is_mangled(&function.name) || matches!(own.place, Place::Address { .. });
            is_of_any_language
                && !bounds.stops_exceptions(function.address)
                && !is_leaf(bounds, function)
        }
    }
}

fn is_leaf(bounds: &Bounds<'_, '_>, function: &Function) -> bool {
    let Function { address, size, .. } = *function;
    if !(1..=LONGEST_FUNCTION).contains(&size) {
        return false;
    }
    let Ok(code) = bounds.elf.code(address, size) else { return false };
    // A symbol's size may reach behind the end of all code.
    code.len() as u64 == size && decode::is_leaf(Machine::HOST, &Part { address, code })
}
