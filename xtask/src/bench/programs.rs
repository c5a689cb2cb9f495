//! The programs of the benchmark: leaktrace in release, targets in C, and a library of the size of
//! a large one; built when first needed, and kept in `target/bench`.

use std::env;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::workspace::{root, run};

const SOURCES: [(&str, &str); 4] = [
    ("pairs", include_str!("programs/pairs.c")),
    ("blocks", include_str!("programs/blocks.c")),
    ("load", include_str!("programs/load.c")),
    ("server", include_str!("programs/server.c")),
];
const PYTHON: &str = include_str!("programs/work.py");
const FLAGS: [&str; 3] = ["-O2", "-fno-omit-frame-pointer", "-w"];

/// Functions in the large library: as many as there are in a browser's or a compiler's.
const LIBRARY_FUNCTIONS: u32 = 300_000;
/// Bytes of constants beside them, to pass 100 MiB with the symbols.
const LIBRARY_CONSTANTS: u32 = 80 << 20;

/// By what the callers in a program can be found, and by nothing else.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unwinding {
    FramePointers,
    Tables,
}

impl Unwinding {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::FramePointers => "frame pointers",
            Self::Tables => "tables",
        }
    }

    fn flags(self) -> &'static [&'static str] {
        match self {
            Self::FramePointers => &["-fno-asynchronous-unwind-tables", "-fno-unwind-tables"],
            Self::Tables => &["-fomit-frame-pointer", "-fasynchronous-unwind-tables"],
        }
    }
}

/// Where they are.
pub(crate) struct Programs {
    /// Of all that the benchmark writes.
    pub(crate) directory: PathBuf,
    pub(crate) leaktrace: PathBuf,
    pub(crate) pairs: PathBuf,
    pub(crate) blocks: PathBuf,
    pub(crate) load: PathBuf,
    pub(crate) server: PathBuf,
    pub(crate) python: PathBuf,
}

impl Programs {
    /// Builds what is missing.
    pub(crate) fn build() -> Result<Self> {
        let directory = root().join("target/bench");
        fs::create_dir_all(&directory)
            .with_context(|| format!("cannot make {}", directory.display()))?;
        for (name, source) in SOURCES {
            let file = directory.join(format!("{name}.c"));
            fs::write(&file, source)?;
            compile(&file, &directory.join(name), &["-pthread"])?;
        }
        let python = directory.join("work.py");
        fs::write(&python, PYTHON)?;
        Ok(Self {
            leaktrace: build_leaktrace()?,
            pairs: directory.join("pairs"),
            blocks: directory.join("blocks"),
            load: directory.join("load"),
            server: directory.join("server"),
            python,
            directory,
        })
    }

    /// `pairs` whose callers are found in this way.
    pub(crate) fn pairs_unwound_by(&self, unwinding: Unwinding) -> Result<PathBuf> {
        let name = format!("pairs-{}", unwinding.name().replace(' ', "-"));
        let program = self.directory.join(name);
        compile(&self.directory.join("pairs.c"), &program, unwinding.flags())?;
        Ok(program)
    }

    /// A shared library of more than 100 MiB, with a full symbol table.
    pub(crate) fn large_library(&self) -> Result<PathBuf> {
        let library = self.directory.join("liblarge.so");
        if library.is_file() {
            return Ok(library);
        }
        eprintln!("xtask: making a library of {LIBRARY_FUNCTIONS} functions (once)");
        let source = self.directory.join("liblarge.s");
        fs::write(&source, library_source()?)?;
        // Linked beside its place: half a library must not be taken for one.
        let fresh = self.directory.join("liblarge.so.new");
        run(Command::new("gcc").args(["-shared", "-nostdlib", "-o"]).arg(&fresh).arg(&source))?;
        fs::remove_file(&source)?;
        fs::rename(&fresh, &library)?;
        Ok(library)
    }
}

fn compile(source: &Path, program: &Path, flags: &[&str]) -> Result<()> {
    run(Command::new("gcc").args(FLAGS).args(flags).arg("-o").arg(program).arg(source))
}

/// In assembly, which is turned into an object a hundred times faster than C; `ret` is an
/// instruction of x86-64 and of arm64.
fn library_source() -> Result<String> {
    let mut source = String::from(".text\n");
    for number in 0..LIBRARY_FUNCTIONS {
        let name = format!("a_function_of_a_large_library_whose_names_are_as_long_as_cxx_{number}");
        writeln!(
            source,
            ".globl {name}\n.type {name},%function\n{name}: ret\n.size {name},.-{name}"
        )?;
    }
    writeln!(source, ".section .rodata\n.fill {LIBRARY_CONSTANTS},1,7")?;
    source.push_str(".section .note.GNU-stack,\"\",%progbits\n");
    Ok(source)
}

/// Builds the command in release, in the directory that holds this very program.
fn build_leaktrace() -> Result<PathBuf> {
    let xtask = env::current_exe()?;
    // target/<profile>/xtask
    let target: &Path = xtask.ancestors().nth(2).context("xtask lies in no target directory")?;
    let cargo = env::var_os("CARGO").unwrap_or("cargo".into());
    run(Command::new(cargo)
        .args(["build", "--release", "--quiet", "--package", "leaktrace", "--target-dir"])
        .arg(target)
        .current_dir(root()))?;
    Ok(target.join("release/leaktrace"))
}
