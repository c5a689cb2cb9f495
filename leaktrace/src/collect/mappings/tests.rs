//! The ranges against a model of single pages.

use std::collections::{BTreeMap, HashSet};

use proptest::prelude::*;

use super::*;

const PAGES: u64 = 24;
const THREAD: u32 = 7;

/// One call of a target; ranges are in pages.
#[derive(Clone, Debug)]
enum Call {
    Map {
        at: u64,
        pages: u64,
        stack: u64,
        anonymous: bool,
    },
    Unmap {
        at: u64,
        pages: u64,
        fails: bool,
    },
    Remap {
        from: u64,
        old: u64,
        to: u64,
        new: u64,
        stack: u64,
        keeps: bool,
        fails: bool,
    },
    /// Another thread is given what a third is about to unmap, and that fails.
    UnmapRaced {
        at: u64,
        pages: u64,
        taken: u64,
        stack: u64,
    },
}

fn calls() -> impl Strategy<Value = Vec<Call>> {
    let at = || 0..PAGES;
    let pages = || 1..9u64;
    let stack = || 1..5u64;
    proptest::collection::vec(
        prop_oneof![
            4 => (at(), pages(), stack(), prop::bool::weighted(0.8))
                .prop_map(|(at, pages, stack, anonymous)| Call::Map { at, pages, stack, anonymous }),
            3 => (at(), pages(), prop::bool::weighted(0.3))
                .prop_map(|(at, pages, fails)| Call::Unmap { at, pages, fails }),
            2 => (at(), 0..9u64, at(), pages(), stack(), any::<bool>(), prop::bool::weighted(0.3))
                .prop_map(|(from, old, to, new, stack, keeps, fails)| {
                    Call::Remap { from, old, to, new, stack, keeps, fails }
                }),
            1 => (at(), pages(), at(), stack())
                .prop_map(|(at, pages, taken, stack)| Call::UnmapRaced { at, pages, taken, stack }),
        ],
        1..60,
    )
}

/// Each page: the number of its mapping, and the stack that made it.
#[derive(Default)]
struct Model {
    pages: BTreeMap<u64, (u64, u64)>,
    made: u64,
    allocated: BTreeMap<u64, (u64, u64)>,
}

impl Model {
    fn map(&mut self, at: u64, pages: u64, stack: u64) {
        self.made += 1;
        self.unmap(at, pages);
        self.pages.extend((at..at + pages).map(|page| (page, (self.made, stack))));
        let allocated = self.allocated.entry(stack).or_default();
        allocated.0 += pages * PAGE;
        allocated.1 += 1;
    }

    fn unmap(&mut self, at: u64, pages: u64) {
        self.pages.retain(|page, _| *page < at || *page >= at + pages);
    }

    /// (outstanding bytes, outstanding mappings) of a stack.
    fn held_by(&self, stack: u64) -> (u64, u64) {
        let own = || self.pages.values().filter(|(_, of)| *of == stack);
        let mappings: HashSet<u64> = own().map(|(number, _)| *number).collect();
        (own().count() as u64 * PAGE, mappings.len() as u64)
    }

    fn apply(&mut self, call: &Call) {
        match *call {
            Call::Map { at, pages, stack, anonymous: true } => self.map(at, pages, stack),
            Call::Map { at, pages, .. } | Call::Unmap { at, pages, fails: false } => {
                self.unmap(at, pages);
            }
            Call::Unmap { .. } | Call::Remap { fails: true, .. } => {}
            Call::Remap { from, old, to, new, stack, keeps, fails: false } => {
                let counts = self.pages.range(from..from + old.max(1)).next().is_some();
                if !keeps {
                    self.unmap(from, old);
                }
                if counts { self.map(to, new, stack) } else { self.unmap(to, new) }
            }
            Call::UnmapRaced { at, pages, taken, stack } => {
                // The kernel had unmapped the page that it gave to the other, so the rest stays.
                let _ = (at, pages);
                self.map(taken, 1, stack);
            }
        }
    }
}

