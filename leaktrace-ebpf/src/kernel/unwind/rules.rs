//! Which rule holds at an address: remembered, or looked up in the target's mappings and tables.

use leaktrace_ebpf::unwind::{
    CHUNK_WORDS, Kind, MAPPING_WORDS, MAX_MAPPINGS, PAGE_BITS, PAGE_MASK, Row, Rule, SILENT_FILE,
    Words, chunk_of,
};

use crate::kernel::{
    maps::{MAPPINGS, RULES, TABLES},
    verifier::{mask_if_at_most, opaque},
};

/// No code of the target's is known at the address.
pub(crate) const NONE: u64 = u64::MAX;

const WORD_MASK: u64 = CHUNK_WORDS as u64 - 1;
const REMEMBERED: usize = 1 << 16;

/// Rules by the hash of their address. An entry is a rule, and that rule xor the address: one
/// that two CPUs wrote halves of makes no address that anybody asks for.
#[repr(C)]
pub(crate) struct RememberedRules {
    entries: [[u64; 2]; REMEMBERED],
}

/// Where the tables of one target are.
#[derive(Clone, Copy)]
pub(crate) struct Tables {
    /// Its slot.
    pub(crate) slot: u16,
    mappings: u32,
    /// Makes addresses of different targets, and of different generations of one, different.
    pub(super) salt: u64,
    remembered: *mut RememberedRules,
}

impl Tables {
    #[inline(always)]
    pub(crate) fn of(slot: u16) -> Option<Self> {
        let remembered = RULES.get_ptr_mut(0)?;
        let found = MAPPINGS.get(slot as u32)?;
        // None is not in the map of chunks.
        let mappings = found.chunk_from_1.wrapping_sub(1);
        let generation = found.generation;
        let salt = ((slot as u64) << 32 | generation as u64)
            .wrapping_add(1)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Some(Self { slot, mappings, salt, remembered })
    }
}

/// The rule at `pc`, or [`NONE`].
#[inline(always)]
pub(crate) fn find(tables: &Tables, pc: u64) -> u64 {
    let tag = pc ^ tables.salt;
    // Places of calls are spread well enough as they are.
    let index = opaque(tag ^ tag >> 16) & (REMEMBERED as u64 - 1);
    // SAFETY: a pointer to a map value, and an index inside it.
    let entry = unsafe { &raw mut (*tables.remembered).entries[index as usize] };
    // SAFETY: as above.
    let [key, rule] = unsafe { core::ptr::read_volatile(entry) };
    if key ^ rule == tag {
        return rule;
    }
    let rule = look_up(tables.mappings, pc);
    if rule != NONE {
        // SAFETY: as above.
        unsafe { core::ptr::write_volatile(entry, [tag ^ rule, rule]) };
    }
    rule
}

/// Finds the mapping, the page in it, and the row in the page.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn look_up(mappings: u32, pc: u64) -> u64 {
    let Some(chunk) = TABLES.get_value(mappings, &0) else {
        return NONE;
    };
    let mut low = 0;
    let mut bit = MAX_MAPPINGS as u64 / 2;
    while bit != 0 {
        let start = word(chunk, (low + bit) * MAPPING_WORDS as u64);
        low += bit & mask_if_at_most(start, pc);
        bit >>= 1;
    }
    let first = low * MAPPING_WORDS as u64;
    if pc < word(chunk, first) || pc >= word(chunk, first + 1) {
        return NONE;
    }
    let uncovered = Rule::of(Kind::Uncovered).0;
    let offset = pc.wrapping_sub(word(chunk, first + 2));
    let directory = Words(word(chunk, first + 3));
    let page = offset >> PAGE_BITS;
    if page >= directory.count() {
        if directory.count() == 0 && word(chunk, first + 2) == SILENT_FILE {
            return Rule::of(Kind::Silent).0;
        }
        return uncovered;
    }
    let entry = directory.first() + page;
    let Some(chunk) = TABLES.get_value(chunk_of(entry), &0) else {
        return uncovered;
    };
    let rows = Words(word(chunk, entry));
    if rows.count() == 0 {
        return uncovered;
    }
    let Some(chunk) = TABLES.get_value(chunk_of(rows.first()), &0) else {
        return uncovered;
    };
    let offset = offset & PAGE_MASK;
    let mut low = 0;
    let mut bit = CHUNK_WORDS as u64 / 2;
    while bit != 0 {
        let probe = low + bit;
        let row = Row(word(chunk, rows.first() + probe));
        low +=
            bit & mask_if_at_most(row.offset(), offset) & mask_if_at_most(probe + 1, rows.count());
        bit >>= 1;
    }
    Row(word(chunk, rows.first() + low)).rule().0
}

#[inline(always)]
fn word(chunk: &[u64; CHUNK_WORDS], index: u64) -> u64 {
    chunk[(opaque(index) & WORD_MASK) as usize]
}
