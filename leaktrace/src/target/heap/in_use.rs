//! How much of glibc's memory is in use: what a process had before anybody looked.
//!
//! Blocks that were freed and wait in a thread's cache, or in a list of small blocks, look used to
//! their neighbours and count as in use. The process runs on meanwhile: what it allocates and frees
//! in that time may count or not.

use super::HeapCheck;
use super::arenas::{Heap, top_of};
use super::chunk::{HEADER, Head};
use super::memory::{Memory, words};
use crate::target::maps::Mapping;

/// What is read at once.
const WINDOW: usize = 1 << 20;
/// How often a walk starts again from one place, where the process has just changed it.
const TRIES: u32 = 4;
/// More blocks with mappings of their own are not looked for.
const MOST_MAPPED: u64 = 1 << 17;

/// Blocks in use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InUse {
    /// Bytes that they can be used for: some 8 more than what was asked for, on average.
    pub bytes: u64,
    /// How many they are.
    pub blocks: u64,
}

impl InUse {
    fn add(&mut self, bytes: u64) {
        self.bytes = self.bytes.saturating_add(bytes);
        self.blocks += 1;
    }
}

impl HeapCheck {
    /// What is in use; `None` where another allocator than glibc is at work, where a heap could not be
    /// gone through, and where there is more than `most_bytes` to be read, 3 to 4 GB/s.
    ///
    /// The caller sees to it that `memory` still was that address space when this returns, see
    /// [`super::ForeignMemory::is_still`].
    pub fn in_use(
        &mut self,
        memory: &impl Memory,
        mappings: &[Mapping],
        most_bytes: u64,
    ) -> Option<InUse> {
        let (_, heaps) = self.heaps(memory, mappings)?;
        let all = heaps.iter().map(|heap| heap.end.saturating_sub(heap.start));
        if all.fold(0, u64::saturating_add) > most_bytes {
            return None;
        }
        let mut in_use = InUse::default();
        let mut buffer = Vec::new();
        for heap in &heaps {
            walk(memory, heap, &mut buffer, &mut in_use)?;
        }
        let mut looks = MOST_MAPPED;
        for mapping in mappings.iter().filter(|mapping| is_anonymous(mapping)) {
            let (start, end) = (mapping.start.0, mapping.end.0);
            if !heaps.iter().any(|heap| heap.start < end && start < heap.end) {
                add_mapped(memory, start, end, &mut looks, &mut in_use);
            }
        }
        Some(in_use)
    }
}

fn is_anonymous(mapping: &Mapping) -> bool {
    mapping.writable && mapping.file.is_none() && mapping.path.is_empty()
}

/// Blocks with mappings of their own, which the kernel joins where they lie side by side.
fn add_mapped(memory: &impl Memory, mut at: u64, end: u64, looks: &mut u64, in_use: &mut InUse) {
    while at < end && *looks > 0 {
        *looks -= 1;
        let Some([before, head]) = words(memory, at) else { return };
        let size = Head(head).size();
        let is_whole = size >= 4096 && size.is_multiple_of(4096) && size <= end - at;
        // A block that had to be aligned begins later, and says so in front of itself: not here.
        if !Head(head).is_mmapped() || before != 0 || !is_whole {
            return;
        }
        in_use.add(size - HEADER);
        at += size;
    }
}

/// Goes through a heap; `None` if it cannot be gone through to its end.
fn walk(memory: &impl Memory, heap: &Heap, buffer: &mut Vec<u8>, in_use: &mut InUse) -> Option<()> {
    let mut at = heap.start;
    let mut tries = 0;
    buffer.resize(WINDOW, 0);
    loop {
        let wanted = usize::try_from(heap.end.checked_sub(at)?).ok()?.min(WINDOW);
        let read = memory.read(at, buffer.get_mut(..wanted)?);
        let mut seen = InUse::default();
        match window(memory, heap, at, buffer.get(..read)?, &mut seen) {
            Step::End => {
                in_use.bytes = in_use.bytes.saturating_add(seen.bytes);
                in_use.blocks += seen.blocks;
                return Some(());
            }
            Step::More(next) if next > at => {
                in_use.bytes = in_use.bytes.saturating_add(seen.bytes);
                in_use.blocks += seen.blocks;
                (at, tries) = (next, 0);
            }
            _ if tries < TRIES => tries += 1,
            _ => return None,
        }
    }
}

