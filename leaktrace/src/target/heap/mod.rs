//! Which of the blocks that a target once got has it freed since, unseen? Answers from the
//! target's memory, as its allocator left it: what glibc keeps about a block, and whether the
//! block's memory is mapped at all.
//!
//! What is called dead is dead: each verdict rests on something that is never so while a block
//! lives. What is called live may have died: a block that was handed out again at the same address,
//! in the same size, looks like the old one. A block that was reallocated in place counts as dead,
//! if its size shows it.
//!
//! It is believed that the target keeps to the rules of its allocator. One that does not can mislead
//! about its own blocks only; it cannot make this take more time or memory than is said here.

mod arenas;
mod chunk;
mod in_use;
mod lists;
mod memory;
#[cfg(test)]
mod tests;
mod walk;

pub use in_use::InUse;
pub use memory::{ForeignMemory, Memory};

use arenas::{Arena, Heap};
use chunk::{HEADER, Head, fits, fits_mapped};
use lists::Lists;
use memory::words;
use walk::Walks;

use super::elf::Elf;
use super::image::Image;
use super::maps::{FileId, Mapping};
use super::plan::Plan;
use crate::model::Addr;

/// What there is to say about a block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Verdict {
    /// Nothing.
    #[default]
    NotJudged,
    /// Nothing speaks against it: it lives, or was handed out again in the same size.
    Live,
    /// Dead: some of its memory is not mapped.
    Unmapped,
    /// Dead: the chunk in its place has another size.
    OtherSize,
    /// Dead: the chunk behind it says that it is free.
    Free,
    /// Dead: another chunk reaches over it, or the heap ends in front of it.
    NoChunk,
    /// Dead: it is in one of the allocator's lists of freed blocks.
    Listed,
}

impl Verdict {
    /// Whether the block is certainly dead.
    pub fn is_dead(self) -> bool {
        !matches!(self, Self::NotJudged | Self::Live)
    }
}

/// What a look has found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Judged {
    /// One for each block, in their order.
    pub verdicts: Vec<Verdict>,
    /// How many heaps there are, and how many of them were gone through to their ends.
    pub heaps: (usize, usize),
    /// How many threads' lists of freed blocks were found and followed.
    pub thread_caches: usize,
    /// How many bytes of heaps were read.
    pub bytes_read: u64,
}

impl Judged {
    /// How many blocks are dead, live, not judged.
    pub fn counts(&self) -> (usize, usize, usize) {
        let count = |wanted: fn(Verdict) -> bool| {
            self.verdicts.iter().filter(|verdict| wanted(**verdict)).count()
        };
        let dead = count(Verdict::is_dead);
        let live = count(|verdict| verdict == Verdict::Live);
        (dead, live, self.verdicts.len() - dead - live)
    }
}

/// Checks one address space, time and again.
#[derive(Clone, Debug, Default)]
pub struct HeapCheck {
    /// The file that has glibc's malloc; `None` where another allocator is at work.
    glibc: Option<FileId>,
    /// The address of `__malloc_hook` in old glibcs.
    hook: Option<u64>,
    main_arena: Option<u64>,
    /// What glibc marks blocks with in the lists of threads.
    key: Option<u64>,
    /// The heap to begin with: where the last look came to the end of its bytes.
    turn: u64,
}

impl HeapCheck {
    /// A check for the address space of `image`, whose allocators `plan` has found.
    pub fn new(image: &Image, plan: &Plan) -> Self {
        let mut this = Self::default();
        let [allocator] = plan.allocators.as_slice() else { return this };
        let Some(file) = image.files().find(|file| file.path == *allocator) else { return this };
        let Ok(elf) = Elf::open(file.file()) else { return this };
        let address = |name: &str| {
            let functions = elf.functions(|known| known == name).unwrap_or_default();
            functions.first().map(|function| function.address)
        };
        // No other library has both names for one function; what takes the place of glibc's malloc
        // in a static program has the first only.
        if address("malloc").is_none() || address("malloc") != address("__libc_malloc") {
            return this;
        }
        this.glibc = Some(file.id);
        let bias = image.code_of(file.id).next().and_then(|mapping| {
            let address = elf.address_at(mapping.offset)?;
            Some(mapping.start.0.wrapping_sub(address))
        });
        let hook = elf.variable("__malloc_hook").unwrap_or_default();
        this.hook = bias.zip(hook).map(|(bias, address)| bias.wrapping_add(address));
        this
    }

