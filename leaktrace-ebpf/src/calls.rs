//! The calls into allocators that a thread has open: entered, not yet returned.
//!
//! An allocation is booked when it returns, with what was noted when it was entered. Between the
//! two, an allocator may call its own entry points (`reallocarray` calls `realloc`), a signal
//! handler may allocate, and `longjmp` or an exception may leave the call for good. The stack
//! pointer tells which: a call whose stack pointer lies below the present one is gone, one with
//! an equal stack pointer at its return is the one that returns.

use crate::records::Block;

/// How deep calls may nest: an allocator interrupted by a signal handler that allocates,
/// interrupted again, and so on.
pub const MAX_OPEN_CALLS: usize = 4;
const INDEX_MASK: u32 = MAX_OPEN_CALLS as u32 - 1;
const _: () = assert!(MAX_OPEN_CALLS.is_power_of_two());

/// The call reallocates.
pub const REALLOCATES: u32 = 1;
/// `old` holds the block that went into a reallocation.
pub const HAS_OLD: u32 = 2;
/// A signal was delivered inside the call: what its handler calls is nobody's inner call.
pub const INTERRUPTED: u32 = 4;
/// Sampling leaves the new block out; the call is only open for the sake of the old one.
pub const SAMPLED_OUT: u32 = 8;
/// The call changes the size of its block where it lies, and returns that.
pub const RESIZES: u32 = 16;
/// The block that goes in is gone, even if the call fails.
pub const FREES_ON_FAILURE: u32 = 32;
/// Whatever is called inside it is part of it.
pub const ENCLOSES: u32 = 64;
/// An exception may have left the call; its return address is known.
pub const THROWS: u32 = 128;

/// The top eight bits of the flags are the family of what it returns ([`crate::family`]).
pub const FAMILY_SHIFT: u32 = 24;

/// A call that was entered.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct OpenCall {
    /// The stack pointer at entry.
    pub sp: u64,
    /// Bytes asked for.
    pub size: u64,
    /// Where the new pointer will be written, or 0 when it is returned.
    pub out: u64,
    /// The address of the block that went in, or 0.
    pub pointer: u64,
    /// The block that went in, with [`HAS_OLD`].
    pub old: Block,
    /// [`crate::cookie::Cookie::function_and_slot`].
    pub function: u32,
    /// [`REALLOCATES`], [`HAS_OLD`], [`INTERRUPTED`], [`SAMPLED_OUT`], [`RESIZES`],
    /// [`FREES_ON_FAILURE`], [`ENCLOSES`], [`THROWS`]; and [`FAMILY_SHIFT`].
    pub flags: u32,
    /// Where it returns to, 0 if not known. A return probe puts another address in its place on the
    /// stack.
    pub return_address: u64,
}
const _: () = assert!(size_of::<OpenCall>() == 64);

/// The open calls of one thread, outermost first.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct OpenCalls {
    calls: [OpenCall; MAX_OPEN_CALLS],
    depth: u32,
    reserved: u32,
}
const _: () = assert!(size_of::<OpenCalls>() == 64 * MAX_OPEN_CALLS + 8);

/// How a call that is being entered relates to the open ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Place {
    /// It stands for itself.
    Outermost,
    /// It is part of the open call on top.
    Nested,
    /// It is part of the open call on top if its caller is allocator code.
    NestedIfCalledByAllocator,
}

impl OpenCalls {
    /// How many calls are open.
    #[inline(always)]
    pub const fn depth(&self) -> u32 {
        self.depth
    }

    /// The call on top; meaningless when none is open.
    #[inline(always)]
    pub fn top(&mut self) -> &mut OpenCall {
        let index = (self.depth.wrapping_sub(1) & INDEX_MASK) as usize;
        // INDEX_MASK keeps the index inside the array.
        #[expect(clippy::indexing_slicing, reason = "masked to the array's length")]
        &mut self.calls[index]
    }

    /// Whether the call on top can never return, now that `function` is entered at `sp`: its
    /// frame is gone, or it belonged to an address space that is gone.
    #[inline(always)]
    pub fn top_is_dead(&mut self, sp: u64, function: u32) -> bool {
        if self.depth == 0 {
            return false;
        }
        let top = self.top();
        if top.function >> 16 != function >> 16 {
            return true;
        }
        // A signal handler may run on a stack of its own, above or below: no comparison holds.
        if top.flags & INTERRUPTED != 0 {
            return false;
        }
        top.sp < sp || (top.sp == sp && top.function == function)
    }

