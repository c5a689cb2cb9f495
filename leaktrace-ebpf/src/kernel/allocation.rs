//! The handlers on the allocation functions.
//!
//! At entry the arguments are noted, at return the new block is booked under its stack.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::pt_regs,
    helpers::generated::bpf_get_prandom_u32,
    macros::{uprobe, uretprobe},
    programs::{ProbeContext, RetProbeContext},
};
use leaktrace_ebpf::{
    calls::{
        ENCLOSES, FAMILY_SHIFT, FREES_ON_FAILURE, HAS_OLD, MAX_OPEN_CALLS, REALLOCATES, RESIZES,
        SAMPLED_OUT, THROWS,
    },
    cookie::{Cookie, NO_ARGUMENT},
    ledger,
    records::{Block, Counter, TARGET_DRAINING, block_key},
};

use crate::kernel::{
    checked,
    clock::born_now,
    follow, globals,
    hits::{
        abandon_top, hit, is_allocator_code, is_nested, leave_earlier_window, open_target, since,
    },
    maps::THREADS,
    registers::{RETURN_POPS, arch, read_u64},
    session,
    store::{Maps, count, keep_stack},
    unwind,
    verifier::opaque,
};

/// Runs at the entry of every function that returns a block.
#[uprobe]
pub(crate) fn allocation_entry(ctx: ProbeContext) -> u32 {
    let (cookie, timer) = hit(&ctx, false);
    // A uprobe that returns anything else than 0 asks for a perf event.
    enters(&ctx, cookie);
    timer.stop();
    0
}

/// Runs at the entry and, where that asked for it, at the return.
// aya's macro would drop what it returns.
#[unsafe(no_mangle)]
#[unsafe(link_section = "uprobe")]
pub(crate) extern "C" fn allocation_session(ctx: *mut c_void) -> u32 {
    let ctx = ProbeContext::new(ctx);
    let is_entry = session::is_entry(&ctx);
    let (cookie, timer) = hit(&ctx, !is_entry);
    let mut answer = 0;
    if is_entry {
        answer = enters(&ctx, cookie);
    } else {
        // SAFETY: the context of a uprobe is the thread's registers.
        let regs = unsafe { &*ctx.regs };
        let sp = arch::stack_pointer(regs);
        returns(cookie, regs, sp.wrapping_sub(RETURN_POPS), arch::instruction_pointer(regs));
    }
    timer.stop();
    answer
}

