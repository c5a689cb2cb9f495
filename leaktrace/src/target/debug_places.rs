//! Where a file's separate debug file may be: by build id, or by the name in `.gnu_debuglink` (GDB's
//! manual, "Debugging Information in Separate Files"). A target can put any file at these places, so
//! one counts only if its build id, or without one its CRC, is the file's.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Where distributions put debug files.
pub const DEBUG_DIR: &str = "/usr/lib/debug";

/// A place to look at.
#[derive(Debug, PartialEq, Eq)]
pub struct Place {
    /// The path, as this process can open it.
    pub path: PathBuf,
    /// Whether only root of leaktrace's own system can write there.
    pub trusted: bool,
}

/// The places for the debug file of a file: the one at `path` as the target sees it, whose root
/// directory is `root`.
pub fn of(build_id: Option<&[u8]>, link: Option<&str>, path: &str, root: &Path) -> Vec<Place> {
    candidates(build_id, link, path, below(root, path), root)
}

/// A path as the target itself would write it: of a process behind `chroot` the kernel says whole
/// paths.
fn below<'p>(root: &Path, path: &'p str) -> &'p str {
    let root = fs::read_link(root).unwrap_or_default();
    let rest = root.to_str().and_then(|root| path.strip_prefix(root));
    rest.filter(|rest| rest.starts_with('/')).unwrap_or(path)
}

/// The places for a file at `path`, which is `path_in_root` below the target's root directory.
fn candidates(
    build_id: Option<&[u8]>,
    link: Option<&str>,
    path: &str,
    path_in_root: &str,
    root: &Path,
) -> Vec<Place> {
    let own = Path::new("/");
    let mut found = Vec::new();
    let mut add = |root: &Path, relative: &Path, trusted: bool| {
        found.push(Place { path: root.join(relative), trusted });
    };
    let debug_dir = Path::new(DEBUG_DIR.trim_start_matches('/'));
    if let Some((first, rest)) = build_id.and_then(<[u8]>::split_first)
        && !rest.is_empty()
    {
        let name = format!(".build-id/{}/{}.debug", hex(&[*first]), hex(rest));
        add(own, &debug_dir.join(&name), true);
        add(root, &debug_dir.join(&name), false);
    }
    if let Some(link) = link
        && is_file_name(link)
        && let Some(dir) = directory(path)
        && let Some(dir_in_root) = directory(path_in_root)
    {
        add(own, &debug_dir.join(dir).join(link), true);
        for (root, dir) in [(root, dir_in_root), (own, dir)] {
            add(root, &dir.join(link), false);
            add(root, &dir.join(".debug").join(link), false);
        }
        add(root, &debug_dir.join(dir_in_root).join(link), false);
    }
    found
}

fn is_file_name(name: &str) -> bool {
    !matches!(name, "" | "." | "..") && !name.contains(['/', '\0'])
}

/// The directory of a mapped file, relative to the root.
fn directory(path: &str) -> Option<&Path> {
    let path = path.strip_suffix(" (deleted)").unwrap_or(path);
    let dir = Path::new(path.strip_prefix('/')?).parent()?;
    let plain = dir.components().all(|c| matches!(c, std::path::Component::Normal(_)));
    (plain && !path.contains('\0')).then_some(dir)
}

/// Bytes in hex.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The CRC-32 (polynomial 0x04c11db7, reflected) of a file's content.
///
/// # Errors
///
/// Those of reading.
pub fn crc32(file: &File) -> io::Result<u32> {
    let mut crc = u32::MAX;
    let mut block = vec![0; 1 << 16];
    let mut at = 0;
    loop {
        // Not `read`: where the file's cursor is, nobody knows by now.
        let length = file.read_at(&mut block, at)?;
        if length == 0 {
            return Ok(!crc);
        }
        at += length as u64;
        for &byte in block.iter().take(length) {
            let index = (crc as u8 ^ byte) as usize;
            crc = crc >> 8 ^ CRC_TABLE.get(index).copied().unwrap_or(0);
        }
    }
}

const CRC_TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut rest: &mut [u32] = &mut table;
    let mut index = 0;
    while let Some((entry, tail)) = rest.split_first_mut() {
        let mut crc: u32 = index;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
            bit += 1;
        }
        *entry = crc;
        rest = tail;
        index += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc_of_the_standard_check_string() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("f"), "123456789").unwrap();
        assert_eq!(crc32(&File::open(dir.path().join("f")).unwrap()).unwrap(), 0xcbf4_3926);
    }

    #[test]
    fn a_path_in_a_chroot() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        let check = |target: &str, path: &str, expected: &str| {
            let _none_yet = fs::remove_file(&root);
            std::os::unix::fs::symlink(target, &root).unwrap();
            assert_eq!(below(&root, path), expected);
        };
        check("/", "/opt/a/x", "/opt/a/x");
        check("/opt", "/opt/a/x", "/a/x");
        check("/op", "/opt/a/x", "/opt/a/x");
        check("/srv", "/opt/a/x", "/opt/a/x");
    }

    #[test]
    fn places_to_look_at() {
        let check = |id: Option<&[u8]>, link: &str, path: &str, expected: &[&str]| {
            let found = candidates(id, Some(link), path, path, Path::new("/r"));
            let found: Vec<&str> = found.iter().map(|c| c.path.to_str().unwrap()).collect();
            assert_eq!(found, expected);
        };
        check(
            Some(&[0xab, 0xcd, 0x01]),
            "",
            "/bin/x",
            &["/usr/lib/debug/.build-id/ab/cd01.debug", "/r/usr/lib/debug/.build-id/ab/cd01.debug"],
        );
        check(
            None,
            "x.debug",
            "/opt/a/x (deleted)",
            &[
                "/usr/lib/debug/opt/a/x.debug",
                "/r/opt/a/x.debug",
                "/r/opt/a/.debug/x.debug",
                "/opt/a/x.debug",
                "/opt/a/.debug/x.debug",
                "/r/usr/lib/debug/opt/a/x.debug",
            ],
        );
        for (link, path) in
            [("../x", "/a/x"), ("/dev/x", "/a/x"), ("..", "/a/x"), ("x", "a/x"), ("x", "/a/../b/x")]
        {
            check(None, link, path, &[]);
        }
    }
}
