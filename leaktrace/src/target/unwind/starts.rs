//! Where functions begin and end, as far as the unwind data says.

use gimli::{DebugFrame, EhFrame, LittleEndian};
use leaktrace_ebpf::unwind::Kind;

use super::UnwindError;
use super::frames::{Frames, Layout};
use super::sections::Sections;
use super::spans::{Source, Span};
use crate::target::elf::Elf;

/// The code of a file that has unwind data.
#[derive(Debug, Default)]
pub(in crate::target) struct Described {
    /// Start and end of each piece: functions, and cold parts of some.
    pub(in crate::target) pieces: Vec<(u64, u64)>,
    /// How many entries make no sense to us: an unwinder may know more.
    pub(in crate::target) skipped: u64,
}

/// All pieces of code that have unwind data.
///
/// # Errors
///
/// [`UnwindError`] when it cannot be read.
pub(in crate::target) fn described(elf: &Elf<'_>) -> Result<Described, UnwindError> {
    // Nobody asks for their rules.
    let source = |_| Source::Known(Kind::Uncovered);
    let sections = Sections::read(elf)?;
    let mut eh_frame = EhFrame::new(&sections.eh_frame, LittleEndian);
    let mut debug_frame = DebugFrame::new(&sections.debug_frame, LittleEndian);
    eh_frame.set_address_size(8);
    debug_frame.set_address_size(8);
    let layout = Layout { source, zero_is_cie: true, empty_is_last: !sections.is_exact };
    let (frames, spans) = Frames::read(&eh_frame, &sections.bases, &sections.eh_frame, layout)?;
    let layout = Layout { source, zero_is_cie: false, empty_is_last: false };
    let (_, more) = Frames::read(&debug_frame, &sections.bases, &sections.debug_frame, layout)?;
    // A linker leaves the entries of functions that it dropped at address 0.
    let is_code = |span: &Span| span.start != 0 && span.start < span.end;
    let spans = spans.into_iter().chain(more).filter(is_code);
    let pieces = spans.map(|span| (span.start, span.end)).collect();
    Ok(Described { pieces, skipped: frames.skipped })
}
