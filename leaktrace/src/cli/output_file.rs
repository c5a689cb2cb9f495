//! A file that reports are written to: whoever reads it meanwhile sees a whole report, the last one or
//! the one before.

use std::ffi::OsString;
use std::fs::{self, File, Metadata};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{MetadataExt, fchown};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::exit::UsageError;
use crate::model::Report;
use crate::report::{self, Format, Style};

/// A file that a report will be written to. It was writable before tracing began.
pub struct OutputFile {
    /// Where it is.
    pub path: PathBuf,
    /// How it is written.
    pub format: Format,
    /// It was made by the check and holds nothing yet.
    empty: bool,
    /// The last report written is whole.
    pub written: bool,
}

impl OutputFile {
    /// Checks that it can be written.
    ///
    /// # Errors
    ///
    /// [`UsageError`] when it cannot, or its name says no format.
    pub fn check(path: &Path) -> Result<Self> {
        let shown = path.display();
        let format = Format::from_file_name(&path.to_string_lossy()).map_err(UsageError)?;
        let existed = path.exists();
        File::options().append(true).create(true).open(path).map_err(|error| {
            UsageError(format!("cannot write to {shown}: {error}; nothing was traced"))
        })?;
        Ok(Self { path: path.to_path_buf(), format, empty: !existed, written: false })
    }

    /// Writes a report in the place of what is there.
    ///
    /// # Errors
    ///
    /// When it cannot be written. The report before is whole then, where it lay in a plain file.
    pub fn write(&mut self, report: &Report, style: Style) -> Result<()> {
        self.written = false;
        let format = self.format;
        replace(&self.path, &mut |out| report::write(report, format, style, out))
            .with_context(|| format!("cannot write to {}", self.path.display()))?;
        self.empty = false;
        self.written = true;
        Ok(())
    }
}

impl Drop for OutputFile {
    fn drop(&mut self) {
        if self.empty {
            // Nothing came of it; an empty file would look like a report.
            let _ = fs::remove_file(&self.path);
        }
    }
}

type Contents<'a> = &'a mut dyn FnMut(&mut dyn Write) -> io::Result<()>;

/// Writes a file beside the one to be, and moves it to its place. What is no plain file (a pipe, a
/// device, a link) is written where it is, and so is one that no other can take the place of: in a
/// directory that cannot be written, say, or mounted by itself into a container.
fn replace(path: &Path, contents: Contents<'_>) -> io::Result<()> {
    let before = match fs::symlink_metadata(path) {
        Ok(before) if before.is_file() => Some(before),
        Ok(_) => return write_in_place(path, contents),
        Err(_) => None,
    };
    let Ok(fresh) = Fresh::beside(path, before.as_ref()) else {
        return write_in_place(path, contents);
    };
    write_all(&fresh.file, contents)?;
    match fresh.take_place_of(path) {
        Ok(()) => Ok(()),
        Err(_) => write_in_place(path, contents),
    }
}

fn write_in_place(path: &Path, contents: Contents<'_>) -> io::Result<()> {
    write_all(&File::create(path)?, contents)
}

fn write_all(file: &File, contents: Contents<'_>) -> io::Result<()> {
    let mut writer = BufWriter::new(file);
    contents(&mut writer)?;
    writer.flush()
}

/// A file that is gone when it is dropped, unless it has found its place.
struct Fresh {
    path: PathBuf,
    file: File,
}

impl Fresh {
    /// In the same directory, with the owner and the mode of the file that it will replace.
    fn beside(path: &Path, before: Option<&Metadata>) -> io::Result<Self> {
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        let mut fresh_name = OsString::from(".");
        fresh_name.push(name);
        fresh_name.push(format!(".{}", std::process::id()));
        let path = path.with_file_name(fresh_name);
        // Nobody else's: not one that is there already, nor what a link there points to.
        let file = File::options().write(true).create_new(true).open(&path)?;
        let fresh = Self { path, file };
        if let Some(before) = before {
            let now = fresh.file.metadata()?;
            if (now.uid(), now.gid()) != (before.uid(), before.gid()) {
                fchown(&fresh.file, Some(before.uid()), Some(before.gid()))?;
            }
            fresh.file.set_permissions(before.permissions())?;
        }
        Ok(fresh)
    }

    fn take_place_of(mut self, path: &Path) -> io::Result<()> {
        fs::rename(&self.path, path)?;
        self.path.clear();
        Ok(())
    }
}

impl Drop for Fresh {
    fn drop(&mut self) {
        if !self.path.as_os_str().is_empty() {
            // Where it cannot be removed, there is nothing more to be done.
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests;
