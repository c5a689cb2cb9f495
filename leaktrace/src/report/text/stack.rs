//! One stack: what it holds, why it got its verdict, and its frames.

use super::{Ink, about, inked, inked_lines};
use crate::model::{Ending, Frame, Interval, Report, StackReport, VerdictKind};
use crate::report::{Style, names, units};

/// Columns before a frame's name.
const GUTTER: usize = 4;
/// Columns between a frame's name and its place.
const GAP: usize = 2;
const INLINED: &str = " (inlined)";

pub(super) fn lines(
    report: &Report,
    stack: &StackReport,
    rank: usize,
    style: Style,
) -> Vec<String> {
    let ink = match stack.verdict.kind {
        VerdictKind::Growing => Ink::Alarm,
        VerdictKind::Steady | VerdictKind::Churning | VerdictKind::Undecided => Ink::Bold,
    };
    let headline = headline(report, stack, rank);
    let mut lines = inked_lines(&names::wrap(&headline, style.width, "", "    "), ink, style);
    let evidence = &stack.verdict.evidence;
    if !evidence.trim().is_empty() {
        lines.extend(names::wrap(evidence, style.width, "    ", "    "));
    }
    lines.extend(frames(&stack.frames, stack.culprit, stack.ending, style));
    lines
}

fn headline(report: &Report, stack: &StackReport, rank: usize) -> String {
    let age = match stack.oldest_age_s {
        Some(age) => format!(", oldest {}", units::duration(age)),
        None => String::new(),
    };
    let about = about(report);
    let off = stack.interval.map_or(String::new(), |i| off_by(stack.outstanding_bytes, i));
    let mut line = format!(
        "#{rank}  {about}{}{off} in {about}{}, {about}{}{age}: {}",
        units::bytes(stack.outstanding_bytes),
        units::counted(stack.outstanding_blocks, "block"),
        units::rate(stack.growth_bytes_per_s),
        stack.verdict.kind.name(),
    );
    if report.targets.len() > 1
        && let Some(target) = report.targets.iter().find(|target| Some(target.pid) == stack.pid)
    {
        line.push_str(&format!(", {}", names::target(target)));
    }
    line
}

/// How far off an estimate may be: ` \u{b1}1.0 MiB`, or where the truth lies when that is not about
/// as far on both sides.
fn off_by(bytes: u64, interval: Interval) -> String {
    let Interval { low_bytes, high_bytes } = interval;
    let (below, above) = (bytes.saturating_sub(low_bytes), high_bytes.saturating_sub(bytes));
    let (less, more) = (below.min(above), below.max(above));
    if bytes < low_bytes || bytes > high_bytes || less < more - more / 4 {
        return format!(" ({} to {})", units::bytes(low_bytes), units::bytes(high_bytes));
    }
    format!(" \u{b1}{}", units::bytes(more))
}

/// So many frames of allocation plumbing are shown before all but the last are folded into one line.
const LEAST_FOLDED: usize = 2;

/// A frame's line, before it is fitted.
struct Row {
    mark: &'static str,
    name: String,
    inlined: bool,
    location: Option<String>,
}

impl Row {
    fn name_width(&self) -> usize {
        self.name.chars().count() + if self.inlined { INLINED.len() } else { 0 }
    }
}

pub(super) fn frames(
    frames: &[Frame],
    culprit: Option<usize>,
    ending: Ending,
    style: Style,
) -> Vec<String> {
    let mut lines = Vec::new();
    // Whoever allocated on behalf of the culprit is one frame; the rest of that chain says nothing.
    let folded = match culprit {
        Some(culprit) if (LEAST_FOLDED + 1..frames.len()).contains(&culprit) => culprit - 1,
        _ => 0,
    };
    if folded > 0 {
        let remark = format!(
            "    ... {} inside the language's library",
            units::counted(folded as u64, "frame")
        );
        lines.push(inked(&remark, Ink::Faint, style));
    }
    let to_culprit = culprit.map_or(0, |culprit| culprit.saturating_add(1));
    let limit = folded.saturating_add(style.frames).max(to_culprit);
    let rows: Vec<Row> = frames
        .iter()
        .take(limit)
        .enumerate()
        .skip(folded)
        .map(|(i, frame)| Row {
            mark: if culprit == Some(i) { "  > " } else { "    " },
            name: names::frame_name(frame),
            inlined: frame.inlined,
            location: names::location(frame),
        })
        .collect();

    let room = style.width.saturating_sub(GUTTER + GAP);
    let widest = |width: &dyn Fn(&Row) -> usize| rows.iter().map(width).max().unwrap_or(0);
    let places = widest(&|row| row.location.as_deref().map_or(0, |place| place.chars().count()));
    let column = widest(&Row::name_width).min(room - places.min(room * 2 / 5));
    lines.extend(rows.iter().map(|row| row_line(row, column, style)));
    let cut = frames.len().saturating_sub(rows.len() + folded);
    let remark = if cut > 0 {
        format!(
            "    ... {} more frame{}",
            units::count(cut as u64),
            if cut == 1 { "" } else { "s" }
        )
    } else if frames.is_empty() {
        "    (no frames: its stack is not known)".to_owned()
    } else {
        match ending {
            Ending::Complete => return lines,
            Ending::Depth => {
                "    ... outer callers are missing: there are more frames than are kept".to_owned()
            }
            Ending::Lost | Ending::Unmapped => {
                "    ... outer callers are missing: the stack could not be followed further"
                    .to_owned()
            }
        }
    };
    lines.push(inked(&names::shorten_middle(&remark, style.width), Ink::Faint, style));
    lines
}

fn row_line(row: &Row, column: usize, style: Style) -> String {
    let suffix = if row.inlined { INLINED } else { "" };
    // Without a place beside it, a name may run on.
    let most = if row.location.is_some() { column } else { style.width - GUTTER };
    let name = names::shorten_function(&row.name, most.saturating_sub(suffix.len()));
    let ink = if row.mark.trim().is_empty() { Ink::Plain } else { Ink::Bold };
    let Some(location) = &row.location else {
        return inked(&format!("{}{name}{suffix}", row.mark), ink, style);
    };
    let used = name.chars().count() + suffix.len();
    let place = names::shorten_path(location, style.width - GUTTER - GAP - column);
    format!(
        "{}{}{:gap$}{}",
        inked(&format!("{}{name}", row.mark), ink, style),
        inked(suffix, Ink::Faint, style),
        "",
        inked(&place, Ink::Faint, style),
        gap = GAP + column.saturating_sub(used),
    )
}
