//! glibc's chunks: what stands in front of a block, and what may stand there while it lives.
//!
//! Source of the layouts and rules here and beside: malloc/malloc.c and malloc/arena.c of glibc
//! 2.27 to 2.41, 64-bit.

/// The size of a chunk's header, in front of its block: the previous chunk's size if that is free,
/// and the chunk's own, with flags.
pub(super) const HEADER: u64 = 16;
/// The smallest chunk. All sizes are multiples of 16.
pub(super) const LEAST: u64 = 32;

const PREV_IN_USE: u64 = 1;
const IS_MMAPPED: u64 = 2;
const NON_MAIN_ARENA: u64 = 4;
/// A page, at the most; the mappings of large blocks are whole ones.
const PAGE: u64 = if cfg!(target_arch = "x86_64") { 4096 } else { 65536 };
/// Mappings may be made of these, if the tunable `glibc.malloc.hugetlb` says so.
const HUGE_PAGE: u64 = 2 << 20;

/// The second word of a chunk: its size and its flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head(pub(super) u64);

impl Head {
    /// The size of the chunk, header included; 16 or 0 in what ends a heap.
    pub(super) fn size(self) -> u64 {
        self.0 & !7
    }

    /// Whether a chunk of a heap has it.
    pub(super) fn is_plausible(self) -> bool {
        self.size() >= LEAST && self.size().is_multiple_of(16) && !self.is_mmapped()
    }

    /// Whether the chunk in front of this one is no free one.
    pub(super) fn prev_in_use(self) -> bool {
        self.0 & PREV_IN_USE != 0
    }

    pub(super) fn is_mmapped(self) -> bool {
        self.0 & IS_MMAPPED != 0
    }

    pub(super) fn is_of_other_arena(self) -> bool {
        self.0 & NON_MAIN_ARENA != 0
    }
}

/// The chunk size that a request is rounded up to.
fn chunk_size_for(asked: u64) -> Option<u64> {
    Some((asked.checked_add(8 + 15)? & !15).max(LEAST))
}

/// Whether a chunk of a heap can be that of a block of `asked` bytes that lives.
pub(super) fn fits(block: u64, asked: u64, head: Head) -> bool {
    let Some(least) = chunk_size_for(asked) else { return false };
    // A rest that is too small for a chunk stays with the block; memalign keeps up to 32 bytes.
    let rest = if block.is_multiple_of(32) { 32 } else { 16 };
    let mut most = least + rest;
    for page in [4096, PAGE] {
        // pvalloc rounds what it is asked for up to whole pages.
        if block.is_multiple_of(page) {
            let whole = asked.checked_next_multiple_of(page).and_then(chunk_size_for);
            most = most.max(whole.map_or(u64::MAX, |whole| whole.saturating_add(rest)));
        }
    }
    head.is_plausible() && (least..=most).contains(&head.size())
}

/// Whether a chunk with a mapping of its own can be that of a block of `asked` bytes that lives.
pub(super) fn fits_mapped(block: u64, asked: u64, before: u64, head: Head) -> bool {
    let Some(least) = chunk_size_for(asked).and_then(|size| size.checked_add(8)) else {
        return false;
    };
    let size = head.size();
    let whole = before.checked_add(size).is_some_and(|all| all.is_multiple_of(4096));
    let start = block.checked_sub(HEADER).and_then(|chunk| chunk.checked_sub(before));
    if !whole || !start.is_some_and(|start| start.is_multiple_of(4096)) {
        return false;
    }
    // Aligned blocks may have any rest; a reallocation may leave a page too many.
    let most = least.checked_next_multiple_of(PAGE).and_then(|most| most.checked_add(PAGE));
    let plain = before == 0 && !size.is_multiple_of(HUGE_PAGE);
    // One size word less is needed of the last page's end: the block uses all of it.
    size >= least - 8 && (!plain || most.is_some_and(|most| size <= most))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_fits_its_chunk() {
        let check = |block, asked, size, expect| {
            assert_eq!(fits(block, asked, Head(size)), expect, "{block:#x} {asked} {size}");
        };
        check(0x1010, 0, 33, true);
        check(0x1010, 24, 33, true);
        check(0x1010, 25, 33, false);
        check(0x1010, 25, 49, true);
        // An unsplit rest of 16 bytes, and 32 where memalign may have been.
        check(0x1010, 24, 49, true);
        check(0x1010, 24, 65, false);
        check(0x1020, 24, 65, true);
        check(0x1020, 24, 81, false);
        // pvalloc(1)
        check(0x2000, 1, 4096 + 16 + 1, true);
        check(0x2010, 1, 4096 + 16 + 1, false);
        // No sizes at all: no multiple of 16, mapped, too large.
        check(0x1010, 24, 41, false);
        check(0x1010, 24, 35, false);
        check(0x1010, u64::MAX, 33, false);
        check(0x1000, u64::MAX - 64, 33, false);
    }

    #[test]
    fn a_large_block_fits_its_mapping() {
        let check = |block, asked, before, size: u64, expect| {
            let fits = fits_mapped(block, asked, before, Head(size | 2));
            assert_eq!(fits, expect, "{block:#x} {asked} {before} {size}");
        };
        check(0x10010, 200_000, 0, 200_704, true);
        check(0x10010, 200_000, 0, 200_000, false);
        check(0x10010, 201_000, 0, 200_704, false);
        check(0x10010, 100_000, 0, 200_704, false);
        check(0x10010, 100_000, 0, 2 << 20, true);
        check(0x11000, 100_000, 0xff0, 0x20010, true);
        check(0x11000, 100_000, 0xfe0, 0x20020, false);
        check(0, 100_000, 0xff0, 0x20010, false);
        check(0x10010, u64::MAX, 0, 200_704, false);
    }
}
