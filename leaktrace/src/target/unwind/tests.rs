//! Tables held against what gimli says of the same files, one rule of each kind, and files that
//! are made to do harm.

mod real;

use leaktrace_ebpf::unwind::{Kind, PAGE_BITS, PAGE_MASK, Row, Rule};

use super::*;

/// The rule for an address of the file, found as the kernel half does.
fn rule_at(file: &UnwindFile, address: u64) -> Rule {
    let uncovered = Rule::of(Kind::Uncovered);
    let Some(within) = address.checked_sub(file.table.first_address) else { return uncovered };
    let Some(rows) = file.table.pages().nth((within >> PAGE_BITS) as usize) else {
        return uncovered;
    };
    let behind = rows.partition_point(|&row| Row(row).offset() <= address & PAGE_MASK);
    rows[..behind].last().map_or(uncovered, |&row| Row(row).rule())
}

/// What holds of any table.
fn check_table(table: &UnwindTable) {
    assert_eq!(table.first_address & PAGE_MASK, 0);
    assert_eq!(table.page_starts.first(), Some(&0));
    assert_eq!(table.page_starts.last(), Some(&(table.rows.len() as u32)));
    for page in table.pages() {
        assert_eq!(Row(page[0]).offset(), 0);
        assert!(page.windows(2).all(|pair| Row(pair[0]).offset() < Row(pair[1]).offset()));
        assert!(page.windows(2).all(|pair| Row(pair[0]).rule() != Row(pair[1]).rule()));
        assert!(page.iter().all(|&row| Row(row).rule().kind() <= Kind::Unsupported as u64));
    }
}
