//! Which processes a report is about, in a few lines, however many they are.

use super::super::names;
use crate::model::{Target, printable};

/// So many processes, or kinds of processes, get a line each.
const MOST_LINES: usize = 8;
/// So many process ids stand in one line.
const MOST_IDS: usize = 6;

/// A line for each; or for each program, where there are many.
pub(super) fn lines(targets: &[Target], width: usize) -> Vec<String> {
    let shortened = |line: String| names::shorten_middle(&line, width);
    if targets.len() <= MOST_LINES {
        let line = |target| format!("  {}  {}", names::target(target), printable(&target.exe));
        return targets.iter().map(|target| shortened(line(target))).collect();
    }
    let kinds = kinds(targets);
    let mut lines: Vec<String> =
        kinds.iter().take(MOST_LINES).map(|kind| shortened(line_of(kind))).collect();
    let beyond: usize = kinds.iter().skip(MOST_LINES).map(Vec::len).sum();
    if beyond > 0 {
        let programs = kinds.len() - MOST_LINES;
        lines.push(shortened(format!("  and {beyond} more, of {programs} more programs")));
    }
    lines
}

/// By name and executable, the most numerous first, and those of one size as they come.
fn kinds(targets: &[Target]) -> Vec<Vec<&Target>> {
    let mut kinds: Vec<Vec<&Target>> = Vec::new();
    for target in targets {
        let is_same = |kind: &&mut Vec<&Target>| {
            kind.first()
                .is_some_and(|first| (&first.comm, &first.exe) == (&target.comm, &target.exe))
        };
        match kinds.iter_mut().find(is_same) {
            Some(kind) => kind.push(target),
            None => kinds.push(vec![target]),
        }
    }
    kinds.sort_by_key(|kind| std::cmp::Reverse(kind.len()));
    kinds
}

fn line_of(kind: &[&Target]) -> String {
    let Some(first) = kind.first() else { return String::new() };
    let exe = printable(&first.exe);
    if kind.len() == 1 {
        return format!("  {}  {exe}", names::target(first));
    }
    let mut ids: Vec<String> = kind.iter().take(MOST_IDS).map(|t| t.pid.to_string()).collect();
    if kind.len() > MOST_IDS {
        ids.push("...".to_owned());
    }
    format!("  {} x {} ({})  {exe}", kind.len(), printable(&first.comm), ids.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Pid;

    fn target(pid: u32, comm: &str) -> Target {
        Target {
            pid: Pid::new(pid).unwrap(),
            comm: comm.to_owned(),
            exe: format!("/usr/bin/{comm}"),
            start_time: 1,
        }
    }

    #[test]
    fn few_processes_have_a_line_each() {
        let targets: Vec<Target> = (1..=8).map(|pid| target(pid, "web")).collect();
        let lines = lines(&targets, 80);
        assert_eq!(lines.len(), 8);
        assert!(lines[7].contains('8') && lines[7].contains("/usr/bin/web"), "{lines:?}");
    }

    #[test]
    fn many_are_told_by_program() {
        let mut targets = vec![target(1, "first")];
        targets.extend((10..60).map(|pid| target(pid, "worker")));
        targets.extend((2..9).map(|pid| target(pid, &format!("other{pid}"))));
        targets.extend((70..72).map(|pid| target(pid, "pair")));
        let lines = lines(&targets, 80);
        assert_eq!(lines.len(), MOST_LINES + 1);
        assert_eq!(lines[0], "  50 x worker (10, 11, 12, 13, 14, 15, ...)  /usr/bin/worker");
        assert_eq!(lines[1], "  2 x pair (70, 71)  /usr/bin/pair");
        assert_eq!(lines[8], "  and 2 more, of 2 more programs");
    }
}
