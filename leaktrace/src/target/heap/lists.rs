//! Freed blocks that look used to their neighbours: those in the lists of small blocks that an
//! arena has ("fast bins"), and in those that each thread has ("tcache").
//!
//! A block in such a list leads to the next by its first word, since 2.32 by that word combined with
//! its own address. The lists are followed from their heads: what stands in a block itself is no
//! proof, since a new owner may not have written to it yet. What a list led to when it was read was
//! free at that time, whatever became of it since.

use std::collections::HashSet;

use super::arenas::Arena;
use super::chunk::{HEADER, Head, LEAST};
use super::memory::{Memory, words};

/// More links are not followed in one look.
const MOST_LINKS: u32 = 1 << 20;
/// The longest list of a thread: its length has two bytes.
const LONGEST: usize = 1 << 16;
/// How many lists a thread has: one for each size from 32 bytes on, in steps of 16.
const LISTS: usize = 64;
/// How often a thread's cache is read before it is taken to be something else.
const TRIES: u32 = 3;

/// Looks for freed blocks.
pub(super) struct Lists<'a, M> {
    memory: &'a M,
    /// Freed blocks.
    pub(super) freed: HashSet<u64>,
    /// The number of threads' caches that were found.
    pub(super) caches: usize,
    links: u32,
    /// What stands in the second word of each block in a thread's list since 2.34.
    key: Option<u64>,
}

/// What a link leads to.
enum Link {
    End,
    Block(u64),
    /// Not to a block of this size.
    Nowhere,
}

impl<'a, M: Memory> Lists<'a, M> {
    /// `key` is what an earlier look has learnt.
    pub(super) fn new(memory: &'a M, key: Option<u64>) -> Self {
        Self { memory, freed: HashSet::new(), caches: 0, links: 0, key }
    }

    /// What is to be known for the next look.
    pub(super) fn key(&self) -> Option<u64> {
        self.key
    }

    /// Whether all lists could be followed to their ends, as far as their number goes.
    pub(super) fn is_whole(&self) -> bool {
        self.links < MOST_LINKS
    }

    /// Follows the lists of an arena.
    pub(super) fn follow_arena(&mut self, arena: &Arena) {
        for (number, &first) in (0_u64..).zip(&arena.fast) {
            let size = LEAST + number * 16;
            let mut chunk = first;
            while chunk != 0 && self.take_link() && self.size_of(chunk) == Some(size) {
                let block = chunk.saturating_add(HEADER);
                // It may be a circle.
                if !self.freed.insert(block) {
                    break;
                }
                chunk = match self.link(block, 0, size) {
                    Link::Block(next) => next,
                    Link::End | Link::Nowhere => break,
                };
            }
        }
    }

    /// Follows the lists of a thread's cache, if the chunk of this size is one.
    pub(super) fn follow_cache(&mut self, chunk: u64, size: u64) {
        let cache = chunk.saturating_add(HEADER);
        // The number of blocks in each list comes first, in bytes of one or two.
        let counts = if size == 0x250 { LISTS } else { 2 * LISTS };
        for _ in 0..TRIES {
            let heads = cache.saturating_add(counts as u64);
            let Some(heads) = words::<LISTS>(self.memory, heads) else { return };
            if heads.iter().all(|head| *head == 0) || !self.take_link() {
                return;
            }
            if heads.iter().any(|head| !head.is_multiple_of(16)) {
                return;
            }
            let mut found = Vec::new();
            let mut whole = false;
            for (number, &head) in (0_u64..).zip(&heads).filter(|(_, head)| **head != 0) {
                whole |= self.follow_list(cache, head, LEAST + number * 16, &mut found);
            }
            // One list that ends as it should: the others were changed meanwhile.
            if whole {
                self.caches += 1;
                self.freed.extend(found);
                return;
            }
        }
    }

    /// Whether the list got to its end.
    fn follow_list(&mut self, cache: u64, head: u64, size: u64, found: &mut Vec<u64>) -> bool {
        let mut block = head;
        let most = found.len() + LONGEST;
        while found.len() < most && self.take_link() {
            let chunk = block.saturating_sub(HEADER);
            let Some([_, own_size, link, key]) = words(self.memory, chunk) else { return false };
            let is_masked = link != 0 && self.unmasked(block, link, HEADER, size).is_some();
            // Before 2.34, the address of the cache; in 2.27 and 2.28, nothing.
            let is_key =
                key == cache || (is_masked && key != 0 && self.key.is_none_or(|k| k == key));
            if Head(own_size).size() != size || !is_key {
                return false;
            }
            found.push(block);
            match self.link(block, HEADER, size) {
                Link::End => {
                    if key != cache {
                        self.key = Some(key);
                    }
                    return true;
                }
                Link::Block(next) => block = next,
                Link::Nowhere => return false,
            }
        }
        false
    }

    fn take_link(&mut self) -> bool {
        self.links = self.links.saturating_add(1);
        self.links < MOST_LINKS
    }

    fn size_of(&self, chunk: u64) -> Option<u64> {
        let [head] = words(self.memory, chunk.checked_add(8)?)?;
        Some(Head(head).size())
    }

    /// Follows the first word of a block. Links lead to `inside` of the next chunk.
    fn link(&self, block: u64, inside: u64, size: u64) -> Link {
        let Some([link]) = words(self.memory, block) else { return Link::Nowhere };
        match self.unmasked(block, link, inside, size) {
            Some(0) => Link::End,
            Some(next) => Link::Block(next),
            None if link == 0 => Link::End,
            None if self.is_chunk(link, inside, size) => Link::Block(link),
            None => Link::Nowhere,
        }
    }

    /// What a link means if it is combined with its address; `None` if that is nothing.
    fn unmasked(&self, block: u64, link: u64, inside: u64, size: u64) -> Option<u64> {
        let next = link ^ (block >> 12);
        (next == 0 || self.is_chunk(next, inside, size)).then_some(next)
    }

    fn is_chunk(&self, link: u64, inside: u64, size: u64) -> bool {
        let chunk = link.checked_sub(inside);
        link != 0 && link.is_multiple_of(16) && chunk.and_then(|c| self.size_of(c)) == Some(size)
    }
}
