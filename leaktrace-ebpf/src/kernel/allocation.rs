//! The handlers on the allocation functions.
//!
//! At entry the arguments are noted, at return the new block is booked under its stack. A free is
//! booked before it happens: afterwards another thread could already have been given the block.

use aya_ebpf::{
    EbpfContext,
    bindings::pt_regs,
    helpers::generated::bpf_get_attach_cookie,
    macros::{uprobe, uretprobe},
    programs::{ProbeContext, RetProbeContext},
};
use aya_log_ebpf::debug;
use leaktrace_ebpf::{
    calls::{HAS_OLD, MAX_OPEN_CALLS, OpenCall, Place, REALLOCATES},
    cookie::{Cookie, NO_ARGUMENT},
    ledger,
    records::{
        Block, Counter, MAX_ALLOCATOR_RANGES, TARGET_EXECED, TARGET_OPEN, Target, block_key,
    },
};

use crate::kernel::{
    clock::time_of_tick,
    globals,
    maps::{TARGETS, THREADS},
    registers::{RETURN_POPS, arch, read_u64},
    store::{Maps, count, keep_stack},
    thread::Thread,
    unwind,
    verifier::opaque,
};

/// Runs at the entry of every function that returns a block.
#[uprobe]
pub(crate) fn allocation_entry(ctx: ProbeContext) -> u32 {
    let cookie = hit(&ctx);
    let Some(target) = open_target(cookie) else {
        return 0;
    };
    let Some(thread) = THREADS.get_or_create() else {
        count(Counter::LostNoThreadState, 1);
        return 0;
    };
    // SAFETY: the context of a uprobe is the thread's registers.
    let regs = unsafe { &*ctx.regs };
    let sp = arch::stack_pointer(regs);
    if thread.open.depth() != 0 && is_nested(&ctx, thread, target, cookie, sp) {
        count(Counter::NestedCalls, 1);
        return 0;
    }
    let mut size = arch::argument(regs, cookie.size());
    if cookie.count() != NO_ARGUMENT {
        size = multiply(size, arch::argument(regs, cookie.count()));
    }
    let pointer = arch::argument(regs, cookie.pointer());
    let thread_nests = thread.nests != 0;
    // What is called inside an open call may walk through that: then, or the next time.
    if thread.open.depth() != 0 {
        thread.nests = 1;
    }
    let Some(call) = thread.open.push() else {
        count(Counter::LostTooDeep, 1);
        return 0;
    };
    call.sp = sp;
    call.size = size;
    call.out = arch::argument(regs, cookie.out());
    call.pointer = pointer;
    call.function = cookie.function_and_slot();
    call.flags = 0;
    // Reading it takes as long as the rest of this handler, and only a walk through this call
    // will ask for it: from a signal handler.
    call.return_address = if thread_nests { arch::return_address(regs) } else { 0 };
    if cookie.reallocates() {
        call.flags = REALLOCATES;
        if pointer != 0 {
            let key = block_key(cookie.slot(), pointer);
            ledger::reallocation_begins(&mut Maps::new(), key, target.since_ns, call);
        }
    }
    0
}

/// Runs when such a function has returned.
#[uretprobe]
pub(crate) fn allocation_return(ctx: RetProbeContext) -> u32 {
    let cookie = hit(&ctx);
    // SAFETY: the context of a uretprobe is the thread's registers.
    let regs = unsafe { &*ctx.regs };
    let sp = arch::stack_pointer(regs);
    returns(cookie, regs, sp.wrapping_sub(RETURN_POPS), arch::instruction_pointer(regs))
}

/// Runs at a return instruction of such a function, where a return probe would stop an exception
/// from passing through.
#[uprobe]
pub(crate) fn allocation_exit(ctx: ProbeContext) -> u32 {
    let cookie = hit(&ctx);
    // SAFETY: the context of a uprobe is the thread's registers.
    let regs = unsafe { &*ctx.regs };
    returns(cookie, regs, arch::stack_pointer(regs), arch::return_address(regs))
}

