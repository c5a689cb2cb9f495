//! Children: which process is traced under which slot, from its fork to its end.
//!
//! Probes are inherited (`leaktrace/src/probe/followed.rs`), and so the cookie of a hit says nothing of
//! whose it is: the process does. A child that is forked gets a slot out of a pool that userspace
//! fills; it begins as a copy of its parent's target. One that shares its parent's memory until it
//! calls exec (vfork, `posix_spawn`) counts as its parent until then.

use aya_ebpf::{
    helpers::{bpf_get_current_pid_tgid, bpf_probe_read_kernel, generated::bpf_ktime_get_boot_ns},
    macros::raw_tracepoint,
    programs::RawTracePointContext,
};
use leaktrace_ebpf::{
    cookie::Cookie,
    records::{
        CHILD_EXITED, CHILD_LIVES, CHILD_REPLACED, Child, Counter, ExecRecord, NO_SLOT,
        RECORD_EXEC, TARGET_CLOSED, TARGET_EXECED, TARGET_OPEN, Target, WATCH_HOLDS, WATCH_SHARES,
        Watched,
    },
};

use crate::kernel::{
    globals,
    lifecycle::tell_of_exec,
    maps::{CHILDREN, FREE_SLOTS, TARGETS, WATCHED},
    store::count,
};

/// `CLONE_VM` and `CLONE_THREAD` of `include/uapi/linux/sched.h`.
const CLONE_VM: u64 = 0x100;
const CLONE_THREAD: u64 = 0x1_0000;

/// The present thread-group id. Children are only followed where leaktrace counts processes as the
/// kernel does.
#[inline(always)]
fn present() -> u32 {
    (bpf_get_current_pid_tgid() >> 32) as u32
}

/// The slot of the present process; [`NO_SLOT`] for a stranger.
#[inline(always)]
pub(crate) fn present_slot() -> u32 {
    match WATCHED.get_ptr(present()) {
        // SAFETY: a pointer to a map value, good until the end of the program.
        Some(watched) => unsafe { (*watched).slot },
        None => NO_SLOT,
    }
}

/// A probe's cookie, as that of the present process.
#[inline(always)]
pub(crate) fn as_present(cookie: Cookie) -> Cookie {
    if globals::follows() { cookie.of_slot(present_slot() as u16) } else { cookie }
}

/// Whether the present process began with a copy of another's blocks.
#[inline(always)]
pub(crate) fn is_forked() -> bool {
    match TARGETS.get(present_slot()) {
        Some(target) => target.forked != 0,
        None => false,
    }
}

/// A task is about to begin: its `struct task_struct`, and the flags of its clone. Not a program of the
/// tracepoint's perf event: the kernel leaves those out, and need not say so, whenever it is at work on
/// any map on this CPU.
#[raw_tracepoint(tracepoint = "task_newtask")]
pub(crate) fn new_task(ctx: RawTracePointContext) -> i32 {
    let (task, flags) = (ctx.arg::<u64>(0), ctx.arg::<u64>(1));
    if flags & CLONE_THREAD != 0 {
        return 0;
    }
    let Some(watched) = WATCHED.get_ptr(present()) else {
        return 0;
    };
    // SAFETY: a pointer to a map value, good until the end of the program.
    let watched = unsafe { *watched };
    let Some(parent) = TARGETS.get_ptr(watched.slot) else {
        return 0;
    };
    // SAFETY: as above.
    let state = unsafe { (*parent).state };
    if state == TARGET_CLOSED {
        return 0;
    }
    count(Counter::Children, 1);
    // SAFETY: the helper checks what it reads.
    let pid = unsafe { bpf_probe_read_kernel((task + globals::task_pid_at()) as *const u32) };
    let Ok(pid) = pid else {
        count(Counter::LostChildren, 1);
        return 0;
    };
    if flags & CLONE_VM != 0 {
        let shares = Watched { slot: watched.slot, hold: watched.hold | WATCH_SHARES };
        if WATCHED.insert(pid, shares, 0).is_err() {
            count(Counter::LostChildren, 1);
        }
        return 0;
    }
    let Ok(Some(slot)) = FREE_SLOTS.pop() else {
        count(Counter::LostChildren, 1);
        return 0;
    };
    let (Some(target), Some(child)) = (TARGETS.get_ptr_mut(slot), CHILDREN.get_ptr_mut(slot))
    else {
        return 0;
    };
    // SAFETY: pointers to map values; nobody uses those of a slot that is free.
    unsafe {
        *target = *parent;
        (*target).forked = 1;
        *child = Child {
            pid,
            origin: (*parent).lineage,
            exited_ns: 0,
            state: CHILD_LIVES,
            parent: NO_SLOT,
        };
        // The parent's program has no probes of its own yet: the child is planned by itself.
        if state != TARGET_OPEN {
            (*target).lineage = slot;
            (*child).parent = watched.slot;
            if let Some(before) = CHILDREN.get_ptr(watched.slot) {
                (*child).origin = (*before).origin;
            }
        }
    }
    let own = Watched { slot, hold: watched.hold & WATCH_HOLDS };
    if WATCHED.insert(pid, own, 0).is_err() {
        // SAFETY: as above. The look for those that ended gives the slot back.
        unsafe { (*child).state = CHILD_REPLACED };
        count(Counter::LostChildren, 1);
    } else if state != TARGET_OPEN {
        tell_of_exec(ExecRecord { kind: RECORD_EXEC, pid, slot, held: 0 });
    }
    0
}

