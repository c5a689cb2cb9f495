//! Where reports go: files and standard output.

use std::io::{self, BufWriter, IsTerminal, Write};

use anyhow::Result;

use super::args::{Color, StdoutFormat, TraceArgs};
use super::exit::UsageError;
use super::output_file::OutputFile;
use super::say::{say, say_raw};
use crate::model::Report;
use crate::report::{self, Format, Style, screen};

/// All places that reports go to.
pub struct Outputs {
    files: Vec<OutputFile>,
    stdout: Format,
    live: bool,
    redraw: bool,
    color: bool,
    top: Option<usize>,
    ranked_by: &'static str,
    quiet: bool,
    keep_going: bool,
    stdout_gone: bool,
    progress_shown: bool,
}

impl Outputs {
    /// Checks the sizes asked for, and that every file can be written.
    ///
    /// # Errors
    ///
    /// [`UsageError`] for one that cannot, or whose name says no format.
    pub fn check(args: &TraceArgs) -> Result<Self> {
        if let (Some(least), Some(most)) = (args.min_size, args.max_size)
            && least > most
        {
            let text =
                format!("--min-size {least} is more than --max-size {most}: nothing is both");
            return Err(UsageError(text).into());
        }
        let files = args.output.iter().map(|p| OutputFile::check(p)).collect::<Result<Vec<_>>>()?;
        let terminal = io::stdout().is_terminal();
        let color = match args.color {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => terminal && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty()),
        };
        let stdout = match args.format {
            StdoutFormat::Text => Format::Text,
            StdoutFormat::Json => Format::Json,
            StdoutFormat::Folded => Format::Folded,
        };
        Ok(Self {
            files,
            stdout,
            live: args.format == StdoutFormat::Text && !args.quiet,
            redraw: terminal,
            color,
            top: args.top,
            ranked_by: args.sort.name(),
            quiet: args.quiet,
            keep_going: false,
            stdout_gone: false,
            progress_shown: false,
        })
    }

    /// How many stacks of the report any output shows while tracing.
    pub fn live_stacks(&self) -> usize {
        self.top.unwrap_or(DEFAULT_TOP)
    }

    /// How many stacks of the last report any output shows.
    pub fn final_stacks(&self) -> usize {
        let all =
            self.stdout != Format::Text || self.files.iter().any(|f| f.format != Format::Text);
        match self.top {
            Some(top) => top,
            None if all => MOST_STACKS,
            None => DEFAULT_TOP,
        }
    }

    /// Whether the view is shown while tracing.
    pub fn is_live(&self) -> bool {
        self.live
    }

    /// Leaves a terminal to the traced program, which writes to it too. Elsewhere the view stays.
    pub fn without_live_view_on_terminal(&mut self) {
        if self.redraw {
            self.live = false;
        }
    }

    /// A reader of standard output that goes away does not end the trace.
    pub fn keep_going(&mut self) {
        self.keep_going = true;
    }

    /// Whether nothing but the report is to be said.
    pub fn is_quiet(&self) -> bool {
        self.quiet
    }

    fn style(&self, color: bool) -> Style {
        let top = self.top.unwrap_or(DEFAULT_TOP);
        Style { color, top, ranked_by: self.ranked_by, ..Style::default() }
    }

    /// Shows how things stand, in the place of what was shown before. A reader of standard output
    /// that is gone is no error while there is something else to go on for.
    ///
    /// # Errors
    ///
    /// When standard output cannot be written.
    pub fn refresh(&mut self, report: &Report) -> Result<()> {
        self.refresh_on(report, &mut io::stdout().lock())
    }

    fn refresh_on(&mut self, report: &Report, stdout: &mut dyn Write) -> Result<()> {
        self.clear_progress();
        if self.stdout_gone {
            return Ok(());
        }
        let drawn = self.draw(report, stdout);
        self.unless_gone(drawn)
    }

    fn draw(&self, report: &Report, stdout: &mut dyn Write) -> io::Result<()> {
        let mut stdout = BufWriter::new(stdout);
        let style = self.style(self.color);
        if self.redraw {
            let (width, rows) = terminal_size();
            stdout.write_all(CLEAR)?;
            stdout.write_all(screen::fit(report, Style { width, ..style }, rows).as_bytes())?;
        } else {
            let style = Style { frames: screen::MOST_FRAMES, ..style };
            report::write(report, Format::Text, style, &mut stdout)?;
            writeln!(stdout)?;
        }
        stdout.flush()
    }

    /// Takes note of a reader that is gone, which may be no error.
    fn unless_gone(&mut self, written: io::Result<()>) -> Result<()> {
        match written {
            Err(error)
                if error.kind() == io::ErrorKind::BrokenPipe
                    && (self.keep_going || !self.files.is_empty()) =>
            {
                self.stdout_gone = true;
                self.live = false;
                Ok(())
            }
            written => Ok(written?),
        }
    }

    /// Writes a report to every file.
    ///
    /// # Errors
    ///
    /// The first that cannot be written; the others are.
    pub fn write_files(&mut self, report: &Report) -> Result<()> {
        let style = self.style(false);
        let mut result = Ok(());
        for file in &mut self.files {
            let written = file.write(report, style);
            if result.is_ok() {
                result = written;
            }
        }
        result
    }

    /// Writes the last report: to every file and to standard output. A reader of that that is gone
    /// is an error only as in [`Self::refresh`].
    ///
    /// # Errors
    ///
    /// When one cannot be written; the others are.
    pub fn finish(&mut self, report: &Report) -> Result<()> {
        self.finish_on(report, &mut io::stdout().lock())
    }

    fn finish_on(&mut self, report: &Report, stdout: &mut dyn Write) -> Result<()> {
        self.clear_progress();
        let files = self.write_files(report);
        let printed = match self.stdout_gone {
            true => Ok(()),
            false => self.print(report, stdout),
        };
        let printed = self.unless_gone(printed);
        if !self.quiet {
            for file in self.files.iter().filter(|file| file.written) {
                say(format_args!("leaktrace: wrote {}", file.path.display()));
            }
        }
        files.and(printed)
    }

    fn print(&self, report: &Report, stdout: &mut dyn Write) -> io::Result<()> {
        let mut stdout = BufWriter::new(stdout);
        if self.redraw && self.live {
            stdout.write_all(CLEAR)?;
        }
        report::write(report, self.stdout, self.style(self.color), &mut stdout)?;
        stdout.flush()
    }

    /// Shows the progress line on standard error, if that is a terminal.
    pub fn progress(&mut self, line: &str) {
        if !self.quiet && io::stderr().is_terminal() {
            say_raw(format_args!("\r\x1b[K{line}"));
            self.progress_shown = true;
        }
    }

    fn clear_progress(&mut self) {
        if self.progress_shown {
            say_raw(format_args!("\r\x1b[K"));
            self.progress_shown = false;
        }
    }
}

