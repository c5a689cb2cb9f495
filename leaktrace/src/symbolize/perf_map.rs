//! Names of code that a runtime generated: `/tmp/perf-PID.map`, one `START SIZE NAME` a line, the
//! numbers in hexadecimal (Linux, `tools/perf/Documentation/jit-interface.txt`).
//!
//! The target writes the file as it likes, so it is read in the worker only
//! ([`super::perf_map_file`]), and every line that does not parse is left out.

use std::collections::BTreeMap;
use std::ops::Range;

/// No more lines than this are looked at.
pub(super) const MOST_LINES: usize = 2_000_000;

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

    /// Adds the lines of a text, no more than so many; gives how many there were, and the bytes in
    /// them.
    pub(super) fn add(&mut self, text: &[u8], most_lines: usize) -> (usize, usize) {
        let (mut lines, mut bytes) = (0, 0);
        for line in text.split_inclusive(|&byte| byte == b'\n').take(most_lines) {
            let Some(content) = line.strip_suffix(b"\n") else { break };
            if let Some((start, end, name)) = parse_line(&String::from_utf8_lossy(content)) {
                self.insert(start, end, name);
            }
            (lines, bytes) = (lines + 1, bytes + line.len());
        }
        (lines, bytes)
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
    map.add(text, MOST_LINES);
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
