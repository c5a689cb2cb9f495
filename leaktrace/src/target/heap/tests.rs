//! Heaps as glibc would have left them, and as no allocator would.

use std::cell::Cell;

use super::*;

const GLIBC: FileId = FileId { device: 1, inode: 2 };
const DATA: u64 = 0x7f00_0000_0000;
const DATA_SIZE: u64 = 0x2000;
const ARENA: u64 = DATA + 0x140;
const HEAP: u64 = 0x5555_0000_0000;
const HEAP_SIZE: u64 = 0x21000;
const KEY: u64 = 0x1234_5678_9abc_def1;

/// The data of glibc, and a main heap.
#[derive(Clone)]
struct Fake {
    data: Vec<u8>,
    heap: Vec<u8>,
    /// Where the next chunk begins.
    end: u64,
    /// From this reading of the heap on, words are others.
    later: Option<(u32, u64, u64)>,
    readings: Cell<u32>,
}

impl Memory for Fake {
    fn read(&self, at: u64, into: &mut [u8]) -> usize {
        if at.wrapping_sub(HEAP) < HEAP_SIZE {
            self.readings.set(self.readings.get() + 1);
        }
        for (start, bytes) in [(DATA, &self.data), (HEAP, &self.heap)] {
            let offset = usize::try_from(at.wrapping_sub(start)).unwrap();
            let Some(bytes) = bytes.get(offset..) else { continue };
            let size = bytes.len().min(into.len());
            into[..size].copy_from_slice(&bytes[..size]);
            if let Some((from, place, value)) = self.later
                && self.readings.get() >= from
                && let Some(offset) = place.checked_sub(at).and_then(|o| usize::try_from(o).ok())
                && let Some(word) = into[..size].get_mut(offset..offset.saturating_add(8))
            {
                word.copy_from_slice(&value.to_ne_bytes());
            }
            return size;
        }
        0
    }
}

impl Fake {
    fn new() -> Self {
        let mut fake = Self {
            data: vec![0; DATA_SIZE as usize],
            heap: vec![0; HEAP_SIZE as usize],
            end: HEAP,
            later: None,
            readings: Cell::new(0),
        };
        for bin in 0..127 {
            let at = ARENA + 112 + bin * 16;
            fake.put(at, at - 16);
            fake.put(at + 8, at - 16);
        }
        fake.put(ARENA + 2160, ARENA);
        fake.put(ARENA + 2184, HEAP_SIZE);
        fake
    }

    fn put(&mut self, at: u64, word: u64) {
        let (bytes, start) =
            if at >= DATA { (&mut self.data, DATA) } else { (&mut self.heap, HEAP) };
        let offset = usize::try_from(at - start).unwrap();
        bytes[offset..offset + 8].copy_from_slice(&word.to_ne_bytes());
    }

    /// A chunk in use; its block.
    fn used(&mut self, size: u64) -> u64 {
        let chunk = self.end;
        self.put(chunk + 8, size | 1);
        self.end += size;
        self.put(self.end + 8, 1);
        chunk + 16
    }

    /// A chunk that is free; its block. Another one must follow.
    fn free(&mut self, size: u64) -> u64 {
        let block = self.used(size);
        self.put(self.end, size);
        let behind = self.used(32) - 16;
        self.put(behind + 8, 32);
        block
    }

    /// Nothing follows but the top.
    fn finish(&mut self) {
        let (top, rest) = (self.end, HEAP + HEAP_SIZE - self.end);
        self.put(top + 8, rest | 1);
        self.put(ARENA + 96, top);
    }

    fn look(&self, blocks: &[(u64, u64)]) -> Judged {
        let mapping = |start, size, file, path: &str| Mapping {
            start: Addr(start),
            end: Addr(start + size),
            writable: true,
            executable: false,
            offset: 0,
            file,
            path: path.to_owned(),
        };
        let mappings = [
            mapping(HEAP, HEAP_SIZE, None, "[heap]"),
            mapping(DATA, DATA_SIZE, Some(GLIBC), "/libc.so.6"),
        ];
        let mut check = HeapCheck { glibc: Some(GLIBC), ..HeapCheck::default() };
        let blocks: Vec<(Addr, u64)> =
            blocks.iter().map(|&(block, size)| (Addr(block), size)).collect();
        check.look(self, &mappings, &blocks, 64 << 20)
    }

