//! The tables of live blocks and of stacks' totals, read and changed while the kernel half uses
//! them.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use leaktrace_ebpf::atomic::{add, exchange};
use leaktrace_ebpf::blocks::{self, Bucket, CLAIMED, ENTRIES, FREE};
use leaktrace_ebpf::records::{BORN_SHIFT, Block, StackTotals, Terms, UNKNOWN_STACK, block_key};
use leaktrace_ebpf::sampling::BLOCK;
use leaktrace_ebpf::stacks;

use super::mapped::{MappedArray, Pieces};
use crate::model::{Addr, Slot, StackId, Totals};

/// A live block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LiveBlock {
    /// Bytes asked for.
    pub size: u64,
    /// The stack that allocated it.
    pub stack: StackId,
    /// When: `CLOCK_MONOTONIC`, nanoseconds; right within some 4 ms and a tick of the kernel's clock.
    pub born_ns: u64,
    /// The bytes that it stands for: its own, unless only a sample is kept.
    pub stands_for_bytes: u64,
    /// The blocks that it stands for, in units of 1/65,536 (`leaktrace_ebpf::sampling::BLOCK`).
    pub stands_for_blocks: u64,
}

/// The two tables.
pub struct Tables {
    pub(super) blocks: MappedArray<Bucket>,
    pub(super) stacks: MappedArray<StackTotals>,
    pub(super) terms: Terms,
}

impl Tables {
    /// Visits the totals of every stack. One that was forgotten and came again may be visited twice,
    /// with a part of its totals each time.
    pub(super) fn for_each_stack(&self, mut visit: impl FnMut(StackId, Totals)) -> io::Result<()> {
        self.stacks.for_each(|index, totals| {
            let id = load(totals, Field::Id);
            if id == 0 && index != 0 {
                return;
            }
            // Freed is read first: it is never more than what was allocated until then.
            let [freed_bytes, freed_blocks] =
                [Field::FreedBytes, Field::FreedBlocks].map(|field| load(totals, field));
            visit(
                StackId(id),
                Totals {
                    allocated_bytes: load(totals, Field::AllocatedBytes),
                    allocated_blocks: whole_blocks(load(totals, Field::AllocatedBlocks)),
                    freed_bytes,
                    freed_blocks: whole_blocks(freed_blocks),
                },
            );
        })
    }

    /// Visits every live block whose stack is known.
    pub(super) fn for_each_block(
        &self,
        mut visit: impl FnMut(Addr, Slot, &LiveBlock),
    ) -> io::Result<()> {
        let mut ids = Vec::new();
        self.stacks
            .for_each(|_, totals| ids.push((load(totals, Field::Id), generation(totals))))?;
        self.blocks.for_each(|_, bucket| {
            for entry in 0..ENTRIES {
                let Some((key, block)) = read(bucket, entry) else { continue };
                let index = stacks::index_of(block.stack);
                let stack = match ids.get(index as usize) {
                    Some(&(id, generation)) if generation == stacks::generation_of(block.stack) => {
                        StackId(id)
                    }
                    // It came after the ids were read, or its stack was forgotten.
                    _ => StackId(UNKNOWN_STACK),
                };
                if stack.0 == 0 && index != 0 {
                    continue;
                }
                let born_ns =
                    self.terms.start_ns.saturating_add(u64::from(block.born) << BORN_SHIFT);
                let live = LiveBlock {
                    size: block.size(),
                    stack,
                    born_ns,
                    stands_for_bytes: self.terms.sampling.bytes_of(block.size()),
                    stands_for_blocks: self.terms.sampling.blocks_of(block.size()),
                };
                let slot = (key >> 48) as u16;
                visit(Addr(block_key(slot, key)), Slot(slot), &live);
            }
        })
    }

    /// Takes blocks out of the table and books them as freed; returns how many were there.
    pub(super) fn remove_blocks(&self, gone: &[(Slot, Addr)]) -> io::Result<u64> {
        let buckets = self.blocks.len();
        let mut keys: Vec<u64> =
            gone.iter().map(|(slot, address)| block_key(slot.0, address.0)).collect();
        keys.sort_unstable_by_key(|key| blocks::home(*key, buckets));
        let pieces = Pieces::of(&self.blocks);
        let mut freed: HashMap<u32, (u64, u64)> = HashMap::new();
        let mut removed = 0;
        for key in keys {
            let place = blocks::find(&pieces, key);
            let mut block = Block::default();
            if key > CLAIMED
                && place != blocks::NOWHERE
                && blocks::take(&pieces, place, key, FREE, &mut block)
            {
                let of_stack = freed.entry(block.stack).or_default();
                of_stack.0 = of_stack.0.wrapping_add(self.terms.sampling.bytes_of(block.size()));
                of_stack.1 = of_stack.1.wrapping_add(self.terms.sampling.blocks_of(block.size()));
                removed += 1;
            }
        }
        self.book_freed(freed)?;
        Ok(removed)
    }

    fn book_freed(&self, freed: HashMap<u32, (u64, u64)>) -> io::Result<()> {
        let mut freed: Vec<_> = freed.into_iter().collect();
        freed.sort_unstable_by_key(|(handle, _)| stacks::index_of(*handle));
        let pieces = Pieces::of(&self.stacks);
        for (handle, (bytes, blocks)) in freed {
            let Some(totals) = pieces.get(stacks::index_of(handle)) else {
                return Err(io::Error::last_os_error());
            };
            if generation(totals) == stacks::generation_of(handle) {
                change(totals, Field::FreedBytes, |place| {
                    place.fetch_add(bytes, Ordering::Relaxed)
                });
                change(totals, Field::FreedBlocks, |place| {
                    place.fetch_add(blocks, Ordering::Relaxed)
                });
            }
        }
        Ok(())
    }

