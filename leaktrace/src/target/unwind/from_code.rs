//! How are callers found in code that nothing describes? By following its instructions from the
//! entries of its functions on, and keeping count of the stack. musl is built without unwind data
//! and without frame pointers; without this, whatever its functions call would have no callers.
//!
//! Follows what compilers make, never guesses: a function that does anything else is left out.

mod frame;
mod walk;

use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction};
use leaktrace_ebpf::unwind::{Kind, Rule};

use walk::Walk;

/// The instructions before the first call of a program are few.
const MOST_AT_ENTRY: usize = 32;

/// A piece of code that nothing describes.
pub(super) struct Piece {
    /// The virtual address of its first byte.
    pub(super) address: u64,
    pub(super) code: Vec<u8>,
}

impl Piece {
    /// The code from an address on.
    fn from(&self, address: u64) -> Option<&[u8]> {
        let within = usize::try_from(address.checked_sub(self.address)?).ok()?;
        self.code.get(within..).filter(|code| !code.is_empty())
    }
}

/// A function that is known by its symbol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// Its virtual address.
    pub(super) address: u64,
    /// Its size in bytes; 0 when the symbol doesn't say.
    pub(super) size: u64,
}

/// From one address up to another, this rule holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Derived {
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) rule: Rule,
}

/// The rules in these pieces, which are in order and apart, as far as they follow from the entries.
pub(super) fn derive(pieces: &[Piece], entries: &[Entry]) -> Vec<Derived> {
    let mut walk = Walk::new(pieces);
    for entry in entries {
        walk.enter(entry.address, entry.address.saturating_add(entry.size));
    }
    for target in called(pieces) {
        walk.enter(target, target);
    }
    walk.run();
    walk.follow_pointers();
    walk.follow_tables();
    walk.into_rules()
}

/// The rule of a program's first function: up to its first call, nothing has called it.
pub(super) fn first_function(pieces: &[Piece], entry: u64) -> Option<Derived> {
    let code = piece_at(pieces, entry)?.from(entry)?;
    let mut decoder = Decoder::with_ip(64, code, entry, DecoderOptions::NONE);
    let end = decoder.iter().take(MOST_AT_ENTRY).find(|i| i.flow_control() != FlowControl::Next)?;
    Some(Derived { start: entry, end: end.next_ip(), rule: Rule::of(Kind::End) })
}

/// What the instructions of these ranges call and jump to.
pub(super) fn led_to(pieces: &[Piece], ranges: impl IntoIterator<Item = (u64, u64)>) -> Vec<u64> {
    let mut targets = Vec::new();
    for (start, end) in ranges {
        let Some(code) = piece_at(pieces, start).and_then(|piece| piece.from(start)) else {
            continue;
        };
        let size = usize::try_from(end.saturating_sub(start)).unwrap_or(usize::MAX);
        let code = code.get(..size).unwrap_or(code);
        let mut decoder = Decoder::with_ip(64, code, start, DecoderOptions::NONE);
        let leads = decoder.iter().filter(|i| i.is_call_near() || i.is_jmp_short_or_near());
        let out = leads.map(|i| i.near_branch_target()).filter(|to| !(start..end).contains(to));
        targets.extend(out);
    }
    targets.sort_unstable();
    targets.dedup();
    targets
}

/// What is called in these pieces. Known before anything is followed, so that what lies behind a
/// call that never returns is not taken to belong to it.
fn called(pieces: &[Piece]) -> Vec<u64> {
    let mut targets = Vec::new();
    for piece in pieces {
        let mut decoder = Decoder::with_ip(64, &piece.code, piece.address, DecoderOptions::NONE);
        let calls = decoder.iter().filter(Instruction::is_call_near);
        targets.extend(calls.map(|call| call.near_branch_target()));
    }
    targets.sort_unstable();
    targets.dedup();
    targets
}

fn piece_at(pieces: &[Piece], address: u64) -> Option<&Piece> {
    let behind = pieces.partition_point(|piece| piece.address <= address);
    pieces.get(behind.checked_sub(1)?)
}
