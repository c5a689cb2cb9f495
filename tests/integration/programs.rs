//! The programs under test: built when a test first asks, from the sources in `programs/`, with
//! debug information and, where a test does not ask for other flags, without frame pointers; and
//! the command itself.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock, PoisonError};

use anyhow::{Context, Result, ensure};

/// What every C and C++ program is built with: each function keeps its name, none a frame pointer,
/// and no allocation is optimised away.
const C_FLAGS: [&str; 8] = [
    "-O1",
    "-g",
    "-fomit-frame-pointer",
    "-fno-optimize-sibling-calls",
    "-fno-builtin",
    "-fcf-protection=none",
    "-w",
    "-pthread",
];

const RUST_FLAGS: [&str; 5] =
    ["-g", "-Copt-level=1", "-Cforce-frame-pointers=no", "--edition", "2024"];

/// The program built from `source`, a file name in `programs/`.
pub(crate) fn program(source: &str) -> PathBuf {
    let (name, _) = source.split_once('.').unwrap();
    variant(source, name, &[])
}

/// Copies a program. Written by this process, it would be open for writing still in a child that another
/// test begins just then, and nobody could execute it.
pub(crate) fn copy(from: impl AsRef<Path>, to: impl AsRef<Path>) {
    let (from, to) = (from.as_ref(), to.as_ref());
    let status = Command::new("cp").arg(from).arg(to).status().unwrap();
    assert!(status.success(), "{} to {}: {status}", from.display(), to.display());
}

/// The same under another name, with more flags.
pub(crate) fn variant(source: &str, name: &str, flags: &[&str]) -> PathBuf {
    let library = match source {
        "signal_inside.c" | "longjmp_out.c" => Some(shared_library("liballoc_hook")),
        "throw_out.cc" => Some(shared_library("liballoc_new")),
        _ => None,
    };
    let mut flags: Vec<String> = flags.iter().map(|&flag| flag.to_owned()).collect();
    if let Some(library) = library {
        flags.push(library.to_str().unwrap().to_owned());
        flags.push(format!("-Wl,-rpath,{}", directory().display()));
    }
    built(source, name, &flags)
}

/// The program built from `source` with the shared library built from `library`, both file names in
/// `programs/`.
pub(crate) fn linked(source: &str, library: &str) -> PathBuf {
    let (library_name, _) = library.split_once('.').unwrap();
    let soname = format!("-Wl,-soname,{library_name}.so");
    let flags = ["-shared".to_owned(), "-fPIC".to_owned(), soname];
    let library = built(library, &format!("{library_name}.so"), &flags);
    let (name, _) = source.split_once('.').unwrap();
    let path = library.to_str().unwrap().to_owned();
    built(source, name, &[path, format!("-Wl,-rpath,{}", directory().display())])
}

fn shared_library(name: &str) -> PathBuf {
    let source = if name == "liballoc_new" { "liballoc_new.cc" } else { "liballoc_hook.c" };
    let flags = ["-shared".to_owned(), "-fPIC".to_owned(), format!("-Wl,-soname,{name}.so")];
    built(source, &format!("{name}.so"), &flags)
}

/// How a program is built, in all that matters to its code.
#[derive(Clone, Copy)]
pub(crate) struct Recipe {
    /// Of the program; no two recipes have the same.
    pub(crate) name: &'static str,
    pub(crate) compiler: &'static str,
    pub(crate) flags: &'static [&'static str],
    /// File names in `programs/`.
    pub(crate) sources: &'static [&'static str],
}

impl Recipe {
    /// The program.
    pub(crate) fn made(&self) -> PathBuf {
        self.made_with(&[])
    }

    /// The same with flags that are only known by asking.
    pub(crate) fn made_with(&self, flags: &[&str]) -> PathBuf {
        made_once(self.name, || {
            let mut compiler = Command::new(self.compiler);
            compiler
                .args(self.flags)
                .args(self.sources.iter().map(|name| source(name)))
                // Among them are libraries, which a linker searches for what came before.
                .args(flags);
            compile(compiler, self.name)
        })
    }
}

/// A file in `programs/`.
pub(crate) fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("programs").join(name)
}

fn directory() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("programs")
}

fn built(file: &str, name: &str, flags: &[String]) -> PathBuf {
    made_once(name, || {
        let (program, common): (_, &[&str]) = match file.rsplit_once('.') {
            Some((_, "rs")) => (env::var("RUSTC").unwrap_or("rustc".into()), &RUST_FLAGS),
            Some((_, "cc")) => ("g++".into(), &C_FLAGS),
            _ => ("gcc".into(), &C_FLAGS),
        };
        let mut compiler = Command::new(program);
        compiler.args(common).arg(source(file)).args(flags);
        compile(compiler, name)
    })
}

fn made_once(name: &str, make: impl FnOnce() -> Result<PathBuf>) -> PathBuf {
    static MADE: Mutex<BTreeMap<String, PathBuf>> = Mutex::new(BTreeMap::new());
    let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(program) = made.get(name) {
        return program.clone();
    }
    let program = make().unwrap_or_else(|error| panic!("{error:#}"));
    made.insert(name.to_owned(), program.clone());
    program
}

/// Compiles beside the final place and moves there: a program of an earlier run may still execute.
fn compile(mut compiler: Command, name: &str) -> Result<PathBuf> {
    fs::create_dir_all(directory())?;
    let program = directory().join(name);
    let fresh = directory().join(format!("{name}.{}", std::process::id()));
    let output = compiler.arg("-o").arg(&fresh).output().with_context(|| {
        format!("{compiler:?} (Debian: apt-get install g++ musl-tools): cannot be started")
    })?;
    let says = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{compiler:?}: {}\n{says}", output.status);
    fs::rename(&fresh, &program)?;
    Ok(program)
}

/// The command: `leaktrace` beside this test's own directory, brought up to date by cargo.
pub(crate) fn leaktrace() -> &'static Path {
    static COMMAND: OnceLock<PathBuf> = OnceLock::new();
    COMMAND.get_or_init(|| build_leaktrace().unwrap_or_else(|error| panic!("{error:#}")))
}

fn build_leaktrace() -> Result<PathBuf> {
    // target/<profile>/deps/integration-<hash>
    let test = env::current_exe()?;
    let profile_dir = test.ancestors().nth(2).context("the test lies in no target directory")?;
    let target_dir = profile_dir.parent().context("no target directory")?;
    let profile = match profile_dir.file_name().and_then(|name| name.to_str()) {
        Some("debug") => "dev",
        Some(name) => name,
        None => anyhow::bail!("{}: no profile", profile_dir.display()),
    };
    let cargo = env::var_os("CARGO").unwrap_or("cargo".into());
    let status = Command::new(cargo)
        .args(["build", "--quiet", "--package", "leaktrace", "--profile", profile, "--target-dir"])
        .arg(target_dir)
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))
        .status()
        .context("cargo build --package leaktrace")?;
    ensure!(status.success(), "cargo build --package leaktrace: {status}");
    let command = profile_dir.join("leaktrace");
    ensure!(command.is_file(), "{}: cargo built no such command", command.display());
    Ok(command)
}
