//! Which blocks are chunks of a heap still: the heap's chunks are gone through one by one, each
//! leading to the next, while the target works on.
//!
//! A chunk's size does not change while its block lives, its neighbour calls it used, and no other
//! chunk reaches over it. So one look at a time when this did not hold shows that a block has died.
//! What a step reads may be out of date by the next: a chunk that has been merged away then leads
//! into somebody's data. Therefore
//! - what a chunk that reaches over a block shows is believed only where two readings agree, and
//!   where the chunks behind it are seen to be in order, and
//! - after a step that makes no sense, the walk starts again where all was in order last.

use super::Verdict;
use super::arenas::{Heap, top_of};
use super::chunk::{HEADER, Head, fits};
use super::memory::{Memory, words};
use crate::model::Addr;

/// What is read at once.
const WINDOW: usize = 1 << 20;
/// How often a walk starts again from one place.
const TRIES: u32 = 4;
/// Chunk sizes of what glibc keeps the freed blocks of a thread in; see `lists.rs`.
pub(super) const CACHE_SIZES: [u64; 2] = [0x250, 0x290];
/// More of them are not looked at: one for each thread.
const MOST_CACHES: usize = 1 << 17;

/// What walks have in common.
pub(super) struct Walks<'a, M> {
    pub(super) memory: &'a M,
    /// By address.
    pub(super) blocks: &'a [(Addr, u64)],
    /// One for each block.
    pub(super) verdicts: &'a mut [Verdict],
    /// Chunks in use that have the size of a thread's cache.
    pub(super) caches: Vec<(u64, u64)>,
    /// How many bytes may still be read.
    pub(super) left: u64,
    /// Of windows.
    pub(super) buffer: Vec<u8>,
}

/// What one reading of a window shows.
#[derive(Default)]
struct Pass {
    /// Blocks that it saw, in order.
    seen: Vec<(usize, Verdict)>,
    /// How many of them lie in front of the last place where all was in order.
    sure: usize,
    /// That place.
    sure_at: Option<u64>,
    caches: Vec<(u64, u64)>,
}

/// How a pass ended.
enum Ended {
    /// Here begins a chunk whose end is not in the window.
    More(u64),
    /// At the heap's end.
    Whole,
    /// At what cannot be a chunk.
    Lost,
}

