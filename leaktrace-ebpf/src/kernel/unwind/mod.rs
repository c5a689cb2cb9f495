//! Walking the stack of a probed thread, by unwind tables and frame pointers.
//!
//! From a frame to its caller: [`rules`] knows where the caller's registers are, [`window`] reads
//! them from the stack. Where no unwind data covers the code, it is taken to keep frame pointers:
//! generated code does.

use leaktrace_ebpf::{
    records::{
        ENDING_COMPLETE, ENDING_DEPTH, ENDING_LOST, ENDING_UNMAPPED, FRAME_INTERRUPTED, MAX_FRAMES,
    },
    stack_id::StackHasher,
    unwind::{Kind, Rule},
};

use aya_ebpf::{cty::c_void, helpers::generated::bpf_loop};

use crate::kernel::{
    globals,
    maps::THREADS,
    registers::{read_u64, try_read_u64},
    thread::Thread,
    verifier::{forget, mask_unless_0, opaque},
};

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

pub(crate) mod rules;
pub(crate) mod trail;
pub(crate) mod window;

use rules::Tables;

const PAGE: u64 = 4096;
const WORD: u64 = 8;

/// Where a walk stands. It lies in a map value, and every access is volatile: so the verifier
/// knows nothing of the values, and each round of the loop looks like the one before.
#[repr(C)]
pub(crate) struct Walk {
    /// The address by which the present frame's rule is looked up: of its call, or of the
    /// instruction at which a signal interrupted it.
    pc: u64,
    /// Its stack pointer.
    sp: u64,
    /// Its frame pointer, unless that is saved at `fp_at`, which is 0 if not: few rules ask for it.
    fp: u64,
    fp_at: u64,
    /// Its rbx, unless that is saved at `bx_at`, which is 0 if not.
    bx: u64,
    bx_at: u64,
    /// Frames found.
    count: u64,
    /// Why the stack ends, or [`GOES_ON`].
    ending: u32,
    reserved: u32,
    /// Always 0, which the verifier does not know.
    zero: u64,
    /// The hashes so far.
    hasher: StackHasher,
}

/// What [`step`] returns when there may be more frames.
const GOES_ON: u32 = u32::MAX;

/// The registers that a walk begins with: of the frame that `ip` returns to, as they will be then.
#[derive(Clone, Copy)]
pub(crate) struct Start {
    pub(crate) ip: u64,
    pub(crate) sp: u64,
    pub(crate) fp: u64,
    pub(crate) bx: u64,
}

/// Walks the stack.
///
/// Fills `thread.stack.frames`, `frame_count` and `ending`; returns the two hashes, or `None` where the
/// thread's state is not to be had just now.
#[inline(always)]
pub(crate) fn walk(thread: &mut Thread, tables: &Tables, start: Start) -> Option<(u64, u32)> {
    window::begin(&mut thread.window, start.sp);
    if !trail::is_unchanged(thread, tables, start) {
        let Start { ip, sp, fp, bx } = start;
        if walk_frames(tables.slot.into(), ip, sp, fp, bx) == 0 {
            return None;
        }
    }
    Some(trail::hashes(thread))
}

/// Walks by the tables of a slot, from [`Start`]; returns 0 if it could not, else 1.
///
/// A global function: the verifier looks at it once in a program, whatever leads here. It is given numbers
/// alone, so it looks for the thread's state again. Linux before 6.2 may refuse that when another handler
/// on this CPU is looking just then.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn walk_frames(slot: u64, ip: u64, sp: u64, fp: u64, bx: u64) -> u64 {
    let Some(thread) = THREADS.get_existing() else { return 0 };
    let Some(tables) = &Tables::of(slot as u16) else { return 0 };
    trail::begin(thread, tables, Start { ip, sp, fp, bx });
    set!(thread.walk.hasher, StackHasher::new(tables.slot));
    set!(thread.walk.sp, sp);
    set!(thread.walk.fp, fp);
    set!(thread.walk.fp_at, 0);
    set!(thread.walk.bx, bx);
    set!(thread.walk.bx_at, 0);
    set!(thread.walk.count, 0);
    push(thread, ip, 0);
    set!(thread.walk.ending, GOES_ON);
    if globals::has_loop() {
        let mut context = Context { thread, tables: *tables };
        // SAFETY: the callback is given `context`, which outlives the call.
        unsafe {
            bpf_loop(
                (MAX_FRAMES as u32).div_ceil(STEPS_AT_ONCE),
                step_of_loop as *const () as *mut c_void,
                (&raw mut context).cast(),
                0,
            );
        }
    } else {
        for _ in 0..MAX_FRAMES {
            if step(thread, tables) != GOES_ON {
                break;
            }
        }
    }
    let mut ending = get!(thread.walk.ending);
    if ending == GOES_ON {
        ending = ENDING_DEPTH;
    }
    window::remember_reach(&mut thread.window, sp, get!(thread.walk.sp));
    thread.stack.frame_count = get!(thread.walk.count) as u32;
    thread.stack.ending = ending;
    // The same frames that end for another reason are another stack.
    let mut hasher = get!(thread.walk.hasher);
    hasher.push(ending as u64);
    trail::end(thread, ending == ENDING_COMPLETE || ending == ENDING_DEPTH, hasher.finish());
    1
}

