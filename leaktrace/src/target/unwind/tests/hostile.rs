//! Unwind data that is made to do harm, and bytes of any kind.

use std::time::{Duration, Instant};

use gimli::BaseAddresses;
use proptest::prelude::*;

use super::*;
use crate::target::unwind::compile::table;
use crate::target::unwind::sections::Sections;

const CODE: [Segment; 1] =
    [Segment { address: 0x10000, offset: 0, size: 16 << 20, executable: true }];

/// A CIE with these instructions, behind those that each function begins with.
fn cie(instructions: &[u8]) -> Vec<u8> {
    // Version 1, no augmentation, factors 1 and -8, return address 16; rsp + 8, and at -8.
    let head = [&[0; 4][..], &[1, 0, 1, 0x78, 16, 12, 7, 8, 0x90, 1]].concat();
    entry(&[&head, instructions].concat())
}

/// An FDE at offset `at`, of the CIE at offset 0.
fn fde(at: usize, start: u64, size: u64, instructions: &[u8]) -> Vec<u8> {
    let cie = (at as u32 + 4).to_le_bytes();
    entry(&[&cie[..], &start.to_le_bytes(), &size.to_le_bytes(), instructions].concat())
}

fn entry(content: &[u8]) -> Vec<u8> {
    [&(content.len() as u32).to_le_bytes()[..], content].concat()
}

/// An `.eh_frame` of these functions: start, size and instructions.
fn section(cie: Vec<u8>, functions: impl IntoIterator<Item = (u64, u64, Vec<u8>)>) -> Vec<u8> {
    let mut bytes = cie;
    for (start, size, instructions) in functions {
        let fde = fde(bytes.len(), start, size, &instructions);
        bytes.extend(fde);
    }
    bytes
}

/// The table of this `.eh_frame`, how many entries were skipped, and whether it took too long.
fn built(eh_frame: Vec<u8>) -> Result<(UnwindTable, u64), UnwindError> {
    of_sections(&Sections { eh_frame, bases: BaseAddresses::default(), ..Sections::default() })
}

fn of_sections(sections: &Sections) -> Result<(UnwindTable, u64), UnwindError> {
    let start = Instant::now();
    let built = table(sections, &CODE, None);
    assert!(start.elapsed() < Duration::from_secs(120), "{:?}", start.elapsed());
    if let Ok((table, _)) = &built {
        fuzzing::check(table, &CODE);
    }
    built
}

fn sp(offset: i64) -> Rule {
    Rule::new(Kind::Sp, offset, 0).unwrap()
}

#[test]
fn a_long_cie_is_run_once_for_all_its_functions() {
    let nops = vec![0; 1 << 20];
    let functions = (0..100_000).map(|i| (0x10000 + i * 16, 16, vec![]));
    let (table, skipped) = built(section(cie(&nops), functions)).unwrap();
    assert_eq!(skipped, 0);
    assert_eq!(rule_at(&table, 0x10000), sp(8));
}

#[test]
fn a_function_cut_into_many_is_run_a_bounded_number_of_times() {
    // `.eh_frame` describes every other byte of what one long entry of `.debug_frame` does.
    let functions = (0..50_000).map(|i| (0x10000 + i * 2, 1, vec![]));
    let eh_frame = section(cie(&[]), functions);
    let mut debug_frame = cie(&[]);
    debug_frame[4..8].fill(0xff);
    let mut one = fde(0, 0x10000, 200_000, &vec![0; 1 << 20]);
    one[4..8].fill(0);
    debug_frame.extend(one);
    let (table, skipped) =
        of_sections(&Sections { eh_frame, debug_frame, ..Sections::default() }).unwrap();
    // It is run for the first gaps, and not for all others.
    assert_eq!(rule_at(&table, 0x10001), sp(8));
    assert_eq!(rule_at(&table, 0x10000 + 99_999), Rule::of(Kind::Unsupported));
    assert!(skipped > 49_000, "{skipped}");
}

#[test]
fn functions_over_all_addresses_make_no_more_rows_than_there_is_code() {
    let all = [(1, u64::MAX, vec![]), (u64::MAX - 4, 100, vec![]), (1 << 60, 1 << 60, vec![])];
    let (table, _) = built(section(cie(&[]), all)).unwrap();
    assert_eq!(table.page_starts.len(), (16 << 20) / 8192 + 1);
    assert_eq!(table.rows.len(), (16 << 20) / 8192);
    assert_eq!(rule_at(&table, 0x10000), sp(8));
    assert_eq!(rule_at(&table, 0x10000 - 1), Rule::of(Kind::Uncovered));
}

#[test]
fn functions_outside_of_the_code_make_no_table() {
    let outside = [(0, 0x20000, vec![]), (0x20000, 0, vec![]), (1 << 60, 16, vec![])];
    assert!(matches!(built(section(cie(&[]), outside)), Err(UnwindError::None)));
}