fn tell(
    mappings: &mut Mappings,
    thread: u32,
    operation: u32,
    place: [u64; 2],
    stack: u64,
    flags: u64,
) {
    mappings.take(&MappingRecord {
        operation,
        thread,
        address: place[0] * PAGE,
        length: place[1] * PAGE,
        stack,
        flags,
        time_ns: 1,
        ..MappingRecord::default()
    });
}

fn apply(mappings: &mut Mappings, call: &Call) {
    let mut tell = |thread, operation, place, stack, flags| {
        tell(mappings, thread, operation, place, stack, flags);
    };
    match *call {
        Call::Map { at, pages, stack, anonymous } => {
            let operation = if anonymous { MAPPING_MAPPED } else { MAPPING_COVERED };
            tell(THREAD, operation, [at, pages], stack, 0);
        }
        Call::Unmap { at, pages, fails } => {
            tell(THREAD, MAPPING_UNMAPS, [at, pages], 0, 0);
            if fails {
                tell(THREAD, MAPPING_FAILED, [0, 0], 0, 0);
            }
        }
        Call::Remap { from, old, to, new, stack, keeps, fails } => {
            let flags = if keeps { MREMAP_DONTUNMAP } else { 0 };
            tell(THREAD, MAPPING_REMAPS, [from, old], 0, flags);
            match fails {
                true => tell(THREAD, MAPPING_FAILED, [0, 0], 0, 0),
                false => tell(THREAD, MAPPING_REMAPPED, [to, new], stack, flags),
            }
        }
        Call::UnmapRaced { at, pages, taken, stack } => {
            tell(THREAD, MAPPING_UNMAPS, [at, pages], 0, 0);
            tell(THREAD + 1, MAPPING_MAPPED, [taken, 1], stack, 0);
            tell(THREAD, MAPPING_FAILED, [0, 0], 0, 0);
        }
    }
}

fn fresh() -> Mappings {
    let mut mappings = Mappings::new(0, u64::MAX);
    mappings.open(Slot(0), 0, std::iter::empty(), Some(Addr(1 << 40)));
    mappings
}

fn totals(mappings: &Mappings, stack: u64) -> Totals {
    let found = mappings.of(Slot(0)).find(|(id, _)| id.0 == stack);
    found.map(|(_, totals)| totals).unwrap_or_default()
}

/// Outstanding bytes and mappings of a stack.
fn held_by(mappings: &Mappings, stack: u64) -> (u64, u64) {
    let totals = totals(mappings, stack);
    (totals.outstanding_bytes(), totals.outstanding_blocks())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn ranges_are_what_single_pages_are(calls in calls()) {
        let (mut mappings, mut model) = (fresh(), Model::default());
        for call in &calls {
            apply(&mut mappings, call);
            model.apply(call);
            let mut ages = HashMap::new();
            mappings.add_ages(3, 0, &mut ages);
            for stack in 1..5 {
                let held = model.held_by(stack);
                prop_assert_eq!(held_by(&mappings, stack), held, "{:?}", call);
                let aged = ages.get(&StackId(stack)).copied().unwrap_or_default();
                prop_assert_eq!((aged.bytes, aged.blocks), held);
                let allocated = model.allocated.get(&stack).copied().unwrap_or_default();
                let totals = totals(&mappings, stack);
                prop_assert_eq!((totals.allocated_bytes, totals.allocated_blocks), allocated);
            }
        }
    }
}

#[test]
fn lengths_are_in_whole_pages_and_huge_ones_where_asked_for() {
    assert_eq!(pages(8192, 1, 0), 8192..12288);
    assert_eq!(pages(0, 4096, 0), 0..4096);
    assert_eq!(pages(1 << 21, 1, MAP_HUGETLB), 1 << 21..2 << 21);
    assert_eq!(pages(1 << 30, 1, MAP_HUGETLB | 30 << MAP_HUGE_SHIFT), 1 << 30..2 << 30);
    assert_eq!(pages(4096, u64::MAX, 0), 4096..u64::MAX);
    assert_eq!(pages(0, 5, MAP_HUGETLB | 63 << MAP_HUGE_SHIFT), 0..1 << 63);
}