/// Notes a call that is entered; returns [`session::AWAIT_RETURN`] if its return is to be seen.
#[inline(always)]
fn enters(ctx: &ProbeContext, cookie: Cookie) -> u32 {
    let Some(target) = open_target(cookie) else {
        return session::SKIP_RETURN;
    };
    // SAFETY: the context of a uprobe is the thread's registers.
    let regs = unsafe { &*ctx.regs };
    if target.state == TARGET_DRAINING {
        // Nobody will be told what it returns; what went in is gone.
        let pointer = arch::argument(regs, cookie.pointer());
        if cookie.reallocates() && pointer != 0 {
            let key = block_key(cookie.slot(), pointer);
            ledger::freed(&mut Maps::new(), key, since(target));
        }
        return session::SKIP_RETURN;
    }
    let sampling = globals::sampling();
    let mut size = 0;
    let mut flags = 0;
    if !sampling.is_exact() {
        size = size_asked_for(regs, cookie);
        // SAFETY: a helper without arguments.
        if !sampling.keeps(size, unsafe { bpf_get_prandom_u32() } as u32) {
            flags = SAMPLED_OUT;
            // Most calls end here. One that encloses others stays open, or these would count.
            if !cookie.reallocates() && !cookie.encloses() {
                count(Counter::SampledOut, 1);
                return session::SKIP_RETURN;
            }
        }
    }
    let Some(thread) = THREADS.get_or_create() else {
        count(Counter::LostNoThreadState, 1);
        return session::SKIP_RETURN;
    };
    leave_earlier_window(thread, target);
    let sp = arch::stack_pointer(regs);
    if thread.open.depth() != 0 {
        let is_jump = globals::check_frees() && checked::is_jump(thread, sp);
        if is_jump || is_nested(ctx, thread, target, cookie, sp) {
            count(Counter::NestedCalls, 1);
            if globals::check_frees() {
                return checked::nested(thread, cookie, regs);
            }
            return session::SKIP_RETURN;
        }
    } else if !sampling.is_exact() && is_allocator_code(target, arch::return_address(regs)) {
        // The outer call was left out, and this one with it.
        count(Counter::NestedCalls, 1);
        return session::SKIP_RETURN;
    }
    if sampling.is_exact() {
        size = size_asked_for(regs, cookie);
    }
    let pointer = arch::argument(regs, cookie.pointer());
    // Checked frees may walk through it, too.
    let thread_nests = thread.nests != 0 || globals::check_frees();
    if globals::check_frees() {
        flags |= u32::from(checked::family_of_new(thread, cookie, regs)) << FAMILY_SHIFT;
    }
    // What is called inside an open call may walk through that: then, or the next time.
    if thread.open.depth() != 0 {
        thread.nests = 1;
    }
    let Some(call) = thread.open.push() else {
        count(Counter::LostTooDeep, 1);
        if globals::check_frees() {
            return checked::nested(thread, cookie, regs);
        }
        return session::SKIP_RETURN;
    };
    call.sp = sp;
    call.size = size;
    call.out = arch::argument(regs, cookie.out());
    call.pointer = pointer;
    call.function = cookie.function_and_slot();
    if cookie.encloses() {
        flags |= ENCLOSES;
    }
    if cookie.throws() {
        flags |= THROWS;
    }
    call.flags = flags;
    // Reading it takes as long as the rest of this handler, and only a walk through this call
    // will ask for it, from a signal handler; or who stands where an exception left it.
    call.return_address =
        if thread_nests || cookie.throws() { arch::return_address(regs) } else { 0 };
    if cookie.reallocates() {
        call.flags = flags | reallocation_flags(cookie);
        if pointer != 0 {
            let key = block_key(cookie.slot(), pointer);
            ledger::reallocation_begins(&mut Maps::new(), key, since(target), call);
        }
        if call.flags & (SAMPLED_OUT | HAS_OLD | ENCLOSES) == SAMPLED_OUT {
            thread.open.pop();
            count(Counter::SampledOut, 1);
            return session::SKIP_RETURN;
        }
        if globals::check_frees() {
            let old = if call.flags & HAS_OLD != 0 { call.old } else { Block::default() };
            checked::reallocation_begins(thread, target, cookie, regs, &old);
        }
    }
    session::AWAIT_RETURN
}

/// What its open call has to know of a function that reallocates.
#[inline(always)]
fn reallocation_flags(cookie: Cookie) -> u32 {
    if cookie.resizes() {
        REALLOCATES | RESIZES
    } else if cookie.frees_on_failure() {
        REALLOCATES | FREES_ON_FAILURE
    } else {
        REALLOCATES
    }
}

/// How many bytes a call asks for.
#[inline(always)]
fn size_asked_for(regs: &pt_regs, cookie: Cookie) -> u64 {
    if cookie.size() == NO_ARGUMENT {
        return globals::fixed_size(cookie.fixed_size());
    }
    let size = arch::argument(regs, cookie.size());
    if cookie.count() == NO_ARGUMENT {
        return size;
    }
    multiply(size, arch::argument(regs, cookie.count()))
}

/// Runs when such a function has returned.
#[uretprobe]
pub(crate) fn allocation_return(ctx: RetProbeContext) -> u32 {
    let (cookie, timer) = hit(&ctx, true);
    // SAFETY: the context of a uretprobe is the thread's registers.
    let regs = unsafe { &*ctx.regs };
    let sp = arch::stack_pointer(regs);
    returns(cookie, regs, sp.wrapping_sub(RETURN_POPS), arch::instruction_pointer(regs));
    timer.stop();
    0
}

/// Runs at a return instruction of such a function, where a return probe would stop an exception
/// from passing through.
#[uprobe]
pub(crate) fn allocation_exit(ctx: ProbeContext) -> u32 {
    let (cookie, timer) = hit(&ctx, false);
    // SAFETY: the context of a uprobe is the thread's registers.
    let regs = unsafe { &*ctx.regs };
    returns(cookie, regs, arch::stack_pointer(regs), arch::return_address(regs));
    timer.stop();
    0
}

