//! What a fuzzer calls: the parsers of what a target wrote, each for the bytes alone.

use super::elf_facts::ElfFacts;
use super::symbol_table::{SymbolTable, Table};
use super::{mini_debug_info, perf_map};

/// The text of a perf map.
pub fn perf_map(text: &[u8]) {
    let map = perf_map::parse(text);
    for address in [0, 0x1000, u64::MAX] {
        map.name_at(address);
    }
}

/// An ELF file: its facts, and its symbol tables.
pub fn elf_facts(file: &[u8]) {
    if let Ok(facts) = ElfFacts::parse(file) {
        facts.address_of(0x1000);
        facts.build_id_hex();
    }
    let mut functions = SymbolTable::default();
    for table in [Table::Full, Table::Dynamic] {
        // What is wrong with it is of no interest here, only that nothing worse happens.
        let _ = functions.add(file, table);
    }
    functions.name_at(0x1000);
}

/// A `.gnu_debugdata` section.
pub fn mini_debug_info(section: &[u8]) {
    let mut functions = SymbolTable::default();
    // As above.
    let _ = mini_debug_info::add(&mut functions, section);
    functions.name_at(0x1000);
}
