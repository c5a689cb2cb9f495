//! Where live blocks are kept: a table of buckets in one array, found by arithmetic alone.
//!
//! A bucket is two cache lines: the keys of five blocks in the first, and most of what is known of
//! them in the second. A key whose bucket is full goes astray into another, by its hash, and its own
//! bucket counts it. Entries are claimed by compare-and-exchange, so no two CPUs ever share one, and a
//! reader of the mapped array passes over an entry that is being written.
//!
//! The kernel half runs these functions over a BPF map, userspace over the same memory, mapped.

use crate::{
    atomic::{add, exchange},
    records::Block,
};

/// Blocks in one bucket.
pub const ENTRIES: usize = 5;

/// How many buckets a block may lie in, its own included.
pub const REACH: u32 = 16;

/// The key of an entry that holds nothing.
pub const FREE: u64 = 0;

/// The key of an entry that is being written. No block can lie at this address.
pub const CLAIMED: u64 = 1;

/// There is no such block, or no room for it.
pub const NOWHERE: u64 = u64::MAX;

/// Set by [`claim`] beside the place of a block that is there already.
pub const EXISTS: u64 = 1 << 62;

const INDEX_BITS: u32 = 3;

/// Five blocks, or fewer.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Default)]
pub struct Bucket {
    /// How many blocks whose bucket this is lie in another.
    pub strays: u64,
    /// See [`FREE`], [`CLAIMED`], [`crate::records::block_key`].
    pub keys: [u64; ENTRIES],
    /// What is known of the blocks.
    pub blocks: [Block; ENTRIES],
}
const _: () = assert!(size_of::<Bucket>() == 128);

/// The memory that the buckets lie in.
pub trait Memory {
    /// How many buckets there are, at least 1.
    fn buckets(&self) -> u32;
    /// A bucket; good for reading and writing as long as the memory is.
    fn bucket(&self, index: u32) -> Option<*mut Bucket>;
}

/// How many buckets hold `blocks` with next to no risk that one finds no room: four fifths full.
pub const fn buckets_for(blocks: u32) -> u32 {
    blocks / 4 + REACH
}

/// The bucket of a place.
#[inline(always)]
pub const fn bucket_of(place: u64) -> u32 {
    (place >> INDEX_BITS) as u32
}

/// The entry of a place in its bucket; below 8.
#[inline(always)]
pub const fn entry_of(place: u64) -> u64 {
    place & ((1 << INDEX_BITS) - 1)
}

#[inline(always)]
const fn place(bucket: u32, entry: usize) -> u64 {
    (bucket as u64) << INDEX_BITS | entry as u64
}

/// Buckets in a row for the blocks of one page of 4 KiB: neighbours in memory are neighbours here, or
/// every look-up would miss the processor's caches of addresses.
const ROW: u32 = 64;
const PAGE_BITS: u32 = 12;

/// The bucket that a key belongs to.
#[inline(always)]
pub const fn home(key: u64, buckets: u32) -> u32 {
    let start = Way::of(key >> PAGE_BITS).bucket(buckets);
    if buckets < ROW {
        return start;
    }
    let bucket = start + (key >> 6) as u32 % ROW;
    if bucket >= buckets { bucket - buckets } else { bucket }
}

/// The buckets that a stray may lie in, one after another.
#[derive(Clone, Copy)]
struct Way(u64);

impl Way {
    #[inline(always)]
    const fn of(key: u64) -> Self {
        let mut mixed = (key ^ key >> 32).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed ^= mixed >> 29;
        Self(mixed.wrapping_mul(0xbf58_476d_1ce4_e5b9))
    }

    #[inline(always)]
    const fn bucket(self, buckets: u32) -> u32 {
        (((self.0 >> 32) * buckets as u64) >> 32) as u32
    }

    #[inline(always)]
    const fn next(self) -> Self {
        Self(self.0.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(31))
    }
}

#[inline(always)]
fn load(place: *const u64) -> u64 {
    // SAFETY: a word of a bucket that `Memory::bucket` has vouched for; another CPU may write it.
    unsafe { core::ptr::read_volatile(place) }
}

#[inline(always)]
fn key_at(bucket: *mut Bucket, entry: usize) -> *mut u64 {
    // SAFETY: `entry` is below ENTRIES.
    unsafe { (&raw mut (*bucket).keys).cast::<u64>().add(entry) }
}

#[inline(always)]
fn strays_of(bucket: *mut Bucket) -> *mut u64 {
    // SAFETY: a field of a bucket.
    unsafe { &raw mut (*bucket).strays }
}

#[inline(always)]
fn find_in(bucket: *mut Bucket, index: u32, key: u64) -> u64 {
    let mut entry = 0;
    while entry < ENTRIES {
        if load(key_at(bucket, entry)) == key {
            return place(index, entry);
        }
        entry += 1;
    }
    NOWHERE
}