/// A task ends. Of a process whose main thread ends, userspace finds out whether others go on.
#[raw_tracepoint(tracepoint = "sched_process_exit")]
pub(crate) fn task_exit(_ctx: RawTracePointContext) -> i32 {
    let both = bpf_get_current_pid_tgid();
    let pid = present();
    if pid != both as u32 {
        return 0;
    }
    let Some(watched) = WATCHED.get_ptr(pid) else {
        return 0;
    };
    // SAFETY: a pointer to a map value, good until the end of the program.
    let watched = unsafe { *watched };
    if watched.hold & WATCH_SHARES != 0 {
        // Nothing is to be done if it is gone already.
        let _ = WATCHED.remove(pid);
        return 0;
    }
    if let Some(child) = CHILDREN.get_ptr_mut(watched.slot) {
        // SAFETY: as above; only this process writes it while it lives.
        unsafe {
            if (*child).state == CHILD_LIVES {
                (*child).exited_ns = bpf_ktime_get_boot_ns();
                (*child).state = CHILD_EXITED;
            }
        }
    }
    0
}

/// A process that is watched calls exec: it gets a new slot. Returns that, or [`NO_SLOT`] when there
/// is none left. A process that is not followed yet keeps its own.
#[inline(always)]
pub(crate) fn slot_after_exec(pid: u32, watched: Watched) -> u32 {
    let (Some(child), Some(target)) =
        (CHILDREN.get_ptr_mut(watched.slot), TARGETS.get_ptr_mut(watched.slot))
    else {
        return watched.slot;
    };
    // SAFETY: pointers to map values, good until the end of the program.
    let (state, origin, window) = unsafe { ((*child).state, (*target).lineage, (*target).window) };
    // Another thread than the main one may call exec: the main one has ended then.
    if state != CHILD_LIVES && state != CHILD_EXITED {
        return watched.slot;
    }
    if watched.hold & WATCH_SHARES == 0 {
        // SAFETY: as above; the memory that they are about is gone.
        unsafe {
            (*target).state = TARGET_EXECED;
            (*child).state = CHILD_REPLACED;
        }
    }
    let Ok(Some(slot)) = FREE_SLOTS.pop() else {
        count(Counter::LostChildren, 1);
        let _ = WATCHED.remove(pid);
        return NO_SLOT;
    };
    if let (Some(target), Some(child)) = (TARGETS.get_ptr_mut(slot), CHILDREN.get_ptr_mut(slot)) {
        // SAFETY: as above; nobody uses those of a slot that is free.
        unsafe {
            (*target).state = TARGET_EXECED;
            (*target).lineage = slot;
            (*target).forked = 0;
            (*target).window = window;
            *child = Child { pid, origin, exited_ns: 0, state: CHILD_LIVES, parent: NO_SLOT };
        }
    }
    let own = Watched { slot, hold: watched.hold & WATCH_HOLDS };
    if WATCHED.insert(pid, own, 0).is_err() {
        count(Counter::LostChildren, 1);
    }
    slot
}

/// The slot whose tables and stacks those of a target are.
#[inline(always)]
pub(crate) fn lineage(target: &Target, slot: u16) -> u16 {
    if globals::follows() { target.lineage as u16 } else { slot }
}
