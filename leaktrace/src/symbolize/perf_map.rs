//! Names of code that a runtime generated: `/tmp/perf-PID.map`, one `START SIZE NAME` a line, the
//! numbers in hexadecimal (Linux, `tools/perf/Documentation/jit-interface.txt`).
//!
//! The target writes the file as it likes, so it is read in the worker only, no more than
//! 64 MiB of it, and every line that does not parse is left out.

use std::collections::BTreeMap;
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::regular_file::{self, Links};

/// No more than this is read of a file.
const MOST_BYTES: u64 = 64 << 20;
/// No more lines than this are looked at.
const MOST_LINES: usize = 2_000_000;

/// Generated functions by address; they don't overlap.
#[derive(Debug, Default)]
pub struct PerfMap {
    by_start: BTreeMap<u64, Entry>,
    names: String,
}

#[derive(Clone, Debug)]
struct Entry {
    end: u64,
    name: Range<usize>,
}

impl PerfMap {
    /// The function that covers an address.
    pub fn name_at(&self, address: u64) -> Option<&str> {
        let (_, entry) = self.by_start.range(..=address).next_back()?;
        if address < entry.end { self.names.get(entry.name.clone()) } else { None }
    }

    /// How many ranges of addresses have a name.
    pub fn len(&self) -> usize {
        self.by_start.len()
    }

    /// Whether none has.
    pub fn is_empty(&self) -> bool {
        self.by_start.is_empty()
    }

    /// Later lines win: a runtime puts new code where old code was.
    fn insert(&mut self, start: u64, end: u64, name: &str) {
        let from = self.names.len();
        self.names.push_str(name);
        let before = self.by_start.range(..start).next_back();
        if let Some((&old_start, old)) = before.filter(|(_, old)| old.end > start) {
            let old = old.clone();
            self.by_start.insert(old_start, Entry { end: start, name: old.name.clone() });
            if old.end > end {
                self.by_start.insert(end, old);
            }
        }
        while let Some((&old_start, _)) = self.by_start.range(start..end).next() {
            if let Some(old) = self.by_start.remove(&old_start).filter(|old| old.end > end) {
                self.by_start.insert(end, old);
            }
        }
        self.by_start.insert(start, Entry { end, name: from..self.names.len() });
    }
}

/// The functions in the text of a perf map. What does not parse is left out, and so is a last line
/// without an end: the runtime is in the middle of writing it.
pub fn parse(text: &[u8]) -> PerfMap {
    let mut map = PerfMap::default();
    for line in text.split_inclusive(|&byte| byte == b'\n').take(MOST_LINES) {
        let Some(line) = line.strip_suffix(b"\n") else { continue };
        if let Some((start, end, name)) = parse_line(&String::from_utf8_lossy(line)) {
            map.insert(start, end, name);
        }
    }
    map
}

fn parse_line(line: &str) -> Option<(u64, u64, &str)> {
    let (start, rest) = line.split_once(' ')?;
    let (size, name) = rest.split_once(' ')?;
    let name = name.trim();
    let start = hex(start)?;
    let end = start.checked_add(hex(size)?)?;
    (end > start && !name.is_empty()).then_some((start, end, name))
}

fn hex(text: &str) -> Option<u64> {
    u64::from_str_radix(text.strip_prefix("0x").unwrap_or(text), 16).ok()
}

/// A perf map as it was when it was last read.
#[derive(Debug)]
pub(super) struct PerfMapFile {
    version: Version,
    /// What is in it.
    pub(super) map: PerfMap,
}

