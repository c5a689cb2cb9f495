//! ELF files that are whole, cut, forged, and too large.

use std::io::Write;
use std::os::unix::fs::FileExt;

use proptest::prelude::*;

use super::*;

fn file_of(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file
}

/// Reads all there is to read; must return, whatever the bytes.
fn read_all(bytes: &[u8]) -> usize {
    let file = file_of(bytes);
    let Ok(elf) = Elf::open(&file) else { return 0 };
    let functions = elf.functions(|_| true).unwrap_or_default();
    for function in functions.iter().take(100) {
        let _ = elf.code(function.address, function.size.min(4096));
        let _ = elf.file_offset(function.address);
    }
    let _ = elf.slots(|_| true);
    functions.len()
}

fn own_binary() -> Vec<u8> {
    // The headers and tables are what matters; a small program has them all.
    std::fs::read("/bin/true").unwrap()
}

#[test]
fn the_c_library_defines_malloc_in_its_code() {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let libc = maps
        .lines()
        .find_map(|l| l.find("/").map(|i| &l[i..]).filter(|p| p.contains("/libc.so")))
        .unwrap();
    let file = File::open(libc).unwrap();
    let elf = Elf::open(&file).unwrap();
    let functions = elf.functions(|name| name == "malloc" || name == "free").unwrap();
    assert_eq!(functions.len(), 2, "{functions:?}");
    for function in functions {
        assert!(elf.file_offset(function.address).is_some());
        assert_eq!(elf.code(function.address, 16).unwrap().len(), 16);
    }
}

#[test]
fn a_file_cut_anywhere_is_read_or_refused() {
    let whole = own_binary();
    for cut in (0..whole.len()).step_by(97) {
        read_all(&whole[..cut]);
    }
}

/// A sparse file of so many symbol tables, each with `symbols` bytes that all of them share,
/// and a table of names in their last page, over the first symbols.
fn file_of_symbol_tables(headers: u16, symbols: u64) -> File {
    let sections = 64 + symbols;
    let mut header = [0; 64];
    header[..6].copy_from_slice(b"\x7fELF\x02\x01");
    header[0x28..0x30].copy_from_slice(&sections.to_le_bytes());
    header[0x3a..0x3e].copy_from_slice(&[64, 0, headers as u8, (headers >> 8) as u8]);
    let mut section = [0; 64];
    section[4] = 2;
    section[0x18..0x20].copy_from_slice(&64u64.to_le_bytes());
    section[0x20..0x28].copy_from_slice(&symbols.to_le_bytes());
    section[0x28..0x2c].copy_from_slice(&u32::from(headers - 1).to_le_bytes());
    let mut sections: Vec<u8> = section.repeat(usize::from(headers));
    let names = sections.len() - 64;
    sections[names..].fill(0);
    sections[names + 4] = 3;
    sections[names + 0x20..names + 0x28].copy_from_slice(&4096u64.to_le_bytes());
    let file = file_of(&header);
    file.write_all_at(&sections, 64 + symbols).unwrap();
    file
}

#[test]
fn sixty_thousand_symbol_tables_over_one_are_read_once() {
    let file = file_of_symbol_tables(60_000, 64 << 20);
    // What all their headers, one table and its names take; two tables are more.
    let budget = Budget::of(100 << 20);
    let elf = Elf::open_within(&file, &budget).unwrap();
    assert_eq!(elf.functions(|_| true).unwrap(), []);
    assert!(matches!(elf.functions(|_| true), Err(ElfError::OverBudget)));
}

#[test]
fn a_symbol_table_larger_than_the_budget_is_not_read() {
    let file = file_of_symbol_tables(2, 600 << 20);
    let elf = Elf::open(&file).unwrap();
    assert!(matches!(elf.functions(|_| true), Err(ElfError::OverBudget)));
}

#[test]
fn symbols_across_chunks_are_all_seen() {
    let file = file_of_symbol_tables(2, 3 << 20);
    let mut symbol = [0; 24];
    symbol[4] = 2; // STT_FUNC
    symbol[6] = 1;
    symbol[8] = 1;
    let last = (3 << 20) / 24 - 1;
    for index in [0, 43_689, 43_690, last] {
        file.write_all_at(&symbol, 64 + index * 24).unwrap();
    }
    let elf = Elf::open(&file).unwrap();
    assert_eq!(elf.functions(|_| true).unwrap().len(), 4);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn flipped_bytes_are_read_or_refused(
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20),
        in_headers in any::<bool>(),
    ) {
        let mut bytes = own_binary();
        let reach = if in_headers { 64 + 56 * 12 } else { bytes.len() };
        for (index, value) in flips {
            let at = index.index(reach);
            bytes[at] = value;
        }
        read_all(&bytes);
    }
}
