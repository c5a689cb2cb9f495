//! The records that both halves read and write: map values, ring-buffer messages, counters.
//!
//! All are `#[repr(C)]`, without padding, and their sizes are asserted.

/// The most frames of one stack that are kept (the kernel's own `PERF_MAX_STACK_DEPTH`).
pub const MAX_FRAMES: usize = 127;

/// The most targets (address spaces) that one session can trace: the slots of the map `TARGETS`.
pub const MAX_TARGETS: u32 = 1024;

/// The most mappings of allocator code that a [`Target`] can name.
pub const MAX_ALLOCATOR_RANGES: usize = 8;

/// The id under which allocations are booked whose stack could not be kept. Its totals are those
/// at index 0 of the map `STACKS`.
pub const UNKNOWN_STACK: u64 = 0;

/// A live block: what an entry of a [`crate::blocks::Bucket`] knows beside its key.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Block {
    /// Bytes asked for (not the usable size), and the family in the top byte.
    size_and_family: u64,
    /// Where the totals of the stack that allocated it are: see [`crate::stacks::handle`].
    pub stack: u32,
    /// When it was allocated: see [`born`].
    pub born: u32,
}
const _: () = assert!(size_of::<Block>() == 16);

impl Block {
    const SIZE_BITS: u32 = 56;
    const MAX_SIZE: u64 = (1 << Self::SIZE_BITS) - 1;

    /// A block of `size` bytes (no address space has more than 2^56) and of a family (see
    /// [`crate::family`]; 0 where nobody asks).
    #[inline(always)]
    pub const fn new(size: u64, family: u8, stack: u32, born: u32) -> Self {
        let size = if size > Self::MAX_SIZE { Self::MAX_SIZE } else { size };
        Self { size_and_family: size | (family as u64) << Self::SIZE_BITS, stack, born }
    }

    /// Bytes asked for.
    #[inline(always)]
    pub const fn size(&self) -> u64 {
        self.size_and_family & Self::MAX_SIZE
    }

    /// See [`crate::family`].
    #[inline(always)]
    pub const fn family(&self) -> u8 {
        (self.size_and_family >> Self::SIZE_BITS) as u8
    }
}

/// Births are told in units of 2^22 ns, about 4 ms: so 32 bits last for 208 days.
pub const BORN_SHIFT: u32 = 22;

/// A moment, in units of 2^22 ns since the session's start. Later than 208 days: the last one.
#[inline(always)]
pub const fn born(now_ns: u64, start_ns: u64) -> u32 {
    let units = now_ns.saturating_sub(start_ns) >> BORN_SHIFT;
    if units > u32::MAX as u64 { u32::MAX } else { units as u32 }
}

/// The first birth that counts for a target that was opened at `since_ns`: none before it is told
/// alike.
#[inline(always)]
pub const fn first_born(since_ns: u64, start_ns: u64) -> u32 {
    born(since_ns, start_ns).saturating_add(1)
}

/// What both halves agree upon when the object is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// When births are told from: `CLOCK_MONOTONIC`, nanoseconds.
    pub start_ns: u64,
    /// Which allocations are kept.
    pub sampling: crate::sampling::Sampling,
}

/// The key of a block: its address, with the target's slot in the top 16 bits.
///
/// User addresses have at most 48 bits unless a program asks for more by a hint to `mmap` (x86-64
/// with five-level page tables, arm64 with 52-bit addresses); with a single target, whose slot is
/// 0, those work too.
#[inline(always)]
pub const fn block_key(slot: u16, address: u64) -> u64 {
    address ^ ((slot as u64) << 48)
}

