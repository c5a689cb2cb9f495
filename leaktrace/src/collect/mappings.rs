//! Memory that targets have mapped past their allocators, and not unmapped: by stack, and how old.
//!
//! A mapping is what one call made. It is one block, of the bytes that are left of it, until the
//! last of them is unmapped. `mremap` is to mappings what `realloc` is to blocks: the old one is
//! gone, the new one is its caller's. Lengths are in whole pages, as the kernel maps them.
//!
//! Everything here is told by the target: what is kept of it is bounded.

use std::collections::HashMap;
use std::ops::Range;

use leaktrace_ebpf::records::{
    MAPPING_BREAK, MAPPING_COVERED, MAPPING_FAILED, MAPPING_MAPPED, MAPPING_REMAPPED,
    MAPPING_REMAPS, MAPPING_UNMAPS, MappingRecord,
};

use super::ledger::BlockAges;
use super::mapped_ranges::{MappedRanges, Piece};
use crate::model::{Addr, Slot, StackId, Totals};

#[cfg(test)]
mod tests;

/// The most pieces of mappings that are kept, of all targets.
const MOST_PIECES: usize = 1 << 20;
/// The most that are kept of one target, should the calls that took them out fail.
const MOST_TAKEN_OUT: usize = 1 << 16;

const PAGE: u64 = 4096;
const MAP_HUGETLB: u64 = 0x4_0000;
/// Where the flags of `mmap` have the binary logarithm of the size of huge pages, and what it is
/// where they don't.
const MAP_HUGE_SHIFT: u32 = 26;
const USUAL_HUGE_PAGE: u64 = 21;
const MREMAP_DONTUNMAP: u64 = 4;

/// Whose a mapping is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    /// The code on this stack has mapped it.
    Stack(StackId),
    /// An allocator has, inside of a call that counts.
    Allocator,
    /// It was mapped before the trace began, or is none of the sizes asked for.
    Nobody,
}

#[derive(Clone, Copy, Debug)]
struct Mapping {
    owner: Owner,
    born_ns: u64,
    /// What is left of it.
    bytes: u64,
}

/// What a thread's last call has taken out, should it fail.
#[derive(Debug, Default)]
struct TakenOut {
    pieces: Vec<(Piece, Mapping)>,
    /// Where a call that maps anew began, anonymous memory was.
    was_anonymous: bool,
}

/// One address space.
#[derive(Debug, Default)]
struct Space {
    /// What happened before is not counted.
    since_ns: u64,
    ranges: MappedRanges,
    mappings: HashMap<u64, Mapping>,
    taken_out: HashMap<u32, TakenOut>,
    /// How many those are, and pieces in them.
    all_taken_out: usize,
    /// Where the heap of `brk` ends, in whole pages, when that is known.
    heap_end: Option<u64>,
    totals: HashMap<StackId, Totals>,
    /// What allocators have mapped and not unmapped, in bytes, as far as it was inside of a call.
    allocator_bytes: u64,
}

/// All targets' mappings.
#[derive(Debug)]
pub struct Mappings {
    spaces: HashMap<Slot, Space>,
    next: u64,
    sizes: Range<u64>,
    /// Mappings that found no room here.
    pub lost: u64,
    /// Mappings of a size that is not asked for.
    pub filtered: u64,
}

impl Mappings {
    /// Nothing is mapped; mappings from `min_size` up to `max_size` bytes will count.
    pub fn new(min_size: u64, max_size: u64) -> Self {
        let sizes = min_size..max_size.saturating_add(1);
        Self { spaces: HashMap::new(), next: 0, sizes, lost: 0, filtered: 0 }
    }

    /// Begins to count in an address space, at `since_ns` (`CLOCK_MONOTONIC`). `anonymous` is what
    /// is mapped there already, `heap_end` where the heap of `brk` ends.
    pub fn open(
        &mut self,
        slot: Slot,
        since_ns: u64,
        anonymous: impl Iterator<Item = (Addr, Addr)>,
        heap_end: Option<Addr>,
    ) {
        let heap_end = heap_end.map(|end| end.0);
        self.spaces.insert(slot, Space { since_ns, heap_end, ..Space::default() });
        for (start, end) in anonymous {
            self.add(slot, start.0..end.0, Owner::Nobody, since_ns);
        }
    }

    /// Forgets an address space.
    pub fn forget(&mut self, slot: Slot) {
        self.spaces.remove(&slot);
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.spaces.clear();
        (self.lost, self.filtered) = (0, 0);
    }

