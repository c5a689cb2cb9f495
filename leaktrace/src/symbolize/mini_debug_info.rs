//! What a stripped program still knows of its functions: `.gnu_debugdata`, a symbol table in an ELF
//! file packed by xz, with the functions that `.dynsym` does not have (GDB's manual, "Debugging
//! information in a special section"). Fedora and its kin have it in every program.
//!
//! Hostile input: read in the worker only. The packed and the unpacked size are bounded, and so is
//! the memory of the unpacking.

use std::fs::File;
use std::os::unix::fs::FileExt;

use object::ReadCache;

use super::elf_facts::ElfFacts;
use super::symbol_table::{SymbolTable, Table};
use crate::target::mini_debug_info::{self, MOST_PACKED_BYTES};

/// The functions of a file that has mini debug information and no full symbol table, those of its
/// dynamic symbol table included; and what could not be read. `None` for any other file.
pub(super) fn functions(file: &File, facts: &ElfFacts) -> Option<(SymbolTable, Vec<String>)> {
    let range = facts.mini_debug_info.clone().filter(|_| !facts.has_symbols)?;
    let mut table = SymbolTable::default();
    let mut notes = Vec::new();
    notes.extend(table.add(&ReadCache::new(file), Table::Dynamic).err());
    let added = read(file, range.start, range.end - range.start)
        .and_then(|section| add(&mut table, &section))
        .map_err(|e| format!("its mini debug information cannot be read: {e}"));
    notes.extend(added.err());
    Some((table, notes))
}

/// Adds the functions in a section to a table.
///
/// # Errors
///
/// A sentence on what is wrong with the section.
pub(super) fn add(table: &mut SymbolTable, section: &[u8]) -> Result<(), String> {
    let unpacked = mini_debug_info::unpack(section).map_err(|e| e.to_string())?;
    table.add(unpacked.as_slice(), Table::Full)
}

fn read(file: &File, offset: u64, size: u64) -> Result<Vec<u8>, String> {
    if size > MOST_PACKED_BYTES {
        return Err(format!("it is larger than {} MiB", MOST_PACKED_BYTES >> 20));
    }
    let mut section = vec![0; size as usize];
    file.read_exact_at(&mut section, offset).map_err(|e| e.to_string())?;
    Ok(section)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// "leak" 1000 times, packed by `xz --check=crc32`.
    const LEAKS: &[u8] = &[
        0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00, 0x00, 0x01, 0x69, 0x22, 0xde, 0x36, 0x02, 0x00, 0x21,
        0x01, 0x16, 0x00, 0x00, 0x00, 0x74, 0x2f, 0xe5, 0xa3, 0xe0, 0x0f, 0x9f, 0x00, 0x1e, 0x5d,
        0x00, 0x36, 0x19, 0x48, 0x49, 0x17, 0x90, 0xf7, 0xcf, 0x89, 0x64, 0x21, 0xd1, 0x35, 0x6f,
        0x6b, 0xc8, 0xf2, 0xd6, 0x9e, 0x16, 0x70, 0x9b, 0x8c, 0x55, 0x6e, 0x40, 0xf3, 0x71, 0x09,
        0x00, 0x00, 0x00, 0x00, 0xb4, 0xbe, 0x82, 0xe7, 0x00, 0x01, 0x36, 0xa0, 0x1f, 0x00, 0x00,
        0x00, 0x32, 0xe8, 0x2b, 0x69, 0x3e, 0x30, 0x0d, 0x8b, 0x02, 0x00, 0x00, 0x00, 0x00, 0x01,
        0x59, 0x5a,
    ];

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn damaged_sections_do_no_harm(
            at in 0..LEAKS.len(),
            bytes in prop::collection::vec(any::<u8>(), 1..40),
        ) {
            let mut section = LEAKS.to_vec();
            for (old, &new) in section.iter_mut().skip(at).zip(&bytes) {
                *old = new;
            }
            let _ = add(&mut SymbolTable::default(), &section);
        }
    }
}