    /// Whether the allocator is known, so that more can be said than whether memory is mapped.
    pub fn knows_the_allocator(&self) -> bool {
        self.glibc.is_some()
    }

    /// Looks at blocks: address and size that was asked for, ordered by address, from before
    /// `mappings` were read. Reads `most_bytes` of heaps at the most, 3 to 4 GB/s: heaps that no
    /// bytes are left for come first at the next look. Needs one byte for each block, and 10 MB.
    ///
    /// The caller sees to it that `memory` still was that address space when this returns, see
    /// [`ForeignMemory::is_still`].
    pub fn look(
        &mut self,
        memory: &impl Memory,
        mappings: &[Mapping],
        blocks: &[(Addr, u64)],
        most_bytes: u64,
    ) -> Judged {
        let mut verdicts: Vec<Verdict> =
            blocks.iter().map(|&(block, size)| by_mapping(mappings, block.0, size)).collect();
        let (arenas, heaps) = self.heaps(memory, mappings).unwrap_or_default();
        let mut walks = Walks {
            memory,
            blocks,
            verdicts: &mut verdicts,
            caches: Vec::new(),
            left: most_bytes,
            buffer: Vec::new(),
        };
        let first = heaps.partition_point(|heap| heap.start < self.turn);
        let (before, from_turn) = heaps.split_at(first);
        self.turn = 0;
        let mut whole = 0;
        for (number, heap) in from_turn.iter().chain(before).enumerate() {
            if walks.left > 0 && walks.walk(heap) {
                whole += 1;
            } else if walks.left == 0 && self.turn == 0 {
                // One that all bytes were not enough for lets the others have their turn.
                self.turn = heap.start.saturating_add(u64::from(number == 0));
            }
        }
        let bytes_read = most_bytes - walks.left;
        let caches = std::mem::take(&mut walks.caches);
        if self.glibc.is_some() && !self.is_hooked(memory) {
            for (&(block, size), verdict) in blocks.iter().zip(&mut verdicts) {
                if *verdict == Verdict::NotJudged && is_heap_memory(mappings, block.0) {
                    *verdict = by_header(memory, block.0, size);
                }
            }
        }
        let thread_caches = self.follow_lists(memory, &arenas, caches, blocks, &mut verdicts);
        Judged { verdicts, heaps: (heaps.len(), whole), thread_caches, bytes_read }
    }

    fn follow_lists(
        &mut self,
        memory: &impl Memory,
        arenas: &[Arena],
        mut caches: Vec<(u64, u64)>,
        blocks: &[(Addr, u64)],
        verdicts: &mut [Verdict],
    ) -> usize {
        caches.sort_unstable();
        caches.dedup();
        let mut lists = Lists::new(memory, self.key);
        for (chunk, size) in caches {
            lists.follow_cache(chunk, size);
        }
        self.key = lists.key();
        for arena in arenas {
            lists.follow_arena(arena);
        }
        for block in &lists.freed {
            let at = blocks.binary_search_by_key(block, |(block, _)| block.0);
            if let Some(verdict) = at.ok().and_then(|index| verdicts.get_mut(index))
                && !verdict.is_dead()
            {
                *verdict = Verdict::Listed;
            }
        }
        // Any of those that were not followed may hold any block.
        if !lists.is_whole() {
            for verdict in verdicts.iter_mut().filter(|verdict| **verdict == Verdict::Live) {
                *verdict = Verdict::NotJudged;
            }
        }
        lists.caches
    }

