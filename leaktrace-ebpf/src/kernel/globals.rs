//! Load-time globals: set by userspace before the verifier runs, so that what is off costs
//! nothing.
//!
//! Each has `.rodata` to itself by `link_section`, or the compiler may merge it with an equal
//! constant.

use leaktrace_ebpf::{cookie::FIXED_SIZES as FIXED_SIZE_COUNT, sampling::Sampling};

/// 1: log what happens, by aya-log.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".rodata")]
static VERBOSE: u32 = 0;

/// Blocks smaller than this are not recorded.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".rodata")]
static MIN_SIZE: u64 = 0;

/// Blocks larger than this are not recorded.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".rodata")]
static MAX_SIZE: u64 = u64::MAX;

/// Device and inode of leaktrace's own PID namespace, or 0 in the initial one.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".rodata")]
static PID_NAMESPACE_DEVICE: u64 = 0;

/// See [`PID_NAMESPACE_DEVICE`].
#[unsafe(no_mangle)]
#[unsafe(link_section = ".rodata")]
static PID_NAMESPACE_INODE: u64 = 0;

/// 1: the kernel has the helper `bpf_loop` (Linux 5.17). Without it the unwinder is verified frame
/// by frame, which takes most of a second.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".rodata")]
static HAS_LOOP: u32 = 0;

/// How many buckets `BLOCKS` has.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".rodata")]
static BUCKETS: u32 = 1;

/// How many places `STACKS` has.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".rodata")]
static STACK_PLACES: u32 = 2;

/// When the session began (`CLOCK_MONOTONIC`, ns): births are told from then on.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".rodata")]
static START_NS: u64 = 0;

/// One sample for so many bytes; 0: every allocation. See [`Sampling`].
#[unsafe(no_mangle)]
#[unsafe(link_section = ".rodata")]
static SAMPLE_BYTES: u64 = 0;

/// See [`Sampling::scale`].
#[unsafe(no_mangle)]
#[unsafe(link_section = ".rodata")]
static SAMPLE_SCALE: u64 = 0;

/// What blocks of functions count that are not told a size, in bytes; see
/// [`leaktrace_ebpf::cookie::Signature::fixed_size`].
#[unsafe(no_mangle)]
#[unsafe(link_section = ".rodata")]
static FIXED_SIZES: [u64; FIXED_SIZE_COUNT] = [0; FIXED_SIZE_COUNT];

/// 1: frees are checked.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".rodata")]
static CHECK_FREES: u32 = 0;

/// 1: children are followed, and slots are those of the present process rather than the probe's.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".rodata")]
static FOLLOW: u32 = 0;

/// Where `struct task_struct` has its `pid`, in bytes; set where children are followed.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".rodata")]
static TASK_PID_AT: u64 = 0;

macro_rules! read {
    ($name:ident) => {
        // SAFETY: a static of plain data; volatile, since userspace patches it before loading.
        unsafe { core::ptr::read_volatile(&raw const $name) }
    };
}

#[inline(always)]
pub(crate) fn verbose() -> bool {
    read!(VERBOSE) != 0
}

#[inline(always)]
pub(crate) fn follows() -> bool {
    read!(FOLLOW) != 0
}

#[inline(always)]
pub(crate) fn task_pid_at() -> u64 {
    read!(TASK_PID_AT)
}

#[inline(always)]
pub(crate) fn has_loop() -> bool {
    read!(HAS_LOOP) != 0
}

#[inline(always)]
pub(crate) fn buckets() -> u32 {
    read!(BUCKETS)
}

#[inline(always)]
pub(crate) fn stack_places() -> u32 {
    read!(STACK_PLACES)
}

#[inline(always)]
pub(crate) fn start_ns() -> u64 {
    read!(START_NS)
}

#[inline(always)]
pub(crate) fn sampling() -> Sampling {
    Sampling { bytes: read!(SAMPLE_BYTES), scale: read!(SAMPLE_SCALE) }
}

#[inline(always)]
pub(crate) fn size_is_traced(size: u64) -> bool {
    size >= read!(MIN_SIZE) && size <= read!(MAX_SIZE)
}

#[inline(always)]
pub(crate) fn pid_namespace() -> Option<(u64, u64)> {
    let inode = read!(PID_NAMESPACE_INODE);
    if inode == 0 { None } else { Some((read!(PID_NAMESPACE_DEVICE), inode)) }
}

#[inline(always)]
pub(crate) fn check_frees() -> bool {
    read!(CHECK_FREES) != 0
}

#[inline(always)]
pub(crate) fn fixed_size(index: u8) -> u64 {
    let index = usize::from(index) & (FIXED_SIZE_COUNT - 1);
    // SAFETY: an element of a static of plain data; volatile, as all here.
    unsafe { core::ptr::read_volatile((&raw const FIXED_SIZES).cast::<u64>().add(index)) }
}
