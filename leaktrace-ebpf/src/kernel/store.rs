//! The maps as a [`Store`] of the ledger, and stacks on their way into them.

use aya_ebpf::helpers::generated::bpf_ringbuf_output;
use leaktrace_ebpf::{
    atomic::{add, fetch_add},
    blocks::{self, Bucket, CLAIMED, EXISTS, FREE, NOWHERE},
    ledger::{Put, Store},
    records::{
        Block, Counter, ENDING_DEPTH, MAX_FRAMES, RECORD_STACK, STACK_RECORD_HEADER, StackTotals,
        UNKNOWN_STACK,
    },
    stacks,
};

use crate::kernel::{
    follow, globals,
    maps::{BLOCKS, COUNTERS, HITS, MESSAGES, STACKS},
    thread::Thread,
    verifier::opaque,
};

/// The handle of the unknown stack.
const UNKNOWN: u32 = UNKNOWN_STACK as u32;

pub(crate) struct Maps {
    /// The totals of the stack that allocates right now, when [`keep_stack`] has found them.
    allocating: Option<*mut StackTotals>,
}

impl Maps {
    /// For all but an allocation.
    #[inline(always)]
    pub(crate) fn new() -> Self {
        Self { allocating: None }
    }
}

struct Buckets;

impl blocks::Memory for Buckets {
    #[inline(always)]
    fn buckets(&self) -> u32 {
        globals::buckets()
    }

    #[inline(always)]
    fn bucket(&self, index: u32) -> Option<*mut Bucket> {
        BLOCKS.get_ptr_mut(index)
    }
}

struct Places;

impl stacks::Memory for Places {
    #[inline(always)]
    fn places(&self) -> u32 {
        globals::stack_places()
    }

    #[inline(always)]
    fn totals(&self, index: u32) -> Option<*mut StackTotals> {
        STACKS.get_ptr_mut(index)
    }
}

// Global functions: the verifier looks at each once, and knows nothing of what they return.

#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn find_block(key: u64) -> u64 {
    blocks::find(&Buckets, key)
}

#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn claim_block(key: u64) -> u64 {
    blocks::claim(&Buckets, key)
}

#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn find_stack(id: u64) -> u64 {
    stacks::find_or_claim(&Places, id)
}

#[inline(always)]
pub(crate) fn count(counter: Counter, n: u64) {
    if let Some(counters) = COUNTERS.get_ptr_mut(0) {
        // SAFETY: a pointer to this CPU's map value, and an index inside it.
        unsafe { add((&raw mut (*counters).values).cast::<u64>().add(counter as usize), n) };
    }
}

/// Counts a probe hit in the target of a slot; returns how many it had before, on this CPU.
#[inline(always)]
pub(crate) fn note_hit(slot: u16, stepped: bool, returns: bool) -> u64 {
    let Some(hits) = HITS.get_ptr_mut(u32::from(slot)) else {
        return 0;
    };
    // SAFETY: pointers into this CPU's map value.
    unsafe {
        // A change in one step costs as much as a branch saves ten times.
        if stepped {
            add(&raw mut (*hits).stepped, 1);
        }
        if returns {
            add(&raw mut (*hits).returns, 1);
        }
        fetch_add(&raw mut (*hits).hits, 1)
    }
}

impl Store for Maps {
    #[inline(always)]
    fn take_block(&mut self, key: u64, block: &mut Block) -> bool {
        let place = find_block(key);
        place != NOWHERE && blocks::take(&Buckets, place, key, FREE, block)
    }

    #[inline(always)]
    fn put_block(&mut self, key: u64, block: &Block, replaced: &mut Block) -> Put {
        let place = claim_block(key);
        if place == NOWHERE {
            return Put::Full;
        }
        if place & EXISTS == 0 {
            blocks::fill(&Buckets, place, key, block);
            return Put::New;
        }
        if !blocks::take(&Buckets, place & !EXISTS, key, CLAIMED, replaced) {
            // Another CPU has just freed it: only a target that frees twice makes that happen.
            return Put::Full;
        }
        blocks::fill(&Buckets, place & !EXISTS, key, block);
        Put::Replaced
    }

    #[inline(always)]
    fn book_allocated(&mut self, stack: u32, bytes: u64) {
        let mut totals = self.allocating;
        if totals.is_none() {
            totals = totals_of(stack);
        }
        if let Some(totals) = totals {
            let sampling = globals::sampling();
            // SAFETY: pointers into a map value.
            unsafe {
                add(&raw mut (*totals).allocated_bytes, sampling.bytes_of(bytes));
                add(&raw mut (*totals).allocated_blocks, sampling.blocks_of(bytes));
            }
        }
    }