/// Each round of `bpf_loop` takes so many steps: a call of its callback costs a third of one.
const STEPS_AT_ONCE: u32 = 6;

/// What [`step_of_loop`] works on.
#[repr(C)]
struct Context {
    thread: *mut Thread,
    tables: Tables,
}

/// [`step`], as the callback of the helper `bpf_loop`; returns 1 to end the loop.
unsafe extern "C" fn step_of_loop(_index: u64, context: *mut Context) -> i64 {
    // SAFETY: `walk_frames` hands over its own context.
    let (thread, tables) = unsafe { (&mut *(*context).thread, &(*context).tables) };
    for _ in 0..STEPS_AT_ONCE {
        if step(thread, tables) != GOES_ON {
            return 1;
        }
    }
    0
}

/// Finds the caller of the present frame and notes why there is none; returns [`GOES_ON`] or
/// something else.
#[inline(always)]
fn step(thread: &mut Thread, tables: &Tables) -> u32 {
    let ending = find_caller(thread, tables);
    set!(thread.walk.ending, ending);
    ending
}

/// Finds the caller of the present frame; returns [`GOES_ON`] or why the stack ends.
#[inline(always)]
fn find_caller(thread: &mut Thread, tables: &Tables) -> u32 {
    let rule = rules::find(tables, get!(thread.walk.pc));
    if rule == rules::NONE {
        return ENDING_UNMAPPED;
    }
    let rule = Rule(rule);
    let kind = rule.kind();
    let sp = get!(thread.walk.sp);
    let mut fp = 0;
    let asks_fp = kind == Kind::Fp as u64
        || kind == Kind::Uncovered as u64
        || kind == Kind::Silent as u64
        || kind == Kind::FpDeref as u64;
    if asks_fp && !frame_pointer(thread, &mut fp) {
        return ENDING_LOST;
    }
    let mut cfa = sp;
    // Where the caller's frame pointer is saved, or 0 if it is where it was.
    let mut fp_at = 0;
    // And its rbx.
    let mut bx_at = 0;
    if kind == Kind::Sp as u64 || kind == Kind::Fp as u64 {
        if kind == Kind::Fp as u64 {
            cfa = fp;
        }
        cfa = cfa.wrapping_add(rule.cfa() as u64);
        fp_at = saved_at(cfa, rule.fp());
        bx_at = saved_at(cfa, rule.third());
    } else if kind == Kind::Uncovered as u64 || kind == Kind::Silent as u64 {
        if fp == 0 {
            return if kind == Kind::Silent as u64 { ENDING_LOST } else { ENDING_COMPLETE };
        }
        cfa = fp.wrapping_add(2 * WORD);
        fp_at = fp;
    } else if kind == Kind::End as u64 {
        return ENDING_COMPLETE;
    } else if kind == Kind::Signal as u64 {
        trail::give_up(thread);
        return leave_signal(thread, sp);
    } else if kind == Kind::FpDeref as u64 {
        trail::give_up(thread);
        cfa = read_u64(fp.wrapping_add(rule.cfa() as u64)).wrapping_add(rule.third() as u64);
        fp_at = fp.wrapping_add(rule.fp() as u64);
    } else if kind == Kind::SpDeref as u64 {
        trail::give_up(thread);
        cfa = read_u64(sp.wrapping_add(rule.cfa() as u64)).wrapping_add(rule.third() as u64);
        fp_at = saved_at(cfa, rule.fp());
    } else if kind == Kind::Plt as u64 {
        cfa = sp.wrapping_add(WORD);
        if get!(thread.walk.pc) & 15 >= rule.cfa() as u64 / WORD {
            cfa = cfa.wrapping_add(WORD);
        }
    } else if kind == Kind::Bx as u64 {
        trail::give_up(thread);
        cfa = get!(thread.walk.bx);
        if get!(thread.walk.bx_at) != 0 {
            cfa = read_u64(get!(thread.walk.bx_at));
        }
        cfa = cfa.wrapping_add(rule.cfa() as u64);
        fp_at = saved_at(cfa, rule.fp());
        bx_at = saved_at(cfa, rule.third());
    } else {
        return ENDING_LOST;
    }
    // Whichever the rule was, the verifier need look at the rest only once.
    let zero = get!(thread.walk.zero);
    cfa = forget(cfa, zero);
    fp_at = forget(fp_at, zero);
    bx_at = forget(bx_at, zero);
    let sp = get!(thread.walk.sp);
    // Frames lie one above another.
    if cfa <= sp || (cfa | fp_at) & (WORD - 1) != 0 {
        return ENDING_LOST;
    }
    let return_at = cfa - WORD;
    let mut lowest = return_at;
    if fp_at < lowest && lowest - fp_at <= window::BYTES - WORD {
        lowest = fp_at;
    }
    if !window::cover(&mut thread.window, lowest, cfa - lowest) {
        return ENDING_LOST;
    }
    let mut ip = window::word(&thread.window, return_at);
    trail::note(thread, return_at, ip);
    if (ip as i64) < PAGE as i64 {
        if ip != 0 {
            return ENDING_LOST;
        }
        // A chain of frame pointers ends with both; zeros lie about everywhere.
        if fp_at != 0 && fp_at == return_at - WORD {
            let mut fp = 0;
            if frame_pointer(thread, &mut fp) && fp_at == fp {
                let outermost = window::word(&thread.window, fp_at);
                trail::note(thread, fp_at, outermost);
                if outermost != 0 {
                    return ENDING_LOST;
                }
            }
        }
        return ENDING_COMPLETE;
    }
    if thread.open.depth() != 0 {
        let covered = thread.open.return_address_at(return_at);
        if covered != 0 {
            ip = covered;
        }
    }
    if fp_at != 0 {
        set!(thread.walk.fp_at, fp_at);
    }
    if bx_at != 0 {
        set!(thread.walk.bx_at, bx_at);
    }
    set!(thread.walk.sp, cfa);
    push(thread, ip, 0)
}

