//! A copy of a piece of the walked stack: copying 4 KiB costs less than three reads of one frame.
//!
//! The first copy is as large as the thread's recent walks needed, since most stacks of a thread
//! are alike and many are short.

use aya_ebpf::helpers::generated::bpf_probe_read_user;

use super::{PAGE, WORD};
use crate::kernel::verifier::opaque;

/// The most bytes that are copied at once.
pub(crate) const BYTES: u64 = 4096;
const INDEX_MASK: u64 = BYTES / WORD - 1;

/// A piece of stack. Accessed by volatile reads, like [`super::Walk`].
#[repr(C)]
pub(crate) struct Window {
    /// What `words` is a copy of.
    base: u64,
    /// How many bytes of it are valid.
    valid: u64,
    /// The first address above the stack that could not be read; 0 when not known.
    top: u64,
    /// How many bytes of stack recent walks needed: the next one copies so many at first.
    reach: u64,
    words: [u64; (BYTES / WORD) as usize],
}

/// A walk begins at stack pointer `sp`.
#[inline(always)]
pub(crate) fn begin(window: &mut Window, sp: u64) {
    set!(window.base, sp & !(WORD - 1));
    set!(window.valid, 0);
}

/// Makes sure that the stack from `address` on is in the window, `bytes` of it; false if it cannot
/// be read.
#[inline(always)]
pub(crate) fn cover(window: &mut Window, address: u64, bytes: u64) -> bool {
    let mut offset = address.wrapping_sub(get!(window.base));
    let valid = get!(window.valid);
    if offset <= valid && bytes <= valid - offset {
        return true;
    }
    let mut wanted = BYTES;
    // The first window begins at the stack pointer, if the first frame lies in it.
    if valid != 0 || offset > BYTES || bytes > BYTES - offset {
        set!(window.base, address);
        offset = 0;
    } else if offset + bytes <= get!(window.reach) {
        wanted = get!(window.reach);
    }
    fill(window, wanted);
    let valid = get!(window.valid);
    if offset <= valid && bytes <= valid - offset {
        return true;
    }
    // What was taken for the top of the stack may have been a page that was not there just then.
    let edge = get!(window.base).wrapping_add(valid);
    set!(window.base, address);
    let there = copy(window, bytes);
    set!(window.valid, if there { bytes } else { 0 });
    if there && get!(window.top) == edge {
        set!(window.top, 0);
    }
    there
}

/// Whether the word at an aligned `address` is in the window.
#[inline(always)]
pub(crate) fn has(window: &Window, address: u64) -> bool {
    address.wrapping_sub(get!(window.base)) < get!(window.valid)
}

/// The word at `address`, which the window covers.
#[inline(always)]
pub(crate) fn word(window: &Window, address: u64) -> u64 {
    let index = opaque(address.wrapping_sub(get!(window.base)) >> 3) & INDEX_MASK;
    window.words[index as usize]
}

/// Whether the window begins at `address`.
#[inline(always)]
pub(crate) fn begins_at(window: &Window, address: u64) -> bool {
    get!(window.base) == address
}

/// The word so many bytes above the window's base, in which it lies.
#[inline(always)]
pub(crate) fn word_from_base(window: &Window, bytes: u64) -> u64 {
    let index = opaque(bytes >> 3) & INDEX_MASK;
    window.words[index as usize]
}

/// Copies `wanted` bytes of the stack, from the base on, and notes how many are valid.
///
/// A copy that runs past the top of the stack faults and costs more than the rest of the walk,
/// so the top is remembered.
#[inline(always)]
fn fill(window: &mut Window, wanted: u64) {
    let base = get!(window.base);
    let known_top = get!(window.top);
    let bytes;
    if known_top > base && known_top - base < wanted {
        bytes = known_top - base;
    } else if copy(window, wanted) {
        set!(window.valid, wanted);
        return;
    } else {
        bytes = PAGE - (base & (PAGE - 1));
        set!(window.top, base + bytes);
    }
    let valid = if copy(window, bytes) { bytes & !(WORD - 1) } else { 0 };
    set!(window.valid, valid);
}

/// Notes how much of the stack above `sp` a walk needed that came to `last`. It shrinks slowly: a
/// second copy costs more than a first that is too large.
#[inline(always)]
pub(crate) fn remember_reach(window: &mut Window, sp: u64, last: u64) {
    // One frame more than was found: the walk may look at it to know that it is over.
    let used = last.wrapping_sub(sp).wrapping_add(4 * WORD);
    let before = get!(window.reach);
    let shrunk = before - (before >> 3);
    let reach = if used > shrunk { used } else { shrunk };
    set!(window.reach, if reach > BYTES { BYTES } else { reach });
}

#[inline(always)]
fn copy(window: &mut Window, bytes: u64) -> bool {
    let base = get!(window.base);
    let words = window.words.as_mut_ptr().cast();
    let bytes = opaque(bytes) & (2 * BYTES - 1);
    if bytes > BYTES {
        return false;
    }
    // SAFETY: `bytes` is at most the size of the window, and the helper checks the source.
    unsafe { bpf_probe_read_user(words, bytes as u32, base as *const _) == 0 }
}
