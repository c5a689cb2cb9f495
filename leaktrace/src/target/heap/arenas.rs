//! glibc's arenas, and the heaps that their chunks lie in.

use super::memory::{Memory, words};

/// Offsets in `struct malloc_state`, since 2.27.
const FAST_BINS: u64 = 16;
const TOP: u64 = 96;
const BINS: u64 = 112;
/// `next`, `next_free`, `attached_threads`, `system_mem`.
const NEXT: u64 = 2160;
const STATE_SIZE: u64 = 2200;
const LAST_BIN: u64 = 127;

/// How many lists of small freed blocks an arena has.
pub(super) const FAST_BIN_COUNT: usize = 10;

/// The heaps of all arenas but the main one are aligned to this, and no larger.
const HEAP_MAX: u64 = 64 << 20;
/// Sizes of the `heap_info` in front of a heap: before 2.35, and since.
const HEAP_INFO_SIZES: [u64; 2] = [32, 48];

/// More than this are not followed: glibc makes 8 for each processor.
const MOST_ARENAS: usize = 1 << 14;
const MOST_HEAPS: usize = 1 << 16;
/// What is searched for the main arena, in bytes: a static program has it among its own data.
const MOST_SEARCHED: u64 = 16 << 20;

/// An arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Arena {
    /// The address of its `malloc_state`.
    pub(super) at: u64,
    /// Whether it is the main one, whose heap grows by brk.
    pub(super) is_main: bool,
    /// Its last chunk, which is free.
    pub(super) top: u64,
    /// The lists of small freed blocks, which look used to their neighbours.
    pub(super) fast: [u64; FAST_BIN_COUNT],
    /// How many bytes it has from the system.
    system: u64,
}

/// Chunks that lie side by side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Heap {
    /// The first chunk.
    pub(super) start: u64,
    /// Where its memory ends.
    pub(super) end: u64,
    /// Its last chunk, if that is its arena's top.
    pub(super) top: Option<u64>,
    /// The arena.
    pub(super) arena: u64,
    /// Whether it is the main arena's.
    pub(super) is_main: bool,
}

/// The main arena in one of these ranges of the allocator's own data.
pub(super) fn find_main(memory: &impl Memory, ranges: &[(u64, u64)]) -> Option<u64> {
    let mut left = MOST_SEARCHED;
    for &(start, end) in ranges {
        let size = end.saturating_sub(start).min(left);
        left -= size;
        let mut bytes = vec![0; usize::try_from(size).ok()?];
        let read = memory.read(start, &mut bytes);
        let data: Vec<u64> =
            bytes.get(..read)?.as_chunks().0.iter().map(|word| u64::from_ne_bytes(*word)).collect();
        let states = (0..data.len()).filter(|&index| has_bins(&data, index, start));
        let mut states = states.map(|index| start + index as u64 * 8);
        if let Some(main) = states.find(|&at| arenas(memory, at).is_some()) {
            return Some(main);
        }
    }
    None
}

/// Whether the words from `index` on can be a `malloc_state`: an empty bin points to itself, any
/// other to its first and last chunk.
fn has_bins(data: &[u64], index: usize, start: u64) -> bool {
    let at = start + index as u64 * 8;
    let mut empty = 0;
    for number in 0..LAST_BIN {
        let offset = usize::try_from((BINS + number * 16) / 8).unwrap_or(usize::MAX);
        let Some([first, last]) = data.get(index + offset..).and_then(|bin| bin.first_chunk())
        else {
            return false;
        };
        let itself = at + BINS + number * 16 - 16;
        match (*first == itself, *last == itself) {
            (true, true) => empty += 1,
            (false, false)
                if *first != 0
                    && *last != 0
                    && first.is_multiple_of(16)
                    && last.is_multiple_of(16) => {}
            _ => return false,
        }
    }
    empty > 0
}

/// All arenas, from the main one on; `None` if their list does not lead back to it.
pub(super) fn arenas(memory: &impl Memory, main: u64) -> Option<Vec<Arena>> {
    let mut found = Vec::new();
    let mut at = main;
    loop {
        let fast: [u64; FAST_BIN_COUNT] = words(memory, at.checked_add(FAST_BINS)?)?;
        let [top] = words(memory, at.checked_add(TOP)?)?;
        let [next, _next_free, _threads, system] = words(memory, at.checked_add(NEXT)?)?;
        let is_main = at == main;
        if !is_main && !HEAP_INFO_SIZES.contains(&(at % HEAP_MAX)) {
            return None;
        }
        found.push(Arena { at, is_main, top, fast, system });
        if next == main {
            return Some(found);
        }
        if found.len() >= MOST_ARENAS {
            return None;
        }
        at = next;
    }
}

/// The top chunk of an arena, now.
pub(super) fn top_of(memory: &impl Memory, arena: u64) -> Option<u64> {
    words(memory, arena.checked_add(TOP)?).map(|[top]| top)
}

/// The heaps of all arenas. `brk` is the mapping that grows by brk, if there is one.
pub(super) fn heaps(memory: &impl Memory, arenas: &[Arena], brk: Option<(u64, u64)>) -> Vec<Heap> {
    let mut found = Vec::new();
    for arena in arenas {
        if arena.is_main {
            found.extend(main_heap(memory, arena, brk));
        } else {
            let room = MOST_HEAPS.saturating_sub(found.len());
            found.extend(other_heaps(memory, arena, room));
        }
    }
    found.sort_by_key(|heap| heap.start);
    // Only one that contradicts itself has heaps that overlap.
    found.dedup_by(|later, earlier| later.start < earlier.end);
    found
}

/// The main heap ends with the top chunk, and all of it is what the arena has from the system.
/// Where something else has used brk as well, it begins where brk did and ends at some fence.
fn main_heap(memory: &impl Memory, arena: &Arena, brk: Option<(u64, u64)>) -> Option<Heap> {
    let (brk_start, brk_end) = brk?;
    let [_, head] = words(memory, arena.top)?;
    let end = arena.top.checked_add(head & !7)?;
    let start = end.checked_sub(arena.system)?.checked_next_multiple_of(16)?;
    let (top, arena) = (Some(arena.top), arena.at);
    // Not aligned to a page, the start of the heap can lie in the last page of a program's data.
    let reaches = start.saturating_add(4096) > brk_start && Some(start) <= top;
    if reaches && end <= brk_end {
        return Some(Heap { start, end, top, arena, is_main: true });
    }
    let top = top.filter(|top| (brk_start..brk_end).contains(top));
    Some(Heap { start: brk_start, end: brk_end, top, arena, is_main: true })
}

/// The heaps of an arena, from that with the top chunk back to that with the arena itself; none
/// unless they get there.
fn other_heaps(memory: &impl Memory, arena: &Arena, room: usize) -> Vec<Heap> {
    let own = arena.at - arena.at % HEAP_MAX;
    let mut found = Vec::new();
    let mut at = arena.top - arena.top % HEAP_MAX;
    while found.len() < room {
        let Some([of, before, size]) = words(memory, at) else { break };
        if of != arena.at || size > HEAP_MAX {
            break;
        }
        let start = if at == own {
            (arena.at + STATE_SIZE).next_multiple_of(16)
        } else {
            at + (arena.at - own)
        };
        let top = found.is_empty().then_some(arena.top);
        let end = at.saturating_add(size);
        found.push(Heap { start, end, top, arena: arena.at, is_main: false });
        if at == own {
            return found;
        }
        at = before;
    }
    Vec::new()
}
