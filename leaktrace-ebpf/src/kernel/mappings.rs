//! Memory that a target maps and unmaps, past its allocators: `mmap`, `munmap`, `mremap`, `brk`.
//!
//! The programs sit on the tracepoints of these system calls, so that all processes run through
//! them: whoever is not traced leaves at the first look-up. What is mapped where is kept in
//! userspace; here it is only told. A range is told as unmapped before it can be given
//! to anybody else, and as mapped after it is.

use aya_ebpf::{
    EbpfContext,
    bindings::pt_regs,
    helpers::{
        bpf_get_current_pid_tgid,
        generated::{
            bpf_get_current_task_btf, bpf_ktime_get_ns, bpf_ringbuf_output, bpf_task_pt_regs,
        },
    },
    macros::tracepoint,
    programs::TracePointContext,
};
use leaktrace_ebpf::{
    calls::INTERRUPTED,
    records::{
        Counter, MAPPING_BREAK, MAPPING_COVERED, MAPPING_FAILED, MAPPING_MAPPED, MAPPING_REMAPPED,
        MAPPING_REMAPS, MAPPING_UNMAPS, MappingRecord, RECORD_MAPPING, TARGET_EXECED, TARGET_OPEN,
        Target, UNKNOWN_STACK,
    },
};

use crate::kernel::{
    follow,
    lifecycle::current_process,
    maps::{MESSAGES, TARGETS, THREADS, WATCHED},
    registers::arch,
    store::{count, keep_stack, stack_is_unknown},
    thread::Thread,
    unwind,
};

const MAP_FIXED: u64 = 0x10;
const MAP_ANONYMOUS: u64 = 0x20;
const MAP_FIXED_NOREPLACE: u64 = 0x10_0000;
const PAGE_MASK: u64 = 4095;
/// Results from here on are the kernel's error numbers.
const FIRST_ERROR: u64 = -4095_i64 as u64;

/// Where the record of a tracepoint has the number of a system call.
const AT_NUMBER: usize = 8;
/// Where it has its arguments, or its result.
const AT_ARGUMENTS: usize = 16;
const AT_RESULT: usize = 16;

/// `mmap`, `mremap` or `brk` has returned. One program for the three: the verifier takes its time for the
/// walk of a stack.
#[tracepoint]
pub(crate) fn mapping_returns(ctx: TracePointContext) -> u32 {
    let (call, address) = (word(&ctx, AT_NUMBER) as u32, word(&ctx, AT_RESULT));
    let regs = registers();
    // `mmap` has its length where `mremap` has the old one.
    let [_, old_length, new_length, flags] = arguments(regs);
    let failed = address >= FIRST_ERROR;
    let (operation, length, flags) = if call == arch::SYS_MREMAP {
        (if failed { MAPPING_FAILED } else { MAPPING_REMAPPED }, new_length, flags)
    } else if call == arch::SYS_BRK {
        (MAPPING_BREAK, 0, 0)
    } else if failed {
        return 0;
    } else if flags & MAP_ANONYMOUS != 0 {
        (MAPPING_MAPPED, old_length, flags)
    } else if flags & MAP_FIXED != 0 && flags & MAP_FIXED_NOREPLACE == 0 {
        (MAPPING_COVERED, old_length, flags)
    } else {
        return 0;
    };
    if operation == MAPPING_FAILED {
        tells(operation, 0, 0, 0);
    } else if operation == MAPPING_COVERED {
        tells(operation, address, length, flags);
    } else {
        tells_of_mapping(regs, operation, address, length, flags);
    }
    0
}

/// `munmap` is called.
#[tracepoint]
pub(crate) fn munmap_begins(ctx: TracePointContext) -> u32 {
    let [address, length] = [0, 1].map(|index| word(&ctx, AT_ARGUMENTS + 8 * index));
    // A call that the kernel will refuse is told of, too, as one of nothing: what an earlier one
    // took out is not to be put back by its failure.
    let refused = address & PAGE_MASK != 0;
    tells(MAPPING_UNMAPS, address, if refused { 0 } else { length }, 0);
    0
}

/// `munmap` has returned.
#[tracepoint]
pub(crate) fn munmap_returns(ctx: TracePointContext) -> u32 {
    if word(&ctx, AT_RESULT) >= FIRST_ERROR {
        tells(MAPPING_FAILED, 0, 0, 0);
    }
    0
}

/// `mremap` is called.
#[tracepoint]
pub(crate) fn mremap_begins(ctx: TracePointContext) -> u32 {
    let [address, old_length, new_length, flags] =
        [0, 1, 2, 3].map(|index| word(&ctx, AT_ARGUMENTS + 8 * index));
    // As above.
    let refused = address & PAGE_MASK != 0 || new_length == 0;
    tells(MAPPING_REMAPS, address, if refused { 0 } else { old_length }, flags);
    0
}

