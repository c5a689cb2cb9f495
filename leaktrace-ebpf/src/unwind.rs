//! The layout of unwind tables: how a frame's caller is found, for every place in the code.
//!
//! Userspace compiles them from `.eh_frame`, the kernel half walks with them. Code is cut into
//! pages of 8 KiB; each page has its rows, by address, and a row holds until the next one. So a
//! row fits into eight bytes, and a search never leaves its page.
//!
//! Everything lies in one long array of words, whose chunks of 64 KiB are the inner maps of an
//! array of maps, so that tables can be added under way: rows; directories, which say where the
//! rows of each page are; and for each address space a chunk with its mappings.

/// Code is cut into pages of `1 << PAGE_BITS` bytes.
pub const PAGE_BITS: u32 = 13;
/// The mask of an offset in a page.
pub const PAGE_MASK: u64 = (1 << PAGE_BITS) - 1;
/// The words of a chunk. The rows of one page always fit: there is one for each byte at most.
pub const CHUNK_WORDS: usize = 8192;
const _: () = assert!(CHUNK_WORDS == 1 << PAGE_BITS);

/// The most chunks of all tables together: 512 MiB.
pub const MAX_CHUNKS: u32 = 1 << 13;

const RULE_BITS: u32 = 64 - PAGE_BITS;
const RULE_MASK: u64 = (1 << RULE_BITS) - 1;
const KIND_BITS: u32 = 4;
const CFA_BITS: u32 = 20;
const FP_BITS: u32 = 14;
const THIRD_BITS: u32 = 13;
const FP_SHIFT: u32 = KIND_BITS + CFA_BITS;
const THIRD_SHIFT: u32 = FP_SHIFT + FP_BITS;
const _: () = assert!(THIRD_SHIFT + THIRD_BITS == RULE_BITS);
/// Offsets count words of this many bytes.
const WORD: i64 = 8;

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
    /// CFA = the word at frame pointer + offset, plus an addend, and the caller's frame pointer is
    /// the word at frame pointer + its offset: a function that realigned its stack.
    FpDeref = 3,
    /// CFA = the word at stack pointer + offset, plus an addend.
    SpDeref = 4,
    /// CFA = stack pointer + 8, or + 16 from byte "offset / 8" of a 16-byte entry on: a stub of
    /// the procedure linkage table.
    Plt = 5,
    /// The frame of a signal: the kernel saved all registers at the stack pointer.
    Signal = 6,
    /// The thread's first frame: it has no caller.
    End = 7,
    /// The unwind data says something that is not expressed here.
    Unsupported = 8,
    /// CFA = register rbx + offset: the dynamic loader's trampolines.
    Bx = 9,
    /// As [`Kind::Uncovered`], in a file without any unwind data: a frame pointer of 0 may be any
    /// number.
    Silent = 10,
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
    /// its register. `None` when an offset is no number of words, or too large to be true (4 MiB,
    /// 64 KiB).
    pub const fn new(kind: Kind, cfa: i64, fp: i64) -> Option<Self> {
        match (pack(cfa, CFA_BITS), pack(fp, FP_BITS)) {
            (Some(cfa), Some(fp)) => Some(Self(kind as u64 | cfa << KIND_BITS | fp << FP_SHIFT)),
            _ => None,
        }
    }

    /// The same with a third offset: of the CFA where the caller's rbx is saved, 0 when it is still
    /// in its register; for [`Kind::FpDeref`] and [`Kind::SpDeref`] the addend. `None` when it does
    /// not fit (32 KiB).
    pub const fn with_third(self, third: i64) -> Option<Self> {
        match pack(third, THIRD_BITS) {
            Some(third) => Some(Self(self.0 & !(u64::MAX << THIRD_SHIFT) | third << THIRD_SHIFT)),
            None => None,
        }
    }

    /// The [`Kind`], as a number.
    #[inline(always)]
    pub const fn kind(self) -> u64 {
        self.0 & ((1 << KIND_BITS) - 1)
    }

    /// The offset of the CFA, in bytes.
    #[inline(always)]
    pub const fn cfa(self) -> i64 {
        sign_extend(self.0 >> KIND_BITS, CFA_BITS) * WORD
    }

    /// The offset of the caller's frame pointer, in bytes; 0 when it is still in its register.
    #[inline(always)]
    pub const fn fp(self) -> i64 {
        sign_extend(self.0 >> FP_SHIFT, FP_BITS) * WORD
    }

    /// See [`Rule::with_third`].
    #[inline(always)]
    pub const fn third(self) -> i64 {
        sign_extend(self.0 >> THIRD_SHIFT, THIRD_BITS) * WORD
    }
}

