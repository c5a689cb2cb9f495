//! The unwind table of one file.

/// How the callers of frames in one file's code are found: the rows of its code's pages. The
/// layout of a page and a row is the kernel half's (`leaktrace_ebpf::unwind`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UnwindTable {
    /// The virtual address of page 0, as the file counts; a whole number of pages.
    pub first_address: u64,
    /// Where in `rows` the rows of each page begin, and behind the last page where they end: one
    /// more than there are pages, or empty for a table without pages.
    pub page_starts: Vec<u32>,
    /// The rows (`leaktrace_ebpf::unwind::Row`), page after page.
    pub rows: Vec<u64>,
}

impl UnwindTable {
    /// The rows of each page.
    pub fn pages(&self) -> impl Iterator<Item = &[u64]> {
        self.page_starts.windows(2).map(|ends| match ends {
            &[start, end] => self.rows.get(start as usize..end as usize).unwrap_or(&[]),
            _ => &[],
        })
    }
}
