//! The code of a file: where it is, and what is found by reading the pieces that nothing describes.

use leaktrace_ebpf::unwind::Rule;

use super::from_code::{self, Derived, Entry, Piece};
use super::spans::{Source, Span};
use super::trampoline;
use crate::target::elf::{Elf, Segment};

/// Between functions there is padding; only longer pieces are read.
const LONGEST_PADDING: u64 = 15;
/// The most code that is followed, in bytes: twenty times musl's.
const MOST_FOLLOWED: u64 = 8 << 20;
/// What is read of the code where a program starts, in bytes.
const AT_ENTRY: u64 = 256;
/// Functions of musl that a program or library with it has, and nothing else.
const OF_MUSL: [&str; 4] = ["__dls3", "__init_libc", "__libc_exit_fini", "__libc_start_init"];
/// What V8's own code is called: it keeps frame pointers, and much of it is not entered by calls.
const OF_V8: &str = "Builtins_";
/// How a program with musl starts, around the address of `_DYNAMIC`: `xor %rbp, %rbp; mov %rsp,
/// %rdi; lea _DYNAMIC(%rip), %rsi` and `and $-16, %rsp; call`.
const MUSL_START: ([u8; 9], usize, [u8; 5]) =
    ([0x48, 0x31, 0xed, 0x48, 0x89, 0xe7, 0x48, 0x8d, 0x35], 4, [0x48, 0x83, 0xe4, 0xf0, 0xe8]);

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
    let start = start_of(elf, &gaps);
    let mut derived: Vec<Derived> =
        from_code::first_function(&start, elf.entry()).into_iter().collect();
    let first = derived.first().map_or(0..0, |first| first.start..first.end);
    if let Some(entries) = entries(elf, &start, described, &gaps) {
        let followed = from_code::derive(&read(elf, &gaps), &entries);
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

/// The code where a program starts, if nothing describes it.
fn start_of(elf: &Elf<'_>, gaps: &[Segment]) -> Vec<Piece> {
    let Some(gap) = gaps.iter().find(|gap| contains(gap, elf.entry())) else { return Vec::new() };
    let size = (gap.size - (elf.entry() - gap.address)).min(AT_ENTRY);
    read(elf, &[Segment { address: elf.entry(), size, ..*gap }])
}

/// The known entries of musl's functions, if it is musl that nothing describes.
fn entries(
    elf: &Elf<'_>,
    start: &[Piece],
    described: &[Span],
    gaps: &[Segment],
) -> Option<Vec<Entry>> {
    let size = |segments: &[Segment]| segments.iter().map(|s| s.size).fold(0, u64::saturating_add);
    // A program that asks for a loader has a libc elsewhere.
    if elf.interpreter().is_some() || size(gaps) > MOST_FOLLOWED {
        return None;
    }
    let known = |name: &str| OF_MUSL.contains(&name) || name.starts_with(OF_V8);
    let known = elf.functions(known).ok()?;
    if known.iter().any(|function| function.name.starts_with(OF_V8)) {
        return None;
    }
    if !known.is_empty() {
        let ranges = elf.function_ranges().ok()?.into_iter();
        return Some(ranges.map(|(address, size)| Entry { address, size }).collect());
    }
    // Without symbols, the program's own code leads there.
    let (before, between, behind) = MUSL_START;
    let is_musl = start.first().is_some_and(|start| {
        let tail = start.code.strip_prefix(&before).and_then(|code| code.get(between..));
        tail.is_some_and(|tail| tail.starts_with(&behind))
    });
    let sections = in_order(elf, elf.code_sections());
    if !is_musl || size(&sections) > MOST_FOLLOWED {
        return None;
    }
    let described = described.iter().map(|span| (span.start, span.end));
    let mut targets = from_code::led_to(&read(elf, &sections), described);
    targets.push(elf.entry());
    Some(targets.into_iter().map(|address| Entry { address, size: 0 }).collect())
}

fn contains(segment: &Segment, address: u64) -> bool {
    address.checked_sub(segment.address).is_some_and(|within| within < segment.size)
}

/// Code to be decoded, which the budget knows to take longer than reading.
fn read(elf: &Elf<'_>, pieces: &[Segment]) -> Vec<Piece> {
    let piece = |segment: &Segment| {
        let code = elf.code(segment.address, segment.size).ok()?;
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
