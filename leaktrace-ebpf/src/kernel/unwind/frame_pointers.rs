//! Unwinding by the chain of frame pointers: at each one lie the caller's frame pointer and the
//! return address, in that order, on x86-64 and on arm64.
//!
//! The stack is copied in windows: a copy of 4 KiB costs less than three reads of one frame. The
//! first window is as large as the thread's recent walks needed, since most stacks of a thread
//! are alike and many are short.

use aya_ebpf::helpers::generated::bpf_probe_read_user;
use leaktrace_ebpf::{
    records::{ENDING_BROKEN, ENDING_COMPLETE, ENDING_DEPTH, MAX_FRAMES},
    stack_id::StackHasher,
};

use crate::kernel::{
    thread::{Thread, WINDOW_BYTES},
    verifier::opaque,
};

const WINDOW: u64 = WINDOW_BYTES as u64;
const WINDOW_MASK: u64 = WINDOW / 8 - 1;
const PAGE: u64 = 4096;
/// What lies at a frame pointer.
const FRAME_BYTES: u64 = 16;

/// Where a walk stands. It lives in a map value, and every access is volatile: so the verifier
/// knows nothing of the values, and each round of the loop looks like the one before.
#[repr(C)]
pub(crate) struct Walk {
    /// The frame pointer to follow next.
    fp: u64,
    /// The lowest address that it may have: frames lie one above another.
    floor: u64,
    /// What the window is a copy of.
    base: u64,
    /// How many bytes of the window are valid.
    valid: u64,
    /// Frames found.
    count: u64,
    /// The hashes so far.
    hasher: StackHasher,
}

macro_rules! get {
    ($place:expr) => {
        // SAFETY: a field of a map value.
        unsafe { core::ptr::read_volatile(&raw const $place) }
    };
}

macro_rules! set {
    ($place:expr, $value:expr) => {
        // SAFETY: a field of a map value.
        unsafe { core::ptr::write_volatile(&raw mut $place, $value) }
    };
}

/// Walks from the frame whose code is at `ip`, with stack pointer `sp` and frame pointer `fp`.
///
/// Fills `thread.stack.frames`, `frame_count` and `ending`; returns the two hashes.
#[inline(always)]
pub(crate) fn walk(thread: &mut Thread, slot: u16, ip: u64, sp: u64, fp: u64) -> (u64, u32) {
    let mut hasher = StackHasher::new(slot);
    hasher.push(ip);
    thread.stack.frames[0] = ip;
    set!(thread.walk.hasher, hasher);
    set!(thread.walk.fp, fp);
    set!(thread.walk.floor, sp);
    set!(thread.walk.base, sp);
    set!(thread.walk.valid, 0);
    set!(thread.walk.count, 1);
    let mut ending = ENDING_DEPTH;
    for _ in 1..MAX_FRAMES {
        ending = step(thread);
        if ending != GOES_ON {
            break;
        }
    }
    if ending == GOES_ON {
        ending = ENDING_DEPTH;
    }
    remember_reach(thread, sp);
    thread.stack.frame_count = get!(thread.walk.count) as u32;
    thread.stack.ending = ending;
    get!(thread.walk.hasher).finish()
}

/// What [`step`] returns when there may be more frames.
const GOES_ON: u32 = u32::MAX;

/// Finds one more frame; returns [`GOES_ON`] or why the stack ends.
#[inline(always)]
fn step(thread: &mut Thread) -> u32 {
    let fp = get!(thread.walk.fp);
    if fp == 0 {
        return ENDING_COMPLETE;
    }
    if fp < get!(thread.walk.floor) || fp & 7 != 0 {
        return ENDING_BROKEN;
    }
    let mut offset = fp.wrapping_sub(get!(thread.walk.base));
    if offset.wrapping_add(FRAME_BYTES) > get!(thread.walk.valid) {
        // The first window begins at the stack pointer, if the first frame lies in it.
        let mut wanted = WINDOW;
        if get!(thread.walk.valid) != 0 || offset > WINDOW - FRAME_BYTES {
            set!(thread.walk.base, fp);
            offset = 0;
        } else if offset + FRAME_BYTES <= get!(thread.reach) {
            wanted = get!(thread.reach);
        }
        fill(thread, wanted);
        if offset.wrapping_add(FRAME_BYTES) > get!(thread.walk.valid) {
            return ENDING_BROKEN;
        }
    }
    let next = thread.window[(opaque(offset >> 3) & WINDOW_MASK) as usize];
    let return_address = thread.window[(opaque((offset >> 3) + 1) & WINDOW_MASK) as usize];
    if return_address < PAGE {
        return ENDING_COMPLETE;
    }
    let count = get!(thread.walk.count);
    let index = opaque(count) & 0x7f;
    if index as usize >= MAX_FRAMES {
        return ENDING_DEPTH;
    }
    thread.stack.frames[index as usize] = return_address;
    let mut hasher = get!(thread.walk.hasher);
    hasher.push(return_address);
    set!(thread.walk.hasher, hasher);
    set!(thread.walk.count, count + 1);
    set!(thread.walk.floor, fp + FRAME_BYTES);
    set!(thread.walk.fp, next);
    GOES_ON
}

/// Copies `wanted` bytes of the stack, from the walk's base on, into the window, and notes how many
/// are valid.
///
/// A copy that runs past the top of the stack faults and costs more than the rest of the walk,
/// so the top is remembered.
#[inline(always)]
fn fill(thread: &mut Thread, wanted: u64) {
    let base = get!(thread.walk.base);
    let known_top = get!(thread.stack_top);
    let bytes;
    if known_top > base && known_top - base < wanted {
        bytes = known_top - base;
    } else if copy(thread, base, wanted) {
        set!(thread.walk.valid, wanted);
        return;
    } else {
        bytes = PAGE - (base & (PAGE - 1));
        set!(thread.stack_top, base + bytes);
    }
    set!(thread.walk.valid, if copy(thread, base, bytes) { bytes } else { 0 });
}

/// Notes how much of the stack above `sp` a walk needed. It shrinks slowly: a second copy costs
/// more than a first that is too large.
#[inline(always)]
fn remember_reach(thread: &mut Thread, sp: u64) {
    // One frame more than was found: the walk looks at it to know that it is over.
    let used = get!(thread.walk.floor).wrapping_sub(sp).wrapping_add(2 * FRAME_BYTES);
    let before = get!(thread.reach);
    let shrunk = before - (before >> 3);
    let reach = if used > shrunk { used } else { shrunk };
    set!(thread.reach, if reach > WINDOW { WINDOW } else { reach });
}

#[inline(always)]
fn copy(thread: &mut Thread, base: u64, bytes: u64) -> bool {
    let window = thread.window.as_mut_ptr().cast();
    let bytes = opaque(bytes) & (2 * WINDOW - 1);
    if bytes > WINDOW {
        return false;
    }
    // SAFETY: `bytes` is at most the size of the window, and the helper checks the source.
    unsafe { bpf_probe_read_user(window, bytes as u32, base as *const _) == 0 }
}