/// Books what a call returns that was entered at `entry_sp`, to the code at `ip`.
#[inline(always)]
fn returns(cookie: Cookie, regs: &pt_regs, entry_sp: u64, ip: u64) -> u32 {
    let Some(thread) = THREADS.get_existing() else {
        return 0;
    };
    let Some(target) = open_target(cookie) else {
        return 0;
    };
    leave_earlier_window(thread, target);
    if globals::check_frees() {
        checked::returned(thread, cookie, regs, entry_sp);
    }
    let function = cookie.function_and_slot();
    if !thread.open.any_returns(entry_sp, function) {
        return 0;
    }
    for _ in 0..MAX_OPEN_CALLS {
        if thread.open.depth() == 0 || thread.open.top_returns(entry_sp, function) {
            break;
        }
        abandon_top(thread, cookie.slot());
    }
    if thread.open.depth() == 0 {
        return 0;
    }
    let call = *thread.open.top();
    thread.open.pop();
    let family = (call.flags >> FAMILY_SHIFT) as u8;
    if globals::check_frees() {
        checked::ends(thread, cookie, family);
    }

    let mut pointer = arch::returned(regs);
    if cookie.out() != NO_ARGUMENT {
        // With nowhere to write to it cannot have succeeded.
        if pointer != 0 || call.out == 0 {
            pointer = 0;
        } else {
            pointer = read_u64(call.out);
            if pointer == 0 {
                count(Counter::LostUnreadable, 1);
                return 0;
            }
        }
    }
    if call.flags & RESIZES != 0 {
        pointer = if pointer >= call.size { call.pointer } else { 0 };
    }
    if call.flags & REALLOCATES != 0 && call.pointer != 0 {
        if pointer == 0 && call.size != 0 && call.flags & FREES_ON_FAILURE == 0 {
            let key = block_key(cookie.slot(), call.pointer);
            ledger::reallocation_fails(&mut Maps::new(), key, &call);
            if globals::check_frees() {
                checked::handed_out(cookie.slot(), call.pointer);
            }
            count(Counter::FailedAllocs, 1);
            return 0;
        }
        ledger::reallocation_succeeds(&mut Maps::new(), &call);
        if pointer == 0 {
            if call.size != 0 {
                count(Counter::FailedAllocs, 1);
            }
            return 0;
        }
    }
    if pointer == 0 {
        count(Counter::FailedAllocs, 1);
        return 0;
    }
    if globals::check_frees() {
        checked::handed_out(cookie.slot(), pointer);
    }
    if call.flags & SAMPLED_OUT != 0 {
        count(Counter::SampledOut, 1);
        return 0;
    }
    if !globals::size_is_traced(call.size) {
        count(Counter::Filtered, 1);
        return 0;
    }
    let slot = cookie.slot();
    let sp = entry_sp.wrapping_add(RETURN_POPS);
    let lineage = follow::lineage(target, slot);
    let Some(tables) = unwind::rules::Tables::of(lineage) else {
        count(Counter::LostNoThreadState, 1);
        return 0;
    };
    let (fp, bx) = (arch::frame_pointer(regs), arch::saved_base(regs));
    let Some(hashes) = unwind::walk(thread, &tables, unwind::Start { ip, sp, fp, bx }) else {
        count(Counter::LostNoThreadState, 1);
        return 0;
    };
    let (stack, mut maps) = keep_stack(thread, lineage, hashes);
    // What is booked now must not look older than the target's opening.
    let since = since(target);
    let block = Block::new(call.size, family, stack, born_now(thread, since));
    ledger::allocated(&mut maps, block_key(slot, pointer), &block, since);
    0
}

/// `a * b`, or the largest number when that overflows: the allocator refuses such a call.
#[inline(always)]
fn multiply(a: u64, b: u64) -> u64 {
    if a == 0 {
        return 0;
    }
    // Seen through, the compiler would make this a 128-bit multiplication, which BPF lacks.
    let largest = opaque(u64::MAX / a);
    if b > largest { u64::MAX } else { a.wrapping_mul(b) }
}