    fn check(&self, blocks: &[(u64, u64, Verdict)]) {
        let asked: Vec<(u64, u64)> = blocks.iter().map(|&(at, size, _)| (at, size)).collect();
        let judged = self.look(&asked);
        let expected: Vec<Verdict> = blocks.iter().map(|&(.., verdict)| verdict).collect();
        assert_eq!(judged.verdicts, expected, "{judged:?}");
    }
}

/// What leads to `next` from the first word of a block.
fn masked(block: u64, next: u64) -> u64 {
    next ^ (block >> 12)
}

#[test]
fn blocks_in_every_state() {
    let mut fake = Fake::new();
    let live = fake.used(32);
    let zeros = fake.used(48);
    let resized = fake.used(0x100);
    let free = fake.free(0x200);
    let around = fake.used(0x400);
    let merged = around + 0x100;
    fake.put(merged - 8, 0x101);
    fake.put(merged + 0x100 - 8, 0x101);
    let last = fake.used(64);
    fake.finish();
    let beyond = fake.end + 0x110;
    fake.put(beyond - 8, 0x21);
    fake.check(&[
        (live, 24, Verdict::Live),
        (zeros, 40, Verdict::Live),
        (resized, 24, Verdict::OtherSize),
        (free, 0x1f8, Verdict::Free),
        (merged, 0xf8, Verdict::NoChunk),
        (last, 56, Verdict::Live),
        (beyond, 24, Verdict::NoChunk),
        (HEAP + HEAP_SIZE - 16, 24, Verdict::Unmapped),
        (DATA + DATA_SIZE + 0x10010, 24, Verdict::Unmapped),
    ]);
}

/// A cache with one list of the size 64.
fn with_cache(fake: &mut Fake, head: impl FnOnce(&mut Fake) -> u64) -> u64 {
    let cache = fake.used(0x290);
    let head = head(fake);
    fake.put(cache + 128 + 2 * 8, head);
    cache
}

#[test]
fn blocks_in_the_lists_are_dead_and_those_that_look_like_it_are_not() {
    let mut fake = Fake::new();
    let mut listed = Vec::new();
    with_cache(&mut fake, |fake| {
        listed = (0..3).map(|_| fake.used(64)).collect();
        for (index, &block) in listed.iter().enumerate() {
            let next = listed.get(index + 1).copied().unwrap_or(0);
            fake.put(block, masked(block, next));
            fake.put(block + 8, KEY);
        }
        listed[0]
    });
    // Handed out again by an arena that got it from a thread that has ended; nothing written yet.
    let unwritten = fake.used(64);
    fake.put(unwritten, masked(unwritten, 0));
    fake.put(unwritten + 8, KEY);
    let fast = [fake.used(80), fake.used(80)];
    fake.put(ARENA + 16 + 3 * 8, fast[0] - 16);
    fake.put(fast[0], masked(fast[0], fast[1] - 16));
    fake.put(fast[1], masked(fast[1], 0));
    fake.finish();
    fake.check(&[
        (listed[0], 56, Verdict::Listed),
        (listed[1], 50, Verdict::Listed),
        (listed[2], 56, Verdict::Listed),
        (unwritten, 56, Verdict::Live),
        (fast[0], 72, Verdict::Listed),
        (fast[1], 72, Verdict::Listed),
    ]);
}

#[test]
fn plain_links_of_older_versions_are_followed_and_zeros_are_no_links() {
    let mut fake = Fake::new();
    let mut listed = 0;
    let cache = with_cache(&mut fake, |fake| {
        listed = fake.used(64);
        listed
    });
    fake.put(listed + 8, cache);
    let zeros = fake.used(64);
    // Somebody's table, as large as a cache, with pointers to zeros.
    let table = fake.used(0x290);
    fake.put(table + 128 + 2 * 8, zeros);
    fake.finish();
    fake.check(&[
        (listed, 56, Verdict::Listed),
        (zeros, 56, Verdict::Live),
        (table, 0x280, Verdict::Live),
    ]);
}

