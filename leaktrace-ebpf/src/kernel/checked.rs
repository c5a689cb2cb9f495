//! Checked frees (`--check-frees`): is what is freed allocated, and by the same family?
//!
//! A free is judged where it begins, so what ends the process for it (glibc aborts) comes later.
//! Operators that only call `malloc` and `free` note that they do: what these book or take is
//! theirs then. What a free frees in turn is part of it.

use aya_ebpf::{bindings::pt_regs, macros::uprobe, programs::ProbeContext};
use leaktrace_ebpf::{
    atomic::add,
    cookie::{Cookie, NO_ARGUMENT},
    family::{
        ALLOCATOR_CODE, DOUBLE_FREE, Entered, Freed, HEADER_REACH, MISMATCHED_FREE, OPERATOR_CODE,
        OPERATOR_REACH, UNSURE, WrongFree, WrongFrees, go_together, may_hand_on,
    },
    ledger,
    records::{Block, Counter, Target, UNKNOWN_STACK, block_key},
};

use crate::kernel::{
    free::{entered, is_part_of_free, note_outer_free},
    globals,
    hits::{hit, is_allocator_code, is_nested, leave_earlier_window, open_target, since},
    maps::{FREED, THREADS, WRONG_FREES},
    registers::{RETURN_POPS, arch, read_u64},
    session,
    store::{Maps, count, known_stack, stack_id},
    thread::Thread,
    unwind,
};

/// What a thread remembers for the checks.
#[repr(C)]
pub(crate) struct Checks {
    /// The operator entered last that only calls another function.
    operator: Entered,
    /// Its cookie.
    operator_cookie: u64,
    /// What it was given to free.
    operator_pointer: u64,
    /// The code that makes its call: its own, or that of the operator that it calls.
    operator_code: u64,
    /// 1: what it is there for is done, or has failed.
    operator_is_done: u64,
    /// What it freed, if that may still turn out right; or 0.
    doubted: u64,
    /// That block.
    doubted_block: Block,
    /// What was noted.
    doubt: WrongFree,
    /// A call inside another that writes its result to memory: its stack pointer.
    out_sp: u64,
    /// Where to.
    out: u64,
    /// The stack pointer of a call inside another, while its return address is replaced.
    nested_sp: u64,
}

/// Runs where a free begins.
#[uprobe]
pub(crate) fn free_checked(ctx: ProbeContext) -> u32 {
    if !globals::check_frees() {
        return 0;
    }
    let (cookie, timer) = hit(&ctx, false);
    frees(&ctx, cookie);
    timer.stop();
    0
}

/// Runs where an operator begins that only calls another function that has a probe.
#[uprobe]
pub(crate) fn operator_entry(ctx: ProbeContext) -> u32 {
    if !globals::check_frees() {
        return 0;
    }
    let (cookie, timer) = hit(&ctx, false);
    notes_operator(&ctx, cookie);
    timer.stop();
    0
}

#[inline(always)]
fn notes_operator(ctx: &ProbeContext, cookie: Cookie) -> u32 {
    // SAFETY: the context of a uprobe is the thread's registers.
    let regs = unsafe { &*ctx.regs };
    let pointer = arch::argument(regs, cookie.pointer());
    if cookie.pointer() != NO_ARGUMENT && pointer == 0 {
        return 0;
    }
    if open_target(cookie).is_none() {
        return 0;
    }
    let Some(thread) = THREADS.get_or_create() else {
        count(Counter::LostNoThreadState, 1);
        return 0;
    };
    let entered = entered(regs);
    let checks = &mut thread.checks;
    let same = Cookie(checks.operator_cookie).function_and_slot() == cookie.function_and_slot();
    checks.operator_code = arch::instruction_pointer(regs);
    // The outermost operator is the one that was called.
    if is_inside_operator(checks, &entered) && !(same && checks.operator.jumped_to(&entered)) {
        return 0;
    }
    checks.operator = entered;
    checks.operator_cookie = cookie.0;
    checks.operator_pointer = pointer;
    checks.operator_is_done = 0;
    0
}

#[inline(always)]
fn is_inside_operator(checks: &Checks, call: &Entered) -> bool {
    let operator = checks.operator;
    operator.jumped_to(call)
        || (operator.may_have_called(call, OPERATOR_REACH) && arch::stands(&operator))
}

/// Whether a call inside an operator's frame is the one that the operator is there for: not, say,
/// that of an exception which it throws.
#[inline(always)]
fn is_operators_own(checks: &Checks, call: &Entered) -> bool {
    checks.operator_is_done == 0
        && (checks.operator.jumped_to(call)
            || call.return_address.wrapping_sub(checks.operator_code) <= OPERATOR_CODE)
}

/// The family that a block will be of.
#[inline(always)]
pub(crate) fn family_of_new(thread: &Thread, cookie: Cookie, regs: &pt_regs) -> u8 {
    let (checks, call) = (&thread.checks, entered(regs));
    if !is_inside_operator(checks, &call) {
        return cookie.family();
    }
    let operator = Cookie(checks.operator_cookie);
    if operator.pointer() != NO_ARGUMENT || !is_operators_own(checks, &call) {
        // Whatever it needs that for.
        return UNSURE;
    }
    operator.family()
}

