//! The layout of unwind tables: how a frame's caller is found, for every place in the code.
//!
//! Userspace compiles them from `.eh_frame`, the kernel half walks with them. Code is cut into
//! pages of 8 KiB; each page has its rows, by address, and a row holds until the next one. So a
//! row fits into eight bytes, and a search never leaves its page.
//!
//! Everything lies in chunks of 64 KiB, the inner maps of one array of maps, so that tables can be
//! added under way: a chunk holds rows, or a directory (where the rows of each page are), or the
//! mappings of one address space.

/// Code is cut into pages of `1 << PAGE_BITS` bytes.
pub const PAGE_BITS: u32 = 13;
/// The mask of an offset in a page.
pub const PAGE_MASK: u64 = (1 << PAGE_BITS) - 1;
/// The words of a chunk. The rows of one page, one for each byte at most, always fit.
pub const CHUNK_WORDS: usize = 8192;
const _: () = assert!(CHUNK_WORDS == 1 << PAGE_BITS);

const RULE_BITS: u32 = 64 - PAGE_BITS;
const RULE_MASK: u64 = (1 << RULE_BITS) - 1;
const KIND_BITS: u32 = 4;
const CFA_BITS: u32 = 24;
const FP_BITS: u32 = 23;
const _: () = assert!(KIND_BITS + CFA_BITS + FP_BITS == RULE_BITS);

/// How the caller of a frame is found. CFA ("canonical frame address") is DWARF's word for the
/// value that the stack pointer has in the caller, right after the return.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Kind {
    /// No unwind data covers this code: as if it kept frame pointers.
    Uncovered = 0,
    /// CFA = stack pointer + offset.
    Sp = 1,
    /// CFA = frame pointer + offset.
    Fp = 2,
    /// CFA = the word at frame pointer + offset, and the caller's frame pointer is the word at
    /// frame pointer + its offset: a function that realigned its stack.
    FpDeref = 3,
    /// CFA = the word at stack pointer + offset.
    SpDeref = 4,
    /// CFA = stack pointer + 8, or + 16 from byte "offset" of a 16-byte entry on: a stub of the
    /// procedure linkage table.
    Plt = 5,
    /// The frame of a signal: the kernel saved all registers at the stack pointer.
    Signal = 6,
    /// The thread's first frame: it has no caller.
    End = 7,
    /// The unwind data says something that is not expressed here.
    Unsupported = 8,
}

/// A [`Kind`] and its offsets, packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Rule(pub u64);

impl Rule {
    /// A rule without offsets.
    pub const fn of(kind: Kind) -> Self {
        Self(kind as u64)
    }

    /// A rule with `cfa` bytes from the register to the CFA, and the caller's frame pointer saved
    /// at CFA + `fp` (for [`Kind::FpDeref`] at frame pointer + `fp`); `fp` 0 when it still is in
    /// its register. `None` when an offset is too large to be true (8 MiB, 4 MiB).
    pub const fn new(kind: Kind, cfa: i64, fp: i64) -> Option<Self> {
        if sign_extend(cfa as u64, CFA_BITS) != cfa || sign_extend(fp as u64, FP_BITS) != fp {
            return None;
        }
        let cfa = cfa as u64 & ((1 << CFA_BITS) - 1);
        let fp = fp as u64 & ((1 << FP_BITS) - 1);
        Some(Self(kind as u64 | cfa << KIND_BITS | fp << (KIND_BITS + CFA_BITS)))
    }

    /// The [`Kind`], as a number.
    #[inline(always)]
    pub const fn kind(self) -> u64 {
        self.0 & ((1 << KIND_BITS) - 1)
    }

    /// The offset of the CFA, in bytes.
    #[inline(always)]
    pub const fn cfa(self) -> i64 {
        sign_extend(self.0 >> KIND_BITS, CFA_BITS)
    }

    /// The offset of the caller's frame pointer, in bytes; 0 when it is still in its register.
    #[inline(always)]
    pub const fn fp(self) -> i64 {
        sign_extend(self.0 >> (KIND_BITS + CFA_BITS), FP_BITS)
    }
}