/// What one stack has allocated and freed so far: a value of the map `STACKS`. Blocks are told in
/// units of 1/[`crate::sampling::BLOCK`].
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StackTotals {
    /// The stack's id; 0 while no stack is here.
    pub id: u64,
    /// Bytes allocated.
    pub allocated_bytes: u64,
    /// Blocks allocated.
    pub allocated_blocks: u64,
    /// Bytes of those that were freed again.
    pub freed_bytes: u64,
    /// Blocks of those that were freed again.
    pub freed_blocks: u64,
    /// A second hash of the frames: tells two stacks with the same id apart; 0 while not written.
    pub check: u32,
    /// 1 once the frames were sent to userspace.
    pub frames_sent: u32,
    /// Which of the stacks that were here, one after another, this is; below 256.
    pub generation: u32,
    /// Zero.
    pub reserved: u32,
    /// Zero.
    pub reserved_too: u64,
}
const _: () = assert!(size_of::<StackTotals>() == 64);

/// One address space under trace: a value of the map `TARGETS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Target {
    /// Blocks born before this moment (`CLOCK_MONOTONIC`, ns) no longer count.
    pub since_ns: u64,
    /// One of [`TARGET_CLOSED`], [`TARGET_OPEN`], [`TARGET_EXECED`], [`TARGET_DRAINING`].
    pub state: u32,
    /// How many of `ranges` are in use.
    pub range_count: u32,
    /// Counts the windows in which it is traced, from 1: calls that were open in an earlier one
    /// are nobody's any more.
    pub window: u32,
    /// 1: one of its functions that free may call another, with the same block.
    pub frees_nest: u32,
    /// With children followed: the slot whose unwind tables and stacks are also this one's, its own
    /// or an ancestor's, whose code it has at the same addresses.
    pub lineage: u32,
    /// 1: it began as a copy of its parent's memory.
    pub forked: u32,
    /// Where the code of this target's allocators is mapped: start (inclusive), end (exclusive).
    pub ranges: [[u64; 2]; MAX_ALLOCATOR_RANGES],
}
const _: () = assert!(size_of::<Target>() == 32 + 16 * MAX_ALLOCATOR_RANGES);

/// How the stacks of a target are unwound: a value of the map `MAPPINGS`, by slot.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Mappings {
    /// The chunk of unwind tables that holds its mappings (see [`crate::unwind`]), counted from 1;
    /// 0: none does yet.
    pub chunk_from_1: u32,
    /// Changes whenever they do: what was remembered of them is void.
    pub generation: u32,
}
const _: () = assert!(size_of::<Mappings>() == 8);

/// Events of this target are ignored: tracing has not begun, or is over.
pub const TARGET_CLOSED: u32 = 0;
/// Events of this target count.
pub const TARGET_OPEN: u32 = 1;
/// The address space was replaced by an exec: events are counted as lost until it is planned anew.
pub const TARGET_EXECED: u32 = 2;
/// Only what ends a block counts: allocations do not.
pub const TARGET_DRAINING: u32 = 3;

/// A process whose exec matters: a value of the map `WATCHED`, under its thread-group id.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Watched {
    /// The slot of its present address space.
    pub slot: u32,
    /// Of [`WATCH_HOLDS`] and [`WATCH_SHARES`].
    pub hold: u32,
}
const _: () = assert!(size_of::<Watched>() == 8);

/// Stop it (SIGSTOP) when it execs, so that its probes are in before it runs on.
pub const WATCH_HOLDS: u32 = 1;
/// The address space is its parent's, until it calls exec.
pub const WATCH_SHARES: u32 = 2;

/// No slot: that of a process that is not traced.
pub const NO_SLOT: u32 = 0xffff;

/// A process that is followed: a value of the map `CHILDREN`, by slot.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Child {
    /// Its thread-group id.
    pub pid: u32,
    /// The lineage ([`Target::lineage`]) that it was forked or has called exec in.
    pub origin: u32,
    /// When its main thread ended: `CLOCK_BOOTTIME`, nanoseconds.
    pub exited_ns: u64,
    /// One of [`CHILD_NONE`], [`CHILD_LIVES`], [`CHILD_EXITED`], [`CHILD_REPLACED`].
    pub state: u32,
    /// The slot of the parent, if that had called exec and had no probes of its own yet; or
    /// [`NO_SLOT`].
    pub parent: u32,
}
const _: () = assert!(size_of::<Child>() == 24);

