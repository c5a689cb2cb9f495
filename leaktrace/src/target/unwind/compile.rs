//! From an ELF file to its table: what describes its code, put in order, and written as rows.

use gimli::{DebugFrame, EhFrame, LittleEndian};
use leaktrace_ebpf::unwind::{Kind, Rule};

use super::frames::{Frames, Layout};
use super::rows::Rows;
use super::sections::Sections;
use super::spans::{self, Source, Span};
use super::{UnwindError, UnwindFile, trampoline};
use crate::model::UnwindTable;
use crate::target::budget::Budget;
use crate::target::elf::{Elf, Segment};

/// What a row takes out of the budget, which counts bytes that are read: a row is kept.
const ROW: u64 = 64;
/// Between functions there is padding; only longer pieces of code that nothing describes are
/// searched for signal trampolines.
const LONGEST_PADDING: u64 = 15;

pub(super) fn compile(elf: &Elf<'_>, budget: &Budget) -> Result<UnwindFile, UnwindError> {
    if !elf.is_x86_64() {
        return Err(UnwindError::NotElf);
    }
    let code = code_of(elf);
    let sections = Sections::read(elf)?;
    let (table, skipped) = table(&sections, &code, |spans| trampolines(elf, spans, &code))?;
    if !budget.take(ROW.saturating_mul(table.rows.len() as u64)) {
        return Err(UnwindError::OverBudget);
    }
    Ok(UnwindFile { table, skipped, code })
}

/// The table of this code, and how many entries were skipped. `trampolines` finds those in code
/// that is not among these pieces.
pub(super) fn table(
    sections: &Sections,
    code: &[Segment],
    trampolines: impl FnOnce(&[Span]) -> Vec<Span>,
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
    let trampolines = spans::order(trampolines(&spans), code);
    let spans = spans::layer(spans, spans::order(more, code));
    let spans = spans::layer(trampolines, spans);
    let table = write(&spans, |span, rows| match span.source {
        Source::EhFrame(offset) => eh_frame.write(offset, span, rows),
        Source::DebugFrame(offset) => debug_frame.write(offset, span, rows),
        Source::Known(kind) => rows.put(span.start, Rule::of(kind)),
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

/// The executable segments.
fn code_of(elf: &Elf<'_>) -> Vec<Segment> {
    in_order(elf, elf.segments().iter().filter(|s| s.executable).copied().collect())
}

/// Segments in order and apart, as far as they lie in the file.
fn in_order(elf: &Elf<'_>, mut segments: Vec<Segment>) -> Vec<Segment> {
    segments.sort_by_key(|s| s.address);
    let mut next = u64::MAX;
    for segment in segments.iter_mut().rev() {
        let in_file = elf.size().saturating_sub(segment.offset);
        segment.size = segment.size.min(in_file).min(next - segment.address);
        next = segment.address;
    }
    segments.retain(|s| s.size != 0);
    segments
}

/// The signal trampolines in code that is not among these pieces.
fn trampolines(elf: &Elf<'_>, described: &[Span], code: &[Segment]) -> Vec<Span> {
    // An executable segment may hold everything that is only read as well.
    let sections = in_order(elf, elf.code_sections());
    let searched = if sections.is_empty() { code } else { &sections };
    let mut pieces = spans::gaps(described, searched);
    pieces.retain(|piece| piece.size > LONGEST_PADDING);
    trampoline::find(elf, &pieces)
}