    /// Whether a call entered at `sp`, which returns to `return_address()`, stands where the call on top
    /// stood, which an exception has left: one that took its place by a jump would return to where
    /// that would have.
    #[inline(always)]
    pub fn top_was_thrown_out_of(&mut self, sp: u64, return_address: impl FnOnce() -> u64) -> bool {
        if self.depth == 0 {
            return false;
        }
        let top = self.top();
        top.flags & (THROWS | INTERRUPTED) == THROWS
            && top.sp == sp
            && top.return_address != return_address()
    }

    /// Forgets the call on top.
    #[inline(always)]
    pub const fn pop(&mut self) {
        self.depth = self.depth.saturating_sub(1);
    }

    /// Where the open call returns to whose return address lies at `place` on the stack, or 0.
    #[inline(always)]
    pub fn return_address_at(&self, place: u64) -> u64 {
        let mut index = 0;
        while index < MAX_OPEN_CALLS {
            if index as u32 >= self.depth {
                return 0;
            }
            #[expect(clippy::indexing_slicing, reason = "the loop stays inside the array")]
            let call = &self.calls[index];
            if call.sp == place {
                return call.return_address;
            }
            index += 1;
        }
        0
    }

    /// How a call entered at `sp` relates to what is open (after the dead ones were popped).
    #[inline(always)]
    pub fn place(&mut self, sp: u64) -> Place {
        if self.depth == 0 {
            return Place::Outermost;
        }
        let top = self.top();
        if top.flags & INTERRUPTED != 0 {
            Place::Outermost
        } else if top.sp == sp || top.flags & ENCLOSES != 0 {
            // A tail call out of the function on top, or anything inside one that encloses it.
            Place::Nested
        } else {
            Place::NestedIfCalledByAllocator
        }
    }

    /// Opens a call, or returns `None` when too many are open.
    #[inline(always)]
    pub fn push(&mut self) -> Option<&mut OpenCall> {
        if self.depth >= MAX_OPEN_CALLS as u32 {
            return None;
        }
        self.depth += 1;
        Some(self.top())
    }

    /// Whether the call on top is the one that returns: `function`, entered at `sp`.
    #[inline(always)]
    pub fn top_returns(&mut self, sp: u64, function: u32) -> bool {
        if self.depth == 0 {
            return false;
        }
        let top = self.top();
        top.sp == sp && top.function == function
    }

