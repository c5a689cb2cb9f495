//! The report as people read it in a terminal: what leaks first, then the evidence, then what was
//! missed and what it cost.

pub(super) mod cost;
mod stack;
mod targets;
mod wrong_frees;

use std::io::{self, Write};

use super::{Style, health, names, trust, units};
use crate::model::{EndedBy, Report, StackReport, VerdictKind, printable};

const NARROWEST: usize = 40;

/// How a line stands out, when there are colours.
#[derive(Clone, Copy)]
enum Ink {
    Plain,
    Bold,
    Faint,
    Alarm,
}

pub(super) fn write(report: &Report, style: Style, out: &mut dyn Write) -> io::Result<()> {
    Parts::of(report, style).lines().iter().try_for_each(|line| writeln!(out, "{line}"))
}

/// The report's lines, by what they tell, as they are printed.
pub(super) struct Parts {
    pub(super) header: Vec<String>,
    pub(super) conclusion: Vec<String>,
    pub(super) totals: Vec<String>,
    pub(super) stacks: Vec<Vec<String>>,
    pub(super) not_shown: Option<String>,
    pub(super) wrong_frees: Vec<Vec<String>>,
    pub(super) health: Vec<String>,
    pub(super) trust: Vec<String>,
    pub(super) details: Vec<String>,
    pub(super) seen: Vec<String>,
    pub(super) cost: Vec<String>,
    pub(super) bill: Vec<String>,
}

impl Parts {
    pub(super) fn of(report: &Report, style: Style) -> Self {
        let style = Style { width: style.width.max(NARROWEST), ..style };
        let outstanding: Vec<&StackReport> = report
            .stacks
            .iter()
            .filter(|stack| stack.outstanding_blocks > 0 || stack.outstanding_bytes > 0)
            .collect();
        let (lines, ink) = conclusion(report, &outstanding, style);
        let shown = outstanding.iter().take(style.top).enumerate();
        let health_ink = if report.health.complete() { Ink::Plain } else { Ink::Alarm };
        let summary = health::summary(&report.health, report.trace.mode);
        let details = health::details(&report.health);
        Self {
            header: inked_lines(&header(report, style), Ink::Faint, style),
            conclusion: inked_lines(&lines, ink, style),
            totals: totals(report, style),
            stacks: shown.map(|(i, stack)| stack::lines(report, stack, i + 1, style)).collect(),
            not_shown: not_shown(report, &outstanding, style.top)
                .map(|rest| inked(&rest, Ink::Faint, style)),
            wrong_frees: wrong_frees::parts(report, style),
            health: inked_lines(
                &names::wrap(&summary, style.width, "Health: ", "        "),
                health_ink,
                style,
            ),
            trust: trust_lines(report, style),
            details: details
                .iter()
                .flat_map(|item| names::wrap(item, style.width, "  - ", "    "))
                .collect(),
            seen: cost::seen_lines(report, style),
            cost: cost::total(report, style),
            bill: cost::items(report, style),
        }
    }

    /// All of them, with the blank lines between.
    pub(super) fn lines(&self) -> Vec<&str> {
        let above = [&self.header, &self.conclusion, &self.totals];
        let mut lines = Vec::new();
        for part in above.into_iter().chain(&self.stacks) {
            lines.extend(part.iter().map(String::as_str));
            lines.push("");
        }
        if let Some(rest) = &self.not_shown {
            lines.extend([rest.as_str(), ""]);
        }
        for part in &self.wrong_frees {
            lines.extend(part.iter().map(String::as_str));
            lines.push("");
        }
        let below = [&self.health, &self.details, &self.trust, &self.seen, &self.cost, &self.bill];
        lines.extend(below.into_iter().flatten().map(String::as_str));
        lines
    }
}

fn inked_lines(lines: &[String], ink: Ink, style: Style) -> Vec<String> {
    lines.iter().map(|line| inked(line, ink, style)).collect()
}

fn inked(text: &str, ink: Ink, style: Style) -> String {
    let code = match ink {
        _ if !style.color || text.is_empty() => return text.to_owned(),
        Ink::Plain => return text.to_owned(),
        Ink::Bold => "1",
        Ink::Faint => "2",
        Ink::Alarm => "1;31",
    };
    format!("\x1b[{code}m{text}\x1b[0m")
}

/// Who, for how long, in which order.
fn header(report: &Report, style: Style) -> Vec<String> {
    let who = match report.targets.as_slice() {
        [] => "no process".to_owned(),
        [target] => format!("{} (pid {})", target.comm, target.pid),
        several => format!("{} processes", several.len()),
    };
    let ending = match report.trace.ended_by {
        None => " so far",
        Some(EndedBy::Duration) => "",
        Some(EndedBy::Signal) => " until stopped",
        Some(EndedBy::TargetExit) => " until its end",
    };
    let time = units::duration(report.trace.duration_s);
    let line = format!("{who}, traced for {time}{ending}, ranked by {}", style.ranked_by);
    let mut lines = names::wrap(&line, style.width, "leaktrace: ", "  ");
    let since = printable(&report.trace.started_at);
    match report.targets.as_slice() {
        [] => {}
        [target] => {
            let exe = printable(&target.exe);
            let room = style.width.saturating_sub(since.chars().count() + ", from ".len());
            lines.push(format!("{}, from {since}", names::shorten_path(&exe, room)));
        }
        several => {
            lines.push(format!("from {since}"));
            lines.extend(targets::lines(several, style.width));
        }
    }
    lines
}

/// How far all that can be trusted.
fn trust_lines(report: &Report, style: Style) -> Vec<String> {
    let trust = &report.health.trust;
    let ink = if trust.is_enough() { Ink::Plain } else { Ink::Alarm };
    let summary = trust::summary(trust);
    inked_lines(&names::wrap(&summary, style.width, "Trust:  ", "        "), ink, style)
}

