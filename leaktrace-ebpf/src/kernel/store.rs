//! The maps as a [`Store`] of the ledger, and stacks on their way into them.

use aya_ebpf::{
    bindings::{BPF_ANY, BPF_NOEXIST},
    helpers::generated::bpf_ringbuf_output,
};
use leaktrace_ebpf::{
    ledger::{Put, Store},
    records::{
        Block, Counter, ENDING_DEPTH, MAX_FRAMES, RECORD_STACK, STACK_RECORD_HEADER, StackTotals,
        UNKNOWN_STACK,
    },
};

use crate::kernel::{
    maps::{BLOCKS, COUNTERS, MESSAGES, STACKS},
    thread::Thread,
    verifier::{add, opaque},
};

const EEXIST: i32 = -17;

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

#[inline(always)]
pub(crate) fn count(counter: Counter, n: u64) {
    if let Some(counters) = COUNTERS.get_ptr_mut(0) {
        // SAFETY: a pointer to this CPU's map value, and an index inside it.
        unsafe { add((&raw mut (*counters).values).cast::<u64>().add(counter as usize), n) };
    }
}

impl Store for Maps {
    #[inline(always)]
    fn take_block(&mut self, key: u64, block: &mut Block) -> bool {
        let Some(found) = BLOCKS.get_ptr(key) else {
            return false;
        };
        // SAFETY: a pointer to a map value, good until the end of the program.
        *block = unsafe { *found };
        BLOCKS.remove(key).is_ok()
    }

    #[inline(always)]
    fn put_block(&mut self, key: u64, block: &Block, replaced: &mut Block) -> Put {
        match BLOCKS.insert(key, block, BPF_NOEXIST as u64) {
            Ok(()) => Put::New,
            Err(EEXIST) => {
                if let Some(old) = BLOCKS.get_ptr(key) {
                    // SAFETY: a pointer to a map value, good until the end of the program.
                    *replaced = unsafe { *old };
                }
                match BLOCKS.insert(key, block, BPF_ANY as u64) {
                    Ok(()) => Put::Replaced,
                    Err(_) => Put::Full,
                }
            }
            Err(_) => Put::Full,
        }
    }

    #[inline(always)]
    fn book_allocated(&mut self, stack_id: u64, bytes: u64) {
        let mut totals = self.allocating;
        if totals.is_none() {
            totals = STACKS.get_ptr_mut(stack_id);
        }
        if let Some(totals) = totals {
            // SAFETY: pointers into a map value.
            unsafe {
                add(&raw mut (*totals).allocated_bytes, bytes);
                add(&raw mut (*totals).allocated_blocks, 1);
            }
        }
    }

    #[inline(always)]
    fn book_freed(&mut self, stack_id: u64, bytes: u64) {
        if let Some(totals) = STACKS.get_ptr_mut(stack_id) {
            // SAFETY: pointers into a map value.
            unsafe {
                add(&raw mut (*totals).freed_bytes, bytes);
                add(&raw mut (*totals).freed_blocks, 1);
            }
        }
    }

    #[inline(always)]
    fn count(&mut self, counter: Counter, n: u64) {
        count(counter, n);
    }
}

/// Makes sure that the stack in `thread.stack`, with the hashes `(id, check)`, is known and its
/// frames were sent; returns the id to book under, and the maps that know its totals.
#[inline(always)]
pub(crate) fn keep_stack(thread: &mut Thread, slot: u16, (id, check): (u64, u32)) -> (u64, Maps) {
    if thread.stack.ending == ENDING_DEPTH {
        count(Counter::TruncatedStacks, 1);
    }
    let mut totals = STACKS.get_ptr_mut(id);
    if totals.is_none() {
        let fresh = StackTotals {
            allocated_bytes: 0,
            allocated_blocks: 0,
            freed_bytes: 0,
            freed_blocks: 0,
            check,
            frames_sent: 0,
        };
        // Another CPU may have been faster: whoever was, the entry is there now.
        let _ = STACKS.insert(id, &fresh, BPF_NOEXIST as u64);
        totals = STACKS.get_ptr_mut(id);
    }
    let Some(totals) = totals else {
        count(Counter::LostStacksFull, 1);
        return (UNKNOWN_STACK, Maps::new());
    };
    // SAFETY: a pointer to a map value, good until the end of the program.
    let (known_check, sent) = unsafe { ((*totals).check, (*totals).frames_sent) };
    if known_check != check {
        count(Counter::LostStackCollisions, 1);
        return (UNKNOWN_STACK, Maps::new());
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
    (id, Maps { allocating: Some(totals) })
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
