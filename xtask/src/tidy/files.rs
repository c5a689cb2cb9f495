//! Which files there are, and what holds of any of them: names, lengths, words left over.

use std::ffi::OsStr;
use std::path::Path;

use anyhow::{Context, Result};
use walkdir::{DirEntry, WalkDir};

use super::{Finding, Verdict};

/// Lines from which on a file is asked to be split, and from which on it must be.
const LONG: usize = 350;
const TOO_LONG: usize = 500;

/// Names that say nothing of what is inside.
const EMPTY_NAMES: [&str; 8] =
    ["utils", "util", "helpers", "helper", "common", "misc", "manager", "managers"];

/// In two parts, so that this file does not contain them.
const LEFT_OVER: [(&str, &str); 3] = [("TO", "DO"), ("FIX", "ME"), ("XX", "X")];

/// Source files: they have a length to keep, and no work left over.
const SOURCES: [&str; 8] = ["rs", "c", "cc", "h", "sh", "toml", "md", "yml"];

/// The files of the workspace, as paths from its root, sorted; nothing that is built, hidden
/// (`.ci` excepted) or not a name in UTF-8.
pub(super) fn all(root: &Path) -> Result<Vec<String>> {
    let mut files = Vec::new();
    let walk = WalkDir::new(root).min_depth(1).into_iter().filter_entry(is_part_of_the_tree);
    for entry in walk {
        let entry = entry.context("cannot walk the workspace")?;
        if let (true, Some(path)) =
            (entry.file_type().is_file(), entry.path().strip_prefix(root)?.to_str())
        {
            files.push(path.to_owned());
        }
    }
    files.sort();
    Ok(files)
}

fn is_part_of_the_tree(entry: &DirEntry) -> bool {
    let name = entry.file_name();
    let hidden = name.to_string_lossy().starts_with('.') && name != OsStr::new(".ci");
    // Cargo marks its target directories, whatever their names.
    !hidden && !entry.path().join("CACHEDIR.TAG").is_file()
}

/// What is wrong with a file, whatever its language.
pub(super) fn check(file: &str, text: &str, verdict: &mut Verdict) {
    let path = Path::new(file);
    let mut complain = |line, says| {
        verdict.errors.push(Finding { file: file.to_owned(), line, says });
    };
    if path.file_name() == Some(OsStr::new("build.rs")) {
        complain(
            1,
            "there is no build.rs here: `cargo build` compiles, `cargo xtask` does the rest"
                .to_owned(),
        );
    }
    let is_rust = path.extension() == Some(OsStr::new("rs"));
    if is_rust {
        for name in path.iter().filter_map(|part| Path::new(part).file_stem()?.to_str()) {
            if let Some(says) = name_objection(name) {
                complain(1, says);
            }
        }
    }
    let extension = path.extension().and_then(OsStr::to_str);
    if !file.starts_with(".ci/") && !extension.is_some_and(|e| SOURCES.contains(&e)) {
        return;
    }
    for (index, line) in text.lines().enumerate() {
        for word in LEFT_OVER.map(|(start, end)| format!("{start}{end}")) {
            if has_word(line, &word) {
                complain(
                    index + 1,
                    format!("{word}: do it, or file an issue and say what holds today"),
                );
            }
        }
    }
    let lines = text.lines().count();
    let mut says = format!("{lines} lines: split it by the questions it answers");
    if is_rust && lines > TOO_LONG {
        says.push_str(&format!(" (at most {TOO_LONG})"));
        complain(1, says);
    } else if is_rust && lines > LONG {
        verdict.warnings.push(Finding { file: file.to_owned(), line: 1, says });
    }
}

/// Why a module must not have this name.
pub(super) fn name_objection(name: &str) -> Option<String> {
    EMPTY_NAMES
        .contains(&name)
        .then(|| format!("`{name}` does not say what is inside: name the thing"))
}

fn has_word(line: &str, word: &str) -> bool {
    line.split(|c: char| !c.is_alphanumeric() && c != '_').any(|found| found == word)
}
