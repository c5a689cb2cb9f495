//! Where signal handlers return to: code that asks the kernel to restore all registers. Only glibc
//! describes its own; musl's and Go's are known by their instructions.

use leaktrace_ebpf::unwind::Kind;
use memchr::memmem;

use super::spans::{Source, Span};
use crate::target::elf::{Elf, Segment};

/// `mov $15, %rax` (`rt_sigreturn`), as assemblers write it, and `syscall`.
const SHAPES: [&[u8]; 2] =
    [&[0x48, 0xc7, 0xc0, 0x0f, 0, 0, 0, 0x0f, 0x05], &[0xb8, 0x0f, 0, 0, 0, 0x0f, 0x05]];
/// What is held at once of the code, in bytes.
const CHUNK: u64 = 1 << 20;
/// The most places of a file; one is usual.
const MOST: usize = 16;

/// The trampolines in these pieces of the code, as far as it can be read.
pub(super) fn find(elf: &Elf<'_>, pieces: &[Segment]) -> Vec<Span> {
    let finders = SHAPES.map(|shape| (memmem::Finder::new(shape), shape.len() as u64));
    let longest = SHAPES.iter().map(|shape| shape.len() as u64).max().unwrap_or(0);
    let mut found = Vec::new();
    for &Segment { address: start, offset, size, .. } in pieces {
        let end = start.saturating_add(size);
        let mut at = start;
        while at < end && found.len() < MOST {
            let size = (end - at).min(CHUNK);
            let Ok(code) = elf.read(offset.saturating_add(at - start), size) else {
                return found;
            };
            for (finder, length) in &finders {
                let hits = finder.find_iter(&code).filter(|&index| !has_prefix(&code, index));
                found.extend(hits.take(MOST).map(|index| {
                    let address = at.wrapping_add(index as u64);
                    // The handler's return address is the first byte, and is looked up as one less.
                    let start = address.saturating_sub(1);
                    Span { start, end: address + length, source: Source::Known(Kind::Signal) }
                }));
            }
            at += if size == end - at { size } else { size - longest };
        }
    }
    found
}

/// Whether the byte before makes another instruction of it (`mov $15, %r8d`).
fn has_prefix(code: &[u8], index: usize) -> bool {
    let before = index.checked_sub(1).and_then(|before| code.get(before));
    before.is_some_and(|byte| byte & 0xf0 == 0x40)
}
