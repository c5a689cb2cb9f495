//! Opens a file at a place the target may control, without doing more than that.
//!
//! A target can put a FIFO, a device or a symbolic link where a debug file or a perf map is looked
//! for, and merely opening a device can have effects. So the file is first taken hold of with
//! `O_PATH`, which opens nothing, and opened for real only once it is known to be a regular file.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Files larger than this are not read.
pub const LARGEST_FILE: u64 = 4 << 30;

/// Whether a symbolic link as the last component of a path is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Links {
    /// It is.
    Follow,
    /// It counts as "no regular file".
    Refuse,
}

/// Opens a regular file of at most [`LARGEST_FILE`] bytes for reading.
///
/// # Errors
///
/// As `open(2)`; `InvalidInput` for what is no regular file, `FileTooLarge` for what is too large.
pub fn open(path: &Path, links: Links) -> io::Result<File> {
    let follow = match links {
        Links::Follow => 0,
        Links::Refuse => libc::O_NOFOLLOW,
    };
    let flags = libc::O_PATH | libc::O_CLOEXEC | follow;
    let held = File::options().read(true).custom_flags(flags).open(path)?;
    let found = held.metadata()?;
    if !found.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
    }
    if found.len() > LARGEST_FILE {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is larger than 4 GiB"));
    }
    File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC | libc::O_NOCTTY)
        .open(own_path(&held))
}

/// A path by which this process can open an open file again.
pub fn own_path(file: &File) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_regular_files_are_opened() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "x").unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&file, &link).unwrap();
        let fifo = dir.path().join("fifo");
        assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
        let huge = dir.path().join("huge");
        File::create(&huge).unwrap().set_len(LARGEST_FILE + 1).unwrap();

        let check = |path: &Path, links, expected: Option<io::ErrorKind>| {
            assert_eq!(open(path, links).err().map(|e| e.kind()), expected, "{}", path.display());
        };
        check(&file, Links::Refuse, None);
        check(&link, Links::Follow, None);
        check(&link, Links::Refuse, Some(io::ErrorKind::InvalidInput));
        check(&fifo, Links::Follow, Some(io::ErrorKind::InvalidInput));
        check(Path::new("/dev/null"), Links::Follow, Some(io::ErrorKind::InvalidInput));
        check(dir.path(), Links::Follow, Some(io::ErrorKind::InvalidInput));
        check(&huge, Links::Follow, Some(io::ErrorKind::FileTooLarge));
        check(&dir.path().join("none"), Links::Follow, Some(io::ErrorKind::NotFound));
    }
}
