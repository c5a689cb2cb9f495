//! The table of the vdso, the library that the kernel maps into every process.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use super::{UnwindError, UnwindFile, compile};
use crate::target::budget::Budget;
use crate::target::elf::Elf;
use crate::target::maps;

/// The most bytes of a vdso; it has some 8 KiB.
const LARGEST: u64 = 1 << 20;

/// The table of this kernel's vdso, read from leaktrace's own: a target's `[vdso]` mapping has the
/// same code, and file offset 0.
///
/// # Errors
///
/// [`UnwindError`] when there is none, or it has no unwind data.
pub fn vdso() -> Result<UnwindFile, UnwindError> {
    let mappings = maps::parse(&fs::read_to_string("/proc/self/maps")?);
    let mapping = mappings.iter().find(|m| m.path == "[vdso]").ok_or(UnwindError::None)?;
    let size = (mapping.end.0 - mapping.start.0).min(LARGEST);
    let mut bytes = vec![0; size as usize];
    File::open("/proc/self/mem")?.read_exact_at(&mut bytes, mapping.start.0)?;
    let budget = Budget::for_plan();
    compile::compile(&Elf::in_memory(&bytes, &budget)?, &budget)
}
