//! `leaktrace __unwind-tables`: what the unwind tables of files cost to build and to keep. Builds
//! them as `attach` does, one after another, and keeps none. For the benchmark.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::target::{Budget, unwind};

/// Prints a line of JSON for each file. Returns the exit code.
///
/// # Errors
///
/// When a file has no table.
pub fn main(files: &[PathBuf]) -> Result<u8> {
    for path in files {
        let measured = measure(path).with_context(|| path.display().to_string())?;
        writeln!(io::stdout(), "{measured}")?;
    }
    Ok(0)
}

fn measure(path: &Path) -> Result<Value> {
    let file = File::open(path)?;
    let started = Instant::now();
    let built = unwind::build(&file, &Budget::for_plan())?;
    let build_ms = started.elapsed().as_secs_f64() * 1e3;
    let (rows, pages) = (built.table.rows.len(), built.table.pages().count());
    // In the kernel half's words: a row, or a page in the directory.
    let bytes = (rows + pages) * size_of::<u64>();
    Ok(json!({
        "file": path.display().to_string(),
        "rows": rows,
        "bytes": bytes,
        "build_ms": build_ms,
        "skipped": built.skipped,
    }))
}
