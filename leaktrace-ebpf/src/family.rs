//! Which frees go together with which allocations, and which call is part of which: what
//! `--check-frees` stands on.
//!
//! A family is eight bits: whose implementation, and which form of it ([`crate::cookie::Form`]).

use crate::{cookie::Form, records::Block};

/// A family that cannot be told: it goes together with any. No function has it: the user's own
/// allocators are another implementation's.
pub const UNSURE: u8 = 62 << 2 | Form::Own as u8;

const FORM: u8 = 3;

/// Whether a block of one family may be freed by another.
///
/// The operators of one program may lie in several files, one of which calls another: whose they
/// are says nothing.
#[inline(always)]
pub const fn go_together(block: u8, freeing: u8) -> bool {
    if block == freeing || block == UNSURE || freeing == UNSURE {
        return true;
    }
    let form = block & FORM;
    form == freeing & FORM && (form == Form::New as u8 || form == Form::NewArray as u8)
}

/// Whether a free that does not go together with its block is none the less right if it hands the
/// block on to one that does: that of a library which stands before another, or of a wrapper.
#[inline(always)]
pub const fn may_hand_on(block: u8, freeing: u8) -> bool {
    block & FORM == freeing & FORM || freeing & FORM == Form::Own as u8
}

/// Where a call was entered, and where it returns to.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Entered {
    /// The stack pointer at entry; 0 for no call.
    pub sp: u64,
    /// Where it returns to.
    pub return_address: u64,
}

impl Entered {
    /// Whether a call entered at `other` was jumped to by this one, as its last act.
    #[inline(always)]
    pub const fn jumped_to(&self, other: &Self) -> bool {
        self.sp != 0 && self.sp == other.sp && self.return_address == other.return_address
    }

    /// Whether a call entered at `other` may have been called by this one, if this one still
    /// stands: its frame would be below, and not further than `reach` bytes.
    #[inline(always)]
    pub const fn may_have_called(&self, other: &Self, reach: u64) -> bool {
        self.sp > other.sp && self.sp - other.sp <= reach
    }
}

/// So far below an operator's frame lies what it calls, in bytes.
pub const OPERATOR_REACH: u64 = 1024;

/// So far behind an operator's entry is the call that it is there for, in bytes.
pub const OPERATOR_CODE: u64 = 1024;

/// So far from a function that frees lies the code of the same allocator, in bytes: glibc's frees
/// what its caches hold, which is freed already, when a thread ends.
pub const ALLOCATOR_CODE: u64 = 16 << 10;

/// So far below the pointer that an operator is given may the block begin that it frees: a header
/// of its own, in bytes.
pub const HEADER_REACH: u64 = 1 << 16;

/// How many freed addresses are remembered: older ones are forgotten.
pub const REMEMBERED_FREES: u32 = 1 << 16;

/// How many different wrong frees are told apart.
pub const MAX_WRONG_FREES: u32 = 4096;

/// A block that was freed: a value of the map `FREED`, under [`crate::records::block_key`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Freed {
    /// The block; all 0 if it was not known.
    pub block: Block,
    /// The handle of the stack that freed it.
    pub stack: u32,
    /// The window of its target ([`crate::records::Target`]) in which that was; 0: the address was
    /// handed out since.
    pub window: u32,
    /// The function that freed it.
    pub by: u32,
    /// Zero.
    pub reserved: u32,
}
const _: () = assert!(size_of::<Freed>() == 32);

/// Freed before, and not handed out since.
pub const DOUBLE_FREE: u16 = 1;
/// Freed by another family than the one that it was allocated by.
pub const MISMATCHED_FREE: u16 = 2;

/// Wrong frees that look the same: a key of the map `WRONG_FREES`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WrongFree {
    /// The id of the stack that allocated the block; 0 if not known.
    pub allocated: u64,
    /// That of the stack that freed it.
    pub freed: u64,
    /// That of the stack that freed it again; 0 for a [`MISMATCHED_FREE`].
    pub freed_again: u64,
    /// [`DOUBLE_FREE`] or [`MISMATCHED_FREE`].
    pub what: u16,
    /// The slot of the target.
    pub slot: u16,
    /// The block's family.
    pub family: u16,
    /// The function that freed it.
    pub by: u16,
    /// The function that freed it again; 0 for a [`MISMATCHED_FREE`].
    pub again_by: u16,
    /// Zero.
    pub reserved: [u16; 3],
}
const _: () = assert!(size_of::<WrongFree>() == 40);

/// How many there were: a value of the map `WRONG_FREES`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WrongFrees {
    /// Frees.
    pub count: u64,
    /// The bytes of their blocks.
    pub bytes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn family(implementation: u8, form: Form) -> u8 {
        implementation << 2 | form as u8
    }

    #[test]
    fn a_block_goes_together_with_its_own_family_alone() {
        let malloc = family(0, Form::Plain);
        for (block, freeing, together) in [
            (malloc, malloc, true),
            (malloc, family(1, Form::Plain), false),
            (malloc, family(0, Form::New), false),
            (family(0, Form::New), malloc, false),
            (family(0, Form::New), family(0, Form::NewArray), false),
            (family(0, Form::NewArray), family(0, Form::New), false),
            (family(0, Form::New), family(7, Form::New), true),
            (family(1, Form::Own), malloc, false),
            (family(1, Form::Own), family(2, Form::Own), false),
            (family(1, Form::Own), family(1, Form::Own), true),
            (malloc, UNSURE, true),
            (UNSURE, malloc, true),
        ] {
            assert_eq!(go_together(block, freeing), together, "{block:#x} {freeing:#x}");
        }
    }

    #[test]
    fn only_a_wrapper_may_hand_on() {
        let malloc = family(0, Form::Plain);
        assert!(may_hand_on(malloc, family(1, Form::Plain)));
        assert!(may_hand_on(malloc, family(1, Form::Own)));
        assert!(!may_hand_on(malloc, family(1, Form::New)));
        assert!(!may_hand_on(family(1, Form::Own), malloc));
    }

    #[test]
    fn a_call_is_part_of_another_by_its_place_on_the_stack() {
        let outer = Entered { sp: 1000, return_address: 7 };
        assert!(outer.jumped_to(&Entered { sp: 1000, return_address: 7 }));
        assert!(!outer.jumped_to(&Entered { sp: 1000, return_address: 8 }), "the next call");
        assert!(!Entered::default().jumped_to(&Entered::default()), "no call at all");
        let below = |sp| outer.may_have_called(&Entered { sp, return_address: 9 }, 100);
        assert!(below(999) && below(900));
        assert!(!below(899) && !below(1000) && !below(1001));
    }
}