#[test]
fn where_functions_overlap_the_later_start_counts() {
    let offset = |bytes: u8| vec![0x0e, bytes];
    let (table, skipped) = built(section(
        cie(&[]),
        [
            (0x10020, 0x10, offset(32)),
            (0x10000, 0x40, offset(16)),
            (0x10020, 0x20, offset(64)),
            (0x10028, 0x20, offset(48)),
        ],
    ))
    .unwrap();
    assert_eq!(skipped, 0);
    let expected = [(0x10000, sp(16)), (0x1001f, sp(16)), (0x10020, sp(32)), (0x10027, sp(32))];
    for (address, rule) in expected {
        assert_eq!(rule_at(&table, address), rule, "{address:#x}");
    }
    assert_eq!(rule_at(&table, 0x10047), sp(48));
    assert_eq!(rule_at(&table, 0x10048), Rule::of(Kind::Uncovered));
}

#[test]
fn a_row_at_every_byte_fits_into_a_page() {
    // Advance by one, and another offset, over three pages.
    let steps: Vec<u8> = (0..0x6000).flat_map(|i| [0x0e, 8 + 8 * (i % 2) as u8, 0x41]).collect();
    let (table, skipped) = built(section(cie(&[]), [(0x10000, 0x6000, steps)])).unwrap();
    assert_eq!((table.rows.len(), skipped), (0x6000, 0));
    assert_eq!(table.pages().map(<[u64]>::len).collect::<Vec<_>>(), [8192; 3]);
}

#[test]
fn bad_entries_are_skipped_and_counted() {
    let mut bytes = section(cie(&[]), [(0x10000, 16, vec![])]);
    // Of a CIE that is none, and of one of an unknown version.
    let nowhere = fde(bytes.len() + 2, 0x10010, 16, &[]);
    bytes.extend(nowhere);
    let version = bytes.len();
    bytes.extend(cie(&[]));
    bytes[version + 8] = 77;
    let of_unknown = fde(bytes.len() - version, 0x10020, 16, &[]);
    bytes.extend(of_unknown);
    let good = fde(bytes.len(), 0x10030, 16, &[]);
    bytes.extend(good);
    // Longer than there are bytes.
    bytes.extend([0xff; 3]);
    let (table, skipped) = built(bytes).unwrap();
    assert_eq!(skipped, 2);
    assert_eq!(rule_at(&table, 0x10030), sp(8));
    assert_eq!(rule_at(&table, 0x10010), Rule::of(Kind::Uncovered));
}

#[test]
fn segments_far_apart_are_too_much() {
    let segment = |address| Segment { address, offset: 0, size: 4096, executable: true };
    let code = [segment(0x10000), segment(1 << 60)];
    let functions = [(0x10000, 16, vec![]), (1 << 60, 16, vec![])];
    let eh_frame = section(cie(&[]), functions);
    let built = table(&Sections { eh_frame, ..Sections::default() }, &code, None);
    assert!(matches!(built, Err(UnwindError::OverBudget)), "{built:?}");
}

#[test]
fn a_file_cut_anywhere_has_a_table_or_none() {
    let whole = std::fs::read("/bin/true").unwrap();
    for cut in (0..whole.len()).step_by(97) {
        fuzzing::elf(&whole[..cut]);
    }
}

#[test]
fn what_the_budget_does_not_allow_is_not_built() {
    let file = File::open("/bin/true").unwrap();
    let built = |bytes| build(&file, &Budget::of(bytes));
    assert!(built(1 << 20).is_ok());
    for bytes in [0, 4096, 32 << 10] {
        assert!(matches!(built(bytes), Err(UnwindError::OverBudget)), "{bytes}");
    }
}

/// The `.eh_frame` of a small program.
fn real_section() -> Vec<u8> {
    let file = File::open("/bin/true").unwrap();
    Sections::read(&Elf::open(&file).unwrap()).unwrap().eh_frame
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        fuzzing::eh_frame(&bytes);
        fuzzing::debug_frame(&bytes);
        fuzzing::elf(&bytes);
        fuzzing::code(&bytes);
    }

    #[test]
    fn any_instructions_are_run_or_refused(
        initial in prop::collection::vec(any::<u8>(), 0..20),
        functions in prop::collection::vec(
            (0x10000u64..0x20000, 0u64..0x8000, prop::collection::vec(any::<u8>(), 0..60)), 0..20,
        ),
    ) {
        let _ = built(section(cie(&initial), functions));
    }

    #[test]
    fn flipped_bytes_of_a_section_are_read_or_refused(
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20),
    ) {
        let mut bytes = real_section();
        for (index, value) in flips {
            let at = index.index(bytes.len());
            bytes[at] = value;
        }
        fuzzing::eh_frame(&bytes);
        fuzzing::debug_frame(&bytes);
    }

    #[test]
    fn flipped_bytes_of_a_file_are_read_or_refused(
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20),
        in_headers: bool,
    ) {
        let mut bytes = std::fs::read("/bin/true").unwrap();
        let reach = if in_headers { 64 + 56 * 12 } else { bytes.len() };
        for (index, value) in flips {
            let at = index.index(reach);
            bytes[at] = value;
        }
        fuzzing::elf(&bytes);
    }
}