/// Why there is no answer.
fn no_conclusion(report: &Report, style: Style) -> Vec<String> {
    let leads = ["Not enough for a verdict: "].into_iter().chain(std::iter::repeat("  and: "));
    let reasons = trust::reasons(&report.health.trust);
    let lines = reasons.iter().zip(leads);
    lines.flat_map(|(why, lead)| names::wrap(why, style.width, lead, "  ")).collect()
}

/// The answer in a sentence or two.
fn conclusion(report: &Report, stacks: &[&StackReport], style: Style) -> (Vec<String>, Ink) {
    if !report.health.trust.is_enough() {
        return (no_conclusion(report, style), Ink::Alarm);
    }
    let growing = || stacks.iter().filter(|stack| stack.verdict.kind == VerdictKind::Growing);
    let fastest = growing().reduce(|best, stack| {
        // False for a NaN: of equals the one that ranks higher stays.
        if stack.growth_bytes_per_s > best.growth_bytes_per_s { stack } else { best }
    });
    let caveat = match report.health.complete() {
        true => "",
        false => " Not everything was seen: see Health below.",
    };
    let Some(leak) = fastest else {
        let undecided = |stack: &&StackReport| stack.verdict.kind == VerdictKind::Undecided;
        let nothing_held = stacks.is_empty() && report.totals.outstanding_blocks() == 0;
        let sentence = if nothing_held && report.totals.allocated_blocks == 0 {
            "No allocation was seen."
        } else if nothing_held {
            "Nothing is outstanding: whatever was allocated was freed."
        } else if stacks.first().is_none_or(undecided) {
            "Undecided: traced for too short to tell what keeps growing."
        } else {
            "No stack keeps growing."
        };
        let sentence = format!("{sentence}{caveat}");
        return (names::wrap(&sentence, style.width, "", ""), Ink::Bold);
    };
    let others = match growing().count().saturating_sub(1) as u64 {
        0 => ".".to_owned(),
        1 => "; 1 more stack grows.".to_owned(),
        n => format!("; {} more stacks grow.", units::count(n)),
    };
    let about = about(report);
    let what = format!(
        "holds {about}{} in {about}{}, {about}{} at present{others}{caveat}",
        units::bytes(leak.outstanding_bytes),
        units::counted(leak.outstanding_blocks, "block"),
        units::rate(leak.growth_bytes_per_s),
    );
    let mut lines = vec![culprit(leak, style.width, "The leak: ")];
    lines.extend(names::wrap(&what, style.width, "          ", "          "));
    (lines, Ink::Alarm)
}

/// `lead`, the function, and where it is, in one line.
fn culprit(stack: &StackReport, width: usize, lead: &str) -> String {
    let Some(frame) = names::headline_frame(stack) else {
        return format!("{lead}a stack without frames");
    };
    let room = width.saturating_sub(lead.chars().count());
    let name = names::frame_name(frame);
    let Some(location) = names::location(frame) else {
        return format!("{lead}{}", names::shorten_function(&name, room));
    };
    let room = room.saturating_sub(" ()".len());
    let spare = room.saturating_sub(name.chars().count());
    let location = names::shorten_path(&location, spare.max(room / 2));
    let name = names::shorten_function(&name, room.saturating_sub(location.chars().count()));
    format!("{lead}{name} ({location})")
}

/// What stands before a figure.
fn about(report: &Report) -> &'static str {
    if report.is_estimate() { "~" } else { "" }
}

/// A small table.
fn totals(report: &Report, style: Style) -> Vec<String> {
    let totals = report.totals;
    let mean = totals.outstanding_bytes() as f64 / report.trace.duration_s;
    let mean = match mean.is_finite() {
        true => format!("  {}{} on average", about(report), units::rate(mean)),
        false => String::new(),
    };
    let line = |what: &str, bytes: u64, blocks: u64, more: &str| {
        let about = about(report);
        let bytes = format!("{about}{}", units::bytes(bytes));
        let blocks = units::counted(blocks, "block");
        let line = format!("{what:<12}{bytes:>10} in {about}{blocks}{more}");
        names::shorten_middle(&line, style.width)
    };
    vec![
        line("outstanding", totals.outstanding_bytes(), totals.outstanding_blocks(), &mean),
        line("allocated", totals.allocated_bytes, totals.allocated_blocks, ""),
        line("freed", totals.freed_bytes, totals.freed_blocks, ""),
    ]
}

/// How much is in the stacks below the last one shown.
fn not_shown(report: &Report, outstanding: &[&StackReport], top: usize) -> Option<String> {
    let shown = outstanding.len().min(top);
    let all = report.stacks_outstanding.max(outstanding.len());
    let count = match (all - shown) as u64 {
        0 => return None,
        1 => "1 more stack holds".to_owned(),
        n => format!("{} more stacks hold", units::count(n)),
    };
    let sum = |stacks: &[&StackReport]| {
        stacks.iter().fold(0_u64, |sum, stack| sum.saturating_add(stack.outstanding_bytes))
    };
    let (above, below) = outstanding.split_at_checked(shown)?;
    if all == outstanding.len() {
        return Some(format!("{count} {}.", units::bytes(sum(below))));
    }
    // With --min-age the totals say more than the stacks hold.
    if outstanding.iter().any(|stack| stack.outstanding_bytes < stack.totals.outstanding_bytes()) {
        return Some(format!("{count} less."));
    }
    let rest = report.totals.outstanding_bytes().saturating_sub(sum(above));
    Some(format!("{count} {}.", units::bytes(rest)))
}
