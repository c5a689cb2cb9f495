//! The handlers on the functions that free.
//!
//! A free is booked before it happens: afterwards another thread could already have been given the
//! block.

use aya_ebpf::{bindings::pt_regs, macros::uprobe, programs::ProbeContext};
use leaktrace_ebpf::{
    cookie::Cookie,
    family::Entered,
    ledger,
    records::{Counter, Target, block_key},
};

use crate::kernel::{
    hits::{hit, is_allocator_code, is_nested, leave_earlier_window, open_target, since},
    maps::THREADS,
    registers::arch,
    store::{Maps, count},
    thread::Thread,
};

/// Runs where a free begins.
#[uprobe]
pub(crate) fn free_entry(ctx: ProbeContext) -> u32 {
    let (cookie, timer) = hit(&ctx, false);
    frees(&ctx, cookie);
    timer.stop();
    0
}

/// Books a free.
#[inline(always)]
fn frees(ctx: &ProbeContext, cookie: Cookie) -> u32 {
    // SAFETY: the context of a uprobe is the thread's registers.
    let regs = unsafe { &*ctx.regs };
    let pointer = arch::argument(regs, cookie.pointer());
    if pointer == 0 {
        return 0;
    }
    let Some(target) = open_target(cookie) else {
        return 0;
    };
    // A block of the ledger is gone now, whoever frees it. To ask for the thread's open calls takes a
    // third as long as all the rest, and only a free of another block may be part of one.
    let key = block_key(cookie.slot(), pointer);
    if ledger::freed_if_known(&mut Maps::new(), key, since(target)) {
        if (target.frees_nest != 0 || cookie.encloses())
            && let Some(thread) = THREADS.get_or_create()
        {
            thread.last_freed = pointer;
            if cookie.encloses() {
                note_outer_free(thread, cookie, entered(regs));
            }
        }
        return 0;
    }
    if let Some(thread) = THREADS.get_existing() {
        leave_earlier_window(thread, target);
        if target.frees_nest != 0 && thread.last_freed == pointer {
            // A wrapper, or an interposed library, passes on what it was given.
            thread.last_freed = 0;
            count(Counter::NestedCalls, 1);
            return 0;
        }
        // Here alone it matters: what is freed inside another free is known only if that is not.
        if is_part_of_free(thread, target, cookie, &entered(regs)) {
            count(Counter::NestedCalls, 1);
            return 0;
        }
        if cookie.encloses() {
            note_outer_free(thread, cookie, entered(regs));
        }
        let sp = arch::stack_pointer(regs);
        if thread.open.depth() != 0 {
            if is_nested(ctx, thread, target, cookie, sp) {
                count(Counter::NestedCalls, 1);
            } else {
                // A call that never returned may just have given the block back to the ledger.
                ledger::freed(&mut Maps::new(), key, since(target));
            }
            return 0;
        }
    }
    if is_allocator_code(target, arch::return_address(regs)) {
        // What was freed long ago goes through `free` once more when glibc empties the cache of a
        // thread that ends.
        count(Counter::NestedCalls, 1);
        return 0;
    }
    ledger::unknown_freed(&mut Maps::new());
    0
}

/// Where a call was entered, and where it returns to.
#[inline(always)]
pub(crate) fn entered(regs: &pt_regs) -> Entered {
    Entered { sp: arch::stack_pointer(regs), return_address: arch::return_address(regs) }
}

/// Remembers a free that others may be part of.
#[inline(always)]
pub(crate) fn note_outer_free(thread: &mut Thread, cookie: Cookie, call: Entered) {
    thread.outer_free = call;
    thread.outer_free_cookie = cookie.0;
}

/// Whether a free is part of the one that was remembered.
#[inline(always)]
pub(crate) fn is_part_of_free(
    thread: &Thread,
    target: &Target,
    cookie: Cookie,
    call: &Entered,
) -> bool {
    let free = thread.outer_free;
    let outer = Cookie(thread.outer_free_cookie);
    if free.jumped_to(call) {
        return outer.function_and_slot() != cookie.function_and_slot();
    }
    free.may_have_called(call, u64::MAX)
        && arch::stands(&free)
        && (outer.encloses() || is_allocator_code(target, call.return_address))
}