    /// Takes out the blocks whose slot is meant.
    pub(super) fn forget_blocks(&self, meant: impl Fn(Slot) -> bool) -> io::Result<()> {
        let buckets = self.blocks.len();
        // The buckets that the strays among them belong to.
        let mut homes = Vec::new();
        self.blocks.for_each(|index, bucket| {
            for entry in 0..ENTRIES {
                let Some((key, _)) = read(bucket, entry) else { continue };
                if !meant(Slot((key >> 48) as u16)) {
                    continue;
                }
                let home = blocks::home(key, buckets);
                if free(bucket, entry, key) && home != index {
                    homes.push(home);
                }
            }
        })?;
        homes.sort_unstable();
        let pieces = Pieces::of(&self.blocks);
        for home in homes {
            if let Some(bucket) = pieces.get(home) {
                one_stray_less(bucket);
            }
        }
        Ok(())
    }

    /// Forgets stacks and their totals; with `None` all. The unknown stack only loses its totals.
    pub(super) fn forget_stacks(&self, which: Option<&[StackId]>) -> io::Result<()> {
        let which: Option<HashSet<StackId>> = which.map(|ids| ids.iter().copied().collect());
        self.stacks.for_each(|index, totals| {
            let id = load(totals, Field::Id);
            if which.as_ref().is_some_and(|which| !which.contains(&StackId(id))) {
                return;
            }
            forget(totals, index != 0 && id != 0);
        })
    }
}

/// A number of blocks, of units of 1/[`BLOCK`].
pub fn whole_blocks(units: u64) -> u64 {
    units.saturating_add(BLOCK / 2) / BLOCK
}

/// The words of [`StackTotals`] that change.
#[derive(Clone, Copy)]
enum Field {
    Id,
    AllocatedBytes,
    AllocatedBlocks,
    FreedBytes,
    FreedBlocks,
}

#[expect(unsafe_code, reason = "a record that the kernel half writes meanwhile")]
fn change<R>(totals: *mut StackTotals, field: Field, how: impl FnOnce(&AtomicU64) -> R) -> R {
    // SAFETY: an aligned word of an entry that is mapped while its visitor runs.
    let word = unsafe {
        AtomicU64::from_ptr(match field {
            Field::Id => &raw mut (*totals).id,
            Field::AllocatedBytes => &raw mut (*totals).allocated_bytes,
            Field::AllocatedBlocks => &raw mut (*totals).allocated_blocks,
            Field::FreedBytes => &raw mut (*totals).freed_bytes,
            Field::FreedBlocks => &raw mut (*totals).freed_blocks,
        })
    };
    how(word)
}

fn load(totals: *mut StackTotals, field: Field) -> u64 {
    change(totals, field, |word| word.load(Ordering::Acquire))
}

#[expect(unsafe_code, reason = "see `change`")]
fn generation(totals: *mut StackTotals) -> u32 {
    // SAFETY: see `change`.
    unsafe { AtomicU32::from_ptr(&raw mut (*totals).generation) }.load(Ordering::Relaxed)
}

/// Zeroes the totals; with `leaves`, another stack may take the place.
#[expect(unsafe_code, reason = "see `change`")]
fn forget(totals: *mut StackTotals, leaves: bool) {
    for field in
        [Field::AllocatedBytes, Field::AllocatedBlocks, Field::FreedBytes, Field::FreedBlocks]
    {
        change(totals, field, |word| word.store(0, Ordering::Relaxed));
    }
    if leaves {
        let next = (generation(totals) + 1) & 0xff;
        // SAFETY: see `change`.
        unsafe {
            AtomicU32::from_ptr(&raw mut (*totals).generation).store(next, Ordering::Relaxed);
            AtomicU32::from_ptr(&raw mut (*totals).frames_sent).store(0, Ordering::Relaxed);
            AtomicU32::from_ptr(&raw mut (*totals).check).store(0, Ordering::Relaxed);
        }
        change(totals, Field::Id, |word| word.store(0, Ordering::Release));
    }
}

/// An entry's key and block; `None` if it holds none, or it is being written.
#[expect(unsafe_code, reason = "an entry that the kernel half writes meanwhile")]
fn read(bucket: *mut Bucket, entry: usize) -> Option<(u64, Block)> {
    // SAFETY: `entry` lies inside the bucket, which is mapped while its visitor runs.
    let (key, block) = unsafe {
        (
            AtomicU64::from_ptr((&raw mut (*bucket).keys).cast::<u64>().add(entry)),
            (&raw const (*bucket).blocks).cast::<Block>().add(entry),
        )
    };
    let before = key.load(Ordering::Acquire);
    if before <= CLAIMED {
        return None;
    }
    // SAFETY: as above.
    let block = unsafe { block.read_volatile() };
    std::sync::atomic::fence(Ordering::Acquire);
    (key.load(Ordering::Relaxed) == before).then_some((before, block))
}

/// Frees an entry that still holds `key`.
#[expect(unsafe_code, reason = "see `read`")]
fn free(bucket: *mut Bucket, entry: usize, key: u64) -> bool {
    // SAFETY: see `read`.
    unsafe { exchange((&raw mut (*bucket).keys).cast::<u64>().add(entry), key, FREE) == key }
}

#[expect(unsafe_code, reason = "see `read`")]
fn one_stray_less(bucket: *mut Bucket) {
    // SAFETY: see `read`.
    unsafe { add(&raw mut (*bucket).strays, u64::MAX) };
}

#[cfg(test)]
mod tests;