/// A call returns that was to allocate a block of a family.
#[inline(always)]
pub(crate) fn ends(thread: &mut Thread, cookie: Cookie, family: u8) {
    if family != cookie.family() {
        thread.checks.operator_is_done = 1;
    }
}

/// The family that frees a block, and the function.
#[inline(always)]
fn freeing(checks: &mut Checks, cookie: Cookie, call: &Entered, pointer: u64) -> (u8, u16) {
    if !is_inside_operator(checks, call) {
        return (cookie.family(), cookie.function());
    }
    let operator = Cookie(checks.operator_cookie);
    let given = checks.operator_pointer;
    let is_given = pointer <= given && given - pointer <= HEADER_REACH;
    if operator.pointer() == NO_ARGUMENT || !is_given || !is_operators_own(checks, call) {
        return (UNSURE, cookie.function());
    }
    checks.operator.sp = 0;
    (operator.family(), operator.function())
}

/// Books a free, and judges it.
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
    let key = block_key(cookie.slot(), pointer);
    let Some(thread) = THREADS.get_or_create() else {
        count(Counter::LostNoThreadState, 1);
        ledger::freed(&mut Maps::new(), key, since(target));
        return 0;
    };
    leave_earlier_window(thread, target);
    let call = entered(regs);
    let is_inner = is_part_of_free(thread, target, cookie, &call)
        || (thread.open.depth() != 0
            && (is_jump(thread, call.sp) || is_nested(ctx, thread, target, cookie, call.sp)));
    if is_inner {
        handed_on(&mut thread.checks, cookie, pointer);
        if !ledger::freed_if_known(&mut Maps::new(), key, since(target)) {
            count(Counter::NestedCalls, 1);
        }
        return 0;
    }
    let (family, by) = freeing(&mut thread.checks, cookie, &call, pointer);
    note_outer_free(thread, cookie, call);
    thread.checks.doubted = 0;
    // The walk takes long, and comes first: of two threads that free one block, one is to find
    // what the other has left.
    let stack = stack_at_entry(thread, cookie.slot(), regs);
    let mut block = Block::default();
    let known = ledger::freed_block(&mut Maps::new(), key, since(target), &mut block);
    if !known {
        if is_allocators_own(target, regs, &call) {
            count(Counter::NestedCalls, 1);
            return 0;
        }
        ledger::unknown_freed(&mut Maps::new());
    }
    judge(
        &mut thread.checks,
        target,
        key,
        &Free { slot: cookie.slot(), family, by, stack },
        &block,
    );
    if thread.checks.doubted != 0 {
        thread.checks.doubted = pointer;
    }
    0
}

/// Whether an allocator calls its own function.
#[inline(always)]
fn is_allocators_own(target: &Target, regs: &pt_regs, call: &Entered) -> bool {
    let behind = call.return_address.wrapping_sub(arch::instruction_pointer(regs));
    behind.wrapping_add(ALLOCATOR_CODE) <= 2 * ALLOCATOR_CODE
        && is_allocator_code(target, call.return_address)
}

/// A reallocation begins, not inside another call. Its old block, all 0 if not known, is out of the
/// ledger.
#[inline(always)]
pub(crate) fn reallocation_begins(
    thread: &mut Thread,
    target: &Target,
    cookie: Cookie,
    regs: &pt_regs,
    old: &Block,
) {
    let pointer = arch::argument(regs, cookie.pointer());
    // One that only changes a block where it lies never frees it.
    if pointer == 0 || cookie.resizes() {
        return;
    }
    let inside = is_inside_operator(&thread.checks, &entered(regs));
    let family = if inside { UNSURE } else { cookie.family() };
    thread.checks.doubted = 0;
    let (slot, by) = (cookie.slot(), cookie.function());
    let stack = stack_at_entry(thread, slot, regs);
    let key = block_key(slot, pointer);
    judge(&mut thread.checks, target, key, &Free { slot, family, by, stack }, old);
    if thread.checks.doubted != 0 {
        thread.checks.doubted = pointer;
    }
}

/// A free, or a reallocation that begins.
struct Free {
    slot: u16,
    family: u8,
    by: u16,
    /// The handle.
    stack: u32,
}

