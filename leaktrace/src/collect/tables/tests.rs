//! The tables as userspace sees them, over plain shared memory.

use std::collections::BTreeMap;

use leaktrace_ebpf::blocks::{buckets_for, claim, fill};
use leaktrace_ebpf::sampling::Sampling;
use leaktrace_ebpf::stacks::{find_or_claim, handle, places_for};

use super::*;

const START_NS: u64 = 1 << 40;

impl stacks::Memory for Pieces<'_, StackTotals> {
    fn places(&self) -> u32 {
        places_for(STACKS)
    }

    fn totals(&self, index: u32) -> Option<*mut StackTotals> {
        self.get(index)
    }
}

const BLOCKS: u32 = 200_000;
const STACKS: u32 = 60_000;

fn tables(sample_bytes: u64) -> Tables {
    Tables {
        blocks: MappedArray::of_memory(buckets_for(BLOCKS)),
        stacks: MappedArray::of_memory(places_for(STACKS)),
        terms: Terms { start_ns: START_NS, sampling: Sampling::by(sample_bytes) },
    }
}

/// What books blocks as the kernel half does. All windows stay mapped.
struct Booker<'a> {
    tables: &'a Tables,
    blocks: Pieces<'a, Bucket>,
    stacks: Pieces<'a, StackTotals>,
}

impl<'a> Booker<'a> {
    fn of(tables: &'a Tables) -> Self {
        let (blocks, stacks) = (Pieces::of(&tables.blocks), Pieces::of(&tables.stacks));
        Self { tables, blocks, stacks }
    }

    fn allocate(&self, slot: u16, address: u64, stack_id: u64, size: u64) {
        let index = find_or_claim(&self.stacks, stack_id) as u32;
        let totals = self.stacks.get(index).unwrap();
        let sampling = self.tables.terms.sampling;
        for (field, n) in [
            (Field::AllocatedBytes, sampling.bytes_of(size)),
            (Field::AllocatedBlocks, sampling.blocks_of(size)),
        ] {
            change(totals, field, |word| word.fetch_add(n, Ordering::Relaxed));
        }
        let block = Block::new(size, 0xff, handle(index, generation(totals)), 3);
        let key = block_key(slot, address);
        fill(&self.blocks, claim(&self.blocks, key), key, &block);
    }
}

fn live(tables: &Tables) -> BTreeMap<(u16, u64), LiveBlock> {
    let mut live = BTreeMap::new();
    tables
        .for_each_block(|address, slot, block| {
            live.insert((slot.0, address.0), *block);
        })
        .unwrap();
    live
}

fn totals(tables: &Tables) -> BTreeMap<u64, Totals> {
    let mut all = BTreeMap::new();
    tables
        .for_each_stack(|id, totals| {
            if totals != Totals::default() {
                all.insert(id.0, totals);
            }
        })
        .unwrap();
    all
}

#[test]
fn blocks_are_seen_with_their_address_slot_and_stack_and_can_be_removed() {
    let tables = tables(0);
    let booker = Booker::of(&tables);
    // Several windows of both tables.
    for n in 0..u64::from(BLOCKS) {
        booker.allocate((n % 3) as u16, 0x7f00_0000_0000 + n * 16, (n % 50_000) * 2 + 1, n);
    }
    let all = live(&tables);
    assert_eq!(all.len(), BLOCKS as usize);
    for n in [0, 1, 77, 199_999] {
        let block = all[&((n % 3) as u16, 0x7f00_0000_0000 + n * 16)];
        let stack = StackId((n % 50_000) * 2 + 1);
        let born_ns = START_NS + (3 << 22);
        let expected =
            LiveBlock { size: n, stack, born_ns, stands_for_bytes: n, stands_for_blocks: BLOCK };
        assert_eq!(block, expected);
    }
    let before = totals(&tables);
    assert_eq!(before.len(), 50_000);

    let gone: Vec<_> = (0..u64::from(BLOCKS))
        .filter(|n| n % 50_000 == 7)
        .map(|n| (Slot((n % 3) as u16), Addr(0x7f00_0000_0000 + n * 16)))
        .chain([(Slot(0), Addr(0x10)), (Slot(0), Addr(0)), (Slot(0), Addr(1))])
        .collect();
    assert_eq!(tables.remove_blocks(&gone).unwrap(), 4);
    assert_eq!(tables.remove_blocks(&gone).unwrap(), 0, "they are gone");
    let after = totals(&tables);
    let stack = after[&15];
    assert_eq!((stack.freed_bytes, stack.freed_blocks), (4 * 7 + 50_000 * 6, 4));
    assert_eq!(stack.outstanding_bytes(), 0);
    assert_eq!(after.iter().filter(|(id, totals)| before[id] != **totals).count(), 1);
    assert_eq!(live(&tables).len(), BLOCKS as usize - 4);
}