#[derive(Debug, PartialEq, Eq)]
struct Version {
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

impl Version {
    fn of(found: &Metadata) -> Self {
        Self {
            inode: found.ino(),
            size: found.len(),
            modified: (found.mtime(), found.mtime_nsec()),
        }
    }
}

/// Reads a perf map, unless it still is as it was `before`: then `None`.
///
/// # Errors
///
/// Those of opening and reading it. `PermissionDenied` if its owner is neither `uid` nor root.
pub(super) fn read(
    path: &Path,
    uid: u32,
    before: Option<&PerfMapFile>,
) -> io::Result<Option<PerfMapFile>> {
    let file = regular_file::open(path, Links::Refuse)?;
    let found = file.metadata()?;
    if found.uid() != uid && found.uid() != 0 {
        let why = format!("it belongs to uid {}, not to the target's {uid}", found.uid());
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
    }
    let version = Version::of(&found);
    if before.is_some_and(|before| before.version == version) {
        return Ok(None);
    }
    let map = parse(&read_at_most(&file, found.len().min(MOST_BYTES))?);
    Ok(Some(PerfMapFile { version, map }))
}

fn read_at_most(file: &File, size: u64) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    file.take(size).read_to_end(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_by_address() {
        let map = parse(
            b"7f0000001000 20 LazyCompile:~foo bar /a.js:1:2\n\
              0x7f0000002000 0x10 baz\n\
              nonsense\n\
              1000 0 empty\n\
              ffffffffffffffff 2 overflows\n\
              2000 10 \n\
              3000 10 unfinished",
        );
        assert_eq!(map.len(), 2);
        assert_eq!(map.name_at(0x7f00_0000_1000), Some("LazyCompile:~foo bar /a.js:1:2"));
        assert_eq!(map.name_at(0x7f00_0000_101f), Some("LazyCompile:~foo bar /a.js:1:2"));
        assert_eq!(map.name_at(0x7f00_0000_1020), None);
        assert_eq!(map.name_at(0x7f00_0000_2000), Some("baz"));
        assert_eq!(map.name_at(0), None);
        assert!(parse(b"").is_empty());
    }

    /// What the runtimes write: V8 (`src/logging/log.cc`, PerfBasicLogger), CPython
    /// (`Python/perf_trampoline.c`, perf_map_write_entry), OpenJDK (`codeCache.cpp`,
    /// write_perf_map), perf-map-agent, .NET (`perfmap.cpp`), Julia and LLVM's kin.
    #[test]
    fn names_as_the_runtimes_write_them() {
        let check = |line: &str, address: u64, expected: &str| {
            let map = parse(format!("{line}\n").as_bytes());
            assert_eq!(map.name_at(address), Some(expected), "{line}");
            assert_eq!(map.len(), 1);
        };
        check(
            "7f3c5e040040 1d4 JS:*leak /app/shop.js:12:20",
            0x7f3c_5e04_0040,
            "JS:*leak /app/shop.js:12:20",
        );
        check("5571a0c0 2c Builtin:ArrayMap", 0x5571_a0eb, "Builtin:ArrayMap");
        check(
            "7f1f2a4d6000 b py::<genexpr>:/app/My Shop/shop.py",
            0x7f1f_2a4d_600a,
            "py::<genexpr>:/app/My Shop/shop.py",
        );
        check(
            "0x00007f0b1d0a1a20 0x0000000000000158 void com.shop.Cart.add(int)",
            0x7f0b_1d0a_1a20,
            "void com.shop.Cart.add(int)",
        );
        check("7f0b1d0a1a20 158 Lcom/shop/Cart;::add", 0x7f0b_1d0a_1a20, "Lcom/shop/Cart;::add");
        check(
            "00007FD8C0A11F20 5b void [shop] Cart::Add(int32)[Tier0]",
            0x7fd8_c0a1_1f20,
            "void [shop] Cart::Add(int32)[Tier0]",
        );
        check("1000 10 carriage\r", 0x1000, "carriage");
    }

    #[test]
    fn later_lines_win() {
        let check = |text: &[u8], expected: &[(u64, Option<&str>)]| {
            let map = parse(text);
            for &(address, name) in expected {
                assert_eq!(map.name_at(address), name, "{address:#x}");
            }
        };
        check(
            b"10 30 old\n20 10 new\n",
            &[(0x1f, Some("old")), (0x20, Some("new")), (0x2f, Some("new")), (0x30, Some("old"))],
        );
        check(
            b"10 10 a\n20 10 b\n8 20 c\n",
            &[(0x8, Some("c")), (0x27, Some("c")), (0x28, Some("b"))],
        );
        check(b"10 10 old\n10 10 new\n", &[(0x10, Some("new")), (0x20, None)]);
    }

    #[test]
    fn a_perf_map_of_another_user_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("perf-1.map");
        std::fs::write(&path, "10 10 a\n").unwrap();
        let owner = std::fs::metadata(&path).unwrap().uid();
        let first = read(&path, owner, None).unwrap().unwrap();
        assert_eq!(first.map.name_at(0x10), Some("a"));
        assert!(read(&path, owner, Some(&first)).unwrap().is_none(), "it did not change");
        std::fs::write(&path, "10 10 a\n20 10 b\n").unwrap();
        let second = read(&path, owner, Some(&first)).unwrap().unwrap();
        assert_eq!(second.map.name_at(0x20), Some("b"));
        if std::os::unix::fs::chown(&path, Some(12_345), None).is_ok() {
            let refused = read(&path, 54_321, None).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
        } else {
            assert_ne!(owner, 0, "root may give files away");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn the_last_line_that_covers_an_address_names_it(
            lines in prop::collection::vec((0u64..64, 0u64..24), 0..40),
        ) {
            let text: String = lines
                .iter()
                .enumerate()
                .map(|(n, (start, size))| format!("{start:x} {size:x} f{n}\n"))
                .collect();
            let map = parse(text.as_bytes());
            for address in 0..100 {
                let covers = |&(start, size): &(u64, u64)| (start..start + size).contains(&address);
                let expected = lines.iter().rposition(covers).map(|n| format!("f{n}"));
                prop_assert_eq!(map.name_at(address), expected.as_deref());
            }
        }

        #[test]
        fn any_bytes_parse(text in prop::collection::vec(any::<u8>(), 0..400)) {
            parse(&text);
        }
    }
}