/// Notes whether a free is wrong, and remembers it. The block is all 0 if it was not known.
#[inline(always)]
fn judge(checks: &mut Checks, target: &Target, key: u64, free: &Free, block: &Block) {
    let freed = Freed {
        block: *block,
        stack: free.stack,
        window: target.window,
        by: free.by.into(),
        reserved: 0,
    };
    let before = FREED.get_ptr_mut(key);
    if block.born != 0 {
        if !go_together(block.family(), free.family) {
            let wrong = WrongFree {
                allocated: stack_id(block.stack),
                freed: stack_id(free.stack),
                freed_again: 0,
                what: MISMATCHED_FREE,
                slot: free.slot,
                family: block.family().into(),
                by: free.by,
                again_by: 0,
                reserved: [0; 3],
            };
            note(&wrong, 1, block.size());
            if may_hand_on(block.family(), free.family) {
                checks.doubted = 1;
                checks.doubted_block = *block;
                checks.doubt = wrong;
            }
        }
    } else if let Some(before) = before {
        // SAFETY: a pointer to a map value, good until the end of the program.
        let before = unsafe { before.read_volatile() };
        if before.window == target.window {
            let wrong = WrongFree {
                allocated: stack_id(before.block.stack),
                freed: stack_id(before.stack),
                freed_again: stack_id(free.stack),
                what: DOUBLE_FREE,
                slot: free.slot,
                family: before.block.family().into(),
                by: before.by as u16,
                again_by: free.by,
                reserved: [0; 3],
            };
            note(&wrong, 1, before.block.size());
            // The first free stays the first.
            return;
        }
    }
    if let Some(before) = before {
        // SAFETY: as above; nobody else is given this address meanwhile.
        unsafe { before.write_volatile(freed) };
    } else if FREED.insert(key, freed, 0).is_err() {
        count(Counter::UnrememberedFrees, 1);
    }
}

/// Adds wrong frees to those that look the same.
#[inline(always)]
fn note(wrong: &WrongFree, n: u64, bytes: u64) {
    if WRONG_FREES.get_ptr_mut(wrong).is_none() {
        // Another CPU may be faster.
        let _ = WRONG_FREES.insert(wrong, WrongFrees { count: 0, bytes: 0 }, BPF_NOEXIST);
    }
    let Some(sum) = WRONG_FREES.get_ptr_mut(wrong) else {
        count(Counter::LostWrongFrees, n);
        return;
    };
    // SAFETY: pointers into a map value.
    unsafe {
        add(&raw mut (*sum).count, n);
        add(&raw mut (*sum).bytes, bytes);
    }
}

const BPF_NOEXIST: u64 = 1;

/// A call inside another frees `pointer`, too: the doubt is over if that goes together.
#[inline(always)]
fn handed_on(checks: &mut Checks, cookie: Cookie, pointer: u64) {
    if pointer == 0 || checks.doubted != pointer || cookie.family() != checks.doubted_block.family()
    {
        return;
    }
    checks.doubted = 0;
    let (wrong, bytes) = (checks.doubt, checks.doubted_block.size());
    note(&wrong, 1u64.wrapping_neg(), bytes.wrapping_neg());
}

/// Notes a call that is part of another; its return is to be seen, since the address that it
/// returns is no freed one any more.
#[inline(always)]
pub(crate) fn nested(thread: &mut Thread, cookie: Cookie, regs: &pt_regs) -> u32 {
    thread.checks.nested_sp = arch::stack_pointer(regs);
    if cookie.out() != NO_ARGUMENT {
        thread.checks.out_sp = arch::stack_pointer(regs);
        thread.checks.out = arch::argument(regs, cookie.out());
    }
    if cookie.reallocates() {
        handed_on(&mut thread.checks, cookie, arch::argument(regs, cookie.pointer()));
    }
    session::AWAIT_RETURN
}

/// Whether a call was jumped to by one of [`nested`]: it is part of that, though its return address
/// is not to be seen.
#[inline(always)]
pub(crate) fn is_jump(thread: &Thread, sp: u64) -> bool {
    thread.checks.nested_sp == sp
}

/// An allocation function returns, whichever way it counts.
#[inline(always)]
pub(crate) fn returned(thread: &mut Thread, cookie: Cookie, regs: &pt_regs, entry_sp: u64) {
    if thread.checks.nested_sp <= entry_sp {
        thread.checks.nested_sp = 0;
    }
    if cookie.out() == NO_ARGUMENT {
        handed_out(cookie.slot(), arch::returned(regs));
    } else if thread.checks.out_sp == entry_sp {
        thread.checks.out_sp = 0;
        handed_out(cookie.slot(), read_u64(thread.checks.out));
    }
}

/// An address is a block's again. It is only marked so: that cannot fail.
#[inline(always)]
pub(crate) fn handed_out(slot: u16, pointer: u64) {
    if let Some(freed) = FREED.get_ptr_mut(block_key(slot, pointer)) {
        // SAFETY: a pointer to a map value, good until the end of the program.
        unsafe { (&raw mut (*freed).window).write_volatile(0) };
    }
}

/// The handle of the stack of a call whose frame is not set up yet.
#[inline(always)]
fn stack_at_entry(thread: &mut Thread, slot: u16, regs: &pt_regs) -> u32 {
    let Some(tables) = unwind::rules::Tables::of(slot) else {
        return UNKNOWN_STACK as u32;
    };
    let start = unwind::Start {
        ip: arch::return_address(regs),
        sp: arch::stack_pointer(regs).wrapping_add(RETURN_POPS),
        fp: arch::frame_pointer(regs),
        bx: arch::saved_base(regs),
    };
    let Some(hashes) = unwind::walk(thread, &tables, start) else {
        return UNKNOWN_STACK as u32;
    };
    known_stack(thread, slot, hashes).0
}