/// Books what a call returns that was entered at `entry_sp`, to the code at `ip`.
#[inline(always)]
fn returns(cookie: Cookie, regs: &pt_regs, entry_sp: u64, ip: u64) -> u32 {
    let Some(thread) = THREADS.get_existing() else {
        return 0;
    };
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
    let Some(target) = open_target(cookie) else {
        return 0;
    };

    let mut pointer = arch::returned(regs);
    if call.out != 0 {
        if pointer != 0 {
            pointer = 0;
        } else {
            pointer = read_u64(call.out);
            if pointer == 0 {
                count(Counter::LostUnreadable, 1);
                return 0;
            }
        }
    }
    if call.flags & REALLOCATES != 0 && call.pointer != 0 {
        if pointer == 0 && call.size != 0 {
            let key = block_key(cookie.slot(), call.pointer);
            ledger::reallocation_fails(&mut Maps::new(), key, &call);
            count(Counter::FailedAllocs, 1);
            return 0;
        }
        ledger::reallocation_succeeds(&mut Maps::new(), &call);
        if pointer == 0 {
            return 0;
        }
    }
    if pointer == 0 {
        count(Counter::FailedAllocs, 1);
        return 0;
    }
    if !globals::size_is_traced(call.size) {
        count(Counter::Filtered, 1);
        return 0;
    }
    let slot = cookie.slot();
    let sp = entry_sp.wrapping_add(RETURN_POPS);
    let Some(tables) = unwind::rules::Tables::of(slot) else {
        count(Counter::LostNoThreadState, 1);
        return 0;
    };
    let (fp, bx) = (arch::frame_pointer(regs), arch::saved_base(regs));
    let hashes = unwind::walk(thread, &tables, unwind::Start { ip, sp, fp, bx });
    let (stack_id, mut maps) = keep_stack(thread, slot, hashes);
    // What is booked now must not look older than the target's opening.
    let born_ns = time_of_tick(thread, target.since_ns);
    let block = Block { size: call.size, stack_id, born_ns };
    ledger::allocated(&mut maps, block_key(slot, pointer), &block, target.since_ns);
    0
}

/// Runs where a free begins.
#[uprobe]
pub(crate) fn free_entry(ctx: ProbeContext) -> u32 {
    let cookie = hit(&ctx);
    // SAFETY: the context of a uprobe is the thread's registers.
    let regs = unsafe { &*ctx.regs };
    let pointer = arch::argument(regs, cookie.pointer());
    if pointer == 0 {
        return 0;
    }
    let Some(target) = open_target(cookie) else {
        return 0;
    };
    if let Some(thread) = THREADS.get_existing() {
        let sp = arch::stack_pointer(regs);
        if thread.open.depth() != 0 && is_nested(&ctx, thread, target, cookie, sp) {
            count(Counter::NestedCalls, 1);
            return 0;
        }
    }
    ledger::freed(&mut Maps::new(), block_key(cookie.slot(), pointer), target.since_ns);
    0
}

/// Counts a hit; returns the probe's cookie.
#[inline(always)]
fn hit<C: EbpfContext>(ctx: &C) -> Cookie {
    // SAFETY: the context is the one this program was called with.
    let cookie = Cookie(unsafe { bpf_get_attach_cookie(ctx.as_ptr()) });
    count(Counter::Hits, 1);
    if cookie.stepped() {
        count(Counter::SteppedHits, 1);
    }
    cookie
}

/// The target of a probe, if its events count now.
#[inline(always)]
fn open_target(cookie: Cookie) -> Option<&'static Target> {
    let target = TARGETS.get(cookie.slot() as u32)?;
    if target.state == TARGET_OPEN {
        return Some(target);
    }
    if target.state == TARGET_EXECED {
        count(Counter::LostExec, 1);
    }
    None
}

/// Whether a call entered now belongs to one that is open; forgets those that never returned.
#[inline(always)]
fn is_nested(
    ctx: &ProbeContext,
    thread: &mut Thread,
    target: &Target,
    cookie: Cookie,
    sp: u64,
) -> bool {
    for _ in 0..MAX_OPEN_CALLS {
        if !thread.open.top_is_dead(sp, cookie.function_and_slot()) {
            break;
        }
        if globals::verbose() {
            debug!(ctx, "a call at stack pointer {:x} never returned", thread.open.top().sp);
        }
        abandon_top(thread, cookie.slot());
    }
    let place = thread.open.place(sp) as u32;
    if place == Place::Nested as u32 {
        return true;
    }
    if place == Place::Outermost as u32 {
        return false;
    }
    // SAFETY: the context of a uprobe is the thread's registers.
    let caller = arch::return_address(unsafe { &*ctx.regs });
    let nested = is_allocator_code(target, caller);
    if globals::verbose() {
        debug!(ctx, "a call from {:x} inside an open call: nested = {}", caller, nested as u32);
    }
    nested
}

#[inline(always)]
fn is_allocator_code(target: &Target, address: u64) -> bool {
    // Returning early keeps the verifier's paths few: none remembers what an earlier range said.
    let mut index = 0;
    while index < MAX_ALLOCATOR_RANGES {
        let [start, end] = target.ranges[index];
        if (index as u32) >= target.range_count {
            return false;
        }
        if address >= start && address < end {
            return true;
        }
        index += 1;
    }
    false
}

/// Forgets the call on top, which will never return; a block that went into it lives on.
#[inline(always)]
fn abandon_top(thread: &mut Thread, slot: u16) {
    let call: OpenCall = *thread.open.top();
    thread.open.pop();
    count(Counter::AbandonedCalls, 1);
    if call.flags & HAS_OLD != 0 && (call.function >> 16) as u16 == slot {
        ledger::reallocation_fails(&mut Maps::new(), block_key(slot, call.pointer), &call);
    }
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
