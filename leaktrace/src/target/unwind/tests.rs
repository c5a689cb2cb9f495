//! Tables held against what gimli says of the same files, one rule of each kind, and files that
//! are made to do harm.

mod hostile;
mod kinds;
mod real;

use leaktrace_ebpf::unwind::{Kind, PAGE_BITS, PAGE_MASK, Row, Rule};

use super::*;

/// The rule for an address of the file, found as the kernel half does.
fn rule_at(table: &UnwindTable, address: u64) -> Rule {
    let uncovered = Rule::of(Kind::Uncovered);
    let Some(within) = address.checked_sub(table.first_address) else { return uncovered };
    let Some(rows) = table.pages().nth((within >> PAGE_BITS) as usize) else {
        return uncovered;
    };
    let behind = rows.partition_point(|&row| Row(row).offset() <= address & PAGE_MASK);
    rows[..behind].last().map_or(uncovered, |&row| Row(row).rule())
}