/// The slot is free.
pub const CHILD_NONE: u32 = 0;
/// The process lives.
pub const CHILD_LIVES: u32 = 1;
/// Its main thread has ended.
pub const CHILD_EXITED: u32 = 2;
/// It has called exec: the address space is gone.
pub const CHILD_REPLACED: u32 = 3;

/// The kind of a ring-buffer message: its first four bytes.
pub const RECORD_STACK: u32 = 1;
/// See [`RECORD_STACK`].
pub const RECORD_EXEC: u32 = 2;

/// See [`RECORD_STACK`].
pub const RECORD_LIBRARIES: u32 = 3;

/// See [`RECORD_STACK`].
pub const RECORD_MAPPING: u32 = 4;

/// Why a stack ends where it ends: its last frame is the thread's first.
pub const ENDING_COMPLETE: u32 = 0;
/// The stack has more frames than are kept.
pub const ENDING_DEPTH: u32 = 1;
/// The last frame's caller could not be found: no unwind data covers its code and it keeps no
/// frame pointer, or the data led nowhere.
pub const ENDING_LOST: u32 = 2;
/// The last frame lies in code that leaktrace doesn't know: mapped since, or none at all.
pub const ENDING_UNMAPPED: u32 = 3;

/// Set in a frame's address when the frame was interrupted by a signal: the address is the next
/// instruction to run, not one behind a call.
pub const FRAME_INTERRUPTED: u64 = 1 << 63;

/// The frames of a stack, sent once for each stack; only `frame_count` frames are sent.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct StackRecord {
    /// [`RECORD_STACK`].
    pub kind: u32,
    /// Frames in use.
    pub frame_count: u32,
    /// The id of the stack.
    pub stack_id: u64,
    /// The second hash of the frames.
    pub check: u32,
    /// The slot of the target.
    pub slot: u32,
    /// One of the `ENDING_` constants.
    pub ending: u32,
    /// Zero.
    pub reserved: u32,
    /// Return addresses, leaf first; see [`FRAME_INTERRUPTED`].
    pub frames: [u64; MAX_FRAMES],
}
/// Bytes of a [`StackRecord`] before its frames.
pub const STACK_RECORD_HEADER: usize = 32;
const _: () = assert!(size_of::<StackRecord>() == STACK_RECORD_HEADER + 8 * MAX_FRAMES);

/// A watched process replaced its address space.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct ExecRecord {
    /// [`RECORD_EXEC`].
    pub kind: u32,
    /// Its thread-group id.
    pub pid: u32,
    /// The slot of the address space that is gone.
    pub slot: u32,
    /// 1 when it was stopped to wait for its probes.
    pub held: u32,
}
const _: () = assert!(size_of::<ExecRecord>() == 16);

/// The dynamic loader of a target says that its list of libraries changes, or has changed.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct LibrariesRecord {
    /// [`RECORD_LIBRARIES`].
    pub kind: u32,
    /// The slot of the target.
    pub slot: u32,
}
const _: () = assert!(size_of::<LibrariesRecord>() == 8);

/// A target maps or unmaps memory. What is unmapped is told before it happens, since another
/// thread may be given it right away; what is mapped, once it is.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MappingRecord {
    /// [`RECORD_MAPPING`].
    pub kind: u32,
    /// One of the `MAPPING_` constants.
    pub operation: u32,
    /// The slot of the target.
    pub slot: u32,
    /// The thread that calls.
    pub thread: u32,
    /// What is mapped or unmapped; the new end of the heap for [`MAPPING_BREAK`].
    pub address: u64,
    /// Bytes of it.
    pub length: u64,
    /// As the system call was given them.
    pub flags: u64,
    /// The stack that maps, if its own code does; [`UNKNOWN_STACK`] if it could not be kept.
    pub stack: u64,
    /// When: `CLOCK_MONOTONIC`, nanoseconds.
    pub time_ns: u64,
    /// 1: an allocator maps it, inside of a call that counts.
    pub in_allocator: u32,
    /// Zero.
    pub reserved: u32,
}
const _: () = assert!(size_of::<MappingRecord>() == 64);

