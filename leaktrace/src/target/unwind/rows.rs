//! The rows of a table, written page by page in order of address.

use leaktrace_ebpf::unwind::{Kind, PAGE_BITS, PAGE_MASK, Row, Rule};

use super::UnwindError;
use crate::model::UnwindTable;

/// The most rows of a file: six times libLLVM's.
const MOST_ROWS: usize = 8 << 20;
/// The most pages of a file: 8 GiB of code.
const MOST_PAGES: u64 = 1 << 20;

/// A table under way.
pub(super) struct Rows {
    first_page: u64,
    page_starts: Vec<u32>,
    rows: Vec<u64>,
    /// The rule that holds where the rows end.
    rule: Rule,
}

impl Rows {
    /// A table whose first page is that of `address`.
    pub(super) fn from(address: u64) -> Self {
        Self {
            first_page: address >> PAGE_BITS,
            page_starts: Vec::new(),
            rows: Vec::new(),
            rule: Rule::of(Kind::Uncovered),
        }
    }

    /// From `address` on this rule holds. Addresses must ascend.
    ///
    /// # Errors
    ///
    /// [`UnwindError::OverBudget`] when there are too many rows or pages.
    pub(super) fn put(&mut self, address: u64, rule: Rule) -> Result<(), UnwindError> {
        self.fill_to(address, rule)?;
        if rule != self.rule {
            self.push(Row::new(address, rule))?;
            self.rule = rule;
        }
        Ok(())
    }

    /// The table, when no more is known from `end` on.
    pub(super) fn finish(mut self, end: u64) -> Result<UnwindTable, UnwindError> {
        if let Some(last) = end.checked_sub(1) {
            self.fill_to(last, self.rule)?;
        }
        if end & PAGE_MASK != 0 {
            self.put(end, Rule::of(Kind::Uncovered))?;
        }
        self.page_starts.push(self.rows.len() as u32);
        self.rows.shrink_to_fit();
        self.page_starts.shrink_to_fit();
        Ok(UnwindTable {
            first_address: self.first_page << PAGE_BITS,
            page_starts: self.page_starts,
            rows: self.rows,
        })
    }

    /// Begins all pages up to that of `address`, each with the rule that holds there; `rule` does
    /// from `address` on.
    fn fill_to(&mut self, address: u64, rule: Rule) -> Result<(), UnwindError> {
        let page = (address >> PAGE_BITS).wrapping_sub(self.first_page);
        if page >= MOST_PAGES {
            return Err(UnwindError::OverBudget);
        }
        while self.page_starts.len() as u64 <= page {
            self.page_starts.push(self.rows.len() as u32);
            if self.page_starts.len() as u64 > page && address & PAGE_MASK == 0 {
                self.rule = rule;
            }
            self.push(Row::new(0, self.rule))?;
        }
        Ok(())
    }

    fn push(&mut self, row: Row) -> Result<(), UnwindError> {
        if self.rows.len() >= MOST_ROWS {
            return Err(UnwindError::OverBudget);
        }
        self.rows.push(row.0);
        Ok(())
    }
}
