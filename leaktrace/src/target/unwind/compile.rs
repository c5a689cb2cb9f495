//! From an ELF file to its table: what describes its code, put in order, and written as rows.

use gimli::{DebugFrame, EhFrame, LittleEndian};
use leaktrace_ebpf::unwind::{Kind, Rule};

use super::frames::{Frames, Layout};
use super::rows::Rows;
use super::sections::Sections;
use super::spans::{self, Source, Span};
use super::{UnwindError, UnwindFile, code};
use crate::model::UnwindTable;
use crate::target::budget::Budget;
use crate::target::elf::{Elf, Segment};

/// What a row takes out of the budget, which counts bytes that are read: a row is kept.
const ROW: u64 = 64;
pub(super) fn compile(elf: &Elf<'_>, budget: &Budget) -> Result<UnwindFile, UnwindError> {
    if !elf.is_x86_64() {
        return Err(UnwindError::NotElf);
    }
    let code = code::segments(elf);
    let (table, skipped) = table(&Sections::read(elf)?, &code, Some(elf))?;
    if !budget.take(ROW.saturating_mul(table.rows.len() as u64)) {
        return Err(UnwindError::OverBudget);
    }
    Ok(UnwindFile { table, skipped, code })
}

/// The table of this code, and how many entries were skipped. What these sections don't describe is
/// looked for in the file, if there is one.
pub(super) fn table(
    sections: &Sections,
    code: &[Segment],
    elf: Option<&Elf<'_>>,
) -> Result<(UnwindTable, u64), UnwindError> {
    let mut eh_frame = EhFrame::new(&sections.eh_frame, LittleEndian);
    let mut debug_frame = DebugFrame::new(&sections.debug_frame, LittleEndian);
    eh_frame.set_address_size(8);
    debug_frame.set_address_size(8);
    let layout =
        Layout { source: Source::EhFrame, zero_is_cie: true, empty_is_last: !sections.is_exact };
    let (mut eh_frame, spans) =
        Frames::read(&eh_frame, &sections.bases, &sections.eh_frame, layout)?;
    let layout = Layout { source: Source::DebugFrame, zero_is_cie: false, empty_is_last: false };
    let (mut debug_frame, more) =
        Frames::read(&debug_frame, &sections.bases, &sections.debug_frame, layout)?;
    let spans = spans::order(spans, code);
    // What assembly files say in `.debug_frame` is generated, and wrong for a trampoline.
    let trampolines = elf.map_or(Vec::new(), |elf| code::trampolines(elf, &spans, code));
    let spans = spans::layer(spans, spans::order(more, code));
    let spans = spans::layer(spans::order(trampolines, code), spans);
    let (rules, more) = elf.map_or_else(Default::default, |elf| code::derived(elf, &spans, code));
    let spans = spans::layer(spans, spans::order(more, code));
    let table = write(&spans, |span, rows| match span.source {
        Source::EhFrame(offset) => eh_frame.write(offset, span, rows),
        Source::DebugFrame(offset) => debug_frame.write(offset, span, rows),
        Source::Known(kind) => rows.put(span.start, Rule::of(kind)),
        Source::Derived(number) => {
            let rule = rules.get(number as usize).copied();
            rows.put(span.start, rule.unwrap_or(Rule::of(Kind::Uncovered)))
        }
    })?;
    Ok((table, eh_frame.skipped + debug_frame.skipped))
}

fn write(
    spans: &[Span],
    mut write_one: impl FnMut(Span, &mut Rows) -> Result<(), UnwindError>,
) -> Result<UnwindTable, UnwindError> {
    let (Some(first), Some(last)) = (spans.first(), spans.last()) else {
        return Err(UnwindError::None);
    };
    let mut rows = Rows::from(first.start);
    let mut end = first.start;
    for &span in spans {
        if end < span.start {
            rows.put(end, Rule::of(Kind::Uncovered))?;
        }
        write_one(span, &mut rows)?;
        end = span.end;
    }
    rows.finish(last.end)
}
