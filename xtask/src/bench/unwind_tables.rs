//! How long does it take to build the unwind tables of large files, and how much memory do they
//! take?

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;
use walkdir::WalkDir;

use super::Effort;
use super::programs::Programs;
use super::table::{Cell, Section, median};
use crate::packages;
use crate::workspace::output;

const COLUMNS: [&str; 7] =
    ["file", "size, MiB", "build, ms", "aim, ms", "rows", "tables, MiB", "skipped entries"];

/// A large file that many processes map.
struct LargeFile {
    /// How its name begins.
    name: &'static str,
    /// Debian's package that has it.
    package: &'static str,
    aim_ms: Option<f64>,
}

const FILES: [LargeFile; 3] = [
    LargeFile { name: "libLLVM-15.so", package: "libllvm15", aim_ms: Some(1000.0) },
    LargeFile { name: "libnode.so", package: "libnode108", aim_ms: None },
    LargeFile { name: "postgres", package: "postgresql-15", aim_ms: None },
];

/// What leaktrace says of a file.
struct Built {
    ms: f64,
    rows: f64,
    bytes: f64,
    skipped: f64,
}

pub(crate) fn measure(programs: &Programs, effort: Effort) -> Result<Section> {
    let mut section = Section::new("Building unwind tables", &COLUMNS);
    for file in &FILES {
        match find(file) {
            Ok(path) => section.row(row(programs, file, &path, effort)?),
            Err(error) => section.row(
                [Cell::text(file.name), Cell::text(format!("not to be had: {error:#}"))]
                    .into_iter()
                    .chain((2..COLUMNS.len()).map(|_| Cell::Empty)),
            ),
        }
    }
    section.note(format!(
        "Debian's packages {}, unpacked beside the benchmark; medians of {} builds, each in a process \
         of its own and by one thread. leaktrace builds the tables of several files at once. The \
         tables are kept in the kernel: 8 bytes a row, and 8 for each 8 KiB of code.",
        FILES.each_ref().map(|file| file.package).join(", "),
        effort.rounds
    ));
    Ok(section)
}

/// Where the file lies, once its package is unpacked.
fn find(file: &LargeFile) -> Result<PathBuf> {
    let folder = packages::unpacked(file.package, "for the benchmark")?;
    let mut found = WalkDir::new(&folder).into_iter().filter_map(Result::ok).filter(|entry| {
        let name = entry.file_name().to_string_lossy();
        let is_it = name.strip_prefix(file.name).is_some_and(|rest| !rest.starts_with('_'));
        is_it && entry.file_type().is_file() && is_elf(entry.path())
    });
    let found = found.next().with_context(|| format!("{} has it not", file.package))?;
    Ok(found.into_path())
}

fn is_elf(path: &Path) -> bool {
    let mut magic = [0; 4];
    let read = std::fs::File::open(path)
        .and_then(|mut file| std::io::Read::read_exact(&mut file, &mut magic));
    read.is_ok() && magic == *b"\x7fELF"
}

fn row(
    programs: &Programs,
    file: &LargeFile,
    path: &Path,
    effort: Effort,
) -> Result<[Cell; COLUMNS.len()]> {
    let built = (0..effort.rounds).map(|_| build(programs, path)).collect::<Result<Vec<_>>>()?;
    let middle = |of: fn(&Built) -> f64| median(&built.iter().map(of).collect::<Vec<_>>());
    let mib = |bytes: f64| bytes / f64::from(1 << 20);
    let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
    Ok([
        Cell::text(name),
        Cell::Number(mib(path.metadata()?.len() as f64), 1),
        Cell::Number(middle(|b| b.ms), 0),
        file.aim_ms.map_or(Cell::Empty, |aim| Cell::Number(aim, 0)),
        Cell::Number(middle(|b| b.rows), 0),
        Cell::Number(mib(middle(|b| b.bytes)), 1),
        Cell::Number(middle(|b| b.skipped), 0),
    ])
}

fn build(programs: &Programs, path: &Path) -> Result<Built> {
    let said = output(Command::new(&programs.leaktrace).arg("__unwind-tables").arg(path))?;
    let said: Value = serde_json::from_str(&said).context("leaktrace talks nonsense")?;
    let number = |field: &str| {
        said.get(field)
            .and_then(Value::as_f64)
            .with_context(|| format!("leaktrace says no {field}"))
    };
    Ok(Built {
        ms: number("build_ms")?,
        rows: number("rows")?,
        bytes: number("bytes")?,
        skipped: number("skipped")?,
    })
}
