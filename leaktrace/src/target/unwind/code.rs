//! The code of a file: where it is, and what is found by reading the pieces that nothing describes.

use leaktrace_ebpf::unwind::Rule;

use super::from_code::{self, Derived, Entry, Piece};
use super::spans::{Source, Span};
use super::trampoline;
use crate::target::elf::{Elf, Segment};

/// Between functions there is padding; only longer pieces are read.
const LONGEST_PADDING: u64 = 15;
/// The most code that is followed, in bytes: forty times musl's.
const MOST_FOLLOWED: u64 = 16 << 20;
/// What is read of the code where a program starts, in bytes.
const AT_ENTRY: u64 = 256;
/// Functions of musl that a program or library with it has, and nothing else. Other code without
/// unwind data keeps frame pointers, as V8's does, or is not entered by calls, as V8's is not.
const OF_MUSL: [&str; 4] = ["__dls3", "__init_libc", "__libc_exit_fini", "__libc_start_init"];

/// The executable segments.
pub(super) fn segments(elf: &Elf<'_>) -> Vec<Segment> {
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

/// The signal trampolines in code that is not among these spans.
pub(super) fn trampolines(elf: &Elf<'_>, described: &[Span], code: &[Segment]) -> Vec<Span> {
    trampoline::find(elf, &undescribed(elf, described, code))
}

/// The rules that follow from code that is not among these spans, and where they hold: of musl's
/// functions, and of where a program starts. Of what cannot be read there are none.
pub(super) fn derived(
    elf: &Elf<'_>,
    described: &[Span],
    code: &[Segment],
) -> (Vec<Rule>, Vec<Span>) {
    let gaps = undescribed(elf, described, code);
    let mut derived = Vec::new();
    if let Some(gap) = gaps.iter().find(|gap| contains(gap, elf.entry())) {
        let within = elf.entry() - gap.address;
        let size = (gap.size - within).min(AT_ENTRY);
        let start = Segment { address: elf.entry(), offset: gap.offset + within, size, ..*gap };
        derived.extend(from_code::first_function(&read(elf, &[start]), elf.entry()));
    }
    let size = gaps.iter().map(|gap| gap.size).fold(0, u64::saturating_add);
    if size <= MOST_FOLLOWED && has_musl(elf) {
        let entries = elf.function_ranges().unwrap_or_default();
        let entries = entries.into_iter().map(|(address, size)| Entry { address, size });
        let first = derived.first().map_or(0..0, |d: &Derived| d.start..d.end);
        let followed = from_code::derive(&read(elf, &gaps), &entries.collect::<Vec<_>>());
        derived.extend(followed.into_iter().filter(|d| !first.contains(&d.start)));
    }
    let span = |(index, d): (usize, &Derived)| Span {
        start: d.start,
        end: d.end,
        source: Source::Derived(index as u32),
    };
    let spans = derived.iter().enumerate().map(span).collect();
    (derived.iter().map(|d| d.rule).collect(), spans)
}

fn has_musl(elf: &Elf<'_>) -> bool {
    elf.functions(|name| OF_MUSL.contains(&name)).is_ok_and(|found| !found.is_empty())
}

fn contains(segment: &Segment, address: u64) -> bool {
    address.checked_sub(segment.address).is_some_and(|within| within < segment.size)
}

fn read(elf: &Elf<'_>, pieces: &[Segment]) -> Vec<Piece> {
    let piece = |segment: &Segment| {
        let code = elf.read(segment.offset, segment.size).ok()?;
        Some(Piece { address: segment.address, code })
    };
    pieces.iter().filter_map(piece).collect()
}

/// The pieces of code that are not among these spans.
fn undescribed(elf: &Elf<'_>, described: &[Span], code: &[Segment]) -> Vec<Segment> {
    // An executable segment may hold everything that is only read as well.
    let sections = in_order(elf, elf.code_sections());
    let mut gaps = gaps(described, if sections.is_empty() { code } else { &sections });
    gaps.retain(|gap| gap.size > LONGEST_PADDING);
    gaps
}

/// The pieces between the spans.
fn gaps(spans: &[Span], code: &[Segment]) -> Vec<Segment> {
    let mut gaps = Vec::new();
    let mut spans = spans.iter().peekable();
    let mut at = 0;
    for segment in code {
        let mut gap = |start: u64, end: u64| {
            let offset = segment.offset.saturating_add(start - segment.address);
            gaps.push(Segment { address: start, offset, size: end - start, executable: true });
        };
        at = segment.address.max(at);
        let end = segment.address.saturating_add(segment.size);
        while let Some(span) = spans.next_if(|s| s.start < end) {
            if at < span.start {
                gap(at, span.start);
            }
            at = at.max(span.end);
        }
        if at < end {
            gap(at, end);
        }
    }
    gaps
}