    #[inline(always)]
    fn book_freed(&mut self, stack: u32, bytes: u64) {
        if let Some(totals) = totals_of(stack) {
            let sampling = globals::sampling();
            // SAFETY: pointers into a map value.
            unsafe {
                add(&raw mut (*totals).freed_bytes, sampling.bytes_of(bytes));
                add(&raw mut (*totals).freed_blocks, sampling.blocks_of(bytes));
            }
        }
    }

    #[inline(always)]
    fn unknown_free(&self) -> Counter {
        if !globals::sampling().is_exact() {
            Counter::UnsampledFrees
        } else if globals::follows() && follow::is_forked() {
            Counter::InheritedFrees
        } else {
            Counter::UnknownFrees
        }
    }

    #[inline(always)]
    fn count(&mut self, counter: Counter, n: u64) {
        count(counter, n);
    }
}

/// The totals behind a handle, unless another stack has taken their place since.
#[inline(always)]
fn totals_of(stack: u32) -> Option<*mut StackTotals> {
    let totals = STACKS.get_ptr_mut(stacks::index_of(stack))?;
    // SAFETY: a pointer to a map value, good until the end of the program.
    let generation = unsafe { (*totals).generation };
    if generation == stacks::generation_of(stack) { Some(totals) } else { None }
}

/// Makes sure that the stack in `thread.stack`, with the hashes `(id, check)`, is known and its
/// frames were sent; returns the handle to book under, and the maps that know its totals.
#[inline(always)]
pub(crate) fn keep_stack(thread: &mut Thread, slot: u16, (id, check): (u64, u32)) -> (u32, Maps) {
    if thread.stack.ending == ENDING_DEPTH {
        count(Counter::TruncatedStacks, 1);
    }
    known_stack(thread, slot, (id, check))
}

/// The id of the stack behind a handle; that of the unknown one if it is gone.
#[inline(always)]
pub(crate) fn stack_id(stack: u32) -> u64 {
    match totals_of(stack) {
        // SAFETY: a pointer to a map value, good until the end of the program.
        Some(totals) => unsafe { (*totals).id },
        None => UNKNOWN_STACK,
    }
}

/// As [`keep_stack`], of a stack that allocates nothing.
#[inline(always)]
pub(crate) fn known_stack(thread: &mut Thread, slot: u16, (id, check): (u64, u32)) -> (u32, Maps) {
    let index = find_stack(id) as u32;
    let Some(totals) = STACKS.get_ptr_mut(index) else {
        count(Counter::LostStacksFull, 1);
        return (UNKNOWN, Maps::new());
    };
    // SAFETY: a pointer to a map value, good until the end of the program.
    let (known_check, sent, generation) =
        unsafe { ((*totals).check, (*totals).frames_sent, (*totals).generation) };
    if known_check == 0 {
        // SAFETY: as above; another CPU that has just claimed it, too, writes the same.
        unsafe { (*totals).check = check };
    } else if known_check != check {
        count(Counter::LostStackCollisions, 1);
        return (UNKNOWN, Maps::new());
    }
    // Only what userspace has is marked as sent; frames that found no room go out next time.
    if sent == 0 {
        if send(thread, slot, id, check) {
            // SAFETY: as above; two CPUs would write the same.
            unsafe { (*totals).frames_sent = 1 };
        } else {
            count(Counter::RingFull, 1);
        }
    }
    (stacks::handle(index, generation), Maps { allocating: Some(totals) })
}

/// Whether a handle is that of the unknown stack.
#[inline(always)]
pub(crate) fn stack_is_unknown(handle: u32) -> bool {
    handle == UNKNOWN
}

#[inline(always)]
fn send(thread: &mut Thread, slot: u16, id: u64, check: u32) -> bool {
    let stack = &mut thread.stack;
    stack.kind = RECORD_STACK;
    stack.stack_id = id;
    stack.check = check;
    stack.slot = slot as u32;
    stack.reserved = 0;
    let frames = opaque(stack.frame_count as u64) & 0x7f;
    if frames as usize > MAX_FRAMES {
        return false;
    }
    let bytes = STACK_RECORD_HEADER as u64 + 8 * frames;
    // SAFETY: the record is `bytes` long at least, and the map is a ring buffer.
    unsafe {
        bpf_ringbuf_output(
            core::ptr::from_ref(&MESSAGES).cast_mut().cast(),
            core::ptr::from_mut(stack).cast(),
            bytes,
            0,
        ) == 0
    }
}