    /// Takes in what a target does.
    pub fn take(&mut self, record: &MappingRecord) {
        let Ok(slot) = u16::try_from(record.slot) else { return };
        let slot = Slot(slot);
        let Some(space) = self.spaces.get_mut(&slot) else { return };
        if record.time_ns < space.since_ns {
            return;
        }
        // What was taken out by a call that did not fail is gone.
        let taken_out = space.recall(record.thread);
        let range = pages(record.address, record.length, record.flags);
        let owner = match record.in_allocator {
            0 => Owner::Stack(StackId(record.stack)),
            _ => Owner::Allocator,
        };
        match record.operation {
            MAPPING_MAPPED => self.add(slot, range, owner, record.time_ns),
            MAPPING_COVERED => drop(space.free(&range)),
            MAPPING_UNMAPS => {
                let range = pages(record.address, record.length, 0);
                let pieces = space.free(&range);
                space.remember(record.thread, TakenOut { pieces, was_anonymous: false });
            }
            MAPPING_REMAPS => {
                let range = pages(record.address, record.length, 0);
                let taken_out = space.remaps(&range, record.flags);
                space.remember(record.thread, taken_out);
            }
            MAPPING_REMAPPED => {
                let range = pages(record.address, record.length, 0);
                if taken_out.was_anonymous {
                    self.add(slot, range, owner, record.time_ns);
                } else {
                    drop(space.free(&range));
                }
            }
            MAPPING_FAILED => space.put_back(taken_out),
            MAPPING_BREAK => self.move_heap_end(slot, record.address, owner, record.time_ns),
            _ => {}
        }
    }

    fn move_heap_end(&mut self, slot: Slot, end: u64, owner: Owner, now_ns: u64) {
        let Some(space) = self.spaces.get_mut(&slot) else { return };
        let new = page_up(end);
        let Some(old) = space.heap_end.replace(new) else { return };
        if new > old {
            self.add(slot, old..new, owner, now_ns);
        } else {
            drop(space.free(&(new..old)));
        }
    }

    /// A new mapping, in the place of what was there.
    fn add(&mut self, slot: Slot, range: Range<u64>, owner: Owner, now_ns: u64) {
        let all: usize = self.spaces.values().map(|space| space.ranges.len()).sum();
        let Some(space) = self.spaces.get_mut(&slot) else { return };
        drop(space.free(&range));
        if range.is_empty() {
            return;
        }
        if all >= MOST_PIECES {
            self.lost += 1;
            return;
        }
        let bytes = range.end - range.start;
        let mut owner = owner;
        if matches!(owner, Owner::Stack(_)) && !self.sizes.contains(&bytes) {
            self.filtered += 1;
            owner = Owner::Nobody;
        }
        self.next += 1;
        let (mapping, number) = (Mapping { owner, born_ns: now_ns, bytes }, self.next);
        space.mappings.insert(number, mapping);
        space.ranges.insert(Piece { range, mapping: number });
        match owner {
            Owner::Stack(id) => {
                let totals = space.totals.entry(id).or_default();
                totals.allocated_bytes += bytes;
                totals.allocated_blocks += 1;
            }
            Owner::Allocator => space.allocator_bytes += bytes,
            Owner::Nobody => {}
        }
    }

    /// What each stack has mapped and unmapped, in the address space of a slot.
    pub fn of(&self, slot: Slot) -> impl Iterator<Item = (StackId, Totals)> {
        let space = self.spaces.get(&slot).into_iter();
        space.flat_map(|space| space.totals.iter().map(|(id, totals)| (*id, *totals)))
    }

    /// Whether a stack has mapped memory.
    pub fn knows(&self, id: StackId) -> bool {
        id != StackId::UNKNOWN && self.spaces.values().any(|space| space.totals.contains_key(&id))
    }

    /// Bytes that allocators have mapped inside of calls that count, and not unmapped.
    pub fn allocator_bytes(&self) -> u64 {
        self.spaces.values().map(|space| space.allocator_bytes).sum()
    }

    /// Looks at every mapping: how old, and which are at least `min_age_ns` old.
    pub fn add_ages(&self, now_ns: u64, min_age_ns: u64, ages: &mut HashMap<StackId, BlockAges>) {
        for mapping in self.spaces.values().flat_map(|space| space.mappings.values()) {
            let Owner::Stack(id) = mapping.owner else { continue };
            let age = now_ns.saturating_sub(mapping.born_ns);
            let of_stack = ages.entry(id).or_default();
            of_stack.oldest_ns = of_stack.oldest_ns.max(age);
            if age >= min_age_ns {
                of_stack.bytes = of_stack.bytes.saturating_add(mapping.bytes);
                of_stack.blocks += 1;
            }
        }
    }

