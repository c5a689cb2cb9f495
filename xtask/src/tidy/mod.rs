//! Does the tree keep its own rules? The arrows between rooms, where unsafe code and the kernel's
//! interfaces may be, and what a file may look like. Reads sources, never changes or builds them.

mod files;
mod rooms;
mod rules;
mod source;
#[cfg(test)]
mod tests;

use std::fmt;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::workspace::root;

/// A rule that is broken, and where.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Finding {
    file: String,
    /// 1 where the whole file is meant.
    line: usize,
    says: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.says)
    }
}

/// What is wrong (fails), and what is about to be.
#[derive(Debug, Default)]
struct Verdict {
    errors: Vec<Finding>,
    warnings: Vec<Finding>,
}

/// Prints what breaks a rule; fails if anything does.
pub(crate) fn check() -> Result<()> {
    let verdict = judge(&root())?;
    for warning in &verdict.warnings {
        eprintln!("warning: {warning}");
    }
    for error in &verdict.errors {
        eprintln!("error: {error}");
    }
    match verdict.errors.len() {
        0 => println!("the tree is tidy"),
        count => bail!("{count} places break a rule of ARCHITECTURE.md or of the house style"),
    }
    Ok(())
}

fn judge(root: &Path) -> Result<Verdict> {
    let mut verdict = Verdict::default();
    for file in files::all(root)? {
        let path = root.join(&file);
        let bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        // A file that is not text has a name only.
        let text = String::from_utf8(bytes).unwrap_or_default();
        judge_file(&file, &text, &mut verdict);
    }
    rules::unused_exits(root, &mut verdict.errors);
    verdict.errors.sort();
    verdict.warnings.sort();
    Ok(verdict)
}

/// `file` is the path from the workspace's root.
fn judge_file(file: &str, text: &str, verdict: &mut Verdict) {
    files::check(file, text, verdict);
    if file.ends_with(".rs") {
        match source::read(file, text) {
            Ok(source) => rules::check(file, &source, &mut verdict.errors),
            Err((line, why)) => verdict.errors.push(Finding {
                file: file.to_owned(),
                line,
                says: format!("this is not Rust: {why}"),
            }),
        }
    }
    if file == "ARCHITECTURE.md" {
        rooms::check_architecture(file, text, &mut verdict.errors);
    }
}
