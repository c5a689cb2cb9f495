//! A file that the target maps, held open so that it can be read after the target is gone.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::path::PathBuf;

use super::maps::{FileId, Mapping};
use crate::model::{Pid, printable};

/// A file that the target maps.
#[derive(Debug)]
pub struct ObjectFile {
    /// Device and inode.
    pub id: FileId,
    /// The path as the target sees it, printable; ` (deleted)` at its end if it is.
    pub path: String,
    /// The same as the kernel wrote it, to look up relative to [`ObjectFile::root`].
    pub raw_path: String,
    /// `/proc/PID/root` of the target it was found in: its mount namespace's root, while it lives.
    pub root: PathBuf,
    file: File,
}

impl ObjectFile {
    /// Opens the file behind a mapping of `pid`: through `map_files`, which finds deleted files and
    /// other mount namespaces, or else by its path under `/proc/PID/root`, if that still is the
    /// same file. `None` if there is no file or it is no regular one.
    ///
    /// # Errors
    ///
    /// When neither can be opened; what the kernel says to the second.
    pub fn open(pid: Pid, mapping: &Mapping) -> io::Result<Option<Self>> {
        let Some(id) = mapping.file else { return Ok(None) };
        let root = PathBuf::from(format!("/proc/{pid}/root"));
        let by_range = format!("/proc/{pid}/map_files/{:x}-{:x}", mapping.start.0, mapping.end.0);
        // Looked at first: a device need not let itself be opened.
        if fs::metadata(&by_range).is_ok_and(|metadata| !metadata.is_file()) {
            return Ok(None);
        }
        let file = File::open(by_range).or_else(|_| {
            let path = root.join(mapping.path.trim_start_matches('/'));
            let file = open_regular(&path)?;
            // A file system may report another device through stat than in maps; the inode holds.
            let inode = std::os::unix::fs::MetadataExt::ino(&file.metadata()?);
            (inode == id.inode)
                .then_some(file)
                .ok_or(io::ErrorKind::NotFound)
                .map_err(io::Error::from)
        })?;
        if !file.metadata()?.is_file() {
            return Ok(None);
        }
        Ok(Some(Self {
            id,
            path: printable(&mapping.path),
            raw_path: mapping.path.clone(),
            root,
            file,
        }))
    }

    /// The open file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// A path by which this process, and the kernel on its behalf, can open the file whatever
    /// became of its name.
    pub fn proc_path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd()))
    }

    /// Its size in bytes.
    pub fn size(&self) -> u64 {
        self.file.metadata().map_or(0, |m| m.len())
    }

    /// The last component of its path.
    pub fn name(&self) -> &str {
        let path = self.path.trim_end_matches(" (deleted)");
        path.rsplit('/').next().unwrap_or(path)
    }
}

/// Opens a regular file; never blocks on a FIFO or a device that a target put in its place.
fn open_regular(path: &std::path::Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    File::options().read(true).custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC).open(path)
}
