//! What a frame is called, and how a long name is made to fit.
//!
//! A width is counted in characters.

use crate::model::{Frame, StackReport, Target, printable};

/// The function, else `module+0xoffset`, else the address.
pub(super) fn frame_name(frame: &Frame) -> String {
    let given = |name: &Option<String>| {
        name.as_deref().map(str::trim).filter(|name| !name.is_empty()).map(printable)
    };
    match (given(&frame.function), given(&frame.module), frame.module_offset) {
        (Some(function), _, _) => function,
        (None, Some(module), Some(offset)) => format!("{}+{offset:#x}", file_name(&module)),
        (None, Some(module), None) => format!("{} {}", file_name(&module), frame.ip),
        (None, None, _) => frame.ip.to_string(),
    }
}

/// `file:line`, else for a function without a line the module; `None` when the name says it all.
pub(super) fn location(frame: &Frame) -> Option<String> {
    if let Some(file) = frame.file.as_deref().filter(|file| !file.is_empty()) {
        let file = printable(file);
        return Some(match frame.line {
            Some(line) => format!("{file}:{line}"),
            None => file,
        });
    }
    frame.function.as_ref().filter(|name| !name.trim().is_empty())?;
    frame.module.as_deref().map(|module| printable(file_name(module)))
}

/// The frame that a stack is known by: the culprit, else the leaf.
pub(super) fn headline_frame(stack: &StackReport) -> Option<&Frame> {
    stack.culprit.and_then(|i| stack.frames.get(i)).or(stack.frames.first())
}

/// `comm (pid)`.
pub(super) fn target(target: &Target) -> String {
    format!("{} ({})", printable(&target.comm), target.pid)
}

/// The last component of a path.
pub(super) fn file_name(path: &str) -> &str {
    path.rsplit('/').find(|part| !part.is_empty()).unwrap_or(path)
}

/// A path or location, cut from the left, at a `/` where there is one.
pub(super) fn shorten_path(path: &str, width: usize) -> String {
    let length = path.chars().count();
    if length <= width {
        return path.to_owned();
    }
    let tail: String = path.chars().skip(length - width.saturating_sub(1)).collect();
    match tail.split_once('/') {
        Some((_, rest)) if !rest.is_empty() => format!("…/{rest}"),
        _ if width == 0 => String::new(),
        _ => format!("…{tail}"),
    }
}

/// A demangled function: first its template arguments go, then its parameters, then its middle.
pub(super) fn shorten_function(name: &str, width: usize) -> String {
    let mut short = name.to_owned();
    for brackets in [('<', '>'), ('(', ')')] {
        if short.chars().count() <= width {
            return short;
        }
        short = without_contents(&short, brackets).unwrap_or(short);
    }
    shorten_middle(&short, width)
}

/// The text without its middle.
pub(super) fn shorten_middle(text: &str, width: usize) -> String {
    let length = text.chars().count();
    if length <= width {
        return text.to_owned();
    }
    if width == 0 {
        return String::new();
    }
    let head = (width - 1) / 2;
    let tail = width - 1 - head;
    let before: String = text.chars().take(head).collect();
    let after: String = text.chars().skip(length - tail).collect();
    format!("{before}…{after}")
}

/// Breaks text between words: every line at most `width` wide, the first one behind `first`, the
/// others behind `rest`. A word that fits no line loses its middle.
pub(super) fn wrap(text: &str, width: usize, first: &str, rest: &str) -> Vec<String> {
    broken(text, width, first, rest, shorten_middle)
}

/// The lines of a text, broken between words: at most `width` wide but for a word that fits no line,
/// which stays whole. A blank line stays.
pub fn wrap_lines(text: &str, width: usize) -> Vec<String> {
    let whole = |word: &str, _| word.to_owned();
    text.lines().flat_map(|line| broken(line, width, "", "", whole)).collect()
}

/// Breaks text between words; `fit` gets each word and the room that is left for it.
fn broken(
    text: &str,
    width: usize,
    first: &str,
    rest: &str,
    fit: fn(&str, usize) -> String,
) -> Vec<String> {
    let text = printable(text);
    let mut lines = Vec::new();
    let mut line = first.to_owned();
    let mut used = first.chars().count();
    let mut empty = true;
    for word in text.split_whitespace() {
        if !empty && used + 1 + word.chars().count() > width {
            lines.push(std::mem::replace(&mut line, rest.to_owned()));
            used = rest.chars().count();
            empty = true;
        }
        if !empty {
            line.push(' ');
            used += 1;
        }
        let word = fit(word, width.saturating_sub(used));
        line.push_str(&word);
        used += word.chars().count();
        empty = false;
    }
    lines.push(line);
    lines
}