/// `bytes` in words, in so many bits.
const fn pack(bytes: i64, bits: u32) -> Option<u64> {
    let words = bytes / WORD;
    if bytes % WORD != 0 || sign_extend(words as u64, bits) != words {
        return None;
    }
    Some(words as u64 & ((1 << bits) - 1))
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

/// Consecutive words: the rows of a page, all in one chunk (what a directory holds); or the words
/// of a directory, one for each page (what a mapping holds).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Words(pub u64);

impl Words {
    /// None at all: a page without rows, code without a table.
    pub const NONE: Self = Self(0);

    /// `count` words from word `first` of all tables.
    pub const fn new(first: u32, count: u32) -> Self {
        Self(first as u64 | (count as u64) << 32)
    }

    /// The first word.
    #[inline(always)]
    pub const fn first(self) -> u64 {
        self.0 & 0xffff_ffff
    }

    /// How many.
    #[inline(always)]
    pub const fn count(self) -> u64 {
        self.0 >> 32
    }
}

/// The chunk that a word lies in.
#[inline(always)]
pub const fn chunk_of(word: u64) -> u32 {
    (word >> PAGE_BITS) as u32
}

/// The words of a mapping in its chunk: where it starts, where it ends, the address of page 0 of
/// its table, and the [`Words`] of its directory.
pub const MAPPING_WORDS: usize = 4;
/// In the place of a mapping's page 0, where it has no table: it is a file's, which says nothing
/// of its frames, rather than generated code, which keeps frame pointers.
pub const SILENT_FILE: u64 = 1;
/// The most mappings of one address space: what fits into a chunk, by address.
pub const MAX_MAPPINGS: usize = CHUNK_WORDS / MAPPING_WORDS;
/// The start of a mapping that is none: the largest address, signed, so that all others compare
/// as smaller by subtraction.
pub const NO_MAPPING: u64 = i64::MAX as u64;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_goes_into_a_row_comes_out_again(
            address: u64,
            cfa in -(1i64 << 19)..1 << 19,
            fp in -(1i64 << 13)..1 << 13,
            third in -(1i64 << 12)..1 << 12,
        ) {
            let [cfa, fp, third] = [cfa, fp, third].map(|words| words * WORD);
            let rule = Rule::new(Kind::FpDeref, cfa, fp).unwrap().with_third(third).unwrap();
            let row = Row::new(address, rule);
            prop_assert_eq!(row.offset(), address & PAGE_MASK);
            prop_assert_eq!(row.rule(), rule);
            prop_assert_eq!((rule.kind(), rule.cfa(), rule.fp()), (3, cfa, fp));
            prop_assert_eq!(rule.third(), third);
        }

        #[test]
        fn rows_sort_by_address(a in 0..=PAGE_MASK, b in 0..=PAGE_MASK, x: u64, y: u64) {
            prop_assume!(a != b);
            prop_assert_eq!(Row::new(a, Rule(x)) < Row::new(b, Rule(y)), a < b);
        }
    }

    #[test]
    fn an_offset_that_does_not_fit_makes_no_rule() {
        assert_eq!(Rule::new(Kind::Sp, 4 << 20, 0), None);
        assert_eq!(Rule::new(Kind::Sp, 12, 0), None);
        assert_eq!(Rule::new(Kind::Sp, 16, -(64 << 10) - 8), None);
        let rule = Rule::new(Kind::Sp, -(4 << 20), (64 << 10) - 8).unwrap();
        assert_eq!(rule.with_third(32 << 10), None);
        assert!(rule.with_third(-(32 << 10)).is_some());
    }
}