#[test]
fn a_sampled_block_stands_for_many() {
    let tables = tables(4096);
    let booker = Booker::of(&tables);
    booker.allocate(0, 0x1000, 1, 1024);
    booker.allocate(0, 0x2000, 1, 5000);
    let expected =
        Totals { allocated_bytes: 4096 + 5000, allocated_blocks: 5, ..Totals::default() };
    assert_eq!(totals(&tables)[&1], expected);
    assert_eq!(
        tables.remove_blocks(&[(Slot(0), Addr(0x1000)), (Slot(0), Addr(0x2000))]).unwrap(),
        2
    );
    assert_eq!(totals(&tables)[&1].outstanding_blocks(), 0);
    assert_eq!(totals(&tables)[&1].outstanding_bytes(), 0);
}

#[test]
fn blocks_of_a_forgotten_stack_are_booked_on_no_stranger() {
    // Some find all their places taken at two thirds full.
    const STRANGERS: u64 = STACKS as u64 / 2;
    let tables = tables(0);
    let booker = Booker::of(&tables);
    for n in 0..STRANGERS {
        booker.allocate(0, 0x1000 + n * 16, n * 2 + 1, 10);
    }
    tables.forget_stacks(None).unwrap();
    // Others come into the places.
    for n in 0..STRANGERS {
        booker.allocate(1, 0x1000 + n * 16, n * 2 + 1 + (1 << 40), 10);
    }
    let gone: Vec<_> = (0..STRANGERS).map(|n| (Slot(0), Addr(0x1000 + n * 16))).collect();
    assert_eq!(tables.remove_blocks(&gone).unwrap(), STRANGERS);
    assert!(totals(&tables).values().all(|totals| totals.freed_blocks == 0));
}

#[test]
fn forgetting_a_slot_leaves_the_others_and_room_for_new_blocks() {
    let tables = tables(0);
    let booker = Booker::of(&tables);
    for round in 0..3 {
        for n in 0..u64::from(BLOCKS) {
            booker.allocate((n % 2) as u16, 0x1000 + n * 16, 2 * round + 1, 1);
        }
        tables.forget_blocks(|slot| slot == Slot(1)).unwrap();
        assert_eq!(live(&tables).len(), BLOCKS as usize / 2);
        assert!(live(&tables).keys().all(|(slot, _)| *slot == 0));
        tables.forget_blocks(|_| true).unwrap();
        assert!(live(&tables).is_empty());
    }
    let mut strays = 0;
    tables.blocks.for_each(|_, bucket| strays += strays_of(bucket)).unwrap();
    assert_eq!(strays, 0);
}

#[expect(unsafe_code, reason = "a bucket of this test's own")]
fn strays_of(bucket: *mut Bucket) -> u64 {
    // SAFETY: mapped while it is visited, and nobody else writes it.
    unsafe { (*bucket).strays }
}

#[test]
fn an_entry_that_is_being_written_is_passed_over() {
    let tables = tables(0);
    let booker = Booker::of(&tables);
    let blocks = &booker.blocks;
    let place = claim(blocks, 0x1000);
    assert!(live(&tables).is_empty());
    fill(blocks, place, 0x1000, &Block::default());
    assert_eq!(live(&tables).len(), 1);
}