impl<M: Memory> Walks<'_, M> {
    /// Goes through a heap. Whether it got to the end: if not, what it did not get to is not
    /// judged.
    pub(super) fn walk(&mut self, heap: &Heap) -> bool {
        let mut at = heap.start;
        let mut sure_at = at;
        let mut pending: Vec<usize> = Vec::new();
        let mut tries = 0;
        loop {
            let (pass, ended) = self.window(heap, at);
            for (number, (index, verdict)) in pass.seen.iter().enumerate() {
                if number == pass.sure && pass.sure_at.is_some() {
                    self.settle(&mut pending);
                }
                self.note(*index, *verdict, &mut pending);
            }
            if pass.sure == pass.seen.len() && pass.sure_at.is_some() {
                self.settle(&mut pending);
            }
            if let Some(place) = pass.sure_at.filter(|place| *place > sure_at) {
                (sure_at, tries) = (place, 0);
            }
            let room = MOST_CACHES.saturating_sub(self.caches.len());
            self.caches.extend(pass.caches.into_iter().take(room));
            match ended {
                Ended::Whole => return true,
                // A chunk is no smaller than its header: the walk gets on.
                Ended::More(next) if next > at && self.left > 0 => at = next,
                Ended::Lost if tries < TRIES && self.left > 0 => {
                    pending.clear();
                    tries += 1;
                    at = if tries < TRIES { sure_at } else { heap.start };
                }
                _ => return false,
            }
        }
    }

    fn note(&mut self, index: usize, verdict: Verdict, pending: &mut Vec<usize>) {
        if verdict == Verdict::NoChunk {
            pending.push(index);
        } else if let Some(known) = self.verdicts.get_mut(index)
            && !known.is_dead()
        {
            *known = verdict;
        }
    }

    /// The chunks that reached over these blocks are followed by others that are in order.
    fn settle(&mut self, pending: &mut Vec<usize>) {
        for index in pending.drain(..) {
            if let Some(known) = self.verdicts.get_mut(index)
                && !known.is_dead()
            {
                *known = Verdict::NoChunk;
            }
        }
    }

    /// Reads from a chunk on and goes through what was read; twice, if it speaks against a block
    /// that might be a chunk by its own header.
    fn window(&mut self, heap: &Heap, at: u64) -> (Pass, Ended) {
        let (mut pass, ended) = self.reading(heap, at);
        if pass.seen.iter().any(|(_, verdict)| *verdict == Verdict::NoChunk) {
            let (again, _) = self.reading(heap, at);
            let mut second = again.seen.iter().peekable();
            for (index, verdict) in &mut pass.seen {
                while second.next_if(|(other, _)| other < index).is_some() {}
                let agrees = second.peek().is_some_and(|(other, also)| {
                    other == index && (*also == Verdict::NoChunk || also.is_dead())
                });
                if *verdict == Verdict::NoChunk && !agrees {
                    *verdict = Verdict::NotJudged;
                }
            }
        }
        (pass, ended)
    }

    fn reading(&mut self, heap: &Heap, at: u64) -> (Pass, Ended) {
        let wanted = heap.end.saturating_sub(at).min(WINDOW as u64).min(self.left);
        self.left -= wanted;
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.resize(WINDOW, 0);
        let read = match buffer.get_mut(..usize::try_from(wanted).unwrap_or(0)) {
            Some(part) => self.memory.read(at, part),
            None => 0,
        };
        let result = self.pass(heap, at, buffer.get(..read).unwrap_or_default());
        self.buffer = buffer;
        result
    }

    fn pass(&self, heap: &Heap, start: u64, bytes: &[u8]) -> (Pass, Ended) {
        let mut pass = Pass::default();
        let chunk_start = start.saturating_add(HEADER);
        let mut index = self.blocks.partition_point(|(block, _)| block.0 < chunk_start);
        let mut at = start;
        loop {
            let Some([_, head]) = two_words(bytes, at - start) else {
                return (pass, if at == start { Ended::Lost } else { Ended::More(at) });
            };
            let head = Head(head);
            let next = at.saturating_add(head.size());
            let is_end = match heap.top {
                Some(top) => at == top,
                None => is_fence(heap, at, head),
            };
            if is_end {
                return self.whole(heap, pass, at, index);
            }
            if heap.top.is_some_and(|top| at > top) {
                // The heap has grown; no block that is asked about lies here.
                return (pass, Ended::Whole);
            }
            let misplaced = heap.is_main && head.is_of_other_arena();
            let mut beyond = two_words(bytes, next - start);
            let is_large = beyond.is_none() && at == start;
            if is_large {
                beyond = words(self.memory, next);
            } else if beyond.is_none() && next < start.saturating_add(WINDOW as u64) - HEADER {
                // The memory ends here by now.
            } else if beyond.is_none() {
                return (pass, Ended::More(at));
            }
            let in_order = beyond.filter(|[size_again, next_head]| {
                head.is_plausible()
                    && next < heap.end
                    && !misplaced
                    && (Head(*next_head).prev_in_use() || *size_again == head.size())
            });
            let Some([_, next_head]) = in_order else {
                // It may have become the top since the heap was looked up.
                if heap.top.is_some() && top_of(self.memory, heap.arena) == Some(at) {
                    return self.whole(heap, pass, at, index);
                }
                return (pass, Ended::Lost);
            };
            let is_free = !Head(next_head).prev_in_use();
            if !is_free && CACHE_SIZES.contains(&head.size()) {
                pass.caches.push((at, head.size()));
            }
            let mut is_known = is_free;
            while let Some(&(block, size)) = self.blocks.get(index)
                && block.0 < next.saturating_add(HEADER)
            {
                let is_its_chunk = block.0 == at.saturating_add(HEADER);
                let verdict = match is_its_chunk {
                    true if !fits(block.0, size, head) => Verdict::OtherSize,
                    true if is_free => Verdict::Free,
                    true => Verdict::Live,
                    false => Verdict::NoChunk,
                };
                is_known |= verdict == Verdict::Live;
                pass.seen.push((index, verdict));
                index += 1;
            }
            if is_known {
                // What it reached over lies in front of the next chunk, which is in order.
                (pass.sure, pass.sure_at) = (pass.seen.len(), Some(at));
            }
            if is_large {
                return (pass, Ended::More(next));
            }
            at = next;
        }
    }

    /// The end of a heap: blocks have lived below it since they were handed out.
    fn whole(&self, heap: &Heap, mut pass: Pass, at: u64, index: usize) -> (Pass, Ended) {
        let end = self.blocks.partition_point(|(block, _)| block.0 < heap.end);
        pass.seen.extend((index..end).map(|index| (index, Verdict::NoChunk)));
        (pass.sure, pass.sure_at) = (pass.seen.len(), Some(at));
        (pass, Ended::Whole)
    }
}

/// Two chunks of no size worth mentioning end a heap that another one continues.
fn is_fence(heap: &Heap, at: u64, head: Head) -> bool {
    head.size() == HEADER && at.checked_add(2 * HEADER) == Some(heap.end)
}

fn two_words(bytes: &[u8], offset: u64) -> Option<[u64; 2]> {
    let bytes = bytes.get(usize::try_from(offset).ok()?..)?;
    let ([first, second], _) = bytes.as_chunks::<8>().0.split_first_chunk::<2>()?;
    Some([u64::from_ne_bytes(*first), u64::from_ne_bytes(*second)])
}
