//! How a report is written: one file per format, and what they share about names and units.
//!
//! Nothing here reads a clock, `/proc` or a symbol, and no reporter does I/O but its writer.

mod flamegraph;
mod folded;
mod health;
mod json;
mod names;
pub mod plan;
pub mod progress;
pub mod screen;
mod text;
pub mod trust;
pub mod units;

#[cfg(test)]
pub(crate) mod fixture;
#[cfg(test)]
mod tests;

use std::io::{self, Write};

use crate::model::Report;

pub use names::wrap_lines as wrap;

/// A format that a report can be written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// The schema `leaktrace.report/1`, for programs.
    Json,
    /// For people, in a terminal.
    Text,
    /// One line a stack, for flame graph tools.
    Folded,
    /// A flame graph as SVG.
    Flamegraph,
}

impl Format {
    /// The format that a file's name asks for.
    ///
    /// # Errors
    ///
    /// A message for the user when the ending is none that works.
    pub fn from_file_name(name: &str) -> Result<Self, String> {
        const WORKING: &[(&str, Format)] = &[
            (".json", Format::Json),
            (".txt", Format::Text),
            (".folded", Format::Folded),
            (".svg", Format::Flamegraph),
        ];
        const LATER: &[(&str, &str)] = &[
            (".pb.gz", "a pprof profile"),
            (".html", "an HTML report"),
            (".md", "a Markdown report"),
            (".lt", "a recording"),
        ];
        if let Some((_, format)) = WORKING.iter().find(|(ending, _)| name.ends_with(ending)) {
            return Ok(*format);
        }
        let why = match LATER.iter().find(|(ending, _)| name.ends_with(ending)) {
            Some((_, what)) => format!("leaktrace cannot write {what} yet"),
            None => "its ending names no format".to_owned(),
        };
        Err(format!(
            "cannot write `{}`: {why}; end the name in .json, .txt, .folded or .svg (flame graph)",
            crate::model::printable(name)
        ))
    }

    /// The format for standard output: `text`, `json` or `folded`.
    ///
    /// # Errors
    ///
    /// A message for the user when it is none of these.
    pub fn from_name(name: &str) -> Result<Self, String> {
        match name {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            "folded" => Ok(Self::Folded),
            _ => Err(format!(
                "`{}` is not a format: give text, json or folded (a flame graph goes to a file: \
                 `--output FILE.svg`)",
                crate::model::printable(name)
            )),
        }
    }
}

/// How text looks. The other formats take nothing from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Style {
    /// Whether to use colours.
    pub color: bool,
    /// Columns; fewer than 40 count as 40.
    pub width: usize,
    /// The most stacks shown.
    pub top: usize,
    /// What the stacks are ranked by, for the header: `growth`, `bytes` or `blocks`.
    pub ranked_by: &'static str,
    /// The most frames shown of a stack; that of the culprit always is.
    pub frames: usize,
}

impl Default for Style {
    fn default() -> Self {
        Self { color: false, width: 80, top: 10, ranked_by: "growth", frames: usize::MAX }
    }
}

/// Writes a report.
///
/// # Errors
///
/// Those of `out`.
pub fn write(report: &Report, format: Format, style: Style, out: &mut dyn Write) -> io::Result<()> {
    match format {
        Format::Json => json::write(report, out),
        Format::Text => text::write(report, style, out),
        Format::Folded => folded::write(report, out),
        Format::Flamegraph => flamegraph::write(report, out),
    }
}
