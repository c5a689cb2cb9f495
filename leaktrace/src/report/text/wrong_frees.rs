//! Frees that are wrong: what is wrong, and where the block came from and went.

use super::{Ink, inked, inked_lines, stack};
use crate::model::{CallSite, Report, WrongFree, WrongFreeKind, printable};
use crate::report::{Style, names, units};

/// One part for each kind of wrong free, as many as stacks are shown; and how many there are beyond.
pub(super) fn parts(report: &Report, style: Style) -> Vec<Vec<String>> {
    let mut parts: Vec<Vec<String>> = report
        .wrong_frees
        .iter()
        .take(style.top)
        .map(|wrong| lines(report, wrong, style))
        .collect();
    let beyond = report.wrong_frees.len().saturating_sub(style.top) as u64;
    if beyond > 0 {
        let line = format!("{} of wrong frees not shown.", units::counted(beyond, "more kind"));
        parts.push(vec![inked(&line, Ink::Faint, style)]);
    }
    parts
}

fn lines(report: &Report, wrong: &WrongFree, style: Style) -> Vec<String> {
    let what = match wrong.kind {
        WrongFreeKind::Double => "DOUBLE FREE",
        WrongFreeKind::Mismatched => "MISMATCHED FREE",
    };
    let blocks = units::counted(wrong.count, "block");
    let mut headline =
        format!("{what}: {blocks}, {}: {}", units::bytes(wrong.bytes), wrong.verdict);
    if report.targets.len() > 1
        && let Some(target) = report.targets.iter().find(|target| Some(target.pid) == wrong.pid)
    {
        headline.push_str(&format!(", {}", names::target(target)));
    }
    let mut lines =
        inked_lines(&names::wrap(&headline, style.width, "", "    "), Ink::Alarm, style);
    lines.extend(site("allocated", &wrong.allocated, style));
    lines.extend(site("freed", &wrong.freed, style));
    if let Some(again) = &wrong.freed_again {
        lines.extend(site("freed again", again, style));
    }
    lines
}

fn site(how: &str, site: &CallSite, style: Style) -> Vec<String> {
    let Some(function) = &site.function else {
        return vec![format!("  {how} before the trace, or unseen")];
    };
    let line = format!("  {how} by {}", printable(function));
    let mut lines = vec![names::shorten_middle(&line, style.width)];
    lines.extend(stack::frames(&site.frames, site.culprit, site.ending, style));
    lines
}