#[test]
fn circles_end() {
    let mut fake = Fake::new();
    let mut listed = 0;
    with_cache(&mut fake, |fake| {
        listed = fake.used(64);
        listed
    });
    fake.put(listed, masked(listed, listed));
    fake.put(listed + 8, KEY);
    let fast = fake.used(32);
    fake.put(ARENA + 16, fast - 16);
    fake.put(fast, masked(fast, fast - 16));
    fake.finish();
    fake.check(&[(listed, 56, Verdict::Live), (fast, 24, Verdict::Listed)]);
    // The arenas' list never gets back.
    fake.put(ARENA + 2160, ARENA + 8);
    assert_eq!(fake.look(&[(listed, 56)]).heaps, (0, 0));
}

#[test]
fn what_one_reading_shows_and_the_next_does_not_is_not_believed() {
    let mut fake = Fake::new();
    let first = fake.used(0x100);
    let live = fake.used(0x100);
    let last = fake.used(0x100);
    fake.finish();
    let blocks = [(first, 0xf8), (live, 0xf8), (last, 0xf8)];
    let all_live = fake.look(&blocks).verdicts;
    assert_eq!(all_live, [Verdict::Live; 3]);
    // In the first reading, the chunk in front reaches over it.
    fake.put(first - 8, 0x201);
    // The top chunk is read first, then the window, and the window again.
    for from in 1..=3 {
        fake.readings.set(0);
        fake.later = Some((from, first - 8, 0x101));
        assert!(!fake.look(&blocks).verdicts[1].is_dead(), "{from}");
    }
    fake.later = None;
    assert_eq!(fake.look(&blocks).verdicts[1], Verdict::NoChunk, "as long as it stands");
}

#[test]
fn behind_a_place_that_makes_no_sense_only_headers_are_judged() {
    let mut fake = Fake::new();
    let around = fake.used(0x400);
    let merged = around + 0x100;
    fake.put(merged - 8, 0x101);
    fake.put(merged + 0x100 - 8, 0x101);
    let broken = fake.used(0x100);
    fake.put(broken - 8, 0x7_7777);
    let behind = fake.used(0x100);
    let free = fake.free(0x100);
    fake.finish();
    fake.check(&[
        // Nothing behind it was seen to be in order.
        (merged, 0xf8, Verdict::NotJudged),
        (behind, 0xf8, Verdict::NotJudged),
        (free, 0xf8, Verdict::Free),
    ]);
}

#[test]
fn no_damage_stops_a_look() {
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    let mut draw = move || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random
    };
    let mut whole = Fake::new();
    let cache = whole.used(0x290);
    let blocks: Vec<(u64, u64)> = (0..200)
        .map(|number| {
            let size = 32 + number % 7 * 16;
            let block = if number % 5 == 0 { whole.free(size) } else { whole.used(size) };
            whole.put(block, masked(block, 0));
            whole.put(block + 8, KEY);
            (block, size - 8)
        })
        .collect();
    whole.put(cache + 128, blocks[7].0);
    whole.finish();
    for _ in 0..500 {
        let mut fake = whole.clone();
        for _ in 0..1 + draw() % 8 {
            let at = match draw() % 3 {
                0 => ARENA + draw() % 275 * 8,
                1 => blocks[(draw() % 200) as usize].0 - 8,
                _ => HEAP + draw() % 2000 * 8,
            };
            let word = match draw() % 5 {
                0 => draw(),
                1 => u64::MAX - draw() % 64,
                2 => draw() % 4096,
                3 => HEAP + draw() % HEAP_SIZE,
                _ => 0,
            };
            fake.put(at, word);
        }
        let judged = fake.look(&blocks);
        assert_eq!(judged.verdicts.len(), blocks.len());
        assert!(judged.bytes_read <= 64 << 20);
    }
}