    /// Whether any open call is the one that returns.
    #[inline(always)]
    pub fn any_returns(&self, sp: u64, function: u32) -> bool {
        let mut index = 0;
        while index < MAX_OPEN_CALLS {
            if index as u32 >= self.depth {
                return false;
            }
            #[expect(clippy::indexing_slicing, reason = "the loop stays inside the array")]
            let call = &self.calls[index];
            if call.sp == sp && call.function == function {
                return true;
            }
            index += 1;
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MALLOC: u32 = 1;
    const REALLOC: u32 = 2;

    /// Enters `function` at `sp` as the handler does; `allocator_calls` is what the return
    /// address would say. Returns whether the call counts.
    fn enter(open: &mut OpenCalls, function: u32, sp: u64, allocator_calls: bool) -> bool {
        while open.top_is_dead(sp, function) {
            open.pop();
        }
        match open.place(sp) {
            Place::Nested => return false,
            Place::NestedIfCalledByAllocator if allocator_calls => return false,
            _ => {}
        }
        match open.push() {
            Some(call) => {
                *call = OpenCall { sp, function, ..OpenCall::default() };
                true
            }
            None => false,
        }
    }

    fn leave(open: &mut OpenCalls, function: u32, sp: u64) -> bool {
        if !open.any_returns(sp, function) {
            return false;
        }
        while !open.top_returns(sp, function) {
            open.pop();
        }
        open.pop();
        true
    }

    #[test]
    fn an_inner_call_of_the_allocator_counts_once() {
        let mut open = OpenCalls::default();
        assert!(enter(&mut open, REALLOC, 1000, false));
        assert!(!enter(&mut open, MALLOC, 900, true), "realloc's own malloc");
        assert!(!leave(&mut open, MALLOC, 900));
        assert!(leave(&mut open, REALLOC, 1000));
        assert_eq!(open.depth(), 0);
    }

    #[test]
    fn a_tail_call_counts_once() {
        let mut open = OpenCalls::default();
        assert!(enter(&mut open, REALLOC, 1000, false));
        assert!(!enter(&mut open, MALLOC, 1000, false));
        assert!(leave(&mut open, REALLOC, 1000));
    }

    #[test]
    fn a_call_where_an_exception_left_another_is_told_from_a_tail_call_by_its_return_address() {
        let mut open = OpenCalls::default();
        assert!(enter(&mut open, REALLOC, 1000, false));
        *open.top() = OpenCall { flags: THROWS, return_address: 77, ..*open.top() };
        assert!(!open.top_was_thrown_out_of(1000, || 77), "a jump");
        assert!(open.top_was_thrown_out_of(1000, || 78));
        assert!(!open.top_was_thrown_out_of(900, || 78), "a call inside it");
        open.top().flags |= INTERRUPTED;
        assert!(!open.top_was_thrown_out_of(1000, || 78), "on a stack that it may share");
    }

    #[test]
    fn whatever_an_enclosing_call_allocates_is_its_own_but_not_what_a_signal_handler_does() {
        let mut open = OpenCalls::default();
        assert!(enter(&mut open, MALLOC, 1000, false));
        open.top().flags |= ENCLOSES;
        assert!(!enter(&mut open, REALLOC, 900, false));
        open.top().flags |= INTERRUPTED;
        assert!(enter(&mut open, REALLOC, 800, false));
    }

    #[test]
    fn a_callback_out_of_the_allocator_counts() {
        let mut open = OpenCalls::default();
        assert!(enter(&mut open, MALLOC, 1000, false));
        assert!(enter(&mut open, MALLOC, 900, false), "called by code that is no allocator's");
        assert!(leave(&mut open, MALLOC, 900));
        assert!(leave(&mut open, MALLOC, 1000));
    }

    #[test]
    fn what_a_signal_handler_allocates_counts_on_either_stack() {
        for handler_sp in [500, 5000] {
            let mut open = OpenCalls::default();
            assert!(enter(&mut open, MALLOC, 1000, false));
            open.top().flags |= INTERRUPTED;
            assert!(enter(&mut open, MALLOC, handler_sp, true));
            assert!(leave(&mut open, MALLOC, handler_sp));
            assert!(leave(&mut open, MALLOC, 1000));
            assert_eq!(open.depth(), 0);
        }
    }

    #[test]
    fn a_call_left_by_longjmp_is_forgotten() {
        let mut open = OpenCalls::default();
        assert!(enter(&mut open, MALLOC, 1000, false));
        assert!(enter(&mut open, REALLOC, 1200, false), "the frame at 1000 is gone");
        assert_eq!(open.depth(), 1);
        assert!(leave(&mut open, REALLOC, 1200));
    }

    #[test]
    fn calls_above_the_one_that_returns_are_forgotten_with_it() {
        let mut open = OpenCalls::default();
        assert!(enter(&mut open, MALLOC, 1000, false));
        open.top().flags |= INTERRUPTED;
        assert!(enter(&mut open, MALLOC, 500, false));
        assert!(leave(&mut open, MALLOC, 1000), "the handler's call was left by longjmp");
        assert_eq!(open.depth(), 0);
    }

    #[test]
    fn an_exec_leaves_nothing_open() {
        let mut open = OpenCalls::default();
        assert!(enter(&mut open, MALLOC, 1000, false));
        assert!(enter(&mut open, MALLOC | 1 << 16, 900, true), "another address space");
        assert_eq!(open.depth(), 1);
    }

    #[test]
    fn the_return_address_of_an_open_call_is_known() {
        let mut open = OpenCalls::default();
        assert!(enter(&mut open, MALLOC, 1000, false));
        open.top().return_address = 77;
        assert_eq!((open.return_address_at(1000), open.return_address_at(1008)), (77, 0));
        open.pop();
        assert_eq!(open.return_address_at(1000), 0);
    }

    #[test]
    fn the_fifth_nested_call_is_refused() {
        let mut open = OpenCalls::default();
        for depth in 0..4 {
            assert!(enter(&mut open, MALLOC, 1000 - depth, false));
        }
        assert!(!enter(&mut open, MALLOC, 900, false));
        assert_eq!(open.depth(), 4);
    }
}
