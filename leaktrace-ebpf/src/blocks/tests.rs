//! The table of blocks against a `HashMap`, and under several threads.

use std::cell::UnsafeCell;
use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

/// Buckets as the kernel has them: memory that all may write.
struct Table(Vec<UnsafeCell<Bucket>>);

// SAFETY: the functions under test are what keeps threads apart.
unsafe impl Sync for Table {}

impl Memory for Table {
    fn buckets(&self) -> u32 {
        self.0.len() as u32
    }

    fn bucket(&self, index: u32) -> Option<*mut Bucket> {
        self.0.get(index as usize).map(UnsafeCell::get)
    }
}

impl Table {
    fn new(buckets: u32) -> Self {
        Self((0..buckets).map(|_| UnsafeCell::new(Bucket::default())).collect())
    }

    /// As the kernel half puts a block; `None` when there is no room.
    fn put(&self, key: u64, block: &Block) -> Option<Option<Block>> {
        let place = claim(self, key);
        if place == NOWHERE {
            return None;
        }
        if place & EXISTS == 0 {
            fill(self, place, key, block);
            return Some(None);
        }
        let mut replaced = Block::default();
        if !take(self, place & !EXISTS, key, CLAIMED, &mut replaced) {
            return None;
        }
        fill(self, place & !EXISTS, key, block);
        Some(Some(replaced))
    }

    fn remove(&self, key: u64) -> Option<Block> {
        let mut block = Block::default();
        let place = find(self, key);
        (place != NOWHERE && take(self, place, key, FREE, &mut block)).then_some(block)
    }

    fn live(&mut self) -> HashMap<u64, Block> {
        let entries = self.0.iter_mut().flat_map(|bucket| {
            let bucket = *bucket.get_mut();
            bucket.keys.into_iter().zip(bucket.blocks)
        });
        entries.filter(|(key, _)| *key != FREE).collect()
    }

    fn strays(&mut self) -> u64 {
        self.0.iter_mut().map(|bucket| bucket.get_mut().strays).sum()
    }

    fn strays_by_looking(&mut self) -> u64 {
        let buckets = self.buckets();
        let mut strays = 0;
        for (index, bucket) in self.0.iter_mut().enumerate() {
            let keys = bucket.get_mut().keys;
            strays += keys
                .iter()
                .filter(|key| **key != FREE && home(**key, buckets) as usize != index)
                .count() as u64;
        }
        strays
    }
}

fn block(n: u64) -> Block {
    Block::new(n, !n as u8, n as u32, !n as u32)
}

proptest! {
    /// With as few buckets as to overflow all the time.
    #[test]
    fn the_table_agrees_with_a_map(
        buckets in 1..12u32,
        ops in prop::collection::vec((any::<bool>(), 2..70u64), 0..400),
    ) {
        let mut table = Table::new(buckets);
        let mut model: HashMap<u64, Block> = HashMap::new();
        for (n, (puts, key)) in ops.into_iter().enumerate() {
            let key = key * 16;
            if puts {
                let block = block(n as u64);
                match table.put(key, &block) {
                    Some(replaced) => prop_assert_eq!(replaced, model.insert(key, block)),
                    None => {
                        prop_assert!(!model.contains_key(&key), "what is known is replaced");
                        prop_assert!(model.len() >= ENTRIES, "there was room");
                    }
                }
            } else {
                prop_assert_eq!(table.remove(key), model.remove(&key));
            }
        }
        prop_assert_eq!(table.strays(), table.strays_by_looking());
        prop_assert_eq!(&table.live(), &model);
        for key in model.into_keys() {
            prop_assert!(table.remove(key).is_some());
        }
        prop_assert_eq!(table.strays(), 0);
    }
}

#[test]
fn as_many_blocks_fit_as_were_asked_for() {
    for (blocks, step) in [(1, 16), (1000, 16), (100_000, 32), (300_000, 48), (300_000, 4096)] {
        let table = Table::new(buckets_for(blocks));
        let base = 0x5555_5575_92a0;
        let lost = (0..u64::from(blocks))
            .filter(|n| table.put(base + n * step, &block(*n)).is_none())
            .count();
        assert!(lost as u32 <= blocks / 100_000, "{lost} of {blocks} blocks every {step} bytes");
    }
}

#[test]
fn null_and_the_marks_are_no_blocks() {
    let table = Table::new(4);
    assert_eq!(table.put(FREE, &block(1)), None);
    assert_eq!(table.put(CLAIMED, &block(1)), None);
}

#[test]
fn threads_never_share_an_entry() {
    const THREADS: u64 = 4;
    let mut table = Table::new(24);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let table = &table;
            scope.spawn(move || {
                let mut mine: HashMap<u64, Block> = HashMap::new();
                let mut state = thread + 1;
                for n in 0..200_000u64 {
                    state ^= state << 13;
                    state ^= state >> 7;
                    state ^= state << 17;
                    // No two threads have a live block at one address.
                    let key = (2 + state % 25) * 16 * THREADS + thread * 16;
                    let block = block(n << 2 | thread);
                    let had = mine.remove(&key);
                    if had.is_some() {
                        assert_eq!(table.remove(key), had);
                    } else if let Some(replaced) = table.put(key, &block) {
                        assert_eq!(replaced, None);
                        mine.insert(key, block);
                    }
                }
                for (key, block) in mine {
                    assert_eq!(table.remove(key), Some(block));
                }
            });
        }
    });
    assert_eq!((table.strays(), table.live().len()), (0, 0));
}
