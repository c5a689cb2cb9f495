//! What happens to targets besides allocating: exec, signals, and being held until probes are in.

use aya_ebpf::{
    EbpfContext,
    bindings::bpf_pidns_info,
    helpers::{
        bpf_get_current_pid_tgid,
        generated::{
            bpf_get_attach_cookie, bpf_get_ns_current_pid_tgid, bpf_ringbuf_output, bpf_send_signal,
        },
    },
    macros::{raw_tracepoint, uprobe, uretprobe},
    programs::{ProbeContext, RawTracePointContext, RetProbeContext},
};
use aya_log_ebpf::debug;
use leaktrace_ebpf::{
    calls::INTERRUPTED,
    cookie::{Cookie, NO_ARGUMENT},
    records::{
        Counter, ExecRecord, LibrariesRecord, NO_SLOT, RECORD_EXEC, RECORD_LIBRARIES,
        TARGET_EXECED, WATCH_HOLDS,
    },
};

use crate::kernel::{
    follow, globals,
    maps::{MESSAGES, TARGETS, THREADS, WATCHED},
    store::{count, note_hit},
};

const SIGSTOP: u32 = 19;

/// A watched process execs: its blocks are gone with its address space.
#[raw_tracepoint(tracepoint = "sched_process_exec")]
pub(crate) fn process_exec(ctx: RawTracePointContext) -> i32 {
    let pid = current_process();
    let Some(watched) = WATCHED.get_ptr(pid) else {
        return 0;
    };
    // SAFETY: a pointer to a map value, good until the end of the program.
    let watched = unsafe { *watched };
    let mut slot = watched.slot;
    if globals::follows() {
        slot = follow::slot_after_exec(pid, watched);
        if slot == NO_SLOT && watched.slot != NO_SLOT {
            return 0;
        }
    }
    let held = watched.hold & WATCH_HOLDS;
    if let Some(target) = TARGETS.get_ptr_mut(slot) {
        // SAFETY: as above; only this process's exec and userspace write it.
        unsafe {
            // Between two windows, too: none may open any more.
            (*target).state = TARGET_EXECED;
        }
    }
    tell_of_exec(ExecRecord { kind: RECORD_EXEC, pid, slot, held });
    if globals::verbose() {
        debug!(&ctx, "process {} has called exec", pid);
    }
    0
}

/// Tells userspace of an address space to plan; if it is to be held, stops the present process until
/// that is done. Where the ring is full, nobody would let it go on: it is not stopped, and what it
/// allocates is lost, and counted so.
#[inline(always)]
pub(crate) fn tell_of_exec(record: ExecRecord) {
    let Some(mut room) = MESSAGES.reserve::<ExecRecord>(0) else {
        let lost = if globals::follows() { Counter::LostChildren } else { Counter::LostExec };
        count(lost, 1);
        return;
    };
    if record.held != 0 {
        // SAFETY: a helper that signals the present process.
        unsafe { bpf_send_signal(SIGSTOP) };
    }
    room.write(record);
    room.submit(0);
}

/// A signal is delivered: if that interrupts an allocator, what the handler calls is not the
/// allocator's inner call.
#[raw_tracepoint(tracepoint = "signal_deliver")]
pub(crate) fn signal_deliver(_ctx: RawTracePointContext) -> i32 {
    if let Some(thread) = THREADS.get_existing() {
        thread.nests = 1;
        if thread.open.depth() != 0 {
            thread.open.top().flags |= INTERRUPTED;
        }
    }
    0
}

/// Stops a process at this very instruction, until its probes are in.
#[uprobe]
pub(crate) fn hold_here(ctx: ProbeContext) -> u32 {
    // SAFETY: a helper that signals the present process.
    unsafe { bpf_send_signal(SIGSTOP) };
    if globals::verbose() {
        debug!(&ctx, "held process {}", current_process());
    }
    0
}

/// The dynamic loader tells debuggers that its libraries change, or have changed.
#[uprobe]
pub(crate) fn libraries_changed(ctx: ProbeContext) -> u32 {
    // SAFETY: the context is the one this program was called with.
    let mut slot = unsafe { bpf_get_attach_cookie(ctx.as_ptr()) } as u32;
    if globals::follows() {
        slot = follow::present_slot();
    }
    let record = LibrariesRecord { kind: RECORD_LIBRARIES, slot };
    // SAFETY: the record is as long as said, and the map is a ring buffer. If the ring is full,
    // the first stack that leads into a new library tells of it.
    unsafe {
        bpf_ringbuf_output(
            core::ptr::from_ref(&MESSAGES).cast_mut().cast(),
            (&raw const record).cast_mut().cast(),
            size_of::<LibrariesRecord>() as u64,
            0,
        );
    }
    0
}

/// An empty probe: what any probe costs.
#[uprobe]
pub(crate) fn empty(_ctx: ProbeContext) -> u32 {
    0
}

/// An empty return probe.
#[uretprobe]
pub(crate) fn empty_return(_ctx: RetProbeContext) -> u32 {
    0
}

/// Counts calls of allocation functions and does nothing else: what tracing them would cost can be
/// told from it. Not for maps that a trace counts in.
#[uprobe]
pub(crate) fn count_hit(ctx: ProbeContext) -> u32 {
    // SAFETY: the context is the one this program was called with.
    let cookie = Cookie(unsafe { bpf_get_attach_cookie(ctx.as_ptr()) });
    // Only a free is asked for no size.
    count(if cookie.size() == NO_ARGUMENT { Counter::UnknownFrees } else { Counter::Allocs }, 1);
    note_hit(cookie.slot(), cookie.stepped(), false);
    0
}

/// The present thread-group id, as leaktrace's PID namespace knows it; 0 for a stranger to it.
#[inline(always)]
pub(crate) fn current_process() -> u32 {
    let Some((device, inode)) = globals::pid_namespace() else {
        return (bpf_get_current_pid_tgid() >> 32) as u32;
    };
    let mut info = bpf_pidns_info { pid: 0, tgid: 0 };
    // SAFETY: `info` is as large as said.
    unsafe {
        bpf_get_ns_current_pid_tgid(
            device,
            inode,
            &raw mut info,
            size_of::<bpf_pidns_info>() as u32,
        );
    }
    info.tgid
}
