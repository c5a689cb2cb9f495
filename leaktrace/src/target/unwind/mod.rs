//! How are the callers of frames in a file's code found? Compiles `.eh_frame`, and `.debug_frame`
//! where that is all there is, into the table that the kernel half walks with. Never fails for a
//! part that it doesn't understand: that part is marked, and counted.
//!
//! The file is hostile input, to a process that runs as root: time and memory are in proportion to
//! what is read of it, which is bounded.

mod code;
mod compile;
mod expression;
mod frames;
mod from_code;
#[doc(hidden)]
pub mod fuzzing;
mod machine;
mod many;
mod rows;
mod sections;
mod spans;
mod starts;
#[cfg(test)]
mod tests;
mod trampoline;
mod vdso;

use std::fs::File;

use thiserror::Error;

use super::budget::Budget;
use super::elf::{Elf, ElfError, Segment};
use super::maps::Mapping;
use crate::model::UnwindTable;

pub use many::build_all;
pub(super) use starts::{Described, described};
pub use vdso::vdso;

/// What gimli reads from.
type Bytes<'a> = gimli::EndianSlice<'a, gimli::LittleEndian>;

/// Why there is no table for a file.
#[derive(Debug, Error)]
pub enum UnwindError {
    /// It says nothing of how callers are found.
    #[error("has no unwind data")]
    None,
    /// It is no ELF file of the supported kind.
    #[error("not a 64-bit little-endian ELF file for x86-64")]
    NotElf,
    /// It contradicts itself.
    #[error("corrupt: {0}")]
    Corrupt(&'static str),
    /// Its unwind data, or that of the files before it, is more than is read or kept.
    #[error("its unwind data is too large, or that of the files before it was")]
    OverBudget,
    /// It cannot be read.
    #[error("cannot be read: {0}")]
    Io(#[from] std::io::Error),
}

impl From<ElfError> for UnwindError {
    fn from(error: ElfError) -> Self {
        match error {
            ElfError::NotElf => Self::NotElf,
            ElfError::Corrupt(what) => Self::Corrupt(what),
            ElfError::OverBudget => Self::OverBudget,
            ElfError::Io(error) => Self::Io(error),
        }
    }
}

/// The table of a file, and how to place it in an address space.
#[derive(Clone, Debug)]
pub struct UnwindFile {
    /// The table.
    pub table: UnwindTable,
    /// How many functions have unwind data that makes no sense: their callers are not found.
    pub skipped: u64,
    /// The executable segments, in order and apart.
    code: Vec<Segment>,
}

impl UnwindFile {
    /// The address of the table's page 0 where this mapping of the file is; `None` for a mapping
    /// outside of its code. Wraps around where a library is mapped below its own addresses.
    pub fn base(&self, mapping: &Mapping) -> Option<u64> {
        // A mapping begins and ends at pages, a segment need not.
        const PAGE: u64 = 0xfff;
        let starts_in = |s: &&Segment| {
            (s.offset & !PAGE..s.offset.saturating_add(s.size)).contains(&mapping.offset)
        };
        let is_all_of = |s: &&Segment| {
            let end = s.offset.saturating_add(s.size).saturating_add(PAGE) & !PAGE;
            let size = mapping.end.0.wrapping_sub(mapping.start.0);
            s.offset & !PAGE == mapping.offset && end - (s.offset & !PAGE) == size
        };
        // Two segments may share a page of the file.
        let candidates = || self.code.iter().filter(starts_in);
        let segment = candidates().find(is_all_of).or_else(|| candidates().next())?;
        let address = segment.address.wrapping_add(mapping.offset).wrapping_sub(segment.offset);
        Some(mapping.start.0.wrapping_sub(address).wrapping_add(self.table.first_address))
    }
}

/// The table of one of several files: what is read of them all, and kept, comes out of `budget`.
///
/// # Errors
///
/// [`UnwindError`] when there is none.
pub fn build(file: &File, budget: &Budget) -> Result<UnwindFile, UnwindError> {
    compile::compile(&Elf::open_within(file, budget)?, budget)
}
