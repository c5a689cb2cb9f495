//! A perf map's file: whose it has to be, how much of it is read, and what is new in it.
//!
//! A runtime appends to it for as long as it lives, so only that is read again; and all of it if the
//! file is another or was written anew.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use super::perf_map::{MOST_LINES, PerfMap};
use crate::target::regular_file::{self, Links};

/// No more than this is read of a file.
const MOST_BYTES: u64 = 64 << 20;
/// So many of the last bytes that were read have to be there still, or else the file is read anew.
const COMPARED_BYTES: usize = 4096;

/// A perf map as it was when it was last read.
#[derive(Debug, Default)]
pub(super) struct PerfMapFile {
    /// What is in it.
    pub(super) map: PerfMap,
    version: Option<Version>,
    /// The bytes and lines of it that were read: whole lines only.
    bytes: u64,
    lines: usize,
    /// The last of those bytes.
    end: Vec<u8>,
}

#[derive(Debug, PartialEq, Eq)]
struct Version {
    file: (u64, u64),
    size: u64,
    modified: (i64, i64),
}

impl Version {
    fn of(found: &Metadata) -> Self {
        Self {
            file: (found.dev(), found.ino()),
            size: found.len(),
            modified: (found.mtime(), found.mtime_nsec()),
        }
    }
}

impl PerfMapFile {
    /// Whether it was ever read.
    pub(super) fn is_known(&self) -> bool {
        self.version.is_some()
    }

    /// What has to be said of it: that it is not read in full.
    pub(super) fn note(&self) -> Option<String> {
        let size = self.version.as_ref().map_or(0, |version| version.size);
        (size > MOST_BYTES || self.lines >= MOST_LINES)
            .then(|| format!("only its first {} MiB are read", self.bytes.div_ceil(1 << 20)))
    }

    /// Reads what is new in the file.
    ///
    /// # Errors
    ///
    /// Those of opening and reading it; then what was known stays. `PermissionDenied` if its owner
    /// is neither `uid` nor root.
    pub(super) fn update(&mut self, path: &Path, uid: u32) -> io::Result<()> {
        let file = regular_file::open(path, Links::Refuse)?;
        let found = file.metadata()?;
        if found.uid() != uid && found.uid() != 0 {
            let why = format!("it belongs to uid {}, not to the target's {uid}", found.uid());
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
        }
        let version = Version::of(&found);
        if self.version.as_ref() == Some(&version) {
            return Ok(());
        }
        if !self.goes_on(&file, &version)? {
            *self = Self::default();
        }
        let text = read_at_most(&file, self.bytes, version.size.min(MOST_BYTES))?;
        let (lines, bytes) = self.map.add(&text, MOST_LINES.saturating_sub(self.lines));
        self.lines += lines;
        self.bytes += bytes as u64;
        self.end.extend_from_slice(text.get(..bytes).unwrap_or_default());
        self.end.drain(..self.end.len().saturating_sub(COMPARED_BYTES));
        self.version = Some(version);
        Ok(())
    }

    /// Whether the file has all that was read of it, and perhaps more.
    fn goes_on(&self, file: &File, version: &Version) -> io::Result<bool> {
        if self.version.as_ref().is_none_or(|known| known.file != version.file) {
            return Ok(false);
        }
        let from = self.bytes.saturating_sub(self.end.len() as u64);
        Ok(read_at_most(file, from, self.bytes)? == self.end)
    }
}

/// The bytes of a file from one offset to another, or to its end.
fn read_at_most(file: &File, from: u64, to: u64) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; to.saturating_sub(from) as usize];
    let mut length = 0;
    while let Some(rest) = bytes.get_mut(length..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, from + length as u64) {
            Ok(0) => break,
            Ok(more) => length += more,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    bytes.truncate(length);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;

    use super::*;

    #[test]
    fn a_perf_map_of_another_user_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("perf-1.map");
        fs::write(&path, "10 10 a\n").unwrap();
        let owner = fs::metadata(&path).unwrap().uid();
        let mut known = PerfMapFile::default();
        known.update(&path, owner).unwrap();
        assert_eq!(known.map.name_at(0x10), Some("a"));
        if std::os::unix::fs::chown(&path, Some(12_345), None).is_ok() {
            let refused = known.update(&path, 54_321).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
            assert_eq!(known.map.name_at(0x10), Some("a"), "what was known stays");
        } else {
            assert_ne!(owner, 0, "root may give files away");
        }
    }

    #[test]
    fn only_what_is_new_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("perf-1.map");
        let owner = fs::metadata(dir.path()).unwrap().uid();
        let mut known = PerfMapFile::default();
        let mut check = |lines: usize, bytes: u64, names: &[(u64, Option<&str>)]| {
            known.update(&path, owner).unwrap();
            assert_eq!((known.lines, known.bytes), (lines, bytes));
            for &(address, name) in names {
                assert_eq!(known.map.name_at(address), name, "{address:#x}");
            }
        };
        let append = |text: &str| {
            let mut file = File::options().append(true).open(&path).unwrap();
            file.write_all(text.as_bytes()).unwrap();
        };
        fs::write(&path, "10 10 a\n20 10 unfin").unwrap();
        check(1, 8, &[(0x10, Some("a")), (0x20, None)]);
        append("ished\n10 10 fresh\n");
        check(3, 37, &[(0x10, Some("fresh")), (0x20, Some("unfinished"))]);
        check(3, 37, &[]);
        // Written anew in the same file, as `jcmd Compiler.perfmap` does, and longer.
        fs::write(&path, "30 10 other\n40 10 and_yet_another_function\n").unwrap();
        check(2, 43, &[(0x10, None), (0x30, Some("other"))]);
        fs::write(&path, "50 10 b\n").unwrap();
        check(1, 8, &[(0x30, None), (0x50, Some("b"))]);
        // Another file in its place.
        let other = dir.path().join("other");
        fs::write(&other, "50 10 b\n60 10 c\n").unwrap();
        fs::rename(&other, &path).unwrap();
        check(2, 16, &[(0x50, Some("b")), (0x60, Some("c"))]);
        assert_eq!(known.note(), None);
    }

    #[test]
    fn a_large_perf_map_is_read_in_part() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("perf-1.map");
        fs::write(&path, "10 10 a\n").unwrap();
        File::options().write(true).open(&path).unwrap().set_len(MOST_BYTES + 1).unwrap();
        let mut known = PerfMapFile::default();
        known.update(&path, fs::metadata(&path).unwrap().uid()).unwrap();
        assert_eq!((known.map.name_at(0x10), known.bytes), (Some("a"), 8));
        assert!(known.note().unwrap().contains("only its first"));
    }
}