/// A word of a tracepoint's record, which is longer than that.
#[inline(always)]
fn word(ctx: &TracePointContext, at: usize) -> u64 {
    // SAFETY: a read of the context, at a place that the verifier checks.
    unsafe { ctx.as_ptr().cast::<u8>().add(at).cast::<u64>().read_volatile() }
}

/// What the thread's registers were when it entered the kernel.
#[inline(always)]
fn registers() -> *const pt_regs {
    // SAFETY: helpers that give the present thread, and the place where the kernel keeps them.
    unsafe { bpf_task_pt_regs(bpf_get_current_task_btf()) as *const pt_regs }
}

#[inline(always)]
fn arguments(regs: *const pt_regs) -> [u64; 4] {
    // SAFETY: the registers that the thread entered the kernel with; the verifier checks the reads.
    arch::system_call_arguments(regs).map(|place| unsafe { place.read_volatile() })
}

/// The target that the present thread is of, if it is one, and its slot.
#[inline(always)]
fn present_target() -> Option<(u16, &'static Target)> {
    let watched = WATCHED.get_ptr(current_process())?;
    // SAFETY: a pointer to a map value, good until the end of the program.
    let slot = unsafe { (*watched).slot };
    let target = TARGETS.get(slot)?;
    // Between two windows, too, but not before the first.
    if target.since_ns == 0 || target.state == TARGET_EXECED {
        return None;
    }
    // What a forked child maps is not kept: its address space begins as another's.
    if u32::from(follow::lineage(target, slot as u16)) != slot {
        return None;
    }
    Some((slot as u16, target))
}

/// Tells of a call that maps nothing.
#[inline(always)]
fn tells(operation: u32, address: u64, length: u64, flags: u64) {
    if let Some((slot, _)) = present_target() {
        send(MappingRecord { operation, address, length, flags, ..record(slot) });
    }
}

/// Tells of a call that has mapped something, and who called it.
#[inline(always)]
fn tells_of_mapping(regs: *const pt_regs, operation: u32, address: u64, length: u64, flags: u64) {
    let Some((slot, target)) = present_target() else {
        return;
    };
    let mut record = MappingRecord { operation, address, length, flags, ..record(slot) };
    let Some(thread) = THREADS.get_or_create() else {
        count(Counter::LostNoThreadState, 1);
        send(record);
        return;
    };
    // SAFETY: the registers that the thread entered the kernel with; the verifier checks the reads.
    let (ip, sp, fp, bx) = unsafe {
        (
            arch::instruction_pointer(&*regs),
            arch::stack_pointer(&*regs),
            arch::frame_pointer(&*regs),
            arch::saved_base(&*regs),
        )
    };
    if is_inside_allocator(thread, target, slot, sp) {
        record.in_allocator = 1;
    } else if let Some(tables) = unwind::rules::Tables::of(slot)
        && let Some(hashes) = unwind::walk(thread, &tables, unwind::Start { ip, sp, fp, bx })
    {
        let (stack, _) = keep_stack(thread, slot, hashes);
        record.stack = if stack_is_unknown(stack) { UNKNOWN_STACK } else { hashes.0 };
    }
    send(record);
}

/// Whether the thread is inside a call of an allocation function that counts. Where that is not
/// known (in a signal handler, between two windows), the frames of the stack tell.
#[inline(always)]
fn is_inside_allocator(thread: &mut Thread, target: &Target, slot: u16, sp: u64) -> bool {
    if target.state != TARGET_OPEN || thread.of_window != target.window || thread.open.depth() == 0
    {
        return false;
    }
    let call = thread.open.top();
    call.sp >= sp && call.flags & INTERRUPTED == 0 && (call.function >> 16) as u16 == slot
}

#[inline(always)]
fn record(slot: u16) -> MappingRecord {
    MappingRecord {
        kind: RECORD_MAPPING,
        slot: slot as u32,
        thread: bpf_get_current_pid_tgid() as u32,
        // SAFETY: a helper without arguments.
        time_ns: unsafe { bpf_ktime_get_ns() },
        ..MappingRecord::default()
    }
}

#[inline(always)]
fn send(mut record: MappingRecord) {
    // SAFETY: the record is as long as said, and the map is a ring buffer.
    let sent = unsafe {
        bpf_ringbuf_output(
            core::ptr::from_ref(&MESSAGES).cast_mut().cast(),
            (&raw mut record).cast(),
            size_of::<MappingRecord>() as u64,
            0,
        )
    };
    if sent != 0 {
        count(Counter::LostMappings, 1);
    }
}