/// `mmap` has mapped anonymous memory.
pub const MAPPING_MAPPED: u32 = 1;
/// `mmap` has mapped something else, in the place of what was there.
pub const MAPPING_COVERED: u32 = 2;
/// `munmap` is about to unmap: nothing, where the kernel will refuse.
pub const MAPPING_UNMAPS: u32 = 3;
/// `mremap` is about to move or to resize this; as above.
pub const MAPPING_REMAPS: u32 = 4;
/// `mremap` has: this is what came of it.
pub const MAPPING_REMAPPED: u32 = 5;
/// The last call of this thread has failed: nothing was unmapped.
pub const MAPPING_FAILED: u32 = 6;
/// `brk` has moved the end of the heap, or has not.
pub const MAPPING_BREAK: u32 = 7;

/// Probe hits in one target, on one CPU: a value of the map `HITS`, by slot.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct SlotHits {
    /// Hits of every kind.
    pub hits: u64,
    /// Those on instructions that the kernel single-steps.
    pub stepped: u64,
    /// Those of return probes.
    pub returns: u64,
    /// Zero.
    pub reserved: u64,
}
const _: () = assert!(size_of::<SlotHits>() == 32);

/// What the kernel half counts: indices into the per-CPU map `COUNTERS`.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counter {
    /// Successful allocations (a `realloc` that succeeds is one).
    Allocs,
    /// Frees (a `realloc` that moves or shrinks to nothing is one) whose block was known.
    MatchedFrees,
    /// Frees of a block that was not: allocated before the trace, or its allocation was missed.
    UnknownFrees,
    /// Allocations that failed.
    FailedAllocs,
    /// Blocks handed out again although no free of them was seen; the old block is closed.
    Reappeared,
    /// Calls inside an allocator that belong to an outer call that counts already.
    NestedCalls,
    /// Calls that never returned: left by `longjmp` or an exception, or their thread ended.
    AbandonedCalls,
    /// Blocks outside `--min-size` and `--max-size`.
    Filtered,
    /// Lost: blocks that did not fit into the map of live blocks.
    LostBlocksFull,
    /// Lost: bytes of those.
    LostBlocksFullBytes,
    /// Lost: stacks that did not fit into the map of stacks; their blocks count under "unknown".
    LostStacksFull,
    /// Not lost, but late: frames that found the ring buffer full (they are sent again).
    RingFull,
    /// Lost: two stacks with the same 64-bit id; the second one's blocks count under "unknown".
    LostStackCollisions,
    /// Lost: calls for which the kernel had no memory to remember the thread.
    LostNoThreadState,
    /// Lost: calls nested deeper than is remembered.
    LostTooDeep,
    /// Lost: pointers that could not be read from the target (`posix_memalign`).
    LostUnreadable,
    /// Lost: calls between an exec and the new probes; an exec that nobody could be told of counts as one.
    LostExec,
    /// Stacks cut at [`MAX_FRAMES`], by allocation.
    TruncatedStacks,
    /// Allocations that sampling left out.
    SampledOut,
    /// Frees of blocks that were not known while sampling: nearly all were left out by it.
    UnsampledFrees,
    /// Hits that were timed.
    TimedHits,
    /// Nanoseconds that handlers ran in those; see [`crate::timing::billed_ns`].
    TimedNs,
    /// Frees that could not be remembered, so that a second one is not told.
    UnrememberedFrees,
    /// Lost: wrong frees that found no room in the map `WRONG_FREES`.
    LostWrongFrees,
    /// Processes that were forked by those under trace, while children are followed.
    Children,
    /// Lost: those of them that found no slot, were forked before their parent was planned, or whose exec
    /// nobody could be told of.
    LostChildren,
    /// Frees in a forked child of blocks that are not its own: copies of its parent's.
    InheritedFrees,
    /// Lost: mappings and unmappings that found the ring buffer full.
    LostMappings,
}
/// How many counters there are.
pub const COUNTER_COUNT: usize = Counter::LostMappings as usize + 1;

/// The counters of one CPU: the value of the map `COUNTERS`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Counters {
    /// By [`Counter`].
    pub values: [u64; COUNTER_COUNT],
}