#[inline(always)]
const fn sign_extend(value: u64, bits: u32) -> i64 {
    ((value << (64 - bits)) as i64) >> (64 - bits)
}

/// A row: from this offset in its page on, this rule holds. Rows of a page are sorted as numbers;
/// the first has offset 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(transparent)]
pub struct Row(pub u64);

impl Row {
    /// The row of a rule that holds from `address` on.
    pub const fn new(address: u64, rule: Rule) -> Self {
        Self((address & PAGE_MASK) << RULE_BITS | rule.0 & RULE_MASK)
    }

    /// Where in the page the rule begins to hold.
    #[inline(always)]
    pub const fn offset(self) -> u64 {
        self.0 >> RULE_BITS
    }

    /// The rule.
    #[inline(always)]
    pub const fn rule(self) -> Rule {
        Rule(self.0 & RULE_MASK)
    }
}

/// Where the rows of a page are: an entry of a directory. A page without rows is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct PageRows(pub u64);

impl PageRows {
    /// Words `first..first + count` of the chunk in slot `chunk`.
    pub const fn new(chunk: u32, first: u16, count: u16) -> Self {
        Self(chunk as u64 | (first as u64) << 32 | (count as u64) << 48)
    }

    /// The chunk's slot.
    #[inline(always)]
    pub const fn chunk(self) -> u32 {
        self.0 as u32
    }

    /// The first row's word.
    #[inline(always)]
    pub const fn first(self) -> u64 {
        self.0 >> 32 & 0xffff
    }

    /// How many rows.
    #[inline(always)]
    pub const fn count(self) -> u64 {
        self.0 >> 48
    }
}

/// The words of a mapping in its chunk: where it starts, where it ends, the address of page 0 of
/// its table, and its [`Directory`].
pub const MAPPING_WORDS: usize = 4;
/// The most mappings of one address space: what fits into a chunk, by address.
pub const MAX_MAPPINGS: usize = CHUNK_WORDS / MAPPING_WORDS;
/// The start of a mapping that is none: the largest address, signed, so that all others compare
/// as smaller by subtraction.
pub const NO_MAPPING: u64 = i64::MAX as u64;

/// Where the directory of a table is: consecutive chunks, one word a page. A mapping without a
/// table has no pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Directory(pub u64);

impl Directory {
    /// Of code without a table.
    pub const NONE: Self = Self(0);

    /// `pages` words, from the start of the chunk in slot `chunk`.
    pub const fn new(chunk: u32, pages: u32) -> Self {
        Self(chunk as u64 | (pages as u64) << 32)
    }

    /// The first chunk's slot.
    #[inline(always)]
    pub const fn chunk(self) -> u32 {
        self.0 as u32
    }

    /// How many pages.
    #[inline(always)]
    pub const fn pages(self) -> u64 {
        self.0 >> 32
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_goes_into_a_row_comes_out_again(
            address: u64, cfa in -(1i64 << 23)..1 << 23, fp in -(1i64 << 22)..1 << 22,
        ) {
            let rule = Rule::new(Kind::FpDeref, cfa, fp).unwrap();
            let row = Row::new(address, rule);
            prop_assert_eq!(row.offset(), address & PAGE_MASK);
            prop_assert_eq!(row.rule(), rule);
            prop_assert_eq!((rule.kind(), rule.cfa(), rule.fp()), (3, cfa, fp));
        }

        #[test]
        fn rows_sort_by_address(a in 0..=PAGE_MASK, b in 0..=PAGE_MASK, x: u64, y: u64) {
            prop_assume!(a != b);
            prop_assert_eq!(Row::new(a, Rule(x)) < Row::new(b, Rule(y)), a < b);
        }
    }

    #[test]
    fn an_offset_that_does_not_fit_makes_no_rule() {
        assert_eq!(Rule::new(Kind::Sp, 1 << 23, 0), None);
        assert_eq!(Rule::new(Kind::Sp, 16, -(1 << 22) - 1), None);
        assert!(Rule::new(Kind::Sp, -(1 << 23), (1 << 22) - 1).is_some());
    }
}
