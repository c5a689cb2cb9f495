//! What a Rust source must not do, and where it may all the same.

use std::path::Path;

use super::Finding;
use super::rooms;
use super::source::Source;

/// Where `unsafe` may be, by the start of the path.
const UNSAFE_PLACES: [&str; 5] = [
    "leaktrace-ebpf/",
    "leaktrace/src/probe/",
    "leaktrace/src/collect/",
    "leaktrace/src/target/heap/memory.rs",
    "tests/",
];

/// Files that end their process though they are neither `main.rs` nor in cli, and why.
const EXITS: [(&str, &str); 2] = [
    ("leaktrace/src/symbolize/worker.rs", "a process of its own, which leaktrace may have left"),
    ("tests/programs/rust_leak.rs", "a program under test"),
];

pub(super) fn check(file: &str, source: &Source, findings: &mut Vec<Finding>) {
    let mut complain = |line: usize, says: String| {
        let finding = Finding { file: file.to_owned(), line, says };
        // A path in a grouped import or a macro can be met twice.
        if !findings.contains(&finding) {
            findings.push(finding);
        }
    };
    for named in &source.paths {
        // Where the import is wrong, its uses are not mentioned again.
        if named.import.as_ref().is_none_or(|import| objection(file, import).is_none())
            && let Some(says) = objection(file, &named.path)
        {
            complain(named.line, says);
        }
    }
    for glob in &source.globs {
        if let Some(says) = rooms::glob_objection(file, &glob.path) {
            complain(glob.line, says);
        }
    }
    for (text, line) in &source.strings {
        if let Some(says) = rooms::text_objection(file, text) {
            complain(*line, says);
        }
    }
    if !UNSAFE_PLACES.iter().any(|place| file.starts_with(place)) {
        for line in &source.unsafe_lines {
            let places = UNSAFE_PLACES.join(", ");
            complain(*line, format!("unsafe code is for {places} only"));
        }
    }
    for line in &source.bare_allows {
        complain(
            *line,
            "a bare `allow` outlives its cause: `#[expect(lint, reason = \"...\")]`".to_owned(),
        );
    }
    for line in &source.ignores {
        complain(*line, "an ignored test passes unseen: make it run, or remove it".to_owned());
    }
    for line in &source.examples {
        complain(
            *line,
            "examples in documentation are not run here: write a test, or a `text` block"
                .to_owned(),
        );
    }
    for (module, line) in &source.modules {
        if let Some(says) = super::files::name_objection(module) {
            complain(*line, says);
        }
    }
}

fn objection(file: &str, path: &[String]) -> Option<String> {
    if path == ["std", "process", "exit"] && !may_exit(file) {
        return Some("only main and cli end the process; return an error instead".to_owned());
    }
    rooms::objection(file, path)
}

fn may_exit(file: &str) -> bool {
    file.ends_with("/main.rs")
        || file.starts_with("leaktrace/src/cli/")
        || EXITS.iter().any(|(place, _)| *place == file)
}

/// An exception for a file that is gone goes as well.
pub(super) fn unused_exits(root: &Path, findings: &mut Vec<Finding>) {
    for (file, why) in EXITS {
        if !root.join(file).is_file() {
            let says = format!("no such file: remove the exception from EXITS ({why})");
            findings.push(Finding { file: file.to_owned(), line: 1, says });
        }
    }
}
