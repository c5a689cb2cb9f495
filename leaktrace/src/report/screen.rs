//! A report that fits a terminal: what a view shows that is drawn again in the same place. Never asks
//! how large the terminal is.

use super::Style;
use super::text::Parts;
use crate::model::Report;

/// The most frames of a stack in a view that refreshes, and whether the bill has all its items:
/// what is tried when more does not fit.
const VIEWS: [(usize, bool); 5] =
    [(MOST_FRAMES, true), (MOST_FRAMES, false), (8, false), (5, false), (LEAST_FRAMES, false)];
/// The most frames of a stack in a view that refreshes.
pub const MOST_FRAMES: usize = 24;
const LEAST_FRAMES: usize = 3;
/// A stack takes at least a blank line and its headline.
const LEAST_STACK_LINES: usize = 2;

/// The text in at most so many rows: as many of the stacks asked for as fit, each with as many
/// frames as fit then. What must give way when even one stack does not fit is in the middle.
pub fn fit(report: &Report, style: Style, rows: usize) -> String {
    let most = style.top.min(report.stacks.len()).min(rows / LEAST_STACK_LINES);
    let parts_of = |top, (frames, bill): (usize, bool)| {
        let mut parts = Parts::of(report, Style { top, frames, ..style });
        if !bill {
            parts.bill.clear();
        }
        parts
    };
    let views = VIEWS.map(|view| (parts_of(most, view), view));
    for top in (most.min(1)..=most).rev() {
        for (parts, view) in &views {
            if height_of_first(parts, top) > rows {
                continue;
            }
            let parts = parts_of(top, *view);
            // A line that tells of the stacks left out may be more.
            if parts.lines().len() <= rows {
                return text(&parts.lines());
            }
        }
    }
    let top = most.min(1);
    cut(parts_of(top, (LEAST_FRAMES, false)), rows)
}

/// Lines with only the first stacks, at the least.
fn height_of_first(parts: &Parts, top: usize) -> usize {
    let left_out: usize = parts.stacks.iter().skip(top).map(|stack| stack.len() + 1).sum();
    parts.lines().len() - left_out
}

/// Takes out what says least, then what stands above the health line.
fn cut(mut parts: Parts, rows: usize) -> String {
    let over = |parts: &Parts| parts.lines().len().saturating_sub(rows);
    let excess = over(&parts);
    shorten(&mut parts.details, excess, 0);
    let excess = over(&parts);
    shorten(&mut parts.header, excess, 1);
    if over(&parts) > 0 {
        parts.seen.clear();
    }
    if over(&parts) > 0 {
        parts.cost.clear();
    }
    if over(&parts) > 0 {
        parts.details.clear();
    }
    // That it is not enough is said above all else.
    if over(&parts) > 0 {
        parts.trust.clear();
    }
    let excess = over(&parts);
    if let Some(stack) = parts.stacks.first_mut() {
        shorten(stack, excess, 1);
    }
    let lines = parts.lines();
    if lines.len() <= rows {
        return text(&lines);
    }
    let end = parts.health.len().min(rows / 2);
    let begin = rows.saturating_sub(end + 1);
    let mut kept: Vec<&str> = lines.iter().copied().take(begin).collect();
    kept.push("...");
    kept.extend(parts.health.iter().map(String::as_str).take(end));
    kept.truncate(rows);
    text(&kept)
}

/// Takes lines from the end, but not the first `least`, and says how many.
fn shorten(lines: &mut Vec<String>, excess: usize, least: usize) {
    // One more makes room for the remark.
    let keep = lines.len().saturating_sub(excess + 1).max(least);
    let gone = lines.len().saturating_sub(keep);
    if excess > 0 && gone > 1 {
        lines.truncate(keep);
        lines.push(format!("    ... {gone} more lines"));
    }
}

fn text(lines: &[&str]) -> String {
    lines.iter().flat_map(|line| [line, "\n"]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::fixture;

    fn stacks(text: &str) -> usize {
        text.lines().filter(|line| line.starts_with('#')).count()
    }

    #[test]
    fn a_live_view_in_80x24_keeps_the_headline_and_the_first_stack() {
        let text = fit(&fixture::server(), Style::default(), 22);
        assert!(text.starts_with("leaktrace: receipt-server"), "{text}");
        for part in ["\nThe leak: ", "\noutstanding ", "\n#1 ", "  > render_receipt", "\nHealth: "]
        {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(text.contains(" more frames\n") && text.lines().count() <= 22, "{text}");
    }

    #[test]
    fn fewer_frames_give_way_before_stacks() {
        let report = fixture::server();
        let whole = fit(&report, Style::default(), 100);
        let lines = whole.lines().count();
        assert_eq!(fit(&report, Style::default(), lines), whole);
        assert_eq!((stacks(&whole), whole.contains("more frame")), (3, false));
        let no_bill = fit(&report, Style::default(), lines - 1);
        assert_eq!((stacks(&no_bill), no_bill.contains("more frame")), (3, false), "{no_bill}");
        let cost = |text: &str| (text.contains("\nCost:   "), text.contains("        probes  "));
        assert_eq!((cost(&whole), cost(&no_bill)), ((true, true), (true, false)));
        let fewer = fit(&report, Style::default(), no_bill.lines().count() - 1);
        assert_eq!((stacks(&fewer), fewer.contains("more frame")), (3, true), "{fewer}");
        let two = fit(&report, Style::default(), 32);
        assert_eq!(stacks(&two), 2, "{two}");
    }

    #[test]
    fn no_view_has_more_rows_than_there_are() {
        let reports = [
            fixture::server(),
            fixture::windowed(),
            fixture::troubled(),
            fixture::empty(),
            fixture::weird(),
        ];
        for report in &reports {
            for rows in 1..90 {
                for width in [40, 80, 120] {
                    let style = Style { width, color: rows % 2 == 0, ..Style::default() };
                    let text = fit(report, style, rows);
                    assert!(text.lines().count() <= rows, "{rows}: {text}");
                    if rows >= 3 {
                        assert!(text.contains("Health: "), "{rows}: {text}");
                    }
                    if rows >= 5 {
                        assert!(text.contains("leaktrace: "), "{rows}: {text}");
                    }
                }
            }
        }
    }
}
