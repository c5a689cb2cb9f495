//! Where reports go: files and standard output.

use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::args::{Color, StdoutFormat, TraceArgs};
use super::exit::UsageError;
use crate::model::Report;
use crate::report::{self, Format, Style};

/// A file that a report will be written to. It was writable before tracing began.
struct OutputFile {
    path: PathBuf,
    format: Format,
    /// It was made by the check and holds nothing yet.
    empty: bool,
}

impl OutputFile {
    fn check(path: &Path) -> Result<Self> {
        let shown = path.display();
        let format = Format::from_file_name(&path.to_string_lossy()).map_err(UsageError)?;
        let existed = path.exists();
        File::options().append(true).create(true).open(path).map_err(|error| {
            UsageError(format!("cannot write to {shown}: {error}; nothing was traced"))
        })?;
        Ok(Self { path: path.to_path_buf(), format, empty: !existed })
    }

    fn write(&mut self, report: &Report, style: Style) -> Result<()> {
        let shown = self.path.display();
        let file = File::create(&self.path).with_context(|| format!("cannot write to {shown}"))?;
        let mut writer = BufWriter::new(file);
        report::write(report, self.format, style, &mut writer)
            .and_then(|()| writer.flush())
            .with_context(|| format!("cannot write to {shown}"))?;
        self.empty = false;
        Ok(())
    }
}

impl Drop for OutputFile {
    fn drop(&mut self) {
        if self.empty {
            // Nothing came of it; an empty file would look like a report.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

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

    /// Whether nothing but the report is to be said.
    pub fn is_quiet(&self) -> bool {
        self.quiet
    }

    fn style(&self, color: bool, live: bool) -> Style {
        let top = self.top.unwrap_or(DEFAULT_TOP);
        Style { color, top, live, ranked_by: self.ranked_by, ..Style::default() }
    }

    /// Shows how things stand, in the place of what was shown before.
    ///
    /// # Errors
    ///
    /// When standard output cannot be written.
    pub fn refresh(&mut self, report: &Report) -> Result<()> {
        self.clear_progress();
        let mut stdout = BufWriter::new(io::stdout().lock());
        if self.redraw {
            // Home, and clear what lies below.
            stdout.write_all(b"\x1b[H\x1b[J")?;
        }
        report::write(report, Format::Text, self.style(self.color, true), &mut stdout)?;
        if !self.redraw {
            writeln!(stdout)?;
        }
        stdout.flush()?;
        Ok(())
    }

    /// Writes a report to every file.
    ///
    /// # Errors
    ///
    /// The first that cannot be written; the others are.
    pub fn write_files(&mut self, report: &Report) -> Result<()> {
        let style = self.style(false, false);
        let mut result = Ok(());
        for file in &mut self.files {
            let written = file.write(report, style);
            if result.is_ok() {
                result = written;
            }
        }
        result
    }

    /// Writes the last report: to standard output and to every file.
    ///
    /// # Errors
    ///
    /// When one cannot be written; the others are.
    pub fn finish(&mut self, report: &Report) -> Result<()> {
        self.clear_progress();
        let files = self.write_files(report);
        let mut stdout = BufWriter::new(io::stdout().lock());
        if self.redraw && self.live {
            stdout.write_all(b"\x1b[H\x1b[J")?;
        }
        report::write(report, self.stdout, self.style(self.color, false), &mut stdout)?;
        stdout.flush()?;
        drop(stdout);
        files?;
        if !self.quiet {
            for file in &self.files {
                eprintln!("leaktrace: wrote {}", file.path.display());
            }
        }
        Ok(())
    }

    /// Shows the progress line on standard error, if that is a terminal.
    pub fn progress(&mut self, line: &str) {
        if !self.quiet && io::stderr().is_terminal() {
            eprint!("\r\x1b[K{line}");
            self.progress_shown = true;
        }
    }

    fn clear_progress(&mut self) {
        if self.progress_shown {
            eprint!("\r\x1b[K");
            self.progress_shown = false;
        }
    }
}

/// Stacks in the text.
const DEFAULT_TOP: usize = 10;
/// Stacks in the other formats. Beyond that a report helps nobody, and naming takes its time.
const MOST_STACKS: usize = 20_000;
