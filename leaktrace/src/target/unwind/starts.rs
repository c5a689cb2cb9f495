//! Where functions begin and end, as far as the unwind data says.

use gimli::{DebugFrame, EhFrame, LittleEndian};
use leaktrace_ebpf::unwind::Kind;

use super::UnwindError;
use super::frames::{Frames, Layout};
use super::sections::Sections;
use super::spans::{Source, Span};
use crate::target::elf::Elf;

/// Start and end of all pieces of code that have unwind data: functions, and cold parts of some.
///
/// # Errors
///
/// [`UnwindError`] when it cannot be read.
pub(in crate::target) fn described(elf: &Elf<'_>) -> Result<Vec<(u64, u64)>, UnwindError> {
    // Nobody asks for their rules.
    let source = |_| Source::Known(Kind::Uncovered);
    let sections = Sections::read(elf)?;
    let mut eh_frame = EhFrame::new(&sections.eh_frame, LittleEndian);
    let mut debug_frame = DebugFrame::new(&sections.debug_frame, LittleEndian);
    eh_frame.set_address_size(8);
    debug_frame.set_address_size(8);
    let layout = Layout { source, zero_is_cie: true, empty_is_last: !sections.is_exact };
    let (_, spans) = Frames::read(&eh_frame, &sections.bases, &sections.eh_frame, layout)?;
    let layout = Layout { source, zero_is_cie: false, empty_is_last: false };
    let (_, more) = Frames::read(&debug_frame, &sections.bases, &sections.debug_frame, layout)?;
    // A linker leaves the entries of functions that it dropped at address 0.
    let is_code = |span: &Span| span.start != 0 && span.start < span.end;
    let spans = spans.into_iter().chain(more).filter(is_code);
    Ok(spans.map(|span| (span.start, span.end)).collect())
}
