//! The words that a thread's last walk was led by: where on the stack each was read, and what it
//! was. A walk is decided by its start, by the tables and by these words; while all are as they
//! were, it need not be walked again.

use super::{Start, WORD, rules::Tables, window};
use crate::kernel::{
    thread::Thread,
    verifier::{mask_if_at_most, opaque},
};

/// The most words of a walk that is remembered.
const MOST: usize = 128;
/// A count that stands for a walk that cannot be remembered.
const TOO_MANY: u64 = 1 << 32;

/// Accessed by volatile reads, like [`super::Walk`].
#[repr(C)]
pub(crate) struct Trail {
    /// What the walk began with, and the tables that it went by.
    ip: u64,
    sp: u64,
    fp: u64,
    salt: u64,
    /// How many words it read; 0 when none is remembered.
    count: u64,
    /// How many bytes of stack from `sp` on they lie in.
    bytes: u64,
    /// All of `offsets`, by "or", in full.
    all_offsets: u64,
    /// 1: `fp` led it, too.
    by_fp: u32,
    /// The hashes that it came to.
    check: u32,
    id: u64,
    values: [u64; MOST],
    /// Where they were, in bytes from `sp` on.
    offsets: [u16; MOST],
}

/// Whether the walk from `start` would be led by the same words as the last one, which ended well.
/// The stack that these words lie in is then in the window, whatever the answer.
#[inline(always)]
pub(crate) fn is_unchanged(thread: &mut Thread, tables: &Tables, start: Start) -> bool {
    let count = get!(thread.trail.count);
    if count == 0
        || get!(thread.trail.ip) != start.ip
        || get!(thread.trail.sp) != start.sp
        || get!(thread.trail.salt) != tables.salt
        || thread.open.depth() != 0
        || (get!(thread.trail.by_fp) != 0 && get!(thread.trail.fp) != start.fp)
    {
        return false;
    }
    if !window::cover(&mut thread.window, start.sp, get!(thread.trail.bytes))
        || !window::begins_at(&thread.window, start.sp)
    {
        return false;
    }
    let mut index = 0;
    while index < MOST {
        if index as u64 >= count {
            return true;
        }
        let offset = u64::from(get!(thread.trail.offsets[index]));
        if window::word_from_base(&thread.window, offset) != get!(thread.trail.values[index]) {
            return false;
        }
        index += 1;
    }
    false
}

/// A walk begins.
#[inline(always)]
pub(crate) fn begin(thread: &mut Thread, tables: &Tables, start: Start) {
    set!(thread.trail.ip, start.ip);
    set!(thread.trail.sp, start.sp);
    set!(thread.trail.fp, start.fp);
    set!(thread.trail.salt, tables.salt);
    set!(thread.trail.by_fp, 0);
    set!(thread.trail.bytes, 0);
    set!(thread.trail.all_offsets, 0);
    // What an open call covers is not on the stack, and a stack pointer that is no word's address
    // is not what the window begins at.
    let plain = thread.open.depth() == 0 && start.sp & (WORD - 1) == 0;
    set!(thread.trail.count, if plain { 0 } else { TOO_MANY });
}

/// The walk is led by `value`, which it has read at the address `place`. No branches: the verifier
/// looks at this in each step.
#[inline(always)]
pub(crate) fn note(thread: &mut Thread, place: u64, value: u64) {
    let count = get!(thread.trail.count);
    let offset = place.wrapping_sub(get!(thread.trail.sp));
    let index = (opaque(count) & (MOST as u64 - 1)) as usize;
    set!(thread.trail.values[index], value);
    set!(thread.trail.offsets[index], offset as u16);
    set!(thread.trail.count, count + 1);
    let all_offsets = get!(thread.trail.all_offsets);
    set!(thread.trail.all_offsets, all_offsets | offset);
    let bytes = get!(thread.trail.bytes);
    let grows = mask_if_at_most(bytes, offset);
    set!(thread.trail.bytes, offset.wrapping_add(WORD) & grows | bytes & !grows);
}

/// The walk is led by the frame pointer that it began with.
#[inline(always)]
pub(crate) fn note_fp(thread: &mut Thread) {
    set!(thread.trail.by_fp, 1);
}

/// The walk is led by something else.
#[inline(always)]
pub(crate) fn give_up(thread: &mut Thread) {
    set!(thread.trail.count, TOO_MANY);
}

/// The walk is over; `whole` says that nothing was missing.
#[inline(always)]
pub(crate) fn end(thread: &mut Thread, whole: bool, (id, check): (u64, u32)) {
    let far = get!(thread.trail.all_offsets) >= window::BYTES;
    if !whole || far || get!(thread.trail.count) > MOST as u64 {
        set!(thread.trail.count, 0);
    }
    set!(thread.trail.id, id);
    set!(thread.trail.check, check);
}

/// The hashes that the walk came to.
#[inline(always)]
pub(crate) fn hashes(thread: &Thread) -> (u64, u32) {
    (get!(thread.trail.id), get!(thread.trail.check))
}
