//! Where the functions of a file begin and end, as its unwind data has it: also those that no symbol
//! names, and the parts that a compiler put elsewhere.

use gimli::{EhFrame, LittleEndian};

use super::UnwindError;
use super::code;
use super::frames::{Frames, Layout};
use super::sections::Sections;
use super::spans::{self, Source};
use crate::target::elf::Elf;

/// First addresses, and the first behind; in order and apart.
///
/// # Errors
///
/// [`UnwindError`] when the unwind data cannot be read.
pub fn function_bounds(elf: &Elf<'_>) -> Result<Vec<(u64, u64)>, UnwindError> {
    let sections = Sections::read(elf)?;
    let mut eh_frame = EhFrame::new(&sections.eh_frame, LittleEndian);
    eh_frame.set_address_size(8);
    let layout =
        Layout { source: Source::EhFrame, zero_is_cie: true, empty_is_last: !sections.is_exact };
    let (_, spans) = Frames::read(&eh_frame, &sections.bases, &sections.eh_frame, layout)?;
    let spans = spans::order(spans, &code::segments(elf));
    Ok(spans.into_iter().map(|span| (span.start, span.end)).collect())
}