    /// Takes out what is not mapped any more, though nobody told so. `anonymous` is what is, by
    /// address.
    pub fn keep_only(&mut self, slot: Slot, anonymous: impl Iterator<Item = (Addr, Addr)>) {
        let Some(space) = self.spaces.get_mut(&slot) else { return };
        let mut at = 0;
        for (start, end) in anonymous {
            drop(space.free(&(at..start.0)));
            at = end.0.max(at);
        }
        drop(space.free(&(at..u64::MAX)));
    }
}

impl Space {
    /// Keeps what a call may have to give back.
    fn remember(&mut self, thread: u32, taken_out: TakenOut) {
        let more = 1 + taken_out.pieces.len();
        if self.all_taken_out + more > MOST_TAKEN_OUT {
            // Nearly all of these calls have succeeded long since.
            self.taken_out.clear();
            self.all_taken_out = 0;
        }
        if more <= MOST_TAKEN_OUT {
            self.taken_out.insert(thread, taken_out);
            self.all_taken_out += more;
        }
    }

    /// Gives that, once.
    fn recall(&mut self, thread: u32) -> TakenOut {
        let taken_out = self.taken_out.remove(&thread);
        let less = taken_out.as_ref().map_or(0, |taken_out| 1 + taken_out.pieces.len());
        self.all_taken_out = self.all_taken_out.saturating_sub(less);
        taken_out.unwrap_or_default()
    }

    /// Takes out what lies in a range, and books it as freed.
    fn free(&mut self, range: &Range<u64>) -> Vec<(Piece, Mapping)> {
        let mut taken = Vec::new();
        for piece in self.ranges.take(range) {
            let Some(mapping) = self.mappings.get_mut(&piece.mapping) else { continue };
            let bytes = piece.range.end - piece.range.start;
            mapping.bytes = mapping.bytes.saturating_sub(bytes);
            let (owner, is_gone) = (mapping.owner, mapping.bytes == 0);
            taken.push((piece.clone(), *mapping));
            if is_gone {
                self.mappings.remove(&piece.mapping);
            }
            match owner {
                Owner::Stack(id) => {
                    let totals = self.totals.entry(id).or_default();
                    totals.freed_bytes += bytes;
                    totals.freed_blocks += u64::from(is_gone);
                }
                Owner::Allocator => {
                    self.allocator_bytes = self.allocator_bytes.saturating_sub(bytes);
                }
                Owner::Nobody => {}
            }
        }
        taken
    }

    /// `mremap` begins.
    fn remaps(&mut self, range: &Range<u64>, flags: u64) -> TakenOut {
        // The old mapping stays where it is: a length of 0 makes a second of one that is shared.
        if range.is_empty() || flags & MREMAP_DONTUNMAP != 0 {
            let at = range.start..range.end.max(range.start.saturating_add(1));
            return TakenOut { pieces: Vec::new(), was_anonymous: self.ranges.any_in(&at) };
        }
        let pieces = self.free(range);
        let was_anonymous = !pieces.is_empty();
        TakenOut { pieces, was_anonymous }
    }

    /// A call has failed: what it took out is back, where nothing else is by now.
    fn put_back(&mut self, taken_out: TakenOut) {
        for (piece, was) in taken_out.pieces {
            for range in self.ranges.gaps(&piece.range) {
                let bytes = range.end - range.start;
                let mapping = self.mappings.entry(piece.mapping);
                let mapping = mapping.or_insert(Mapping { bytes: 0, ..was });
                let was_gone = mapping.bytes == 0;
                mapping.bytes += bytes;
                self.ranges.insert(Piece { range, mapping: piece.mapping });
                match was.owner {
                    Owner::Stack(id) => {
                        let totals = self.totals.entry(id).or_default();
                        totals.freed_bytes = totals.freed_bytes.saturating_sub(bytes);
                        totals.freed_blocks =
                            totals.freed_blocks.saturating_sub(u64::from(was_gone));
                    }
                    Owner::Allocator => self.allocator_bytes += bytes,
                    Owner::Nobody => {}
                }
            }
        }
    }
}

/// The pages of a range, as `mmap` rounds it.
fn pages(address: u64, length: u64, flags: u64) -> Range<u64> {
    let mut page = PAGE;
    if flags & MAP_HUGETLB != 0 {
        let shift = flags >> MAP_HUGE_SHIFT & 63;
        page = 1 << if shift == 0 { USUAL_HUGE_PAGE } else { shift };
    }
    let end = address.saturating_add(length.div_ceil(page).saturating_mul(page));
    address..end
}

fn page_up(address: u64) -> u64 {
    address.div_ceil(PAGE).saturating_mul(PAGE)
}
