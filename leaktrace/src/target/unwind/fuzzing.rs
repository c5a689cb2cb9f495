//! What fuzzers call: any bytes make a table that the kernel half can walk with, or none. Panics
//! where they don't.

use gimli::BaseAddresses;
use leaktrace_ebpf::unwind::{CHUNK_WORDS, Kind, PAGE_BITS, PAGE_MASK, Row};

use super::from_code::{self, Entry, Piece};
use super::sections::Sections;
use super::{UnwindFile, compile};
use crate::model::UnwindTable;
use crate::target::budget::Budget;
use crate::target::elf::{Elf, Segment};

/// Code around the sections, so that addresses relative to them have something to hit.
const CODE: Segment = Segment { address: 0, offset: 0, size: 64 << 20, executable: true };

/// Takes the bytes for a file.
pub fn elf(bytes: &[u8]) {
    let budget = Budget::for_plan();
    let built = Elf::in_memory(bytes, &budget).map(|elf| compile::compile(&elf, &budget));
    if let Ok(Ok(UnwindFile { table, code, .. })) = built {
        check(&table, &code);
    }
}

/// Takes the bytes for a section `.eh_frame`.
pub fn eh_frame(bytes: &[u8]) {
    check_sections(&Sections { eh_frame: bytes.to_vec(), bases: bases(), ..Sections::default() });
}

/// Takes the bytes for a section `.debug_frame`.
pub fn debug_frame(bytes: &[u8]) {
    let sections = Sections { debug_frame: bytes.to_vec(), bases: bases(), ..Sections::default() };
    check_sections(&sections);
}

/// Takes the bytes for code that nothing describes.
pub fn code(bytes: &[u8]) {
    let address = CODE.size / 2;
    let entries = (0..bytes.len() as u64).step_by(16);
    let entries: Vec<Entry> =
        entries.map(|at| Entry { address: address + at, size: at % 64 }).collect();
    let derived = from_code::derive(&[Piece { address, code: bytes.to_vec() }], &entries);
    assert!(derived.is_sorted_by(|a, b| a.start < b.start), "rules are in order");
    assert!(derived.iter().all(|d| d.start < d.end), "rules hold somewhere");
    from_code::first_function(&[Piece { address, code: bytes.to_vec() }], address);
}

fn bases() -> BaseAddresses {
    BaseAddresses::default().set_eh_frame(CODE.size / 2).set_text(0x1000).set_got(CODE.size / 4)
}

fn check_sections(sections: &Sections) {
    let code = [CODE];
    if let Ok((table, _)) = compile::table(sections, &code, None) {
        check(&table, &code);
        // A row for each byte of instructions, and one for the start of each page.
        let bytes = sections.eh_frame.len() + sections.debug_frame.len();
        assert!(table.rows.len() <= bytes + table.page_starts.len(), "too many rows");
    }
}

/// What holds of any table.
pub(super) fn check(table: &UnwindTable, code: &[Segment]) {
    let UnwindTable { first_address, page_starts, rows } = table;
    assert_eq!(first_address & PAGE_MASK, 0, "page 0 begins at a page");
    assert_eq!(page_starts.first(), Some(&0), "page 0 has the first rows");
    assert_eq!(
        page_starts.last().map(|&end| end as usize),
        Some(rows.len()),
        "all rows have pages"
    );
    assert!(page_starts.is_sorted(), "pages are in order");
    for page in table.pages() {
        let rows: Vec<Row> = page.iter().map(|&row| Row(row)).collect();
        assert!(
            rows.first().is_some_and(|row| row.offset() == 0),
            "a page has a rule from its start"
        );
        assert!(rows.is_sorted_by(|a, b| a.offset() < b.offset()), "rows are in order");
        assert!(rows.is_sorted_by(|a, b| a.rule() != b.rule()), "a row says something new");
        assert!(rows.len() <= CHUNK_WORDS, "a page fits into a chunk");
        let last_kind = Kind::Bx as u64;
        assert!(rows.iter().all(|row| row.rule().kind() <= last_kind), "rules are of known kinds");
    }
    let ends = || code.iter().map(|s| (s.address, s.address.saturating_add(s.size)));
    let start = ends().map(|(start, _)| start).min().unwrap_or(0);
    let end = ends().map(|(_, end)| end).max().unwrap_or(0);
    let first_page = first_address >> PAGE_BITS;
    let end_page = first_page + page_starts.len() as u64 - 1;
    assert!(first_page >= start >> PAGE_BITS, "a table begins in the code");
    assert!(end_page <= end.div_ceil(1 << PAGE_BITS), "a table ends in the code");
}