#[test]
fn the_heap_grows_and_shrinks_by_its_end() {
    let mut mappings = fresh();
    let mut end_at = |pages: u64, stack| {
        tell(&mut mappings, THREAD, MAPPING_BREAK, [(1 << 28) + pages, 0], stack, 0);
        (held_by(&mappings, 1), held_by(&mappings, 2))
    };
    assert_eq!(end_at(0, 1), ((0, 0), (0, 0)), "it was asked where it is");
    assert_eq!(end_at(3, 1), ((3 * PAGE, 1), (0, 0)));
    assert_eq!(end_at(5, 2), ((3 * PAGE, 1), (2 * PAGE, 1)));
    assert_eq!(end_at(2, 2), ((2 * PAGE, 1), (0, 0)));
}

#[test]
fn what_was_mapped_before_counts_only_once_it_is_remapped() {
    let mut mappings = Mappings::new(0, u64::MAX);
    mappings.open(Slot(0), 0, std::iter::once((Addr(0), Addr(4 * PAGE))), None);
    assert_eq!(mappings.of(Slot(0)).count(), 0);
    tell(&mut mappings, THREAD, MAPPING_REMAPS, [0, 4], 0, 0);
    tell(&mut mappings, THREAD, MAPPING_REMAPPED, [8, 6], 1, 0);
    assert_eq!(held_by(&mappings, 1), (6 * PAGE, 1));
    // A file's mapping is nothing to us, wherever it goes; what it covers is gone.
    tell(&mut mappings, THREAD, MAPPING_REMAPS, [100, 4], 0, 0);
    tell(&mut mappings, THREAD, MAPPING_REMAPPED, [10, 2], 2, 0);
    assert_eq!((held_by(&mappings, 1), held_by(&mappings, 2)), ((4 * PAGE, 1), (0, 0)));
}

/// What the kernel refuses is told as a call of nothing: its failure is not that of the one before.
#[test]
fn what_was_unmapped_does_not_come_back_when_the_next_call_is_refused() {
    for refused in [MAPPING_UNMAPS, MAPPING_REMAPS] {
        let mut mappings = fresh();
        tell(&mut mappings, THREAD, MAPPING_MAPPED, [0, 4], 1, 0);
        tell(&mut mappings, THREAD, MAPPING_UNMAPS, [0, 4], 0, 0);
        tell(&mut mappings, THREAD, refused, [0, 0], 0, 0);
        tell(&mut mappings, THREAD, MAPPING_FAILED, [0, 0], 0, 0);
        assert_eq!(held_by(&mappings, 1), (0, 0));
    }
}

#[test]
fn what_is_not_mapped_any_more_is_taken_out() {
    let mut mappings = fresh();
    for (at, stack) in [(0, 1), (4, 1), (8, 2)] {
        tell(&mut mappings, THREAD, MAPPING_MAPPED, [at, 4], stack, 0);
    }
    let is_mapped = [(1, 3), (9, 20)].map(|(start, end)| (Addr(start * PAGE), Addr(end * PAGE)));
    mappings.keep_only(Slot(0), is_mapped.into_iter());
    assert_eq!(held_by(&mappings, 1), (2 * PAGE, 1));
    assert_eq!(held_by(&mappings, 2), (3 * PAGE, 1));
}

#[test]
fn sizes_that_are_not_asked_for_and_earlier_calls_do_not_count() {
    let mut mappings = Mappings::new(2 * PAGE, 3 * PAGE);
    mappings.open(Slot(0), 1, std::iter::empty(), None);
    for pages in 1..=4 {
        tell(&mut mappings, THREAD, MAPPING_MAPPED, [10 * pages, pages], 1, 0);
    }
    assert_eq!((held_by(&mappings, 1), mappings.filtered), ((5 * PAGE, 2), 2));
    mappings.open(Slot(0), 2, std::iter::empty(), None);
    tell(&mut mappings, THREAD, MAPPING_MAPPED, [0, 2], 1, 0);
    assert_eq!(held_by(&mappings, 1), (0, 0), "told at 1, counted from 2 on");
}
