//! One line a stack: its frames from the root, joined by `;`, then its outstanding bytes.

use std::io::{self, Write};

use super::names;
use crate::model::{Ending, Report, StackReport};

pub(super) fn write(report: &Report, out: &mut dyn Write) -> io::Result<()> {
    for (stack, bytes) in lines(report) {
        writeln!(out, "{stack} {bytes}")?;
    }
    Ok(())
}

/// The stacks that hold something: joined frames and outstanding bytes.
pub(super) fn lines(report: &Report) -> impl Iterator<Item = (String, u64)> {
    report
        .stacks
        .iter()
        .filter(|stack| stack.outstanding_bytes > 0)
        .map(|stack| (joined(report, stack), stack.outstanding_bytes))
}

fn joined(report: &Report, stack: &StackReport) -> String {
    let mut frames = Vec::with_capacity(stack.frames.len() + 2);
    if report.targets.len() > 1 {
        let target = report.targets.iter().find(|target| Some(target.pid) == stack.pid);
        frames
            .push(target.map_or("[unknown process]".to_owned(), |t| one_field(&names::target(t))));
    }
    match stack.ending {
        Ending::Complete => {}
        Ending::Depth => frames.push("[truncated]".to_owned()),
        Ending::Lost | Ending::Unmapped => frames.push("[callers lost]".to_owned()),
    }
    if stack.frames.is_empty() {
        frames.push("[unknown stack]".to_owned());
    }
    frames.extend(stack.frames.iter().rev().map(|frame| one_field(&names::frame_name(frame))));
    frames.join(";")
}

/// A name that cannot be mistaken for two frames, for a comment or for a count.
fn one_field(name: &str) -> String {
    let name = name.trim().replace(';', ":").replace(['\n', '\r'], " ");
    let name = match name.strip_prefix('#') {
        Some(rest) => format!("_{rest}"),
        None => name,
    };
    // Readers take a number at the end of a stack for a second column.
    match name.rsplit_once(' ') {
        Some((rest, last)) if last.chars().all(|c| c.is_ascii_digit() || c == '.') => {
            format!("{rest}_{last}")
        }
        _ => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_one_field() {
        assert_eq!(one_field("f(std::array<[u8; 8]>)"), "f(std::array<[u8: 8]>)");
        assert_eq!(one_field(" f 12"), "f_12");
        assert_eq!(one_field("# f"), "_ f");
        assert_eq!(one_field("a\nb"), "a b");
    }
}