/// Where a register is saved, by its offset from the CFA; 0 without one. No branches, as in
/// [`trail::note`].
#[inline(always)]
fn saved_at(cfa: u64, offset: i64) -> u64 {
    cfa.wrapping_add(offset as u64) & mask_unless_0(offset as u64)
}

/// The present frame's frame pointer; false if it cannot be read.
#[inline(always)]
fn frame_pointer(thread: &mut Thread, fp: &mut u64) -> bool {
    let at = get!(thread.walk.fp_at);
    if at == 0 {
        *fp = get!(thread.walk.fp);
        trail::note_fp(thread);
        return true;
    }
    if window::has(&thread.window, at) {
        *fp = window::word(&thread.window, at);
    } else if !try_read_u64(at, fp) {
        return false;
    }
    trail::note(thread, at, *fp);
    true
}

/// Goes on in the frame that a signal interrupted. The kernel has saved its registers in a
/// `struct ucontext` at the stack pointer (`arch/x86/include/uapi/asm/sigcontext.h`).
#[inline(always)]
fn leave_signal(thread: &mut Thread, context: u64) -> u32 {
    const RBP: u64 = 120;
    const RBX: u64 = 128;
    const RSP: u64 = 160;
    const RIP: u64 = 168;
    let ip = read_u64(context.wrapping_add(RIP));
    if (ip as i64) < PAGE as i64 {
        return ENDING_LOST;
    }
    set!(thread.walk.fp, read_u64(context.wrapping_add(RBP)));
    set!(thread.walk.fp_at, 0);
    set!(thread.walk.bx_at, context.wrapping_add(RBX));
    set!(thread.walk.sp, read_u64(context.wrapping_add(RSP)));
    push(thread, ip, FRAME_INTERRUPTED)
}

/// Adds a frame. Its rule is looked up by the call before the return address `ip`, or by `ip`
/// itself if a signal interrupted it.
#[inline(always)]
fn push(thread: &mut Thread, ip: u64, interrupted: u64) -> u32 {
    let count = get!(thread.walk.count);
    let index = opaque(count) & 0x7f;
    if index as usize >= MAX_FRAMES {
        return ENDING_DEPTH;
    }
    let frame = ip | interrupted;
    thread.stack.frames[index as usize] = frame;
    let mut hasher = get!(thread.walk.hasher);
    hasher.push(frame);
    set!(thread.walk.hasher, hasher);
    set!(thread.walk.count, count + 1);
    set!(thread.walk.pc, ip - 1 + (interrupted >> 63));
    GOES_ON
}