/// How a window ends.
enum Step {
    /// With the heap.
    End,
    /// Here begins a chunk whose end is not in it.
    More(u64),
    /// With what is no chunk.
    Lost,
}

fn window(memory: &impl Memory, heap: &Heap, start: u64, bytes: &[u8], seen: &mut InUse) -> Step {
    let mut at = start;
    loop {
        let Some([_, head]) = two_words(bytes, at.wrapping_sub(start)) else {
            return if at == start { Step::Lost } else { Step::More(at) };
        };
        let head = Head(head);
        let is_fence = head.size() == HEADER && at.checked_add(2 * HEADER) == Some(heap.end);
        let is_end = match heap.top {
            // Beyond it the heap has grown since.
            Some(top) => at >= top,
            None => is_fence,
        };
        if is_end {
            return Step::End;
        }
        let next = at.saturating_add(head.size());
        let within = two_words(bytes, next.wrapping_sub(start));
        let Some([_, next_head]) = within.or_else(|| match at == start {
            true => words(memory, next),
            false => None,
        }) else {
            return if at == start { Step::Lost } else { Step::More(at) };
        };
        if !head.is_plausible() || next >= heap.end {
            let is_top = heap.top.is_some() && top_of(memory, heap.arena) == Some(at);
            return if is_top { Step::End } else { Step::Lost };
        }
        if Head(next_head).prev_in_use() {
            seen.add(head.size() - HEADER / 2);
        }
        if within.is_none() {
            return Step::More(next);
        }
        at = next;
    }
}

fn two_words(bytes: &[u8], offset: u64) -> Option<[u64; 2]> {
    let bytes = bytes.get(usize::try_from(offset).ok()?..)?;
    let ([first, second], _) = bytes.as_chunks::<8>().0.split_first_chunk::<2>()?;
    Some([u64::from_ne_bytes(*first), u64::from_ne_bytes(*second)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::heap::ForeignMemory;
    use crate::target::test_programs::at_program;
    use crate::target::{Image, Plan};

    /// What a real program holds, in its main heap, another arena's and mappings of its own.
    #[test]
    fn what_a_program_holds_is_in_use_and_what_it_freed_is_not() {
        let source = r#"
            #include <pthread.h>
            #include <stdlib.h>
            #include <string.h>
            #include <unistd.h>
            static void *volatile kept;
            static void *holds(void *unused) {
                for (int i = 0; i < 1000; i++) kept = malloc(5000);
                return 0;
            }
            int main(void) {
                static void *freed[4000];
                for (int i = 0; i < 4000; i++) { kept = malloc(1000); freed[i] = malloc(3000); }
                for (int i = 0; i < 4000; i++) free(freed[i]);
                for (int i = 0; i < 10; i++) kept = malloc(1 << 20);
                pthread_t thread;
                pthread_create(&thread, 0, holds, 0);
                pthread_join(thread, 0);
                write(1, "x", 1);
                for (;;) pause();
            }"#;
        at_program(source, |pid| {
            let image = Image::capture(pid).unwrap();
            let plan = Plan::make(&image, "", &crate::target::PlanOptions::default()).unwrap();
            let mut check = HeapCheck::new(&image, &plan);
            let memory = ForeignMemory::open(pid).unwrap();
            let in_use = check.in_use(&memory, image.mappings(), 1 << 30).unwrap();
            let (bytes, blocks) = (1000 * 5000 + 4000 * 1000 + (10 << 20), 1000 + 4000 + 10);
            assert!((blocks..blocks + 100).contains(&in_use.blocks), "{in_use:?}");
            // Up to 15 bytes more each, a page for a mapping; and what the C library has.
            let most = bytes + blocks * 16 + 10 * 4096 + 65_536;
            assert!((bytes..most).contains(&in_use.bytes), "{in_use:?}");
            assert_eq!(check.in_use(&memory, image.mappings(), 1 << 20), None, "more than allowed");
        });
    }
}