/// The name with `…` for what stands between its outermost brackets; `None` when they don't pair
/// up. A group that opens the name (Rust's `<T as Trait>::f`) is its substance and stays.
fn without_contents(name: &str, (open, close): (char, char)) -> Option<String> {
    let mut short = String::new();
    let mut group = String::new();
    let mut depth = 0_usize;
    let mut before = ' ';
    for c in name.chars() {
        let is_operator = depth == 0
            && (short.ends_with("operator") || (c == '<' && short.ends_with("operator<")));
        let is_arrow = before == '-' && c == '>';
        before = c;
        if is_operator || is_arrow || (c != open && c != close) {
            if depth == 0 { short.push(c) } else { group.push(c) }
        } else if c == open {
            if depth > 0 {
                group.push(c);
            }
            depth += 1;
        } else if depth > 1 {
            group.push(c);
            depth -= 1;
        } else if depth == 1 {
            depth = 0;
            let keep = short.is_empty() || group.is_empty();
            short.push(open);
            short.push_str(if keep { &group } else { "…" });
            short.push(close);
            group.clear();
        } else {
            short.push(c);
        }
    }
    (depth == 0).then_some(short)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_lose_what_says_least() {
        let map = "std::map<std::string, std::vector<int>>::insert(std::pair<int, int> const&)";
        let cases = [
            (map, 80, map),
            (map, 50, "std::map<…>::insert(std::pair<…> const&)"),
            (map, 30, "std::map<…>::insert(…)"),
            (map, 15, "std::ma…sert(…)"),
            ("ns::operator<(ns::Key const&, ns::Key const&)", 20, "ns::operator<(…)"),
            ("ns::operator<<(std::ostream&)", 20, "ns::operator<<(…)"),
            ("Fn::operator()(int, int, int) const", 24, "Fn::operator()(…) const"),
            ("<alloc::vec::Vec<T> as Clone>::clone", 30, "<alloc::vec::V…s Clone>::clone"),
            ("broken<<(", 5, "br…<("),
            ("a::operator<=>(a::Key const&)", 20, "a::operator<=>(…)"),
            ("f(int)->std::pair<int, int>", 20, "f(int)->std::pair<…>"),
        ];
        for (name, width, short) in cases {
            let got = shorten_function(name, width);
            assert!(got.chars().count() <= width, "{got}");
            assert_eq!(got, short);
        }
        assert_eq!(shorten_function("abc", 0), "");
    }

    #[test]
    fn paths_lose_their_left() {
        assert_eq!(shorten_path("/a/src/receipt.cpp:88", 40), "/a/src/receipt.cpp:88");
        assert_eq!(shorten_path("/srv/build/shop/src/receipt.cpp:88", 22), "…/src/receipt.cpp:88");
        assert_eq!(shorten_path("averyveryverylongname.cpp:1", 10), "…ame.cpp:1");
        assert_eq!(shorten_path("abc", 0), "");
    }

    #[test]
    fn text_wraps_between_words() {
        assert_eq!(wrap("aa bb cc dd", 7, "> ", "  "), ["> aa bb", "  cc dd"]);
        assert_eq!(wrap("", 7, "> ", "  "), ["> "]);
        assert_eq!(wrap("a\x1bb", 7, "", ""), ["a\u{fffd}b"]);
        assert_eq!(wrap("abcdefghijkl m", 8, "", ""), ["abc…ijkl", "m"]);
    }

    #[test]
    fn the_last_words_of_the_demo_break_between_words_and_name_whole_files() {
        let text = "It is in /a/long/way/leak.svg now.\n\nTry  it.\x1b";
        let lines = ["It is in", "/a/long/way/leak.svg", "now.", "", "Try it.\u{fffd}"];
        assert_eq!(wrap_lines(text, 10), lines);
        assert_eq!(wrap_lines("", 10), Vec::<String>::new());
    }
}
