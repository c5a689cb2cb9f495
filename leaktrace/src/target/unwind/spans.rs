//! Which source of unwind data speaks for each piece of the code.

use leaktrace_ebpf::unwind::Kind;

use crate::target::elf::Segment;

/// Who says how callers are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// The FDE at this offset of `.eh_frame`.
    EhFrame(u32),
    /// The FDE at this offset of `.debug_frame`.
    DebugFrame(u32),
    /// It is known as a whole.
    Known(Kind),
    /// The rule of this number that follows from the code.
    Derived(u32),
}

/// A piece of code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    /// Its first address.
    pub(super) start: u64,
    /// The first address behind it.
    pub(super) end: u64,
    /// Who speaks for it.
    pub(super) source: Source,
}

/// The pieces of one kind of source, in order and apart: clipped to the code, and of those that
/// overlap, each ends where the next one starts. Of two that start together, the first is kept.
pub(super) fn order(mut spans: Vec<Span>, code: &[Segment]) -> Vec<Span> {
    // A linker leaves the entries of functions that it dropped at address 0.
    spans.retain(|s| s.start != 0 && s.start < s.end);
    if !spans.is_sorted_by_key(|s| s.start) {
        spans.sort_by_key(|s| s.start);
    }
    spans.dedup_by_key(|s| s.start);
    let mut next_start = u64::MAX;
    for span in spans.iter_mut().rev() {
        span.end = span.end.min(next_start);
        next_start = span.start;
    }
    clip(spans, code)
}

/// What lies in the code; segments are in order and apart.
fn clip(spans: Vec<Span>, code: &[Segment]) -> Vec<Span> {
    let mut clipped = Vec::with_capacity(spans.len());
    let mut segments =
        code.iter().map(|s| (s.address, s.address.saturating_add(s.size))).peekable();
    for span in spans {
        while segments.next_if(|&(_, end)| end <= span.start).is_some() {}
        // One that reaches into a further segment is no function.
        let Some(&(start, end)) = segments.peek() else { break };
        let span = Span { start: span.start.max(start), end: span.end.min(end), ..span };
        if span.start < span.end {
            clipped.push(span);
        }
    }
    clipped
}

/// `upper`, and `lower` wherever `upper` says nothing. Both are in order and apart.
pub(super) fn layer(upper: Vec<Span>, lower: Vec<Span>) -> Vec<Span> {
    if lower.is_empty() {
        return upper;
    }
    let mut all = Vec::with_capacity(upper.len() + lower.len());
    let mut upper = upper.into_iter().peekable();
    let mut covered = 0;
    for span in lower {
        let mut start = span.start.max(covered);
        while let Some(above) = upper.next_if(|above| above.start < span.end) {
            if start < above.start {
                all.push(Span { start, end: above.start, ..span });
            }
            covered = above.end;
            start = start.max(covered);
            all.push(above);
        }
        if start < span.end {
            all.push(Span { start, ..span });
        }
    }
    all.extend(upper);
    all
}