#[inline(always)]
fn claim_in(bucket: *mut Bucket, index: u32) -> u64 {
    let mut entry = 0;
    while entry < ENTRIES {
        let at = key_at(bucket, entry);
        // SAFETY: a key of a bucket.
        if load(at) == FREE && unsafe { exchange(at, FREE, CLAIMED) } == FREE {
            return place(index, entry);
        }
        entry += 1;
    }
    NOWHERE
}

/// The place of the block under `key`, or [`NOWHERE`].
#[inline(always)]
pub fn find<M: Memory>(memory: &M, key: u64) -> u64 {
    let index = home(key, memory.buckets());
    let Some(bucket) = memory.bucket(index) else {
        return NOWHERE;
    };
    let found = find_in(bucket, index, key);
    if found != NOWHERE || load(strays_of(bucket)) == 0 {
        return found;
    }
    let mut way = Way::of(key);
    let mut distance = 1;
    while distance < REACH {
        way = way.next();
        let index = way.bucket(memory.buckets());
        let Some(bucket) = memory.bucket(index) else {
            return NOWHERE;
        };
        let found = find_in(bucket, index, key);
        if found != NOWHERE {
            return found;
        }
        distance += 1;
    }
    NOWHERE
}

/// Finds room for the block under `key`; the place is [`CLAIMED`] then. If there is such a block
/// already: its place with [`EXISTS`]. [`NOWHERE`] if there is no room.
#[inline(always)]
pub fn claim<M: Memory>(memory: &M, key: u64) -> u64 {
    if key <= CLAIMED {
        return NOWHERE;
    }
    let first = home(key, memory.buckets());
    let Some(bucket) = memory.bucket(first) else {
        return NOWHERE;
    };
    let found = find_in(bucket, first, key);
    if found != NOWHERE {
        return found | EXISTS;
    }
    let strays = strays_of(bucket);
    if load(strays) != 0 {
        let found = find(memory, key);
        if found != NOWHERE {
            return found | EXISTS;
        }
    }
    let claimed = claim_in(bucket, first);
    if claimed != NOWHERE {
        return claimed;
    }
    // Counted before it is there: whoever looks for it then looks further.
    // SAFETY: a word of a bucket.
    unsafe { add(strays, 1) };
    let mut way = Way::of(key);
    let mut distance = 1;
    while distance < REACH {
        way = way.next();
        let index = way.bucket(memory.buckets());
        let Some(bucket) = memory.bucket(index) else {
            break;
        };
        let claimed = claim_in(bucket, index);
        if claimed != NOWHERE {
            if index == first {
                // The way led back, and there is room now: it is none.
                // SAFETY: as above.
                unsafe { add(strays, u64::MAX) };
            }
            return claimed;
        }
        distance += 1;
    }
    // SAFETY: as above.
    unsafe { add(strays, u64::MAX) };
    NOWHERE
}

/// Writes what is known of a block into a place that is [`CLAIMED`], and lets it be seen.
#[inline(always)]
pub fn fill<M: Memory>(memory: &M, place: u64, key: u64, block: &Block) {
    let entry = entry_of(place) as usize;
    let Some(bucket) = memory.bucket(bucket_of(place)) else {
        return;
    };
    if entry >= ENTRIES {
        return;
    }
    // SAFETY: the entry lies inside the bucket, and nobody else writes a claimed one.
    unsafe {
        (&raw mut (*bucket).blocks).cast::<Block>().add(entry).write_volatile(*block);
        key_at(bucket, entry).write_volatile(key);
    }
}

/// Takes the block out of the place under `key`, into `block`, and leaves `instead` there:
/// [`FREE`] or [`CLAIMED`]. False if somebody else was faster.
#[inline(always)]
pub fn take<M: Memory>(memory: &M, place: u64, key: u64, instead: u64, block: &mut Block) -> bool {
    let entry = entry_of(place) as usize;
    let index = bucket_of(place);
    let Some(bucket) = memory.bucket(index) else {
        return false;
    };
    if entry >= ENTRIES {
        return false;
    }
    // SAFETY: the entry lies inside the bucket.
    *block = unsafe { (&raw mut (*bucket).blocks).cast::<Block>().add(entry).read_volatile() };
    // SAFETY: a key of a bucket.
    if unsafe { exchange(key_at(bucket, entry), key, instead) } != key {
        return false;
    }
    let first = home(key, memory.buckets());
    if first != index
        && instead == FREE
        && let Some(bucket) = memory.bucket(first)
    {
        // SAFETY: a word of a bucket.
        unsafe { add(strays_of(bucket), u64::MAX) };
    }
    true
}

#[cfg(test)]
mod tests;