/// The columns and rows for a view: two rows are left for the cursor and the progress line.
fn terminal_size() -> (usize, usize) {
    let (columns, rows) = match terminal_size::terminal_size_of(io::stdout()) {
        Some((columns, rows)) => (usize::from(columns.0), usize::from(rows.0)),
        None => (80, 24),
    };
    (columns.clamp(40, 120), rows.saturating_sub(2).max(1))
}

/// Home, and clear what lies below.
const CLEAR: &[u8] = b"\x1b[H\x1b[J";
/// Stacks in the text.
const DEFAULT_TOP: usize = 10;
/// Stacks in the other formats. Beyond that a report helps nobody, and naming takes its time.
const MOST_STACKS: usize = 20_000;

#[cfg(test)]
mod tests {
    use std::path::Path;

    use clap::Parser;

    use super::*;
    use crate::cli::args::Arguments;
    use crate::report::fixture::server;

    /// A standard output that fails in one way, and counts.
    struct Failing {
        kind: io::ErrorKind,
        writes: usize,
    }

    impl Write for Failing {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            self.writes += 1;
            Err(self.kind.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn failing(kind: io::ErrorKind) -> Failing {
        Failing { kind, writes: 0 }
    }

    fn outputs(files: &[&Path]) -> Outputs {
        let mut line = vec!["leaktrace".as_ref(), "-p".as_ref(), "1".as_ref()];
        for file in files {
            line.extend(["-o".as_ref(), file.as_os_str()]);
        }
        Outputs::check(&Arguments::try_parse_from(line).unwrap().attach.trace).unwrap()
    }

    #[test]
    fn a_reader_that_goes_away_ends_only_what_has_no_files() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("leak.txt");
        let check = |files: &[&Path], keep_going, kind, goes_on: bool| {
            let mut outputs = outputs(files);
            if keep_going {
                outputs.keep_going();
            }
            let mut stdout = failing(kind);
            assert_eq!(outputs.refresh_on(&server(), &mut stdout).is_ok(), goes_on);
            assert_eq!(outputs.is_live(), !goes_on);
            let before = stdout.writes;
            assert_eq!(outputs.refresh_on(&server(), &mut stdout).is_ok(), goes_on);
            assert_eq!(outputs.finish_on(&server(), &mut stdout).is_ok(), goes_on);
            assert_eq!(stdout.writes == before, goes_on);
        };
        check(&[], false, io::ErrorKind::BrokenPipe, false);
        check(&[], true, io::ErrorKind::BrokenPipe, true);
        check(&[&file], false, io::ErrorKind::BrokenPipe, true);
        check(&[&file], true, io::ErrorKind::StorageFull, false);
    }

    #[test]
    fn a_broken_standard_output_costs_no_file() {
        for kind in [io::ErrorKind::BrokenPipe, io::ErrorKind::StorageFull] {
            let dir = tempfile::tempdir().unwrap();
            let files = ["a.txt", "b.json", "c.svg"].map(|name| dir.path().join(name));
            let mut outputs = outputs(&files.each_ref().map(|file| file.as_path()));
            let result = outputs.finish_on(&server(), &mut failing(kind));
            assert_eq!(result.is_ok(), kind == io::ErrorKind::BrokenPipe);
            drop(outputs);
            for file in &files {
                assert_ne!(std::fs::metadata(file).unwrap().len(), 0, "{file:?}");
            }
        }
    }

    #[test]
    fn a_file_that_failed_is_an_error_when_the_reader_is_gone_too() {
        let dir = tempfile::tempdir().unwrap();
        let files = ["gone/a.txt", "b.txt"].map(|name| dir.path().join(name));
        std::fs::create_dir(dir.path().join("gone")).unwrap();
        let mut outputs = outputs(&files.each_ref().map(|file| file.as_path()));
        std::fs::remove_dir_all(dir.path().join("gone")).unwrap();
        let result = outputs.finish_on(&server(), &mut failing(io::ErrorKind::BrokenPipe));
        assert!(result.unwrap_err().to_string().contains("gone/a.txt"));
        assert!(outputs.files.iter().map(|file| file.written).eq([false, true]));
    }

    #[test]
    fn the_live_view_of_run_does_not_clear_the_terminal_of_the_program() {
        for terminal in [true, false] {
            let mut outputs = Outputs { redraw: terminal, ..outputs(&[]) };
            outputs.without_live_view_on_terminal();
            assert_eq!(outputs.is_live(), !terminal);
            let mut stdout = Vec::new();
            outputs.finish_on(&server(), &mut stdout).unwrap();
            assert!(stdout.starts_with(b"leaktrace: "));
        }
    }
}