    fn is_hooked(&self, memory: &impl Memory) -> bool {
        // Zero once the first call is through, unless the program has set it.
        self.hook.is_some_and(|hook| words(memory, hook) != Some([0]))
    }

    fn heaps(
        &mut self,
        memory: &impl Memory,
        mappings: &[Mapping],
    ) -> Option<(Vec<Arena>, Vec<Heap>)> {
        let glibc = self.glibc?;
        if self.is_hooked(memory) {
            return None;
        }
        let known = self.main_arena.and_then(|main| arenas::arenas(memory, main));
        let arenas = match known {
            Some(arenas) => arenas,
            None => {
                let main = arenas::find_main(memory, &data_of(mappings, glibc))?;
                self.main_arena = Some(main);
                arenas::arenas(memory, main)?
            }
        };
        let brk = mappings.iter().find(|mapping| mapping.path == "[heap]");
        let brk = brk.map(|mapping| (mapping.start.0, mapping.end.0));
        let heaps = arenas::heaps(memory, &arenas, brk);
        Some((arenas, heaps))
    }
}

/// Where a file's variables lie: what it maps to write to, and the anonymous memory behind that.
fn data_of(mappings: &[Mapping], file: FileId) -> Vec<(u64, u64)> {
    let mut found: Vec<(u64, u64)> = Vec::new();
    for mapping in mappings.iter().filter(|mapping| mapping.writable) {
        let is_behind =
            mapping.file.is_none() && found.last().is_some_and(|(_, end)| *end == mapping.start.0);
        if mapping.file == Some(file) || is_behind {
            found.push((mapping.start.0, mapping.end.0));
        }
    }
    found
}

fn mapping_at(mappings: &[Mapping], address: u64) -> Option<&[Mapping]> {
    let index = mappings.partition_point(|mapping| mapping.end.0 <= address);
    mappings.get(index..).filter(|from| from.first().is_some_and(|m| m.contains(Addr(address))))
}

/// Dead if any byte of the block or its header is not mapped.
fn by_mapping(mappings: &[Mapping], block: u64, size: u64) -> Verdict {
    let mut at = block.saturating_sub(HEADER);
    let Some(end) = block.checked_add(size) else { return Verdict::Unmapped };
    for mapping in mapping_at(mappings, at).unwrap_or_default() {
        if mapping.start.0 > at {
            break;
        }
        at = mapping.end.0;
        if at >= end {
            return Verdict::NotJudged;
        }
    }
    Verdict::Unmapped
}

/// Whether reading it disturbs nobody: a file may be one that its server never answers for.
fn is_heap_memory(mappings: &[Mapping], block: u64) -> bool {
    let mapping = mapping_at(mappings, block.saturating_sub(HEADER)).and_then(<[_]>::first);
    mapping.is_some_and(|mapping| {
        mapping.writable && (mapping.file.is_none() || mapping.path.starts_with("/anon_hugepage"))
    })
}

/// A block that no walk has come by: one with a mapping of its own, or in a heap that is unknown.
fn by_header(memory: &impl Memory, block: u64, size: u64) -> Verdict {
    let chunk = block.saturating_sub(HEADER);
    let Some([before, head]) = words(memory, chunk) else { return Verdict::NotJudged };
    let head = Head(head);
    if head.is_mmapped() {
        let fits = fits_mapped(block, size, before, head);
        return if fits { Verdict::Live } else { Verdict::OtherSize };
    }
    if !fits(block, size, head) {
        return Verdict::OtherSize;
    }
    let next = words(memory, chunk.saturating_add(head.size()));
    match next {
        Some([_, next]) if !Head(next).prev_in_use() => Verdict::Free,
        _ => Verdict::NotJudged,
    }
}
