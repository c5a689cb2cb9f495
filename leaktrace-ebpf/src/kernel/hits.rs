//! What every handler asks first: whose probe was hit, does that count now, and is the call part of
//! another that counts already.

use aya_ebpf::{EbpfContext, helpers::generated::bpf_get_attach_cookie, programs::ProbeContext};
use aya_log_ebpf::debug;
use leaktrace_ebpf::{
    calls::{HAS_OLD, MAX_OPEN_CALLS, OpenCall, Place},
    cookie::Cookie,
    ledger,
    records::{
        Counter, MAX_ALLOCATOR_RANGES, TARGET_DRAINING, TARGET_EXECED, TARGET_OPEN, Target,
        block_key, first_born,
    },
};

use crate::kernel::{
    checked,
    clock::Timer,
    follow, globals,
    maps::TARGETS,
    registers::arch,
    store::{Maps, count, note_hit},
    thread::Thread,
};

/// Counts a hit; returns the probe's cookie, and what times it.
#[inline(always)]
pub(crate) fn hit<C: EbpfContext>(ctx: &C, returns: bool) -> (Cookie, Timer) {
    // SAFETY: the context is the one this program was called with.
    let cookie = follow::as_present(Cookie(unsafe { bpf_get_attach_cookie(ctx.as_ptr()) }));
    let hits_before = note_hit(cookie.slot(), cookie.stepped(), returns);
    (cookie, Timer::of_hit(hits_before))
}

/// The target of a probe, if its events count now.
#[inline(always)]
pub(crate) fn open_target(cookie: Cookie) -> Option<&'static Target> {
    let target = TARGETS.get(cookie.slot() as u32)?;
    if target.state == TARGET_OPEN || target.state == TARGET_DRAINING {
        return Some(target);
    }
    if target.state == TARGET_EXECED {
        count(Counter::LostExec, 1);
    }
    None
}

/// Forgets calls that were open when an earlier window closed: their returns were not seen. What
/// went into a reallocation then did not come out of it.
#[inline(always)]
pub(crate) fn leave_earlier_window(thread: &mut Thread, target: &Target) {
    if thread.of_window == target.window {
        return;
    }
    thread.of_window = target.window;
    for _ in 0..MAX_OPEN_CALLS {
        if thread.open.depth() == 0 {
            break;
        }
        let call: OpenCall = *thread.open.top();
        thread.open.pop();
        ledger::reallocation_succeeds(&mut Maps::new(), &call);
    }
}

/// The first birth of a block that counts.
#[inline(always)]
pub(crate) fn since(target: &Target) -> u32 {
    first_born(target.since_ns, globals::start_ns())
}

/// Whether a call entered now belongs to one that is open; forgets those that never returned.
#[inline(always)]
pub(crate) fn is_nested(
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
    // SAFETY: the context of a uprobe is the thread's registers.
    let return_address = || arch::return_address(unsafe { &*ctx.regs });
    if thread.open.top_was_thrown_out_of(sp, return_address) {
        abandon_top(thread, cookie.slot());
    }
    let place = thread.open.place(sp) as u32;
    if place == Place::Nested as u32 {
        return true;
    }
    if place == Place::Outermost as u32 {
        return false;
    }
    let caller = return_address();
    let nested = is_allocator_code(target, caller);
    if globals::verbose() {
        debug!(ctx, "a call from {:x} inside an open call: nested = {}", caller, nested as u32);
    }
    nested
}

#[inline(always)]
pub(crate) fn is_allocator_code(target: &Target, address: u64) -> bool {
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
pub(crate) fn abandon_top(thread: &mut Thread, slot: u16) {
    let call: OpenCall = *thread.open.top();
    thread.open.pop();
    count(Counter::AbandonedCalls, 1);
    if call.flags & HAS_OLD != 0 && (call.function >> 16) as u16 == slot {
        ledger::reallocation_fails(&mut Maps::new(), block_key(slot, call.pointer), &call);
        if globals::check_frees() {
            checked::handed_out(slot, call.pointer);
        }
    }
}
